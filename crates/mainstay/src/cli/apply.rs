//! `mainstay apply`: makes the server's objects as the manifests say, one by one, and says truly what it did.

mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::failure::{CliError, CliResult};
use crate::connect::kinds::{KindInfo, Kinds};
use crate::connect::{Call, CallError, Refusal, Repeat, Server, ServerFlags, path};
use crate::manifest::{self, Document, Source};
use crate::output::progress::Spinner;
use crate::output::{self, Format};

/// How long a project's namespace may take to appear.
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(30);
/// How often an apply starts over because somebody else wrote.
const MAX_CONFLICTS: u32 = 5;

/// Where manifests come from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FileFlags {
    /// File, folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) filename: Vec<PathBuf>,
    /// Folder with a kustomization.yaml (resources, bases and patches)
    #[arg(short = 'k', long = "kustomize", value_name = "FOLDER", conflicts_with = "filename")]
    pub(crate) kustomize: Option<PathBuf>,
    /// Read folders within folders too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

impl FileFlags {
    /// Reads and expands the manifests.
    pub(crate) fn read(&self) -> CliResult<Vec<Document>> {
        let source =
            Source { files: self.filename.clone(), kustomization: self.kustomize.clone(), recursive: self.recursive };
        Ok(manifest::read_all(&source)?)
    }
}

/// Create objects, or change them to what the manifests say
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay apply -f session.yaml
  mainstay apply -f manifests/ -f extra.yaml
  GITHUB_TOKEN=... mainstay apply -f credential.yaml      # spec.token: $GITHUB_TOKEN
  mainstay apply -k overlays/prod
  cat agent.yaml | mainstay apply -n demo -f -

A variable ($VAR or ${VAR}) is replaced in the token of a Credential, and nowhere else; $$ is a dollar.
Patches of a kustomization are merge patches or JSON patches: lists are replaced as a whole.")]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["filename", "kustomize"])))]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    files: FileFlags,
    /// Only say what would be done: asking the server to try, or without sending anything
    #[arg(long, value_name = "WHERE", default_value = "none", default_missing_value = "client", num_args = 0..=1, require_equals = true)]
    dry_run: DryRun,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Whether to carry out what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// Do it
    None,
    /// Compare only
    Client,
    /// Let the server check, but not store
    Server,
}

impl DryRun {
    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (client dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

/// What became of one object.
#[derive(Debug)]
struct Applied {
    done: &'static str,
    object: Value,
}

struct Applier<'a> {
    server: &'a Server,
    kinds: Kinds,
    dry_run: DryRun,
    /// Projects of this run, whose namespaces may not be there yet.
    projects: BTreeSet<String>,
}

/// Runs `mainstay apply`.
pub(crate) async fn run(args: &ApplyArgs, flags: &ServerFlags) -> CliResult {
    let mut documents = args.files.read()?;
    for document in &mut documents {
        manifest::expand(document, |name| std::env::var(name).ok())?;
    }
    // Namespaces and projects first: the others live in them.
    documents.sort_by_key(|document| !matches!(document.kind(), "Namespace" | "Project"));
    let server = Server::connect(flags).await?;
    let kinds = Kinds::discover(&server).await?;
    let mut applier = Applier { server: &server, kinds, dry_run: args.dry_run, projects: BTreeSet::new() };
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for document in &documents {
        let result = applier.apply(document).await;
        report(document, &applier.kinds, &result, args)?;
        results.push(result_row(document, &result));
        failures.extend(result.err());
    }
    if matches!(args.output, Format::Json | Format::Yaml) {
        output::document(&json!({ "results": results }), args.output)?;
    }
    match failures.len() {
        0 => Ok(()),
        1 if documents.len() == 1 => Err(CliError::Said(Box::new(failures.remove(0)))),
        failed => Err(CliError::Failed(format!("{failed} of {} objects were not applied", documents.len()))),
    }
}

fn report(document: &Document, kinds: &Kinds, result: &CliResult<Applied>, args: &ApplyArgs) -> CliResult {
    let known = kinds.by_kind(document.api_version(), document.kind());
    let reference = known
        .map_or_else(|| format!("{}/{}", document.kind(), document.name()), |kind| kind.reference(document.name()));
    match (result, args.output) {
        (Ok(_), Format::Name) => output::line(reference)?,
        (Ok(applied), Format::Table | Format::Wide) => {
            output::line(format_args!("{reference} {}{}", applied.done, args.dry_run.suffix()))?;
        }
        _ => {}
    }
    Ok(())
}

fn result_row(document: &Document, result: &CliResult<Applied>) -> Value {
    let mut row = json!({"apiVersion": document.api_version(), "kind": document.kind(), "name": document.name()});
    match result {
        Ok(applied) => {
            row["result"] = applied.done.into();
            row["namespace"] = applied.object["metadata"]["namespace"].clone();
            row["resourceVersion"] = applied.object["metadata"]["resourceVersion"].clone();
        }
        Err(error) => {
            row["result"] = "failed".into();
            row["error"] = error.to_string().into();
        }
    }
    row
}

impl Applier<'_> {
    async fn apply(&mut self, document: &Document) -> CliResult<Applied> {
        let result = self.apply_inner(document).await;
        if let Err(error) = &result {
            output::error(format_args!("{}: {} {}: {error}", document.place(""), document.kind(), document.name()));
        }
        result
    }

    async fn apply_inner(&mut self, document: &Document) -> CliResult<Applied> {
        let unknown = || {
            let what = format!("the server has no kind {} in {}", document.kind(), document.api_version());
            CliError::Usage(format!("{}: {what}", document.place("kind")))
        };
        let kind = self.kinds.by_kind(document.api_version(), document.kind()).ok_or_else(unknown)?.clone();
        let mut manifest = document.value.clone();
        let namespace = namespace_of(document, &kind, &self.server.namespace)?;
        if kind.namespaced {
            manifest["metadata"]["namespace"] = namespace.clone().into();
            self.await_namespace(&namespace).await?;
        }
        let desired = plan::desired(manifest);
        let path = kind.object(&namespace, document.name());
        let applied = self.converge(&desired, &path, &kind.collection(Some(&namespace))).await;
        let applied = applied.map_err(|error| located(error, document))?;
        if kind.kind == "Project" && self.dry_run == DryRun::None {
            self.projects.insert(document.name().to_owned());
        }
        Ok(applied)
    }

    /// Reads, compares and writes; again when somebody wrote in between.
    async fn converge(&self, desired: &Value, path: &str, collection: &str) -> Result<Applied, CallError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome = match self.server.get(path).await {
                Ok(live) if live["metadata"]["deletionTimestamp"].is_string() => return Err(going(&live)),
                Ok(live) => self.change(desired, &live, path).await,
                // A namespace that is not there is a 404 too: the create says so.
                Err(error) if error.is_not_found() => self.create(desired, collection).await,
                Err(error) => return Err(error),
            };
            match outcome {
                // Somebody wrote, created or deleted it in between; or our own create was answered to nobody.
                Err(CallError::Refused(refusal)) if refusal.code == 409 && attempt < MAX_CONFLICTS => {}
                Err(CallError::NoAnswer { .. }) if attempt < MAX_CONFLICTS => {}
                outcome => return outcome,
            }
        }
    }

    async fn create(&self, desired: &Value, collection: &str) -> Result<Applied, CallError> {
        let object = plan::for_create(desired);
        if self.dry_run == DryRun::Client {
            return Ok(Applied { done: "created", object });
        }
        let path = self.write_path(collection);
        let object = self.server.call(Call::post(&path, &object, Repeat::Never)).await?;
        Ok(Applied { done: "created", object })
    }

    async fn change(&self, desired: &Value, live: &Value, path: &str) -> Result<Applied, CallError> {
        let unchanged = || Ok(Applied { done: "unchanged", object: live.clone() });
        let Some(patch) = plan::patch(desired, live) else { return unchanged() };
        if self.dry_run == DryRun::Client {
            return Ok(Applied { done: "configured", object: live.clone() });
        }
        let path = self.write_path(path);
        let object = self.server.call(Call::merge_patch(&path, &patch, Repeat::Never)).await?;
        // What the server made of it decides: a token that it had already, a number that it writes otherwise.
        let same = object["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
        if same && self.dry_run == DryRun::None { unchanged() } else { Ok(Applied { done: "configured", object }) }
    }

    fn write_path(&self, path: &str) -> String {
        let mut path = path.to_owned();
        path::with_query(&mut path, "fieldValidation", "Strict");
        path::with_query(&mut path, "fieldManager", "mainstay-apply");
        if self.dry_run == DryRun::Server {
            path::with_query(&mut path, "dryRun", "All");
        }
        path
    }

    /// The namespace of a project that this run applied is made by a controller: waits for it.
    async fn await_namespace(&mut self, namespace: &str) -> CliResult {
        if !self.projects.contains(namespace) {
            return Ok(());
        }
        let mut list = "/api/v1/namespaces".to_owned();
        path::with_query(&mut list, "fieldSelector", &format!("metadata.name={namespace}"));
        let what = format!("the namespace of project {namespace}");
        let _spinner = Spinner::start(format!("waiting for {what}"));
        let active = |found: Option<&Value>| {
            found
                .filter(|namespace| namespace["status"]["phase"].as_str().is_none_or(|phase| phase == "Active"))
                .map(|_| ())
        };
        self.server.wait_for(&list, &what, Some(Instant::now() + NAMESPACE_DEADLINE), active).await?;
        self.projects.remove(namespace);
        Ok(())
    }
}

/// The namespace that an object goes to.
pub(super) fn namespace_of(document: &Document, kind: &KindInfo, default: &str) -> CliResult<String> {
    match document.namespace() {
        Some(name) if !kind.namespaced => Err(CliError::Usage(format!(
            "{}: {} is not in any namespace, but {name} is given",
            document.place("metadata.namespace"),
            kind.kind
        ))),
        Some(name) => Ok(name.to_owned()),
        None => Ok(default.to_owned()),
    }
}

/// What is being deleted cannot become what a manifest says.
fn going(live: &Value) -> CallError {
    let name = live["metadata"]["name"].as_str().unwrap_or_default();
    CallError::Refused(Refusal::local(409, format!("{name} is being deleted: apply it again when it is gone")))
}

/// Adds the place of each field that the server found wrong; what is wrong stands in the message.
fn located(error: CallError, document: &Document) -> CliError {
    let causes = if let CallError::Refused(refusal) = &error { refusal.causes.as_slice() } else { &[] };
    let named = causes.iter().filter(|(field, _)| !field.is_empty());
    let places: Vec<_> = named.map(|(field, _)| format!("\n  {}: {field}", document.place(field))).collect();
    let places = places.concat();
    match CliError::from(error) {
        CliError::Refused(text) => CliError::Refused(text + &places),
        CliError::Failed(text) => CliError::Failed(text + &places),
        other => other,
    }
}
