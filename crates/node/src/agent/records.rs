//! What the agent writes down about a Pod: `pods/POD_UID/pod.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{AgentError, While};
use super::layout::{Keep, write_record};
use crate::launch::PodRef;

/// What a later agent needs to take a Pod over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodRecord {
    /// Which Pod.
    pub(crate) pod: PodRef,
    /// The key of its workspace.
    pub(crate) workspace_key: String,
    /// The first uid of its range.
    pub(crate) uid_base: u32,
    /// The order that the token in place answers.
    pub(crate) renewal: Option<String>,
}

impl PodRecord {
    /// Puts it in place.
    pub(crate) fn write(&self, path: &Path) -> Result<(), AgentError> {
        write_record(path, self, Keep::ThisBoot).during("write the Pod's record")
    }
}
