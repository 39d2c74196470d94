//! `mainstay get` and `mainstay watch`: objects as tables of the server's making, or as they are.

mod follow;

use clap::Args;
use follow::{Show, follow};
use mainstay_runtime::Clock;
use serde_json::{Value, json};

use super::failure::{CliError, CliResult};
use crate::connect::kinds::{KindInfo, Kinds};
use crate::connect::{Call, CallError, Server, ServerFlags, path};
use crate::output::table::{Table, add_server_table};
use crate::output::{self, Format};

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Pages of one list, at most: a million objects.
const MAX_PAGES: usize = 2_000;
/// Asks for a Table, or objects from a server that makes none.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Which objects.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectFlags {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels, such as env=prod,tier!=db
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// Only objects with these fields, such as status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub(crate) field_selector: Option<String>,
}

/// Show objects
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay get sessions
  mainstay get sess -A -o wide
  mainstay get session fix -o yaml
  mainstay get agents,credentials -n demo
  mainstay get pods -l mainstay.dev/session=fix
  mainstay get sessions --field-selector status.phase=Running -o name
  mainstay get sessions -w")]
pub(crate) struct GetArgs {
    /// KIND[,KIND...] [NAME...], or KIND/NAME...
    #[arg(required = true, value_name = "KIND [NAME]", add = clap_complete::ArgValueCompleter::new(super::complete::kinds_and_names))]
    what: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Then show each change, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Leave out the headings
    #[arg(long)]
    no_headers: bool,
}

/// Show each change of objects, until interrupted
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  mainstay watch sessions
  mainstay watch session fix
  mainstay watch pods -A -o json      # one JSON event per line")]
pub(crate) struct WatchArgs {
    /// A kind, alone or followed by a name; or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "KIND [NAME]", add = clap_complete::ArgValueCompleter::new(super::complete::kinds_and_names))]
    what: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What is asked for: a kind, and a name or all.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) kind: KindInfo,
    pub(crate) name: Option<String>,
}

/// Understands `KIND[,KIND] [NAME...]` and `KIND/NAME...`.
pub(crate) fn understand(words: &[String], kinds: &Kinds) -> CliResult<Vec<Asked>> {
    if words.iter().any(|word| word.contains('/')) {
        let mut asked = Vec::new();
        for word in words {
            let Some((kind, name)) = word.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
            else {
                return Err(CliError::Usage(format!("`{word}`: when one argument is KIND/NAME, all must be")));
            };
            let named = |kind: &KindInfo| Asked { kind: kind.clone(), name: Some(name.to_owned()) };
            asked.extend(kinds.by_word(kind)?.into_iter().map(named));
        }
        return Ok(asked);
    }
    let (first, names) = words.split_first().ok_or_else(|| CliError::Usage("name a kind".to_owned()))?;
    let mut asked = Vec::new();
    for word in first.split(',').filter(|word| !word.is_empty()) {
        for kind in kinds.by_word(word)? {
            if names.is_empty() {
                asked.push(Asked { kind: kind.clone(), name: None });
            }
            asked.extend(names.iter().map(|name| Asked { kind: kind.clone(), name: Some(name.clone()) }));
        }
    }
    Ok(asked)
}

impl SelectFlags {
    /// Whether something narrows the choice.
    pub(crate) fn narrows(&self) -> bool {
        self.selector.is_some() || self.field_selector.is_some()
    }

    /// The path of a list; of one object's list when it is named.
    pub(crate) fn list_path(&self, server: &Server, asked: &Asked) -> String {
        let namespace = (!self.all_namespaces).then_some(server.namespace.as_str());
        let mut path = asked.kind.collection(namespace);
        if let Some(labels) = &self.selector {
            path::with_query(&mut path, "labelSelector", labels);
        }
        let named = asked.name.as_ref().map(|name| format!("metadata.name={name}"));
        let fields: Vec<_> = named.into_iter().chain(self.field_selector.clone()).collect();
        if !fields.is_empty() {
            path::with_query(&mut path, "fieldSelector", &fields.join(","));
        }
        path
    }
}

impl Server {
    /// A whole list, page by page; `take` gets each page. Returns the list's revision.
    pub(crate) async fn pages(
        &self,
        list_path: &str,
        accept: &str,
        mut take: impl FnMut(Value) -> CliResult,
    ) -> CliResult<String> {
        let mut next = String::new();
        for _ in 0..MAX_PAGES {
            let mut path = list_path.to_owned();
            path::with_query(&mut path, "limit", &PAGE.to_string());
            if !next.is_empty() {
                path::with_query(&mut path, "continue", &next);
            }
            let page = self.call(Call::get(&path).accept(accept)).await?;
            let text = |name: &str| page["metadata"][name].as_str().unwrap_or_default().to_owned();
            next = text("continue");
            let revision = text("resourceVersion");
            take(page)?;
            if next.is_empty() {
                return Ok(revision);
            }
        }
        Err(CliError::Failed(format!("more than {} objects: narrow the choice", MAX_PAGES as u64 * u64::from(PAGE))))
    }

    /// All objects of a list.
    pub(crate) async fn all(&self, list_path: &str) -> CliResult<Vec<Value>> {
        let mut items = Vec::new();
        let take = |mut page: Value| {
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            Ok(())
        };
        self.pages(list_path, "application/json", take).await?;
        Ok(items)
    }
}

/// Runs `mainstay get`.
pub(crate) async fn run(args: &GetArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let kinds = Kinds::discover(&server).await?;
    let asked = understand(&args.what, &kinds)?;
    if args.select.narrows() && asked.iter().any(|one| one.name.is_some()) {
        return Err(CliError::Usage("a selector and a name do not go together".to_owned()));
    }
    if args.select.all_namespaces && asked.iter().any(|one| one.name.is_some() && one.kind.namespaced) {
        return Err(CliError::Usage("a name is in one namespace: use -n in place of -A".to_owned()));
    }
    if args.watch {
        let [one] = asked.as_slice() else {
            return Err(CliError::Usage("only one kind, or one object, can be watched".to_owned()));
        };
        return follow(&server, one, &args.select, args.output, Show { events: false, head: !args.no_headers }).await;
    }
    match args.output {
        Format::Table | Format::Wide => tables(&server, &asked, args).await,
        _ => objects(&server, &asked, args).await,
    }
}

/// Runs `mainstay watch`.
pub(crate) async fn run_watch(args: &WatchArgs, flags: &ServerFlags) -> CliResult {
    let server = Server::connect(flags).await?;
    let kinds = Kinds::discover(&server).await?;
    let asked = understand(&args.what, &kinds)?;
    let [one] = asked.as_slice() else {
        return Err(CliError::Usage("only one kind, or one object, can be watched".to_owned()));
    };
    follow(&server, one, &args.select, args.output, Show { events: true, head: true }).await
}

/// Each kind's objects; those that are named and not there are told at the end.
async fn tables(server: &Server, asked: &[Asked], args: &GetArgs) -> CliResult {
    let mut missing = Vec::new();
    let mut first = true;
    for group in asked.chunk_by(|a, b| a.kind == b.kind) {
        let kind = &group[0].kind;
        let several = asked.iter().any(|one| one.kind != *kind);
        let prefix = if several { kind.reference("") } else { String::new() };
        let named = args.select.all_namespaces && kind.namespaced;
        let mut table = Table::default();
        for one in group {
            let mut take = |page: Value| {
                add_answer(&mut table, &page, args.output == Format::Wide, named, &prefix);
                Ok(())
            };
            match &one.name {
                None => drop(server.pages(&args.select.list_path(server, one), AS_TABLE, take).await?),
                Some(name) => {
                    let path = kind.object(&server.namespace, name);
                    match server.call(Call::get(&path).accept(AS_TABLE)).await {
                        Ok(answer) => take(answer)?,
                        Err(error) if error.is_not_found() => missing.push(error),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        if table.rows.is_empty() {
            if group.iter().all(|one| one.name.is_none()) && !several {
                output::note(nothing(kind, server, &args.select));
            }
            continue;
        }
        if !std::mem::take(&mut first) {
            output::line("")?;
        }
        print(&table.render(!args.no_headers))?;
    }
    told(&missing)
}

fn print(text: &str) -> CliResult {
    use std::io::Write as _;
    Ok(anstream::stdout().write_all(text.as_bytes())?)
}

fn nothing(kind: &KindInfo, server: &Server, select: &SelectFlags) -> String {
    if kind.namespaced && !select.all_namespaces {
        return format!("No {} found in namespace {}.", kind.plural, server.namespace);
    }
    format!("No {} found.", kind.plural)
}

/// The last word on what was not there.
fn told(missing: &[CallError]) -> CliResult {
    let Some(texts) = missing.iter().map(ToString::to_string).reduce(|all, one| format!("{all}\n{one}")) else {
        return Ok(());
    };
    Err(CliError::NotFound(texts))
}

/// Adds an answer to the table: a Table as it is, objects by name and age.
fn add_answer(table: &mut Table, answer: &Value, wide: bool, named: bool, prefix: &str) {
    if answer["kind"] == "Table" {
        return add_server_table(table, answer, wide, named, prefix);
    }
    let single = [answer.clone()];
    let items = answer["items"].as_array().map_or(single.as_slice(), Vec::as_slice);
    let rows: Vec<_> =
        items.iter().map(|item| json!({"cells": [item["metadata"]["name"], age(item)], "object": item})).collect();
    let columns = json!([{"name": "Name"}, {"name": "Age"}]);
    add_server_table(table, &json!({"columnDefinitions": columns, "rows": rows}), wide, named, prefix);
}

fn age(object: &Value) -> Value {
    let created = object["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse().ok());
    created.map_or(Value::Null, |created| output::text::age(created, Clock::system().now()).into())
}

/// Objects as JSON, YAML or names.
async fn objects(server: &Server, asked: &[Asked], args: &GetArgs) -> CliResult {
    let mut found: Vec<Value> = Vec::new();
    let mut missing = Vec::new();
    for one in asked {
        let start = found.len();
        if let Some(name) = &one.name {
            match server.get(&one.kind.object(&server.namespace, name)).await {
                Ok(object) => found.push(object),
                Err(error) if error.is_not_found() => missing.push(error),
                Err(error) => return Err(error.into()),
            }
        } else {
            found.extend(server.all(&args.select.list_path(server, one)).await?);
        }
        for object in found.iter_mut().skip(start) {
            // Items of a list do not say what they are.
            object["apiVersion"] = one.kind.api_version().into();
            object["kind"] = one.kind.kind.clone().into();
            if args.output == Format::Name {
                output::line(one.kind.reference(object["metadata"]["name"].as_str().unwrap_or_default()))?;
            }
        }
    }
    let single = matches!(asked, [Asked { name: Some(_), .. }]);
    match args.output {
        Format::Name => {}
        _ if single => {
            if let Some(object) = found.first() {
                output::document(object, args.output)?;
            }
        }
        _ => {
            output::document(
                &json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": found}),
                args.output,
            )?;
        }
    }
    told(&missing)
}
