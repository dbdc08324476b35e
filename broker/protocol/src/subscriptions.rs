//! Who gets a message: every subscription of every session, as a trie of topic levels.
//!
//! A clone is a snapshot that costs one reference count; a change copies the path to it and no more, and
//! nothing at all while there is no snapshot. One writer; readers hold snapshots and need no lock. `S` is
//! what the driver needs to reach a session; it is never looked at here.

mod matching;
mod shared;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;

use mqgate_codec::{QoS, SubscriptionOptions, TopicFilter};

pub use self::matching::{Matches, Receiver};
pub use self::shared::{Choice, Group, ShareStrategy};
use crate::outbox::Origin;
use crate::persistent::{Map, Seed};
use crate::session::SessionKey;

#[derive(Debug, Clone)]
pub struct Subscriptions<S> {
    root: Arc<Node<S>>,
    seed: Seed,
    generation: u64,
}

/// One level of the trie.
#[derive(Debug, Clone)]
struct Node<S> {
    children: Map<Arc<str>, Arc<Node<S>>>,
    /// Below `+`.
    any: Option<Arc<Node<S>>>,
    /// Filters that end here.
    here: Place<S>,
    /// Filters that end with `#` after this level.
    rest: Place<S>,
}

/// Where the subscribers of one filter are, if there are any.
type Place<S> = Option<Arc<Subscribers<S>>>;

#[derive(Debug, Clone)]
struct Subscribers<S> {
    plain: Map<SessionKey, Subscriber<S>>,
    /// Of the one session that may have such a subscription. Beside the others: it may have a plain one too.
    exclusive: Option<Box<(SessionKey, Subscriber<S>)>>,
    groups: Vec<Arc<Group<S>>>,
}

/// One subscription of one session.
#[derive(Debug, Clone)]
pub struct Subscriber<S> {
    pub handle: S,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// Its identifier, and the filter if it is shared.
    pub origin: Option<Arc<Origin>>,
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { children: Map::default(), any: None, here: None, rest: None }
    }
}

impl<S> Node<S> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_none() && self.rest.is_none()
    }
}

impl<S: Clone> Subscriptions<S> {
    pub fn new(seed: Seed) -> Self {
        Self { root: Arc::default(), seed, generation: 0 }
    }

    /// Rises with every change: what was looked up in an older generation may be wrong.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Enters a subscription, or replaces the same session's to the same filter.
    pub fn insert(
        &mut self,
        key: SessionKey,
        handle: S,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        identifier: Option<NonZeroU32>,
    ) {
        let SubscriptionOptions { qos, no_local, retain_as_published, .. } = options;
        let share_name = filter.share_name();
        let shared = share_name.map(|_| filter.clone());
        let origin = Origin::new(identifier.into_iter().collect(), shared);
        let subscriber = Subscriber { handle, qos, no_local, retain_as_published, origin };
        self.generation += 1;
        alter(&mut self.root, self.seed, &mut filter.levels(), &mut |subscribers| {
            let subscribers = Arc::make_mut(subscribers.get_or_insert_with(Arc::default));
            match share_name {
                None if filter.is_exclusive() => {
                    subscribers.exclusive = Some(Box::new((key, subscriber.clone())));
                }
                None => {
                    *subscribers.plain.entry(self.seed, key, || subscriber.clone()) = subscriber.clone();
                }
                Some(name) => subscribers.group(name).put(key, subscriber.clone()),
            }
        });
    }

    /// The members of a shared subscription.
    pub fn group(&self, filter: &TopicFilter) -> Option<Arc<Group<S>>> {
        let name = filter.share_name()?;
        let mut node = &self.root;
        let mut levels = filter.levels();
        let place = loop {
            match levels.next() {
                None => break &node.here,
                Some("#") => break &node.rest,
                Some("+") => node = node.any.as_ref()?,
                Some(level) => node = node.children.get(self.seed, level)?,
            }
        };
        let subscribers = place.as_ref()?;
        subscribers.position(name).map(|at| Arc::clone(&subscribers.groups[at]))
    }

    /// Removes a subscription, if it is there.
    pub fn remove(&mut self, key: SessionKey, filter: &TopicFilter) {
        let share_name = filter.share_name();
        self.generation += 1;
        alter(&mut self.root, self.seed, &mut filter.levels(), &mut |place| {
            let Some(subscribers) = place else { return };
            let subscribers = Arc::make_mut(subscribers);
            match share_name {
                None if filter.is_exclusive() => {
                    subscribers.exclusive.take_if(|held| held.0 == key);
                }
                None => {
                    subscribers.plain.remove(self.seed, &key);
                }
                Some(name) => subscribers.leave(name, key),
            }
            if subscribers.is_empty() {
                *place = None;
            }
        });
    }
}

/// Goes down the levels of a filter, changes what is there, and takes away nodes that hold nothing.
fn alter<'a, S: Clone>(
    node: &mut Arc<Node<S>>,
    seed: Seed,
    levels: &mut dyn Iterator<Item = &'a str>,
    change: &mut dyn FnMut(&mut Place<S>),
) {
    let node = Arc::make_mut(node);
    match levels.next() {
        None => change(&mut node.here),
        Some("#") => change(&mut node.rest),
        Some("+") => {
            let child = node.any.get_or_insert_with(Arc::default);
            alter(child, seed, levels, change);
            if child.is_empty() {
                node.any = None;
            }
        }
        Some(level) => {
            let child = node.children.entry(seed, Arc::from(level), Arc::default);
            alter(child, seed, levels, change);
            if child.is_empty() {
                node.children.remove(seed, level);
            }
        }
    }
}

impl<S> Default for Subscribers<S> {
    fn default() -> Self {
        Self { plain: Map::default(), exclusive: None, groups: Vec::new() }
    }
}

impl<S: Clone> Subscribers<S> {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.exclusive.is_none() && self.groups.is_empty()
    }

    fn group(&mut self, name: &str) -> &mut Group<S> {
        let at = self.position(name).unwrap_or_else(|| {
            self.groups.push(Arc::new(Group::new(name)));
            self.groups.len() - 1
        });
        Arc::make_mut(&mut self.groups[at])
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| group.name() == name)
    }

    fn leave(&mut self, name: &str, key: SessionKey) {
        let Some(at) = self.position(name) else { return };
        let group = Arc::make_mut(&mut self.groups[at]);
        group.members.retain(|(member, _)| *member != key);
        if group.members.is_empty() {
            self.groups.remove(at);
        }
    }
}
