//! Everything that somebody could do to the files, and what `verify` says of it.

use mqgate_audit::files::{KEYS, Part, SEGMENTS};
use mqgate_audit::hash::Hash;
use mqgate_audit::publish::Folder;

use super::*;

/// A log of 42 records in some segments, signed now and then, and all its files.
struct Victim {
    world: World,
    segments: Vec<u64>,
    published: String,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Victim {
    fn new() -> Self {
        let mut world = World::new();
        // 14 records in each, and one that is written to with a checkpoint in it.
        world.settings.segment_bytes = 4400;
        let mut log = world.open();
        let folder = Folder::new(world.folder.path());
        while log.written() < 40 {
            let next = log.written() + 1;
            fill(&mut log, next);
            if next.is_multiple_of(10) {
                log.checkpoint(at(next)).unwrap();
                folder.publish(&log.view().checkpoint().unwrap()).unwrap();
            }
        }
        log.rotate_key(at(40)).unwrap();
        fill(&mut log, 42);
        drop(log);
        let segments = mqgate_audit::files::segments(&world.log()).unwrap();
        assert!(segments.len() >= 3);
        let published = read(&folder.file(world.verify().log.as_str()));
        let files = std::fs::read_dir(world.log()).unwrap().map(|entry| entry.unwrap().path());
        let files = files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        let victim = Self { world, segments, published, files };
        assert_eq!(victim.world.verify_with(&victim.published).findings, []);
        victim
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.log().join(name)
    }

    fn records(&self, segment: usize) -> String {
        Part::Records.name(self.segments[segment])
    }

    /// Changes a file, verifies, and puts everything back as it was.
    fn with(&self, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Report {
        let path = self.path(name);
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
        let report = self.world.verify_with(&self.published);
        self.restore();
        report
    }

    /// Changes the lines of a file.
    fn with_lines(&self, name: &str, change: impl FnOnce(&mut Vec<String>)) -> Report {
        self.with(name, |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
            change(&mut lines);
            lines.concat().into_bytes()
        })
    }

    fn restore(&self) {
        for (path, bytes) in &self.files {
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// Whether a finding is about this file and this record.
fn names(report: &Report, file: &str, record: u64) -> bool {
    report.findings.iter().any(|finding| finding.file == file && finding.seq == Some(record))
}

/// In records that no checkpoint covers the index is the only witness besides the record itself; everywhere the record
/// is named.
#[test]
fn every_changed_byte_of_a_record_is_found_and_the_record_is_named() {
    let victim = Victim::new();
    for (segment, first) in victim.segments.iter().enumerate() {
        let name = victim.records(segment);
        let whole = std::fs::read(victim.path(&name)).unwrap();
        for at in (0..whole.len()).step_by(41) {
            let record = first + whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
            let report = victim.with(&name, |mut bytes| {
                bytes[at] ^= 1;
                bytes
            });
            assert!(
                names(&report, &name, record),
                "{name} byte {at}, record {record}: {:?}",
                report.findings
            );
        }
        // The line feeds, too.
        for at in whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at) {
            let report = victim.with(&name, |mut bytes| {
                bytes[at] = b' ';
                bytes
            });
            assert!(!report.holds(), "{name} byte {at}");
        }
    }
}

#[test]
fn every_changed_byte_of_an_index_is_found() {
    let victim = Victim::new();
    for first in &victim.segments {
        let name = Part::Index.name(*first);
        let length = std::fs::read(victim.path(&name)).unwrap().len();
        for at in (0..length).step_by(7) {
            let report = victim.with(&name, |mut bytes| {
                bytes[at] ^= 1;
                bytes
            });
            let record = at.checked_sub(16).map(|behind| first + (behind / 40) as u64);
            let named = report.findings.iter().any(|finding| {
                finding.seq == record && (finding.file == name || finding.what.contains("index"))
            });
            assert!(named, "{name} byte {at}, record {record:?}: {:?}", report.findings);
        }
        assert!(!victim.with(&name, |bytes| bytes[..bytes.len() - 1].to_vec()).holds());
        assert!(!victim.with(&name, |bytes| [bytes, vec![0; 40]].concat()).holds());
    }
}

#[test]
fn every_changed_byte_of_checkpoints_keys_and_the_list_of_segments_is_found() {
    let victim = Victim::new();
    let mut files: Vec<String> = victim.segments.iter().map(|first| Part::Checkpoints.name(*first)).collect();
    files.extend([KEYS.to_owned(), SEGMENTS.to_owned()]);
    for name in files {
        let length = std::fs::read(victim.path(&name)).unwrap().len();
        let step = if name == SEGMENTS { 13 } else { 5 };
        for at in (0..length).step_by(step) {
            let report = victim.with(&name, |mut bytes| {
                bytes[at] ^= 1;
                bytes
            });
            let named = report.findings.iter().any(|finding| {
                // A record of a segment that the list lacks says so itself.
                finding.file == name || name == SEGMENTS || name == KEYS
            });
            // An empty line more or less between two checkpoints says nothing else.
            let is_separator = name.ends_with(".checkpoints") && report.holds();
            assert!(named || is_separator, "{name} byte {at}: {:?}", report.findings);
        }
    }
}

#[test]
fn records_that_were_removed_swapped_repeated_or_inserted_are_named() {
    let victim = Victim::new();
    for segment in 0..victim.segments.len() - 1 {
        let (first, name) = (victim.segments[segment], victim.records(segment));
        let report = victim.with_lines(&name, |lines| drop(lines.remove(2)));
        assert!(names(&report, &name, first + 2), "removed: {:?}", report.findings);
        assert!(report.findings[0].what.contains("is missing"), "{}", report.findings[0]);
        let report = victim.with_lines(&name, |lines| lines.swap(2, 3));
        assert!(names(&report, &name, first + 2), "swapped: {:?}", report.findings);
        let report = victim.with_lines(&name, |lines| lines.insert(3, lines[2].clone()));
        assert!(names(&report, &name, first + 2), "repeated: {:?}", report.findings);
        assert!(report.findings[0].what.contains("repeated"), "{}", report.findings[0]);
        // One that was made up, in the place of the next, with the right link.
        let report = victim.with_lines(&name, |lines| {
            let made_up = lines[3].replace("client-", "forged-");
            lines.insert(3, made_up);
        });
        assert!(names(&report, &name, first + 3), "inserted: {:?}", report.findings);
        let report = victim.with_lines(&name, |lines| drop(lines.pop()));
        let last = victim.segments[segment + 1] - 1;
        assert!(names(&report, &name, last), "cut off: {:?}", report.findings);
        let report = victim.with_lines(&name, |lines| drop(lines.remove(0)));
        assert!(names(&report, &name, first), "the first: {:?}", report.findings);
    }
}

#[test]
fn a_segment_that_is_gone_is_named() {
    let victim = Victim::new();
    let (first, name) = (victim.segments[1], victim.records(1));
    std::fs::remove_file(victim.path(&name)).unwrap();
    let report = victim.world.verify_with(&victim.published);
    assert!(names(&report, &name, first), "{:?}", report.findings);
    victim.restore();
    for name in [SEGMENTS, KEYS] {
        std::fs::remove_file(victim.path(name)).unwrap();
        let report = victim.world.verify_with(&victim.published);
        assert!(report.findings.iter().any(|finding| finding.file == name), "{name}: {:?}", report.findings);
        victim.restore();
    }
}

/// The chain and the index are made right again behind a change, as somebody does who knows how.
fn rewrite(victim: &Victim, segment: usize, change: impl Fn(&str) -> String) -> (Vec<u8>, Vec<u8>) {
    let first = victim.segments[segment];
    let text = read(&victim.path(&victim.records(segment)));
    let mut index = std::fs::read(victim.path(&Part::Index.name(first))).unwrap()[..16].to_vec();
    let mut prev: Option<Hash> = None;
    let mut out = String::new();
    for line in text.lines() {
        let mut line = change(line);
        if let Some(prev) = prev {
            let at = line.find(r#""prev":""#).unwrap() + 8;
            line.replace_range(at..at + 32, &prev.to_hex()[..32]);
        }
        let leaf = Hash::leaf(line.as_bytes());
        index.extend_from_slice(&(out.len() as u64).to_be_bytes());
        index.extend_from_slice(&leaf.0);
        out += &line;
        out.push('\n');
        prev = Some(leaf);
    }
    (out.into_bytes(), index)
}

#[test]
fn a_chain_that_was_made_anew_does_not_fit_the_checkpoints() {
    let victim = Victim::new();
    for segment in 0..victim.segments.len() {
        let first = victim.segments[segment];
        let target = format!("client-{:06}", first + 1);
        let (records, index) = rewrite(&victim, segment, |line| line.replace(&target, "client-forged"));
        std::fs::write(victim.path(&victim.records(segment)), records).unwrap();
        std::fs::write(victim.path(&Part::Index.name(first)), index).unwrap();
        let report = victim.world.verify_with(&victim.published);
        victim.restore();
        let name = Part::Checkpoints.name(first);
        let finding =
            report.findings.iter().find(|finding| finding.file == name || finding.file == "witness");
        let finding = finding.unwrap_or_else(|| panic!("segment {first}: {:?}", report.findings));
        assert!(finding.what.contains("were changed after it was signed"), "{finding}");
        // It says between which checkpoints, and the change is between them.
        let low: u64 =
            finding.what.split("records ").nth(2).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(low <= first + 1 && first < finding.seq.unwrap(), "{finding}");
    }
}

#[test]
fn an_end_that_was_cut_off_is_missed_as_far_as_anybody_signed_it() {
    let victim = Victim::new();
    let last = victim.segments.len() - 1;
    let (first, name) = (victim.segments[last], victim.records(last));
    let notes = Part::Checkpoints.name(first);
    let keep = |records: u64| {
        let text = read(&victim.path(&name));
        let kept: String = text.split_inclusive('\n').take((records + 1 - first) as usize).collect();
        std::fs::write(victim.path(&name), kept).unwrap();
        let index = std::fs::read(victim.path(&Part::Index.name(first))).unwrap();
        let kept = 16 + 40 * (records + 1 - first) as usize;
        std::fs::write(victim.path(&Part::Index.name(first)), &index[..kept]).unwrap();
    };
    assert!(first < 39, "the last segment has a published checkpoint: {:?}", victim.segments);
    // Behind the last checkpoint, which is about 40 records: nothing shows it, and that is said.
    keep(41);
    let report = victim.world.verify_with(&victim.published);
    assert_eq!(report.findings, []);
    assert!(
        report.limits.iter().any(|limit| limit.contains("no checkpoint is about the records 41 to 41")),
        "{report:?}"
    );
    assert!(
        report.limits.iter().any(|limit| limit.contains("published checkpoint is about 40")),
        "{report:?}"
    );
    // Before it: the log's own checkpoint tells.
    keep(39);
    let report = victim.world.verify();
    assert!(names(&report, &notes, 40), "{:?}", report.findings);
    assert!(report.findings[0].what.contains("records 40 to 40 are missing"), "{}", report.findings[0]);
    // With the log's own checkpoints cut off as well only the published one tells.
    std::fs::write(victim.path(&notes), "").unwrap();
    let report = victim.world.verify();
    assert_eq!(report.findings, []);
    assert!(
        report.limits.iter().any(|limit| limit.contains("no published checkpoint was given")),
        "{report:?}"
    );
    let report = victim.world.verify_with(&victim.published);
    assert!(names(&report, "witness", 40), "{:?}", report.findings);
    victim.restore();
}

#[test]
fn checkpoints_of_strangers_are_none() {
    let victim = Victim::new();
    let stranger = World::new();
    let mut log = stranger.open();
    fill(&mut log, 20);
    let note = format!("{}\n", log.view().checkpoint().unwrap().note);
    let report = victim.world.verify_with(&note);
    assert!(report.findings[0].what.contains("another log"), "{:?}", report.findings);
    let renamed = note.replace(&log.key().name().to_owned(), victim.world.key().name());
    let report = victim.world.verify_with(&renamed);
    assert!(report.findings[0].what.contains("no signature by the key"), "{:?}", report.findings);
}

/// The largest numbers there are, wherever a number stands: a finding, never a panic, and no reader that runs for ever.
#[test]
fn a_number_beyond_all_is_a_finding() {
    let victim = Victim::new();
    for (segment, first) in victim.segments.iter().enumerate() {
        let name = victim.records(segment);
        for number in ["18446744073709551615", "18446744073709551614", "9007199254740992"] {
            for record in [*first, first + 1] {
                let place = (record - first) as usize;
                let report = victim.with_lines(&name, |lines| {
                    lines[place] =
                        lines[place].replace(&format!(r#""seq":{record},"#), &format!(r#""seq":{number},"#));
                });
                assert!(names(&report, &name, record), "{name} {record} {number}: {:?}", report.findings);
            }
        }
    }
    for member in ["first", "last"] {
        let report = victim.with_lines(SEGMENTS, |lines| {
            let mut listed: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            listed[member] = u64::MAX.into();
            lines[0] = format!("{listed}\n");
        });
        assert!(report.findings.iter().any(|finding| finding.file == SEGMENTS), "{:?}", report.findings);
    }
    // Files that are named as no segment can be are none.
    for stray in [0, u64::MAX] {
        let path = victim.path(&Part::Records.name(stray));
        std::fs::write(&path, "x\n").unwrap();
        assert_eq!(victim.world.verify_with(&victim.published).findings, []);
        assert_eq!(mqgate_audit::View::of_copy(&victim.world.log()).unwrap().end().written, 42);
        std::fs::remove_file(path).unwrap();
    }
    let last = victim.path(&victim.records(victim.segments.len() - 1));
    let text = read(&last).replace(r#""seq":42,"#, r#""seq":18446744073709551615,"#);
    std::fs::write(&last, text).unwrap();
    assert_eq!(mqgate_audit::View::of_copy(&victim.world.log()).unwrap().end().written, 41);
}

/// What a stranger wrote may have any number of oddities: the report is bounded.
#[test]
fn so_many_notes_are_told_and_the_others_counted() {
    let mut world = World::new();
    world.settings.segment_bytes = 64 << 20;
    let mut log = world.open();
    let events: Vec<_> = (0..3000).map(|number| event(if number % 2 == 0 { 9 } else { 1 })).collect();
    log.append(at(1), &events).unwrap();
    log.checkpoint(at(1)).unwrap();
    let report = world.verify();
    assert_eq!(report.findings, []);
    assert!(report.notes.len() <= 1001, "{}", report.notes.len());
    assert!(report.notes.last().unwrap().contains("notes more"), "{:?}", report.notes.last());
}
