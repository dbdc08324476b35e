//! The `$SYS` tree: what the broker says about itself, under Mosquitto's names, as retained messages that are
//! renewed when they have changed.
//!
//! Who may read it is the permits' matter, as for every topic; clients cannot publish to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mqgate_codec::{Publish, PublishProperties, QoS, TopicName};
use mqgate_protocol::message::Message;
use mqgate_protocol::session::SessionKey;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::metrics::mqtt::Totals;

const ROOT: &str = "$SYS/broker/";
/// Loads are averaged over this long, and called so.
const SPANS: [(f64, &str); 3] = [(60.0, "1min"), (300.0, "5min"), (900.0, "15min")];

/// What was published last, and what loads are computed from.
struct Sys {
    said: HashMap<&'static str, String>,
    loads: HashMap<&'static str, Load>,
    most_clients: i64,
}

/// Something that is counted, as rates per minute.
#[derive(Default)]
struct Load {
    before: u64,
    averages: [f64; 3],
    known: bool,
}

impl Load {
    /// Takes in what was counted in `seconds`: averages that forget exponentially, the first one as it is.
    fn count(&mut self, total: u64, seconds: f64) {
        let rate = total.saturating_sub(self.before) as f64 * 60.0 / seconds;
        self.before = total;
        for (average, (span, _)) in self.averages.iter_mut().zip(SPANS) {
            let keeps = if self.known { (-seconds / span).exp() } else { 0.0 };
            *average = rate + keeps * (*average - rate);
        }
        self.known = true;
    }
}

/// Publishes the tree every `interval`, until `shutdown`.
pub async fn run(broker: Arc<Broker>, version: &str, interval: Duration, shutdown: CancellationToken) {
    let mut sys = Sys { said: HashMap::new(), loads: HashMap::new(), most_clients: 0 };
    let version = format!("mqgate version {version}");
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = broker.now();
        sys.say(&broker, "version", version.clone());
        sys.say(&broker, "uptime", format!("{} seconds", now.elapsed().as_secs()));
        let totals = broker.totals();
        sys.numbers(&broker, &totals);
        let seconds = last.map_or(interval, |last| now.since(last)).as_secs_f64();
        sys.loads(&broker, &totals, seconds.max(0.001));
        last = Some(now);
    }
}

impl Sys {
    fn numbers(&mut self, broker: &Broker, totals: &Totals) {
        self.most_clients = self.most_clients.max(totals.clients_connected);
        for (topic, number) in [
            ("clients/total", totals.sessions_online + totals.sessions_offline),
            ("clients/connected", totals.clients_connected),
            ("clients/active", totals.clients_connected),
            ("clients/disconnected", totals.sessions_offline),
            ("clients/inactive", totals.sessions_offline),
            ("clients/maximum", self.most_clients),
            ("subscriptions/count", totals.subscriptions),
            ("shared_subscriptions/count", totals.shared_subscriptions),
            ("retained messages/count", totals.retained),
            ("store/messages/count", totals.queued_messages),
            ("store/messages/bytes", totals.queued_bytes),
            ("messages/stored", totals.queued_messages),
            ("messages/inflight", totals.inflight),
        ] {
            self.say(broker, topic, number.to_string());
        }
        for (topic, number) in [
            ("messages/received", totals.packets_received),
            ("messages/sent", totals.packets_sent),
            ("publish/messages/received", totals.messages_received),
            ("publish/messages/sent", totals.messages_sent),
            ("publish/messages/dropped", totals.messages_dropped),
            ("bytes/received", totals.bytes_received),
            ("bytes/sent", totals.bytes_sent),
        ] {
            self.say(broker, topic, number.to_string());
        }
    }

    fn loads(&mut self, broker: &Broker, totals: &Totals, seconds: f64) {
        for (topics, total) in [
            (
                [
                    "load/messages/received/1min",
                    "load/messages/received/5min",
                    "load/messages/received/15min",
                ],
                totals.packets_received,
            ),
            (
                ["load/messages/sent/1min", "load/messages/sent/5min", "load/messages/sent/15min"],
                totals.packets_sent,
            ),
            (
                ["load/publish/received/1min", "load/publish/received/5min", "load/publish/received/15min"],
                totals.messages_received,
            ),
            (
                ["load/publish/sent/1min", "load/publish/sent/5min", "load/publish/sent/15min"],
                totals.messages_sent,
            ),
            (
                ["load/publish/dropped/1min", "load/publish/dropped/5min", "load/publish/dropped/15min"],
                totals.messages_dropped,
            ),
            (
                ["load/bytes/received/1min", "load/bytes/received/5min", "load/bytes/received/15min"],
                totals.bytes_received,
            ),
            (["load/bytes/sent/1min", "load/bytes/sent/5min", "load/bytes/sent/15min"], totals.bytes_sent),
            (["load/sockets/1min", "load/sockets/5min", "load/sockets/15min"], totals.sockets),
            (
                ["load/connections/1min", "load/connections/5min", "load/connections/15min"],
                totals.connections,
            ),
        ] {
            let load = self.loads.entry(topics[0]).or_default();
            load.count(total, seconds);
            let averages = load.averages;
            for (topic, average) in topics.into_iter().zip(averages) {
                self.say(broker, topic, format!("{average:.2}"));
            }
        }
    }

    /// Publishes a value that is not the one published last.
    fn say(&mut self, broker: &Broker, topic: &'static str, value: String) {
        if self.said.get(topic) == Some(&value) {
            return;
        }
        let Ok(name) = TopicName::parse(format!("{ROOT}{topic}").into()) else { return };
        let publish = Publish {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: None,
            packet_id: None,
            payload: Bytes::copy_from_slice(value.as_bytes()),
            properties: PublishProperties::default(),
        };
        // No session has this key: the message is nobody's own.
        broker.publish_about_itself(&Message::published(name, publish, SessionKey(0), broker.now()));
        self.said.insert(topic, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mosquitto's `calc_load`.
    #[test]
    fn loads_are_rates_per_minute_that_forget() {
        let mut load = Load::default();
        load.count(100, 10.0);
        assert_eq!(load.averages, [600.0; 3], "the first counts as it is");
        load.count(100, 10.0);
        let expected = SPANS.map(|(span, _)| 600.0 * (-10.0 / span).exp());
        for (average, expected) in load.averages.iter().zip(expected) {
            assert!((average - expected).abs() < 1e-9, "{average} {expected}");
        }
        for _ in 0..2000 {
            let total = load.before + 5;
            load.count(total, 10.0);
        }
        assert!(load.averages.iter().all(|average| (average - 30.0).abs() < 0.01), "{:?}", load.averages);
    }
}
