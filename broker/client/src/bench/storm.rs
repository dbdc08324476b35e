//! Connections for their own sake: as many as possible one after the other, and as many as possible at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mqgate_codec::TopicFilter;
use tokio::task::JoinSet;

use super::wire::Wire;
use super::{BenchError, Length, Plan, Probe, Report, microseconds, record};

/// Filters of one SUBSCRIBE.
const FILTERS_AT_ONCE: usize = 50;
/// Connections that are being made at the same time.
const AT_ONCE: u32 = 32;
/// Made and closed before memory is measured, so that what is made once is not counted.
const REHEARSAL: u32 = 200;

struct Storm {
    plan: Plan,
    open: Cell<bool>,
    measuring: Cell<bool>,
    next: Cell<u32>,
    done: Cell<u64>,
    until: Cell<u64>,
    full: tokio::sync::Notify,
    latency: RefCell<hdrhistogram::Histogram<u64>>,
}

/// Connects, is accepted, says goodbye, again and again.
pub(super) async fn connect(plan: &Plan, at_once: u32, probe: &dyn Probe) -> Result<Report, BenchError> {
    let storm = Rc::new(Storm {
        plan: plan.clone(),
        open: Cell::new(true),
        measuring: Cell::new(false),
        next: Cell::new(0),
        done: Cell::new(0),
        until: Cell::new(u64::MAX),
        full: tokio::sync::Notify::new(),
        latency: RefCell::new(microseconds()),
    });
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        tasks.spawn_local(again_and_again(Rc::clone(&storm)));
    }
    let measured = async {
        tokio::time::sleep(plan.warm_up).await;
        let (before, started) = (probe.usage(), Instant::now());
        storm.measuring.set(true);
        match plan.length {
            Length::For(duration) => tokio::time::sleep(duration).await,
            Length::Count(count) => {
                storm.until.set(count);
                storm.full.notified().await;
            }
        }
        let after = probe.usage();
        storm.measuring.set(false);
        storm.open.set(false);
        (started.elapsed(), before.zip(after))
    };
    let (elapsed, usage) = tokio::select! {
        measured = measured => measured,
        Some(Ok(Err(error))) = tasks.join_next() => return Err(error),
    };
    while let Some(ended) = tasks.join_next().await {
        if let Ok(Err(error)) = ended {
            return Err(error);
        }
    }
    let latency = storm.latency.borrow().clone();
    Ok(Report { elapsed, count: storm.done.get(), published: 0, lost: 0, out_of_order: 0, latency, usage })
}

async fn again_and_again(storm: Rc<Storm>) -> Result<(), BenchError> {
    while storm.open.get() {
        let number = storm.next.replace(storm.next.get().wrapping_add(1));
        if number as usize >= storm.plan.identities.len() && !storm.plan.identities.is_empty() {
            return Ok(()); // Each of them has had its turn.
        }
        let started = Instant::now();
        let wire = Wire::open(storm.plan.options("c", number), number, u32::MAX).await?;
        if storm.measuring.get() {
            let took = started.elapsed().as_micros() as u64;
            record(&mut storm.latency.borrow_mut(), took);
            storm.done.set(storm.done.get() + 1);
            if storm.done.get() == storm.until.get() {
                storm.full.notify_one();
            }
        }
        wire.leave().await?;
    }
    Ok(())
}

/// Opens connections and leaves them alone.
pub(super) async fn idle(
    plan: &Plan,
    connections: u32,
    filters: u32,
    hold: Duration,
    probe: &dyn Probe,
) -> Result<Report, BenchError> {
    for wire in open(plan, REHEARSAL.min(connections), filters).await?.0 {
        wire.leave().await?;
    }
    tokio::time::sleep(plan.warm_up).await;
    let (before, started) = (probe.usage(), Instant::now());
    let (wires, latency) = open(plan, connections, filters).await?;
    let elapsed = started.elapsed();
    tokio::time::sleep(hold).await;
    let usage = before.zip(probe.usage());
    for wire in wires {
        wire.leave().await?;
    }
    let count = u64::from(connections);
    Ok(Report { elapsed, count, published: 0, lost: 0, out_of_order: 0, latency, usage })
}

async fn open(
    plan: &Plan,
    connections: u32,
    filters: u32,
) -> Result<(Vec<Wire>, hdrhistogram::Histogram<u64>), BenchError> {
    let mut wires = Vec::with_capacity(connections as usize);
    let mut latency = microseconds();
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        if number >= AT_ONCE
            && let Some(Ok(opened)) = tasks.join_next().await
        {
            keep(opened, &mut wires, &mut latency)?;
        }
        tasks.spawn_local(open_one(plan.clone(), number, connections, filters));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Ok(opened) = ended {
            keep(opened, &mut wires, &mut latency)?;
        }
    }
    Ok((wires, latency))
}

fn keep(
    opened: Result<(Wire, Duration), BenchError>,
    wires: &mut Vec<Wire>,
    latency: &mut hdrhistogram::Histogram<u64>,
) -> Result<(), BenchError> {
    let (wire, took) = opened?;
    wires.push(wire);
    record(latency, took.as_micros() as u64);
    Ok(())
}

async fn open_one(plan: Plan, number: u32, of: u32, filters: u32) -> Result<(Wire, Duration), BenchError> {
    let started = Instant::now();
    let mut wire = Wire::open(plan.options("i", number), number, of).await?;
    let took = started.elapsed();
    let own = (0..filters).map(|filter| {
        TopicFilter::parse(format!("{}/{number}/{filter}", plan.topic).into()).map_err(BenchError::Topic)
    });
    for some in own.collect::<Result<Vec<_>, _>>()?.chunks(FILTERS_AT_ONCE) {
        wire.subscribe(some, plan.qos).await?;
    }
    wire.rest();
    Ok((wire, took))
}
