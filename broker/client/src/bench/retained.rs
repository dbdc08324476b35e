//! Retained messages: stored once, then swept by everyone who subscribes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use mqgate_codec::{Packet, QoS, TopicFilter, TopicName};
use tokio::task::JoinSet;

use super::ledger::{SMALLEST_PAYLOAD, Stamp};
use super::wire::{Template, Wire};
use super::{BenchError, Length, Plan, Probe, Report, microseconds, record};

/// Messages that are stored before their acknowledgements are waited for.
const STORED_AT_ONCE: u32 = 20;

struct Sweeps {
    filter: TopicFilter,
    topics: u32,
    qos: QoS,
    measuring: Cell<bool>,
    delivered: Cell<u64>,
    until: Cell<u64>,
    full: tokio::sync::Notify,
    latency: RefCell<hdrhistogram::Histogram<u64>>,
}

pub(super) async fn run(
    plan: &Plan,
    topics: u32,
    subscribers: u32,
    probe: &dyn Probe,
) -> Result<Report, BenchError> {
    let of = subscribers + 1;
    let mut keeper = Wire::open(plan.options("p", 0), 0, of).await?;
    store(&mut keeper, plan, topics, plan.payload).await?;
    let filter = format!("{}/+", plan.topic);
    let sweeps = Rc::new(Sweeps {
        filter: TopicFilter::parse(filter.into()).map_err(BenchError::Topic)?,
        topics,
        qos: plan.qos,
        measuring: Cell::new(false),
        delivered: Cell::new(0),
        until: Cell::new(u64::MAX),
        full: tokio::sync::Notify::new(),
        latency: RefCell::new(microseconds()),
    });
    let mut tasks = JoinSet::new();
    for number in 0..subscribers {
        let wire = Wire::open(plan.options("s", number), number + 1, of).await?;
        tasks.spawn_local(sweep(wire, Rc::clone(&sweeps)));
    }
    let measured = async {
        tokio::time::sleep(plan.warm_up).await;
        let (before, started) = (probe.usage(), Instant::now());
        sweeps.measuring.set(true);
        match plan.length {
            Length::For(duration) => tokio::time::sleep(duration).await,
            Length::Count(count) => {
                sweeps.until.set(count);
                sweeps.full.notified().await;
            }
        }
        (started.elapsed(), before.zip(probe.usage()))
    };
    let (elapsed, usage) = tokio::select! {
        measured = measured => measured,
        Some(Ok(Err(error))) = tasks.join_next() => return Err(error),
    };
    sweeps.measuring.set(false);
    tasks.shutdown().await;
    store(&mut keeper, plan, topics, 0).await?;
    keeper.leave().await?;
    let latency = sweeps.latency.borrow().clone();
    let count = sweeps.delivered.get();
    Ok(Report { elapsed, count, published: 0, lost: 0, out_of_order: 0, latency, usage })
}

/// Sets every topic's retained message; one of no bytes removes it.
async fn store(wire: &mut Wire, plan: &Plan, topics: u32, payload: usize) -> Result<(), BenchError> {
    let mut waiting = 0;
    for number in 0..topics {
        let topic = format!("{}/{number}", plan.topic);
        let topic = TopicName::parse(topic.into()).map_err(BenchError::Topic)?;
        let template = Template::new(&topic, payload, QoS::AtLeastOnce, true, wire.version)?;
        let stamp = Stamp::default();
        template.write(
            (number % 65_535) as u16 + 1,
            &stamp[..payload.min(SMALLEST_PAYLOAD)],
            &mut wire.output,
        );
        waiting += 1;
        while waiting >= STORED_AT_ONCE || waiting > 0 && number + 1 == topics {
            if let Packet::PubAck(ack) = wire.receive().await? {
                waiting -= 1;
                if ack.reason.is_error() {
                    return Err(BenchError::NotPublished { who: wire.who.clone(), reason: ack.reason });
                }
            }
        }
    }
    Ok(())
}

async fn sweep(mut wire: Wire, sweeps: Rc<Sweeps>) -> Result<(), BenchError> {
    let filters = [sweeps.filter.clone()];
    loop {
        let started = Instant::now();
        wire.push_subscribe(&filters, sweeps.qos)?;
        let mut missing = sweeps.topics;
        while missing > 0 {
            let packet = wire.receive_lazily().await?;
            if let Packet::SubAck(suback) = &packet {
                wire.subscribed(suback)?;
            }
            if wire.answer(packet).is_some() {
                missing -= 1;
                sweeps.count();
            }
        }
        if sweeps.measuring.get() {
            let took = started.elapsed().as_micros() as u64;
            record(&mut sweeps.latency.borrow_mut(), took);
        }
        wire.push_unsubscribe(&filters)?;
        while !matches!(wire.receive().await?, Packet::UnsubAck(_)) {}
    }
}

impl Sweeps {
    fn count(&self) {
        if self.measuring.get() {
            self.delivered.set(self.delivered.get() + 1);
            if self.delivered.get() == self.until.get() {
                self.full.notify_one();
            }
        }
    }
}
