//! `/metrics` of a running server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Request;
use mainstay_testkit::server::Server;
use tokio::time::{interval, timeout};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait for a figure: what an open breaker refused comes back after 45 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// One metric as it is declared, with the names of its labels.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Of its samples; `None` when it has none.
    pub(crate) labels: Option<BTreeSet<String>>,
}

/// The text of one scrape.
pub(crate) async fn text(server: &Server) -> String {
    let client = server.client().await.unwrap();
    client.request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await.unwrap()
}

/// The first scrape that looks so.
pub(crate) async fn text_when(server: &Server, looks_so: impl Fn(&str) -> bool) -> String {
    let client = server.client().await.unwrap();
    let mut looks = interval(LOOK);
    let seen = async {
        loop {
            looks.tick().await;
            let text = client.request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await.unwrap();
            if looks_so(&text) {
                return text;
            }
        }
    };
    timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("the figures do not come to look so"))
}

/// Its samples: name with labels, and value.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap())
}

/// All metrics by the names of their samples: `_total` belongs to a counter's.
pub(crate) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut name, mut help) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split_once(' ').unwrap().1.clone_into(&mut help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            name = if kind == "counter" { format!("{family}_total") } else { family.to_owned() };
            families.insert(name.clone(), Family { kind: kind.to_owned(), help: help.clone(), labels: None });
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
            families.get_mut(&name).unwrap().labels = Some(names.filter(|name| name != "le").collect());
        }
    }
    families
}
