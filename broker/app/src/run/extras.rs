//! From the configuration to what is expected of a broker besides the protocol.

use std::collections::HashMap;
use std::sync::Arc;

use mqgate_codec::{QoS, RetainHandling, SubscriptionOptions};
use mqgate_identity::registry::Storage;
use mqgate_protocol::topics::{Applies, Rewrite, RewriteError, TopicRules};
use mqgate_server::bans::Bans;
use mqgate_server::broker::Broker;
use mqgate_server::delayed::DelayedLimits;
use mqgate_server::events::EventSettings;
use mqgate_server::extras::{AutomaticSubscription, ExtrasSettings};
use mqgate_server::flapping::FlappingRules;
use mqgate_server::metrics::Metrics;
use mqgate_server::rates::RateLimits;
use mqgate_server::slow::SlowRules;
use mqgate_server::sys;
use mqgate_server::trace::TraceLimits;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, model};
use crate::exit::Failure;

/// The list of bans as it was left. Without it nobody is let in.
pub async fn bans(
    config: &Config,
    storage: Arc<dyn Storage>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<Bans>> {
    let (limit, metrics) = (config.bans.max_entries as usize, Arc::clone(metrics));
    let open = move || Bans::open(Some(storage), limit, metrics.registry());
    let bans = tokio::task::spawn_blocking(open).await?;
    let bans = bans.map_err(|error| Failure::unavailable(format!("the list of bans: {error}")))?;
    Ok(Arc::new(bans))
}

pub fn settings(config: &Config, bans: Arc<Bans>) -> ExtrasSettings {
    let flapping = &config.flapping;
    let slow = &config.slow_subscribers;
    ExtrasSettings {
        bans: Some(bans),
        flapping: flapping.enable.then(|| FlappingRules {
            disconnects: flapping.max_disconnects,
            window: flapping.window.0,
            ban: flapping.ban_time.0,
            ..FlappingRules::default()
        }),
        rates: rates(config),
        slow: slow.enable.then(|| SlowRules {
            messages: slow.messages as usize,
            bytes: usize::try_from(slow.bytes.0).unwrap_or(usize::MAX),
            age: slow.age.0,
            disconnect: slow.disconnect,
        }),
        delayed: DelayedLimits {
            messages: config.delayed.max_messages as usize,
            bytes: usize::try_from(config.delayed.max_bytes.0).unwrap_or(usize::MAX),
        },
        traces: Some(TraceLimits {
            folder: config.node.data_dir.join("traces"),
            running: config.trace.max_running as usize,
            longest: config.trace.max_time.0,
            bytes: config.trace.max_size.0,
        }),
        barred_wills: config.mqtt.publish_wills_of_barred,
        subscriptions: config.topics.subscribe.iter().map(automatic).collect(),
    }
}

fn automatic(one: &model::AutoSubscribe) -> AutomaticSubscription {
    let mut options = SubscriptionOptions::new(QoS::from_bits(one.qos).unwrap_or(QoS::AtMostOnce));
    options.no_local = one.no_local;
    options.retain_handling = RetainHandling::SendIfNewSubscription;
    AutomaticSubscription { template: one.filter.clone(), options }
}

/// What becomes of topics. The rules were checked when the configuration was.
pub fn topics(config: &Config) -> TopicRules {
    let delay = u32::try_from(config.delayed.max_delay.0.as_secs()).unwrap_or(u32::MAX);
    TopicRules {
        rewrites: config.topics.rewrite.iter().filter_map(|rule| rewrite(rule).ok()).collect(),
        longest_delay: config.delayed.enable.then_some(delay),
        exclusive: config.topics.exclusive,
    }
}

pub fn rewrite(rule: &model::Rewrite) -> Result<Rewrite, RewriteError> {
    let applies = match rule.action {
        model::Action::Publish => Applies::Publish,
        model::Action::Subscribe => Applies::Subscribe,
        model::Action::All => Applies::All,
    };
    Rewrite::new(applies, &rule.from, &rule.to)
}

/// Only listeners with a limit have an entry.
pub fn rates(config: &Config) -> HashMap<Arc<str>, RateLimits> {
    let limit = |value: u32| (value > 0).then_some(value);
    let limited = config.listeners.iter().filter(|(_, listener)| listener.rates != model::Rates::default());
    let limits = limited.map(|(name, listener)| {
        let model::Rates { connections, source_connections, messages, bytes, client_messages, client_bytes } =
            listener.rates;
        let limits = RateLimits {
            connections: limit(connections),
            source_connections: limit(source_connections),
            messages: limit(messages),
            bytes: limit(bytes),
            client_messages: limit(client_messages),
            client_bytes: limit(client_bytes),
        };
        (Arc::from(name.as_str()), limits)
    });
    limits.collect()
}

/// How events are made and kept.
pub fn events(config: &Config) -> EventSettings {
    let events = &config.events;
    EventSettings {
        source: events.source.clone(),
        buffer: events.buffer as usize,
        streams: events.max_streams as usize,
        mqtt: events.mqtt,
    }
}

/// Tasks that run beside the broker.
pub fn spawn(config: &Config, broker: &Arc<Broker>, tasks: &mut JoinSet<()>, end: &CancellationToken) {
    let interval = config.sys.interval.0;
    if !interval.is_zero() {
        tasks.spawn(sys::run(Arc::clone(broker), env!("CARGO_PKG_VERSION"), interval, end.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_those_of_the_server() {
        let config = Config::default();
        let slow = &config.slow_subscribers;
        let own = SlowRules::default();
        assert_eq!((slow.messages as usize, slow.bytes.0 as usize), (own.messages, own.bytes));
        assert_eq!((slow.age.0, slow.disconnect), (own.age, own.disconnect));
        let flapping = &config.flapping;
        let own = FlappingRules::default();
        assert_eq!(flapping.max_disconnects, own.disconnects);
        assert_eq!((flapping.window.0, flapping.ban_time.0), (own.window, own.ban));
        assert!(rates(&config).is_empty());
        assert_eq!(topics(&config), TopicRules::default());
        let delayed = DelayedLimits::default();
        assert_eq!(
            (config.delayed.max_messages as usize, config.delayed.max_bytes.0 as usize),
            (delayed.messages, delayed.bytes)
        );
    }
}
