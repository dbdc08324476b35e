//! Persistent sessions: clients go away, messages for them are kept, they come back and fetch them.

use std::time::{Duration, Instant};

use mqgate_codec::{Packet, ProtocolVersion, QoS, TopicFilter, TopicName};

use super::ledger::Stamp;
use super::wire::{Template, Wire};
use super::{BenchError, Length, Plan, Probe, Report, microseconds, record};
use crate::ConnectOptions;

/// How long the broker keeps a session; each round takes much less.
const EXPIRY: u32 = 3600;
/// Messages that are published before their acknowledgements are waited for.
const PUBLISHED_AT_ONCE: u32 = 20;

pub(super) async fn run(
    plan: &Plan,
    clients: u32,
    messages: u32,
    probe: &dyn Probe,
) -> Result<Report, BenchError> {
    // A message of QoS 0 is not kept for anybody.
    let qos = plan.qos.max(QoS::AtLeastOnce);
    let of = clients + 1;
    let topics = (0..clients).map(|number| TopicName::parse(format!("{}/{number}", plan.topic).into()));
    let topics = topics.collect::<Result<Vec<_>, _>>().map_err(BenchError::Topic)?;
    for (number, topic) in (0..).zip(&topics) {
        Wire::open(options(plan, number, true), number, of).await?.leave().await?; // What an earlier run left.
        let mut wire = Wire::open(options(plan, number, false), number, of).await?;
        let filter = TopicFilter::parse(topic.as_text().clone()).map_err(BenchError::Topic)?;
        wire.subscribe(&[filter], qos).await?;
        wire.leave().await?;
    }
    let mut publisher = Wire::open(plan.options("p", 0), clients, of).await?;
    let mut latency = microseconds();
    let (mut count, mut published) = (0, 0);
    let mut begun: Option<(Instant, Option<super::Usage>)> = None;
    let warm = Instant::now() + plan.warm_up;
    loop {
        let now = Instant::now();
        if begun.is_none() && now >= warm {
            begun = Some((now, probe.usage()));
        }
        if let Some((started, before)) = begun {
            let over = match plan.length {
                Length::For(duration) => started.elapsed() >= duration,
                Length::Count(wanted) => count >= wanted,
            };
            if over {
                let (elapsed, usage) = (started.elapsed(), before.zip(probe.usage()));
                publisher.leave().await?;
                for number in 0..clients {
                    Wire::open(options(plan, number, true), number, of).await?.leave().await?;
                }
                return Ok(Report { elapsed, count, published, lost: 0, out_of_order: 0, latency, usage });
            }
        }
        publish(&mut publisher, plan, qos, &topics, messages).await?;
        for number in 0..clients {
            let started = Instant::now();
            fetch(plan, number, of, messages).await?;
            if begun.is_some() {
                record(&mut latency, started.elapsed().as_micros() as u64);
                count += u64::from(messages);
                published += u64::from(messages);
            }
        }
    }
}

fn options(plan: &Plan, number: u32, clean_start: bool) -> ConnectOptions {
    let mut options = plan.options("s", number);
    options.clean_start = clean_start;
    if options.version == ProtocolVersion::V5 {
        options.properties.session_expiry_interval = (!clean_start).then_some(EXPIRY);
    }
    options
}

/// `messages` to each topic, until the broker has taken responsibility for all.
async fn publish(
    wire: &mut Wire,
    plan: &Plan,
    qos: QoS,
    topics: &[TopicName],
    messages: u32,
) -> Result<(), BenchError> {
    let (mut waiting, mut packet_id) = (0, 0_u16);
    for topic in topics {
        let template = Template::new(topic, plan.payload, qos, false, wire.version)?;
        for _ in 0..messages {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            template.write(packet_id, &Stamp::default(), &mut wire.output);
            waiting += 1;
            if waiting >= PUBLISHED_AT_ONCE {
                waiting -= finished(wire).await?;
            }
        }
    }
    while waiting > 0 {
        waiting -= finished(wire).await?;
    }
    Ok(())
}

/// Takes one answer; says how many exchanges it ended.
async fn finished(wire: &mut Wire) -> Result<u32, BenchError> {
    match wire.receive().await? {
        Packet::PubAck(ack) | Packet::PubRec(ack) if ack.reason.is_error() => {
            Err(BenchError::NotPublished { who: wire.who.clone(), reason: ack.reason })
        }
        Packet::PubAck(_) | Packet::PubComp(_) => Ok(1),
        Packet::PubRec(ack) => {
            wire.push_short(0x62, ack.packet_id);
            Ok(0)
        }
        _ => Ok(0),
    }
}

/// Comes back, takes what was kept, and goes again.
async fn fetch(plan: &Plan, number: u32, of: u32, messages: u32) -> Result<(), BenchError> {
    let mut wire = Wire::open(options(plan, number, false), number, of).await?;
    if !wire.connack.session_present {
        return Err(wire.lost("the broker did not keep its session"));
    }
    let (mut missing, mut releases) = (messages, 0);
    let within = Duration::from_secs(10);
    let all = async {
        while missing > 0 || releases > 0 {
            let packet = wire.receive_lazily().await?;
            let released = matches!(packet, Packet::PubRel(_));
            if let Some(publish) = wire.answer(packet) {
                missing = missing.saturating_sub(1);
                releases += u32::from(publish.qos == QoS::ExactlyOnce);
            }
            releases -= u32::from(released && releases > 0);
        }
        Ok::<_, BenchError>(())
    };
    match tokio::time::timeout(within, all).await {
        Ok(taken) => taken?,
        Err(_) => return Err(BenchError::Silence(within, format!("{missing} stored messages are missing"))),
    }
    wire.leave().await
}
