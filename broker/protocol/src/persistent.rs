//! A map whose copies share what they have in common: a change costs the path to it, and whoever holds an
//! older copy keeps seeing the older map. A hash trie of 32 branches, changed in place while nobody shares it.

use std::borrow::Borrow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const BITS: u32 = 5;

/// Makes hashes unpredictable for those who choose the keys. The driver gives a random one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seed(pub u64);

#[derive(Debug, Clone)]
pub(crate) struct Map<K, V> {
    root: Option<Arc<Branch<K, V>>>,
}

/// A part of a map as it was: to go through it in pieces.
#[derive(Debug)]
pub(crate) struct Part<K, V>(Arc<Branch<K, V>>);

/// What a [`Part`] is made of.
pub(crate) enum Piece<'a, K, V> {
    Entry(&'a K, &'a V),
    Part(Part<K, V>),
}

#[derive(Debug, Clone)]
struct Branch<K, V> {
    /// Bit n set: there is a slot for n. Slots are in the order of the bits.
    bitmap: u32,
    slots: Vec<Slot<K, V>>,
}

#[derive(Debug, Clone)]
enum Slot<K, V> {
    Leaf(K, V),
    Branch(Arc<Branch<K, V>>),
    /// All bits of the hash are used up.
    Collided(Arc<Vec<(K, V)>>),
}

impl Seed {
    fn hash<Q: Hash + ?Sized>(self, key: &Q) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        key.hash(&mut hasher);
        hasher.finish()
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<K, V> Map<K, V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// All of it, to be gone through in pieces; `None` if it is empty.
    pub(crate) fn whole(&self) -> Option<Part<K, V>> {
        self.root.clone().map(Part)
    }

    /// Empties it and hands over the values that no copy shares: whoever drops a tree of maps does so in a loop.
    pub(crate) fn dismantle(&mut self, mut taken: impl FnMut(V)) {
        let mut branches: Vec<_> = self.root.take().and_then(Arc::into_inner).into_iter().collect();
        while let Some(branch) = branches.pop() {
            for slot in branch.slots {
                match slot {
                    Slot::Leaf(_, value) => taken(value),
                    Slot::Branch(child) => branches.extend(Arc::into_inner(child)),
                    Slot::Collided(list) => {
                        Arc::into_inner(list).into_iter().flatten().for_each(|(_, value)| taken(value));
                    }
                }
            }
        }
    }

    /// Whether there is exactly one entry.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.root.as_deref(), Some(Branch { slots, .. }) if matches!(slots.as_slice(), [Slot::Leaf(..)]))
    }

    pub(crate) fn for_each<'a>(&'a self, f: &mut impl FnMut(&'a K, &'a V)) {
        if let Some(root) = &self.root {
            root.for_each(f);
        }
    }
}

impl<K, V> Part<K, V> {
    /// Its pieces: not many, unless somebody knows the seed.
    pub(crate) fn open(&self, mut f: impl FnMut(Piece<'_, K, V>)) {
        for slot in &self.0.slots {
            match slot {
                Slot::Leaf(key, value) => f(Piece::Entry(key, value)),
                Slot::Branch(child) => f(Piece::Part(Part(Arc::clone(child)))),
                Slot::Collided(list) => list.iter().for_each(|(key, value)| f(Piece::Entry(key, value))),
            }
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Map<K, V> {
    pub(crate) fn get<Q>(&self, seed: Seed, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut hash = seed.hash(key);
        let mut branch = self.root.as_deref()?;
        loop {
            match branch.slots.get(branch.slot_of(hash)?)? {
                Slot::Leaf(found, value) => return (found.borrow() == key).then_some(value),
                Slot::Branch(child) => branch = child,
                Slot::Collided(list) => {
                    return list.iter().find(|(found, _)| found.borrow() == key).map(|(_, value)| value);
                }
            }
            hash >>= BITS;
        }
    }

    /// The value of a key, made by `default` if there is none, to be changed.
    pub(crate) fn entry(&mut self, seed: Seed, key: K, default: impl FnOnce() -> V) -> &mut V {
        let hash = seed.hash(&key);
        let root = self.root.get_or_insert_with(|| Arc::new(Branch { bitmap: 0, slots: Vec::new() }));
        Branch::entry(root, seed, hash, 0, key, default)
    }

    pub(crate) fn remove<Q>(&mut self, seed: Seed, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(seed, key)?; // Nothing is copied for nothing.
        let root = self.root.as_mut()?;
        let removed = Branch::remove(root, seed.hash(key), key);
        if root.slots.is_empty() {
            self.root = None;
        }
        removed
    }
}

impl<K, V> Branch<K, V> {
    fn bit(hash: u64) -> u32 {
        1 << (hash & 31)
    }

    fn position(&self, bit: u32) -> usize {
        (self.bitmap & (bit - 1)).count_ones() as usize
    }

    fn slot_of(&self, hash: u64) -> Option<usize> {
        let bit = Self::bit(hash);
        (self.bitmap & bit != 0).then(|| self.position(bit))
    }

    fn for_each<'a>(&'a self, f: &mut impl FnMut(&'a K, &'a V)) {
        for slot in &self.slots {
            match slot {
                Slot::Leaf(key, value) => f(key, value),
                Slot::Branch(child) => child.for_each(f),
                Slot::Collided(list) => list.iter().for_each(|(key, value)| f(key, value)),
            }
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Branch<K, V> {
    /// `hash` has `used` bits taken off already.
    fn entry(
        this: &mut Arc<Self>,
        seed: Seed,
        hash: u64,
        used: u32,
        key: K,
        default: impl FnOnce() -> V,
    ) -> &mut V {
        let branch = Arc::make_mut(this);
        let bit = Self::bit(hash);
        let at = branch.position(bit);
        if branch.bitmap & bit == 0 {
            branch.bitmap |= bit;
            branch.slots.reserve_exact(1);
            branch.slots.insert(at, Slot::Leaf(key, default()));
            let Slot::Leaf(_, value) = &mut branch.slots[at] else {
                unreachable!("put there one line above")
            };
            return value;
        }
        let slot = &mut branch.slots[at];
        if let Slot::Leaf(other, _) = slot
            && *other != key
        {
            Self::push_down(slot, seed, used + BITS);
        }
        match slot {
            Slot::Leaf(_, value) => value,
            Slot::Branch(child) => Self::entry(child, seed, hash >> BITS, used + BITS, key, default),
            Slot::Collided(list) => {
                let list = Arc::make_mut(list);
                let at = list.iter().position(|(found, _)| *found == key).unwrap_or_else(|| {
                    list.push((key, default()));
                    list.len() - 1
                });
                &mut list[at].1
            }
        }
    }

    /// Makes room beside a leaf.
    fn push_down(slot: &mut Slot<K, V>, seed: Seed, used: u32) {
        let room = Slot::Collided(Arc::new(Vec::new()));
        let Slot::Leaf(key, value) = std::mem::replace(slot, room) else { return };
        *slot = if used >= u64::BITS {
            Slot::Collided(Arc::new(vec![(key, value)]))
        } else {
            let bitmap = Self::bit(seed.hash(&key) >> used);
            Slot::Branch(Arc::new(Self { bitmap, slots: vec![Slot::Leaf(key, value)] }))
        };
    }

    fn remove<Q>(this: &mut Arc<Self>, hash: u64, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let branch = Arc::make_mut(this);
        let bit = Self::bit(hash);
        let at = branch.slot_of(hash)?;
        let (removed, left) = match &mut branch.slots[at] {
            Slot::Leaf(..) => {
                branch.bitmap &= !bit;
                let Slot::Leaf(_, value) = branch.slots.remove(at) else { return None };
                return Some(value);
            }
            Slot::Branch(child) => {
                let removed = Self::remove(child, hash >> BITS, key)?;
                let only = match child.slots.as_slice() {
                    [Slot::Leaf(key, value)] => Some((key.clone(), value.clone())),
                    _ => None,
                };
                (removed, only)
            }
            Slot::Collided(list) => {
                let list = Arc::make_mut(list);
                let gone = list.iter().position(|(found, _)| found.borrow() == key)?;
                let (_, removed) = list.remove(gone);
                let only = match list.as_slice() {
                    [only] => Some(only.clone()),
                    _ => None,
                };
                (removed, only)
            }
        };
        if let Some((key, value)) = left {
            branch.slots[at] = Slot::Leaf(key, value);
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Many keys share a hash.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct Clumsy(u16);

    impl Hash for Clumsy {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u16(self.0 % 3);
        }
    }

    fn content<K: Copy + Ord, V: Copy>(map: &Map<K, V>) -> BTreeMap<K, V> {
        let mut all = BTreeMap::new();
        map.for_each(&mut |key, value| {
            assert!(all.insert(*key, *value).is_none());
        });
        all
    }

    fn behaves_like_a_map<K: Copy + Ord + Hash + std::fmt::Debug>(
        steps: &[(u16, Option<u8>)],
        key_of: impl Fn(u16) -> K,
    ) {
        let seed = Seed(7);
        let mut map = Map::default();
        let mut model = BTreeMap::new();
        let mut older = Vec::new();
        for (number, value) in steps {
            let key = key_of(*number);
            if number % 5 == 0 {
                older.push((map.clone(), model.clone()));
            }
            match value {
                Some(value) => {
                    *map.entry(seed, key, || 0) = *value;
                    model.insert(key, *value);
                }
                None => assert_eq!(map.remove(seed, &key), model.remove(&key)),
            }
            assert_eq!(map.get(seed, &key), model.get(&key));
            assert_eq!(map.is_empty(), model.is_empty());
        }
        older.push((map, model));
        for (map, model) in older {
            assert_eq!(content(&map), model);
        }
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map_and_older_copies_stay(
            steps in prop::collection::vec((0_u16..60, prop::option::of(any::<u8>())), 0..300),
        ) {
            behaves_like_a_map(&steps, |number| number);
            behaves_like_a_map(&steps, Clumsy);
        }
    }
}
