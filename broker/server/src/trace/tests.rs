use std::net::IpAddr;

use mqgate_codec::{Connect, ConnectProperties, ProtocolVersion};

use super::*;
use crate::gate::Accepted;

fn traces(folder: &std::path::Path) -> Traces {
    let limits =
        TraceLimits { folder: folder.to_owned(), running: 2, longest: Duration::from_secs(60), bytes: 4096 };
    let gauge = IntGauge::new("g", "g").unwrap();
    Traces::new(Some(limits), Arc::default(), gauge, IntCounter::new("c", "c").unwrap())
}

fn wanted(name: &str, target: Target) -> Wanted {
    Wanted { name: name.into(), target, duration: Duration::from_secs(10), bytes: 4096, payloads: false }
}

fn client(id: &str) -> Target {
    Target { client_id: Some(id.into()), ..Target::default() }
}

fn handle(address: [u8; 4]) -> ConnectionHandle {
    ConnectionHandle::new(&Accepted {
        id: 1,
        listener: "test".into(),
        accepted_at: UnixMillis(0),
        peer: mqgate_identity::hooks::Peer { address: IpAddr::from(address), port: 1, via_proxy: None },
        transport: crate::metrics::mqtt::Transport::Tcp,
        tls: None,
        certificate: None,
        attributes: Vec::new(),
        server_certificate: None,
    })
}

fn connect(id: &'static str) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: ProtocolVersion::V5,
        bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: id.into(),
        will: None,
        user_name: Some("ann".into()),
        password: Some(bytes::Bytes::from_static(b"correct horse")),
        properties: ConnectProperties::default(),
    }))
}

/// Everything in the file once its thread has ended.
fn content(traces: &Traces, name: &str) -> String {
    let file = traces.stop(name).unwrap().file.clone();
    for _ in 0..10_000 {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.ends_with('\n') {
            return text;
        }
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing was written")
}

#[test]
fn a_client_that_is_not_let_in_is_traced_by_the_name_it_brings_and_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(folder.path());
    assert!(!traces.is_active());
    traces.start(wanted("one", client("seven"))).unwrap();
    assert!(traces.is_active());
    let on = handle([192, 0, 2, 7]);
    traces.packet(&on, Direction::In, &connect("eight"));
    traces.packet(&on, Direction::In, &connect("seven"));
    let text = content(&traces, "one");
    assert!(
        text.contains("CONNECT") && text.contains("id=\"seven\"") && text.contains("user=\"ann\""),
        "{text}"
    );
    assert!(!text.contains("horse") && !text.contains("eight"), "{text}");
    assert!(!traces.is_active());
}

#[test]
fn every_condition_has_to_match() {
    let network = "192.0.2.0/24".parse::<Network>().unwrap();
    let both = Target { address: Some(network), ..client("seven") };
    assert!(both.is_client(&handle([192, 0, 2, 7]), Some("seven")));
    assert!(!both.is_client(&handle([203, 0, 113, 7]), Some("seven")));
    assert!(!both.is_client(&handle([192, 0, 2, 7]), Some("eight")));
    let topic = Target { topic: Some(TopicFilter::parse("a/#".into()).unwrap()), ..Target::default() };
    assert!(topic.covers_topic(&TopicName::parse("a/b".into()).unwrap()));
    assert!(!topic.covers_topic(&TopicName::parse("b".into()).unwrap()));
    assert!(!topic.covers_packet(&Packet::PingReq));
}

#[test]
fn a_file_has_its_size_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(folder.path());
    let trace = traces.start(wanted("one", client("seven"))).unwrap();
    let on = handle([192, 0, 2, 7]);
    for _ in 0..100 {
        traces.packet(&on, Direction::In, &connect("seven"));
    }
    for _ in 0..10_000 {
        if trace.writer.is_full() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(trace.writer.is_full() && trace.writer.bytes() <= 4096);
    traces.expire(clock::now());
    assert!(traces.list().is_empty(), "one that is full ends");
}

#[test]
fn what_cannot_be_traced_is_refused_by_kind() {
    let folder = tempfile::tempdir().unwrap();
    let traces = traces(folder.path());
    let start = |wanted| traces.start(wanted).err();
    assert!(matches!(start(wanted("../etc", client("c"))), Some(TraceError::Name)));
    assert!(matches!(start(wanted("a", Target::default())), Some(TraceError::Target)));
    let long = Wanted { duration: Duration::from_secs(61), ..wanted("a", client("c")) };
    assert!(matches!(start(long), Some(TraceError::Duration(60))));
    let large = Wanted { bytes: 4097, ..wanted("a", client("c")) };
    assert!(matches!(start(large), Some(TraceError::Bytes(4096))));
    assert!(start(wanted("a", client("c"))).is_none());
    assert!(matches!(start(wanted("a", client("c"))), Some(TraceError::Exists)));
    assert!(start(wanted("b", client("c"))).is_none());
    assert!(matches!(start(wanted("c", client("c"))), Some(TraceError::TooMany(2))));
    traces.expire(UnixMillis(u64::MAX));
    assert!(!traces.is_active(), "their time is over");
    assert!(matches!(start(wanted("a", client("c"))), Some(TraceError::Exists)), "the file stays");
}
