//! A backend to drill with: a process of its own that looks like a small cloud, and is sick on demand.
//!
//! It speaks HTTP and JSON on a loopback port and keeps its log of effects, synced before each answer, in a directory: it
//! can be killed and started again like anything else. The state is what the log says.
//!
//! | request | what |
//! |---|---|
//! | `POST /v1/BACKEND/VERB/NAME` | an effect; [`verb::VERBS`]. Headers `mainstay-operation`, `-step`, `-fence`; the body is the specification |
//! | `GET /v1/BACKEND/effect` | what became of the operation and step in the headers; 404 when nothing |
//! | `GET /v1/BACKEND/resources[/KIND/NAME]` | all that is there, or one |
//! | `GET /v1/BACKEND/ping` | how it is |
//! | `GET /judge/effects`, `/judge/inventory`, `/judge/arrivals`, `/judge/refusals` | for judges; never sick |
//! | `POST /control/drill`, `POST /control/calm`, `POST /control/guards` | [`Drill`], nothing, [`Guards`] |
//!
//! What it guarantees, each by a guard that can be switched off, so that a harness can be seen to notice:
//! - **fence**: a token older than the newest that it has seen for the operation is refused (409 `OldToken`).
//! - **duplicate**: a repeated operation and step is answered with the first result, without a second effect.
//! - **undone**: once step `undo/X` was carried out, an X of the same or an older token is refused (409 `Undone`): it is a
//!   straggler. One of a newer token begins a new *round* of X, and of `undo/X`.
//!
//! A removal that is step `undo/X` takes back what X made, and nothing else that has the name. A task whose command is
//! `["looks", "N"]` is seen `running` the first N times that somebody looks what became of it.

mod body;
mod drill;
mod handle;
mod ledger;
mod serve;
pub mod verb;

pub use drill::{Die, Drill, Fault, Lie, On};
pub use handle::{DrillBackend, doubled};
pub use ledger::{Effect, Guards, Refusal, Resource};
pub use serve::run;
