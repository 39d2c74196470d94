//! How a server of the API says that it is there, to processes that share its store and do not serve themselves: a `Lease` of
//! its own in [`NAMESPACE`], as the servers of Kubernetes have one. Nobody takes it over; it is renewed, or it is not.

/// Where these leases are.
pub const NAMESPACE: &str = "mainstay-system";
/// The label that tells them from other leases, with [`VALUE`].
pub const LABEL: &str = "apiserver.kubernetes.io/identity";
/// See [`LABEL`].
pub const VALUE: &str = "mainstay";
/// How often a server renews its lease, in seconds.
pub const RENEW_SECONDS: u32 = 2;
/// A server whose lease is seen unchanged for so long, in seconds, is not there.
pub const LEASE_SECONDS: u32 = 6;
