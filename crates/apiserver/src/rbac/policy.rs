//! The roles of a new data directory, as tables: for people, for controllers, for everyone.
//!
//! A row is verbs, API group, resources and names, words separated by blanks; group `core` is the empty one, and
//! group `path` means paths that are no resources.

use super::rule::Rule;
use crate::auth::identity::{AUTHENTICATED, MASTERS};

/// A row of a role.
pub(super) type Row = (&'static str, &'static str, &'static str, &'static str);

/// A ClusterRole and the group that it is bound to everywhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Builtin {
    pub(super) name: &'static str,
    pub(super) rows: &'static [&'static [Row]],
    pub(super) group: Option<&'static str>,
}

const M: &str = "mainstay.dev";
const RBAC: &str = "rbac.authorization.k8s.io";
const READ: &str = "get list watch";
const WRITE: &str = "create update patch delete deletecollection";

/// Mainstay's controllers: names of service accounts in `mainstay-system`, and of their roles
/// (`system:controller:NAME`).
pub const CONTROLLERS: [&str; 8] = [
    "session-controller",
    "project-controller",
    "namespace-controller",
    "garbage-collector",
    "token-controller",
    "event-controller",
    "node-controller",
    "api-server",
];

const VIEW: &[Row] = &[
    (READ, M, "agents sessions credentials operations", ""),
    ("get", M, "sessions/status sessions/messages sessions/heartbeat credentials/status operations/status", ""),
    (READ, "core", "configmaps events pods resourcequotas serviceaccounts", ""),
    ("get", "core", "pods/status pods/log resourcequotas/status", ""),
    ("get", "core", "namespaces", ""),
    ("get", M, "projects projects/status", ""),
];

const EDIT: &[Row] = &[
    (WRITE, M, "agents sessions credentials", ""),
    ("create", M, "sessions/messages", ""),
    (WRITE, "core", "configmaps", ""),
    ("create", "core", "pods/exec", ""),
];

const OWN: &[Row] = &[
    (READ, "core", "secrets", ""),
    (WRITE, "core", "secrets serviceaccounts", ""),
    ("create", "core", "serviceaccounts/token", ""),
    ("delete", "core", "pods", ""),
    (READ, RBAC, "roles rolebindings", ""),
    (WRITE, RBAC, "roles rolebindings", ""),
    ("update patch delete", M, "projects", ""),
    // To cancel and to replay. Creating one would order a handler to act with Mainstay's own rights.
    ("update patch", M, "operations", ""),
];

pub(super) const ROLES: &[Builtin] = &[
    Builtin { name: "cluster-admin", rows: &[&[("*", "*", "*", ""), ("*", "path", "*", "")]], group: Some(MASTERS) },
    Builtin { name: "mainstay:owner", rows: &[VIEW, EDIT, OWN], group: None },
    Builtin { name: "mainstay:editor", rows: &[VIEW, EDIT], group: None },
    Builtin { name: "mainstay:viewer", rows: &[VIEW], group: None },
    Builtin {
        name: "system:basic-user",
        rows: &[&[
            ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", ""),
            ("create", "authentication.k8s.io", "selfsubjectreviews", ""),
        ]],
        group: Some(AUTHENTICATED),
    },
    Builtin {
        name: "system:discovery",
        rows: &[&[(
            "get",
            "path",
            "/api /api/* /apis /apis/* /openapi /openapi/* /version /version/ /livez /readyz /healthz",
            "",
        )]],
        group: Some(AUTHENTICATED),
    },
    Builtin { name: "system:monitoring", rows: &[&[("get", "path", "/metrics /status", "")]], group: None },
];

const EVENTS: Row = ("create patch update", "core", "events", "");

/// What each controller may do. Those that must touch every kind get the kinds by name, so that no subresource and no
/// kind of a later version is among them unseen.
pub(super) fn controller_rows(name: &str) -> &'static [Row] {
    match name {
        "session-controller" => &[
            (READ, M, "sessions projects agents credentials", ""),
            ("update patch", M, "sessions", ""),
            ("get update patch", M, "sessions/status", ""),
            ("get create", M, "sessions/messages", ""),
            ("get", M, "sessions/heartbeat", ""),
            (READ, "core", "pods namespaces configmaps resourcequotas nodes", ""),
            ("create update patch delete", "core", "pods", ""),
            EVENTS,
        ],
        "project-controller" => &[
            (READ, M, "projects sessions agents credentials", ""),
            ("update patch", M, "projects", ""),
            ("get update patch", M, "projects/status", ""),
            ("update patch delete", M, "sessions", ""),
            (READ, M, "operations", ""),
            ("create update patch delete", M, "operations", ""),
            (READ, "core", "namespaces resourcequotas serviceaccounts pods", ""),
            ("create update patch delete", "core", "namespaces resourcequotas", ""),
            ("create", "core", "serviceaccounts", ""),
            (READ, RBAC, "rolebindings", ""),
            ("create update patch delete", RBAC, "rolebindings", ""),
            ("bind", RBAC, "clusterroles", "mainstay:owner mainstay:editor mainstay:viewer"),
            EVENTS,
        ],
        "namespace-controller" => &[
            ("get list watch delete deletecollection", "*", "ALL", ""),
            ("update patch", "core", "namespaces namespaces/status namespaces/finalize", ""),
            ("create", "core", "serviceaccounts", ""),
            EVENTS,
        ],
        "garbage-collector" => &[("get list watch update patch delete", "*", "ALL", ""), EVENTS],
        "token-controller" => {
            &[(READ, M, "sessions", ""), (READ, "core", "pods", ""), ("patch", "core", "pods", ""), EVENTS]
        }
        "event-controller" => &[(READ, "core", "events", ""), ("delete", "core", "events", "")],
        "node-controller" => &[
            (READ, "core", "nodes pods", ""),
            ("create update patch", "core", "nodes", ""),
            ("get update patch", "core", "nodes/status pods/status", ""),
            ("update patch", "core", "pods", ""),
            (READ, "coordination.k8s.io", "leases", ""),
            ("create delete", "coordination.k8s.io", "leases", ""),
            EVENTS,
        ],
        "api-server" => &[("list create patch delete", "coordination.k8s.io", "leases", "")],
        _ => &[],
    }
}

/// The rule of a row.
pub(super) fn rule(row: &Row) -> Rule {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (verbs, group, resources, names) = row;
    let verbs = words(verbs);
    if *group == "path" {
        return Rule { verbs, non_resource_urls: words(resources), ..Rule::default() };
    }
    let api_groups = vec![if *group == "core" { String::new() } else { (*group).to_owned() }];
    Rule { verbs, api_groups, resources: words(resources), resource_names: words(names), ..Rule::default() }
}

/// The rules of a controller; `kinds` are all groups and plurals that there are.
pub(super) fn controller_rules(name: &str, kinds: &[(&str, &str)]) -> Vec<Rule> {
    let expand = |row: &Row| {
        if row.2 != "ALL" {
            return vec![rule(row)];
        }
        let mut groups: Vec<&str> = kinds.iter().map(|(group, _)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        let of = |group: &str| {
            let mut resources: Vec<String> =
                kinds.iter().filter(|(of, _)| *of == group).map(|(_, plural)| (*plural).to_owned()).collect();
            resources.sort();
            Rule { api_groups: vec![group.to_owned()], resources, ..rule(&(row.0, "core", "", "")) }
        };
        groups.into_iter().map(of).collect()
    };
    controller_rows(name).iter().flat_map(expand).collect()
}

/// The rules of those who may do everything.
pub(super) fn everything() -> Vec<Rule> {
    vec![rule(&("*", "*", "*", "")), rule(&("*", "path", "*", ""))]
}
