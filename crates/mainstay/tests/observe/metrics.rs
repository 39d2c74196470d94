//! docs/metrics.md says what is served, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_testkit::server::Server;

use crate::scrape::{self, Family};
use crate::{EXE, apply, operation, read};

/// What the documentation's tables say: `| name | type | labels | meaning |`.
pub(crate) fn documented() -> BTreeMap<String, Family> {
    let text = read("docs/metrics.md");
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else { panic!("{line}") };
        let labels: BTreeSet<String> = labels.split(' ').map(|label| label.trim_matches('`').to_owned()).collect();
        let labels = Some(labels.into_iter().filter(|label| !label.is_empty() && label != "-").collect());
        (name.trim_matches('`').to_owned(), Family { kind: kind.into(), help: help.into(), labels })
    };
    text.lines().filter(|line| line.starts_with("| `mainstay_")).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_as_it_is() {
    let server = Server::start(EXE).unwrap();
    apply(&server, &(operation("well", "noop") + &operation("nobodys", "nobody")));
    let text = scrape::text_when(&server, |text| {
        ["succeeded", "dead"].iter().all(|outcome| text.contains(&format!("outcome=\"{outcome}\"")))
    });
    let served = scrape::families(&text.await);
    let documented = documented();
    let line = |(name, family): (&String, &Family)| {
        let labels = family.labels.iter().flatten().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        let labels = if labels.is_empty() { "-" } else { &labels };
        format!("| `{name}` | {} | {labels} | {} |", family.kind, family.help)
    };
    let missing: Vec<String> = served.iter().filter(|(name, _)| !documented.contains_key(*name)).map(line).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md:\n{}", missing.join("\n"));
    for (name, said) in &documented {
        let is = served.get(name).unwrap_or_else(|| panic!("{name} is documented, and not served"));
        assert_eq!((&is.kind, &is.help), (&said.kind, &said.help), "{name}");
        assert!(is.labels.is_none() || is.labels == said.labels, "{name}: {is:?} is documented as {said:?}");
    }
}
