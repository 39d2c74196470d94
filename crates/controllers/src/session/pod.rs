//! The Pod of a session's run, put together from the session, its agent and its project. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mainstay_api::agent::Agent;
use mainstay_api::common::{CredentialGrant, EnvVar, Resources};
use mainstay_api::names;
use mainstay_api::pod::{
    ConfigMapVolume, Container, EmptyDir, EnvSource, Pod, PodEnv, PodResources, PodSpec, SecretKey, SecretVolume,
    Volume, VolumeMount,
};
use mainstay_api::project::Project;
use mainstay_api::session::{DEFAULT_WORKSPACE_SIZE, Session};

/// Time between SIGTERM and SIGKILL of an agent, in seconds.
const GRACE_SECONDS: u64 = 10;
/// Credential files: readable by the agent alone.
const CREDENTIAL_MODE: u32 = 0o400;

/// What a Pod is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) session: &'a Session,
    pub(super) project: Option<&'a Project>,
    pub(super) agent: Option<&'a Agent>,
    pub(super) run: u64,
    /// The node that it is given to, if one is ready.
    pub(super) node: Option<&'a str>,
}

/// All credentials that the session is granted: the agent's, and its own, which win by name.
pub(super) fn grants(session: &Session, agent: Option<&Agent>) -> Vec<CredentialGrant> {
    let mut all: BTreeMap<&str, &CredentialGrant> = BTreeMap::new();
    let standing = agent.map_or(&[][..], |agent| &agent.spec.credentials);
    for grant in standing.iter().chain(&session.spec.credentials) {
        all.insert(&grant.name, grant);
    }
    all.into_values().cloned().collect()
}

impl Parts<'_> {
    /// The first message: the project's, the agent's and the session's prompt, joined by blank lines.
    pub(super) fn prompt(&self) -> Option<String> {
        let prompts = [
            self.project.and_then(|project| project.spec.prompt.as_deref()),
            self.agent.and_then(|agent| agent.spec.prompt.as_deref()),
            self.session.spec.prompt.as_deref(),
        ];
        let said: Vec<&str> = prompts.into_iter().flatten().map(str::trim).filter(|text| !text.is_empty()).collect();
        (!said.is_empty()).then(|| said.join("\n\n"))
    }

    /// The Pod; `None` when nothing says what to run.
    pub(super) fn pod(&self) -> Option<Pod> {
        let (command, args) = self.command()?;
        let grants = grants(self.session, self.agent);
        let (volumes, volume_mounts) = self.volumes(&grants);
        let container = Container {
            name: "agent".to_owned(),
            image: None,
            command,
            args,
            env: self.env(&grants),
            working_dir: None,
            resources: PodResources { limits: self.limits() },
            volume_mounts,
        };
        Some(Pod {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            metadata: self.metadata(),
            spec: PodSpec {
                node_name: self.node.unwrap_or_default().to_owned(),
                restart_policy: "Never".to_owned(),
                termination_grace_period_seconds: GRACE_SECONDS,
                active_deadline_seconds: self.deadline(),
                containers: vec![container],
                volumes,
            },
            status: None,
        })
    }

    /// The session's own command, or the agent's with its arguments.
    fn command(&self) -> Option<(Vec<String>, Vec<String>)> {
        if !self.session.spec.command.is_empty() {
            return Some((self.session.spec.command.clone(), Vec::new()));
        }
        let spec = &self.agent?.spec;
        (!spec.command.is_empty()).then(|| (spec.command.clone(), spec.args.clone()))
    }

    fn metadata(&self) -> ObjectMeta {
        let meta = &self.session.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let adaptor = self.agent.map(|agent| agent.spec.adaptor).unwrap_or_default();
        let mut annotations = BTreeMap::from([
            (names::SESSION_UID.to_owned(), meta.uid.clone().unwrap_or_default()),
            (names::RUN.to_owned(), self.run.to_string()),
            (names::ADAPTOR.to_owned(), adaptor.as_str().to_owned()),
        ]);
        for (asked, annotation) in [
            (self.session.spec.workspace.keep, names::KEEP_WORKSPACE),
            (self.session.spec.stop_on_finish, names::STOP_ON_FINISH),
        ] {
            if asked {
                annotations.insert(annotation.to_owned(), "true".to_owned());
            }
        }
        ObjectMeta {
            name: Some(names::pod_name(&name, self.run)),
            namespace: meta.namespace.clone(),
            labels: Some(BTreeMap::from([(names::SESSION.to_owned(), name)])),
            annotations: Some(annotations),
            owner_references: Some(vec![super::owner_reference(self.session)]),
            // Held from its first version on: before it goes its sandbox must be known to be gone, and its end be read.
            finalizers: Some(vec![names::NODE_FINALIZER.to_owned(), names::SESSION_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        }
    }

    /// The agent's environment, then the session's, which wins by name, then what the platform adds.
    fn env(&self, grants: &[CredentialGrant]) -> Vec<PodEnv> {
        let standing = self.agent.map_or(&[][..], |agent| &agent.spec.env);
        let own = &self.session.spec.env;
        let overridden = |var: &EnvVar| own.iter().any(|other| other.name == var.name);
        let mut env: Vec<PodEnv> = standing
            .iter()
            .filter(|var| !overridden(var))
            .chain(own)
            .map(|var| PodEnv { name: var.name.clone(), value: Some(var.value.clone()), value_from: None })
            .collect();
        if let Some(model) = self.agent.and_then(|agent| agent.spec.model.clone()) {
            env.push(PodEnv { name: "MAINSTAY_MODEL".to_owned(), value: Some(model), value_from: None });
        }
        for grant in grants {
            let Some(name) = &grant.token_env else { continue };
            let secret_key_ref = SecretKey { name: credential(&grant.name), key: "token".to_owned() };
            env.retain(|var| var.name != *name);
            env.push(PodEnv { name: name.clone(), value: None, value_from: Some(EnvSource { secret_key_ref }) });
        }
        env
    }

    fn limits(&self) -> BTreeMap<String, String> {
        let mut resources = self.session.spec.resources.clone();
        if let Some(agent) = self.agent {
            resources = resources.or(&agent.spec.resources);
        }
        if let Some(project) = self.project {
            resources = resources.or(&project.spec.session_defaults.resources);
        }
        let Resources { cpu, memory, pids } = resources;
        let pids = pids.map(|pids| pids.to_string());
        [("cpu", cpu), ("memory", memory), (names::PIDS, pids)]
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), limit?)))
            .collect()
    }

    /// The life-time bound that holds even while the control plane is away.
    fn deadline(&self) -> Option<u64> {
        let default = self.project.and_then(|project| project.spec.session_defaults.timeout);
        let limit = self.session.spec.timeout.or(default)?.limit()?;
        Some(limit.as_secs().max(1))
    }

    fn volumes(&self, grants: &[CredentialGrant]) -> (Vec<Volume>, Vec<VolumeMount>) {
        let default = self.project.and_then(|project| project.spec.session_defaults.workspace_size.clone());
        let size = self.session.spec.workspace.size.clone().or(default);
        let size_limit = Some(size.unwrap_or_else(|| DEFAULT_WORKSPACE_SIZE.to_owned()));
        let workspace =
            Volume { name: "workspace".to_owned(), empty_dir: Some(EmptyDir { size_limit }), ..Volume::default() };
        let mut volumes = vec![workspace];
        let mut mounts = vec![mount("workspace", "/workspace".to_owned(), None)];
        for (at, grant) in grants.iter().enumerate() {
            let name = format!("credential-{at}");
            let secret = SecretVolume { secret_name: credential(&grant.name), default_mode: Some(CREDENTIAL_MODE) };
            mounts.push(mount(&name, format!("/mainstay/credentials/{}", grant.name), Some(true)));
            volumes.push(Volume { name, secret: Some(secret), ..Volume::default() });
        }
        if let Some(name) = &self.session.spec.workspace.files {
            let config_map = Some(ConfigMapVolume { name: name.clone() });
            mounts.push(mount("files", "/mainstay/files".to_owned(), Some(true)));
            volumes.push(Volume { name: "files".to_owned(), config_map, ..Volume::default() });
        }
        (volumes, mounts)
    }
}

fn mount(name: &str, mount_path: String, read_only: Option<bool>) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path, read_only }
}

/// A Credential, as a secret volume or variable names it.
fn credential(name: &str) -> String {
    format!("{}{name}", names::CREDENTIAL_PREFIX)
}
