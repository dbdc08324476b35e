//! Looking up a topic: one pass down the trie, then one entry for each session.

use std::num::NonZeroU32;
use std::sync::Arc;

use mqgate_codec::{QoS, TopicName};

use super::{Group, Node, Subscriber, Subscribers, Subscriptions};
use crate::outbox::Origin;
use crate::persistent::Seed;
use crate::session::SessionKey;

/// Everyone a message for one topic goes to. Does not depend on who published, so it can be kept.
#[derive(Debug, Clone)]
pub struct Matches<S> {
    /// One per session, however many of its subscriptions match [MQTT-3.3.4-2, MQTT-3.3.4-3].
    pub receivers: Vec<Receiver<S>>,
    /// For sessions with No Local: what is left for them of a message they published themselves
    /// [MQTT-3.8.3-3].
    own: Vec<(SessionKey, Option<Receiver<S>>)>,
    pub groups: Vec<Arc<Group<S>>>,
}

#[derive(Debug, Clone)]
pub struct Receiver<S> {
    pub key: SessionKey,
    pub handle: S,
    /// The highest of the subscriptions that match.
    pub qos: QoS,
    pub retain_as_published: bool,
    /// With the identifiers of all subscriptions that match and have one.
    pub origin: Option<Arc<Origin>>,
}

impl<S: Clone> Subscriptions<S> {
    pub fn matches(&self, topic: &TopicName) -> Matches<S> {
        let mut found = Found { plain: Vec::new(), sets: 0, groups: Vec::new() };
        let text = topic.as_str();
        if text.starts_with('$') {
            // A leading wildcard does not match [MQTT-4.7.2-1].
            let (first, rest) = split(text);
            if let Some(child) = self.root.children.get(self.seed, first) {
                child.find(self.seed, rest, &mut found);
            }
        } else {
            self.root.find(self.seed, Some(text), &mut found);
        }
        found.merged()
    }
}

/// The first level and what follows; `None` after the last.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    }
}

struct Found<'a, S> {
    plain: Vec<(SessionKey, &'a Subscriber<S>)>,
    /// How many filters gave something to `plain`: with one there is nothing to merge.
    sets: usize,
    groups: Vec<Arc<Group<S>>>,
}

impl<S: Clone> Node<S> {
    /// Depth first, and not by recursion: a topic has as many levels as its client likes.
    fn find<'a, 't>(&'a self, seed: Seed, text: Option<&'t str>, found: &mut Found<'a, S>) {
        // The branches through `+` that are still to be followed; no memory where there is none.
        let mut branches: Vec<(&'a Self, Option<&'t str>)> = Vec::new();
        let mut next = Some((self, text));
        while let Some((node, text)) = next.take().or_else(|| branches.pop()) {
            if let Some(subscribers) = &node.rest {
                found.add(subscribers); // `#` stands for its parent level as well.
            }
            let Some(text) = text else {
                if let Some(subscribers) = &node.here {
                    found.add(subscribers);
                }
                continue;
            };
            let (level, rest) = split(text);
            if let Some(child) = &node.any {
                branches.push((child, rest));
            }
            next = node.children.get(seed, level).map(|child| (&**child, rest));
        }
    }
}

impl<'a, S: Clone> Found<'a, S> {
    fn add(&mut self, subscribers: &'a Subscribers<S>) {
        let before = self.plain.len();
        subscribers.plain.for_each(&mut |key, subscriber| self.plain.push((*key, subscriber)));
        self.sets += usize::from(self.plain.len() > before);
        if let Some((key, subscriber)) = subscribers.exclusive.as_deref() {
            self.plain.push((*key, subscriber));
            self.sets += 1;
        }
        self.groups.extend(subscribers.groups.iter().cloned());
    }

    fn merged(mut self) -> Matches<S> {
        if self.sets > 1 {
            self.plain.sort_by_key(|(key, _)| *key);
        }
        let mut receivers = Vec::with_capacity(self.plain.len());
        let mut own = Vec::new();
        for same in self.plain.chunk_by(|(left, _), (right, _)| left == right) {
            receivers.extend(receiver(same.iter()));
            if same.iter().any(|(_, subscriber)| subscriber.no_local) {
                own.push((same[0].0, receiver(same.iter().filter(|(_, subscriber)| !subscriber.no_local))));
            }
        }
        Matches { receivers, own, groups: self.groups }
    }
}

/// One delivery for several subscriptions of a session.
fn receiver<'s, 'a: 's, S: Clone + 'a>(
    mut same: impl Iterator<Item = &'s (SessionKey, &'a Subscriber<S>)>,
) -> Option<Receiver<S>> {
    let (key, first) = same.next()?;
    let Subscriber { handle, mut qos, mut retain_as_published, mut origin, .. } = (*first).clone();
    for (_, subscriber) in same {
        qos = qos.max(subscriber.qos);
        retain_as_published |= subscriber.retain_as_published;
        origin = both(origin, subscriber.origin.as_ref());
    }
    Some(Receiver { key: *key, handle, qos, retain_as_published, origin })
}

/// The identifiers of two subscriptions, neither of them shared.
fn both(one: Option<Arc<Origin>>, other: Option<&Arc<Origin>>) -> Option<Arc<Origin>> {
    let (Some(left), Some(right)) = (&one, other) else { return one.or_else(|| other.cloned()) };
    let mut all: Vec<NonZeroU32> = left.identifiers.iter().chain(&right.identifiers).copied().collect();
    all.sort_unstable();
    Origin::new(all, None)
}

impl<S> Matches<S> {
    pub fn is_empty(&self) -> bool {
        self.receivers.is_empty() && self.groups.is_empty()
    }

    /// Who gets a message of `publisher`, shared subscriptions aside.
    pub fn receivers_for(&self, publisher: SessionKey) -> impl Iterator<Item = &Receiver<S>> {
        let own = self.own.iter().find(|(key, _)| *key == publisher);
        let others = self.receivers.iter().filter(move |receiver| own.is_none() || receiver.key != publisher);
        others.chain(own.and_then(|(_, receiver)| receiver.as_ref()))
    }
}
