//! What must hold at the end of a story, when everyone has come back and acknowledged everything.

use std::collections::BTreeMap;

use crate::model::{Delivery, History, Message, MessageId, Subscription, WillFate, matches};

pub fn check(history: &mut History) {
    let mut found = Vec::new();
    for (id, message) in history.messages.iter().enumerate() {
        let heard: Vec<_> =
            history.deliveries.iter().filter(|one| one.message == id && !one.retained).collect();
        check_reasons(history, id, message, &mut found);
        match message.will {
            Some(fate) => check_will(id, fate, &heard, &mut found),
            None if message.topic.starts_with("s/") => check_shared(history, id, message, &heard, &mut found),
            None => check_plain(history, id, message, &heard, &mut found),
        }
    }
    check_order(history, &mut found);
    for text in found {
        history.violated(text);
    }
}

/// Nobody gets what they did not ask for, or at a higher QoS than it was published with.
fn check_reasons(history: &History, id: MessageId, message: &Message, found: &mut Vec<String>) {
    for one in history.deliveries.iter().filter(|one| one.message == id) {
        let asked = |subscription: &Subscription| {
            subscription.client == one.client && matches(&subscription.filter, &message.topic)
        };
        if !history.subscriptions.iter().any(asked) {
            found.push(format!("client {} got {id} on {} without asking", one.client, message.topic));
        }
        if one.qos > message.qos {
            found.push(format!("client {} got {id} at QoS {}, sent at {}", one.client, one.qos, message.qos));
        }
    }
}

/// Every will is heard as often as it should be [MQTT-3.1.2-8], [MQTT-3.14.4-3].
fn check_will(id: MessageId, fate: WillFate, heard: &[&Delivery], found: &mut Vec<String>) {
    let right = match fate {
        WillFate::Never => heard.is_empty(),
        WillFate::Once => heard.len() == 1,
        WillFate::AtMostOnce => heard.len() <= 1,
    };
    if !right {
        found.push(format!("will {id} was heard {} times, expected {fate:?}", heard.len()));
    }
}

/// Held since before the message was sent, and to the end.
fn held<'a>(history: &'a History, message: &'a Message) -> impl Iterator<Item = &'a Subscription> {
    history.subscriptions.iter().filter(|one| {
        matches(&one.filter, &message.topic) && one.from < message.sent_at && one.until.is_none()
    })
}

/// At least once for QoS 1, at most once for QoS 0 and 2 [MQTT-4.3].
fn check_plain(
    history: &History,
    id: MessageId,
    message: &Message,
    heard: &[&Delivery],
    found: &mut Vec<String>,
) {
    let mut counts = BTreeMap::<_, usize>::new();
    for one in heard {
        *counts.entry((one.client, one.qos)).or_default() += 1;
    }
    for ((client, qos), count) in &counts {
        // A publisher that repeats a QoS 1 message is heard twice.
        if *count > 1 && *qos != 1 && message.qos != 1 {
            found.push(format!("client {client} got {id} {count} times at QoS {qos}"));
        }
    }
    if !message.accepted || message.qos == 0 {
        return;
    }
    for subscription in held(history, message).filter(|one| one.qos > 0) {
        if !heard.iter().any(|one| one.client == subscription.client) {
            found.push(format!("client {} never got {id}, sent at {}", subscription.client, message.sent_at));
        }
    }
}

/// One member gets it; which one is the broker's choice. What belongs to a member that went is its own affair
/// [MQTT-4.8.2-5].
fn check_shared(
    history: &History,
    id: MessageId,
    message: &Message,
    heard: &[&Delivery],
    found: &mut Vec<String>,
) {
    let somebody_went = history.subscriptions.iter().any(|one| {
        matches(&one.filter, &message.topic) && one.until.is_some_and(|until| until >= message.sent_at)
    });
    if somebody_went {
        return;
    }
    if message.qos == 2 && heard.iter().all(|one| one.qos == 2) && heard.len() > 1 {
        found.push(format!("members got {id} {} times at QoS 2", heard.len()));
    }
    if message.accepted && message.qos > 0 && heard.is_empty() && held(history, message).next().is_some() {
        found.push(format!("no member got {id}, sent at {}", message.sent_at));
    }
}

/// Messages of one publisher, topic and QoS arrive in the order in which they were sent [MQTT-4.6.0-6]; what
/// comes a second time may come late.
fn check_order(history: &History, found: &mut Vec<String>) {
    let mut last = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for one in history.deliveries.iter().filter(|one| !one.retained) {
        let message = &history.messages[one.message];
        let first = seen.insert((one.client, one.message));
        if !first || message.repeated || message.will.is_some() || message.topic.starts_with("s/") {
            continue;
        }
        let stream = (one.client, message.publisher, message.topic.as_str(), message.qos, one.qos);
        if let Some(before) = last.insert(stream, one.message)
            && before > one.message
        {
            found.push(format!("client {} got {} after {before} (step {})", one.client, one.message, one.at));
        }
    }
}
