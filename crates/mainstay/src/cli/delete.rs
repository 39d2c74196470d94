//! `mainstay delete`: each object by its uid, so that repeating a delete never hits another object of the same name.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::{FileFlags, namespace_of};
use super::failure::{CliError, CliResult};
use super::get::{Asked, SelectFlags, understand};
use crate::connect::kinds::Kinds;
use crate::connect::{Call, CallError, Server, ServerFlags, path};
use crate::output;
use crate::output::progress::Spinner;
use crate::output::text::span;

/// Delete objects
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay delete session fix
  mainstay delete session/fix credential/github
  mainstay delete -f manifests/
  mainstay delete sessions -l env=test
  mainstay delete sessions --all -n demo --wait=false")]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["what", "filename", "kustomize"])))]
pub(crate) struct DeleteArgs {
    /// KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND [NAME]", conflicts_with_all = ["filename", "kustomize"], add = clap_complete::ArgValueCompleter::new(super::complete::kinds_and_names))]
    what: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectFlags,
    /// All objects of the kind
    #[arg(long, conflicts_with = "selector")]
    all: bool,
    /// Wait until they are gone
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = span)]
    timeout: Duration,
    /// Seconds that what runs may take to end
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// It is no failure when something is not there
    #[arg(long)]
    ignore_not_found: bool,
}

/// An object to delete.
struct Doomed {
    reference: String,
    path: String,
    list_path: String,
    /// Known already, from a list.
    uid: Option<String>,
}

/// Runs `mainstay delete`.
pub(crate) async fn run(args: &DeleteArgs, flags: &ServerFlags) -> CliResult {
    let documents = if args.what.is_empty() { args.files.read()? } else { Vec::new() };
    let server = Server::connect(flags).await?;
    let kinds = Kinds::discover(&server).await?;
    let mut doomed = Vec::new();
    // What was made last goes first.
    for document in documents.iter().rev() {
        let known = kinds.by_kind(document.api_version(), document.kind());
        let kind = known.ok_or_else(|| {
            let what = format!("the server has no kind {} in {}", document.kind(), document.api_version());
            CliError::Usage(format!("{}: {what}", document.place("kind")))
        })?;
        let namespace = namespace_of(document, kind, &server.namespace)?;
        doomed.push(Doomed::new(&Asked { kind: kind.clone(), name: None }, &namespace, document.name(), None));
    }
    if !args.what.is_empty() {
        doomed.extend(choose(args, &server, &kinds).await?);
    }
    let mut failures = Vec::new();
    let mut waiting = Vec::new();
    for one in &doomed {
        match one.delete(&server, args.grace_period).await {
            Ok(uid) => {
                output::line(format_args!("{} deleted", one.reference))?;
                waiting.push((one, uid));
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    if args.wait {
        await_all(&server, &waiting, args.timeout).await?;
    }
    finish(failures, doomed.len())
}

fn finish(mut failures: Vec<CliError>, of: usize) -> CliResult {
    if failures.len() == 1 {
        return Err(failures.remove(0));
    }
    for failure in &failures {
        output::error(failure);
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(CliError::Failed(format!("{} of {of} objects were not deleted", failures.len())))
    }
}

/// The objects that kind and names, selector or `--all` mean.
async fn choose(args: &DeleteArgs, server: &Server, kinds: &Kinds) -> CliResult<Vec<Doomed>> {
    let mut doomed = Vec::new();
    for asked in understand(&args.what, kinds)? {
        let many = args.all || args.select.narrows();
        if let Some(name) = asked.name.clone() {
            if many || args.select.all_namespaces {
                return Err(CliError::Usage("give names, or a selector or --all, but not both".to_owned()));
            }
            doomed.push(Doomed::new(&asked, &server.namespace, &name, None));
            continue;
        }
        if !many {
            return Err(CliError::Usage(format!(
                "which {}? Give names, -l, --field-selector or --all",
                asked.kind.plural
            )));
        }
        let found = server.all(&args.select.list_path(server, &asked)).await?;
        if found.is_empty() {
            output::note(format_args!("No {} found.", asked.kind.plural));
        }
        for object in found {
            let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
            doomed.push(Doomed::new(&asked, text("namespace"), text("name"), Some(text("uid").to_owned())));
        }
    }
    Ok(doomed)
}

impl Doomed {
    fn new(asked: &Asked, namespace: &str, name: &str, uid: Option<String>) -> Self {
        let mut list_path = asked.kind.collection(Some(namespace));
        path::with_query(&mut list_path, "fieldSelector", &format!("metadata.name={name}"));
        let (reference, path) = (asked.kind.reference(name), asked.kind.object(namespace, name));
        Self { reference, path, list_path, uid }
    }

    /// Deletes the object that has the name now, and no later one. Returns its uid.
    async fn delete(&self, server: &Server, grace_period: Option<u32>) -> Result<String, CallError> {
        let uid = match &self.uid {
            Some(uid) => uid.clone(),
            None => server.get(&self.path).await?["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        };
        let mut options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": {"uid": uid},
        });
        if let Some(seconds) = grace_period {
            options["gracePeriodSeconds"] = seconds.into();
        }
        match server.call(Call::delete(&self.path, &options)).await {
            Ok(_) => Ok(uid),
            // It was there a moment ago: somebody else's delete, or our own first try, was quicker.
            Err(error) if error.is_not_found() => Ok(uid),
            Err(error) => Err(error),
        }
    }
}

async fn await_all(server: &Server, waiting: &[(&Doomed, String)], timeout: Duration) -> CliResult {
    let deadline = Instant::now() + timeout;
    let _spinner = Spinner::start("waiting until all is gone");
    for (one, uid) in waiting {
        let gone = |found: Option<&Value>| match found {
            Some(object) if object["metadata"]["uid"] == **uid => None,
            _ => Some(()),
        };
        let what = format!("{} to be gone; it is being deleted", one.reference);
        server.wait_for(&one.list_path, &what, Some(deadline), gone).await?;
    }
    Ok(())
}
