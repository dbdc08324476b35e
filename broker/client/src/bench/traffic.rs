//! Publishers and subscribers at the same time: pairs, fan-in, fan-out, shared subscriptions.

use std::num::NonZeroU16;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mqgate_codec::{Packet, PacketId, QoS, TopicFilter, TopicName};
use tokio::task::JoinSet;

use super::ledger::{Ledger, PATIENCE};
use super::wire::{Template, Wire};
use super::{BenchError, Length, Load, Plan, Probe, Report};

/// Messages are written together as far as they are this long together.
const OUTPUT: usize = 256 * 1024;
const PACE: Duration = Duration::from_millis(1);

/// Who publishes where, and who subscribes to what.
struct Shape {
    topics: Vec<TopicName>,
    filters: Vec<TopicFilter>,
    /// Deliveries of each message.
    copies: u32,
}

impl Shape {
    fn of(plan: &Plan) -> Result<Self, BenchError> {
        let prefix = &plan.topic;
        let own = |number: u32| format!("{prefix}/{number}");
        let all = format!("{prefix}/+");
        let (publishers, filters, copies) = match plan.load {
            Load::Pairs { pairs } => (pairs, (0..pairs).map(own).collect(), 1),
            Load::FanIn { publishers, subscribers } | Load::FanOut { publishers, subscribers } => {
                (publishers, vec![all; subscribers as usize], subscribers)
            }
            Load::Shared { publishers, groups, members } => {
                let member = |number: u32| format!("$share/{prefix}-{}/{all}", number % groups);
                (publishers, (0..groups * members).map(member).collect::<Vec<_>>(), groups)
            }
            Load::Retained { .. } | Load::Sessions { .. } | Load::Connect { .. } | Load::Idle { .. } => {
                (0, Vec::new(), 0)
            }
        };
        let topics = (0..publishers).map(|number| TopicName::parse(own(number).into()));
        let filters = filters.into_iter().map(|filter| TopicFilter::parse(filter.into()));
        Ok(Self {
            topics: topics.collect::<Result<_, _>>().map_err(BenchError::Topic)?,
            filters: filters.collect::<Result<_, _>>().map_err(BenchError::Topic)?,
            copies,
        })
    }
}

pub(super) async fn run(plan: &Plan, probe: &dyn Probe) -> Result<Report, BenchError> {
    let Shape { topics, filters, copies } = Shape::of(plan)?;
    let ledger = Rc::new(Ledger::new(topics.iter().map(|_| copies), plan.window, plan.rate.is_some()));
    let of = (topics.len() + filters.len()) as u32;
    let mut tasks = JoinSet::new();
    for (number, filter) in (0..).zip(&filters) {
        let mut wire = Wire::open(plan.options("s", number), number, of).await?;
        wire.subscribe(std::slice::from_ref(filter), plan.qos).await?;
        let subscriber = Subscriber { wire, ledger: Rc::clone(&ledger), seen: vec![0; topics.len()].into() };
        tasks.spawn_local(subscriber.run());
    }
    for (flow, topic) in topics.iter().enumerate() {
        let number = (filters.len() + flow) as u32;
        let wire = Wire::open(plan.options("p", flow as u32), number, of).await?;
        let template = Template::new(topic, plan.payload, plan.qos, false, wire.version)?;
        let allowed = wire.connack.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        let publisher = Publisher {
            wire,
            ledger: Rc::clone(&ledger),
            flow,
            template,
            qos: plan.qos,
            unacknowledged: 0,
            allowed: u64::from(allowed),
        };
        tasks.spawn_local(publisher.run());
    }
    if let Some(rate) = plan.rate {
        tasks.spawn_local(pace(Rc::clone(&ledger), f64::from(rate)));
    }
    tasks.spawn_local(watch(Rc::clone(&ledger)));
    let measured = measure(plan, &ledger, probe);
    let (elapsed, usage) = tokio::select! {
        measured = measured => measured,
        Some(ended) = tasks.join_next() => return Err(why(ended)),
    };
    // What is under way arrives, or is lost.
    let deadline = Instant::now() + PATIENCE;
    while ledger.under_way() > 0 && Instant::now() < deadline {
        tokio::time::sleep(PACE).await;
    }
    ledger.give_up();
    tasks.shutdown().await;
    let counts = ledger.counts();
    if counts.delivered == 0 {
        return Err(BenchError::Silence(elapsed, String::from("does the broker route these topics?")));
    }
    Ok(Report {
        elapsed,
        count: counts.delivered,
        published: counts.published,
        lost: counts.lost,
        out_of_order: counts.out_of_order,
        latency: counts.latency,
        usage,
    })
}

/// A task of a connection ends only when that is lost.
fn why(ended: Result<Result<(), BenchError>, tokio::task::JoinError>) -> BenchError {
    let who = String::from("a connection");
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => BenchError::Lost { who, cause: String::from("its task has ended") },
        Err(error) => BenchError::Lost { who, cause: error.to_string() },
    }
}

type Measured = (Duration, Option<(super::Usage, super::Usage)>);

async fn measure(plan: &Plan, ledger: &Ledger, probe: &dyn Probe) -> Measured {
    tokio::time::sleep(plan.warm_up).await;
    let (before, started) = (probe.usage(), Instant::now());
    match plan.length {
        Length::For(duration) => {
            ledger.start(u64::MAX);
            tokio::time::sleep(duration).await;
        }
        Length::Count(count) => {
            ledger.start(count);
            ledger.full.notified().await;
        }
    }
    let (elapsed, after) = (started.elapsed(), probe.usage());
    ledger.stop();
    (elapsed, before.zip(after))
}

/// Gives publishers in turn what a rate allows.
async fn pace(ledger: Rc<Ledger>, rate: f64) -> Result<(), BenchError> {
    let started = Instant::now();
    let (mut given, mut turn) = (0, 0);
    loop {
        tokio::time::sleep(PACE).await;
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        while given < due {
            ledger.allow(turn, 1);
            turn = (turn + 1) % ledger.flows();
            given += 1;
        }
    }
}

/// A broker that drops messages must not bring the load to an end.
async fn watch(ledger: Rc<Ledger>) -> Result<(), BenchError> {
    let mut last = (0, Instant::now());
    loop {
        tokio::time::sleep(PATIENCE / 8).await;
        let progress = ledger.progress();
        if progress != last.0 || ledger.under_way() == 0 {
            last = (progress, Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            ledger.give_up();
        }
    }
}

struct Publisher {
    wire: Wire,
    ledger: Rc<Ledger>,
    flow: usize,
    template: Template,
    qos: QoS,
    /// Messages whose exchange is not at its end.
    unacknowledged: u64,
    /// How many of them the broker takes.
    allowed: u64,
}

impl Publisher {
    async fn run(mut self) -> Result<(), BenchError> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BenchError>> {
        while let Poll::Ready(read) = self.wire.poll_fill(cx) {
            read?;
            self.acknowledged()?;
        }
        loop {
            ready!(self.wire.poll_flush(cx))?;
            let mut room = self.ledger.room(self.flow, cx);
            if self.qos != QoS::AtMostOnce {
                room = room.min(self.allowed - self.unacknowledged);
            }
            if room == 0 {
                return Poll::Pending;
            }
            let now = self.ledger.now();
            while room > 0 && self.wire.output.len() < OUTPUT {
                let (number, stamp) = self.ledger.publish(self.flow, now);
                let packet_id = (number % u64::from(u16::MAX)) as u16 + 1;
                self.template.write(packet_id, &stamp, &mut self.wire.output);
                self.unacknowledged += u64::from(self.qos != QoS::AtMostOnce);
                room -= 1;
            }
        }
    }

    fn acknowledged(&mut self) -> Result<(), BenchError> {
        while let Some(packet) = self.wire.packet()? {
            match packet {
                Packet::PubAck(ack) | Packet::PubRec(ack) if ack.reason.is_error() => {
                    let who = self.wire.who.clone();
                    return Err(BenchError::NotPublished { who, reason: ack.reason });
                }
                Packet::PubAck(_) | Packet::PubComp(_) => self.finish(),
                Packet::PubRec(ack) => self.release(ack.packet_id),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    fn release(&mut self, packet_id: PacketId) {
        self.wire.push_short(0x62, packet_id);
    }
}

struct Subscriber {
    wire: Wire,
    ledger: Rc<Ledger>,
    /// By flow: the number after the last that came.
    seen: Box<[u32]>,
}

impl Subscriber {
    async fn run(mut self) -> Result<(), BenchError> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BenchError>> {
        loop {
            ready!(self.wire.poll_flush(cx))?;
            ready!(self.wire.poll_fill(cx))?;
            let now = self.ledger.now();
            while let Some(packet) = self.wire.packet()? {
                if let Some(publish) = self.wire.answer(packet) {
                    self.ledger.deliver(&publish.payload, &mut self.seen, now);
                }
            }
        }
    }
}
