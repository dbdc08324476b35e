use std::collections::{BTreeMap, BTreeSet};

use mqgate_codec::{RetainHandling, TopicName};
use proptest::prelude::*;

use super::*;

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendAtSubscribe,
    }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.into()).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text.into()).unwrap()
}

fn identifier(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

/// [MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.3.4-4; MQTT 3.1.1: MQTT-3.3.5-1]
#[test]
fn overlapping_subscriptions_give_one_delivery() {
    let mut index = Subscriptions::new(Seed(1));
    index.insert(SessionKey(1), "c", &filter("a/+"), options(QoS::AtMostOnce), identifier(7));
    index.insert(SessionKey(1), "c", &filter("a/#"), options(QoS::ExactlyOnce), None);
    index.insert(SessionKey(1), "c", &filter("#"), options(QoS::AtLeastOnce), identifier(3));
    let matches = index.matches(&topic("a/b"));
    let [receiver] = matches.receivers.as_slice() else { panic!("{matches:?}") };
    assert_eq!(receiver.qos, QoS::ExactlyOnce);
    let identifiers: Vec<_> =
        Origin::identifiers(receiver.origin.as_ref()).iter().map(|id| id.get()).collect();
    assert_eq!(identifiers, [3, 7]);
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_leaves_what_other_subscriptions_want() {
    let mut index = Subscriptions::new(Seed(1));
    let no_local = SubscriptionOptions { no_local: true, ..options(QoS::ExactlyOnce) };
    index.insert(SessionKey(1), "one", &filter("a"), no_local, None);
    index.insert(SessionKey(2), "two", &filter("a"), no_local, None);
    index.insert(SessionKey(2), "two", &filter("#"), options(QoS::AtMostOnce), None);
    let matches = index.matches(&topic("a"));
    let seen_by = |publisher| {
        matches
            .receivers_for(SessionKey(publisher))
            .map(|receiver| (receiver.handle, receiver.qos))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen_by(1), [("two", QoS::ExactlyOnce)]);
    assert_eq!(seen_by(2), [("one", QoS::ExactlyOnce), ("two", QoS::AtMostOnce)]);
    assert_eq!(seen_by(3), [("one", QoS::ExactlyOnce), ("two", QoS::ExactlyOnce)]);
}

/// One of the two forms goes, the other stays, and while there are both there is one delivery.
#[test]
fn an_exclusive_subscription_and_a_plain_one_are_two() {
    let mut index = Subscriptions::new(Seed(1));
    let (exclusive, plain) = (filter("$exclusive/a/+"), filter("a/+"));
    let qualities = |index: &Subscriptions<&str>| -> Vec<QoS> {
        index.matches(&topic("a/b")).receivers.iter().map(|receiver| receiver.qos).collect()
    };
    index.insert(SessionKey(1), "c", &exclusive, options(QoS::ExactlyOnce), None);
    index.insert(SessionKey(1), "c", &plain, options(QoS::AtLeastOnce), None);
    assert_eq!(qualities(&index), [QoS::ExactlyOnce]);
    index.remove(SessionKey(2), &exclusive);
    index.remove(SessionKey(1), &exclusive);
    assert_eq!(qualities(&index), [QoS::AtLeastOnce]);
    index.insert(SessionKey(1), "c", &exclusive, options(QoS::ExactlyOnce), None);
    index.remove(SessionKey(1), &plain);
    assert_eq!(qualities(&index), [QoS::ExactlyOnce]);
    index.remove(SessionKey(1), &exclusive);
    assert!(index.is_empty());
}

#[test]
fn a_group_takes_turns() {
    let mut index = Subscriptions::new(Seed(1));
    for key in 1..=3 {
        index.insert(SessionKey(key), key, &filter("$share/g/a/+"), options(QoS::AtLeastOnce), None);
    }
    index.remove(SessionKey(2), &filter("$share/g/a/+"));
    index.remove(SessionKey(3), &filter("$share/other/a/+"));
    let turns: Vec<_> = (0..4)
        .map(|_| {
            let matches = index.matches(&topic("a/b"));
            assert_eq!((matches.receivers.len(), matches.groups.len()), (0, 1));
            let choice = Choice {
                strategy: ShareStrategy::RoundRobin,
                publisher: SessionKey(9),
                topic: &topic("a/b"),
                random: 0,
            };
            matches.groups[0].order(&choice, |_| 0).next().unwrap().1.handle
        })
        .collect();
    assert_eq!(turns, [1, 3, 1, 3]);
}

#[test]
fn a_snapshot_stays_and_an_empty_index_is_empty() {
    let mut index = Subscriptions::new(Seed(1));
    index.insert(SessionKey(1), (), &filter("a/b/c"), options(QoS::AtMostOnce), None);
    let snapshot = index.clone();
    index.remove(SessionKey(1), &filter("a/b/c"));
    assert!(index.is_empty());
    assert_eq!(snapshot.matches(&topic("a/b/c")).receivers.len(), 1);
    assert!(index.generation() > snapshot.generation());
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("$s")]
}

fn filter_text() -> impl Strategy<Value = String> {
    let wild = prop_oneof![5 => level(), 2 => Just("+")];
    (prop::collection::vec(wild, 0..4), any::<bool>(), prop::option::of("[gh]")).prop_filter_map(
        "a filter",
        |(mut levels, rest, group)| {
            if rest {
                levels.push("#");
            }
            let text = levels.join("/");
            let text = match group {
                Some(group) => format!("$share/{group}/{text}"),
                None => text,
            };
            TopicFilter::parse(text.as_str().into()).is_ok().then_some(text)
        },
    )
}

fn topic_text() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic", |text| !text.is_empty())
}

proptest! {
    /// The trie finds what the plain matcher of the codec finds, after any sequence of changes.
    ///
    /// [MQTT-3.3.2-3, MQTT-4.7.2-1, MQTT-4.7.3-4; MQTT 3.1.1: MQTT-3.3.2-3, MQTT-4.7.2-1, MQTT-4.7.3-4]
    #[test]
    fn the_trie_agrees_with_the_slow_matcher(
        steps in prop::collection::vec((0_u64..5, filter_text(), any::<bool>()), 0..60),
        topics in prop::collection::vec(topic_text(), 1..20),
    ) {
        let mut index = Subscriptions::new(Seed(42));
        let mut model = BTreeSet::new();
        for (key, text, subscribe) in steps {
            let filter = filter(&text);
            if subscribe {
                index.insert(SessionKey(key), key, &filter, options(QoS::AtMostOnce), None);
                model.insert((key, text));
            } else {
                index.remove(SessionKey(key), &filter);
                model.remove(&(key, text));
            }
        }
        for text in topics {
            let topic = topic(&text);
            let matches = index.matches(&topic);
            let found: Vec<_> = matches.receivers.iter().map(|receiver| receiver.handle).collect();
            let mut expected = BTreeSet::new();
            let mut groups: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
            for (key, text) in &model {
                let filter = filter(text);
                if !filter.matches(&topic) {
                    continue;
                }
                if filter.share_name().is_some() {
                    groups.entry(text.clone()).or_default().insert(*key);
                } else {
                    expected.insert(*key);
                }
            }
            prop_assert_eq!(found.len(), expected.len(), "each session once");
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            let mut found: Vec<BTreeSet<u64>> =
                matches.groups.iter().map(|group| group.members.iter().map(|(key, _)| key.0).collect()).collect();
            let mut expected: Vec<_> = groups.into_values().collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
        for (key, text) in model {
            index.remove(SessionKey(key), &filter(&text));
        }
        prop_assert!(index.is_empty(), "nothing is left behind");
    }
}

/// As deep as a Topic Filter of 65,535 bytes can be, on less stack than any task of the broker has: whatever goes
/// down level by level does so in a loop, dropping included.
#[test]
fn the_deepest_filters_need_no_stack() {
    std::thread::Builder::new().stack_size(128 * 1024).spawn(deepest_filters).unwrap().join().unwrap();
}

fn deepest_filters() {
    let slashes = "/".repeat(65_535);
    let deep = slashes.as_str();
    let texts = [
        deep.to_owned(),
        format!("{}#", &deep[..65_534]),
        format!("+{}", &deep[..65_534]),
        "+/".repeat(32_767) + "+",
        format!("$share/g/{}", &deep[..65_526]),
        format!("$exclusive/{}", &deep[..65_524]),
    ];
    let mut index = Subscriptions::new(Seed(1));
    for (key, text) in (1..).zip(&texts) {
        index.insert(SessionKey(key), key, &filter(text), options(QoS::AtMostOnce), None);
    }
    let snapshot = index.clone();
    let heard = |slashes: usize| {
        let matches = index.matches(&topic(&deep[..slashes]));
        matches.receivers.iter().map(|receiver| receiver.handle).collect::<BTreeSet<_>>()
    };
    assert_eq!(heard(65_535), BTreeSet::from([1, 2]));
    assert_eq!(heard(65_534), BTreeSet::from([2, 3]));
    assert_eq!(index.matches(&topic(&"a/".repeat(32_767))).receivers.len(), 1);
    assert_eq!(index.matches(&topic(&deep[..65_526])).groups.len(), 1);
    assert!(index.group(&filter(&texts[4])).is_some());
    for (key, text) in (1..).zip(&texts) {
        index.remove(SessionKey(key), &filter(text));
    }
    assert!(index.is_empty(), "nothing is left behind");
    drop(index);
    assert_eq!(snapshot.matches(&topic(deep)).receivers.len(), 2);
    drop(snapshot);
}

#[test]
fn what_is_not_there_is_not_removed() {
    let mut index = Subscriptions::new(Seed(1));
    index.insert(SessionKey(1), (), &filter("a/b/c"), options(QoS::AtMostOnce), None);
    for other in ["a", "a/b", "a/b/c/d", "a/b/#", "+/b/c", "$share/g/a/b/c", "x"] {
        index.remove(SessionKey(1), &filter(other));
        index.remove(SessionKey(2), &filter("a/b/c"));
    }
    assert_eq!(index.matches(&topic("a/b/c")).receivers.len(), 1);
}

#[test]
fn a_level_is_reached_by_filters_that_name_it_first() {
    let mut index = Subscriptions::new(Seed(1));
    for (key, text) in (1..).zip(["#", "+/a", "a/$events", "$eventsx/#", "+"]) {
        index.insert(SessionKey(key), "s", &filter(text), options(QoS::AtMostOnce), None);
        assert!(!index.reaches("$events"), "{text}");
    }
    for text in ["$events/#", "$events/clients/+/x", "$events", "$share/g/$events/#", "$share/g/$events/+"] {
        index.insert(SessionKey(9), "s", &filter(text), options(QoS::AtMostOnce), None);
        assert!(index.reaches("$events"), "{text}");
        index.remove(SessionKey(9), &filter(text));
        assert!(!index.reaches("$events"), "{text}");
    }
}
