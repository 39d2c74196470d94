//! The sandbox's log: what it wrote to stdout and stderr, rotated by size.
//!
//! Lines are in the container runtime interface's form, `TIME STREAM F|P TEXT`; `P` marks a piece of a line that goes
//! on in the next entry of its stream. `0.log` is written to, `1.log` is the one before it. When the disk refuses,
//! entries are lost and their number is noted later; the sandbox goes on.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mainstay_runtime::Clock;

use crate::launch::LogLimits;

/// A longer line is written in pieces.
const PIECE: usize = 16 * 1024;

/// Writes one sandbox's log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: PathBuf,
    limits: LogLimits,
    clock: Clock,
    file: Option<File>,
    written: u64,
    lost: u64,
    streams: [Vec<u8>; 2],
}

const NAMES: [&str; 2] = ["stdout", "stderr"];

impl LogWriter {
    /// A writer into `dir`, which exists.
    pub(crate) fn new(dir: &Path, limits: LogLimits, clock: Clock) -> Self {
        let limits = LogLimits { file_bytes: limits.file_bytes.max(4096), files: limits.files.max(1) };
        Self { dir: dir.to_owned(), limits, clock, file: None, written: 0, lost: 0, streams: Default::default() }
    }

    /// Takes what stream 0 (stdout) or 1 (stderr) wrote.
    pub(crate) fn write(&mut self, stream: usize, bytes: &[u8]) {
        let mut pending = std::mem::take(&mut self.streams[stream]);
        pending.extend_from_slice(bytes);
        let mut rest = pending.as_slice();
        loop {
            let end = rest.iter().take(PIECE).position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    self.entry(stream, 'F', &rest[..end]);
                    rest = &rest[end + 1..];
                }
                None if rest.len() >= PIECE => {
                    self.entry(stream, 'P', &rest[..PIECE]);
                    rest = &rest[PIECE..];
                }
                None => break,
            }
        }
        self.streams[stream] = rest.to_vec();
    }

    /// Writes what has no line end yet.
    pub(crate) fn finish(&mut self) {
        for stream in 0..NAMES.len() {
            let rest = std::mem::take(&mut self.streams[stream]);
            if !rest.is_empty() {
                self.entry(stream, 'F', &rest);
            }
        }
    }

    fn entry(&mut self, stream: usize, tag: char, text: &[u8]) {
        let mut head = String::with_capacity(64);
        // Nanoseconds with all nine digits, so that entries sort as text.
        write!(head, "{:.9} {} {tag} ", self.clock.now(), NAMES[stream]).ok();
        let entry = [head.as_bytes(), text, b"\n"].concat();
        let note = match self.lost {
            0 => Ok(()),
            lost => {
                self.append(format!("{head}[{lost} log entries before this one could not be written]\n").as_bytes())
            }
        };
        if note.and_then(|()| self.append(&entry)).is_ok() {
            self.lost = 0;
        } else {
            self.lost += 1;
            self.file = None;
        }
    }

    fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        if self.written + entry.len() as u64 > self.limits.file_bytes && self.written > 0 {
            self.rotate()?;
        }
        if self.file.is_none() {
            let path = self.path(0);
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            self.written = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(entry)?;
            self.written += entry.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.written = 0;
        for number in (0..self.limits.files).rev() {
            absent_is_fine(std::fs::rename(self.path(number), self.path(number + 1)))?;
        }
        // The first rotations have pushed nothing out yet.
        absent_is_fine(std::fs::remove_file(self.path(self.limits.files)))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number}.log"))
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(dir: &Path, limits: LogLimits) -> LogWriter {
        LogWriter::new(dir, limits, Clock::system())
    }

    #[test]
    fn lines_carry_time_and_stream_and_unfinished_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), LogLimits { file_bytes: 1 << 20, files: 2 });
        log.write(0, b"one\ntw");
        log.write(1, b"oops\n");
        log.write(0, b"o\nlast");
        log.finish();
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        let entries: Vec<_> = lines.iter().map(|line| line.1).collect();
        assert_eq!(entries, ["stdout F one", "stderr F oops", "stdout F two", "stdout F last"]);
        assert_eq!(lines[0].0.len(), "2026-01-01T00:00:00.000000000Z".len());
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), LogLimits { file_bytes: 1 << 20, files: 2 });
        log.write(0, &vec![b'x'; PIECE + 3]);
        log.write(0, b"\n");
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let tags: Vec<_> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
    }

    #[test]
    fn the_log_never_holds_more_than_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), LogLimits { file_bytes: 4096, files: 3 });
        for number in 0..2000 {
            log.write(0, format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "1.log", "2.log"]);
        let newest = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        assert!(newest.ends_with("line 1999\n"));
        assert_eq!(log.lost, 0);
    }

    #[test]
    fn no_rotation_loses_a_line_not_even_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), LogLimits { file_bytes: 4096, files: 4 });
        let texts: Vec<_> = (0..200).map(|number| format!("line {number:040}")).collect();
        for text in &texts {
            log.write(0, format!("{text}\n").as_bytes());
        }
        assert!(dir.path().join("3.log").exists(), "it was rotated");
        let read = |number: u32| std::fs::read_to_string(dir.path().join(format!("{number}.log"))).unwrap();
        let whole = [3, 2, 1, 0].map(read).concat();
        let kept: Vec<_> = whole.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        let first = kept.first().and_then(|text| texts.iter().position(|known| known == text)).unwrap();
        assert_eq!(kept, texts[first..], "without a gap");
    }
}
