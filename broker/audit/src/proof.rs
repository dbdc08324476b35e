//! Proofs that leave the house: that a record is in the log that a checkpoint is about, and that one checkpoint's log
//! goes on from another's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files::{Line, Lines, SEGMENTS};
use crate::hash::Hash;
use crate::keys::KeyRing;
use crate::note::{Checkpoint, NoteError};
use crate::read::ReadError;
use crate::record::Link;
use crate::segment::{Index, Sealed};
use crate::tree::{self, Leaves, Range};
use crate::view::View;

/// What `format` of an inclusion proof says.
pub const FORMAT: &str = "mqgate-audit-proof-v1";

/// That a record is in the log. Everything in it can be checked with the public key of the log alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    pub format: String,
    /// The record as it stands in the log.
    pub record: String,
    /// Its place in the tree: its sequence number less one.
    pub leaf_index: u64,
    /// Records under the checkpoint.
    pub tree_size: u64,
    /// The hashes from the record to the root.
    #[schemars(with = "Vec<String>")]
    pub path: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

/// That the log of one checkpoint is the beginning of that of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consistency {
    pub first_size: u64,
    pub second_size: u64,
    #[schemars(with = "Vec<String>")]
    pub path: Vec<Hash>,
}

/// There is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("there is no record {sequence}: the log has {oldest} to {newest}")]
    NoRecord { sequence: u64, oldest: u64, newest: u64 },
    #[error("no checkpoint is about record {0} yet; one is signed some seconds after it came")]
    NoCheckpoint(u64),
    #[error("the log has no tree of {0} records")]
    NoTree(u64),
    #[error("the hashes of the records {0} to {1} are deleted")]
    Deleted(u64, u64),
    #[error("the log does not lead to its own checkpoint of {0} records; `mqgate audit verify` says more")]
    Damaged(u64),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<std::io::Error> for ProofError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error.into())
    }
}

/// A proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the format is not {FORMAT}")]
    Format,
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    #[error("the checkpoint is of another log than its key")]
    Origin,
    #[error("the proof is about a tree of another size than the checkpoint")]
    Size,
    #[error("the record does not stand at this place")]
    Place,
    #[error("the hashes do not lead from the record to the root of the checkpoint")]
    Path,
}

/// Proves that the record `sequence` is in the log, under `checkpoint`.
pub fn prove(view: &View, sequence: u64, checkpoint: &Checkpoint) -> Result<Proof, ProofError> {
    let end = view.end();
    let missing = ProofError::NoRecord { sequence, oldest: end.oldest, newest: end.written };
    if sequence == 0 || sequence < end.oldest || sequence > end.written {
        return Err(missing);
    }
    if sequence > checkpoint.size {
        return Err(ProofError::NoCheckpoint(sequence));
    }
    if checkpoint.size > end.written {
        return Err(ProofError::NoTree(checkpoint.size));
    }
    let batch = view.reader(sequence - 1).batch(1, usize::MAX)?;
    let Some(record) = batch.records.into_iter().find(|record| record.sequence == sequence) else {
        return Err(missing);
    };
    let leaves = LogLeaves::open(view)?;
    let path = tree::inclusion(&leaves, sequence - 1, checkpoint.size)?;
    let leaf = Hash::leaf(&record.line);
    let root = tree::root_from_inclusion(sequence - 1, checkpoint.size, leaf, &path);
    let Ok(record) = String::from_utf8(record.line.into_vec()) else {
        return Err(ProofError::Damaged(checkpoint.size));
    };
    if root != Some(checkpoint.root) {
        return Err(ProofError::Damaged(checkpoint.size));
    }
    Ok(Proof {
        format: FORMAT.into(),
        record,
        leaf_index: sequence - 1,
        tree_size: checkpoint.size,
        path,
        checkpoint: checkpoint.note.clone(),
    })
}

impl Proof {
    /// Checks everything: the signature, the tree, the record's place.
    pub fn check(&self, keys: &KeyRing) -> Result<(), Refused> {
        if self.format != FORMAT {
            return Err(Refused::Format);
        }
        let (checkpoint, note) = Checkpoint::parse(&self.checkpoint)?;
        keys.verify(&note, checkpoint.size)?;
        if checkpoint.origin != keys.current().name() {
            return Err(Refused::Origin);
        }
        if checkpoint.size != self.tree_size {
            return Err(Refused::Size);
        }
        let link: Option<Link> = serde_json::from_str(&self.record).ok();
        if link.is_none_or(|link| Some(link.seq) != self.leaf_index.checked_add(1) || link.log != keys.log())
        {
            return Err(Refused::Place);
        }
        let leaf = Hash::leaf(self.record.as_bytes());
        let root = tree::root_from_inclusion(self.leaf_index, self.tree_size, leaf, &self.path);
        if root == Some(checkpoint.root) { Ok(()) } else { Err(Refused::Path) }
    }
}

/// Proves that the log of `first` records is the beginning of that of `second` records.
pub fn consistency(view: &View, first: u64, second: u64) -> Result<Consistency, ProofError> {
    let end = view.end();
    if first > second || second > end.written {
        return Err(ProofError::NoTree(first.max(second)));
    }
    let leaves = LogLeaves::open(view)?;
    Ok(Consistency {
        first_size: first,
        second_size: second,
        path: tree::consistency(&leaves, first, second)?,
    })
}

/// The hashes of a log's records, from its indexes and, where whole segments will do, from the list of sealed ones.
struct LogLeaves<'a> {
    view: &'a View,
    sealed: Vec<(Sealed, Range)>,
}

impl<'a> LogLeaves<'a> {
    fn open(view: &'a View) -> Result<Self, ProofError> {
        let path = view.folder().join(SEGMENTS);
        let mut sealed: Vec<(Sealed, Range)> = Vec::new();
        let mut lines = Lines::new(std::fs::File::open(&path).map_err(crate::files::at(&path))?, 0);
        while let Some(Line::Whole(line)) = lines.next_line()? {
            let segment: Sealed = serde_json::from_slice(line).map_err(std::io::Error::other)?;
            let expected = sealed.last().map_or(1, |(before, _)| before.last + 1);
            let range = segment.range().filter(|_| segment.first == expected);
            let range = range.ok_or(ProofError::Damaged(segment.last))?;
            sealed.push((segment, range));
        }
        Ok(Self { view, sealed })
    }

    /// The leaves `begin .. end`, which are in the segment that begins with record `first`.
    fn add_from_index(&self, first: u64, begin: u64, end: u64, into: &mut Range) -> Result<(), ProofError> {
        let mut index = match Index::open(self.view.folder(), first) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ProofError::Deleted(begin + 1, end));
            }
            index => index?,
        };
        index.skip(begin + 1 - first)?;
        for leaf in begin..end {
            let (_, hash) = index.entry()?.ok_or(ProofError::Damaged(leaf + 1))?;
            into.push(hash);
        }
        Ok(())
    }
}

impl Leaves for LogLeaves<'_> {
    type Error = ProofError;

    fn range(&self, begin: u64, end: u64) -> Result<Range, ProofError> {
        let mut range = Range::empty(begin);
        let from = self.sealed.partition_point(|(segment, _)| segment.last <= begin);
        for (segment, whole) in &self.sealed[from..] {
            let (low, high) = (begin.max(segment.first - 1), end.min(segment.last));
            if low >= high {
                break;
            }
            let overlaps = |node: &&tree::Node| {
                let (first, last) = node.span();
                first < high && last > low
            };
            let is_inside = |node: &tree::Node| {
                let (first, last) = node.span();
                first >= low && last <= high
            };
            if whole.nodes().iter().filter(overlaps).all(is_inside) {
                for node in whole.nodes().iter().filter(overlaps) {
                    range.add(*node);
                }
            } else {
                self.add_from_index(segment.first, low, high, &mut range)?;
            }
        }
        if range.end() < end {
            let first = self.sealed.last().map_or(1, |(last, _)| last.last + 1);
            self.add_from_index(first, range.end(), end, &mut range)?;
        }
        Ok(range)
    }
}
