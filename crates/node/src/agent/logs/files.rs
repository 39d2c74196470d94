//! The files of a log, from the oldest to the newest: `0.log` is written to, `1.log` is the one before it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::entry::ends_line;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Never more files than this, whatever stands in the directory.
const MOST_FILES: usize = 1024;

/// Reads whole entries across files and their rotation.
pub(super) struct Files {
    dir: PathBuf,
    /// Those still to be read; the first is being read.
    open: VecDeque<Open>,
    /// The beginning of an entry whose end has not been read.
    rest: Vec<u8>,
}

struct Open {
    file: File,
    inode: u64,
}

impl Files {
    /// From the first entry.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let open = list(&dir)?.into();
        Ok(Self { dir, open, rest: Vec::new() })
    }

    /// From the last `lines` lines of the sandbox's output.
    pub(super) fn open_at_tail(dir: PathBuf, lines: u64) -> io::Result<Self> {
        let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
        let mut files = Self::open(dir)?;
        // Where each of the last lines begins: file and offset.
        let mut starts: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut at, mut offset, mut begins_line) = (None, 0, true);
        while let Some(entries) = files.lines()? {
            let inode = files.open.front().map_or(0, |open| open.inode);
            if at != Some(inode) {
                (at, offset) = (Some(inode), 0);
            }
            for entry in entries.split_inclusive(|byte| *byte == b'\n') {
                if begins_line {
                    starts.push_back((inode, offset));
                    if starts.len() > wanted {
                        starts.pop_front();
                    }
                }
                begins_line = ends_line(entry);
                offset += entry.len() as u64;
            }
        }
        match starts.front() {
            Some((inode, offset)) => files.seek(*inode, *offset),
            None => Ok(files),
        }
    }

    /// The same files from this place on.
    fn seek(mut self, inode: u64, offset: u64) -> io::Result<Self> {
        let mut open: VecDeque<Open> = list(&self.dir)?.into();
        while open.front().is_some_and(|first| first.inode != inode) {
            open.pop_front();
        }
        if let Some(first) = open.front_mut() {
            first.file.seek(SeekFrom::Start(offset))?;
            (self.open, self.rest) = (open, Vec::new());
        }
        Ok(self)
    }

    /// The next whole entries, each with its line end; `None` at the present end.
    pub(super) fn lines(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(current) = self.open.front_mut() else {
                if !self.find_newer(None)? {
                    return Ok(None);
                }
                continue;
            };
            let known = self.rest.len();
            self.rest.resize(known + CHUNK, 0);
            let read = current.file.read(&mut self.rest[known..]);
            self.rest.truncate(known + read.as_ref().map_or(0, |count| *count));
            if read? > 0 {
                if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                    let rest = self.rest.split_off(end + 1);
                    return Ok(Some(std::mem::replace(&mut self.rest, rest)));
                }
                continue;
            }
            if !self.move_on()? {
                return Ok(None);
            }
        }
    }

    /// At the end of a file: goes on to the next, if this one is no longer written to.
    fn move_on(&mut self) -> io::Result<bool> {
        if self.open.len() == 1 {
            let inode = self.open.front().map(|current| current.inode);
            // What was written between our last read and the rotation is still to be read, before the newer files.
            return self.find_newer(inode);
        }
        self.open.pop_front();
        self.rest.clear();
        Ok(true)
    }

    /// Adds files newer than `inode`; whether there are any.
    fn find_newer(&mut self, inode: Option<u64>) -> io::Result<bool> {
        let listed = list(&self.dir)?;
        let skip = inode.and_then(|inode| listed.iter().position(|open| open.inode == inode)).map_or(0, |at| at + 1);
        let known = self.open.len();
        self.open.extend(listed.into_iter().skip(skip));
        Ok(self.open.len() > known)
    }
}

/// Opens all files, oldest first. The newest are opened first, so that one that is rotated meanwhile is seen twice
/// rather than not at all.
fn list(dir: &Path) -> io::Result<Vec<Open>> {
    let mut found: Vec<Open> = Vec::new();
    let mut missing = 0;
    for number in 0..MOST_FILES {
        let file = match File::open(dir.join(format!("{number}.log"))) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                missing += 1;
                // One name may be missing while the writer moves the files along.
                if missing > 1 {
                    break;
                }
                continue;
            }
            file => file?,
        };
        let inode = file.metadata()?.ino();
        if found.iter().all(|open| open.inode != inode) {
            found.push(Open { file, inode });
        }
    }
    found.reverse();
    Ok(found)
}
