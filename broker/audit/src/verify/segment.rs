//! The records of one segment, one after the other.

use std::fs::File;
use std::io;
use std::path::Path;

use mqgate_identity::audit::names;

use crate::files::{self, Line, Lines, Part, SEGMENTS};
use crate::hash::Hash;
use crate::record::Link;
use crate::segment::{INDEX_ENTRY, INDEX_HEADER, Index, Sealed};
use crate::tree::Range;

use super::marks::Marks;
use super::{Course, Report};

/// A record whose successor was not seen yet.
struct Last {
    sequence: u64,
    line: u64,
    leaf: Hash,
    /// What the index says, if it says anything else.
    indexed: Option<Hash>,
}

struct Walk<'a, 'b> {
    folder: &'a Path,
    log: &'a str,
    first: u64,
    records: String,
    index_name: String,
    index: Option<Index>,
    /// The sequence number whose entry the index gives next.
    index_at: u64,
    last: Option<Last>,
    /// Lines were removed or added: places in the file are not those of the index.
    is_shifted: bool,
    course: &'a mut Course,
    marks: &'a mut Marks<'b>,
    report: &'a mut Report,
}

/// Verifies the segment that begins with `first`. With what the list of sealed segments says about it, if it is in it.
pub(super) fn verify(
    folder: &Path,
    log: &str,
    first: u64,
    sealed: Option<(u64, &Sealed)>,
    course: &mut Course,
    marks: &mut Marks<'_>,
    report: &mut Report,
) -> io::Result<()> {
    let found_before = report.findings.len();
    let begin = course.tree.end();
    checkpoints(folder, first, sealed.is_none(), marks, report)?;
    let records = Part::Records.name(first);
    let path = folder.join(&records);
    let file = File::open(&path).map_err(files::at(&path))?;
    let mut walk = Walk {
        folder,
        log,
        first,
        records: records.clone(),
        index_name: Part::Index.name(first),
        index: None,
        index_at: first,
        last: None,
        is_shifted: false,
        course,
        marks,
        report,
    };
    walk.open_index()?;
    let mut own = Range::empty(begin);
    let mut bytes = 0;
    let mut lines = Lines::new(file, 0);
    loop {
        let number = lines.number() + 1;
        let Some(line) = lines.next_line()? else { break };
        match line {
            Line::Whole(line) => {
                let start = bytes;
                bytes += line.len() as u64 + 1;
                walk.line(number, line, start, &mut own)?;
            }
            Line::Torn(rest) => {
                bytes += rest.len() as u64;
                let what = format!("{} bytes at the end are no whole record", rest.len());
                if sealed.is_none() {
                    let why = "a crash, or the file was copied while it was written";
                    walk.report.notes.push(format!("{records}: {what} ({why})"));
                } else {
                    let next = walk.course.tree.end() + 1;
                    walk.report.find(&records, Some(number), Some(next), what);
                }
                break;
            }
        }
    }
    walk.end(sealed.map(|(_, sealed)| sealed))?;
    let Some((line, sealed)) = sealed else { return Ok(()) };
    let last = course.tree.end();
    if last < sealed.last {
        let what = format!("the records {} to {} are missing at its end", last + 1, sealed.last);
        report.find(&records, None, Some(last + 1), what);
    } else if last > sealed.last {
        let what = format!("has records after {}, with which it was sealed", sealed.last);
        report.find(&records, None, Some(sealed.last + 1), what);
    }
    if report.findings.len() > found_before {
        return Ok(());
    }
    // The records hold together. So either the list is wrong, or all of them were written anew.
    if bytes != sealed.bytes || Some(&own) != sealed.range().as_ref() || course.prev != Some(sealed.last_leaf)
    {
        let what = format!(
            "what it says of the records {} to {} is not what {records} has",
            sealed.first, sealed.last
        );
        report.find(SEGMENTS, Some(line), None, what);
    }
    Ok(())
}

/// The segment's own checkpoints.
fn checkpoints(
    folder: &Path,
    first: u64,
    is_active: bool,
    marks: &mut Marks<'_>,
    report: &mut Report,
) -> io::Result<()> {
    let name = Part::Checkpoints.name(first);
    let bytes = match std::fs::read(folder.join(&name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.find(&name, None, None, "the segment's checkpoints are missing");
            return Ok(());
        }
        bytes => bytes?,
    };
    let text = String::from_utf8_lossy(&bytes);
    // A crash, or copying while it is written, leaves the last one torn.
    let whole = if is_active { text.rfind("\n\n").map_or(0, |at| at + 2) } else { text.len() };
    let (text, rest) = text.split_at(whole);
    let is_cut_inside = crate::segment::notes(text)
        .last()
        .is_some_and(|(_, note)| is_active && !rest.is_empty() && crate::note::Note::parse(note).is_err());
    let text = if is_cut_inside {
        let last = crate::segment::notes(text).last().map_or(0, |(_, note)| note.len());
        &text[..text.len() - last]
    } else {
        text
    };
    marks.read(&name, text, false, report);
    Ok(())
}

impl Walk<'_, '_> {
    fn open_index(&mut self) -> io::Result<()> {
        match Index::open(self.folder, self.first) {
            Ok(index) => {
                if !index.sound {
                    self.report.find(
                        &self.index_name,
                        None,
                        None,
                        "its first bytes are not those of an index of this segment",
                    );
                }
                self.index = Some(index);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.report.find(&self.index_name, None, None, "the segment's index is missing");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What the index says of the record `sequence`.
    fn entry(&mut self, sequence: u64) -> io::Result<Option<(u64, Hash)>> {
        let Some(index) = &mut self.index else { return Ok(None) };
        if sequence < self.first {
            return Ok(None);
        }
        if self.index_at != sequence {
            index.skip(sequence - self.first)?;
        }
        self.index_at = sequence + 1;
        index.entry()
    }

    /// Whether the index has `leaf` for the record `sequence`.
    fn confirms(&mut self, sequence: u64, leaf: Hash) -> io::Result<bool> {
        Ok(self.entry(sequence)?.is_some_and(|(_, indexed)| indexed == leaf))
    }

    /// The line `number`, which begins at byte `start`.
    fn line(&mut self, number: u64, line: &[u8], start: u64, own: &mut Range) -> io::Result<()> {
        self.report.records += 1;
        let expected = self.course.tree.end() + 1;
        let leaf = Hash::leaf(line);
        let link: Option<Link> = serde_json::from_slice(line).ok();
        let mut sequence = link.as_ref().map_or(expected, |link| link.seq);
        let mut is_judged = false;
        if sequence < expected {
            let is_copy = self.confirms(sequence, leaf)?;
            let is_in_place =
                !self.is_shifted && self.entry(expected)?.is_some_and(|(offset, _)| offset == start);
            self.course.is_known = false;
            if is_copy || !is_in_place {
                self.is_shifted = true;
                let what = "a record with this number came before: it was inserted, repeated or moved here";
                self.report.find(&self.records, Some(number), Some(sequence), what);
                // It is no part of the sequence: what follows is judged by what came before it.
                return Ok(());
            }
            self.misnumbered(number, expected, sequence);
            (sequence, is_judged) = (expected, true);
        }
        if sequence > expected {
            is_judged = true;
            self.settle(None);
            self.course.is_known = false;
            self.course.prev = None;
            // An index that knows the line at this place was made anew after records were taken out.
            let is_anew = self.confirms(expected, leaf)?;
            if is_anew {
                self.index = None;
            }
            if is_anew || self.index.is_none() || self.confirms(sequence, leaf)? {
                let what = if sequence - expected == 1 {
                    format!("record {expected} is missing before this one")
                } else {
                    format!("the records {expected} to {} are missing before this one", sequence - 1)
                };
                self.report.find(&self.records, Some(number), Some(expected), what);
                self.is_shifted = true;
                self.course.tree = Range::empty(sequence - 1);
                *own = Range::empty(sequence - 1);
            } else {
                self.misnumbered(number, expected, sequence);
                sequence = expected;
            }
        }
        let entry = self.entry(sequence)?;
        let indexed = entry.map(|(_, leaf)| leaf);
        match &link {
            None => {
                self.settle(None);
                self.report.find(
                    &self.records,
                    Some(number),
                    Some(sequence),
                    "this is no record: the line was changed",
                );
                self.course.is_known = false;
                is_judged = true;
            }
            Some(link) => {
                self.settle(Some((link, number, indexed == Some(leaf))));
                self.facts(link, number);
            }
        }
        match entry {
            Some((offset, _)) if offset != start && !self.is_shifted => {
                let what = format!("the index says it begins at byte {offset}, and it begins at {start}");
                self.report.find(&self.index_name, None, Some(sequence), what);
            }
            None if self.index.is_some() && !self.is_shifted => {
                self.index = None;
                let what = "the index has no whole entry for this record";
                self.report.find(&self.index_name, None, Some(sequence), what);
            }
            _ => {}
        }
        let indexed = indexed.filter(|indexed| *indexed != leaf && !is_judged);
        self.last = Some(Last { sequence, line: number, leaf, indexed });
        self.course.tree.push(leaf);
        own.push(leaf);
        self.course.prev = Some(leaf);
        if self.course.is_known
            && self.marks.is_due(sequence)
            && !self.marks.compare(&self.course.tree, self.report)
        {
            self.course.is_known = false;
        }
        Ok(())
    }

    /// The record `expected` says that it is another one.
    fn misnumbered(&mut self, number: u64, expected: u64, sequence: u64) {
        self.settle(None);
        self.course.prev = None;
        let what = format!("the record was changed: it says that it is record {sequence}");
        self.report.find(&self.records, Some(number), Some(expected), what);
    }

    /// Judges the record before by what its successor says of it: `next`, its line, and whether the index confirms it.
    fn settle(&mut self, next: Option<(&Link, u64, bool)>) {
        let last = self.last.take();
        let Some((link, number, is_confirmed)) = next else {
            if let Some(Last { sequence, line, indexed: Some(_), .. }) = last {
                let what = "the record or its entry in the index was changed: they differ";
                self.report.find(&self.records, Some(line), Some(sequence), what);
                self.course.is_known = false;
            }
            return;
        };
        let Some(prev) = self.course.prev else { return };
        let agrees = link.prev == prev.half();
        match last {
            Some(Last { sequence, indexed: Some(_), .. }) if agrees => {
                let what = "the entry of this record is not that of the record: the index was changed";
                self.report.find(&self.index_name, None, Some(sequence), what);
            }
            Some(Last { sequence, line, indexed: Some(_), .. }) => {
                let what = "the record was changed: index and next record have another hash of it";
                self.report.find(&self.records, Some(line), Some(sequence), what);
                self.course.is_known = false;
            }
            Some(Last { sequence, line, .. }) if !agrees && is_confirmed => {
                let what = "the record and its entry in the index were changed: the next record has another hash of it";
                self.report.find(&self.records, Some(line), Some(sequence), what);
                self.course.is_known = false;
            }
            _ if !agrees => {
                let what = "the record's link to the one before it is wrong: it was changed, or another stood before it";
                self.report.find(&self.records, Some(number), Some(link.seq), what);
                self.course.is_known = false;
            }
            _ => {}
        }
    }

    /// What a record says of itself.
    fn facts(&mut self, link: &Link, number: u64) {
        if link.log != self.log && !self.log.is_empty() {
            self.report.find(
                &self.records,
                Some(number),
                Some(link.seq),
                format!("a record of another log, {}", link.log),
            );
        }
        if link.time < self.course.time {
            let note =
                format!("{}, line {number}, record {}: the clock had been set back", self.records, link.seq);
            self.report.note(note);
        }
        self.course.time.clone_from(&link.time);
        if link.name == names::AUDIT_RETENTION
            && let Some(through) = link.fields.get("through_seq").and_then(|through| through.parse().ok())
        {
            self.course.deleted_through = self.course.deleted_through.max(through);
        }
    }

    /// The last record has no successor: the list of sealed segments is its witness, or the index alone.
    fn end(&mut self, sealed: Option<&Sealed>) -> io::Result<()> {
        let tree_end = self.course.tree.end();
        let Some(last) = self.last.take() else { return Ok(()) };
        let listed = sealed.filter(|sealed| sealed.last == last.sequence).map(|sealed| sealed.last_leaf);
        match (last.indexed, listed) {
            (Some(_), Some(listed)) if listed == last.leaf => {
                let what = "the entry of this record is not that of the record: the index was changed";
                self.report.find(&self.index_name, None, Some(last.sequence), what);
            }
            (Some(_), _) => {
                let what = "the record or its entry in the index was changed: they differ";
                self.report.find(&self.records, Some(last.line), Some(last.sequence), what);
            }
            (None, Some(listed)) if listed != last.leaf => {
                let what = "the record was changed: the list of sealed segments has another hash of it";
                self.report.find(&self.records, Some(last.line), Some(last.sequence), what);
            }
            _ => {}
        }
        if let Some(index) = &self.index {
            let expected = INDEX_HEADER + (tree_end + 1 - self.first) * INDEX_ENTRY;
            let length = index.length()?;
            if length > expected && !self.is_shifted {
                let more = (length - expected).div_ceil(INDEX_ENTRY);
                let what =
                    format!("the index has {more} entries more than there are records: the end was cut off");
                self.report.find(&self.index_name, None, Some(tree_end + 1), what);
            }
        }
        Ok(())
    }
}
