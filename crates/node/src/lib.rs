//! The node agent: realises Pods as sandboxed processes on this machine.
//!
//! Three processes share this crate. The *node agent* runs inside `mainstay serve` and watches Pods. One *shim* per
//! sandbox (`mainstay __shim`) outlives it, and alone waits for the sandbox and records its end. The *supervisor* is
//! pid 1 inside the sandbox: it runs the agent process and carries its messages. Start with [`launch`], the words
//! they exchange.

pub mod agent;
pub mod cgroup;
pub mod launch;
pub mod sandbox;
pub mod shim;
pub mod supervisor;
