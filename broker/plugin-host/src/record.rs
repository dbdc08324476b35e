//! What is remembered of a plugin beyond the process: its versions, and what was decided about it while the broker ran.
//!
//! Pure: who writes it to the disk is [`crate::store`], who acts on it [`crate::host`].

use std::collections::{BTreeSet, VecDeque};

use mqgate_identity::time::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::{Capability, Grants, Isolation, Limits, PluginSettings, Provenance, Source};
use crate::trust::Signer;

/// Components that are remembered beyond the records of their plugins.
const MOST_HAD: usize = 512;

/// What the operator decided last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    Live,
    /// It keeps its place and is not asked.
    Disabled,
    /// Out of the chains although the configuration names it.
    Unloaded,
}

/// How a version came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The configuration names it.
    Configuration,
    Loaded,
    Swapped,
    /// The same component with other settings.
    Configured,
    /// It ran before, and again after its successor was taken back.
    RolledBack,
    /// It had been a shadow.
    Promoted,
}

impl How {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Loaded => "loaded",
            Self::Swapped => "swapped",
            Self::Configured => "configured",
            Self::RolledBack => "rolled-back",
            Self::Promoted => "promoted",
        }
    }
}

/// A component together with what was set beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Rises by one with every version of the plugin.
    pub number: u32,
    /// `sha256:…` of the component.
    pub digest: String,
    /// The component is the one of the store, whatever the configuration names.
    pub pinned: bool,
    /// The component came with the broker's own program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bundled: bool,
    /// From the component's custom section `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Instead of the plugin's own settings in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Instead of the capabilities that the configuration grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<BTreeSet<Capability>>,
    pub since: UnixMillis,
    pub by: String,
    pub how: How,
    /// The number of the version that ran until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u32>,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
}

/// Settings of a plugin that the configuration does not name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    pub grants: Grants,
    pub limits: Limits,
    #[serde(default)]
    pub isolation: Isolation,
    pub required: bool,
}

/// Everything that is remembered of one plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub wanted: Wanted,
    /// `None`: they are in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
    /// Oldest first; the last one is what runs.
    pub versions: Vec<Version>,
}

/// Components that plugins had and that no record names any more, the last ones last: name and digest. Whoever watches a
/// folder does not bring them back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Had(VecDeque<(String, String)>);

impl Had {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn knows(&self, name: &str, digest: &str) -> bool {
        self.0.iter().any(|(had, of)| had == name && of == digest)
    }

    /// Everything that a record names.
    pub(crate) fn add_all(&mut self, record: &Record) {
        for version in &record.versions {
            self.add(&record.name, &version.digest);
        }
    }

    pub(crate) fn add(&mut self, name: &str, digest: &str) {
        self.0.retain(|(had, of)| had != name || of != digest);
        self.0.push_back((name.to_owned(), digest.to_owned()));
        let gone = self.0.len().saturating_sub(MOST_HAD);
        self.0.drain(..gone);
    }
}

/// A version that is about to run.
#[derive(Debug, Clone)]
pub(crate) struct Next {
    pub(crate) digest: String,
    pub(crate) pinned: bool,
    pub(crate) bundled: bool,
    pub(crate) label: Option<String>,
    pub(crate) config: Option<Value>,
    pub(crate) capabilities: Option<BTreeSet<Capability>>,
    pub(crate) by: String,
    pub(crate) how: How,
    pub(crate) signer: Option<Signer>,
}

impl Record {
    pub(crate) fn new(name: &str, own: Option<Own>) -> Self {
        Self { name: name.to_owned(), wanted: Wanted::Live, own, versions: Vec::new() }
    }

    pub(crate) fn current(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// It was unloaded, and the configuration did not name it: what is left is which components it had.
    pub(crate) fn is_gone(&self) -> bool {
        self.wanted == Wanted::Unloaded && self.own.is_some()
    }

    /// As it is remembered once it is unloaded.
    pub(crate) fn unloaded(&self, configured: bool) -> Self {
        let mut record = Self { wanted: Wanted::Unloaded, ..self.clone() };
        if configured {
            record.own = None;
            return record;
        }
        // Settings may be secret, and nobody needs them any more.
        for version in &mut record.versions {
            (version.config, version.capabilities) = (None, None);
        }
        record
    }

    /// What a rollback goes back to.
    pub(crate) fn former(&self) -> Option<&Version> {
        let before = self.current()?.before?;
        self.versions.iter().find(|version| version.number == before)
    }

    /// By its number, or by its digest: the youngest that has it.
    pub(crate) fn find(&self, what: &str) -> Option<&Version> {
        self.versions
            .iter()
            .rev()
            .find(|version| version.digest == what || what.parse() == Ok(version.number))
    }

    /// Whether a component was ever here, so that whoever watches a folder does not bring it back.
    pub(crate) fn knows(&self, digest: &str) -> bool {
        self.versions.iter().any(|version| version.digest == digest)
    }

    /// Adds a version, which runs from now on. The oldest beyond `keep` go.
    pub(crate) fn push(&mut self, next: Next, now: UnixMillis, keep: usize) {
        let before = self.current().map(|version| version.number);
        self.add(next, before, now, keep);
    }

    /// Takes the current version back: `target` runs again, under a number of its own.
    pub(crate) fn go_back(&mut self, target: &Version, why: &str, by: &str, now: UnixMillis, keep: usize) {
        if let Some(current) = self.versions.last_mut() {
            current.withdrawn = Some(why.to_owned());
        }
        let next = Next {
            digest: target.digest.clone(),
            pinned: true,
            bundled: target.bundled,
            label: target.label.clone(),
            config: target.config.clone(),
            capabilities: target.capabilities.clone(),
            by: by.to_owned(),
            how: How::RolledBack,
            signer: target.signer.clone(),
        };
        // Going back once more goes further back.
        self.add(next, target.before, now, keep);
    }

    fn add(&mut self, next: Next, before: Option<u32>, now: UnixMillis, keep: usize) {
        let number = self.current().map_or(1, |version| version.number.saturating_add(1));
        let Next { digest, pinned, bundled, label, config, capabilities, by, how, signer } = next;
        self.versions.push(Version {
            number,
            digest,
            pinned,
            bundled,
            label,
            config,
            capabilities,
            since: now,
            by,
            how,
            before,
            withdrawn: None,
            signer,
        });
        let gone = self.versions.len().saturating_sub(keep.max(2));
        self.versions.drain(..gone);
    }

    /// The settings to run with: those of the configuration, or its own, with what the current version has instead.
    pub(crate) fn settings(&self, base: &PluginSettings) -> PluginSettings {
        self.current().map_or_else(|| base.clone(), |version| version.settings(base))
    }
}

impl Version {
    /// Why its component was trusted, for whoever runs it again.
    pub(crate) fn provenance(&self) -> Provenance {
        match self.bundled {
            true => Provenance::Bundled,
            false => Provenance::Accepted(self.signer.clone()),
        }
    }

    pub(crate) fn settings(&self, base: &PluginSettings) -> PluginSettings {
        let mut settings = base.clone();
        if self.pinned {
            settings.source = Source::Stored(self.digest.clone());
            settings.digest = None;
            settings.provenance = self.provenance();
        }
        if let Some(config) = &self.config {
            settings.config = config.clone();
        }
        if let Some(capabilities) = &self.capabilities {
            settings.grants.capabilities.clone_from(capabilities);
        }
        settings
    }
}

/// The names of all members in their order, where `file` is the order of the configuration and `kept` the one in force
/// when something was last kept. `placed`: members that were put somewhere at runtime; they stand behind whoever stood
/// before them. The order of all others is the configuration's.
pub(crate) fn order(file: &[String], kept: &[String], placed: &BTreeSet<&str>) -> Vec<String> {
    let mut order: Vec<String> =
        file.iter().filter(|name| !placed.contains(name.as_str())).cloned().collect();
    for (index, name) in kept.iter().enumerate() {
        if !placed.contains(name.as_str()) {
            continue;
        }
        let before =
            kept[..index].iter().rev().find_map(|other| order.iter().position(|known| known == other));
        order.insert(before.map_or(0, |at| at + 1), name.clone());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(digest: &str) -> Next {
        Next {
            digest: digest.to_owned(),
            pinned: true,
            bundled: false,
            label: None,
            config: None,
            capabilities: None,
            by: String::from("admin"),
            how: How::Swapped,
            signer: None,
        }
    }

    fn numbers(record: &Record) -> Vec<u32> {
        record.versions.iter().map(|version| version.number).collect()
    }

    #[test]
    fn going_back_twice_goes_back_two_versions() {
        let mut record = Record::new("p", None);
        for (at, digest) in ["a", "b", "c"].into_iter().enumerate() {
            record.push(next(digest), UnixMillis(at as u64), 8);
        }
        for (back_to, why) in [("b", "it trapped"), ("a", "again")] {
            let target = record.former().expect("there is one").clone();
            assert_eq!(target.digest, back_to);
            record.go_back(&target, why, "system", UnixMillis(9), 8);
            assert_eq!(record.current().map(|version| version.digest.as_str()), Some(back_to));
        }
        assert_eq!(record.former(), None, "there is nothing before the first");
        assert_eq!(numbers(&record), [1, 2, 3, 4, 5]);
        let withdrawn: Vec<_> = record.versions.iter().map(|version| version.withdrawn.as_deref()).collect();
        assert_eq!(withdrawn, [None, None, Some("it trapped"), Some("again"), None]);
        // What follows goes back to what ran, not to what was taken back.
        record.push(next("d"), UnixMillis(10), 8);
        assert_eq!(record.former().map(|version| version.digest.as_str()), Some("a"));
        assert_eq!(record.find("3").map(|version| version.digest.as_str()), Some("c"));
        assert_eq!(record.find("b").map(|version| version.number), Some(4));
        assert!(record.knows("c") && !record.knows("e"));
    }

    #[test]
    fn so_many_versions_are_kept_and_the_last_two_always() {
        let mut record = Record::new("p", None);
        (0..10).for_each(|number| record.push(next(&number.to_string()), UnixMillis(number), 3));
        assert_eq!(numbers(&record), [8, 9, 10]);
        record.push(next("x"), UnixMillis(0), 0);
        assert_eq!(numbers(&record), [10, 11]);
        assert_eq!(record.former().map(|version| version.number), Some(10));
    }

    #[test]
    fn the_last_components_that_were_had_are_remembered() {
        let mut had = Had::default();
        (0..MOST_HAD).for_each(|number| had.add("p", &number.to_string()));
        assert!(had.knows("p", "0") && !had.knows("q", "0"));
        // What comes again is remembered anew, and once.
        had.add("p", "0");
        assert_eq!(had.0.len(), MOST_HAD);
        had.add("q", "0");
        assert_eq!(had.0.len(), MOST_HAD);
        assert!(had.knows("p", "0") && had.knows("q", "0") && had.knows("p", "2") && !had.knows("p", "1"));
    }

    #[test]
    fn members_stand_where_they_stood() {
        let names = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        for (file, kept, placed, expected) in [
            ("AB", "XAB", "X", "XAB"),
            ("AB", "XYAB", "XY", "XYAB"),
            ("AB", "AXYB", "XY", "AXYB"),
            ("AB", "ABX", "X", "ABX"),
            ("", "YX", "XY", "YX"),
            // The file was changed meanwhile: its order counts, and what was placed follows whom it followed.
            ("BA", "AXB", "X", "BAX"),
            ("BC", "AXB", "X", "XBC"),
            ("CB", "BXC", "X", "CBX"),
            // Unloaded and loaded elsewhere.
            ("AB", "BA", "B", "BA"),
            ("ABC", "AB", "", "ABC"),
        ] {
            let placed = names(placed);
            let placed = placed.iter().map(String::as_str).collect();
            assert_eq!(order(&names(file), &names(kept), &placed), names(expected), "{file} {kept}");
        }
    }
}
