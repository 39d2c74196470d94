//! One entry of a log, `TIME STREAM F|P TEXT`, and how it is shown. Pure.

use bytes::Bytes;

use super::LogOptions;

/// Shows entries as they were asked for.
pub(super) struct Render {
    since: Option<String>,
    timestamps: bool,
    left: Option<u64>,
    /// The last entry shown is a piece of a line that goes on.
    inside_line: bool,
}

impl Render {
    pub(super) fn new(options: &LogOptions) -> Self {
        Self {
            // Written as entries are, so that they compare as text.
            since: options.since.map(|since| format!("{since:.9}")),
            timestamps: options.timestamps,
            left: options.limit_bytes,
            inside_line: false,
        }
    }

    /// Nothing more may be shown.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Shows whole entries, each with its line end.
    pub(super) fn entries(&mut self, lines: &[u8]) -> Bytes {
        let mut shown = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.entry(line, &mut shown);
        }
        if let Some(left) = &mut self.left {
            shown.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= shown.len() as u64;
        }
        Bytes::from(shown)
    }

    fn entry(&mut self, line: &[u8], shown: &mut Vec<u8>) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag)) = (parts.next(), parts.next(), parts.next()) else { return };
        if self.since.as_ref().is_some_and(|since| time < since.as_bytes()) {
            return;
        }
        if self.timestamps && !self.inside_line {
            shown.extend_from_slice(time);
            shown.push(b' ');
        }
        shown.extend_from_slice(parts.next().unwrap_or_default());
        self.inside_line = tag == b"P";
        if !self.inside_line {
            shown.push(b'\n');
        }
    }
}

/// Whether an entry ends a line of the sandbox's output.
pub(super) fn ends_line(entry: &[u8]) -> bool {
    entry.splitn(4, |byte| *byte == b' ').nth(2) == Some(b"F")
}
