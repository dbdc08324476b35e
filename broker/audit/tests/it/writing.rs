//! Appending, sealing, signing, deleting.

use mqgate_audit::files::Part;
use mqgate_audit::hash::Hash;
use mqgate_audit::{Log, LogError};

use super::*;

#[test]
fn a_log_is_written_sealed_signed_and_goes_on_after_a_restart() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 40);
    assert_eq!(sequences(&log), (1..=40).collect::<Vec<_>>());
    drop(log);
    let mut log = world.open();
    assert_eq!(log.written(), 40);
    fill(&mut log, 53);
    log.checkpoint(at(53)).unwrap().unwrap();
    assert!(log.checkpoint(at(53)).unwrap().is_none(), "nothing new is to be signed");
    let segments = mqgate_audit::files::segments(&world.log()).unwrap();
    assert!(segments.len() > 3, "{segments:?}");
    let report = world.verify();
    assert_eq!(report.findings, []);
    assert_eq!((report.first, report.last, report.records, report.signed), (1, 53, 53, 53));
    // The link shows the segment that is written to.
    let newest = read(&world.log().join(Part::Records.name(*segments.last().unwrap())));
    assert_eq!(read(&world.settings.path), newest);
}

/// Whatever is appended together or apart, chain and tree are the same.
#[test]
fn the_tree_is_that_of_the_lines() {
    let world = World::new();
    let mut log = world.open();
    let events: Vec<_> = (1..=20).map(event).collect();
    log.append(at(1), &events[..13]).unwrap();
    log.append(at(1), &events[13..]).unwrap();
    let text: String = mqgate_audit::files::segments(&world.log())
        .unwrap()
        .into_iter()
        .map(|first| read(&world.log().join(Part::Records.name(first))))
        .collect();
    let mut tree = mqgate_audit::tree::Range::empty(0);
    let mut prev = Hash::ZERO;
    for line in text.lines() {
        assert!(line.contains(&format!(r#""prev":"{}""#, &prev.to_hex()[..32])), "{line}");
        prev = Hash::leaf(line.as_bytes());
        tree.push(prev);
    }
    assert_eq!((tree.end(), tree.root()), (20, log.tree().root()));
}

#[test]
fn checkpoints_come_by_number_and_by_time() {
    let world = World::new();
    let mut log = world.open();
    let millis = |after: u64| UnixMillis(at(0).0 + after);
    assert!(log.checkpoint_if_due(millis(0)).unwrap().is_none());
    log.append(millis(0), [&event(1)]).unwrap();
    assert_eq!(log.checkpoint_due_in(millis(4_000)), Some(Duration::from_secs(6)));
    assert!(log.checkpoint_if_due(millis(9_999)).unwrap().is_none());
    assert_eq!(log.checkpoint_if_due(millis(10_000)).unwrap().unwrap().size, 1);
    assert_eq!(log.checkpoint_due_in(millis(10_000)), None);
    let events: Vec<_> = (2..=6).map(event).collect();
    log.append(millis(10_000), &events[..4]).unwrap();
    assert!(log.checkpoint_if_due(millis(10_000)).unwrap().is_none());
    log.append(millis(10_000), &events[4..]).unwrap();
    assert_eq!(log.checkpoint_if_due(millis(10_000)).unwrap().unwrap().size, 6);
    // A clock that was set back does not put it off.
    log.append(millis(10_000), [&event(7)]).unwrap();
    assert!(log.checkpoint_if_due(millis(0)).unwrap().is_some());
    // What was signed is durable.
    assert_eq!(log.view().end().durable, 7);
}

#[test]
fn one_process_writes_a_log() {
    let world = World::new();
    let log = world.open();
    assert!(matches!(Log::open(world.settings.clone()), Err(LogError::Locked(_))));
    drop(log);
    world.open();
}

#[test]
fn the_oldest_segments_are_deleted_and_everything_else_can_still_be_verified() {
    let mut world = World::new();
    world.settings.keep = 2;
    let mut log = world.open();
    fill(&mut log, 60);
    log.view().hold("slow", 15);
    let outdated = log.outdated().unwrap();
    assert!(outdated.through <= 15, "{outdated:?}");
    let all = log.view().held_for(0);
    let for_slow = log.view().held_for(15);
    assert!(0 < for_slow && for_slow < all, "{for_slow} of {all} would go if nobody held it");
    assert_eq!(log.view().held_for(60), 0, "for one that has taken everything nothing is kept");
    assert_eq!(log.outdated(), None, "it is said once");
    log.view().release("slow");
    let outdated = log.outdated().unwrap();
    let mut told = event(61);
    told.name = names::AUDIT_RETENTION;
    let told = told.field("through_seq", outdated.through.to_string());
    log.append(at(61), [&told]).unwrap();
    let torn = mqgate_audit::files::torn_path(&world.log(), 1, 3);
    std::fs::write(&torn, "what a crash left").unwrap();
    log.retire(outdated.through).unwrap();
    assert!(!torn.exists(), "what was torn off a segment goes with it");
    assert_eq!(log.view().held_for(0), 0);
    log.checkpoint(at(61)).unwrap();
    let end = log.view().end();
    assert_eq!((end.oldest, end.written), (outdated.through + 1, 61));
    let mut reader = log.view().reader(3);
    let batch = reader.batch(2, usize::MAX).unwrap();
    assert_eq!((batch.missed, batch.records[0].sequence), (outdated.through - 3, outdated.through + 1));
    // Proofs go over what is deleted, and a restart does, too.
    let checkpoint = log.view().checkpoint().unwrap();
    for sequence in end.oldest..=61 {
        mqgate_audit::proof::prove(log.view(), sequence, &checkpoint).unwrap();
    }
    drop(log);
    let mut log = world.open();
    fill(&mut log, 70);
    log.checkpoint(at(70)).unwrap();
    let report = world.verify();
    assert_eq!(report.findings, []);
    assert_eq!((report.first, report.last), (end.oldest, 70));
    assert!(report.limits.iter().any(|limit| limit.contains("are deleted")), "{:?}", report.limits);
}

#[test]
fn segments_that_nobody_said_were_deleted_are_missed() {
    let world = World::new();
    fill(&mut world.open(), 60);
    for part in Part::ALL {
        std::fs::remove_file(world.log().join(part.name(1))).unwrap();
    }
    let report = world.verify();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(report.findings[0].what.contains("no audit.retention record"), "{}", report.findings[0]);
}

#[test]
fn keys_hand_over_and_the_log_can_be_verified_with_either() {
    let world = World::new();
    let mut log = world.open();
    let first = log.key().clone();
    fill(&mut log, 12);
    log.rotate_key(at(12)).unwrap();
    fill(&mut log, 24);
    log.checkpoint(at(24)).unwrap();
    assert_ne!(*log.key(), first);
    for key in [first, log.key().clone()] {
        let report = verify(&world.log(), &Request { trusted: &[key], published: &[] }).unwrap();
        assert_eq!(report.findings, []);
        assert_eq!(report.signed, 24);
    }
    let stranger = World::new();
    stranger.open();
    let report = verify(&world.log(), &Request { trusted: &[stranger.key()], published: &[] }).unwrap();
    assert!(report.findings[0].what.contains("is not in this list"), "{}", report.findings[0]);
}

#[test]
fn what_cannot_be_written_is_tried_again_and_nothing_is_there_twice() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 3);
    // The next segment cannot be begun while a folder stands where its file should.
    let segments = mqgate_audit::files::segments(&world.log()).unwrap();
    assert_eq!(segments, [1]);
    let mut number = 3;
    let in_the_way = loop {
        number += 1;
        let path = world.log().join(Part::Index.name(number));
        std::fs::create_dir_all(&path).unwrap();
        if log.append(at(number), [&event(number)]).is_err() {
            break path;
        }
        std::fs::remove_dir(&path).unwrap();
    };
    assert!(log.append(at(number), [&event(number)]).is_err());
    assert_eq!(log.written(), number - 1);
    std::fs::remove_dir(in_the_way).unwrap();
    fill(&mut log, 40);
    log.checkpoint(at(40)).unwrap();
    assert_eq!(sequences(&log), (1..=40).collect::<Vec<_>>());
    assert_eq!(world.verify().findings, []);
}
