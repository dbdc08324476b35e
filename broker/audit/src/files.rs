//! The files of a log: their names, how they are opened, and how lines are taken from them.
//!
//! `[audit] path` is a symbolic link to the current segment. All else is in the folder that has the same name and `.d`:
//! for each segment its records, index and checkpoints, named by the first sequence number; the list of sealed
//! segments; the public keys.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

/// The list of sealed segments.
pub const SEGMENTS: &str = "segments.jsonl";
/// The public keys that sign the log.
pub const KEYS: &str = "keys.jsonl";
/// Locked by the process that writes.
pub const LOCK: &str = "lock";
/// Where readers keep how far they are.
pub const CURSORS: &str = "cursors";

/// A record is cut short long before this; a longer line is damage.
pub const LONGEST_LINE: usize = 4 << 20;

/// The folder of the log at `path`.
pub fn folder_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".d");
    PathBuf::from(name)
}

/// What is kept of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Records,
    Index,
    Checkpoints,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Records, Self::Index, Self::Checkpoints];

    fn extension(self) -> &'static str {
        match self {
            Self::Records => "jsonl",
            Self::Index => "idx",
            Self::Checkpoints => "checkpoints",
        }
    }

    /// The file name for the segment that begins with `first`.
    pub fn name(self, first: u64) -> String {
        format!("{first:020}.{}", self.extension())
    }
}

/// The largest sequence number that there can be: a larger one is no number in JSON that everybody reads alike.
pub const LARGEST_SEQUENCE: u64 = (1 << 53) - 1;

/// First sequence numbers of the segments of which `folder` has records, in order.
pub fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        let number = number.filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok());
        firsts.extend(number.filter(|first| (1..=LARGEST_SEQUENCE).contains(first)));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// What a crash tore off the segment that begins with `first`, behind the record `after`, is kept here.
pub fn torn_path(folder: &Path, first: u64, after: u64) -> PathBuf {
    folder.join(format!("{first:020}.torn-{after}"))
}

/// All that crashes tore off that segment.
pub fn torn(folder: &Path, first: u64) -> io::Result<Vec<PathBuf>> {
    let start = format!("{first:020}.torn-");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&start)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Opens for reading and writing, made with mode 0600 if it is not there.
pub fn open_private(path: &Path) -> io::Result<File> {
    options().create(true).truncate(false).open(path)
}

/// Makes a file that must not be there yet, with mode 0600.
pub fn create_private(path: &Path) -> io::Result<File> {
    options().create_new(true).open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

/// Makes `folder`, and those above it that are missing, for nobody else to look into.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(folder)
}

/// Makes names in `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Puts `bytes` at `path` in one step: whoever looks sees all of the old or all of the new, also after a power cut.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = OsString::from(path);
    beside.push(".next");
    let beside = PathBuf::from(beside);
    let mut file = open_private(&beside)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_folder(parent(path))
}

/// The folder that `path` is in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Adds an error's path to it.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Takes lines from a file without ever holding more than one.
pub struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    /// Where the next line begins.
    offset: u64,
    number: u64,
}

/// A line, without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Whole(&'a [u8]),
    /// Without a line feed at its end: the last of the file, or one longer than [`LONGEST_LINE`].
    Torn(&'a [u8]),
}

impl<R: Read> Lines<R> {
    pub fn new(reader: R, offset: u64) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, reader), line: Vec::new(), offset, number: 0 }
    }

    /// Where the next line begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of the line taken last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let read = (&mut self.reader).take(LONGEST_LINE as u64).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.offset += read as u64;
        self.number += 1;
        Ok(Some(match self.line.strip_suffix(b"\n") {
            Some(line) => Line::Whole(line),
            None => Line::Torn(&self.line),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_or_torn() {
        let mut lines = Lines::new(&b"a\n\nbc"[..], 0);
        assert_eq!(lines.next_line().unwrap(), Some(Line::Whole(b"a")));
        assert_eq!(lines.next_line().unwrap(), Some(Line::Whole(b"")));
        assert_eq!((lines.offset(), lines.number()), (3, 2));
        assert_eq!(lines.next_line().unwrap(), Some(Line::Torn(b"bc")));
        assert_eq!(lines.next_line().unwrap(), None);
        let long = vec![b'x'; LONGEST_LINE + 1];
        let mut lines = Lines::new(&long[..], 0);
        assert!(matches!(lines.next_line().unwrap(), Some(Line::Torn(line)) if line.len() == LONGEST_LINE));
    }

    #[test]
    fn segments_are_found_by_name_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000000012.jsonl",
            "00000000000000000001.jsonl",
            "segments.jsonl",
            "1.jsonl",
            "00000000000000000001.idx",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(segments(folder.path()).unwrap(), [1, 12]);
    }

    #[test]
    fn a_file_is_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"longer").unwrap();
        replace(&path, b"one").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
