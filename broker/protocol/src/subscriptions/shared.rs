//! Shared subscriptions: who of the members gets a message.
//!
//! Knows what a choice may depend on; whether a member can take the message is for the caller to try, in the
//! order given here.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mqgate_codec::TopicName;

use super::Subscriber;
use crate::session::SessionKey;

/// A shared subscription: each message goes to one member.
#[derive(Debug, Clone)]
pub struct Group<S> {
    name: Arc<str>,
    pub members: Vec<(SessionKey, Subscriber<S>)>,
    /// Whose turn it is; goes on counting in every snapshot.
    turn: Arc<AtomicUsize>,
    /// Who got the last message, where it is always the same one; 0 is nobody.
    favourite: Arc<AtomicU64>,
}

/// How a shared subscription chooses among its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShareStrategy {
    #[default]
    RoundRobin,
    Random,
    /// One member until it goes, then another.
    Sticky,
    /// Messages of one client go to one member.
    HashClient,
    /// Messages of one topic go to one member.
    HashTopic,
    /// Whoever has the fewest messages waiting and unacknowledged.
    LeastOutstanding,
}

/// What a choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    pub strategy: ShareStrategy,
    pub publisher: SessionKey,
    pub topic: &'a TopicName,
    /// The driver's: nothing here draws lots.
    pub random: u64,
}

impl<S> Group<S> {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), members: Vec::new(), turn: Arc::default(), favourite: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn put(&mut self, key: SessionKey, subscriber: Subscriber<S>) {
        match self.members.iter_mut().find(|(member, _)| *member == key) {
            Some((_, known)) => *known = subscriber,
            None => self.members.push((key, subscriber)),
        }
    }

    /// The members, the one to be tried first in front.
    pub fn order(
        &self,
        choice: &Choice<'_>,
        outstanding: impl Fn(&S) -> usize,
    ) -> impl Iterator<Item = &(SessionKey, Subscriber<S>)> + Clone {
        let first = self.first(choice, outstanding);
        self.members[first..].iter().chain(&self.members[..first])
    }

    /// A member took the message.
    pub fn served_by(&self, key: SessionKey) {
        if self.favourite.load(Ordering::Relaxed) != key.0 {
            self.favourite.store(key.0, Ordering::Relaxed);
        }
    }

    fn first(&self, choice: &Choice<'_>, outstanding: impl Fn(&S) -> usize) -> usize {
        let count = self.members.len();
        let among = |number: u64| (number % count.max(1) as u64) as usize;
        let in_turn = || self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        match choice.strategy {
            ShareStrategy::RoundRobin => in_turn(),
            ShareStrategy::Random => among(choice.random),
            ShareStrategy::Sticky => {
                let favourite = self.favourite.load(Ordering::Relaxed);
                let at = self.members.iter().position(|(key, _)| key.0 == favourite);
                at.unwrap_or_else(|| among(choice.random))
            }
            ShareStrategy::HashClient => among(hash(&choice.publisher.client_hash())),
            ShareStrategy::HashTopic => among(hash(choice.topic.as_str())),
            ShareStrategy::LeastOutstanding => {
                // Equals take turns.
                let start = in_turn();
                let load = |at: &usize| outstanding(&self.members[at % count].1.handle);
                (start..start + count).min_by_key(load).map_or(0, |at| at % count)
            }
        }
    }
}

fn hash<T: Hash + ?Sized>(what: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mqgate_codec::QoS;

    use super::*;

    /// Members whose handle is the number of their outstanding messages.
    fn group(outstanding: &[usize]) -> Group<usize> {
        let mut group = Group::new("g");
        for (number, &handle) in outstanding.iter().enumerate() {
            let subscriber = Subscriber {
                handle,
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                origin: None,
            };
            group.put(SessionKey::new(number as u64 + 1, 0), subscriber);
        }
        group
    }

    fn picks<'t>(
        group: &Group<usize>,
        strategy: ShareStrategy,
        each: impl Iterator<Item = (u64, &'t str, u64)>,
    ) -> Vec<u64> {
        each.map(|(client, topic, random)| {
            let topic = TopicName::parse(topic.into()).unwrap();
            let publisher = SessionKey::new(9, client);
            let choice = Choice { strategy, publisher, topic: &topic, random };
            let mut order = group.order(&choice, |outstanding| *outstanding);
            let first = order.next().unwrap().0;
            assert_eq!(order.count(), group.members.len() - 1, "everybody else comes after");
            group.served_by(first);
            first.0
        })
        .collect()
    }

    fn same(count: usize, random: u64) -> impl Iterator<Item = (u64, &'static str, u64)> {
        std::iter::repeat_n((1, "t", random), count)
    }

    #[test]
    fn each_strategy_chooses_in_its_own_way() {
        let three = group(&[5, 1, 3]);
        assert_eq!(picks(&three, ShareStrategy::RoundRobin, same(4, 7)), [1, 2, 3, 1]);
        let lots = [0, 1, 2, 4].map(|random| (1, "t", random));
        assert_eq!(picks(&three, ShareStrategy::Random, lots.into_iter()), [1, 2, 3, 2]);
        assert_eq!(picks(&three, ShareStrategy::LeastOutstanding, same(4, 7)), [2, 2, 2, 2]);
        assert_eq!(picks(&group(&[2, 2, 9]), ShareStrategy::LeastOutstanding, same(3, 7)), [1, 2, 1]);
    }

    #[test]
    fn sticky_means_one_member_until_it_goes() {
        let mut three = group(&[0, 0, 0]);
        let lots = [4, 5, 6].map(|random| (1, "t", random));
        assert_eq!(picks(&three, ShareStrategy::Sticky, lots.into_iter()), [2, 2, 2]);
        three.members.retain(|(key, _)| key.0 != 2);
        assert_eq!(picks(&three, ShareStrategy::Sticky, same(2, 1)), [3, 3]);
    }

    #[test]
    fn hashes_stay_with_client_or_topic_and_reach_everybody() {
        let three = group(&[0, 0, 0]);
        let topics: Vec<String> = (0..40).map(|number| format!("t/{number}")).collect();
        for (strategy, same_client) in [(ShareStrategy::HashTopic, false), (ShareStrategy::HashClient, true)]
        {
            let mut seen = BTreeMap::new();
            for random in 0..4 {
                let each =
                    topics.iter().enumerate().map(|(client, topic)| (client as u64, topic.as_str(), random));
                for (at, pick) in picks(&three, strategy, each).into_iter().enumerate() {
                    assert_eq!(*seen.entry(at).or_insert(pick), pick, "{strategy:?}");
                }
            }
            let reached: std::collections::BTreeSet<_> = seen.values().collect();
            assert_eq!(reached.len(), 3, "{strategy:?}");
            let topics_of_one = topics.iter().map(|topic| (5, topic.as_str(), 0));
            let picks: std::collections::BTreeSet<_> =
                picks(&three, strategy, topics_of_one).into_iter().collect();
            assert_eq!(picks.len() == 1, same_client, "{strategy:?}");
        }
    }
}
