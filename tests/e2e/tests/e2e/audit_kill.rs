//! The broker is killed under load, again and again: what it answered is recorded, the log verifies, and every kind of sink
//! has seen every record.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mqgate_client::{Client, Event};
use mqgate_codec::QoS;
use mqgate_e2e::{Broker, eventually};
use serde_json::Value;

use crate::audit_log::verify;
use crate::audit_sinks::{Collector, sequences};
use crate::operating::anybody;

type Seen = Arc<Mutex<BTreeSet<u64>>>;

fn note(seen: &Seen, sequence: u64) {
    seen.lock().unwrap().insert(sequence);
}

/// The numbers that stand behind `mark` in a text: `"seq":` of JSON lines among other things.
fn numbers(text: &str, mark: &str) -> BTreeSet<u64> {
    let rest = text.split(mark).skip(1);
    // A number that nothing follows may be cut.
    let digits = rest.filter_map(|rest| Some(&rest[..rest.find(|c: char| !c.is_ascii_digit())?]));
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

/// Whole lines only: one that is torn comes again.
fn numbers_of_lines(file: &Path) -> BTreeSet<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    numbers(whole, "\"seq\":")
}

/// Takes messages of syslog, each with its length in front; what a lost connection left unfinished counts for nothing.
fn syslog() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let taken = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || {
                let (mut waiting, mut buffer) = (Vec::new(), [0; 65536]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    waiting.extend_from_slice(&buffer[..length]);
                    while let Some(message) = next_message(&mut waiting) {
                        numbers(&message, "\"seq\":").into_iter().for_each(|sequence| note(&taken, sequence));
                    }
                }
            });
        }
    });
    (address, seen)
}

fn next_message(waiting: &mut Vec<u8>) -> Option<String> {
    let space = waiting.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&waiting[..space]).unwrap().parse().unwrap();
    let end = space + 1 + length;
    let message = String::from_utf8(waiting.get(space + 1..end)?.to_vec()).unwrap();
    waiting.drain(..end);
    Some(message)
}

fn journal(path: &Path) -> Seen {
    let (socket, seen) = (UnixDatagram::bind(path).unwrap(), Seen::default());
    let taken = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 18];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            numbers(&text, "\nMQGATE_SEQ=").into_iter().for_each(|sequence| note(&taken, sequence));
        }
    });
    seen
}

/// A subscriber of another broker, to which records are published. It has a thread of its own: while a test waits for a
/// process, what is not read would be too much for its queue.
async fn subscriber(other: &Broker) -> Seen {
    let (seen, options) = (Seen::default(), other.plain_options("archive"));
    let taken = Arc::clone(&seen);
    let (tell, ready) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (mut client, _) = Client::connect(options).await.unwrap();
            client.subscribe(&[("open/audit/#", QoS::AtLeastOnce)]).await.unwrap();
            tell.send(()).unwrap();
            while let Event::Message(message) = client.recv().await {
                let record: Value = serde_json::from_slice(&message.payload).unwrap();
                note(&taken, record["seq"].as_u64().unwrap());
            }
        });
    });
    ready.await.unwrap();
    seen
}

/// What was answered is recorded, whenever the broker is killed.
#[expect(clippy::print_stderr, reason = "tests speak to the person who runs them")]
async fn kills(times: u32) {
    let (hook, otlp) = (Collector::start(), Collector::start());
    let (syslog_address, of_syslog) = syslog();
    let other = anybody().start().await;
    let of_topic = subscriber(&other).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("records.jsonl"), folder.path().join("journal"));
    let of_journal = journal(&socket);
    let sinks = format!(
        "[audit.sinks.file]\npath = \"{}\"\nrotate_size = \"4 GiB\"\n\
         [audit.sinks.stdout]\ntype = \"stdout\"\n\
         [audit.sinks.journal]\ntype = \"journald\"\npath = \"{}\"\n\
         [audit.sinks.syslog]\ntype = \"syslog\"\naddress = \"tcp://{syslog_address}\"\n\
         [audit.sinks.hook]\ntype = \"webhook\"\nurl = \"{}\"\n\
         [audit.sinks.otlp]\ntype = \"otlp\"\nurl = \"http://{}/v1/logs\"\n\
         [audit.sinks.topic]\ntype = \"mqtt\"\naddress = \"mqtt://127.0.0.1:{}\"\n\
         topic = \"open/audit/${{name}}\"\n",
        file.display(),
        socket.display(),
        hook.url(),
        otlp.address,
        other.port(),
    );
    let mut broker = Broker::builder().with_bundled_plugins().config(&sinks).start().await;
    // An auditor that is new begins with what comes. Once it has seen something, it has kept where it is.
    let told = broker.folder.join("broker.log");
    eventually("the auditor has begun", async || (!numbers_of_lines(&told).is_empty()).then_some(())).await;
    // Segments are sealed while the broker is killed, and all are kept.
    broker.rewrite(|text| text.replace("[audit]\n", "[audit]\nrotate_size = \"8 MiB\"\nrotate_keep = 0\n"));
    broker.kill_and_restart();
    let mut registered = Vec::new();
    for round in 0..times {
        let devices: Vec<_> =
            (0..3).map(|number| broker.pki.device(&format!("device-{round}-{number}"))).collect();
        let mut load = tokio::task::JoinSet::new();
        for device in &devices {
            let fingerprint = device.fingerprint.clone();
            let options = broker.options(&fingerprint[..20], device);
            // Comes in again and again until the broker is gone.
            load.spawn(async move {
                let mut came_in = false;
                while let Ok((client, _)) = Client::connect(options.clone()).await {
                    came_in = true;
                    drop(client);
                }
                came_in.then_some(fingerprint)
            });
        }
        let first = devices[0].fingerprint.clone();
        broker.audited("the first", |line| line["fingerprint"] == first.as_str()).await;
        broker.kill_and_restart();
        registered.extend(load.join_all().await.into_iter().flatten());
        let (holds, report) = verify(&broker, &[broker.folder.join("audit.jsonl").to_str().unwrap()]);
        assert!(holds, "round {round}: {report}");
    }
    // Of all segments.
    let log = broker.folder.join("audit.jsonl");
    let lines = broker.admin().run(&["audit", "export", "--log", log.to_str().unwrap()]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for fingerprint in &registered {
        let is_told = lines
            .iter()
            .any(|line| line["name"] == "device.registered" && line["fingerprint"] == fingerprint.as_str());
        assert!(is_told, "{fingerprint} came in, and no record says that it was registered");
    }
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], number + 1);
    }
    let all: BTreeSet<u64> = (1..=lines.len() as u64).collect();
    let of = |seen: &Seen| seen.lock().unwrap().clone();
    type Numbers<'a> = Box<dyn Fn() -> BTreeSet<u64> + 'a>;
    let seen: [(&str, Numbers<'_>); 8] = [
        ("file", Box::new(|| numbers_of_lines(&file))),
        ("stdout", Box::new(|| numbers_of_lines(&broker.folder.join("stdout.log")))),
        ("journal", Box::new(|| of(&of_journal))),
        ("syslog", Box::new(|| of(&of_syslog))),
        ("hook", Box::new(|| sequences(&hook.records()))),
        ("otlp", Box::new(|| sequences(&otlp.otlp_records()))),
        ("topic", Box::new(|| of(&of_topic))),
        // It says what it is told in the broker's log.
        ("auditor-audit-log", Box::new(|| numbers_of_lines(&told))),
    ];
    let mut known: Vec<String> = broker
        .admin()
        .json(&["audit", "sinks"])
        .as_array()
        .unwrap()
        .iter()
        .map(|sink| sink["name"].as_str().unwrap().to_owned())
        .collect();
    known.sort_unstable();
    let mut asked: Vec<&str> = seen.iter().map(|(name, _)| *name).collect();
    asked.sort_unstable();
    assert_eq!(known, asked);
    eprintln!("{times} kills, {} records, {} devices came in", lines.len(), registered.len());
    for (name, numbers) in &seen {
        let what = format!("{name} has seen all {} records", all.len());
        eventually(&what, async || numbers().is_superset(&all).then_some(())).await;
    }
}

#[tokio::test]
async fn a_killed_broker_has_recorded_what_it_answered_and_every_sink_has_seen_it() {
    kills(3).await;
}

#[tokio::test]
#[ignore = "full: a broker is killed 200 times"]
async fn a_broker_that_is_killed_200_times_has_recorded_what_it_answered_and_every_sink_has_seen_it() {
    kills(200).await;
}
