//! Sinks of the audit log: each gets every record at least once, also when it is down for a while or the broker is killed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use mqgate_client::{Client, Event};
use mqgate_codec::QoS;
use mqgate_e2e::broker::BrokerBuilder;
use mqgate_e2e::{Broker, eventually};
use serde_json::Value;

use crate::operating::anybody;

/// What was posted: its headers in lower case, and its body.
type Posted = (String, Vec<u8>);

/// A server of HTTP that takes what is posted, with the answer that it is told to give.
pub struct Collector {
    pub address: SocketAddr,
    answer: Arc<AtomicU16>,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, posted) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(Vec::new())));
        let (status, taken) = (Arc::clone(&answer), Arc::clone(&posted));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream, &status, &taken);
            }
        });
        Self { address, answer, posted }
    }

    pub fn url(&self) -> String {
        format!("http://{}/audit", self.address)
    }

    /// Every record that came in a batch that was taken, in order.
    pub fn records(&self) -> Vec<Value> {
        let posted = self.posted.lock().unwrap();
        let batches = posted.iter().filter(|(head, _)| head.contains("x-mqgate-kind: records"));
        let lines = batches.flat_map(|(_, body)| body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(&line).unwrap()).collect()
    }

    /// The same of one that is sent OTLP.
    pub fn otlp_records(&self) -> Vec<Value> {
        let posted = self.posted.lock().unwrap();
        let bodies = posted.iter().map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap());
        let records = bodies.flat_map(|body| {
            body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().cloned().unwrap_or_default()
        });
        records
            .map(|record| serde_json::from_str(record["body"]["stringValue"].as_str().unwrap()).unwrap())
            .collect()
    }
}

fn serve(stream: TcpStream, status: &AtomicU16, taken: &Mutex<Vec<Posted>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    // Without one it broke off: whoever sent it was killed.
    let Some(length) = length else { return Ok(()) };
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = status.load(Ordering::SeqCst);
    if status == 200 {
        taken.lock().unwrap().push((head, body));
    }
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
    reader.into_inner().write_all(answer.as_bytes())
}

fn with_sinks(sinks: &str) -> BrokerBuilder {
    let rules = "[[policy.acls.any.rules]]\ntopic = \"audit/#\"\n";
    Broker::builder()
        .tcp()
        .with_native("anonymous", "config = { acl = \"any\" }")
        .config(&format!("{rules}\n{sinks}"))
}

pub fn sequences<'a>(records: impl IntoIterator<Item = &'a Value>) -> BTreeSet<u64> {
    records.into_iter().filter_map(|record| record["seq"].as_u64()).collect()
}

async fn come_and_go(broker: &Broker, times: usize) {
    for number in 0..times {
        let (client, _) = Client::connect(broker.plain_options(&format!("c{number}"))).await.unwrap();
        client.disconnect().await.unwrap();
    }
}

/// Everything that is in the log now has come.
async fn caught_up(broker: &Broker, what: &str, seen: impl Fn() -> BTreeSet<u64>) {
    let wanted = sequences(&broker.audit());
    eventually(what, async || seen().is_superset(&wanted).then_some(())).await;
}

#[tokio::test]
async fn a_webhook_that_is_down_gets_everything_when_it_is_back() {
    let collector = Collector::start();
    let sinks = format!(
        "[audit.sinks.hook]\ntype = \"webhook\"\nurl = \"{}\"\nsecret = \"key\"\nmax_backoff = \"500ms\"\n\
         checkpoints = true\n",
        collector.url()
    );
    let mut broker = with_sinks(&sinks).start().await;
    caught_up(&broker, "the first records", || sequences(&collector.records())).await;
    collector.answer.store(503, Ordering::SeqCst);
    come_and_go(&broker, 20).await;
    let admin = broker.admin();
    let lags = async || {
        let sinks = admin.json(&["audit", "sinks"]);
        let hook = sinks.as_array()?.iter().find(|sink| sink["name"] == "hook")?.clone();
        (hook["up"] == false && hook["lag"].as_u64()? >= 40).then_some(hook)
    };
    let hook = eventually("the lag", lags).await;
    assert!(hook["problem"].as_str().unwrap().contains("503"), "{hook}");
    assert_eq!(admin.metric("mqgate_audit_sink_up{sink=\"hook\"}"), 0.0);
    assert!(admin.metric("mqgate_audit_sink_lag_records{sink=\"hook\"}") >= 40.0);
    admin.run(&["audit", "check", "--now"]);
    let found = admin.json(&["audit", "findings", "--check", "AUDIT_SINK_DOWN"]);
    assert_eq!(found[0]["resource"]["id"], "hook", "{found}");
    // What it has not taken outlives the broker.
    broker.kill_and_restart();
    collector.answer.store(200, Ordering::SeqCst);
    caught_up(&broker, "all records", || sequences(&collector.records())).await;
    let posted = collector.posted.lock().unwrap().clone();
    let (head, body) = posted.iter().find(|(head, _)| head.contains("x-mqgate-kind: records")).unwrap();
    assert!(head.contains("x-mqgate-signature: t=") && head.contains("idempotency-key: "), "{head}");
    assert!(body.ends_with(b"}\n"));
    drop(posted);
    let notes = async || {
        let posted = collector.posted.lock().unwrap();
        posted.iter().any(|(head, _)| head.contains("x-mqgate-kind: checkpoint")).then_some(())
    };
    eventually("a checkpoint", notes).await;
    let admin = broker.admin();
    admin.run(&["audit", "check", "--now"]);
    assert_eq!(admin.json(&["audit", "findings", "--check", "AUDIT_SINK_DOWN"]), serde_json::json!([]));
    assert_eq!(
        admin.json(&["audit", "findings", "--check", "AUDIT_NO_EXTERNAL_CHECKPOINT"]),
        serde_json::json!([])
    );
}

#[tokio::test]
async fn records_go_to_a_file_a_collector_a_topic_and_who_is_named_by_a_rule() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = (folder.path().join("whole.jsonl"), folder.path().join("part.cef"));
    let sinks = format!(
        "[audit.sinks.whole]\npath = \"{}\"\n\n\
         [audit.sinks.part]\npath = \"{}\"\nformat = \"cef\"\n\n\
         [audit.sinks.otlp]\ntype = \"otlp\"\nurl = \"http://{}/v1/logs\"\n\n\
         [audit.sinks.topic]\ntype = \"mqtt\"\n\n\
         [[audit.rules]]\nmatch = {{ action = [\"connection.accepted\"] }}\nlevel = \"metadata\"\n\n\
         [[audit.rules]]\nmatch = {{ action = [\"connection.closed\"] }}\nlevel = \"none\"\n\n\
         [[audit.rules]]\nmatch = {{ category = [\"system\"] }}\nsinks = [\"whole\", \"otlp\"]\n",
        whole.display(),
        part.display(),
        collector.address,
    );
    let broker = with_sinks(&sinks).start().await;
    let (mut listening, _) = Client::connect(broker.plain_options("listening")).await.unwrap();
    listening.subscribe(&[("audit/#", QoS::AtLeastOnce)]).await.unwrap();
    come_and_go(&broker, 3).await;
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let of_file = || {
        let text = lines(&whole);
        sequences(&text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>())
    };
    caught_up(&broker, "the file", of_file).await;
    caught_up(&broker, "the collector", || sequences(&collector.otlp_records())).await;
    loop {
        let Event::Message(message) = listening.recv().await else { panic!("it was disconnected") };
        let record: Value = serde_json::from_slice(&message.payload).unwrap();
        if record["client_id"] == "c2" {
            assert_eq!(message.topic.as_str(), "audit/authn/connection.accepted");
            break;
        }
    }
    let names: BTreeSet<String> =
        broker.audit().iter().map(|record| record["name"].as_str().unwrap().to_owned()).collect();
    assert!(names.contains("connection.accepted") && !names.contains("connection.closed"), "{names:?}");
    let part =
        eventually("the other file", async || Some(lines(&part)).filter(|text| text.contains("suid=c2")))
            .await;
    assert!(part.starts_with("CEF:0|mqgate|") && !part.contains("cat=system"), "{part}");
    // A sink that is taken out of the configuration ends; the others go on.
    broker.rewrite(|text| text.replace("[audit.sinks.topic]\ntype = \"mqtt\"\n", ""));
    let admin = broker.admin();
    admin.run(&["reload"]);
    let gone = async || {
        let sinks = admin.json(&["audit", "sinks"]);
        let names: Vec<_> = sinks.as_array()?.iter().map(|sink| sink["name"].as_str()).collect();
        (!names.contains(&Some("topic")) && names.contains(&Some("whole"))).then_some(())
    };
    eventually("one sink less", gone).await;
}

#[tokio::test]
async fn syslog_goes_over_tls_with_its_length_in_front() {
    let broker = anybody().start().await;
    let (address, received) = syslog_collector(&broker);
    let ca = broker.pki.ca();
    broker.rewrite(|text| {
        format!(
            "{text}\n[audit.sinks.siem]\ntype = \"syslog\"\naddress = \"tls://localhost:{}\"\ntls.cacertfile = \"{}\"\n",
            address.port(),
            ca.display()
        )
    });
    broker.admin().run(&["reload"]);
    come_and_go(&broker, 3).await;
    let wanted = async || {
        let text = String::from_utf8_lossy(&received.lock().unwrap()).into_owned();
        text.contains("\"client_id\":\"c2\"").then_some(text)
    };
    let text = eventually("the messages", wanted).await;
    let (length, rest) = text.split_once(' ').unwrap();
    let message = &rest[..length.parse().unwrap()];
    assert!(message.starts_with('<') && message.contains(" mqgate ") && message.ends_with('}'), "{message}");
}

/// A server of TLS that keeps what it is told.
fn syslog_collector(broker: &Broker) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    use rustls::pki_types::pem::PemObject as _;
    let pki = broker.folder.join("pki");
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(pki.join("server.pem")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(pki.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, received) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let (config, taken) = (Arc::new(config), Arc::clone(&received));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = tls.read(&mut buffer) {
                taken.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        }
    });
    (address, received)
}
