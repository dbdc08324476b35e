//! What is done to the broker, with which limits, and what memory these promise.

use xtask::attack::{self, Attack};

pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// Lines of `[limits]`, and further tables.
    pub configuration: &'static str,
    /// Bytes that the attack may add to what the broker has without it.
    pub bound: fn() -> u64,
    /// How that follows from the configuration.
    pub because: &'static str,
    /// What the broker counts while it is attacked.
    pub counters: &'static [&'static str],
    /// The attackers have to know what the broker can do.
    pub wants_capacity: bool,
    pub attack: Attackers,
}

/// Who attacks.
pub enum Attackers {
    /// Raw MQTT over TCP.
    Plain(Attack),
    /// `mqgate bench connect` over TLS, so many at once.
    Handshakes { at_once: u32 },
}

use Attackers::{Handshakes, Plain};

const MIB: u64 = 1024 * 1024;
const KIB: u64 = 1024;
/// What waits for all clients together, in every scenario.
const QUEUED: &str = "max_total_queued_bytes = \"64 MiB\"";
/// What may wait, with room for an allocator that keeps as much again.
const QUEUES: u64 = 2 * 64 * MIB;
/// A connection with buffers for reading and writing that are in use.
const BUSY_CONNECTION: u64 = 128 * KIB;
/// A connection that has said nothing yet.
const IDLE_CONNECTION: u64 = 8 * KIB;
/// A subscription, with its place in the index.
const SUBSCRIPTION: u64 = KIB;
/// A retained message besides its bytes.
const RETAINED: u64 = KIB;

const DROPPED: &str = "mqgate_messages_dropped_total";
const WAITED: &str = "mqgate_turns_waited_total";

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "flood",
        what: "10 publishers offer 10 times what the broker can do, at QoS 0",
        configuration: QUEUED,
        bound: || QUEUES + 20 * BUSY_CONNECTION,
        because: "`max_total_queued_bytes`",
        counters: &["mqgate_messages_received_total{qos=\"0\"}", DROPPED, WAITED],
        wants_capacity: true,
        attack: Plain(attack::flood),
    },
    Scenario {
        name: "slow-readers",
        what: "1,000 subscribers take nothing of 500 messages a second of 1 KiB, at QoS 0 and QoS 1",
        configuration: QUEUED,
        bound: || QUEUES + 1000 * BUSY_CONNECTION,
        because: "`max_total_queued_bytes`, 1,000 connections",
        counters: &[
            "mqgate_messages_dropped_total{reason=\"slow\"}",
            "mqgate_messages_dropped_total{reason=\"queue_full\"}",
            "mqgate_messages_dropped_total{reason=\"all_queues_full\"}",
            "mqgate_queued_bytes",
        ],
        wants_capacity: false,
        attack: Plain(attack::slow_readers),
    },
    Scenario {
        name: "half-open",
        what: "10,000 connections that never finish their CONNECT, and come again when they are closed",
        configuration: "max_total_queued_bytes = \"64 MiB\"\nmax_connect_size = \"4 KiB\"\nconnect_timeout = \"5s\"",
        bound: || 10_000 * (IDLE_CONNECTION + 4 * KIB),
        because: "10,000 connections, `max_connect_size` each",
        counters: &[
            "mqgate_listener_accepted_total",
            "mqgate_listener_connections",
            "mqgate_connections_unanswered_total",
        ],
        wants_capacity: false,
        attack: Plain(attack::half_open),
    },
    Scenario {
        name: "subscribe-flood",
        what: "50 clients subscribe and unsubscribe, 10 filters at a time, as fast as they can write",
        configuration: QUEUED,
        bound: || QUEUES + 50 * (BUSY_CONNECTION + 1000 * SUBSCRIPTION),
        because: "`max_subscriptions` of 50 clients",
        counters: &["mqgate_packets_received_total{type=\"subscribe\"}", "mqgate_subscriptions", WAITED],
        wants_capacity: false,
        attack: Plain(attack::subscribe_flood),
    },
    Scenario {
        name: "retained-sweep",
        what: "20 clients ask for 50,000 retained messages again and again, as fast as they can write",
        configuration: QUEUED,
        bound: || QUEUES + 50_000 * RETAINED + 20 * (BUSY_CONNECTION + 20_000 * 64),
        because: "`max_retained_backlog` of 20 clients, 50,000 messages",
        counters: &[
            "mqgate_packets_received_total{type=\"subscribe\"}",
            "mqgate_messages_sent_total{qos=\"0\"}",
            DROPPED,
        ],
        wants_capacity: false,
        attack: Plain(attack::retained_sweep),
    },
    Scenario {
        name: "retained-flood",
        what: "20 clients leave retained messages of 200 bytes, each on a topic of its own, as fast as they can write",
        configuration: "max_total_queued_bytes = \"64 MiB\"\nmax_retained_messages = 50000\nmax_retained_bytes = \"16 MiB\"",
        bound: || 50_000 * RETAINED + 16 * MIB + QUEUES + 20 * BUSY_CONNECTION,
        because: "`max_retained_messages`, `max_retained_bytes`",
        counters: &[
            "mqgate_messages_retained",
            "mqgate_retained_bytes",
            "mqgate_messages_dropped_total{reason=\"quota\"}",
        ],
        wants_capacity: false,
        attack: Plain(attack::retained_flood),
    },
    Scenario {
        name: "will-flood",
        what: "50 clients connect with a will of 1 KiB and break off, again and again; one hears all wills",
        configuration: QUEUED,
        bound: || QUEUES + 100 * BUSY_CONNECTION,
        because: "`max_total_queued_bytes`",
        counters: &["mqgate_will_published_total", DROPPED, WAITED],
        wants_capacity: false,
        attack: Plain(attack::will_flood),
    },
    Scenario {
        name: "reconnect-flood",
        what: "50 clients connect and go, again and again; half of them take over from each other",
        configuration: QUEUED,
        bound: || QUEUES + 100 * BUSY_CONNECTION,
        because: "`max_total_queued_bytes`",
        counters: &["mqgate_connects_total", "mqgate_session_takeovers_total", WAITED],
        wants_capacity: false,
        attack: Plain(attack::reconnect_flood),
    },
    Scenario {
        name: "handshake-flood",
        what: "50 clients make TLS handshakes and go, again and again",
        configuration: QUEUED,
        bound: || QUEUES + 100 * (BUSY_CONNECTION + 64 * KIB),
        because: "`max_total_queued_bytes`, 100 connections with TLS",
        counters: &["mqgate_tls_handshakes_total", "mqgate_connects_total", WAITED],
        wants_capacity: false,
        attack: Handshakes { at_once: 50 },
    },
];
