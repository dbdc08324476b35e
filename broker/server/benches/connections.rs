//! What connections cost, a thousand of them and two hundred thousand: memory of one that is idle, and time to
//! connect, to be pinged and to be sent a message. The code is that of real connections; the transport is in
//! memory, because a process may not have so many sockets. Prints a line of JSON for each point; `cargo xtask
//! curves` draws them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mqgate_codec::{
    Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS,
    Subscribe, SubscriptionOptions, TopicFilter, TopicName, encode,
};
use mqgate_identity::hooks::{AclRule, Effect, GrantLimits, Peer, RetainMatch};
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::limits::Limits;
use mqgate_protocol::permit::{Granted, Permit};
use mqgate_server::audit::{AuditLog, AuditSettings};
use mqgate_server::broker::{Admitter, Broker, BrokerParts, serve};
use mqgate_server::gate::{Accepted, Admission};
use mqgate_server::metrics::mqtt::{MqttMetrics, Transport};
use mqgate_server::metrics::{BuildInfo, Metrics};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

const VERSION: ProtocolVersion = ProtocolVersion::V5;
/// Clients that are pinged and sent messages: as many for every count, so that what is compared is one.
const ASKED: usize = 1_000;
const ROUNDS: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let of_one = arguments.by_ref().find_map(|argument| argument.strip_prefix("--count=")?.parse().ok());
    if let Some(count) = of_one {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        return runtime.block_on(connections(count));
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let counts: &[usize] =
        if quick { &[1_000, 10_000] } else { &[1_000, 5_000, 19_000, 50_000, 100_000, 200_000] };
    // Each in a process of its own: memory that others gave back would be used again.
    let this = std::env::current_exe().expect("it was started");
    for count in counts {
        let status = Command::new(&this).arg(format!("--count={count}")).status().expect("it starts again");
        assert!(status.success(), "{count} connections: {status}");
    }
}

/// One point of a curve.
fn point(curve: &str, x: usize, unit: &str, y: f64) {
    let mut out = io::stdout().lock();
    writeln!(out, "{{\"curve\":\"{curve}\",\"x\":{x},\"unit\":\"{unit}\",\"y\":{y:.1}}}")
        .expect("whoever reads this waits for the end");
}

async fn connections(count: usize) {
    let broker = broker();
    let shutdown = CancellationToken::new();
    tokio::spawn(Arc::clone(&broker).housekeeping(shutdown.clone()));
    let mut wires = Vec::with_capacity(count);
    let before = resident();
    let started = Instant::now();
    for number in 0..count {
        let wire = dial(&broker, &shutdown);
        wire.send(&connect(number));
        wire.send(&subscribe(number));
        wires.push(wire);
        if number % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    for wire in &wires {
        wire.answered(CONNACK_AND_SUBACK).await;
    }
    point("connect-in-memory", count, "ns", each(started.elapsed(), count));
    // What the tasks gave back has been given back after a moment of rest.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let transport = size_of::<Wire>() + size_of::<Arc<Wire>>();
    let resident = resident().saturating_sub(before) as f64 / count as f64;
    point("memory-connection", count, "bytes", resident - transport as f64);

    let asked: Vec<&Arc<Wire>> = (0..ASKED).map(|number| &wires[number * (count / ASKED)]).collect();
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        asked.iter().for_each(|wire| wire.send(&Packet::PingReq));
        for wire in &asked {
            wire.answered(1).await;
        }
        least = least.min(started.elapsed());
    }
    point("ping-connection", count, "ns", each(least, ASKED));

    let publisher = &wires[0];
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        (0..ASKED).for_each(|number| publisher.send(&publish(number * (count / ASKED))));
        for wire in &asked {
            wire.answered(1).await;
        }
        least = least.min(started.elapsed());
    }
    point("deliver-connection", count, "ns", each(least, ASKED));
    shutdown.cancel();
    for wire in &wires {
        wire.closed().await;
    }
}

fn broker() -> Arc<Broker> {
    let metrics = Metrics::new(&BuildInfo::default()).expect("an empty registry");
    let settings = AuditSettings { path: None, ..AuditSettings::default() };
    let parts = BrokerParts {
        admitter: Admitter::Rule(Box::new(|_: &Accepted, connect: &Connect| {
            Admission::Admitted(Box::new(permit(connect)))
        })),
        audit: Arc::new(AuditLog::open(settings, Arc::clone(&metrics.gate)).expect("it has no file")),
        metrics: Arc::new(MqttMetrics::register(metrics.registry()).expect("other names")),
        limits: Limits { sessions: 1_000_000, ..Limits::default() },
        listener_limits: HashMap::new(),
    };
    Broker::new(parts)
}

fn permit(connect: &Connect) -> Permit {
    Permit::granted_by(&Granted {
        client_id: connect.client_id.clone(),
        assigned: false,
        device_id: &connect.client_id,
        tenant: None,
        certificate_fingerprint: None,
        rules: &[AclRule {
            effect: Effect::Allow,
            publish: true,
            subscribe: true,
            filter: "#".into(),
            qos: 0b111,
            retain: RetainMatch::Any,
        }],
        otherwise: Effect::Deny,
        limits: GrantLimits::default(),
        valid_for: None,
        generation: 0,
    })
    .expect("it is a grant")
}

fn dial(broker: &Arc<Broker>, shutdown: &CancellationToken) -> Arc<Wire> {
    let wire = Arc::new(Wire::default());
    let accepted = Accepted {
        id: broker.next_connection_id(),
        listener: "memory".into(),
        accepted_at: UnixMillis(0),
        transport: Transport::Tcp,
        peer: Peer { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
        tls: None,
        certificate: None,
        attributes: Vec::new(),
        server_certificate: None,
    };
    let end = BrokersEnd(Arc::clone(&wire));
    tokio::spawn(serve(end, accepted, Arc::clone(broker), shutdown.clone()));
    wire
}

fn connect(number: usize) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: VERSION,
        bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: format!("meter-{number}").into(),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }))
}

fn subscribe(number: usize) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).expect("not 0"),
        filters: vec![(
            TopicFilter::parse(format!("meters/{number}").into()).expect("it is a filter"),
            SubscriptionOptions::new(QoS::AtMostOnce),
        )],
        subscription_identifier: None,
        user_properties: Vec::new(),
    })
}

fn publish(number: usize) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::parse(format!("meters/{number}").into()).expect("it is a topic")),
        packet_id: None,
        payload: Bytes::from_static(&[0; 64]),
        properties: PublishProperties::default(),
    })
}

/// A transport in memory; it holds nothing while nothing is under way.
#[derive(Default)]
struct Wire(Mutex<State>);

#[derive(Default)]
struct State {
    to_broker: BytesMut,
    reader: Option<Waker>,
    /// Packets that came from the broker: counted as they are written, one write each or many.
    packets: usize,
    client: Option<Waker>,
    closed: bool,
}

const CONNACK_AND_SUBACK: usize = 2;

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, packet: &Packet) {
        let mut state = self.lock();
        encode(packet, VERSION, &mut state.to_broker).expect("it can be encoded");
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Waits for so many packets and forgets them.
    async fn answered(&self, packets: usize) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.packets >= packets {
                state.packets -= packets;
                return Poll::Ready(());
            }
            state.client = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn closed(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.closed {
                return Poll::Ready(());
            }
            state.client = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct BrokersEnd(Arc<Wire>);

impl AsyncRead for BrokersEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.to_broker.is_empty() {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = state.to_broker.len().min(buffer.remaining());
        buffer.put_slice(&state.to_broker.split_to(count));
        if state.to_broker.is_empty() {
            state.to_broker = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BrokersEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        state.packets += packets(bytes);
        if let Some(client) = state.client.take() {
            client.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        state.closed = true;
        if let Some(client) = state.client.take() {
            client.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for BrokersEnd {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        if let Some(client) = state.client.take() {
            client.wake();
        }
    }
}

/// How many packets these are; all are short, and a write holds whole ones.
fn packets(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, length @ 0..0x80, rest @ ..] = bytes {
        bytes = &rest[usize::from(*length)..];
        count += 1;
    }
    assert!(bytes.is_empty(), "a packet of 128 bytes or more");
    count
}

fn each(took: Duration, count: usize) -> f64 {
    took.as_nanos() as f64 / count as f64
}

/// Bytes of this process, as the kernel counts them.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}
