//! The members of the chains as the host keeps them, and what operators are told of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::hooks::ChainMember;
use mqgate_identity::time::UnixMillis;

use crate::changes::Change;
use crate::hook::Hook;
use crate::loading::Loaded;
use crate::plugin::LivePlugin;
use crate::record::{Had, How, Record, Version};
use crate::settings::PluginSettings;
use crate::shadow::Shadow;
use crate::store::Manifest;

pub(crate) enum Member {
    Native(Arc<ChainMember>),
    Plugin(Box<Entry>),
}

pub(crate) struct Entry {
    /// As the configuration has it, or its own record.
    pub(crate) base: PluginSettings,
    pub(crate) record: Record,
    /// Something about it was decided at runtime: its record is in the manifest.
    pub(crate) kept: bool,
    pub(crate) state: EntryState,
}

pub(crate) enum EntryState {
    Live(Box<Live>),
    Disabled,
    Failed {
        why: String,
        /// Listeners stay shut until it is live, or somebody decides otherwise.
        closes: bool,
    },
}

pub(crate) struct Live {
    pub(crate) plugin: Arc<LivePlugin>,
    pub(crate) member: Arc<ChainMember>,
    pub(crate) generation: u64,
    pub(crate) facts: Facts,
    pub(crate) shadow: Option<(Arc<Shadow>, Change)>,
}

/// What is known of a component since it was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    size: u64,
    hooks: Vec<String>,
    imports: Vec<String>,
    isolation: &'static str,
    cold_start: Duration,
}

/// Everything that changes change.
#[derive(Default)]
pub(crate) struct State {
    /// In the order in which they are asked.
    pub(crate) members: Vec<Member>,
    /// Plugins that were taken out at runtime, the last ones last.
    pub(crate) unloaded: Vec<Record>,
    /// What was here before that.
    pub(crate) had: Had,
    /// Plugins of the configuration, as it has them.
    pub(crate) configured: HashMap<String, PluginSettings>,
    /// Names in the order for [`crate::Position::Configured`].
    pub(crate) order: Vec<String>,
}

/// What the chains would be after a change, as far as the disk is concerned.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) members: Vec<DraftMember>,
    pub(crate) unloaded: Vec<Record>,
    pub(crate) had: Had,
}

#[derive(Clone)]
pub(crate) struct DraftMember {
    pub(crate) name: String,
    pub(crate) record: Option<Record>,
    pub(crate) kept: bool,
}

/// What is known of a plugin, for operators.
#[derive(Debug, Clone)]
pub struct PluginInfo {
    pub name: String,
    /// `sha256:…`; empty while the plugin was never loaded.
    pub digest: String,
    /// From the component's custom section `version`, if it has one.
    pub version: Option<String>,
    /// Bytes of the component.
    pub size: u64,
    /// Names of the hooks' interfaces.
    pub hooks: Vec<String>,
    pub imports: Vec<String>,
    /// Generation of the set in which this version of the plugin went live.
    pub generation: u64,
    pub state: PluginState,
    /// `per-call`, `pooled` or `single`.
    pub isolation: &'static str,
    /// Time a fresh instance took in the trial: instantiate, `init`, drop.
    pub cold_start: Duration,
    pub required: bool,
    /// Of its versions, the one that runs; 0 while none ever did.
    pub number: u32,
    pub since: Option<UnixMillis>,
    /// Who brought this version, and how.
    pub by: String,
    pub how: Option<How>,
    /// The version that a rollback goes back to.
    pub former: Option<u32>,
    /// The trusted key that signed the component.
    pub signer: Option<String>,
    /// What was decided about it at runtime holds, also after a restart.
    pub kept: bool,
    /// The configuration names it.
    pub configured: bool,
    /// How long it is still compared with the version before, to be taken back if it does worse.
    pub probation: Option<Duration>,
    /// `sha256:…` of the version whose answers are compared with its own.
    pub shadow: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginState {
    Live,
    /// Not asked, because somebody said so.
    Disabled,
    /// Wanted, but refused; why.
    Failed(String),
}

impl Member {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Native(native) => &native.name,
            Self::Plugin(entry) => &entry.base.name,
        }
    }

    /// The Authentication Methods that it serves now.
    pub(crate) fn methods(&self) -> &[String] {
        match self {
            Self::Native(native) => methods(native),
            Self::Plugin(entry) => match &entry.state {
                EntryState::Live(live) => &live.plugin.methods,
                EntryState::Disabled | EntryState::Failed { .. } => &[],
            },
        }
    }

    pub(crate) fn retire(&self) {
        if let Self::Plugin(entry) = self {
            entry.retire();
        }
    }
}

impl State {
    pub(crate) fn entry(&self, name: &str) -> Option<(usize, &Entry)> {
        self.members.iter().enumerate().find_map(|(index, member)| match member {
            Member::Plugin(entry) if entry.base.name == name => Some((index, &**entry)),
            Member::Plugin(_) | Member::Native(_) => None,
        })
    }

    pub(crate) fn entry_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.members.iter_mut().find_map(|member| match member {
            Member::Plugin(entry) if entry.base.name == name => Some(&mut **entry),
            Member::Plugin(_) | Member::Native(_) => None,
        })
    }

    pub(crate) fn info(&self, entry: &Entry) -> PluginInfo {
        let current = entry.record.current();
        let (state, live) = match &entry.state {
            EntryState::Live(live) => (PluginState::Live, Some(live)),
            EntryState::Disabled => (PluginState::Disabled, None),
            EntryState::Failed { why, .. } => (PluginState::Failed(why.clone()), None),
        };
        let facts = live.map(|live| live.facts.clone()).unwrap_or_default();
        PluginInfo {
            name: entry.base.name.clone(),
            digest: current.map(|version| version.digest.clone()).unwrap_or_default(),
            version: current.and_then(|version| version.label.clone()),
            size: facts.size,
            hooks: facts.hooks,
            imports: facts.imports,
            generation: live.map_or(0, |live| live.generation),
            state,
            isolation: facts.isolation,
            cold_start: facts.cold_start,
            required: entry.base.required,
            number: current.map_or(0, |version| version.number),
            since: current.map(|version| version.since),
            by: current.map(|version| version.by.clone()).unwrap_or_default(),
            how: current.map(|version| version.how),
            former: entry.record.former().map(|version| version.number),
            signer: current.and_then(|version| Some(version.signer.as_ref()?.name.clone())),
            kept: entry.kept,
            configured: self.configured.contains_key(&entry.base.name),
            probation: live.and_then(|live| live.plugin.watched_for()),
            shadow: live.and_then(|live| Some(live.shadow.as_ref()?.0.report().digest)),
        }
    }

    pub(crate) fn draft(&self) -> Draft {
        let members = self.members.iter().map(|member| match member {
            Member::Native(native) => {
                DraftMember { name: native.name.to_string(), record: None, kept: false }
            }
            Member::Plugin(entry) => DraftMember {
                name: entry.base.name.clone(),
                record: Some(entry.record.clone()),
                kept: entry.kept,
            },
        });
        Draft { members: members.collect(), unloaded: self.unloaded.clone(), had: self.had.clone() }
    }
}

impl Draft {
    /// A plugin as it will be, at its place.
    pub(crate) fn put(&mut self, index: usize, record: Record, kept: bool) {
        let name = record.name.clone();
        let known = self.members.iter().position(|member| member.name == name);
        let index = index - usize::from(known.is_some_and(|known| known < index));
        self.remove(&name);
        self.unloaded.retain(|known| known.name != name);
        let member = DraftMember { name, record: Some(record), kept };
        self.members.insert(index.min(self.members.len()), member);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.members.retain(|member| member.name != name);
    }

    /// Remembers what the state before had and no record names any more.
    pub(crate) fn remember_had(&mut self, before: &Self) {
        let all = |draft: &Self| {
            let members = draft.members.iter().filter_map(|member| member.record.as_ref());
            let records = members.chain(&draft.unloaded);
            let pairs = records.flat_map(|record| {
                record.versions.iter().map(|version| (record.name.clone(), version.digest.clone()))
            });
            pairs.collect::<Vec<_>>()
        };
        let now: HashSet<_> = all(self).into_iter().collect();
        for (name, digest) in all(before).into_iter().filter(|pair| !now.contains(pair)) {
            self.had.add(&name, &digest);
        }
    }

    pub(crate) fn manifest(&self) -> Manifest {
        let order = self.members.iter().map(|member| member.name.clone()).collect();
        let kept = self.members.iter().filter(|member| member.kept);
        let kept = kept.filter_map(|member| member.record.clone());
        Manifest::new(order, kept.chain(self.unloaded.iter().cloned()).collect(), self.had.clone())
    }

    /// Those whose components are kept.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        let unloaded = self.unloaded.iter().filter(|record| !record.is_gone());
        self.members.iter().filter_map(|member| member.record.as_ref()).chain(unloaded)
    }
}

impl Facts {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        let is_single = loaded.inspection.hooks == [Hook::Auditor];
        Self {
            size: loaded.size,
            hooks: names(&loaded.inspection.hooks),
            imports: loaded.inspection.imports.clone(),
            isolation: if is_single { "single" } else { loaded.isolation.as_str() },
            cold_start: loaded.cold_start,
        }
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            size: 0,
            hooks: Vec::new(),
            imports: Vec::new(),
            isolation: "per-call",
            cold_start: Duration::ZERO,
        }
    }
}

/// The Authentication Methods of a member that is built in.
pub(crate) fn methods(native: &ChainMember) -> &[String] {
    native.enhanced_authenticator.as_ref().map_or(&[], |hook| hook.methods())
}

pub(crate) fn names(hooks: &[Hook]) -> Vec<String> {
    hooks.iter().map(|hook| hook.as_str().to_owned()).collect()
}

/// For whoever asks which versions there are.
pub(crate) fn versions(entry: &Entry) -> Vec<Version> {
    entry.record.versions.clone()
}
