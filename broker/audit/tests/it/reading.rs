//! Readers: batches, places, logs that grow, copies.

use mqgate_audit::View;

use super::*;

#[test]
fn a_reader_goes_on_where_it_was_and_sees_what_is_new() {
    let world = World::new();
    let mut log = world.open();
    let mut reader = log.view().reader(0);
    assert!(reader.batch(10, usize::MAX).unwrap().records.is_empty());
    fill(&mut log, 30);
    let mut seen = Vec::new();
    while seen.len() < 30 {
        let batch = reader.batch(4, usize::MAX).unwrap();
        assert!((1..=4).contains(&batch.records.len()));
        seen.extend(batch.records.iter().map(|record| record.sequence));
    }
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
    assert!(reader.batch(4, usize::MAX).unwrap().records.is_empty());
    fill(&mut log, 31);
    assert_eq!(reader.batch(4, usize::MAX).unwrap().records[0].sequence, 31);
    for after in [0, 1, 17, 29, 30] {
        reader.seek(after);
        let record = &reader.batch(1, usize::MAX).unwrap().records[0];
        assert_eq!((record.sequence, record.parse().unwrap().seq), (after + 1, after + 1));
    }
}

#[test]
fn a_batch_is_bounded_in_bytes() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 20);
    let mut reader = log.view().reader(0);
    let one = reader.batch(1, usize::MAX).unwrap().records[0].line.len();
    let batch = reader.batch(100, one * 3 + 10).unwrap();
    assert_eq!(batch.records.len(), 3);
    // One that is larger than that comes alone.
    let batch = reader.batch(100, 1).unwrap();
    assert_eq!((batch.records.len(), batch.records[0].sequence), (1, 5));
    assert_eq!(reader.batch(100, usize::MAX).unwrap().records[0].sequence, 6);
}

#[test]
fn a_copy_is_read_without_its_index() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 30);
    log.checkpoint(at(30)).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(world.log()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let view = View::of_copy(copy.path()).unwrap();
    assert_eq!((view.end().written, view.id()), (30, log.view().id()));
    assert_eq!(view.checkpoint().unwrap().size, 30);
    assert_eq!(view.reader(28).batch(9, usize::MAX).unwrap().records.len(), 2);
}

#[test]
fn cut_records_are_told_and_not_passed_over() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 5);
    let mut reader = log.view().reader(2);
    let path = world.log().join(mqgate_audit::files::Part::Records.name(1));
    let text = read(&path);
    let cut: String = text.split_inclusive('\n').take(3).collect();
    std::fs::write(&path, cut).unwrap();
    assert_eq!(reader.batch(1, usize::MAX).unwrap().records.len(), 1);
    let error = reader.batch(10, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("record 4 is not where it should be"), "{error}");
}

#[test]
fn records_are_found_by_what_they_say_page_by_page() {
    use mqgate_audit::query::{Filter, find, moment};
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 50);
    let view = log.view();
    let find = |filter: &Filter, after, limit, scan| {
        let found = find(view, filter, after, (limit, scan), &mut |_, _| None).unwrap();
        let numbers: Vec<u64> = found.records.iter().map(|record| record.seq).collect();
        (numbers, found.after, found.is_end)
    };
    let client = Filter { client_id: Some("client-000033".into()), ..Filter::default() };
    assert_eq!(find(&client, 0, 10, 1000), (vec![33], 50, true));
    assert_eq!(find(&client, 0, 10, 20), (vec![], 20, false), "no more than that is looked at");
    assert_eq!(find(&client, 20, 10, 20), (vec![33], 40, false));
    let all = Filter::default();
    assert_eq!(find(&all, 10, 3, 1000), (vec![11, 12, 13], 13, false));
    let since = |since: u64, until: u64| Filter {
        since: moment(&mqgate_audit::record::time(at(since))),
        until: moment(&mqgate_audit::record::time(at(until))),
        ..Filter::default()
    };
    assert_eq!(find(&since(41, 44), 0, 10, 1000).0, [41, 42, 43]);
    assert!(find(&since(48, 60), 0, 10, 15).0.len() == 3, "it does not begin at the first record");
    let is = |filter: Filter| !find(&filter, 0, 1, 10).0.is_empty();
    assert!(is(Filter { name: Some("connection".into()), ..Filter::default() }));
    assert!(is(Filter { name: Some("connection.accepted".into()), ..Filter::default() }));
    assert!(!is(Filter { name: Some("connect".into()), ..Filter::default() }));
    assert!(is(Filter { peer: Some("192.0.2.7".into()), ..Filter::default() }));
    assert!(is(Filter { peer: Some("192.0.2.7:51712".into()), ..Filter::default() }));
    assert!(!is(Filter { peer: Some("192.0.2.70".into()), ..Filter::default() }));
    assert!(!is(Filter { outcome: Some("failure".into()), ..Filter::default() }));
    assert_eq!(moment("yesterday"), None);
}
