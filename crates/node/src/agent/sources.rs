//! Where a sandbox's files and variables come from: ConfigMaps, Secrets and Credentials, read from the API.
//!
//! What is not there is refused by name and ends the Pod (R18); what could not be read is tried again (R19). Values stay
//! in memory: they go to the shim through a pipe.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, EnvVar, PodSpec, Secret, SecretKeySelector, Volume, VolumeMount};
use kube::Client;
use kube::api::Api;
use mainstay_api::names::CREDENTIAL_PREFIX;
use mainstay_runtime::client::bounded;
use serde::Deserialize;

use super::error::{AgentError, While};
use crate::launch::FileSet;

/// Permission bits of a ConfigMap's files.
const PUBLIC: u32 = 0o444;
/// Permission bits of a Secret's or Credential's files, unless the Pod says otherwise.
const PRIVATE: u32 = 0o400;

/// What a Pod's volumes and variables resolve to.
#[derive(Default)]
pub(crate) struct Sources {
    /// The variables of the agent process.
    pub(crate) env: BTreeMap<String, String>,
    /// The files in the sandbox.
    pub(crate) files: Vec<FileSet>,
}

/// The answer of a Credential's `reveal`.
#[derive(Deserialize)]
struct Revealed {
    token: Option<String>,
    url: Option<String>,
    email: Option<String>,
}

type Files = BTreeMap<String, Vec<u8>>;

/// Reads all that `spec` refers to.
pub(crate) async fn resolve(client: &Client, namespace: &str, spec: &PodSpec) -> Result<Sources, AgentError> {
    let reader = Reader { client, namespace };
    let Some(container) = spec.containers.first() else { return Ok(Sources::default()) };
    let volumes = spec.volumes.iter().flatten();
    let mounts = container.volume_mounts.iter().flatten();
    let mounted = mounts.filter_map(|mount| volumes.clone().find(|one| one.name == mount.name).map(|one| (mount, one)));
    let files = try_join_all(mounted.map(|(mount, volume)| reader.mounted(mount, volume)));
    let env = try_join_all(container.env.iter().flatten().map(|variable| reader.variable(variable)));
    let (files, env) = futures::future::try_join(files, env).await?;
    Ok(Sources { env: env.into_iter().collect(), files: files.into_iter().flatten().collect() })
}

struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Reader<'_> {
    /// The files of a mounted volume; `None` for the workspace.
    async fn mounted(&self, mount: &VolumeMount, volume: &Volume) -> Result<Option<FileSet>, AgentError> {
        let (mode, files) = if let Some(source) = &volume.secret {
            let mode = source.default_mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(PRIVATE);
            (mode, self.secret(source.secret_name.as_deref().unwrap_or_default()).await?)
        } else if let Some(source) = &volume.config_map {
            (PUBLIC, self.config_map(&source.name).await?)
        } else {
            return Ok(None);
        };
        let files = files.into_iter().map(|(name, content)| (name, STANDARD.encode(content))).collect();
        Ok(Some(FileSet { mount: mount.mount_path.clone(), mode, files }))
    }

    async fn variable(&self, variable: &EnvVar) -> Result<(String, String), AgentError> {
        let source = variable.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref());
        let value = match source {
            Some(key) => self.key(key).await?,
            None => variable.value.clone().unwrap_or_default(),
        };
        Ok((variable.name.clone(), value))
    }

    async fn key(&self, key: &SecretKeySelector) -> Result<String, AgentError> {
        let mut files = self.secret(&key.name).await?;
        let missing = || AgentError::Refused(format!("secret {} has no key {}", key.name, key.key));
        let value = files.remove(&key.key).ok_or_else(missing)?;
        String::from_utf8(value)
            .map_err(|_| AgentError::Refused(format!("key {} of secret {} is not text", key.key, key.name)))
    }

    /// A Secret's keys, or a Credential's parts.
    async fn secret(&self, name: &str) -> Result<Files, AgentError> {
        if let Some(credential) = name.strip_prefix(CREDENTIAL_PREFIX) {
            return self.credential(credential).await;
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace);
        let secret = bounded(api.get(name)).await.during(format!("read secret {name}"))?;
        Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
    }

    async fn credential(&self, name: &str) -> Result<Files, AgentError> {
        let doing = format!("read credential {name}");
        let namespace = self.namespace;
        let path = format!("/apis/mainstay.dev/v1alpha1/namespaces/{namespace}/credentials/{name}/reveal");
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|_| AgentError::Refused(format!("{name:?} names no credential")))?;
        let revealed: Revealed = bounded(self.client.request(request)).await.during(doing)?;
        let parts = [("token", revealed.token), ("url", revealed.url), ("email", revealed.email)];
        Ok(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into_bytes()))).collect())
    }

    async fn config_map(&self, name: &str) -> Result<Files, AgentError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        let map = bounded(api.get(name)).await.during(format!("read config map {name}"))?;
        let texts = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        Ok(texts.chain(bytes).collect())
    }
}
