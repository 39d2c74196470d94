//! Wrong manifests of every kind, each with the exact answer.
//!
//! A file of `wrong/` is about one kind: its first line is the path of the collection. Then, for each case, a manifest
//! on a line, and indented below it what the server says: code, reason, message; and the field of each cause. `<x*64>`
//! stands for 64 times an x.

use super::*;

#[test]
fn wrong_manifests_get_the_exact_answer() {
    let bothered = Bothered::new();
    let files = [
        include_str!("wrong/projects.txt"),
        include_str!("wrong/agents.txt"),
        include_str!("wrong/credentials.txt"),
        include_str!("wrong/sessions.txt"),
        include_str!("wrong/operations.txt"),
        include_str!("wrong/pods.txt"),
        include_str!("wrong/namespaces.txt"),
        include_str!("wrong/secrets.txt"),
        include_str!("wrong/configmaps.txt"),
        include_str!("wrong/serviceaccounts.txt"),
        include_str!("wrong/events.txt"),
        include_str!("wrong/resourcequotas.txt"),
        include_str!("wrong/roles.txt"),
        include_str!("wrong/clusterroles.txt"),
        include_str!("wrong/rolebindings.txt"),
        include_str!("wrong/clusterrolebindings.txt"),
        include_str!("wrong/leases.txt"),
    ];
    let mut faults = Vec::new();
    let mut count = 0;
    for file in files {
        let mut lines = file.lines().filter(|line| !line.is_empty()).peekable();
        let path = lines.next().unwrap();
        while let Some(manifest) = lines.next() {
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
                expected.push(expand(line.trim()));
            }
            let answer = bothered.wire.call("POST", path, "application/json", expand(manifest));
            let found = shown(&answer);
            count += 1;
            if found != expected {
                faults.push(format!("{path}\n{manifest}\n    {}\n", found.join("\n    ")));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {count} answers are others:\n{}", faults.len(), faults.join("\n"));
    assert!(count > 200, "{count} cases");
    bothered.stays_well();
}

/// What the files say of an answer.
fn shown(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(answer.status, body["code"].as_u64().map_or(answer.status, |code| u16::try_from(code).unwrap()));
    let mut lines = vec![format!("{} {} {}", answer.status, text(&body["reason"]), text(&body["message"]))];
    let causes = body["details"]["causes"].as_array().into_iter().flatten();
    lines.extend(causes.map(|cause| format!("{} {}", text(&cause["field"]), text(&cause["reason"]))));
    lines
}

/// `<x*3>` becomes `xxx`.
fn expand(text: &str) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        whole.push_str(before);
        let (inside, behind) = after.split_once('>').unwrap_or((after, ""));
        match inside.split_once('*').and_then(|(word, count)| Some(word.repeat(count.parse().ok()?))) {
            Some(repeated) => whole.push_str(&repeated),
            None => whole.extend(["<", inside, ">"]),
        }
        rest = behind;
    }
    whole + rest
}
