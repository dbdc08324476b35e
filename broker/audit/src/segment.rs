//! A segment: its records, the index with the hash of each, and its checkpoints; how it is appended to, recovered after
//! a crash, and sealed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, Line, Lines, Part};
use crate::hash::Hash;
use crate::keys::KeyRing;
use crate::note::{Checkpoint, SIGNATURE};
use crate::record::Link;
use crate::tree::Range;

/// The index begins with this and the first sequence number.
const INDEX_MAGIC: [u8; 8] = *b"mqgaidx1";
pub(crate) const INDEX_HEADER: u64 = 16;
/// Place of the line in the segment, and its hash.
pub(crate) const INDEX_ENTRY: u64 = 8 + 32;

/// A sealed segment: what stays of it when its records are deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Sequence numbers of its first and last record.
    pub first: u64,
    pub last: u64,
    /// Length of the file with the records; its lines are what `nodes` are made of.
    pub bytes: u64,
    /// Hash of its last record.
    pub last_leaf: Hash,
    /// The largest perfect subtrees over its records, from left to right.
    pub nodes: Vec<Hash>,
    /// The checkpoint over everything up to its last record.
    pub note: String,
}

impl Sealed {
    pub fn range(&self) -> Option<Range> {
        let last = Some(self.last).filter(|last| *last <= files::LARGEST_SEQUENCE)?;
        Range::from_hashes(self.first.checked_sub(1)?, last, &self.nodes)
    }
}

/// What the log has before a segment.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub tree: Range,
    pub prev: Hash,
}

impl Before {
    /// Before the first record.
    pub fn nothing() -> Self {
        Self { tree: Range::empty(0), prev: Hash::ZERO }
    }

    /// Goes over a sealed segment; false if it does not follow.
    pub fn pass(&mut self, sealed: &Sealed) -> bool {
        let follows = sealed.range().is_some_and(|range| self.tree.join(&range));
        self.prev = sealed.last_leaf;
        follows
    }
}

/// What a crash left of the segment that was written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Bytes that were cut off.
    pub bytes: u64,
    /// The last whole record; what came after it is gone.
    pub after: u64,
    /// Where the bytes are kept.
    pub kept: PathBuf,
}

/// A segment that cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("{0}")]
    Damaged(String),
}

/// The segment that is written to.
pub(crate) struct Active {
    first: u64,
    records: File,
    index: File,
    checkpoints: File,
    /// Bytes of whole records: what failed half-way is cut off again.
    bytes: u64,
    index_bytes: u64,
    /// The records of this segment.
    range: Range,
    last_leaf: Hash,
    buffers: Buffers,
}

/// What is about to be written.
#[derive(Default)]
struct Buffers {
    /// What is hashed of one record: a zero byte, and the line.
    leaf: Vec<u8>,
    lines: Vec<u8>,
    entries: Vec<u8>,
}

/// How records are added to a segment that is being written.
pub(crate) struct Appending<'a> {
    segment: &'a mut Active,
    range: Range,
    prev: Hash,
}

impl Active {
    /// Begins a segment at sequence number `first`.
    pub fn create(folder: &Path, first: u64, prev: Hash) -> io::Result<Self> {
        let open = |part: Part| {
            let path = folder.join(part.name(first));
            let file = files::open_private(&path).map_err(files::at(&path))?;
            // What is there is left of an attempt that failed: a segment with records is recovered, not begun.
            file.set_len(0)?;
            Ok::<_, io::Error>(file)
        };
        let mut index = open(Part::Index)?;
        index.write_all(&index_header(first))?;
        let checkpoints = open(Part::Checkpoints)?;
        let records = open(Part::Records)?;
        files::sync_folder(folder)?;
        Ok(Self {
            first,
            records,
            index,
            checkpoints,
            bytes: 0,
            index_bytes: INDEX_HEADER,
            range: Range::empty(first - 1),
            last_leaf: prev,
            buffers: Buffers::default(),
        })
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Begins to append; nothing is written before [`Appending::write`].
    pub fn appending(&mut self) -> Appending<'_> {
        self.buffers.lines.clear();
        self.buffers.entries.clear();
        let (range, prev) = (self.range.clone(), self.last_leaf);
        Appending { segment: self, range, prev }
    }

    pub fn sync(&self) -> io::Result<()> {
        self.records.sync_data()
    }

    /// Keeps a checkpoint. It is not forced to the disk: one that is lost is one fewer, and the records stay.
    pub fn note(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let end = self.checkpoints.seek(SeekFrom::End(0))?;
        let written = write_note(&mut self.checkpoints, checkpoint);
        if written.is_err() {
            self.checkpoints.set_len(end)?;
        }
        written
    }

    /// What is to be written down when it is sealed; `note` is the checkpoint at its end.
    pub fn sealed(&self, note: &Checkpoint) -> Sealed {
        Sealed {
            first: self.first,
            last: self.range.end(),
            bytes: self.bytes,
            last_leaf: self.last_leaf,
            nodes: self.range.hashes(),
            note: note.note.clone(),
        }
    }

    /// Forces everything of it to the disk.
    pub fn sync_all(&self) -> io::Result<()> {
        self.records.sync_all()?;
        self.index.sync_all()?;
        self.checkpoints.sync_all()
    }
}

impl Appending<'_> {
    /// Hash of the record before the next.
    pub fn prev(&self) -> Hash {
        self.prev
    }

    /// Adds the record that `encode` appends to what it is given.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let Buffers { leaf: hashed, lines, entries } = &mut self.segment.buffers;
        hashed.clear();
        hashed.push(0);
        encode(hashed);
        let leaf = Hash::of(hashed);
        entries.extend_from_slice(&(self.segment.bytes + lines.len() as u64).to_be_bytes());
        lines.extend_from_slice(&hashed[1..]);
        lines.push(b'\n');
        entries.extend_from_slice(&leaf.0);
        self.range.push(leaf);
        self.prev = leaf;
    }

    /// Bytes added so far.
    pub fn bytes(&self) -> u64 {
        self.segment.buffers.lines.len() as u64
    }

    /// Writes all that was added or nothing.
    pub fn write(self) -> io::Result<()> {
        let Self { segment, range, prev } = self;
        let Buffers { lines, entries, .. } = &segment.buffers;
        let written = append_at(&mut segment.records, segment.bytes, lines)
            .and_then(|()| append_at(&mut segment.index, segment.index_bytes, entries));
        if let Err(error) = written {
            segment.records.set_len(segment.bytes)?;
            segment.index.set_len(segment.index_bytes)?;
            return Err(error);
        }
        segment.bytes += lines.len() as u64;
        segment.index_bytes += entries.len() as u64;
        segment.range = range;
        segment.last_leaf = prev;
        Ok(())
    }
}

fn append_at(file: &mut File, at: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

fn write_note(file: &mut File, checkpoint: &Checkpoint) -> io::Result<()> {
    file.write_all(format!("{}\n", checkpoint.note).as_bytes())
}

fn index_header(first: u64) -> [u8; INDEX_HEADER as usize] {
    let mut header = [0; INDEX_HEADER as usize];
    header[..8].copy_from_slice(&INDEX_MAGIC);
    header[8..].copy_from_slice(&first.to_be_bytes());
    header
}

/// An index, read in order.
pub(crate) struct Index {
    file: io::BufReader<File>,
    /// The header is what it should be.
    pub sound: bool,
}

impl Index {
    pub fn open(folder: &Path, first: u64) -> io::Result<Self> {
        let path = folder.join(Part::Index.name(first));
        let mut file = io::BufReader::new(File::open(&path).map_err(files::at(&path))?);
        let mut header = Vec::new();
        file.by_ref().take(INDEX_HEADER).read_to_end(&mut header)?;
        Ok(Self { file, sound: header == index_header(first) })
    }

    /// Moves to the entry of the record `after` places behind the first.
    pub fn skip(&mut self, records: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(INDEX_HEADER + records.saturating_mul(INDEX_ENTRY))).map(drop)
    }

    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.get_ref().metadata()?.len())
    }

    /// The next whole entry.
    pub fn entry(&mut self) -> io::Result<Option<(u64, Hash)>> {
        let mut entry = [0; INDEX_ENTRY as usize];
        match self.file.read_exact(&mut entry) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let (offset, leaf) = entry.split_at(8);
        let mut hash = [0; 32];
        hash.copy_from_slice(leaf);
        Ok(Some((u64::from_be_bytes(offset.try_into().expect("eight bytes were split off")), Hash(hash))))
    }
}

/// A text of signed notes, each followed by an empty line, as `.checkpoints` and published files are.
pub fn notes(text: &str) -> Vec<(u64, &str)> {
    let mut notes = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let end = end_of_note(rest).unwrap_or(rest.len());
        notes.push((line, &rest[..end]));
        line += rest[..end].matches('\n').count() as u64 + 1;
        rest = rest[end..].strip_prefix('\n').unwrap_or_default();
    }
    notes
}

/// Where the first note of `text` ends: after a line with a signature that an empty line follows.
fn end_of_note(text: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].find("\n\n") {
        let end = from + at;
        let line = text[..end].rfind('\n').map_or(0, |before| before + 1);
        if text[line..].starts_with(SIGNATURE) {
            return Some(end + 1);
        }
        from = end + 1;
    }
    None
}

/// What recovery found out about the log before the segment it opens.
pub(crate) struct Recovery<'a> {
    pub folder: &'a Path,
    pub log: &'a str,
    pub ring: &'a KeyRing,
    pub before: &'a Before,
}

impl Recovery<'_> {
    /// Opens the segment that was written to last. A torn end is cut off, but nothing that a checkpoint covers.
    pub fn open(&self, first: u64) -> Result<(Active, Option<Checkpoint>, Option<Torn>), SegmentError> {
        let checkpoints = files::open_private(&self.folder.join(Part::Checkpoints.name(first)))?;
        let (signed, notes_end) = self.last_checkpoint(first)?;
        checkpoints.set_len(notes_end)?;
        let path = self.folder.join(Part::Records.name(first));
        let mut records = files::open_private(&path).map_err(files::at(&path))?;
        let total = records.metadata()?.len();
        let indexed = Index::open(self.folder, first).ok().filter(|index| index.sound);
        let scan = self.scan(first, (&records, total), indexed, signed.as_ref())?;
        let after = scan.range.end();
        if let Some(signed) = &signed
            && after < signed.size
        {
            return Err(SegmentError::Damaged(format!(
                "{}: record {} is missing or is not the one that was written: the broker signed {} records",
                path.display(),
                after + 1,
                signed.size
            )));
        }
        let torn = if scan.bytes < total {
            Some(self.cut(first, &mut records, scan.bytes, total, after)?)
        } else {
            None
        };
        let index_path = self.folder.join(Part::Index.name(first));
        let mut index = files::open_private(&index_path)?;
        let index_bytes = scan.index.len() as u64;
        // The index follows from the records: it is written anew instead of being believed.
        index.set_len(0)?;
        index.write_all(&scan.index)?;
        let active = Active {
            first,
            records,
            index,
            checkpoints,
            bytes: scan.bytes,
            index_bytes,
            range: scan.range,
            last_leaf: scan.prev,
            buffers: Buffers::default(),
        };
        active.sync_all()?;
        Ok((active, signed, torn))
    }

    /// The newest whole checkpoint of the segment, and where it ends. One that nobody signed is damage.
    fn last_checkpoint(&self, first: u64) -> Result<(Option<Checkpoint>, u64), SegmentError> {
        let path = self.folder.join(Part::Checkpoints.name(first));
        let damaged = |what: String| SegmentError::Damaged(format!("{}{what}", path.display()));
        let bytes = std::fs::read(&path).map_err(files::at(&path))?;
        // A crash can tear a character, too, but only the last.
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => return Err(damaged(format!(", byte {}: no text", error.valid_up_to()))),
        };
        let notes = notes(text);
        let mut end = 0;
        let mut last = None;
        for (at, (line, note)) in notes.iter().enumerate() {
            let whole = end + note.len() + 1;
            match Checkpoint::parse(note) {
                Ok(read) if whole <= text.len() => last = Some((*line, read)),
                Ok(_) => break,
                Err(_) if at + 1 == notes.len() => break,
                Err(error) => return Err(damaged(format!(", line {line}: {error}"))),
            }
            end = whole;
        }
        let Some((line, (checkpoint, note))) = last else { return Ok((None, 0)) };
        self.ring
            .verify(&note, checkpoint.size)
            .map_err(|error| damaged(format!(", line {line}: {error}")))?;
        Ok((Some(checkpoint), end as u64))
    }

    fn scan(
        &self,
        first: u64,
        (records, total): (&File, u64),
        mut index: Option<Index>,
        signed: Option<&Checkpoint>,
    ) -> Result<Scan, SegmentError> {
        let mut scan = Scan {
            bytes: 0,
            range: Range::empty(first - 1),
            prev: self.before.prev,
            index: index_header(first).to_vec(),
        };
        let mut tree = self.before.tree.clone();
        let mut lines = Lines::new(records, 0);
        while let Some(line) = lines.next_line()? {
            let Line::Whole(line) = line else { break };
            let sequence = tree.end() + 1;
            let follows = serde_json::from_slice::<Link>(line).is_ok_and(|link| {
                link.seq == sequence && link.prev == scan.prev.half() && link.log == self.log
            });
            let leaf = Hash::leaf(line);
            let entry = index.as_mut().map(Index::entry).transpose()?.flatten();
            // The hash in the index is the checksum of the last record: no successor tells its hash yet.
            let is_sound = entry.is_none_or(|(_, indexed)| indexed == leaf);
            let line_start = scan.bytes;
            let end = line_start + line.len() as u64 + 1;
            if !follows || (end == total && !is_sound) {
                break;
            }
            scan.bytes = end;
            scan.index.extend_from_slice(&line_start.to_be_bytes());
            scan.index.extend_from_slice(&leaf.0);
            scan.range.push(leaf);
            scan.prev = leaf;
            tree.push(leaf);
            if let Some(signed) = signed.filter(|signed| signed.size == tree.end())
                && signed.root != tree.root()
            {
                return Err(SegmentError::Damaged(format!(
                    "{}: the records up to {} are not those that the broker signed",
                    self.folder.join(Part::Records.name(first)).display(),
                    signed.size
                )));
            }
        }
        Ok(scan)
    }

    /// Cuts the file of records after `length` bytes, and keeps what is cut off beside it.
    fn cut(&self, first: u64, records: &mut File, length: u64, total: u64, after: u64) -> io::Result<Torn> {
        let kept = files::torn_path(self.folder, first, after);
        let mut copy = files::open_private(&kept)?;
        copy.set_len(0)?;
        records.seek(SeekFrom::Start(length))?;
        io::copy(records, &mut copy)?;
        copy.sync_all()?;
        records.set_len(length)?;
        records.sync_all()?;
        files::sync_folder(self.folder)?;
        Ok(Torn { bytes: total - length, after, kept })
    }
}

/// What stands in a file of records, up to the last that is whole.
struct Scan {
    bytes: u64,
    range: Range,
    prev: Hash,
    index: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_told_apart_with_the_lines_they_begin_in() {
        assert_eq!(notes(""), []);
        let text = "a\nb\n\n\u{2014} x y\n\nc\n\n\u{2014} x z\n\u{2014} v w\n\nd\n";
        assert_eq!(
            notes(text),
            [(1, "a\nb\n\n\u{2014} x y\n"), (6, "c\n\n\u{2014} x z\n\u{2014} v w\n"), (11, "d\n")]
        );
    }
}
