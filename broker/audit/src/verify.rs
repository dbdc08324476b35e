//! Verifying a log, or a copy of its files, from the first byte to the last: chain, tree, signatures, numbers. Reads only,
//! and holds no more than a line and the checkpoints of a segment. What it finds names file, line and record.
//!
//! A record has three witnesses: itself, the hash in the index, and the hash in its successor. Which of them differs says
//! what was changed. Checkpoints say whether somebody changed all three together.

mod marks;
mod segment;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::files::{self, KEYS, Line, Lines, Part, SEGMENTS};
use crate::hash::Hash;
use crate::keys::{KeyError, KeyRing};
use crate::note::{Checkpoint, VerifyingKey};
use crate::segment::Sealed;
use crate::tree::Range;

use self::marks::Marks;

/// Findings that are told; more are only counted.
const MOST_FINDINGS: usize = 1000;

/// What to verify, and what with.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// Keys that are trusted, from elsewhere. Without any, those of the log itself are used, and that is said.
    pub trusted: &'a [VerifyingKey],
    /// Checkpoints that were published: file names and contents.
    pub published: &'a [(String, String)],
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The record it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, ", record {seq}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What a verification found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The log's name.
    pub log: String,
    /// First and last record that is there; 0 and 0 for none.
    pub first: u64,
    pub last: u64,
    /// Records that were read.
    pub records: u64,
    /// Checkpoints whose signature and root hold.
    pub checkpoints: u64,
    /// Size of the largest checkpoint, of the log's own and of the published ones, that holds.
    pub signed: u64,
    pub published: u64,
    /// The log is not what was written.
    pub findings: Vec<Finding>,
    /// Findings that were only counted.
    pub more_findings: u64,
    /// Nothing wrong, but to be known.
    pub notes: Vec<String>,
    /// Notes that were only counted: the last of `notes` says how many.
    #[serde(skip)]
    more_notes: u64,
    /// What this verification cannot say, and why.
    pub limits: Vec<String>,
}

impl Report {
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    fn note(&mut self, what: String) {
        if self.notes.len() < MOST_FINDINGS {
            self.notes.push(what);
        } else {
            self.more_notes += 1;
        }
    }

    fn find(&mut self, file: &str, line: Option<u64>, seq: Option<u64>, what: impl Into<String>) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding { file: file.to_owned(), line, seq, what: what.into() });
        } else {
            self.more_findings += 1;
        }
    }
}

/// The tree over everything up to a place, as far as it is known.
struct Course {
    tree: Range,
    /// False from where the records are not those that were written: no root can be computed until the list of sealed
    /// segments says how the tree goes on.
    is_known: bool,
    /// Hash of the record before, if it is known.
    prev: Option<Hash>,
    time: String,
    /// The last record that retention said it deletes.
    deleted_through: u64,
}

/// Verifies the log in `folder`, the one whose name ends in `.d`.
pub fn verify(folder: &Path, request: &Request<'_>) -> io::Result<Report> {
    let mut report = Report::default();
    let ring = keys(folder, request, &mut report);
    let log = ring.as_ref().map(|ring| ring.log().to_owned()).unwrap_or_default();
    report.log.clone_from(&log);
    let sealed = sealed_segments(folder, &mut report)?;
    let there = files::segments(folder)?;
    let mut marks = Marks::new(ring.as_ref());
    marks.read_published(request.published, &mut report);
    let mut course = Course {
        tree: Range::empty(0),
        is_known: true,
        prev: Some(Hash::ZERO),
        time: String::new(),
        deleted_through: 0,
    };
    let mut order: BTreeMap<u64, Option<&(u64, Sealed)>> = there.iter().map(|first| (*first, None)).collect();
    order.extend(sealed.iter().map(|listed| (listed.1.first, Some(listed))));
    let newest = order.keys().next_back().copied();
    let mut missing_before = 0;
    let mut any = false;
    for (first, listed) in order {
        let name = Part::Records.name(first);
        let next = course.tree.end() + 1;
        if first != next {
            let what = format!("begins with record {first}, and record {next} comes next");
            report.find(&name, None, Some(next), what);
            course.tree = Range::empty(first.saturating_sub(1));
            course.is_known = false;
            course.prev = None;
        }
        let before = course.tree.clone();
        if there.contains(&first) {
            if listed.is_none() && newest != Some(first) {
                let what = format!("the list has no line about the segment that begins with record {first}");
                report.find(SEGMENTS, None, Some(first), what);
            }
            any = true;
            let listed = listed.map(|(line, segment)| (*line, segment));
            segment::verify(folder, &log, first, listed, &mut course, &mut marks, &mut report)?;
        } else if let Some((_, segment)) = listed {
            if any {
                let what = format!("the segment with the records {first} to {} is missing", segment.last);
                report.find(&name, None, Some(first), what);
            } else {
                missing_before = segment.last;
            }
        }
        if let Some((line, segment)) = listed {
            resume(segment, *line, before, &mut course, &mut marks, &mut report);
        }
    }
    if any {
        report.first = missing_before + 1;
        report.last = course.tree.end();
    }
    // Checkpoints of a segment whose records are gone still say how far the log was.
    let next = Part::Checkpoints.name(course.tree.end() + 1);
    if let Ok(text) = std::fs::read_to_string(folder.join(&next)) {
        marks.read(&next, &text, false, &mut report);
    }
    marks.beyond(course.tree.end(), &mut report);
    if missing_before > course.deleted_through {
        let what = format!(
            "the records 1 to {missing_before} are missing, and no audit.retention record says that they were deleted"
        );
        report.find(&Part::Records.name(1), None, Some(1), what);
    }
    limits(&mut report, request, missing_before);
    if report.more_notes > 0 {
        report.notes.push(format!("and {} notes more", report.more_notes));
    }
    Ok(report)
}

/// The keys to believe, and what is wrong with them.
fn keys(folder: &Path, request: &Request<'_>, report: &mut Report) -> Option<KeyRing> {
    let own = match KeyRing::read(folder) {
        Ok(ring) => Some(ring),
        Err(KeyError::Line { line, what }) => {
            report.find(KEYS, Some(line), None, what);
            None
        }
        Err(error) => {
            report.find(KEYS, None, None, error.to_string());
            None
        }
    };
    if std::fs::read(folder.join(KEYS)).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n')) {
        report.find(KEYS, None, None, "the last line is torn");
    }
    let Some(trusted) = request.trusted.first() else {
        if let Some(own) = &own {
            let ids: Vec<String> = own.terms().iter().map(|term| term.key.id()).collect();
            report.notes.push(format!(
                "no key was given: signatures were checked with the log's own list of keys ({}); whoever can replace the log \
                 can replace that, too. Compare it with a key from elsewhere",
                ids.join(", ")
            ));
        }
        return own;
    };
    match own {
        Some(own) if request.trusted.iter().any(|key| own.contains(key)) => Some(own),
        own => {
            if own.is_some() {
                report.find(
                    KEYS,
                    None,
                    None,
                    format!("the trusted key {} is not in this list", trusted.id()),
                );
            }
            Some(KeyRing::of(trusted.clone()))
        }
    }
}

/// The list of sealed segments with the lines they stand in.
fn sealed_segments(folder: &Path, report: &mut Report) -> io::Result<Vec<(u64, Sealed)>> {
    let mut sealed = Vec::new();
    let file = match File::open(folder.join(SEGMENTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.find(SEGMENTS, None, None, "the list of sealed segments is missing");
            return Ok(sealed);
        }
        file => file?,
    };
    let mut lines = Lines::new(file, 0);
    while let Some(line) = lines.next_line()? {
        let parsed = match line {
            Line::Whole(line) => serde_json::from_slice::<Sealed>(line).map_err(|error| error.to_string()),
            Line::Torn(_) => Err("the line is torn".to_owned()),
        };
        match parsed {
            Ok(segment)
                if sealed.last().is_some_and(|(_, before): &(u64, Sealed)| before.last >= segment.first) =>
            {
                report.find(
                    SEGMENTS,
                    Some(lines.number()),
                    None,
                    "the line stands behind one about later records",
                );
            }
            Ok(segment) if segment.range().is_some() => sealed.push((lines.number(), segment)),
            Ok(_) => {
                report.find(SEGMENTS, Some(lines.number()), None, "the tree hashes do not fit the records");
            }
            Err(what) => report.find(SEGMENTS, Some(lines.number()), None, what),
        }
    }
    Ok(sealed)
}

/// Goes on behind a sealed segment: where its records were not those that were written, or are gone, the list says how
/// the tree goes on, and the checkpoint there whether that is believed.
fn resume(
    segment: &Sealed,
    line: u64,
    before: Range,
    course: &mut Course,
    marks: &mut Marks<'_>,
    report: &mut Report,
) {
    let computed = course.is_known.then(|| course.tree.clone()).filter(|tree| tree.end() == segment.last);
    let mut listed = before;
    let joins = segment.range().is_some_and(|range| listed.join(&range));
    course.tree = if joins { listed } else { Range::empty(segment.last) };
    course.prev = Some(segment.last_leaf);
    let checkpoint = match Checkpoint::parse(&segment.note) {
        Ok((checkpoint, note)) => match marks.verify(&note, &checkpoint) {
            Ok(()) => Some(checkpoint),
            Err(what) => {
                report.find(SEGMENTS, Some(line), None, format!("the checkpoint of the segment: {what}"));
                None
            }
        },
        Err(error) => {
            report.find(SEGMENTS, Some(line), None, error.to_string());
            None
        }
    };
    let is_listed = |tree: &Range, checkpoint: &Checkpoint| {
        checkpoint.size == segment.last && tree.begin() == 0 && tree.root() == checkpoint.root
    };
    course.is_known = false;
    if let Some(checkpoint) = checkpoint {
        if is_listed(&course.tree, &checkpoint) {
            course.is_known = true;
            report.checkpoints += 1;
            report.signed = report.signed.max(checkpoint.size);
            marks.compare(&course.tree, report);
        } else if let Some(computed) = computed.filter(|computed| is_listed(computed, &checkpoint)) {
            report.find(SEGMENTS, Some(line), None, "the tree hashes are not those of the records");
            course.tree = computed;
            course.is_known = true;
        } else if course.tree.begin() == 0 {
            let what = "the tree hashes do not lead to the checkpoint of the segment";
            report.find(SEGMENTS, Some(line), Some(segment.last), what);
        }
    }
}

/// What a verification cannot say.
fn limits(report: &mut Report, request: &Request<'_>, missing_before: u64) {
    let (signed, published, last) = (report.signed, report.published, report.last);
    if request.published.is_empty() {
        report.limits.push(
            "no published checkpoint was given: whoever could write these files and had the signing key may have cut off \
             the end of the log, or written all of it anew, and nothing here would show it"
                .into(),
        );
    } else if published < last {
        report.limits.push(format!(
            "the newest published checkpoint is about {published} records: that the records after it were cut off, or were \
             written anew with the signing key, cannot be seen"
        ));
    }
    if signed.max(published) < last {
        report.limits.push(format!(
            "no checkpoint is about the records {} to {last}: whoever could write these files may have changed them together \
             with the chain",
            signed.max(published) + 1
        ));
    }
    if missing_before > 0 {
        report.limits.push(format!(
            "the records 1 to {missing_before} are deleted: what they said cannot be checked, only that their hashes are \
             those that were signed"
        ));
    }
}
