//! Checkpoints that wait for the tree to reach their size.

use std::collections::BTreeMap;

use crate::hash::Hash;
use crate::keys::KeyRing;
use crate::note::{Checkpoint, Note};
use crate::segment::notes;
use crate::tree::Range;

use super::Report;

/// Where a checkpoint stands.
struct Mark {
    root: Hash,
    file: String,
    line: u64,
    is_published: bool,
}

pub(super) struct Marks<'a> {
    ring: Option<&'a KeyRing>,
    waiting: BTreeMap<u64, Vec<Mark>>,
    /// The largest that held.
    held: u64,
}

impl<'a> Marks<'a> {
    pub fn new(ring: Option<&'a KeyRing>) -> Self {
        Self { ring, waiting: BTreeMap::new(), held: 0 }
    }

    /// Whether the log's key signed `checkpoint`.
    pub fn verify(&self, note: &Note, checkpoint: &Checkpoint) -> Result<(), String> {
        let Some(ring) = self.ring else { return Err("no key is known to check it with".into()) };
        if checkpoint.origin != ring.current().name() {
            return Err(format!("it is about another log, {}", checkpoint.origin));
        }
        ring.verify(note, checkpoint.size).map_err(|error| error.to_string())
    }

    /// Takes checkpoints from the contents of a file.
    pub fn read(&mut self, file: &str, text: &str, is_published: bool, report: &mut Report) {
        for (line, note) in notes(text) {
            let checkpoint = Checkpoint::parse(note)
                .map_err(|error| error.to_string())
                .and_then(|(checkpoint, note)| self.verify(&note, &checkpoint).map(|()| checkpoint));
            match checkpoint {
                Ok(checkpoint) => {
                    let mark = Mark { root: checkpoint.root, file: file.to_owned(), line, is_published };
                    self.waiting.entry(checkpoint.size).or_default().push(mark);
                }
                Err(what) => report.find(file, Some(line), None, what),
            }
        }
    }

    pub fn read_published(&mut self, files: &[(String, String)], report: &mut Report) {
        for (name, text) in files {
            self.read(name, text, true, report);
        }
    }

    /// Compares the checkpoints about `tree` with it, and passes over smaller ones, about which nothing can be said any
    /// more. False if one differs.
    pub fn compare(&mut self, tree: &Range, report: &mut Report) -> bool {
        let size = tree.end();
        let mut root = None;
        let mut all_hold = true;
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() <= size) {
            if *entry.key() < size {
                let of_deleted = entry.remove();
                if of_deleted.iter().any(|mark| mark.is_published) {
                    let what = "a published checkpoint is about a place inside of what was deleted or could not be followed";
                    report.note(format!("{}, line {}: {what}", of_deleted[0].file, of_deleted[0].line));
                }
                continue;
            }
            for mark in entry.remove() {
                if *root.get_or_insert_with(|| tree.root()) == mark.root {
                    report.checkpoints += 1;
                    report.signed = report.signed.max(size);
                    if mark.is_published {
                        report.published = report.published.max(size);
                    }
                    self.held = size;
                    continue;
                }
                all_hold = false;
                let what = format!(
                    "the checkpoint of {size} records does not fit: one or more of the records {} to {size} were changed \
                     after it was signed",
                    self.held + 1
                );
                report.find(&mark.file, Some(mark.line), Some(size), what);
            }
        }
        all_hold
    }

    /// Whether any is about exactly so many records.
    pub fn is_due(&self, size: u64) -> bool {
        self.waiting.first_key_value().is_some_and(|(smallest, _)| *smallest <= size)
    }

    /// Those about more records than there are.
    pub fn beyond(&mut self, last: u64, report: &mut Report) {
        let beyond = self.waiting.split_off(&(last + 1));
        // The largest says it all.
        if let Some((size, marks)) = beyond.into_iter().next_back() {
            let what =
                format!("the records {} to {size} are missing: this checkpoint is about them", last + 1);
            report.find(&marks[0].file, Some(marks[0].line), Some(last + 1), what);
        }
    }
}
