//! `noop`: an operation without steps, which succeeds as soon as it is begun. For measuring the way there, and for trying
//! out the queue.

use mainstay_runtime::Failure;
use mainstay_runtime::operation::{Handler, Step, Work};

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noop;

impl Handler for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn steps(&self, _: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        Ok(Vec::new())
    }
}
