//! What came of a command, as the Status that clients of Kubernetes read it from.

use mainstay_api::exec::ExecEnd;
use serde_json::json;

/// What a shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

/// The Status of this end. kubectl exits with the code that a `NonZeroExitCode` names.
pub(super) fn status(end: &ExecEnd) -> String {
    let (code, signal) = (end.code, end.signal);
    let status = match (&end.failure, code.or(signal.map(|signal| SIGNALLED + signal))) {
        (Some(why), _) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "message": why, "code": 500,
            "details": { "causes": [{ "message": why }] },
        }),
        (None, Some(0)) => json!({ "metadata": {}, "status": "Success" }),
        (None, code) => {
            // As a shell's `$?` has it.
            let code = code.unwrap_or(1) & 0xff;
            json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "code": 500,
                "message": format!("command terminated with non-zero exit code: {code}"),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            })
        }
    };
    status.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_end_has_its_status() {
        let read = |end: ExecEnd| serde_json::from_str::<Value>(&status(&end)).unwrap();
        let exited = |code| ExecEnd { code: Some(code), ..ExecEnd::default() };
        assert_eq!(read(exited(0)), json!({ "metadata": {}, "status": "Success" }));
        for (end, code) in [(exited(7), "7"), (ExecEnd { signal: Some(9), ..ExecEnd::default() }, "137")] {
            let status = read(end);
            assert_eq!((&status["status"], &status["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
            assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": code }]));
        }
        let failed = read(ExecEnd::failed("no such program"));
        assert_eq!((&failed["reason"], &failed["message"]), (&json!("InternalError"), &json!("no such program")));
    }
}
