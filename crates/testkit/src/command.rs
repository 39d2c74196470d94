//! Commands that are run to their end, and what they left.

use std::io::Write as _;
use std::process::{Command, ExitStatus, Output, Stdio};

/// What a command left.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Done {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: ExitStatus::code(&status), out: text(stdout), err: text(stderr) }
    }
}

impl Done {
    /// What was printed by a command that went well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// What a command said on standard error that failed with this exit code.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.err
    }
}

/// Runs a command with this on its standard input until it ends.
///
/// # Panics
/// When it cannot be run, or does not take its input.
#[track_caller]
#[expect(clippy::panic, reason = "helpers of tests fail as tests do")]
pub fn finish(mut command: Command, input: &str) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = || {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    run().unwrap_or_else(|error| panic!("{error}")).into()
}
