use std::path::Path;
use std::sync::atomic::Ordering as AtomicOrdering;

use mqgate_identity::audit::policy::{Level, Match, Rule};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{AuditSink, ChainMember, FailureKind, HookFailure, HookFuture, Value};
use mqgate_identity::time::UnixMillis;
use tokio_util::sync::CancellationToken;

use super::coalesce::Coalescer;
use super::*;
use crate::testing::{FakeHook, hooks, metrics};

fn event(name: &'static str) -> AuditEvent {
    AuditEvent::new(name, Outcome::Success, Reason::Ok)
}

fn open(folder: &Path, settings: AuditSettings) -> AuditLog {
    let settings = AuditSettings { path: Some(folder.join("audit.jsonl")), ..settings };
    AuditLog::open(settings, Arc::clone(&metrics().gate)).unwrap()
}

/// `seq name` of each line.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {}", line["seq"], line["name"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn events_are_numbered_written_and_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let log = open(folder.path(), AuditSettings::default());
    log.record(event(names::BROKER_STARTED));
    assert_eq!(log.try_record(event(names::CONNECTION_ACCEPTED)), Ok(2));
    assert_eq!(log.record_durable(event(names::CA_ADDED)).await, Ok(3));
    // Durable means: there, whatever happens next.
    assert_eq!(lines(&file), ["1 broker.started", "2 connection.accepted", "3 ca.added"]);
    log.close();
    assert_eq!(log.try_record(event(names::CA_ADDED)), Err(AuditRefused::Closed));
    assert_eq!(log.record_durable(event(names::CA_ADDED)).await, Err(AuditRefused::Closed));
    assert_eq!(log.check(), Err(AuditRefused::Closed));

    let log = open(folder.path(), AuditSettings::default());
    log.record(event(names::BROKER_STARTED));
    assert_eq!(log.try_record(event(names::CONNECTION_ACCEPTED)), Ok(5));
    log.close();
    assert_eq!(lines(&file)[3..], ["4 broker.started", "5 connection.accepted"]);
}

#[test]
fn a_torn_line_is_cut_off_and_announced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let log = open(folder.path(), AuditSettings::default());
    log.record(event(names::BROKER_STARTED));
    log.close();
    let mut text = std::fs::read(&file).unwrap();
    text.extend_from_slice(b"{\"actor\":\"sys");
    std::fs::write(&file, text).unwrap();
    open(folder.path(), AuditSettings::default()).close();
    assert_eq!(lines(&file), ["1 broker.started", "2 audit.recovered"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(r#""after_seq":"1","bytes":"13""#), "{text}");
}

#[test]
fn a_file_of_an_earlier_version_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    std::fs::write(&file, "{\"seq\":1,\"name\":\"a\"}\n").unwrap();
    let log = open(folder.path(), AuditSettings::default());
    log.record(event(names::BROKER_STARTED));
    log.close();
    assert_eq!(lines(&file), ["1 broker.started"]);
    assert_eq!(lines(&folder.path().join("audit.jsonl.unsealed-1")), ["1 a"]);
}

/// Waits until everything is written.
fn written(log: &AuditLog) {
    let last = log.shared.lock().last_sequence;
    while *log.written().borrow() < last {
        std::thread::yield_now();
    }
}

#[test]
fn segments_are_sealed_by_size_and_so_many_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), AuditSettings { max_bytes: 1000, keep: 2, ..AuditSettings::default() });
    for _ in 0..30 {
        // One batch each.
        log.record(event(names::BROKER_STARTED));
        written(&log);
    }
    log.close();
    let view = View::of_copy(&folder.path().join("audit.jsonl.d")).unwrap();
    let end = view.end();
    assert!(end.oldest > 1, "{end:?}");
    let batch = view.reader(end.oldest - 1).batch(100, usize::MAX).unwrap();
    let told = batch.records.iter().filter(|record| record.parse().unwrap().name == names::AUDIT_RETENTION);
    assert!(told.count() > 0);
    let report =
        mqgate_audit::verify::verify(view.folder(), &mqgate_audit::verify::Request::default()).unwrap();
    assert_eq!(report.findings, []);
}

#[tokio::test]
async fn checkpoints_are_signed_shown_and_published() {
    let folder = tempfile::tempdir().unwrap();
    let witness = tempfile::tempdir().unwrap();
    let settings = AuditSettings {
        checkpoint_records: 2,
        checkpoint_interval: Duration::from_secs(3600),
        publish_folder: Some(witness.path().to_owned()),
        ..AuditSettings::default()
    };
    let log = open(folder.path(), settings);
    let mut checkpoints = log.checkpoints();
    log.record(event(names::BROKER_STARTED));
    log.record(event(names::BROKER_STARTED));
    let signed = checkpoints.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(signed.size, 2);
    log.rotate_key("admin:tests").await.unwrap();
    log.record(event(names::BROKER_STOPPED));
    log.close();
    // The last one is signed and published at the end, whatever the interval.
    let view = log.view().unwrap();
    assert_eq!(view.checkpoint().unwrap().size, 4);
    let file = Folder::new(witness.path()).file(view.id());
    let published = std::fs::read_to_string(&file).unwrap();
    assert!(published.contains("\n4\n"), "{published}");
    let request = mqgate_audit::verify::Request { trusted: &[], published: &[("witness".into(), published)] };
    let report = mqgate_audit::verify::verify(view.folder(), &request).unwrap();
    assert_eq!((report.findings, report.published), (vec![], 4));
    assert!(
        std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap().contains("audit.key_rotated")
    );
}

#[tokio::test]
async fn what_is_personal_is_encrypted_shown_and_erased() {
    let folder = tempfile::tempdir().unwrap();
    let settings = AuditSettings {
        personal: Some(PersonalSettings {
            folder: folder.path().join("subjects"),
            members: vec!["client_id".into()],
        }),
        ..AuditSettings::default()
    };
    let log = open(folder.path(), settings);
    let mut accepted = event(names::CONNECTION_ACCEPTED);
    accepted.client_id = Some("meter 7".into());
    accepted.device_id = Some("d".into());
    log.record_durable(accepted).await.unwrap();
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    assert!(!text.contains("meter 7"), "{text}");
    let record: mqgate_audit::Record = serde_json::from_str(text.trim_end()).unwrap();
    let hidden = record.client_id.unwrap();
    assert_eq!(log.reveal("client_id", &hidden).as_deref(), Some("meter 7"));
    let device = || Subject::parse("device:d").unwrap();
    assert_eq!(log.erase(device(), "admin:tests").await.unwrap(), Some(true));
    assert_eq!(log.erase(device(), "admin:tests").await.unwrap(), Some(false));
    assert_eq!(log.reveal("client_id", &hidden), None);
    log.close();
    // Nobody says that something was destroyed that was not there.
    let names = lines(&folder.path().join("audit.jsonl"));
    assert_eq!(names, ["1 connection.accepted", "2 audit.subject_erased"]);
    let report =
        mqgate_audit::verify::verify(log.view().unwrap().folder(), &mqgate_audit::verify::Request::default());
    assert_eq!(report.unwrap().findings, []);
}

#[test]
fn every_kind_is_counted_under_its_own_labels() {
    let metrics = metrics();
    let log = AuditLog::open(AuditSettings::default(), Arc::clone(&metrics.gate)).unwrap();
    for kind in names::KINDS {
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Error] {
            let counter =
                metrics.gate.audit_records.with_label_values(&[kind.category.as_str(), outcome.as_str()]);
            let before = counter.get();
            log.record(AuditEvent::new(kind.name, outcome, Reason::Ok));
            assert_eq!(counter.get(), before + 1, "{} {outcome:?}", kind.name);
        }
    }
}

/// While rules look at a connection's end, it is whole; one that did not end well always is.
#[test]
fn an_ordinary_end_does_not_say_again_who_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), AuditSettings::default());
    let ended = |reason| {
        let mut event = AuditEvent::new(names::CONNECTION_CLOSED, Outcome::Success, reason);
        event.client_id = Some("c".into());
        event.listener = Some("mqtts".into());
        event.field("ca", "factory").field("initiator", "network")
    };
    log.record(ended(Reason::Ok));
    log.record(ended(Reason::CertRevoked));
    let rule = Rule::new(Match::default(), Level::Full, 1, None, None).unwrap();
    log.set_policy(Policy::new(vec![rule]));
    log.record(ended(Reason::Ok));
    log.close();
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, is_whole) in lines.iter().zip([false, true, true]) {
        assert_eq!(
            (line["client_id"].as_str(), line["fields"]["initiator"].as_str()),
            (Some("c"), Some("network"))
        );
        assert_eq!(
            (line["listener"].is_string(), line["fields"]["ca"].is_string()),
            (is_whole, is_whole),
            "{line}"
        );
    }
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_full_queue_refuses_counts_and_announces() {
    let metrics = metrics();
    let settings = AuditSettings { path: Some("unused".into()), queue: 4, ..AuditSettings::default() };
    // Without the thread nothing leaves the queue.
    let shared = Shared::new(settings, Some(Arc::clone(&metrics.gate)));
    let log = AuditLog::over(Arc::new(shared));
    for sequence in 1..=3 {
        assert_eq!(log.try_record(event(names::CONNECTION_ACCEPTED)), Ok(sequence));
    }
    assert_eq!(log.check(), Err(AuditRefused::QueueFull));
    assert_eq!(log.try_record(event(names::CONNECTION_ACCEPTED)), Err(AuditRefused::QueueFull));
    log.record(event(names::CONNECTION_REFUSED));
    log.record(event(names::CONNECTION_REFUSED));
    let dropped = metrics.gate.audit_dropped.with_label_values(&["file", "queue_full"]);
    assert_eq!(dropped.get(), 2);

    log.shared.lock().queue.clear();
    log.record(event(names::CONNECTION_CLOSED));
    let queue = log.shared.lock().queue.drain(..).map(|entry| entry.event).collect::<Vec<_>>();
    assert_eq!(queue[0].name, names::AUDIT_DROPPED);
    assert!(
        queue[0].fields.iter().any(|field| field.name == "count" && field.value == Value::Text("2".into()))
    );
    assert_eq!((queue[0].sequence, queue[1].sequence), (5, 6));
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes_too() {
    let settings =
        AuditSettings { path: Some("unused".into()), queue_bytes: 40_000, ..AuditSettings::default() };
    let log = AuditLog::over(Arc::new(Shared::new(settings, None)));
    let large = || event(names::PLUGIN_REFUSED).field("detail", "x".repeat(4000));
    for _ in 0..20 {
        log.record(large());
    }
    assert_eq!(log.check(), Err(AuditRefused::QueueFull));
    {
        let state = log.shared.lock();
        assert!((5..=10).contains(&state.queue.len()), "{}", state.queue.len());
    }
    let waiting = log.shared.lock().queue.len();
    let work = writer::next_work(&log.shared, None);
    assert_eq!(work.batch.len(), waiting);
    assert_eq!(log.shared.lock().queue_bytes, 0);
    assert_eq!(log.check(), Ok(()));
}

#[test]
fn refusals_that_are_alike_are_one_record_and_a_count() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), AuditSettings::default());
    let refuse = |address: &str, reason, client_id: String, certificate| {
        let mut event = AuditEvent::new(names::CONNECTION_REFUSED, Outcome::Failure, reason);
        event.client_id = Some(client_id);
        event.certificate_fingerprint = Some(CertificateFingerprint([certificate; 32]));
        log.record_refusal(address.parse().unwrap(), event);
    };
    for number in 0..1000 {
        refuse(&format!("2001:db8::{number}"), Reason::PluginDenied, format!("c{number}"), 1);
    }
    refuse("2001:db8::1", Reason::PluginDenied, "c".into(), 2);
    refuse("2001:db8::1", Reason::PluginTimeout, "c".into(), 1);
    refuse("2001:db8:0:1::1", Reason::PluginDenied, "c".into(), 1);
    log.flush_refusals();
    log.close();
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    let count: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let fields = &count["fields"];
    assert_eq!(fields["count"], "999", "{text}");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let times = [&first["time"], &fields["first"], &fields["last"], &count["time"]];
    let times = times.map(|time| time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    assert!(times[1] <= times[2] && times[2] <= times[3], "{times:?}");
    assert!((times[0] - times[1]).total(jiff::Unit::Second).unwrap().abs() < 1.0, "{times:?}");
}

#[test]
fn a_file_that_cannot_be_written_refuses_admissions() {
    let log = AuditLog::default();
    log.shared.failing.store(true, AtomicOrdering::SeqCst);
    assert_eq!(log.try_record(event(names::CONNECTION_ACCEPTED)), Err(AuditRefused::WriteFailed));
    assert_eq!(log.check(), Err(AuditRefused::WriteFailed));
}

#[tokio::test]
async fn what_is_written_down_too_late_is_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), AuditSettings::default());
    log.shared.failing.store(true, AtomicOrdering::SeqCst);
    let started = std::time::Instant::now();
    assert_eq!(log.admit_durable(event(names::ADMIN_ACTION)).await, Err(AuditRefused::WriteFailed));
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waits for a disk that is known to fail");
    log.shared.failing.store(false, AtomicOrdering::SeqCst);
    let given_up = |is_before| {
        let (done, _) = oneshot::channel();
        log.shared.accept(event(names::CA_ADDED), Room::All, Some(Waiter { done, is_before })).unwrap()
    };
    let (happened, did_not) = (given_up(false), given_up(true));
    log.close();
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let taken_back: Vec<&str> = text.lines().filter(|line| line.contains("audit.withdrawn")).collect();
    assert_eq!((taken_back.len(), happened), (1, 1), "{text}");
    let withdrawn = format!(r#""withdrawn_name":"ca.added","withdrawn_seq":"{did_not}""#);
    assert!(taken_back[0].contains(&withdrawn), "{text}");
}

#[tokio::test]
async fn a_record_names_the_request_that_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(open(folder.path(), AuditSettings::default()));
    let (here, elsewhere) = (Arc::clone(&log), Arc::clone(&log));
    let work = async move {
        here.record(event(names::BAN_ADDED));
        request::spawn(async move { elsewhere.record_durable(event(names::CA_ADDED)).await }).await
    };
    request::RequestId::parse("r-1").unwrap().within(work).await.unwrap().unwrap();
    log.record(event(names::CONNECTION_CLOSED));
    log.close();
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let of_it = text.lines().map(|line| line.contains(r#""request_id":"r-1""#)).collect::<Vec<_>>();
    assert_eq!(of_it, [true, true, false], "{text}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file").join("audit.jsonl");
    let settings = AuditSettings { path: Some(path.clone()), ..AuditSettings::default() };
    let error = AuditLog::open(settings, Arc::clone(&metrics().gate)).err().unwrap().to_string();
    assert!(error.starts_with(&format!("audit log {path}: ", path = path.display())), "{error}");
}

fn empty_member() -> ChainMember {
    ChainMember {
        name: "auditor".into(),
        digest: None,
        authenticator: None,
        enhanced_authenticator: None,
        registrar: None,
        authorizer: None,
        auditor: None,
    }
}

fn auditor(hook: &Arc<FakeHook>) -> Arc<ChainMember> {
    Arc::new(ChainMember { auditor: Some(Arc::clone(hook) as _), ..empty_member() })
}

#[tokio::test]
async fn auditors_get_everything_in_order_also_after_a_failure() {
    let hook = Arc::new(FakeHook::default());
    hook.refusals.store(1, AtomicOrdering::SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(open(folder.path(), AuditSettings::default()));
    log.record(event(names::BROKER_STARTED));
    let shutdown = CancellationToken::new();
    let set = hooks(vec![auditor(&hook)]);
    let delivery = tokio::spawn(Arc::clone(&log).deliver(Arc::clone(&set), shutdown.clone()));
    for _ in 0..300 {
        log.record(event(names::CONNECTION_CLOSED));
        tokio::task::yield_now().await;
    }
    while hook.events.lock().unwrap().len() < 301 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shutdown.cancel();
    delivery.await.unwrap();
    let numbers: Vec<_> = hook.events.lock().unwrap().iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=301).collect::<Vec<_>>());
}

/// Fails whenever it gets more events than it can take in its time.
struct Slow {
    most: usize,
    events: Mutex<Vec<u64>>,
    batches: Mutex<Vec<usize>>,
}

impl AuditSink for Slow {
    fn record_events<'a>(&'a self, events: &'a [Arc<AuditEvent>]) -> HookFuture<'a, u64> {
        self.batches.lock().unwrap().push(events.len());
        if events.len() > self.most {
            let failure = HookFailure { kind: FailureKind::Deadline, detail: String::new() };
            return Box::pin(async move { Err(failure) });
        }
        self.events.lock().unwrap().extend(events.iter().map(|event| event.sequence));
        Box::pin(async { Ok(events.last().unwrap().sequence) })
    }
}

#[tokio::test(start_paused = true)]
async fn an_auditor_that_is_given_too_much_is_given_less() {
    for most in [1, 100] {
        let slow = Arc::new(Slow { most, events: Mutex::default(), batches: Mutex::default() });
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(open(folder.path(), AuditSettings::default()));
        for _ in 0..600 {
            log.record(event(names::CONNECTION_CLOSED));
        }
        // The thread that writes knows no virtual time.
        log.durable().wait_for(|durable| *durable >= 600).await.unwrap();
        let shutdown = CancellationToken::new();
        let member = ChainMember { auditor: Some(Arc::clone(&slow) as _), ..empty_member() };
        let set = hooks(vec![Arc::new(member)]);
        let delivery = tokio::spawn(Arc::clone(&log).deliver(set, shutdown.clone()));
        let all = async {
            while slow.events.lock().unwrap().len() < 600 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), all).await.expect("it makes progress");
        shutdown.cancel();
        delivery.await.unwrap();
        assert_eq!(*slow.events.lock().unwrap(), (1..=600).collect::<Vec<_>>());
        let batches = slow.batches.lock().unwrap();
        let least = batches.iter().position(|batch| *batch <= most).unwrap();
        assert!(batches[..least].is_sorted_by(|a, b| a > b), "{batches:?}");
        assert!(batches[least..].iter().any(|batch| *batch > batches[least]), "it grows again: {batches:?}");
    }
}

#[tokio::test]
async fn what_an_auditor_missed_is_announced_to_it() {
    let hook = Arc::new(FakeHook::default());
    let folder = tempfile::tempdir().unwrap();
    let small = AuditSettings { max_bytes: 4_000, keep: 1, ..AuditSettings::default() };
    let log = Arc::new(open(folder.path(), small));
    for _ in 0..100 {
        log.record_durable(event(names::CONNECTION_CLOSED)).await.unwrap();
    }
    while log.view().unwrap().end().oldest == 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let shutdown = CancellationToken::new();
    let set = hooks(vec![auditor(&hook)]);
    let delivery = tokio::spawn(Arc::clone(&log).deliver(Arc::clone(&set), shutdown.clone()));
    while !hook.events.lock().unwrap().iter().any(|event| event.name == names::AUDIT_DROPPED) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shutdown.cancel();
    delivery.await.unwrap();
    let first = hook.events.lock().unwrap()[0].sequence;
    let labels = ["auditor-auditor", "backlog"];
    let dropped = log.shared.metrics.as_ref().unwrap().audit_dropped.with_label_values(&labels);
    assert_eq!(dropped.get(), first - 1);
    let left = log.sinks();
    assert!(left.is_empty(), "it has ended: {left:?}");
}

#[tokio::test]
async fn what_a_sink_has_not_taken_is_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let small = AuditSettings { max_bytes: 4_000, keep: 1, ..AuditSettings::default() };
    let log = open(folder.path(), small.clone());
    log.record(event(names::BROKER_STARTED));
    mqgate_audit::cursor::Cursors::open(log.view().unwrap().folder()).unwrap().write("siem", 0).unwrap();
    log.close();
    let log = open(folder.path(), small);
    for _ in 0..100 {
        log.record_durable(event(names::CONNECTION_CLOSED)).await.unwrap();
    }
    assert_eq!(log.view().unwrap().end().oldest, 1);
    log.keep_for(|_| false);
    while log.view().unwrap().end().oldest == 1 {
        log.record_durable(event(names::CONNECTION_CLOSED)).await.unwrap();
    }
}

/// Takes nothing.
struct Down;

impl sinks::Outlet for Down {
    fn take<'a>(&'a self, _: &'a [sinks::Item]) -> sinks::OutletFuture<'a> {
        Box::pin(async { Err(sinks::OutletError::new("down")) })
    }
}

#[tokio::test]
async fn a_sink_that_took_nothing_before_a_crash_begins_where_it_would_have() {
    let folder = tempfile::tempdir().unwrap();
    let sink = |log: &AuditLog| {
        let stop = CancellationToken::new();
        log.sink("siem", "test", "test", sinks::SinkSettings::default(), Arc::new(Down), stop).unwrap()
    };
    let log = open(folder.path(), AuditSettings::default());
    // Its task never runs.
    drop(sink(&log));
    log.record(event(names::BROKER_STARTED));
    log.close();
    let log = open(folder.path(), AuditSettings::default());
    let (running, work) = sink(&log);
    let task = tokio::spawn(work);
    while running.status().up {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((running.status().cursor, running.status().lag), (0, 1));
    running.stop();
    task.await.unwrap();
}

fn ruled(rule: Rule) -> (tempfile::TempDir, AuditLog) {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), AuditSettings::default());
    log.set_policy(Policy::new(vec![rule]));
    (folder, log)
}

#[tokio::test]
async fn rules_say_what_is_written_down_and_how() {
    let only = |name: &str| Match { action: vec![name.to_owned()], ..Match::default() };
    let accepted = || event(names::CONNECTION_ACCEPTED).field("plugin.detail", "x").field("ca", "factory");
    let rule = Rule::new(only(names::CONNECTION_ACCEPTED), Level::None, 1, None, None).unwrap();
    let (folder, log) = ruled(rule);
    assert_eq!(log.admit(accepted()).await, Ok(0));
    log.record(event(names::CONNECTION_CLOSED));
    log.close();
    assert_eq!(lines(&folder.path().join("audit.jsonl")), ["1 connection.closed"]);

    let durable = Rule::new(only(names::CONNECTION_ACCEPTED), Level::Metadata, 1, None, Some(Mode::Durable));
    let (folder, log) = ruled(durable.unwrap());
    assert_eq!(log.admit(accepted()).await, Ok(1));
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    assert!(text.contains("factory") && !text.contains("plugin.detail"), "{text}");
    assert_eq!(log.view().unwrap().end().durable, 1);

    let best = Rule::new(only(names::CONNECTION_ACCEPTED), Level::Full, 1, None, Some(Mode::BestEffort));
    let (_folder, log) = ruled(best.unwrap());
    log.shared.failing.store(true, AtomicOrdering::SeqCst);
    assert_eq!(log.admit(accepted()).await, Ok(0), "the effect does not wait for it");
    assert_eq!(log.try_record(event(names::DEVICE_ACTIVATED)), Err(AuditRefused::WriteFailed));
    let dropped =
        log.shared.metrics.as_ref().unwrap().audit_dropped.with_label_values(&["file", "write_failed"]);
    assert_eq!(dropped.get(), 2);
    // A sink that is too far behind holds up those who wait for their record, and nobody else.
    log.shared.failing.store(false, AtomicOrdering::SeqCst);
    log.board.refuse_for_test();
    assert_eq!(log.try_record(event(names::DEVICE_ACTIVATED)), Err(AuditRefused::SinkBehind));
    assert_eq!(log.admit(accepted()).await, Ok(1));
    assert_eq!(log.try_record(accepted()), Ok(2));
}

#[test]
fn a_storm_is_one_record_and_a_count() {
    let mut storm = Coalescer::new(Duration::from_secs(10), 2);
    let failed = || event(names::HANDSHAKE_FAILED);
    let counts = |events: Vec<AuditEvent>| -> Vec<Option<String>> {
        let count = |event: &AuditEvent| {
            event.fields.iter().find(|field| field.name == "count").map(|field| match &field.value {
                Value::Text(text) => text.clone(),
                other => panic!("{other:?}"),
            })
        };
        events.iter().map(count).collect()
    };
    let now = |seconds: u64| UnixMillis(seconds * 1000);
    assert_eq!(counts(storm.offer(now(0), "a", failed())), [None]);
    for second in 1..5 {
        assert_eq!(counts(storm.offer(now(second), "a", failed())), []);
    }
    assert_eq!(counts(storm.offer(now(5), "b", failed())), [None]);
    assert_eq!(counts(storm.flush(now(9))), []);
    assert_eq!(counts(storm.flush(now(10))), [Some("4".into())]);
    // A new period, and more keys than are remembered: the oldest is told early.
    assert_eq!(counts(storm.offer(now(11), "a", failed())), [None]);
    assert_eq!(counts(storm.offer(now(12), "b", failed())), []);
    assert_eq!(counts(storm.offer(now(13), "c", failed())), [Some("1".into()), None]);
    // A clock that is set back keeps nothing from being told.
    storm.offer(now(14), "c", failed());
    assert_eq!(counts(storm.offer(now(1), "d", failed())), [Some("1".into()), None]);
    assert_eq!(counts(storm.offer(now(2), "c", failed())), [None]);
    storm.offer(now(3), "c", failed());
    assert_eq!(counts(storm.finish()), [Some("1".into())]);
}
