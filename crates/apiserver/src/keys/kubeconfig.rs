//! The admin kubeconfig: the only place where the admin token itself is kept.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KeysError, files};

/// What every admin token begins with, so that scanners for leaked secrets can find one.
pub(crate) const ADMIN_TOKEN_PREFIX: &str = "mainstay_";

/// A new admin token of 256 random bits.
pub(super) fn new_token() -> Result<Zeroizing<String>, KeysError> {
    let mut random = Zeroizing::new([0u8; 32]);
    super::fill_random(random.as_mut())?;
    Ok(Zeroizing::new(format!("{ADMIN_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random.as_ref()))))
}

/// The token in an existing kubeconfig of ours; `None` when there is no such file or no token in it.
pub(super) fn read_token(path: &Path) -> Result<Option<Zeroizing<String>>, KeysError> {
    let Some(content) = files::read(path)? else { return Ok(None) };
    let Ok(text) = std::str::from_utf8(&content) else { return Ok(None) };
    // What is not readable as a kubeconfig is replaced: it is ours to write.
    let Ok(config) = serde_saphyr::from_str::<Config>(text) else { return Ok(None) };
    Ok(config.users.into_iter().find(|user| user.name == "admin").and_then(|user| user.user.token).map(Zeroizing::new))
}

/// Writes the kubeconfig, 0600, atomically; one that is right is left alone, since a full disk has no room for another.
pub(super) fn write(path: &Path, url: &str, authority_pem: &str, token: &str) -> Result<(), KeysError> {
    let authority = STANDARD.encode(authority_pem);
    // A JSON string is a YAML string too, whatever it holds.
    let url = serde_json::Value::from(url);
    let text = Zeroizing::new(format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: mainstay\n  cluster:\n    server: {url}\n    \
         certificate-authority-data: {authority}\nusers:\n- name: admin\n  user:\n    token: {token}\ncontexts:\n\
         - name: mainstay\n  context:\n    cluster: mainstay\n    user: admin\n    namespace: default\n\
         current-context: mainstay\n"
    ));
    if files::read(path)?.is_some_and(|there| there.as_slice() == text.as_bytes()) {
        return Ok(());
    }
    files::write(path, text.as_bytes())
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    name: String,
    user: Login,
}

#[derive(Deserialize)]
struct Login {
    token: Option<String>,
}
