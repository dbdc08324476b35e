//! Posture checks in the running broker: gathers the facts, has them judged every hour and when asked to, keeps what was
//! found, and tells of what comes and goes.
//!
//! What a check looks for is `mqgate_identity::posture`'s.

mod book;
mod gather;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::posture::{Check, Facts, Severity, Thresholds};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::Storage;
use mqgate_identity::time::UnixMillis;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use tokio_util::sync::CancellationToken;

use self::book::{Book, Collected, News};
pub use self::book::{Count, Kept, SuppressError, Suppression};
use crate::audit::sinks::SinkStatus;
use crate::audit::{AuditLog, AuditRefused};
use crate::broker::Broker;
use crate::clock;
use crate::directory::lock;
use crate::registry::Registry;
use crate::trust::TrustStore;

/// Where the book is in the storage.
const SETTING: &str = "posture.findings";
/// The first round begins this long after the start, or sooner.
const FIRST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct PostureSettings {
    pub thresholds: Thresholds,
    pub interval: Duration,
    /// Findings of one check that are kept one by one; the others are counted.
    pub findings: usize,
    /// Checks that are left out.
    pub disabled: BTreeSet<Check>,
}

impl Default for PostureSettings {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            interval: Duration::from_secs(3600),
            findings: 500,
            disabled: BTreeSet::new(),
        }
    }
}

/// Parts of the broker that checks look at.
pub struct PostureParts {
    pub broker: Arc<Broker>,
    pub registry: Arc<Registry>,
    pub trust: Arc<TrustStore>,
    pub audit: Arc<AuditLog>,
    pub storage: Arc<dyn Storage>,
    /// What only the application knows: listeners, rules, plugins, sinks, the admin API. CAs, lists and connections are
    /// added here.
    pub known: Box<dyn Fn() -> Facts + Send + Sync>,
}

/// What a round has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "PostureRound")]
pub struct Round {
    pub at: UnixMillis,
    pub milliseconds: u64,
    /// Records of the registry that were looked at.
    pub records: u64,
    /// Whether all were.
    pub complete: bool,
    pub appeared: usize,
    pub disappeared: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum PostureError {
    #[error(transparent)]
    Suppress(#[from] SuppressError),
    #[error("{0}: what cannot be written down is not done; free space for the audit log")]
    Audit(#[from] AuditRefused),
    #[error("the storage is unavailable: {0}")]
    Storage(String),
    #[error("no component of this name runs")]
    NoPlugin,
}

/// The service.
pub struct Posture {
    parts: PostureParts,
    settings: ArcSwap<PostureSettings>,
    book: Mutex<Book>,
    last: Mutex<Option<Round>>,
    /// One round at a time.
    running: tokio::sync::Mutex<()>,
    changed: tokio::sync::Notify,
    findings: IntGaugeVec,
    suppressed: IntGauge,
}

impl Posture {
    /// Reads what was found before.
    pub async fn open(
        parts: PostureParts,
        settings: PostureSettings,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, PostureError> {
        let storage = Arc::clone(&parts.storage);
        let stored = blocking(move || storage.setting(SETTING)).await?;
        let book = stored.map(|bytes| serde_json::from_slice(&bytes)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the findings of earlier checks cannot be read: they begin anew");
            None
        });
        let broken = |error: prometheus::Error| PostureError::Storage(error.to_string());
        let findings = IntGaugeVec::new(
            Opts::new("mqgate_audit_findings", "Findings of the posture checks, without those suppressed."),
            &["check", "severity"],
        )
        .map_err(broken)?;
        let suppressed = IntGauge::new(
            "mqgate_audit_findings_suppressed",
            "Findings of the posture checks that are suppressed.",
        )
        .map_err(broken)?;
        metrics.register(Box::new(findings.clone())).map_err(broken)?;
        metrics.register(Box::new(suppressed.clone())).map_err(broken)?;
        let posture = Self {
            parts,
            settings: ArcSwap::from_pointee(settings),
            book: Mutex::new(book.unwrap_or_default()),
            last: Mutex::default(),
            running: tokio::sync::Mutex::default(),
            changed: tokio::sync::Notify::new(),
            findings,
            suppressed,
        };
        posture.count();
        Ok(Arc::new(posture))
    }

    pub fn configure(&self, settings: PostureSettings) {
        self.settings.store(Arc::new(settings));
        self.changed.notify_one();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// Checks every hour until `shutdown`. To be run once.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut wait = self.settings.load().interval.min(FIRST);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {
                    wait = self.settings.load().interval;
                    continue;
                }
                () = tokio::time::sleep(wait) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = self.check(gather::Pace::Gentle) => {}
            }
            wait = self.settings.load().interval;
        }
    }

    /// Checks now.
    pub async fn check_now(&self) -> Round {
        self.check(gather::Pace::Fast).await
    }

    async fn check(&self, pace: gather::Pace) -> Round {
        let _running = self.running.lock().await;
        let (started, at) = (std::time::Instant::now(), clock::now());
        let settings = self.settings.load_full();
        let mut facts = self.facts().await;
        let capabilities: BTreeMap<String, BTreeSet<String>> =
            facts.plugins.iter().map(|plugin| (plugin.name.clone(), plugin.capabilities.clone())).collect();
        {
            let mut book = self.book();
            let accepted = book.accepted(&capabilities);
            for plugin in &mut facts.plugins {
                plugin.accepted = accepted.get(&plugin.name).cloned().unwrap_or_default();
            }
        }
        let mut found = Collected::new(settings.findings, settings.disabled.clone());
        let judged = mqgate_identity::posture::judge(&facts, &settings.thresholds, at);
        judged.into_iter().for_each(|finding| found.add(finding));
        drop(facts);
        let walk = self.walk(&settings, pace, at, &mut found).await;
        let judged =
            |check: Check| walk.complete || !check.is_about_devices() || settings.disabled.contains(&check);
        let news = self.book().update(found, judged, at);
        let round = Round {
            at,
            milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            records: walk.records,
            complete: walk.complete,
            appeared: news.appeared.len(),
            disappeared: news.disappeared.len(),
        };
        *lock(&self.last) = Some(round);
        self.count();
        self.tell(&news);
        if let Err(error) = self.keep().await {
            tracing::error!(%error, "the findings of the posture checks are not kept");
        }
        tracing::info!(
            appeared = round.appeared,
            disappeared = round.disappeared,
            records = round.records,
            complete = round.complete,
            milliseconds = round.milliseconds,
            "posture checks are done"
        );
        round
    }

    fn tell(&self, news: &News) {
        let about = |name, kept: &Kept| {
            let event = AuditEvent::new(name, Outcome::Success, Reason::Ok)
                .field("finding", kept.id.as_str())
                .field("check", kept.check.as_str())
                .field("severity", kept.severity.as_str())
                .field("resource.kind", kept.resource.kind.as_str())
                .field("resource.id", kept.resource.id.as_str())
                .field("detail", kept.reason.as_str());
            self.parts.audit.record(event);
        };
        news.appeared.iter().for_each(|kept| about(names::FINDING_APPEARED, kept));
        news.disappeared.iter().for_each(|kept| about(names::FINDING_DISAPPEARED, kept));
    }

    /// Every label set is there from the start: no finding is a zero.
    fn count(&self) {
        let (book, now) = (self.book(), clock::now());
        let mut suppressed = 0;
        for check in Check::ALL.iter().copied() {
            let count = book.count(check, now);
            suppressed += count.suppressed;
            for severity in Severity::ALL {
                let more = if severity == check.severity() { count.more } else { 0 };
                let open = i64::try_from(count.open[severity as usize] + more).unwrap_or(i64::MAX);
                if open > 0 || severity == check.severity() {
                    self.findings.with_label_values(&[check.as_str(), severity.as_str()]).set(open);
                } else {
                    let _ = self.findings.remove_label_values(&[check.as_str(), severity.as_str()]);
                }
            }
        }
        self.suppressed.set(i64::try_from(suppressed).unwrap_or(i64::MAX));
    }

    async fn keep(&self) -> Result<(), PostureError> {
        let text =
            serde_json::to_vec(&*self.book()).map_err(|error| PostureError::Storage(error.to_string()))?;
        let storage = Arc::clone(&self.parts.storage);
        blocking(move || storage.put_setting(SETTING, &text)).await
    }

    /// How the sinks of the audit log are.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.parts.audit.sinks()
    }

    /// The last round.
    pub fn last(&self) -> Option<Round> {
        *lock(&self.last)
    }

    /// Every check: whether it is made, and what it has found.
    pub fn checks(&self) -> Vec<(Check, bool, Count)> {
        let (settings, book, now) = (self.settings.load(), self.book(), clock::now());
        let checks = Check::ALL.iter().copied();
        checks.map(|check| (check, !settings.disabled.contains(&check), book.count(check, now))).collect()
    }

    /// Findings that `wanted` picks, in order of id, after the one named.
    pub fn findings(
        &self,
        after: Option<&str>,
        limit: usize,
        wanted: impl Fn(&Kept, bool) -> bool,
    ) -> Vec<(Kept, Option<Suppression>)> {
        let (book, now) = (self.book(), clock::now());
        let all = book.list(after, now).filter(|(kept, suppression)| wanted(kept, suppression.is_some()));
        all.take(limit).map(|(kept, suppression)| (kept.clone(), suppression.cloned())).collect()
    }

    pub fn finding(&self, id: &str) -> Option<(Kept, Option<Suppression>)> {
        let book = self.book();
        let (kept, suppression) = book.get(id, clock::now())?;
        Some((kept.clone(), suppression.cloned()))
    }

    /// Lives with a finding until `until`, or until it is taken back.
    pub async fn suppress(
        &self,
        id: &str,
        reason: &str,
        until: Option<UnixMillis>,
        actor: &str,
    ) -> Result<(Kept, Option<Suppression>), PostureError> {
        self.parts.audit.check()?;
        let now = clock::now();
        let suppression = Suppression { reason: reason.to_owned(), by: actor.to_owned(), since: now, until };
        self.book().suppress(id, suppression, now)?;
        self.changed_by("audit.suppress", id, actor, reason).await?;
        self.finding(id).ok_or(PostureError::Suppress(SuppressError::Unknown))
    }

    /// Takes a suppression back.
    pub async fn unsuppress(
        &self,
        id: &str,
        actor: &str,
    ) -> Result<(Kept, Option<Suppression>), PostureError> {
        self.parts.audit.check()?;
        let found = self.finding(id).ok_or(SuppressError::Unknown)?;
        if self.book().unsuppress(id) {
            self.changed_by("audit.unsuppress", id, actor, "").await?;
            return self.finding(id).ok_or(PostureError::Suppress(SuppressError::Unknown));
        }
        Ok(found)
    }

    /// Agrees to what a component may use now.
    pub async fn accept(&self, plugin: &str, actor: &str) -> Result<(), PostureError> {
        self.parts.audit.check()?;
        let facts = (self.parts.known)();
        let capabilities = facts.plugins.into_iter().find(|known| known.name == plugin);
        let capabilities = capabilities.ok_or(PostureError::NoPlugin)?.capabilities;
        if !self.book().accept(plugin, capabilities) {
            return Err(PostureError::NoPlugin);
        }
        self.changed_by("audit.accept", plugin, actor, "").await
    }

    async fn changed_by(
        &self,
        action: &'static str,
        target: &str,
        actor: &str,
        reason: &str,
    ) -> Result<(), PostureError> {
        self.count();
        self.keep().await?;
        let mut event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction)
            .actor(actor)
            .field("action", action)
            .field("target", target);
        if !reason.is_empty() {
            event = event.field("detail", reason);
        }
        self.parts.audit.record_durable(event).await?;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, mqgate_identity::registry::StorageError> + Send + 'static,
) -> Result<T, PostureError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(PostureError::Storage(error.to_string())),
        Err(error) => Err(PostureError::Storage(error.to_string())),
    }
}
