//! What others see of a log while it is written: how far it is, where its segments are, and what of it must be kept.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::{self, Line, Lines, Part};
use crate::keys::KeyRing;
use crate::note::Checkpoint;
use crate::read::Reader;
use crate::record::Link;

/// How far a log is, in sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// The last record that was written: a crash of the broker does not take it back.
    pub written: u64,
    /// The last record that was forced to the disk: a power cut does not take it back.
    pub durable: u64,
    /// The first record that is still there.
    pub oldest: u64,
}

/// A segment that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub first: u64,
    pub bytes: u64,
}

/// A log, for readers. Cheap to clone; sees what is written from now on.
#[derive(Clone)]
pub struct View {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    id: String,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub end: End,
    /// The newest last.
    pub segments: Vec<Held>,
    /// By sink: the last record it has done with.
    pub holds: HashMap<String, u64>,
    /// So many of the oldest segments would be deleted if nobody needed them.
    pub outdated: usize,
    pub checkpoint: Option<Arc<Checkpoint>>,
}

impl View {
    pub(crate) fn new(folder: &Path, id: &str, state: State) -> Self {
        let shared = Shared { folder: folder.to_owned(), id: id.to_owned(), state: Mutex::new(state) };
        Self { shared: Arc::new(shared) }
    }

    /// A log that nobody writes, such as a copy; `folder` is the one whose name ends in `.d`. Nothing of it is checked.
    pub fn of_copy(folder: &Path) -> io::Result<Self> {
        let ring = KeyRing::read(folder).map_err(io::Error::other)?;
        let mut state = State::default();
        for first in files::segments(folder)? {
            let path = folder.join(Part::Records.name(first));
            let bytes = std::fs::metadata(&path).map_err(files::at(&path))?.len();
            state.segments.push(Held { first, bytes });
        }
        let last = state.segments.last().copied();
        state.end.oldest = state.segments.first().map_or(1, |segment| segment.first);
        if let Some(last) = last {
            let path = folder.join(Part::Records.name(last.first));
            let mut lines = Lines::new(std::fs::File::open(&path).map_err(files::at(&path))?, 0);
            state.end.written = last.first - 1;
            while let Some(Line::Whole(line)) = lines.next_line()? {
                if let Ok(link) = serde_json::from_slice::<Link>(line) {
                    state.end.written = state.end.written.max(link.seq);
                }
            }
            state.end.durable = state.end.written;
        }
        let checkpoint = newest_checkpoint(folder, &state.segments)?;
        state.checkpoint = checkpoint.map(Arc::new);
        Ok(Self::new(folder, ring.log(), state))
    }

    /// The log's name: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    pub fn end(&self) -> End {
        self.lock().end
    }

    /// Reads what comes after the record `after`.
    pub fn reader(&self, after: u64) -> Reader {
        Reader::new(self.clone(), after)
    }

    /// The newest signed checkpoint.
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.lock().checkpoint.clone()
    }

    /// Checkpoints of the segments that are there, about fewer records than `below`, the newest first, at most `most`.
    pub fn checkpoints(&self, below: u64, most: usize) -> io::Result<Vec<Checkpoint>> {
        let mut found = Vec::new();
        for first in self.firsts().into_iter().rev().filter(|first| *first < below) {
            let path = self.folder().join(Part::Checkpoints.name(first));
            let text = match std::fs::read_to_string(&path) {
                // Retention was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(files::at(&path))?,
            };
            for (_, note) in crate::segment::notes(&text).into_iter().rev() {
                let Ok((checkpoint, _)) = Checkpoint::parse(note) else { continue };
                if found.len() < most && checkpoint.size < below {
                    found.push(checkpoint);
                }
            }
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    /// Says that `sink` has done with everything up to `after`: what comes behind is not deleted.
    pub fn hold(&self, sink: &str, after: u64) {
        let mut state = self.lock();
        match state.holds.get_mut(sink) {
            Some(held) => *held = after,
            None => drop(state.holds.insert(sink.to_owned(), after)),
        }
    }

    /// Says that nothing is kept for `sink` any more.
    pub fn release(&self, sink: &str) {
        self.lock().holds.remove(sink);
    }

    /// Bytes that would have been deleted if a sink that has done with everything up to `after` did not need them.
    pub fn held_for(&self, after: u64) -> u64 {
        let state = self.lock();
        let ends = state.segments.iter().skip(1).map(|next| next.first - 1);
        let outdated = state.segments.iter().zip(ends).take(state.outdated);
        outdated.filter(|(_, last)| *last > after).map(|(segment, _)| segment.bytes).sum()
    }

    /// The public keys, read from their file.
    pub fn keys(&self) -> Result<KeyRing, crate::keys::KeyError> {
        KeyRing::read(self.folder())
    }

    /// The first record of each segment that is there.
    pub(crate) fn firsts(&self) -> Vec<u64> {
        self.lock().segments.iter().map(|segment| segment.first).collect()
    }

    /// First and last sequence number of the segment that has `sequence`; of the oldest there is, if that is gone.
    pub(crate) fn segment_of(&self, sequence: u64) -> Option<(u64, u64)> {
        let state = self.lock();
        let next = state.segments.partition_point(|segment| segment.first <= sequence);
        let segment = state.segments.get(next.saturating_sub(1))?;
        let last = state.segments.get(next.max(1)).map_or(state.end.written, |after| after.first - 1);
        Some((segment.first, last))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn newest_checkpoint(folder: &Path, segments: &[Held]) -> io::Result<Option<Checkpoint>> {
    for segment in segments.iter().rev() {
        let Ok(text) = std::fs::read_to_string(folder.join(Part::Checkpoints.name(segment.first))) else {
            continue;
        };
        let notes = crate::segment::notes(&text);
        let newest = notes.iter().rev().find_map(|(_, note)| Checkpoint::parse(note).ok());
        if let Some((checkpoint, _)) = newest {
            return Ok(Some(checkpoint));
        }
    }
    Ok(None)
}
