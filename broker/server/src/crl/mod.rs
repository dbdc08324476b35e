//! Revocation lists: read from files and folders, fetched from distribution points, kept fresh, and handed to
//! the trust store, where handshakes find them.
//!
//! Whether a certificate is revoked is `mqgate-identity`'s judgement; here is only where the lists come from. A
//! list that cannot be used never replaces one that can, and an older one never a newer.

pub mod address;
mod cache;
pub mod fetch;
mod metrics;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::{RevocationList, distribution_urls};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cache::DiskCache;
use self::fetch::{Fetched, NamedBy, SharedRules, Validators, check_url};
use self::metrics::CrlMetrics;
use self::source::Stamp;
use crate::audit::AuditLog;
use crate::clock;
use crate::trust::TrustStore;

/// How often files are looked at, at most.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// A fetch that failed is tried again after this, or after `refresh` if that is less.
const RETRY: Duration = Duration::from_secs(60);
/// A list is asked for again no sooner than this, whatever it says.
const SOONEST: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct CrlSettings {
    pub files: Vec<PathBuf>,
    pub directories: Vec<PathBuf>,
    pub urls: Vec<String>,
    /// Whether distribution points that certificates name are fetched, too.
    pub follow_distribution_points: bool,
    pub rules: SharedRules,
    pub refresh: Duration,
    pub max_lists: usize,
    /// Where fetched lists are kept.
    pub cache: Option<PathBuf>,
}

/// Where a list comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File(PathBuf),
    Url(String, NamedBy),
}

impl Origin {
    fn text(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(url, _) => url.clone(),
        }
    }
}

/// What is held of one origin.
#[derive(Default)]
struct Held {
    lists: Vec<Arc<RevocationList>>,
    stamp: Option<Stamp>,
    validators: Validators,
    due: Option<Instant>,
    problem: Option<String>,
}

/// One list or one origin without any, for people.
#[derive(Debug, Clone, Serialize)]
pub struct CrlStatus {
    pub source: String,
    pub issuer: Option<String>,
    /// Names of the trusted CA that made it, if one did.
    pub ca: Option<String>,
    pub number: Option<String>,
    pub this_update: Option<UnixSeconds>,
    pub next_update: Option<UnixSeconds>,
    pub entries: Option<usize>,
    pub stale: bool,
    /// Why what is there now was not taken.
    pub problem: Option<String>,
}

/// A list of this issuer came into force.
pub type Arrived = Arc<dyn Fn(&RevocationList) + Send + Sync>;

/// The service.
pub struct RevocationService {
    settings: CrlSettings,
    trust: Arc<TrustStore>,
    audit: Arc<AuditLog>,
    metrics: CrlMetrics,
    cache: DiskCache,
    held: Mutex<BTreeMap<Origin, Held>>,
    arrived: Mutex<Vec<Arrived>>,
    wake: Notify,
}

impl RevocationService {
    /// Reads what is on this machine; what has to be fetched comes with [`RevocationService::run`].
    pub fn open(
        settings: CrlSettings,
        trust: Arc<TrustStore>,
        audit: Arc<AuditLog>,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let service = Self {
            cache: DiskCache::new(settings.cache.clone()),
            settings,
            trust,
            audit,
            metrics: CrlMetrics::register(metrics)?,
            held: Mutex::default(),
            arrived: Mutex::default(),
            wake: Notify::new(),
        };
        let max_bytes = service.settings.rules.max_bytes;
        for url in &service.settings.urls {
            let mut held = Held { due: Some(Instant::now()), ..Held::default() };
            if let Some((body, validators)) = service.cache.load(url, max_bytes)
                && let Ok(lists) = source::parse(&body, max_bytes)
            {
                (held.lists, held.validators) = (lists, validators);
            }
            service.held().insert(Origin::Url(url.clone(), NamedBy::Configuration), held);
        }
        service.look_at_files();
        service.apply();
        let service = Arc::new(service);
        let noticing = Arc::downgrade(&service);
        service.trust.on_notice(move |facts| {
            if let Some(service) = noticing.upgrade() {
                service.notice(facts);
            }
        });
        Ok(service)
    }

    /// Calls `arrived` after a list came into force, for each: new handshakes are judged by it already.
    pub fn on_arrival(&self, arrived: impl Fn(&RevocationList) + Send + Sync + 'static) {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(arrived));
    }

    /// Keeps the lists fresh until `shutdown`. To be run once.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let pause = LOOK_AT_FILES.min(self.settings.refresh);
        loop {
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                this.look_at_cas();
                this.look_at_files();
            });
            if looked.await.is_err() {
                tracing::error!("reading revocation lists broke down");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.fetch_what_is_due() => {}
            }
            let this = Arc::clone(&self);
            // Checks signatures over lists that may be large.
            let _ = tokio::task::spawn_blocking(move || this.apply()).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Has everything read and fetched again, soon.
    pub fn refresh(&self) {
        for held in self.held().values_mut() {
            held.due = Some(Instant::now());
            held.stamp = None;
        }
        self.wake.notify_one();
    }

    /// Learns the distribution points of a certificate that leads to a trusted CA.
    pub fn notice(&self, facts: &CertificateFacts) {
        if !self.settings.follow_distribution_points {
            return;
        }
        for url in distribution_urls(facts) {
            let host = check_url(&url).ok().and_then(|uri| uri.host().map(str::to_owned));
            if !host.is_some_and(|host| self.settings.rules.allows_host(&host)) {
                continue;
            }
            let mut held = self.held();
            let is_known = held.keys().any(|origin| matches!(origin, Origin::Url(known, _) if *known == url));
            if is_known || held.len() >= self.settings.max_lists {
                continue;
            }
            held.insert(
                Origin::Url(url, NamedBy::Certificate),
                Held { due: Some(Instant::now()), ..Held::default() },
            );
            self.wake.notify_one();
        }
    }

    pub fn status(&self) -> Vec<CrlStatus> {
        let now = clock::now().seconds();
        let mut all = Vec::new();
        for (origin, held) in self.held().iter() {
            let empty = CrlStatus {
                source: origin.text(),
                issuer: None,
                ca: None,
                number: None,
                this_update: None,
                next_update: None,
                entries: None,
                stale: false,
                problem: held.problem.clone(),
            };
            if held.lists.is_empty() {
                all.push(empty);
                continue;
            }
            all.extend(held.lists.iter().map(|list| CrlStatus {
                issuer: Some(list.issuer().to_owned()),
                ca: self.ca_of(list),
                number: list.number.as_ref().map(hex::encode),
                this_update: Some(list.this_update),
                next_update: list.next_update,
                entries: Some(list.len()),
                stale: list.next_update.is_none_or(|next| next < now),
                ..empty.clone()
            }));
        }
        all
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Origin, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the trusted CA that made a list.
    fn ca_of(&self, list: &RevocationList) -> Option<String> {
        let trust = self.trust.current();
        let made_by = |facts: &CertificateFacts| {
            let known = trust.anchors.lists().is_made_by(list, &facts.public_key.spki_sha256);
            known.unwrap_or_else(|| list.is_made_by(facts))
        };
        let found = trust.anchors.iter().find(|(_, facts)| list.is_named_after(facts) && made_by(facts));
        found.map(|(name, _)| name.to_string())
    }

    fn look_at_cas(&self) {
        let trust = self.trust.current();
        for (_, facts) in trust.anchors.iter() {
            self.notice(facts);
        }
    }

    fn look_at_files(&self) {
        let mut files: Vec<PathBuf> = self.settings.files.clone();
        for folder in &self.settings.directories {
            match source::files_in(folder) {
                Ok(found) => files.extend(found),
                Err(error) => {
                    tracing::error!(folder = %folder.display(), %error, "a folder of revocation lists cannot be read");
                }
            }
        }
        let known: HashSet<PathBuf> = files.iter().cloned().collect();
        // A file that was removed from a folder takes its list with it.
        self.held().retain(|origin, _| !matches!(origin, Origin::File(path) if !known.contains(path)));
        for path in files {
            let stamp = source::stamp(&path);
            let origin = Origin::File(path.clone());
            if stamp.is_some() && self.held().get(&origin).is_some_and(|held| held.stamp == stamp) {
                continue;
            }
            let read = source::read(&path, self.settings.rules.max_bytes);
            let mut all = self.held();
            let held = all.entry(origin.clone()).or_default();
            held.stamp = stamp;
            let problem = match read {
                Ok(lists) => self.take(held, lists).err(),
                Err(error) => Some(error.to_string()),
            };
            drop(all);
            self.note_problem(&origin, problem);
        }
    }

    async fn fetch_what_is_due(&self) {
        let now = Instant::now();
        let due: Vec<(Origin, Validators)> = self
            .held()
            .iter()
            .filter(|(_, held)| held.due.is_some_and(|due| due <= now))
            .map(|(origin, held)| (origin.clone(), held.validators.clone()))
            .collect();
        for (origin, known) in due {
            let Origin::Url(url, named_by) = &origin else { continue };
            let fetched = self.settings.rules.get(url, *named_by, &known).await;
            self.fetched(&origin, url, fetched);
        }
    }

    fn fetched(&self, origin: &Origin, url: &str, fetched: Result<Fetched, fetch::FetchError>) {
        let refresh = self.settings.refresh;
        let mut all = self.held();
        let held = all.entry(origin.clone()).or_default();
        let ca = held.lists.first().and_then(|list| self.ca_of(list));
        let (result, problem) = match fetched {
            Ok(Fetched::NotModified) => ("not_modified", None),
            Ok(Fetched::New { body, validators }) => {
                match source::parse(&body, self.settings.rules.max_bytes) {
                    Err(error) => ("malformed", Some(error.to_string())),
                    Ok(lists) => match self.take(held, lists) {
                        Err(problem) => ("untrusted", Some(problem)),
                        Ok(()) => {
                            self.cache.store(url, &body, &validators);
                            held.validators = validators;
                            ("ok", None)
                        }
                    },
                }
            }
            Err(error) => (error.kind(), Some(error.to_string())),
        };
        let wait = match (&problem, next_update(&held.lists)) {
            (Some(_), _) => refresh.min(RETRY),
            (None, Some(next)) => {
                let left = next.0.saturating_sub(clock::now().seconds().0);
                refresh.min(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
            }
            (None, None) => refresh,
        };
        held.due = Some(Instant::now() + wait.max(SOONEST));
        let ca = ca.or_else(|| held.lists.first().and_then(|list| self.ca_of(list)));
        drop(all);
        self.metrics.fetches.with_label_values(&[ca.as_deref().unwrap_or("other"), result]).inc();
        self.note_problem(origin, problem);
    }

    /// Puts lists in the place of those that are held, unless that were a step back.
    fn take(&self, held: &mut Held, lists: Vec<Arc<RevocationList>>) -> Result<(), String> {
        let trust = self.trust.current();
        for list in &lists {
            let of_name = trust.anchors.iter().filter(|(_, facts)| list.is_named_after(facts));
            let (mut named, mut made) = (false, false);
            for (_, facts) in of_name {
                (named, made) = (true, made || list.is_made_by(facts));
            }
            if named && !made {
                return Err(format!(
                    "the list of \"{}\" is not signed by the trusted CA of this name",
                    list.issuer()
                ));
            }
            if held.lists.iter().any(|known| list.replaces(known) && known.is_newer_than(list)) {
                return Err(format!("the list of \"{}\" is older than the one in use", list.issuer()));
            }
        }
        held.lists = lists;
        Ok(())
    }

    fn note_problem(&self, origin: &Origin, problem: Option<String>) {
        let mut all = self.held();
        let Some(held) = all.get_mut(origin) else { return };
        let is_news = problem.is_some() && held.problem != problem;
        held.problem.clone_from(&problem);
        drop(all);
        if let Some(problem) = problem.filter(|_| is_news) {
            let source = origin.text();
            tracing::warn!(source, problem, "a revocation list is not taken");
            self.audit.record(
                AuditEvent::new(names::CRL_REFUSED, Outcome::Failure, Reason::Other)
                    .field("source", source)
                    .field("detail", problem),
            );
        }
    }

    /// Hands the lists to the trust store, and tells of those that are new.
    fn apply(&self) {
        let mut lists: Vec<(String, Arc<RevocationList>)> = Vec::new();
        for (origin, held) in self.held().iter() {
            for list in &held.lists {
                if !lists.iter().any(|(_, known)| known.der() == list.der()) {
                    lists.push((origin.text(), Arc::clone(list)));
                }
            }
        }
        if lists.len() > self.settings.max_lists {
            tracing::error!(
                lists = lists.len(),
                limit = self.settings.max_lists,
                "there are more revocation lists than `crl.max_lists`: the rest is not used"
            );
            lists.truncate(self.settings.max_lists);
        }
        let before = self.trust.current();
        let new: Vec<_> = lists
            .iter()
            .filter(|(_, list)| !before.anchors.lists().iter().any(|known| known.der() == list.der()))
            .cloned()
            .collect();
        let is_same = new.is_empty() && before.anchors.lists().iter().count() == lists.len();
        if !is_same
            && let Err(error) = self.trust.revoke(lists.iter().map(|(_, list)| Arc::clone(list)).collect())
        {
            tracing::error!(%error, "revocation lists are not in force");
            return;
        }
        self.measure(&lists);
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (source, list) in new {
            let ca = self.ca_of(&list);
            tracing::info!(
                source,
                issuer = list.issuer(),
                entries = list.len(),
                "a revocation list is in force"
            );
            let mut event = AuditEvent::new(names::CRL_UPDATED, Outcome::Success, Reason::Ok)
                .field("source", source)
                .field("issuer", list.issuer())
                .field("this_update", list.this_update.to_string())
                .field("entries", list.len().to_string());
            if let Some(next) = list.next_update {
                event = event.field("next_update", next.to_string());
            }
            if let Some(ca) = ca {
                event = event.field("ca", ca);
            }
            self.audit.record(event);
            for arrived in &arrived {
                arrived(&list);
            }
        }
    }

    fn measure(&self, lists: &[(String, Arc<RevocationList>)]) {
        for gauge in [&self.metrics.next_update, &self.metrics.this_update] {
            gauge.reset();
        }
        self.metrics.entries.reset();
        for (_, list) in lists {
            let ca = self.ca_of(list).unwrap_or_else(|| "other".to_owned());
            let next = list.next_update.map_or(0.0, |next| next.0 as f64);
            self.metrics.next_update.with_label_values(&[&*ca]).set(next);
            self.metrics.this_update.with_label_values(&[&*ca]).set(list.this_update.0 as f64);
            self.metrics
                .entries
                .with_label_values(&[&*ca])
                .set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        }
    }
}

fn next_update(lists: &[Arc<RevocationList>]) -> Option<UnixSeconds> {
    lists.iter().filter_map(|list| list.next_update).min()
}
