//! What a crash leaves: torn ends, and a process that was killed at any moment.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use mqgate_audit::files::Part;

use super::*;

#[test]
fn a_torn_end_is_cut_to_the_last_whole_record_wherever_it_was_torn() {
    let world = World::new();
    fill(&mut world.open(), 8);
    let records = world.log().join(Part::Records.name(1));
    let index = world.log().join(Part::Index.name(1));
    let (whole, entries) = (std::fs::read(&records).unwrap(), std::fs::read(&index).unwrap());
    let seventh = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in (seventh..whole.len()).step_by(23).chain([whole.len() - 1]) {
        std::fs::write(&records, &whole[..cut]).unwrap();
        std::fs::write(&index, &entries[..entries.len() - cut % 90]).unwrap();
        let (log, opened) = Log::open(world.settings.clone()).unwrap();
        assert_eq!(log.written(), 7, "cut at {cut}");
        if cut == seventh {
            assert_eq!(opened.torn, None);
        } else {
            let torn = opened.torn.unwrap();
            assert_eq!((torn.bytes, torn.after), ((cut - seventh) as u64, 7));
            assert_eq!(std::fs::read(torn.kept).unwrap(), whole[seventh..cut]);
        }
        drop(log);
        assert_eq!(world.verify().findings, [], "cut at {cut}");
    }
    let mut log = world.open();
    fill(&mut log, 9);
    assert_eq!(sequences(&log), (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_last_record_that_is_not_the_one_of_the_index_is_torn_too() {
    let world = World::new();
    fill(&mut world.open(), 7);
    let records = world.log().join(Part::Records.name(1));
    let text = read(&records).replace("client-000007", "client-000008");
    std::fs::write(&records, text).unwrap();
    let (log, opened) = Log::open(world.settings.clone()).unwrap();
    assert_eq!((log.written(), opened.torn.unwrap().after), (6, 6));
}

#[test]
fn what_a_checkpoint_covers_is_never_cut_off() {
    let world = World::new();
    fill(&mut world.open(), 8);
    let records = world.log().join(Part::Records.name(1));
    let whole = read(&records);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    std::fs::write(&records, lines[..4].concat()).unwrap();
    let why = world.refused();
    assert!(why.contains("record 5 is missing or is not the one that was written"), "{why}");
    assert!(why.contains("mqgate audit verify"), "{why}");
    std::fs::write(&records, whole.replace("client-000003", "client-000009")).unwrap();
    assert!(world.refused().contains("record 4 is missing"), "{}", world.refused());
    std::fs::write(&records, &whole).unwrap();
    assert_eq!(world.open().written(), 8);
}

#[test]
fn torn_notes_and_lists_are_made_whole_again() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 40);
    log.checkpoint(at(40)).unwrap();
    fill(&mut log, 41);
    log.checkpoint(at(41)).unwrap();
    drop(log);
    let segments = mqgate_audit::files::segments(&world.log()).unwrap();
    let last = *segments.last().unwrap();
    let notes = world.log().join(Part::Checkpoints.name(last));
    let text = read(&notes);
    for cut in [1, 30, 150, text.len() - 1, text.len()] {
        std::fs::write(&notes, &text[..text.floor_char_boundary(cut)]).unwrap();
        world.open();
        assert_eq!(world.verify().findings, [], "cut at {cut}");
        std::fs::write(&notes, &text).unwrap();
    }
    // The last segment was sealed, and its line in the list is torn: it is sealed again.
    let list = world.log().join("segments.jsonl");
    let whole = std::fs::read(&list).unwrap();
    let records = world.log().join(Part::Records.name(last));
    assert!(std::fs::metadata(&records).unwrap().len() < world.settings.segment_bytes);
    for part in Part::ALL {
        std::fs::remove_file(world.log().join(part.name(last))).unwrap();
    }
    std::fs::write(&list, &whole[..whole.len() - 10]).unwrap();
    let mut log = world.open();
    assert_eq!(log.written(), last - 1);
    fill(&mut log, 50);
    log.checkpoint(at(50)).unwrap();
    assert_eq!(world.verify().findings, []);
}

/// Where the process that is killed has its log.
const CHILD: &str = "MQGATE_AUDIT_CHILD";

/// Not a test of its own: the process that the others kill. It writes as fast as it can, and says what is durable.
#[test]
#[ignore = "full: run by the tests that kill it"]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let mut world = World::new();
    world.settings.path = path.into();
    world.settings.key_file = world.settings.path.with_extension("key");
    world.settings.segment_bytes = 20_000;
    world.settings.keep = 3;
    let mut log = world.open();
    let mut retire = None;
    for round in 0_u64.. {
        let mut events: Vec<_> = (0..round % 40).map(|number| event(log.written() + number)).collect();
        if let Some(outdated) = log.outdated() {
            let mut told = event(0);
            told.name = names::AUDIT_RETENTION;
            events.push(told.field("through_seq", outdated.through.to_string()));
            retire = Some(outdated.through);
        }
        log.append(at(round), &events).unwrap();
        if round % 3 == 0 {
            log.sync().unwrap();
            mqgate_said(&format!("durable {}", log.written()));
            if let Some(through) = retire.take() {
                log.retire(through).unwrap();
            }
        }
        log.checkpoint_if_due(at(round)).unwrap();
        if round % 50 == 49 {
            log.rotate_key(at(round)).unwrap();
        }
    }
}

/// Past the test harness, which keeps what is printed.
fn mqgate_said(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

fn kill(times: u32) {
    let world = World::new();
    let mut settings = world.settings.clone();
    settings.key_file = settings.path.with_extension("key");
    let mut random = 0x9e37_79b9_u32;
    for round in 0..times {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--ignored", "--nocapture"])
            .env(CHILD, &settings.path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut wanted = 1 + (random >> 26);
        let mut durable = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, number)) = line.split_once("durable ") {
                durable = number.parse().unwrap();
                wanted = wanted.saturating_sub(1);
            }
            if wanted == 0 {
                break;
            }
        }
        child.kill().unwrap();
        // What it said before it died counts, too.
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("durable ") {
                durable = number.parse().unwrap_or(durable);
            }
        }
        child.wait().unwrap();
        assert!(durable > 0, "round {round}: it wrote nothing");
        let (mut log, _) = Log::open(settings.clone()).unwrap();
        assert!(
            log.written() >= durable,
            "round {round}: {} is there, {durable} was promised",
            log.written()
        );
        log.checkpoint(at(0)).unwrap();
        drop(log);
        let report = world.verify();
        assert_eq!(report.findings, [], "round {round}");
    }
}

#[test]
fn what_is_durable_survives_sigkill() {
    kill(4);
}

#[test]
#[ignore = "full: 200 processes are killed"]
fn what_is_durable_survives_sigkill_two_hundred_times() {
    kill(200);
}
