//! The last message of each topic that was published to be kept: bounded, found by filter.
//!
//! Lookups work on a [`Snapshot`], so that whoever guards the store holds it only for a reference count.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;
use mqgate_codec::{TopicFilter, TopicName};

use crate::limits::RetainedLimits;
use crate::message::Message;
use crate::persistent::{Map, Part, Piece, Seed};
use crate::time::Instant;

#[derive(Debug)]
pub struct Retained {
    root: Arc<Node>,
    seed: Seed,
    limits: RetainedLimits,
    count: usize,
    bytes: usize,
    /// Messages with an expiry, the next first.
    expiries: BTreeSet<(Instant, ByteString)>,
    /// When [`Retained::expire`] last looked: as exact as the time of messages without an expiry of their own has
    /// to be.
    looked: Instant,
}

/// The store as it was at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    root: Arc<Node>,
    seed: Seed,
}

#[derive(Debug, Clone, Default)]
struct Node {
    children: Map<Arc<str>, Arc<Node>>,
    message: Option<Arc<Message>>,
}

/// What became of a message to be retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Stored,
    /// The payload was empty: there is none for this topic any more [MQTT-3.3.1-6].
    Removed,
    /// The store is full; the older message of this topic, if any, stays.
    Full,
}

impl Retained {
    pub fn new(limits: RetainedLimits, seed: Seed) -> Self {
        Self {
            root: Arc::default(),
            seed,
            limits,
            count: 0,
            bytes: 0,
            expiries: BTreeSet::new(),
            looked: Instant::ZERO,
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { root: Arc::clone(&self.root), seed: self.seed }
    }

    /// Keeps a message in place of the older one of its topic [MQTT-3.3.1-5]. It gets memory of its own.
    pub fn keep(&mut self, message: &Message) -> Kept {
        if message.payload.is_empty() {
            self.remove(&message.topic);
            return Kept::Removed;
        }
        let older = self.root.at(self.seed, message.topic.as_str()).map(|older| older.size());
        let count = self.count + usize::from(older.is_none());
        let bytes = self.bytes - older.unwrap_or(0) + message.size();
        if count > self.limits.messages || bytes > self.limits.bytes {
            return Kept::Full;
        }
        let mut message = message.stored();
        if message.expires_at.is_none() {
            message.expires_at = self.limits.expiry.map(|expiry| self.looked.after(expiry));
        }
        let message = Arc::new(message);
        if let Some(at) = message.expires_at {
            self.expiries.insert((at, message.topic.as_text().clone()));
        }
        let replaced = self.change(&message.topic, Some(Arc::clone(&message)));
        self.forget_expiry(replaced.as_deref().filter(|older| older.expires_at != message.expires_at));
        (self.count, self.bytes) = (count, bytes);
        Kept::Stored
    }

    /// Drops the message of a topic, if there is one.
    pub fn remove(&mut self, topic: &TopicName) {
        if self.root.at(self.seed, topic.as_str()).is_none() {
            return;
        }
        if let Some(removed) = self.change(topic, None) {
            self.count -= 1;
            self.bytes -= removed.size();
            self.forget_expiry(Some(&removed));
        }
    }

    /// Drops messages whose time has passed, at most `limit` of them; says how many.
    pub fn expire(&mut self, now: Instant, limit: usize) -> usize {
        self.looked = self.looked.max(now);
        let mut dropped = 0;
        while dropped < limit
            && let Some((at, topic)) = self.expiries.first()
            && *at <= now
        {
            let topic = TopicName::parse(topic.clone()).expect("it was taken from a topic name");
            self.remove(&topic);
            dropped += 1;
        }
        dropped
    }

    fn forget_expiry(&mut self, message: Option<&Message>) {
        if let Some(message) = message
            && let Some(at) = message.expires_at
        {
            self.expiries.remove(&(at, message.topic.as_text().clone()));
        }
    }

    fn change(&mut self, topic: &TopicName, message: Option<Arc<Message>>) -> Option<Arc<Message>> {
        Node::put(&mut self.root, self.seed, topic.as_str(), message)
    }
}

impl Snapshot {
    /// Every message whose topic a filter matches and whose time has not passed, at most `limit`. Looks at no
    /// more topic levels than are left in `visits`.
    pub fn matching(
        &self,
        filter: &TopicFilter,
        now: Instant,
        limit: usize,
        visits: &mut usize,
    ) -> Vec<Arc<Message>> {
        let (mut search, mut found) = (self.search(filter, limit), Vec::new());
        search.look(now, visits, &mut found);
        found
    }

    /// The same in pieces.
    pub fn search(&self, filter: &TopicFilter, limit: usize) -> Search {
        let filter = ByteString::from(filter.filter());
        let root = Todo::Node(Arc::clone(&self.root), Below::Filter(Some(0)));
        Search { seed: self.seed, filter, limit, first: true, todo: vec![root] }
    }
}

/// The first level and what follows; `None` after the last.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    }
}

impl Node {
    fn at(&self, seed: Seed, topic: &str) -> Option<&Arc<Message>> {
        let mut node = self;
        for level in topic.split('/') {
            node = node.children.get(seed, level)?;
        }
        node.message.as_ref()
    }

    /// The node of a topic, to be changed; made if it is not there.
    fn make<'n, 't>(
        root: &'n mut Arc<Self>,
        seed: Seed,
        levels: impl Iterator<Item = &'t str>,
    ) -> &'n mut Self {
        let mut node = Arc::make_mut(root);
        for level in levels {
            node = Arc::make_mut(node.children.entry(seed, Arc::from(level), Arc::default));
        }
        node
    }

    /// Puts a message in the place of the older one, or takes that away.
    fn put(
        root: &mut Arc<Self>,
        seed: Seed,
        topic: &str,
        message: Option<Arc<Message>>,
    ) -> Option<Arc<Message>> {
        let removes = message.is_none();
        let place = Self::make(root, seed, topic.split('/'));
        let older = std::mem::replace(&mut place.message, message);
        if removes && place.children.is_empty() {
            Self::prune(root, seed, topic);
        }
        older
    }

    /// Takes away the nodes that lead to a topic and to nothing else.
    fn prune(root: &mut Arc<Self>, seed: Seed, topic: &str) {
        let (mut node, mut stays) = (&**root, 0);
        for (depth, level) in topic.split('/').enumerate() {
            if node.message.is_some() || !node.children.is_single() {
                stays = depth;
            }
            let Some(child) = node.children.get(seed, level) else { return };
            node = child;
        }
        let mut levels = topic.split('/');
        let above = Self::make(root, seed, levels.by_ref().take(stays));
        if let Some(level) = levels.next() {
            above.children.remove(seed, level);
        }
    }
}

/// Clients choose how deep the tree is: nothing here calls itself for the level below, and dropping it does not
/// either.
impl Drop for Node {
    fn drop(&mut self) {
        let mut below = Vec::new();
        self.children.dismantle(|child| below.push(child));
        while let Some(child) = below.pop() {
            if let Some(mut child) = Arc::into_inner(child) {
                child.children.dismantle(|child| below.push(child));
            }
        }
    }
}

/// A search in the store as it was when it began.
#[derive(Debug)]
pub struct Search {
    seed: Seed,
    filter: ByteString,
    /// Messages that may yet be found.
    limit: usize,
    /// The first level is still to be looked at.
    first: bool,
    /// What is still to be looked at, and for what.
    todo: Vec<Todo>,
}

#[derive(Debug)]
enum Todo {
    Node(Arc<Node>, Below),
    /// Nodes below the first level, or on it.
    Children {
        part: Part<Arc<str>, Arc<Node>>,
        below: Below,
        first: bool,
    },
}

/// What is looked for below a node.
#[derive(Debug, Clone, Copy)]
enum Below {
    /// The rest of the filter begins here; `None` after its last level.
    Filter(Option<usize>),
    Everything,
}

impl Search {
    pub fn is_over(&self) -> bool {
        self.limit == 0 || self.todo.is_empty()
    }

    /// Whether it ended before everything was looked at.
    pub fn is_cut(&self) -> bool {
        self.limit == 0 && !self.todo.is_empty()
    }

    /// Goes on, as far as `visits` allow, and puts what it finds into `found`.
    pub fn look(&mut self, now: Instant, visits: &mut usize, found: &mut Vec<Arc<Message>>) {
        while *visits > 0 && self.limit > 0 {
            match self.todo.pop() {
                Some(Todo::Children { part, below, first }) => part.open(|piece| match piece {
                    Piece::Entry(level, child) => {
                        if !(first && level.starts_with('$')) {
                            self.todo.push(Todo::Node(Arc::clone(child), below));
                        }
                    }
                    Piece::Part(part) => self.todo.push(Todo::Children { part, below, first }),
                }),
                Some(Todo::Node(node, below)) => {
                    let first = std::mem::take(&mut self.first);
                    *visits -= usize::from(!first); // The root is no level.
                    self.visit(&node, below, first, now, visits, found);
                }
                None => return,
            }
        }
    }

    fn visit(
        &mut self,
        node: &Node,
        below: Below,
        first: bool,
        now: Instant,
        visits: &mut usize,
        found: &mut Vec<Arc<Message>>,
    ) {
        let (takes, children) = match below {
            Below::Filter(None) => (true, None),
            Below::Everything => (true, Some(Below::Everything)),
            Below::Filter(Some(at)) => {
                let (level, rest) = split(&self.filter[at..]);
                let rest = rest.map(|_| at + level.len() + 1);
                match level {
                    "#" => (true, Some(Below::Everything)),
                    "+" => (false, Some(Below::Filter(rest))),
                    literal => {
                        match node.children.get(self.seed, literal) {
                            Some(child) => self.todo.push(Todo::Node(Arc::clone(child), Below::Filter(rest))),
                            None => *visits = visits.saturating_sub(1),
                        }
                        (false, None)
                    }
                }
            }
        };
        if takes
            && let Some(message) = &node.message
            && !message.is_expired(now)
        {
            self.limit -= 1;
            found.push(Arc::clone(message));
        }
        if let Some(below) = children {
            let all = node.children.whole();
            self.todo.extend(all.map(|part| Todo::Children { part, below, first }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use mqgate_codec::{Publish, PublishProperties, QoS};
    use proptest::prelude::*;

    use super::*;
    use crate::session::SessionKey;

    fn message(topic: &str, payload: &str, expiry: Option<u32>) -> Arc<Message> {
        let properties =
            PublishProperties { message_expiry_interval: expiry, ..PublishProperties::default() };
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: true,
            topic: None,
            packet_id: None,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            properties,
        };
        Message::published(TopicName::parse(topic.into()).unwrap(), publish, SessionKey(1), Instant::ZERO)
    }

    fn found(retained: &Retained, filter: &str, now: Instant) -> Vec<String> {
        let filter = TopicFilter::parse(filter.into()).unwrap();
        let found = retained.snapshot().matching(&filter, now, usize::MAX, &mut { usize::MAX });
        let mut topics: Vec<_> = found.iter().map(|message| message.topic.as_str().to_owned()).collect();
        topics.sort();
        topics
    }

    /// [MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-7; MQTT 3.1.1: MQTT-3.3.1-5, MQTT-3.3.1-7, MQTT-3.3.1-10,
    /// MQTT-3.3.1-11]
    #[test]
    fn a_full_store_replaces_and_removes_but_does_not_grow() {
        let limits = RetainedLimits { messages: 2, bytes: 12, expiry: None };
        let mut retained = Retained::new(limits, Seed(1));
        assert_eq!(retained.keep(&message("a", "123", None)), Kept::Stored);
        assert_eq!(retained.keep(&message("b", "123", None)), Kept::Stored);
        assert_eq!(retained.keep(&message("c", "1", None)), Kept::Full, "count");
        assert_eq!(retained.keep(&message("a", "12345678", None)), Kept::Full, "bytes");
        assert_eq!(retained.keep(&message("a", "1234567", None)), Kept::Stored);
        assert_eq!((retained.len(), retained.bytes()), (2, 12));
        assert_eq!(retained.keep(&message("a", "", None)), Kept::Removed);
        assert_eq!(retained.keep(&message("nothing", "", None)), Kept::Removed);
        assert_eq!((retained.len(), retained.bytes()), (1, 4));
    }

    #[test]
    fn messages_expire() {
        let mut retained = Retained::new(RetainedLimits::default(), Seed(1));
        retained.keep(&message("a", "x", Some(10)));
        retained.keep(&message("b", "x", Some(20)));
        retained.keep(&message("b", "y", Some(30)));
        let later = Instant::ZERO.after_seconds(25);
        assert_eq!(found(&retained, "#", later), ["b"]);
        assert_eq!(retained.expire(later, 10), 1);
        assert_eq!((retained.len(), retained.expiries.len()), (1, 1));
        assert_eq!(retained.expire(Instant::ZERO.after_seconds(30), 10), 1);
        assert!(retained.is_empty() && retained.expiries.is_empty());
    }

    #[test]
    fn a_snapshot_stays() {
        let mut retained = Retained::new(RetainedLimits::default(), Seed(1));
        retained.keep(&message("a", "x", None));
        let snapshot = retained.snapshot();
        retained.remove(&TopicName::parse("a".into()).unwrap());
        let all = TopicFilter::parse("#".into()).unwrap();
        assert_eq!(snapshot.matching(&all, Instant::ZERO, 10, &mut 10).len(), 1);
        assert!(retained.snapshot().matching(&all, Instant::ZERO, 10, &mut 10).is_empty());
    }

    #[test]
    fn a_lookup_ends_where_it_was_told_to() {
        let mut retained = Retained::new(RetainedLimits::default(), Seed(1));
        for number in 0..1000 {
            retained.keep(&message(&format!("a/{number}/b"), "x", None));
        }
        for filter in ["#", "+/+/c", "a/#", "a/+/+"] {
            let filter = TopicFilter::parse(filter.into()).unwrap();
            let mut visits = 100;
            assert!(retained.snapshot().matching(&filter, Instant::ZERO, 1000, &mut visits).len() < 100);
            assert_eq!(visits, 0);
            let mut visits = 100;
            assert!(retained.snapshot().matching(&filter, Instant::ZERO, 5, &mut visits).len() <= 5);
        }
    }

    #[test]
    fn a_search_in_pieces_finds_the_same() {
        let mut retained = Retained::new(RetainedLimits::default(), Seed(1));
        for number in 0..1000 {
            retained.keep(&message(&format!("a/{number}/b"), "x", None));
        }
        let snapshot = retained.snapshot();
        for (filter, limit, number) in
            [("#", 5000, 1000), ("a/+/b", 5000, 1000), ("+/7/#", 5000, 1), ("#", 10, 10)]
        {
            let filter = TopicFilter::parse(filter.into()).unwrap();
            let mut search = snapshot.search(&filter, limit);
            let (mut found, mut pieces) = (Vec::new(), 0);
            while !search.is_over() {
                let (mut visits, before) = (10, found.len());
                search.look(Instant::ZERO, &mut visits, &mut found);
                assert!(found.len() - before <= 10);
                retained.remove(&TopicName::parse(format!("a/{pieces}/b").into()).unwrap());
                pieces += 1;
            }
            assert!(pieces >= number / 10, "{filter:?}: {pieces}");
            let whole = snapshot.matching(&filter, Instant::ZERO, limit, &mut { usize::MAX });
            let topics = |found: &[Arc<Message>]| -> Vec<_> {
                found.iter().map(|message| message.topic.clone()).collect()
            };
            assert_eq!((found.len(), topics(&found)), (number, topics(&whole)));
        }
    }

    /// As deep as a Topic Name of 65,535 bytes can be, on less stack than any task of the broker has: whatever goes
    /// down level by level does so in a loop, dropping included.
    #[test]
    fn the_deepest_topics_need_no_stack() {
        let deepest = || {
            let deep = "/".repeat(65_535);
            let shorter = &deep[..60_000];
            let mut retained = Retained::new(RetainedLimits::default(), Seed(1));
            retained.keep(&message(&deep, "x", None));
            retained.keep(&message(shorter, "x", Some(1)));
            let both = [shorter.to_owned(), deep.clone()];
            assert_eq!(found(&retained, "#", Instant::ZERO), both);
            assert_eq!(found(&retained, &format!("{shorter}#"), Instant::ZERO), both);
            assert_eq!(found(&retained, &("+/".repeat(32_767) + "#"), Instant::ZERO), both);
            assert_eq!(found(&retained, &deep, Instant::ZERO), both[1..]);
            let snapshot = retained.snapshot();
            assert_eq!(retained.expire(Instant::ZERO.after_seconds(1), 10), 1);
            retained.keep(&message(&deep, "", None));
            assert!(retained.is_empty() && retained.root.children.is_empty(), "nothing is left behind");
            drop(retained);
            drop(snapshot);
        };
        std::thread::Builder::new().stack_size(128 * 1024).spawn(deepest).unwrap().join().unwrap();
    }

    /// What is stored counts with what it takes.
    #[test]
    fn stored_messages_keep_no_encodings_and_count_their_properties() {
        let mut retained = Retained::new(RetainedLimits::default(), Seed(1));
        let mut with = Arc::into_inner(message("a", "x", None)).unwrap();
        assert!(with.frames.slot(mqgate_codec::ProtocolVersion::V5, QoS::AtMostOnce).is_some());
        let user_properties = vec![(ByteString::new(), ByteString::new()); 1000];
        with.properties = Some(Box::new(PublishProperties { user_properties, ..Default::default() }));
        assert!(with.size() > 1000 * 48);
        retained.keep(&with);
        let all = TopicFilter::parse("#".into()).unwrap();
        let found = retained.snapshot().matching(&all, Instant::ZERO, 10, &mut 10);
        assert!(found[0].frames.slot(mqgate_codec::ProtocolVersion::V5, QoS::AtMostOnce).is_none());
    }

    proptest! {
        #[test]
        fn lookups_agree_with_the_slow_matcher(
            steps in prop::collection::vec(("(\\$s|[ab])(/[ab]?){0,3}", "x?"), 0..40),
            filter in "(\\+|#|\\$s|a)|(\\+|\\$s|a)(/(\\+|b)?){0,2}(/#)?",
        ) {
            let mut retained = Retained::new(RetainedLimits::default(), Seed(9));
            let mut model = BTreeMap::new();
            for (topic, payload) in steps {
                retained.keep(&message(&topic, &payload, None));
                if payload.is_empty() { model.remove(&topic); } else { model.insert(topic, payload); }
            }
            prop_assert_eq!(retained.len(), model.len());
            let parsed = TopicFilter::parse(filter.as_str().into()).unwrap();
            let expected: Vec<_> = model
                .into_keys()
                .filter(|topic| parsed.matches(&TopicName::parse(topic.as_str().into()).unwrap()))
                .collect();
            prop_assert_eq!(found(&retained, &filter, Instant::ZERO), expected);
        }
    }

    #[test]
    fn who_gives_no_expiry_gets_the_default_one() {
        let expiry = Some(std::time::Duration::from_secs(10));
        let limits = RetainedLimits { messages: 9, bytes: 99, expiry };
        let mut retained = Retained::new(limits, Seed(1));
        let at = |seconds| Instant::ZERO.after_seconds(seconds);
        retained.expire(at(100), 9);
        for (topic, seconds) in [("default", None), ("shorter", Some(5)), ("longer", Some(20))] {
            let mut message = Arc::into_inner(message(topic, "x", None)).unwrap();
            message.expires_at = seconds.map(|seconds| at(100 + seconds));
            retained.keep(&message);
        }
        let mut left = |seconds| {
            retained.expire(at(seconds), 9);
            retained.len()
        };
        assert_eq!([104, 105, 109, 110, 119, 120].map(&mut left), [3, 2, 2, 1, 1, 0]);
    }
}
