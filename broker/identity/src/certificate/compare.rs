//! When two distinguished names are the same: RFC 5280, 7.1. Letter case, the string type and the number of
//! spaces do not count; the order of RDNs does. Does not know what a name is compared for.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::der::{self, tag};
use super::name::text;

/// A distinguished name in the form that is compared: equal if, and only if, the names are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct CanonicalName {
    rdns: Vec<Rdn>,
}

/// What a name is found by: equal for names that are the same name (RFC 5280, 7.1), however each was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NameKey(u64);

impl NameKey {
    /// From the DER of a name. Two names may have one key: whoever is found by it is looked at again.
    pub fn of(raw: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        match CanonicalName::read(raw) {
            Some(name) => name.hash(&mut hasher),
            None => raw.hash(&mut hasher),
        }
        Self(hasher.finish())
    }
}

/// The attributes of one RDN, sorted: it is a set.
type Rdn = Vec<(Vec<u8>, Value)>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    Text(String),
    /// DER of what does not decode strictly, or is no string at all.
    Raw(Vec<u8>),
}

/// Where a name stands to a subtree of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subtree {
    Within,
    Outside,
    /// A string does not decode: another reader may see it within.
    Unclear,
}

impl CanonicalName {
    /// From the DER of a `Name`. `None`: it is not one.
    pub(crate) fn read(raw: &[u8]) -> Option<Self> {
        let mut list = der::only(raw, tag::SEQUENCE)?.content;
        let mut rdns = Vec::new();
        while !list.is_empty() {
            rdns.push(read_rdn(der::take_tagged(&mut list, tag::SET)?.content)?);
        }
        Some(Self { rdns })
    }

    /// The name one RDN below this one, from the content of the RDN's SET. `None`: it is not one.
    pub(crate) fn below(&self, rdn: &[u8]) -> Option<Self> {
        let rdn = read_rdn(rdn).filter(|rdn| !rdn.is_empty())?;
        Some(Self { rdns: self.rdns.iter().cloned().chain([rdn]).collect() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// Whether this name is `root` or below it: begins with its RDNs. RFC 5280, 4.2.1.10.
    pub(crate) fn subtree(&self, root: &Self) -> Subtree {
        if self.rdns.len() < root.rdns.len() {
            return Subtree::Outside;
        }
        let mut answer = Subtree::Within;
        for (ours, theirs) in self.rdns.iter().zip(&root.rdns) {
            if ours == theirs {
                continue;
            }
            let unclear = [ours, theirs]
                .into_iter()
                .any(|rdn| rdn.iter().any(|(_, value)| matches!(value, Value::Raw(_))));
            if !unclear {
                return Subtree::Outside;
            }
            answer = Subtree::Unclear;
        }
        answer
    }
}

fn read_rdn(mut set: &[u8]) -> Option<Rdn> {
    let mut rdn = Rdn::new();
    while !set.is_empty() {
        let mut pair = der::take_tagged(&mut set, tag::SEQUENCE)?.content;
        let oid = der::take_tagged(&mut pair, tag::OBJECT_IDENTIFIER)?.content.to_vec();
        let value = der::take(&mut pair).filter(|_| pair.is_empty())?;
        let value = match text(&value) {
            Some(text) => Value::Text(folded(&text)),
            None => Value::Raw(value.raw.to_vec()),
        };
        rdn.push((oid, value));
    }
    rdn.sort_unstable();
    Some(rdn)
}

/// RFC 4518, 2: case folded, spaces at the ends removed, several spaces made one.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().flat_map(char::to_lowercase));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, content.len() as u8][..], content].concat()
    }

    fn name(rdns: &[&[(u8, u8, &[u8])]]) -> CanonicalName {
        let sets: Vec<u8> = rdns
            .iter()
            .flat_map(|rdn| {
                let pairs: Vec<u8> = rdn
                    .iter()
                    .flat_map(|&(arc, tag, value)| {
                        let pair = [element(0x06, &[0x55, 0x04, arc]), element(tag, value)].concat();
                        element(0x30, &pair)
                    })
                    .collect();
                element(0x31, &pairs)
            })
            .collect();
        CanonicalName::read(&element(0x30, &sets)).unwrap()
    }

    #[test]
    fn case_spaces_and_string_types_do_not_count() {
        let plain = name(&[&[(3, 0x0c, b"Acme Devices")]]);
        for (tag, value) in
            [(0x13, &b"ACME devices"[..]), (0x16, b" acme   devices "), (0x0c, b"Acme Devices")]
        {
            assert_eq!(plain, name(&[&[(3, tag, value)]]));
        }
        assert_ne!(plain, name(&[&[(3, 0x0c, b"AcmeDevices")]]));
        assert_ne!(plain, name(&[&[(10, 0x0c, b"Acme Devices")]]));
        assert_ne!(name(&[&[(3, 0x0c, b"a\0")]]), name(&[&[(3, 0x0c, b"a")]]));
        assert_eq!(
            name(&[&[(3, 0x0c, b"a"), (10, 0x0c, b"b")]]),
            name(&[&[(10, 0x0c, b"b"), (3, 0x0c, b"a")]])
        );
        assert!(CanonicalName::read(b"").is_none());
        assert!(CanonicalName::read(&element(0x30, b"x")).is_none());
    }

    #[test]
    fn a_subtree_begins_alike() {
        let root = name(&[&[(6, 0x13, b"DE")], &[(10, 0x0c, b"Acme")]]);
        let below = name(&[&[(6, 0x13, b"de")], &[(10, 0x13, b"ACME")], &[(3, 0x0c, b"x")]]);
        let strange = name(&[&[(6, 0x13, b"DE")], &[(10, 0x14, b"Acme")], &[(3, 0x0c, b"x")]]);
        let other = name(&[&[(10, 0x0c, b"Acme")], &[(6, 0x13, b"DE")]]);
        assert_eq!(below.subtree(&root), Subtree::Within);
        assert_eq!(root.subtree(&below), Subtree::Outside);
        assert_eq!(other.subtree(&root), Subtree::Outside);
        assert_eq!(strange.subtree(&root), Subtree::Unclear);
        assert_eq!(below.subtree(&CanonicalName::default()), Subtree::Within);
    }
}
