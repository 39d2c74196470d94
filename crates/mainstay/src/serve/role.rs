//! What a process does: its role, and the parts that belong to it, in the order in which they are started.
//!
//! A part is started when all that it needs has been. On stop all parts are told at once: what is ready says that it is not
//! any more, nothing is accepted, claimed or begun, and what is under way is finished, within the grace period. Leases are
//! handed back by whoever holds them, as the last thing that they do. Then what has to be closed is, in reverse order.

use anyhow::Result;
use futures::future::BoxFuture;

use super::machine;
use super::process::{Process, server};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Role {
    /// Everything, with a node agent of its own
    #[default]
    All,
    /// The API
    Api,
    /// Controllers, duties and operations, over a store that is shared with those that serve the API
    Worker,
    /// A node agent for a server elsewhere
    Node,
}

/// A part of a process.
pub(super) struct Part {
    /// Its name.
    pub(super) name: &'static str,
    /// To whom it belongs.
    pub(super) roles: &'static [Role],
    /// The parts that are started before it, where they belong to the same role.
    pub(super) needs: &'static [&'static str],
    /// Starts it.
    pub(super) start: for<'a> fn(&'a mut Process) -> BoxFuture<'a, Result<()>>,
    /// It is started while those before it are at work already; it may wait for room on the disk.
    pub(super) late: bool,
    /// Closes it, when no task is left.
    pub(super) close: Option<for<'a> fn(&'a Process) -> BoxFuture<'a, ()>>,
}

const SERVERS: &[Role] = &[Role::All, Role::Api, Role::Worker];

/// All parts of all roles.
pub(super) const PARTS: &[Part] = &[
    Part {
        name: "store",
        roles: SERVERS,
        needs: &[],
        start: |process| Box::pin(server::store(process)),
        late: false,
        close: Some(|process| Box::pin(server::close_store(process))),
    },
    Part {
        name: "listener",
        roles: SERVERS,
        needs: &["store"],
        start: |process| Box::pin(server::listener(process)),
        late: false,
        close: None,
    },
    Part {
        name: "records",
        roles: &[Role::All, Role::Api],
        needs: &["listener"],
        start: |process| Box::pin(server::records(process)),
        late: true,
        close: Some(|process| Box::pin(server::close_records(process))),
    },
    Part {
        name: "controllers",
        roles: &[Role::All, Role::Worker],
        needs: &["records", "listener"],
        start: |process| Box::pin(server::controllers(process)),
        late: true,
        close: None,
    },
    Part {
        name: "operations",
        roles: &[Role::All, Role::Worker],
        needs: &["controllers"],
        start: |process| Box::pin(server::operations(process)),
        late: true,
        close: None,
    },
    Part {
        name: "node-agent",
        roles: &[Role::All],
        needs: &["records"],
        start: |process| Box::pin(server::node_agent(process)),
        late: true,
        close: None,
    },
    Part {
        name: "identity",
        roles: &[Role::Node],
        needs: &[],
        start: |process| Box::pin(machine::identity(process)),
        late: false,
        close: None,
    },
    Part {
        name: "health",
        roles: &[Role::Node],
        needs: &["identity"],
        start: |process| Box::pin(machine::health(process)),
        late: false,
        close: None,
    },
    Part {
        name: "agent",
        roles: &[Role::Node],
        needs: &["identity", "health"],
        start: |process| Box::pin(machine::agent(process)),
        late: true,
        close: None,
    },
    Part {
        name: "link",
        roles: &[Role::Node],
        needs: &["agent"],
        start: |process| Box::pin(machine::link(process)),
        late: true,
        close: None,
    },
];

impl Role {
    /// The parts that belong to it, in order.
    pub(super) fn parts(self) -> impl DoubleEndedIterator<Item = &'static Part> {
        PARTS.iter().filter(move |part| part.roles.contains(&self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_needs_comes_before_it_in_each_of_its_roles() {
        for (at, part) in PARTS.iter().enumerate() {
            for need in part.needs {
                let found = PARTS[..at].iter().find(|other| other.name == *need);
                let found =
                    found.unwrap_or_else(|| panic!("{} needs {need}, which does not come before it", part.name));
                assert!(part.roles.iter().any(|role| found.roles.contains(role)), "{} needs {need}", part.name);
                assert!(part.late || !found.late, "{} needs {need}, which is started later", part.name);
            }
        }
    }

    #[test]
    fn each_role_has_its_parts() {
        let names = |role: Role| role.parts().map(|part| part.name).collect::<Vec<_>>();
        assert_eq!(names(Role::All), ["store", "listener", "records", "controllers", "operations", "node-agent"]);
        assert_eq!(names(Role::Api), ["store", "listener", "records"]);
        assert_eq!(names(Role::Worker), ["store", "listener", "controllers", "operations"]);
        assert_eq!(names(Role::Node), ["identity", "health", "agent", "link"]);
    }
}
