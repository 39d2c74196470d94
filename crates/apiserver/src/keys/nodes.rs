//! Certificates of nodes: for clients only, for a day, and for nothing that the request asks for but its key.

use std::time::Duration;

use mainstay_api::node::hex;
use mainstay_runtime::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose,
};

use super::certificates::{Authority, pem};
use super::{Keys, KeysError, sha256};
use crate::auth::identity::NODES;

/// How long a node's certificate lasts; its agent renews it at two thirds.
pub const LIFE: Duration = Duration::from_hours(24);
/// A node whose clock is behind by no more than this accepts it, too.
const BACKDATED: i64 = 300;
/// X.520 `serialNumber`: tells one Node of a name from the next.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];
/// What the organizational unit of a node's certificate begins with; then the number of its join.
pub(crate) const JOIN_PREFIX: &str = "join-";

/// A certificate for a node.
#[derive(Debug)]
pub struct Signed {
    /// In PEM.
    pub certificate: String,
    /// When it expires.
    pub until: Timestamp,
}

impl Keys {
    /// A certificate for the agent of the node `name`, whose Node has this uid, of the join with this number, by the key of a
    /// PEM signing request.
    ///
    /// # Errors
    /// [`KeysError::Certificate`] for a request that cannot be read or is not signed by its own key.
    pub fn sign_node(
        &self,
        request: &str,
        (name, uid, join): (&str, &str, u64),
        now: Timestamp,
    ) -> Result<Signed, KeysError> {
        self.issuing()?.node(request, (name, uid, join), now)
    }

    /// The SHA-256 of the authority that [`Keys::sign_node`] signs by now, in hex.
    ///
    /// # Errors
    /// [`KeysError::Absent`] when there is none.
    pub(crate) fn issuer(&self) -> Result<String, KeysError> {
        Ok(hex(&sha256(self.issuing()?.certificate())))
    }

    /// Whether [`Keys::sign_node`] would take this request.
    ///
    /// # Errors
    /// As that.
    pub fn check_request(&self, request: &str) -> Result<(), KeysError> {
        read(request).map(drop)
    }
}

fn read(request: &str) -> Result<CertificateSigningRequestParams, KeysError> {
    CertificateSigningRequestParams::from_pem(request).map_err(KeysError::certificate)
}

impl Authority {
    fn node(&self, request: &str, (name, uid, join): (&str, &str, u64), now: Timestamp) -> Result<Signed, KeysError> {
        let mut request = read(request)?;
        let until = now.as_second() + LIFE.as_secs().cast_signed();
        let mut params = CertificateParams::default();
        let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0).cast_unsigned());
        (params.not_before, params.not_after) = (at(now.as_second() - BACKDATED), at(until));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::OrganizationalUnitName, format!("{JOIN_PREFIX}{join}"));
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
        params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), uid);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        request.params = params;
        let certificate = request.signed_by(&self.issuer()?).map_err(KeysError::certificate)?;
        let until = Timestamp::from_second(until).unwrap_or(now);
        Ok(Signed { certificate: pem(certificate.der()), until })
    }
}
