//! Versions on probation: which are, and what happens to those that do worse than the one before.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mqgate_identity::hooks::Reauthorize;

use crate::capability::now;
use crate::changes::Change;
use crate::error::LoadError;
use crate::host::PluginHost;
use crate::member::{EntryState, PluginInfo};
use crate::plugin::{Alarm, LivePlugin, Watched};
use crate::probation::{Share, Watch};
use crate::record::{How, Record};

/// A version that was taken back by itself, or was to be.
#[derive(Debug)]
pub struct TakenBack {
    pub name: String,
    /// Of the version that failed.
    pub digest: String,
    pub why: String,
    /// What runs now; an error: the version that failed still does.
    pub outcome: Result<PluginInfo, LoadError>,
}

impl PluginHost {
    /// Takes versions back that do too badly while they are on probation; tells `noted` of each. Runs as long as the
    /// host does, once.
    pub async fn watch_versions<N: Future<Output = ()>>(
        &self,
        reauthorize: Reauthorize,
        noted: impl Fn(TakenBack) -> N,
    ) {
        let Some(mut alarmed) = self.take_alarmed() else { return };
        while let Some(Alarm { plugin, number, why }) = alarmed.recv().await {
            let failed = self.find(&plugin).filter(|info| info.number == number);
            // Somebody was faster; calls that began before tell of it once more.
            let Some(failed) = failed else { continue };
            let change = Change { reauthorize, ..Change::by("system") };
            let outcome = self.rollback(&plugin, None, Some(number), &why, change).await;
            if outcome.is_err() {
                self.unwatch(&plugin);
            }
            noted(TakenBack { name: plugin.to_string(), digest: failed.digest, why, outcome }).await;
        }
    }

    /// There is nothing to go back to: it is said once.
    fn unwatch(&self, name: &str) {
        let state = self.state();
        if let Some((_, entry)) = state.entry(name)
            && let EntryState::Live(live) = &entry.state
        {
            live.plugin.unwatch();
        }
    }

    /// A version that took over from another proves itself; one that ran before has. It has so much time since it took
    /// over: a restart, or whatever loads it again, takes nothing off it and adds nothing.
    pub(crate) fn watch_on(&self, plugin: &Arc<LivePlugin>, record: &Record) {
        let Some(version) = record.current() else { return };
        let mut rule = self.loader.settings.probation;
        // A clock that went back means the whole time once more.
        rule.time = rule.time.saturating_sub(Duration::from_millis(now().0.saturating_sub(version.since.0)));
        let took_over = matches!(version.how, How::Swapped | How::Configured | How::Promoted);
        if !took_over || version.before.is_none() || rule.time.is_zero() {
            return;
        }
        let before = match self.state().entry(&record.name).map(|(_, entry)| &entry.state) {
            // The same version, loaded again, is compared with what it was compared with.
            Some(EntryState::Live(live)) => live.plugin.compared_with(version.number),
            Some(EntryState::Disabled | EntryState::Failed { .. }) | None => Share::default(),
        };
        plugin.watch(Watched {
            number: version.number,
            before,
            watch: Mutex::new(Watch::new(rule, before, Instant::now())),
            alarms: self.alarms.clone(),
        });
    }
}
