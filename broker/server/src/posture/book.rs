//! The findings there are, since when, and which of them somebody has decided to live with. Bounded; knows no clock and
//! no disk.

use std::collections::{BTreeMap, BTreeSet};

use mqgate_identity::posture::{Check, Finding, Resource, Severity};
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Suppressions kept; the next one is refused.
const MOST_SUPPRESSIONS: usize = 10_000;
/// Bytes kept of a reason.
const LONGEST_REASON: usize = 1024;
/// What cannot be kept of a finding that names too much.
const CUT: char = '…';

/// A finding that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// Made from the check and what it is about: the same thing found again has the same id.
    pub id: String,
    pub check: Check,
    pub severity: Severity,
    pub resource: Resource,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mitigation: Option<String>,
    pub first_seen: UnixMillis,
    pub last_seen: UnixMillis,
}

/// Somebody knows of a finding and lives with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suppression {
    pub reason: String,
    pub by: String,
    pub since: UnixMillis,
    /// Without one it holds until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
}

/// One check, and what it has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Of each severity, lowest first; what is suppressed not counted.
    pub open: [u64; Severity::ALL.len()],
    pub suppressed: u64,
    /// Found and not kept one by one.
    pub more: u64,
}

/// What a round of checks finds: of each check, only so many one by one.
#[derive(Debug)]
pub(super) struct Collected {
    most: usize,
    disabled: BTreeSet<Check>,
    found: BTreeMap<String, Finding>,
    counts: BTreeMap<Check, usize>,
    more: BTreeMap<Check, u64>,
}

impl Collected {
    pub(super) fn new(most: usize, disabled: BTreeSet<Check>) -> Self {
        let (found, counts, more) = Default::default();
        Self { most, disabled, found, counts, more }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if self.disabled.contains(&finding.check) {
            return;
        }
        let id = id_of(finding.check, &finding.resource);
        if self.found.contains_key(&id) {
            return;
        }
        let count = self.counts.entry(finding.check).or_default();
        if *count >= self.most {
            *self.more.entry(finding.check).or_default() += 1;
            return;
        }
        *count += 1;
        self.found.insert(id, finding);
    }
}

/// What a round of checks has changed.
#[derive(Debug, Default)]
pub struct News {
    pub appeared: Vec<Kept>,
    pub disappeared: Vec<Kept>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Book {
    findings: BTreeMap<String, Kept>,
    #[serde(default)]
    suppressions: BTreeMap<String, Suppression>,
    /// By check: found in the last round and not kept, because there are too many of them.
    #[serde(default)]
    more: BTreeMap<Check, u64>,
    /// What each component might use when it was first seen, or when somebody last agreed.
    #[serde(default)]
    accepted: BTreeMap<String, BTreeSet<String>>,
}

/// A finding cannot be suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuppressError {
    #[error("there is no such finding; `mqgate audit findings` shows those there are")]
    Unknown,
    #[error("a suppression needs a reason: whoever reads the list later wants to know")]
    NoReason,
    #[error("its end lies in the past")]
    Over,
    #[error("there are {MOST_SUPPRESSIONS} suppressions already: take some back")]
    Full,
}

/// Names what a check says about a resource.
pub fn id_of(check: Check, resource: &Resource) -> String {
    let mut hasher = Sha256::new();
    for part in [check.as_str(), &resource.kind, &resource.id] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..8])
}

impl Suppression {
    fn holds(&self, now: UnixMillis) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl Book {
    /// Enters what a round has found. A finding of a check that was not `judged` to its end stays as it is.
    pub(super) fn update(
        &mut self,
        collected: Collected,
        judged: impl Fn(Check) -> bool,
        now: UnixMillis,
    ) -> News {
        let mut news = News::default();
        let Collected { found, more, .. } = collected;
        self.more.retain(|check, _| !judged(*check));
        self.more.extend(more);
        let mut seen = BTreeSet::new();
        for (id, mut finding) in found {
            seen.insert(id.clone());
            clip(&mut finding.reason);
            let before = self.findings.get(&id);
            let kept = Kept {
                id: id.clone(),
                check: finding.check,
                severity: finding.severity,
                resource: finding.resource,
                reason: finding.reason,
                mitigation: finding.mitigation,
                first_seen: before.map_or(now, |before| before.first_seen),
                last_seen: now,
            };
            if before.is_none() {
                news.appeared.push(kept.clone());
            }
            self.findings.insert(id, kept);
        }
        // Not by the time: two rounds may be in one millisecond.
        let over = |kept: &&Kept| !seen.contains(&kept.id) && judged(kept.check);
        let ids: Vec<String> = self.findings.values().filter(over).map(|kept| kept.id.clone()).collect();
        news.disappeared = ids.iter().filter_map(|id| self.findings.remove(id)).collect();
        self.suppressions.retain(|_, suppression| suppression.holds(now));
        news
    }

    pub fn get(&self, id: &str, now: UnixMillis) -> Option<(&Kept, Option<&Suppression>)> {
        let kept = self.findings.get(id)?;
        Some((kept, self.suppression(id, now)))
    }

    fn suppression(&self, id: &str, now: UnixMillis) -> Option<&Suppression> {
        self.suppressions.get(id).filter(|suppression| suppression.holds(now))
    }

    /// In order of id, from the one after `after` on.
    pub fn list<'a>(
        &'a self,
        after: Option<&str>,
        now: UnixMillis,
    ) -> impl Iterator<Item = (&'a Kept, Option<&'a Suppression>)> {
        let from = match after {
            Some(after) => std::ops::Bound::Excluded(after.to_owned()),
            None => std::ops::Bound::Unbounded,
        };
        let range = self.findings.range((from, std::ops::Bound::Unbounded));
        range.map(move |(id, kept)| (kept, self.suppression(id, now)))
    }

    pub fn suppress(
        &mut self,
        id: &str,
        mut suppression: Suppression,
        now: UnixMillis,
    ) -> Result<(), SuppressError> {
        if !self.findings.contains_key(id) {
            return Err(SuppressError::Unknown);
        }
        if suppression.reason.trim().is_empty() {
            return Err(SuppressError::NoReason);
        }
        if !suppression.holds(now) {
            return Err(SuppressError::Over);
        }
        if self.suppressions.len() >= MOST_SUPPRESSIONS && !self.suppressions.contains_key(id) {
            return Err(SuppressError::Full);
        }
        clip(&mut suppression.reason);
        self.suppressions.insert(id.to_owned(), suppression);
        Ok(())
    }

    /// Says whether there was a suppression.
    pub fn unsuppress(&mut self, id: &str) -> bool {
        self.suppressions.remove(id).is_some()
    }

    pub fn count(&self, check: Check, now: UnixMillis) -> Count {
        let mut count = Count { more: self.more.get(&check).copied().unwrap_or(0), ..Count::default() };
        for kept in self.findings.values().filter(|kept| kept.check == check) {
            match self.suppression(&kept.id, now) {
                Some(_) => count.suppressed += 1,
                None => count.open[kept.severity as usize] += 1,
            }
        }
        count
    }

    /// What a component might use when it was first seen. One that is gone is forgotten.
    pub fn accepted(
        &mut self,
        plugins: &BTreeMap<String, BTreeSet<String>>,
    ) -> &BTreeMap<String, BTreeSet<String>> {
        self.accepted.retain(|name, _| plugins.contains_key(name));
        for (name, capabilities) in plugins {
            self.accepted.entry(name.clone()).or_insert_with(|| capabilities.clone());
        }
        &self.accepted
    }

    /// What it may use now is what it is to be compared with from now on. Says whether it is known.
    pub fn accept(&mut self, plugin: &str, capabilities: BTreeSet<String>) -> bool {
        let known = self.accepted.get_mut(plugin);
        known.map(|accepted| *accepted = capabilities).is_some()
    }
}

fn clip(text: &mut String) {
    if text.len() > LONGEST_REASON {
        text.truncate(text.floor_char_boundary(LONGEST_REASON));
        text.push(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: Check, id: &str) -> Finding {
        Finding {
            check,
            severity: check.severity(),
            resource: Resource { kind: String::from("certificate"), id: id.to_owned() },
            reason: String::from("because"),
            mitigation: None,
        }
    }

    /// A round that keeps ten findings of a check.
    fn round(book: &mut Book, found: Vec<Finding>, judged: fn(Check) -> bool, now: UnixMillis) -> News {
        let mut collected = Collected::new(10, BTreeSet::from([Check::CrlStale]));
        found.into_iter().for_each(|finding| collected.add(finding));
        book.update(collected, judged, now)
    }

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(seconds * 1000)
    }

    fn suppression(until: Option<u64>) -> Suppression {
        Suppression {
            reason: String::from("known"),
            by: String::from("admin"),
            since: at(0),
            until: until.map(at),
        }
    }

    const ALL: fn(Check) -> bool = |_| true;

    #[test]
    fn two_rounds_may_be_in_one_millisecond() {
        let mut book = Book::default();
        round(&mut book, vec![finding(Check::Dormant, "a")], ALL, at(1));
        let news = round(&mut book, Vec::new(), ALL, at(1));
        assert_eq!((news.appeared.len(), news.disappeared.len()), (0, 1));
    }

    #[test]
    fn a_finding_is_told_when_it_comes_and_when_it_goes() {
        let mut book = Book::default();
        let news = round(&mut book, vec![finding(Check::Dormant, "a")], ALL, at(1));
        assert_eq!((news.appeared.len(), news.disappeared.len()), (1, 0));
        let news = round(&mut book, vec![finding(Check::Dormant, "a")], ALL, at(2));
        assert_eq!((news.appeared.len(), news.disappeared.len()), (0, 0));
        let id = id_of(Check::Dormant, &finding(Check::Dormant, "a").resource);
        let (kept, _) = book.get(&id, at(2)).unwrap();
        assert_eq!((kept.first_seen, kept.last_seen), (at(1), at(2)));
        // A round that did not get as far says nothing about it.
        let news = round(&mut book, Vec::new(), |check| !check.is_about_devices(), at(3));
        assert_eq!((news.disappeared.len(), book.list(None, at(3)).count()), (0, 1));
        let news = round(&mut book, Vec::new(), ALL, at(4));
        assert_eq!((news.disappeared.len(), book.list(None, at(4)).count()), (1, 0));
    }

    #[test]
    fn too_many_are_counted_and_those_kept_stay_the_same() {
        let mut book = Book::default();
        let many = |count: usize| {
            (0..count).map(|number| finding(Check::NeverSeen, &format!("{number:03}"))).collect::<Vec<_>>()
        };
        let news = round(&mut book, many(25), ALL, at(1));
        assert_eq!(news.appeared.len(), 10);
        let news = round(&mut book, many(25), ALL, at(2));
        assert_eq!((news.appeared.len(), news.disappeared.len()), (0, 0));
        let count = book.count(Check::NeverSeen, at(2));
        assert_eq!((count.open, count.more), ([10, 0, 0, 0], 15));
        round(&mut book, many(3), ALL, at(3));
        let count = book.count(Check::NeverSeen, at(3));
        assert_eq!((count.open, count.more), ([3, 0, 0, 0], 0));
        // What is switched off is not found, however much of it there is.
        let news = round(&mut book, vec![finding(Check::CrlStale, "x")], ALL, at(4));
        assert!(news.appeared.is_empty());
    }

    #[test]
    fn a_suppression_ends_and_outlives_the_finding_that_comes_back() {
        let mut book = Book::default();
        let id = id_of(Check::Dormant, &finding(Check::Dormant, "a").resource);
        assert_eq!(book.suppress(&id, suppression(None), at(0)), Err(SuppressError::Unknown));
        round(&mut book, vec![finding(Check::Dormant, "a")], ALL, at(1));
        let empty = Suppression { reason: String::from(" "), ..suppression(None) };
        assert_eq!(book.suppress(&id, empty, at(1)), Err(SuppressError::NoReason));
        assert_eq!(book.suppress(&id, suppression(Some(1)), at(1)), Err(SuppressError::Over));
        book.suppress(&id, suppression(Some(10)), at(1)).unwrap();
        let count = |book: &Book, now: u64| {
            let count = book.count(Check::Dormant, at(now));
            (count.open[0], count.suppressed)
        };
        assert_eq!(count(&book, 2), (0, 1));
        round(&mut book, Vec::new(), ALL, at(3));
        round(&mut book, vec![finding(Check::Dormant, "a")], ALL, at(4));
        assert_eq!(count(&book, 4), (0, 1));
        assert_eq!(count(&book, 10), (1, 0));
        assert!(book.unsuppress(&id));
        assert_eq!(count(&book, 5), (1, 0));
    }

    #[test]
    fn what_a_component_may_use_is_compared_with_what_it_might_at_first() {
        let mut book = Book::default();
        let plugins = |names: &[&str]| {
            let capabilities = names.iter().map(|name| (*name).to_owned()).collect();
            BTreeMap::from([(String::from("acl"), capabilities)])
        };
        assert_eq!(book.accepted(&plugins(&["kv"]))["acl"].len(), 1);
        assert_eq!(book.accepted(&plugins(&["kv", "metrics"]))["acl"].len(), 1);
        assert!(book.accept("acl", plugins(&["kv", "metrics"])["acl"].clone()));
        assert_eq!(book.accepted(&plugins(&["kv", "metrics"]))["acl"].len(), 2);
        assert!(book.accepted(&BTreeMap::new()).is_empty());
        assert!(!book.accept("acl", BTreeSet::new()));
    }

    #[test]
    fn it_is_the_same_after_it_was_on_the_disk() {
        let mut book = Book::default();
        round(&mut book, vec![finding(Check::Dormant, "a"), finding(Check::CaExpiring, "b")], ALL, at(1));
        let text = serde_json::to_vec(&book).unwrap();
        let mut read: Book = serde_json::from_slice(&text).unwrap();
        let news =
            round(&mut read, vec![finding(Check::Dormant, "a"), finding(Check::CaExpiring, "b")], ALL, at(2));
        assert!(news.appeared.is_empty() && news.disappeared.is_empty());
    }
}
