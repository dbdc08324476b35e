//! Reading records in order, in batches of bounded size, while they are written or from a copy.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};

use crate::files::{self, Line, Lines, Part};
use crate::record::Stored;
use crate::segment::Index;
use crate::view::View;

/// The log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("{file}: record {sequence} is not where it should be; `mqgate audit verify` says more")]
    Damaged { file: String, sequence: u64 },
}

/// Some records, in order and without gaps.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records before these that retention deleted before they were read.
    pub missed: u64,
    pub records: Vec<Stored>,
}

/// Reads a log from a place on.
pub struct Reader {
    view: View,
    after: u64,
    open: Option<Open>,
}

/// A segment that is being read; positioned after the record that was read last.
struct Open {
    first: u64,
    lines: Lines<File>,
    name: String,
}

impl Reader {
    pub(crate) fn new(view: View, after: u64) -> Self {
        Self { view, after, open: None }
    }

    /// The last record that was read or passed over.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Goes on behind the record `after`.
    pub fn seek(&mut self, after: u64) {
        if after != self.after {
            self.after = after;
            self.open = None;
        }
    }

    /// The next records, at most so many and of so many bytes together; one that is larger than that comes alone. None
    /// when all that is written was read.
    pub fn batch(&mut self, records: usize, bytes: usize) -> Result<Batch, ReadError> {
        let mut batch = Batch::default();
        let end = self.view.end();
        if self.after + 1 < end.oldest {
            batch.missed = end.oldest - 1 - self.after;
            self.seek(end.oldest - 1);
        }
        let mut left = bytes;
        while batch.records.len() < records && self.after < end.written {
            let Some((first, last)) = self.view.segment_of(self.after + 1) else { break };
            match self.fill(first, last.min(end.written), records, &mut left, &mut batch) {
                Ok(true) => {}
                Ok(false) => break,
                // Retention was faster. What was read until then is good.
                Err(ReadError::File(error)) if error.kind() == io::ErrorKind::NotFound => {
                    self.open = None;
                    if batch.records.is_empty() && self.view.end().oldest > self.after + 1 {
                        return self.batch(records, bytes);
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// Reads on in the segment that begins with `first`, up to `last`; false when the batch is full.
    fn fill(
        &mut self,
        first: u64,
        last: u64,
        records: usize,
        left: &mut usize,
        batch: &mut Batch,
    ) -> Result<bool, ReadError> {
        let mut open = match self.open.take().filter(|open| open.first == first) {
            Some(open) => open,
            None => self.open_at(first)?,
        };
        while self.after < last {
            if batch.records.len() >= records {
                self.open = Some(open);
                return Ok(false);
            }
            let sequence = self.after + 1;
            let Some(Line::Whole(line)) = open.lines.next_line()? else {
                return Err(ReadError::Damaged { file: open.name, sequence });
            };
            if line.len() > *left && !batch.records.is_empty() {
                // Read again next time.
                return Ok(false);
            }
            *left = left.saturating_sub(line.len());
            batch.records.push(Stored { sequence, line: line.into() });
            self.after = sequence;
        }
        self.open = Some(open);
        Ok(true)
    }

    fn open_at(&self, first: u64) -> Result<Open, ReadError> {
        let folder = self.view.folder();
        let path = folder.join(Part::Records.name(first));
        let name = path.display().to_string();
        let mut file = File::open(&path).map_err(files::at(&path))?;
        let skipped = self.after + 1 - first;
        let mut offset = 0;
        if skipped > 0 {
            let mut index = Index::open(folder, first)?;
            index.skip(skipped)?;
            // The index is written after the records: of the newest it may not know yet.
            offset = match index.entry()?.filter(|_| index.sound) {
                Some((offset, _)) => offset,
                None => offset_of(&file, skipped)?,
            };
            file.seek(SeekFrom::Start(offset))?;
        }
        Ok(Open { first, lines: Lines::new(file, offset), name })
    }
}

/// Where the line after so many others begins.
fn offset_of(file: &File, lines_before: u64) -> io::Result<u64> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut lines = Lines::new(file, 0);
    for _ in 0..lines_before {
        lines.next_line()?;
    }
    Ok(lines.offset())
}
