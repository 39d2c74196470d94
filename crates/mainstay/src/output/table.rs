//! Tables as kubectl shows them: left-aligned, three blanks between columns, no lines.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;
use serde_json::Value;

use super::plain;

/// Blanks between two columns.
const GAP: usize = 3;

/// A table, built row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Headings, in upper case.
    pub(crate) head: Vec<String>,
    /// Rows of cells.
    pub(crate) rows: Vec<Vec<String>>,
    /// Which of the server's cells are shown: a watch tells its columns once only.
    shown: Vec<usize>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Self {
        Self { head: head.into_iter().map(str::to_uppercase).collect(), ..Self::default() }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The width that each column needs.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| width(cell)).collect();
        for row in &self.rows {
            for (at, cell) in row.iter().enumerate() {
                match widths.get_mut(at) {
                    Some(widest) => *widest = (*widest).max(width(cell)),
                    None => widths.push(width(cell)),
                }
            }
        }
        widths
    }

    /// The text, a line a row.
    pub(crate) fn render(&self, with_head: bool) -> String {
        let widths = self.widths();
        let mut text = String::new();
        if with_head && !self.head.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", row(&self.head, &widths).bold());
        }
        for cells in &self.rows {
            let _ = writeln!(text, "{}", row(cells, &widths));
        }
        text
    }
}

/// One row in columns of these widths.
pub(crate) fn row(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (at, cell) in cells.iter().enumerate() {
        text.push_str(&tinted(cell));
        if at + 1 < cells.len() {
            let room = widths.get(at).copied().unwrap_or_default().max(width(cell)) + GAP - width(cell);
            text.extend(std::iter::repeat_n(' ', room));
        }
    }
    text
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// The words of a life cycle in their colours.
fn tinted(cell: &str) -> String {
    match cell {
        "Running" | "Active" | "Ready" => cell.green().to_string(),
        "Completed" | "Succeeded" => cell.cyan().to_string(),
        "Failed" | "Error" | "open" => cell.red().to_string(),
        "Pending" | "Creating" | "Stopping" | "Terminating" | "half-open" => cell.yellow().to_string(),
        _ => cell.to_owned(),
    }
}

/// Adds a server's Table to ours. `wide` keeps all columns; `named` puts the namespace in front; `prefix` is put before
/// each name (`session.mainstay.dev/`), when several kinds are shown.
pub(crate) fn add_server_table(table: &mut Table, answer: &Value, wide: bool, named: bool, prefix: &str) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let columns = list(&answer["columnDefinitions"]);
    let is_shown = |column: &Value| wide || column["priority"].as_i64().unwrap_or(0) == 0;
    if !columns.is_empty() {
        table.shown = columns.iter().enumerate().filter(|(_, column)| is_shown(column)).map(|(at, _)| at).collect();
    }
    let shown = table.shown.clone();
    if table.head.is_empty() {
        let names = shown.iter().filter_map(|at| columns.get(*at)?["name"].as_str().map(str::to_uppercase));
        table.head = named.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect();
    }
    for row in list(&answer["rows"]) {
        let namespace = row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let cells = shown.iter().map(|at| cell(&row["cells"][*at]));
        let mut cells: Vec<String> = named.then_some(namespace).into_iter().chain(cells).collect();
        if let Some(name) = cells.get_mut(usize::from(named)) {
            name.insert_str(0, prefix);
        }
        table.push(cells);
    }
}

/// The text of one cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => plain(text.lines().next().unwrap_or_default()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bare(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", "phase"]);
        table.push(vec!["a".into(), "Running".into()]);
        table.push(vec!["longer-name".into(), "Failed".into()]);
        assert_eq!(bare(&table.render(true)), "NAME          PHASE\na             Running\nlonger-name   Failed\n");
        assert!(table.render(true).contains("\u{1b}["), "colours are there for the terminal");
    }

    #[test]
    fn a_servers_table_is_cut_by_priority_and_prefixed() {
        let answer = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Phase", "priority": 0}, {"name": "Pod", "priority": 1}],
            "rows": [{"cells": ["x", null, "x-1"], "object": {"metadata": {"namespace": "ns"}}}],
        });
        let shown = |wide, named, prefix: &str| {
            let mut table = Table::default();
            add_server_table(&mut table, &answer, wide, named, prefix);
            bare(&table.render(true))
        };
        assert_eq!(shown(false, false, ""), "NAME   PHASE\nx      <none>\n");
        assert_eq!(shown(true, true, "s/"), "NAMESPACE   NAME   PHASE    POD\nns          s/x    <none>   x-1\n");
    }

    #[test]
    fn rows_without_columns_are_cut_as_those_before() {
        let columns =
            json!([{"name": "Name", "priority": 0}, {"name": "Pod", "priority": 1}, {"name": "Age", "priority": 0}]);
        let mut table = Table::default();
        add_server_table(&mut table, &json!({"columnDefinitions": columns, "rows": []}), false, false, "");
        add_server_table(&mut table, &json!({"rows": [{"cells": ["x", "x-1", "5s"]}]}), false, false, "");
        assert_eq!(table.rows, [["x", "5s"]]);
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[31m\nb")), "a\u{fffd}[31m");
        assert_eq!(cell(&json!(3)), "3");
    }
}
