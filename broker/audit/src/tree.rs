//! The Merkle tree of RFC 6962 and RFC 9162, section 2.1: its root from pieces, inclusion and consistency proofs, and
//! their verification. Knows hashes and numbers of leaves only; leaf 0 is the record with sequence number 1.

use crate::hash::Hash;

/// The hash of the perfect subtree over the leaves `index << level .. (index + 1) << level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub level: u8,
    pub index: u64,
    pub hash: Hash,
}

impl Node {
    pub fn leaf(index: u64, hash: Hash) -> Self {
        Self { level: 0, index, hash }
    }

    /// First leaf below it, and the first after those.
    pub fn span(&self) -> (u64, u64) {
        (self.index << self.level, (self.index + 1) << self.level)
    }
}

/// The leaves `begin .. end` as the few largest perfect subtrees that make them up, from left to right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    begin: u64,
    end: u64,
    nodes: Vec<Node>,
}

impl Range {
    /// No leaves, at `begin`.
    pub fn empty(begin: u64) -> Self {
        Self { begin, end: begin, nodes: Vec::new() }
    }

    /// The range `begin .. end` with the hashes of its subtrees, as [`Range::hashes`] gave them.
    pub fn from_hashes(begin: u64, end: u64, hashes: &[Hash]) -> Option<Self> {
        let shape = shape(begin, end)?;
        if shape.len() != hashes.len() {
            return None;
        }
        let nodes =
            shape.into_iter().zip(hashes).map(|((level, index), hash)| Node { level, index, hash: *hash });
        Some(Self { begin, end, nodes: nodes.collect() })
    }

    pub fn begin(&self) -> u64 {
        self.begin
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn hashes(&self) -> Vec<Hash> {
        self.nodes.iter().map(|node| node.hash).collect()
    }

    /// Adds the leaf that follows.
    pub fn push(&mut self, leaf: Hash) {
        let joined = self.add(Node::leaf(self.end, leaf));
        debug_assert!(joined, "a leaf at the end always fits");
    }

    /// Adds the subtree that follows; false if it does not begin where this range ends.
    pub fn add(&mut self, node: Node) -> bool {
        let (begin, end) = node.span();
        if begin != self.end {
            return false;
        }
        self.end = end;
        self.nodes.push(node);
        while let [.., left, right] = &self.nodes[..]
            && left.level == right.level
            && left.index.is_multiple_of(2)
        {
            let parent = Node {
                level: left.level + 1,
                index: left.index / 2,
                hash: Hash::node(left.hash, right.hash),
            };
            self.nodes.truncate(self.nodes.len() - 2);
            self.nodes.push(parent);
        }
        true
    }

    /// Adds the range that follows; false if it does not begin where this one ends.
    pub fn join(&mut self, next: &Self) -> bool {
        next.begin == self.end && next.nodes.iter().all(|node| self.add(*node))
    }

    /// The tree head over these leaves, if they begin where a subtree may begin; that of no leaves is the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev().map(|node| node.hash);
        let Some(last) = nodes.next() else { return Hash::over(&[]) };
        nodes.fold(last, |right, left| Hash::node(left, right))
    }
}

/// Levels and indices of the largest perfect subtrees that make up `begin .. end`.
fn shape(begin: u64, end: u64) -> Option<Vec<(u8, u64)>> {
    let mut shape = Vec::new();
    let mut at = begin;
    while at < end {
        let aligned = if at == 0 { 63 } else { at.trailing_zeros() };
        let level = aligned.min((end - at).ilog2());
        shape.push((u8::try_from(level).ok()?, at >> level));
        at += 1 << level;
    }
    (at == end).then_some(shape)
}

/// Where the hashes of leaves come from.
pub trait Leaves {
    type Error;

    /// The leaves `begin .. end`, which are there.
    fn range(&self, begin: u64, end: u64) -> Result<Range, Self::Error>;
}

/// The largest power of two that is smaller than `leaves`.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// PATH(leaf, D[size]): from the leaf's sibling to the root's child. `leaf` must be less than `size`.
pub fn inclusion<L: Leaves>(leaves: &L, leaf: u64, size: u64) -> Result<Vec<Hash>, L::Error> {
    let (mut begin, mut end) = (0, size);
    let mut path = Vec::new();
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if leaf < middle {
            path.push(leaves.range(middle, end)?.root());
            end = middle;
        } else {
            path.push(leaves.range(begin, middle)?.root());
            begin = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// PROOF(first, D[second]): that the first leaves of the tree with `second` leaves are those of the tree with `first`.
pub fn consistency<L: Leaves>(leaves: &L, first: u64, second: u64) -> Result<Vec<Hash>, L::Error> {
    let (mut begin, mut end) = (0, second);
    let mut path = Vec::new();
    if first == 0 {
        return Ok(path);
    }
    // What is left is the whole tree of `first` as long as nothing was cut off on its left.
    let mut whole = true;
    while first != end {
        let middle = begin + split(end - begin);
        if first <= middle {
            path.push(leaves.range(middle, end)?.root());
            end = middle;
        } else {
            path.push(leaves.range(begin, middle)?.root());
            begin = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(leaves.range(begin, end)?.root());
    }
    path.reverse();
    Ok(path)
}

/// RFC 9162, section 2.1.3.2: the root that `path` leads to from `hash` as leaf number `leaf` of `size`.
pub fn root_from_inclusion(leaf: u64, size: u64, hash: Hash, path: &[Hash]) -> Option<Hash> {
    if leaf >= size {
        return None;
    }
    let (mut number, mut last, mut root) = (leaf, size - 1, hash);
    for step in path {
        if last == 0 {
            return None;
        }
        if number % 2 == 1 || number == last {
            root = Hash::node(*step, root);
            while number % 2 == 0 && number != 0 {
                number >>= 1;
                last >>= 1;
            }
        } else {
            root = Hash::node(root, *step);
        }
        number >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// RFC 9162, section 2.1.4.2: whether `path` shows that the tree `first` is a beginning of the tree `second`.
pub fn is_consistent(first: (u64, Hash), second: (u64, Hash), path: &[Hash]) -> bool {
    let ((first_size, first_root), (second_size, second_root)) = (first, second);
    if first_size == second_size {
        return path.is_empty() && first_root == second_root;
    }
    if first_size == 0 {
        return path.is_empty() && first_root == Range::empty(0).root();
    }
    if first_size > second_size {
        return false;
    }
    // A tree that is a perfect subtree of the second needs no hash of its own.
    let mut steps = path.iter().copied();
    let start = if first_size.is_power_of_two() { Some(first_root) } else { steps.next() };
    let Some(start) = start else { return false };
    let (mut number, mut last) = (first_size - 1, second_size - 1);
    while number % 2 == 1 {
        number >>= 1;
        last >>= 1;
    }
    let (mut of_first, mut of_second) = (start, start);
    for step in steps {
        if last == 0 {
            return false;
        }
        if number % 2 == 1 || number == last {
            of_first = Hash::node(step, of_first);
            of_second = Hash::node(step, of_second);
            while number % 2 == 0 && number != 0 {
                number >>= 1;
                last >>= 1;
            }
        } else {
            of_second = Hash::node(of_second, step);
        }
        number >>= 1;
        last >>= 1;
    }
    last == 0 && of_first == first_root && of_second == second_root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MTH as RFC 6962, section 2.1, writes it.
    fn tree_head(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::over(&[]),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split(many.len() as u64) as usize);
                Hash::node(tree_head(left), tree_head(right))
            }
        }
    }

    struct All(Vec<Hash>);

    impl Leaves for All {
        type Error = std::convert::Infallible;

        fn range(&self, begin: u64, end: u64) -> Result<Range, Self::Error> {
            let mut range = Range::empty(begin);
            self.0[begin as usize..end as usize].iter().for_each(|leaf| range.push(*leaf));
            Ok(range)
        }
    }

    fn leaves(count: u64) -> All {
        All((0..count).map(|number| Hash::leaf(&number.to_be_bytes())).collect())
    }

    /// The roots of the trees over the first leaves of RFC 6962's reference implementation.
    #[test]
    fn roots_are_those_that_others_compute() {
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut range = Range::empty(0);
        assert_eq!(range.root().to_hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (input, root) in inputs.iter().zip(roots) {
            range.push(Hash::leaf(&hex::decode(input).unwrap()));
            assert_eq!(range.root().to_hex(), root);
        }
    }

    #[test]
    fn every_proof_of_small_trees_holds_and_no_other() {
        let all = leaves(40);
        let roots: Vec<Hash> = (0..=40).map(|size| tree_head(&all.0[..size])).collect();
        for size in 1..=40_u64 {
            for leaf in 0..size {
                let path = inclusion(&all, leaf, size).unwrap();
                let root = |leaf, size| root_from_inclusion(leaf, size, all.0[leaf as usize % 40], &path);
                assert_eq!(root(leaf, size), Some(roots[size as usize]));
                assert_ne!(root_from_inclusion(leaf, size, Hash::ZERO, &path), Some(roots[size as usize]));
                assert_ne!(root((leaf + 1) % size, size), Some(roots[size as usize]).filter(|_| size > 1));
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(root_from_inclusion(leaf, size, all.0[leaf as usize], shorter), None);
                }
                let longer = [&path[..], &[Hash::ZERO]].concat();
                assert_eq!(root_from_inclusion(leaf, size, all.0[leaf as usize], &longer), None);
            }
            for first in 0..=size {
                let path = consistency(&all, first, size).unwrap();
                let (one, two) = ((first, roots[first as usize]), (size, roots[size as usize]));
                assert!(is_consistent(one, two, &path), "{first} {size}");
                assert!(!is_consistent((first, Hash([9; 32])), two, &path));
                // Every tree goes on from the empty one.
                assert_eq!(is_consistent(one, (size, Hash([9; 32])), &path), first == 0);
                assert!(!is_consistent(one, two, &[&path[..], &[Hash::ZERO]].concat()));
                if !path.is_empty() {
                    assert!(!is_consistent(one, two, &path[1..]));
                }
            }
        }
    }

    proptest! {
        /// However the leaves are parted, the root is the same; a part is rebuilt from its hashes.
        #[test]
        fn a_tree_is_made_of_its_parts(parts in prop::collection::vec(0_u64..50, 0..8)) {
            let total: u64 = parts.iter().sum();
            let all = leaves(total);
            let mut whole = Range::empty(0);
            for part in parts {
                let begin = whole.end();
                let range = all.range(begin, begin + part).unwrap();
                let again = Range::from_hashes(begin, begin + part, &range.hashes());
                prop_assert_eq!(again.as_ref(), Some(&range));
                prop_assert!(whole.join(&range));
            }
            prop_assert_eq!(whole.root(), tree_head(&all.0));
            prop_assert!(!whole.join(&Range::empty(total + 1)));
        }
    }
}
