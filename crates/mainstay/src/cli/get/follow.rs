//! A list and then each of its changes, over any gap: nothing is missed, and nothing is shown twice.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::failure::CliResult;
use super::{AS_TABLE, Asked, SelectFlags, add_answer};
use crate::connect::Server;
use crate::connect::watch::Seen;
use crate::output::table::{Table, row};
use crate::output::{self, Format};

/// How changes are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    /// With the kind of each change.
    pub(super) events: bool,
    /// With headings.
    pub(super) head: bool,
}

/// Shows the list, then each change.
pub(super) async fn follow(
    server: &Server,
    asked: &Asked,
    select: &SelectFlags,
    format: Format,
    show: Show,
) -> CliResult {
    let list_path = select.list_path(server, asked);
    let accept = if matches!(format, Format::Table | Format::Wide) { AS_TABLE } else { "application/json" };
    let mut printer = Printer {
        asked,
        format,
        show,
        named: select.all_namespaces && asked.kind.namespaced,
        table: Table::default(),
        widths: Vec::new(),
    };
    let mut seen: HashMap<String, Known> = HashMap::new();
    loop {
        let mut now: HashMap<String, Known> = HashMap::new();
        let mut revision = String::new();
        let mut pages = Vec::new();
        revision.push_str(
            &server
                .pages(&list_path, accept, |page| {
                    pages.push(page);
                    Ok(())
                })
                .await?,
        );
        for (uid, known) in pages.iter().flat_map(split) {
            if seen.get(&uid).is_none_or(|before| before.revision != known.revision) {
                printer.show(if seen.contains_key(&uid) { "MODIFIED" } else { "ADDED" }, &known.object)?;
            }
            now.insert(uid, known);
        }
        for (_, gone) in seen.iter().filter(|(uid, _)| !now.contains_key(*uid)) {
            printer.show("DELETED", &gone.object)?;
        }
        seen = now;
        let mut watch = server.watch(&list_path, accept, &revision);
        while let Seen::Change(change, object) = watch.next().await? {
            printer.show(&change, &object)?;
            for (uid, known) in split(&object) {
                if change == "DELETED" {
                    seen.remove(&uid)
                } else {
                    seen.insert(uid, known)
                };
            }
        }
    }
}

/// An object as it was shown last.
struct Known {
    revision: String,
    object: Value,
}

/// The single objects, or single-row Tables, of an answer, by uid.
fn split(answer: &Value) -> Vec<(String, Known)> {
    let known = |meta: &Value, object: Value| {
        let text = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
        (text("uid"), Known { revision: text("resourceVersion"), object })
    };
    if answer["kind"] == "Table" {
        let columns = &answer["columnDefinitions"];
        let rows = answer["rows"].as_array().into_iter().flatten();
        return rows
            .map(|row| {
                known(&row["object"]["metadata"], json!({"kind": "Table", "columnDefinitions": columns, "rows": [row]}))
            })
            .collect();
    }
    let single = [answer.clone()];
    let items = answer["items"].as_array().map_or(single.as_slice(), Vec::as_slice);
    items.iter().map(|item| known(&item["metadata"], item.clone())).collect()
}

struct Printer<'a> {
    asked: &'a Asked,
    format: Format,
    show: Show,
    named: bool,
    table: Table,
    widths: Vec<usize>,
}

impl Printer<'_> {
    fn show(&mut self, change: &str, answer: &Value) -> CliResult {
        match self.format {
            Format::Table | Format::Wide => return self.rows(change, answer),
            Format::Name => {
                output::line(self.asked.kind.reference(answer["metadata"]["name"].as_str().unwrap_or_default()))?;
            }
            Format::Json | Format::Yaml => {
                let mut object = answer.clone();
                object["apiVersion"] = self.asked.kind.api_version().into();
                object["kind"] = self.asked.kind.kind.clone().into();
                let shown = if self.show.events { json!({"type": change, "object": object}) } else { object };
                if self.format == Format::Yaml {
                    output::line("---")?;
                    output::document(&shown, Format::Yaml)?;
                } else {
                    output::line(shown)?;
                }
            }
        }
        Ok(())
    }

    fn rows(&mut self, change: &str, answer: &Value) -> CliResult {
        let first = self.table.head.is_empty();
        self.table.rows.clear();
        add_answer(&mut self.table, answer, self.format == Format::Wide, self.named, "");
        let lead = |cells: &[String], word: &str| {
            let word = self.show.events.then(|| format!("{word:<8}"));
            word.into_iter().chain(cells.iter().cloned()).collect::<Vec<_>>()
        };
        // Columns only ever grow, so that rows stay below each other.
        let lead_width = self.show.events.then_some(8).into_iter();
        let widths: Vec<usize> = lead_width.chain(self.table.widths()).collect();
        self.widths.resize(widths.len(), 0);
        self.widths.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
        if first && self.show.head {
            output::line(row(&lead(&self.table.head, "EVENT"), &self.widths))?;
        }
        for cells in &self.table.rows {
            output::line(row(&lead(cells, change), &self.widths))?;
        }
        Ok(())
    }
}
