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

    /// Whether it is there for the sake of one child only.
    fn is_thread(&self) -> bool {
        let children = match &self.any {
            Some(_) => self.children.is_empty(),
            None => self.children.is_single(),
        };
        children && self.here.is_none() && self.rest.is_none()
    }

    fn take_children(&mut self, below: &mut Vec<Arc<Self>>) {
        below.extend(self.any.take());
        self.children.dismantle(|child| below.push(child));
    }
}

/// Clients choose how deep the trie is: nothing here calls itself for the level below, and dropping it does not
/// either.
impl<S> Drop for Node<S> {
    fn drop(&mut self) {
        let mut below = Vec::new();
        self.take_children(&mut below);
        while let Some(child) = below.pop() {
            if let Some(mut child) = Arc::into_inner(child) {
                child.take_children(&mut below);
            }
        }
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

    /// Whether a filter begins with just this level, which begins with `$`: without one no topic below it has a receiver.
    pub fn reaches(&self, level: &str) -> bool {
        self.root.children.get(self.seed, level).is_some()
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
        let place = place(&mut self.root, self.seed, filter.levels());
        let subscribers = Arc::make_mut(place.get_or_insert_with(Arc::default));
        match share_name {
            None if filter.is_exclusive() => {
                subscribers.exclusive = Some(Box::new((key, subscriber.clone())));
            }
            None => {
                *subscribers.plain.entry(self.seed, key, || subscriber.clone()) = subscriber.clone();
            }
            Some(name) => subscribers.group(name).put(key, subscriber.clone()),
        }
    }

    /// The members of a shared subscription.
    pub fn group(&self, filter: &TopicFilter) -> Option<Arc<Group<S>>> {
        let name = filter.share_name()?;
        let subscribers = self.subscribers(filter)?.0;
        subscribers.position(name).map(|at| Arc::clone(&subscribers.groups[at]))
    }

    /// Who subscribed to exactly this filter; and how many of its levels stay, however few are left of them.
    fn subscribers(&self, filter: &TopicFilter) -> Option<(&Subscribers<S>, usize)> {
        let (mut node, mut stays) = (&self.root, 0);
        for (depth, level) in filter.levels().enumerate() {
            if level == "#" {
                return Some((node.rest.as_deref()?, stays));
            }
            if !node.is_thread() {
                stays = depth;
            }
            node = match level {
                "+" => node.any.as_ref()?,
                level => node.children.get(self.seed, level)?,
            };
        }
        Some((node.here.as_deref()?, stays))
    }

    /// Removes a subscription, if it is there.
    pub fn remove(&mut self, key: SessionKey, filter: &TopicFilter) {
        self.generation += 1;
        let Some((_, stays)) = self.subscribers(filter) else { return };
        let place = place(&mut self.root, self.seed, filter.levels());
        let Some(subscribers) = place else { return };
        let subscribers = Arc::make_mut(subscribers);
        match filter.share_name() {
            None if filter.is_exclusive() => {
                subscribers.exclusive.take_if(|held| held.0 == key);
            }
            None => {
                subscribers.plain.remove(self.seed, &key);
            }
            Some(name) => subscribers.leave(name, key),
        }
        if !subscribers.is_empty() {
            return;
        }
        *place = None;
        self.prune(filter, stays);
    }

    /// Takes away the nodes of a filter that hold nothing; the first `stays` levels lead to others, too.
    fn prune(&mut self, filter: &TopicFilter, stays: usize) {
        let end = node(&mut self.root, self.seed, filter.levels().take_while(|level| *level != "#"));
        if !end.is_empty() {
            return;
        }
        let mut levels = filter.levels();
        let above = node(&mut self.root, self.seed, levels.by_ref().take(stays));
        match levels.next() {
            None | Some("#") => {}
            Some("+") => above.any = None,
            Some(level) => {
                above.children.remove(self.seed, level);
            }
        }
    }
}

/// The node of some levels, to be changed; made if it is not there.
fn node<'a, 'n, S: Clone>(
    root: &'n mut Arc<Node<S>>,
    seed: Seed,
    levels: impl Iterator<Item = &'a str>,
) -> &'n mut Node<S> {
    let mut node = Arc::make_mut(root);
    for level in levels {
        let child = match level {
            "+" => node.any.get_or_insert_with(Arc::default),
            level => node.children.entry(seed, Arc::from(level), Arc::default),
        };
        node = Arc::make_mut(child);
    }
    node
}

/// Where the subscribers of a filter are, to be changed.
fn place<'a, 'n, S: Clone>(
    root: &'n mut Arc<Node<S>>,
    seed: Seed,
    levels: impl Iterator<Item = &'a str>,
) -> &'n mut Place<S> {
    let mut rest = false;
    let levels = levels.take_while(|level| {
        rest = *level == "#";
        !rest
    });
    let node = node(root, seed, levels);
    if rest { &mut node.rest } else { &mut node.here }
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
