//! What subscriptions and retained messages cost, one by one and a million of them: time and memory for each.
//! Prints a line of JSON for each point; `cargo xtask curves` draws them.
//!
//! Time is the least of several runs: other programs only ever add to it.

use std::hint::black_box;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqgate_codec::{Publish, PublishProperties, QoS, SubscriptionOptions, TopicFilter, TopicName};
use mqgate_protocol::limits::RetainedLimits;
use mqgate_protocol::message::Message;
use mqgate_protocol::persistent::Seed;
use mqgate_protocol::retained::Retained;
use mqgate_protocol::session::SessionKey;
use mqgate_protocol::subscriptions::Subscriptions;
use mqgate_protocol::time;

type Index = Subscriptions<u64>;

const SEED: Seed = Seed(0x5eed);
const RUNS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let part = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    if let (Some(what), Some(count)) =
        (part("--what="), part("--count=").and_then(|count| count.parse().ok()))
    {
        return measure(what, count);
    }
    let most = if arguments.iter().any(|argument| argument == "--quick") { 10_000 } else { 1_000_000 };
    let this = std::env::current_exe().expect("it was started");
    // Each in a process of its own: memory that others gave back would be used again.
    let measure = |what: &str, count: usize| {
        let mut command = Command::new(&this);
        command.arg(format!("--what={what}")).arg(format!("--count={count}"));
        let status = command.status().expect("it starts again");
        assert!(status.success(), "{what} {count}: {status}");
    };
    let counts =
        || std::iter::successors(Some(1_usize), |count| Some(count * 10)).take_while(move |n| *n <= most);
    for kind in Kind::ALL {
        counts().for_each(|count| measure(kind.name(), count));
    }
    counts().take_while(|count| *count <= 10_000).for_each(|count| measure("subscribers", count));
    [1, 4, 16, 64, 128].into_iter().for_each(|count| measure("levels", count));
    counts().for_each(|count| measure("retained", count));
}

fn measure(what: &str, count: usize) {
    match (what, Kind::ALL.into_iter().find(|kind| kind.name() == what)) {
        (_, Some(kind)) => subscriptions(kind, count),
        ("subscribers", None) => subscribers(count),
        ("levels", None) => levels(count),
        _ => retained(count),
    }
}

/// One point of a curve.
fn point(curve: &str, x: usize, unit: &str, y: f64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{\"curve\":\"{curve}\",\"x\":{x},\"unit\":\"{unit}\",\"y\":{y:.1}}}")
        .expect("whoever reads this waits for the end");
}

#[derive(Clone, Copy)]
enum Kind {
    /// A topic of its own for each session.
    Exact,
    /// `+` in the middle.
    Plus,
    /// `#` at the end.
    Hash,
    /// Each session has a topic of its own, and some wildcards that match it too are everybody's.
    Overlapping,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Exact, Self::Plus, Self::Hash, Self::Overlapping];

    const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Plus => "plus",
            Self::Hash => "hash",
            Self::Overlapping => "overlapping",
        }
    }

    fn filter(self, number: usize) -> TopicFilter {
        let (site, device) = (number % 1000, number / 1000);
        let text = match self {
            Self::Exact => format!("sites/{site}/devices/{device}/state"),
            Self::Plus => format!("sites/{site}/+/{device}/state"),
            Self::Hash => format!("sites/{site}/devices/{device}/#"),
            Self::Overlapping => match number {
                0 => String::from("sites/#"),
                1 => String::from("+/+/devices/#"),
                2 => String::from("sites/+/devices/+/state"),
                _ => format!("sites/{site}/devices/{device}/state"),
            },
        };
        TopicFilter::parse(text.into()).expect("it is a filter")
    }
}

fn topic(number: usize) -> TopicName {
    let (site, device) = (number % 1000, number / 1000);
    TopicName::parse(format!("sites/{site}/devices/{device}/state").into()).expect("it is a topic")
}

fn options() -> SubscriptionOptions {
    SubscriptionOptions::new(QoS::AtMostOnce)
}

/// With a snapshot alive before each change, as in a broker that routes meanwhile.
fn insert(index: &mut Index, key: usize, filter: &TopicFilter) {
    let snapshot = index.clone();
    index.insert(SessionKey(key as u64), key as u64, filter, options(), None::<NonZeroU32>);
    drop(snapshot);
}

fn subscriptions(kind: Kind, count: usize) {
    let name = kind.name();
    let before = resident();
    let mut index = Index::new(SEED);
    let started = Instant::now();
    for number in 0..count {
        insert(&mut index, number, &kind.filter(number));
    }
    point(&format!("subscribe-{name}"), count, "ns", nanoseconds(started.elapsed(), count));
    if count >= 10_000 {
        point(
            &format!("memory-{name}"),
            count,
            "bytes",
            resident().saturating_sub(before) as f64 / count as f64,
        );
    }
    // The same few topics again and again, and topics that were not asked for before.
    let warm: Vec<TopicName> = (0..16).map(|number| topic(spread(number, count))).collect();
    let cold: Vec<TopicName> =
        (0..count.clamp(16, 100_000)).map(|number| topic(spread(number, count))).collect();
    let again = 1 + 10_000 / warm.len();
    let least = least(|| (0..again).for_each(|_| look_up(&index, &warm)));
    point(&format!("match-{name}-warm"), count, "ns", nanoseconds(least, again * warm.len()));
    let mut flushed = vec![0_u8; 64 << 20];
    let least = (0..3)
        .map(|_| {
            flushed.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1)); // Out of the caches.
            black_box(&flushed);
            timed(|| look_up(&index, &cold))
        })
        .min();
    point(&format!("match-{name}-cold"), count, "ns", nanoseconds(least.unwrap_or_default(), cold.len()));
}

fn look_up(index: &Index, topics: &[TopicName]) {
    for topic in topics {
        black_box(index.matches(topic));
    }
}

/// Numbers that jump about.
fn spread(number: usize, count: usize) -> usize {
    number.wrapping_mul(2_654_435_761) % count
}

fn subscribers(count: usize) {
    let mut index = Index::new(SEED);
    let filter = TopicFilter::parse("news".into()).expect("it is a filter");
    for key in 0..count {
        insert(&mut index, key, &filter);
    }
    let topic = TopicName::parse("news".into()).expect("it is a topic");
    let again = 1 + 10_000 / count;
    let least = least(|| (0..again).for_each(|_| drop(black_box(index.matches(&topic)))));
    point("match-subscribers", count, "ns", nanoseconds(least, again * count));
}

fn levels(count: usize) {
    let text = vec!["level"; count].join("/");
    let mut index = Index::new(SEED);
    insert(&mut index, 1, &TopicFilter::parse(text.as_str().into()).expect("it is a filter"));
    let wild = vec!["+"; count].join("/");
    insert(&mut index, 2, &TopicFilter::parse(wild.into()).expect("it is a filter"));
    let topic = TopicName::parse(text.into()).expect("it is a topic");
    let again = 1000;
    let least = least(|| (0..again).for_each(|_| drop(black_box(index.matches(&topic)))));
    point("match-levels", count, "ns", nanoseconds(least, again * count));
}

fn retained(count: usize) {
    let before = resident();
    let limits = RetainedLimits { messages: count, bytes: usize::MAX, expiry: None };
    let mut retained = Retained::new(limits, SEED);
    let started = Instant::now();
    for number in 0..count {
        retained.keep(&message(topic(number)));
    }
    point("retain", count, "ns", nanoseconds(started.elapsed(), count));
    if count >= 10_000 {
        point("memory-retained", count, "bytes", resident().saturating_sub(before) as f64 / count as f64);
    }
    let filter = TopicFilter::parse("sites/+/devices/+/state".into()).expect("it is a filter");
    let least = least(|| {
        let found =
            retained.snapshot().matching(&filter, time::Instant::ZERO, count, &mut usize::MAX.clone());
        assert_eq!(black_box(found).len(), count);
    });
    point("sweep-retained", count, "ns", nanoseconds(least, count));
}

fn message(topic: TopicName) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic: None,
        packet_id: None,
        payload: Bytes::from_static(&[0; 64]),
        properties: PublishProperties::default(),
    };
    Message::published(topic, publish, SessionKey(0), time::Instant::ZERO).stored()
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn least(mut work: impl FnMut()) -> Duration {
    (0..RUNS).map(|_| timed(&mut work)).min().unwrap_or_default()
}

fn nanoseconds(took: Duration, count: usize) -> f64 {
    took.as_nanos() as f64 / count as f64
}

/// Bytes of this process, as the kernel counts them.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}
