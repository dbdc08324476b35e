//! Revocation lists: read from files and folders, fetched from distribution points, kept fresh, and handed to
//! the trust store, where handshakes find them.
//!
//! Whether a certificate is revoked is `mqgate-identity`'s judgement; here is only where the lists come from. A
//! list that cannot be used never replaces one that can, and an older one never a newer.

mod configure;
mod metrics;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::{RevocationList, distribution_urls};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::configure::may_follow;
use self::metrics::CrlMetrics;
use self::source::Stamp;
use crate::audit::AuditLog;
use crate::clock;
use crate::directory::lock;
use crate::fetch::cache::DiskCache;
use crate::fetch::{self, FetchNames, Fetched, NamedBy, SharedRules, Validators};
use crate::trust::TrustStore;

/// What errors call the bounds of a fetch.
pub const NAMES: FetchNames = FetchNames {
    hosts: "`crl.allow_hosts`",
    networks: "`crl.allow_networks`",
    max_bytes: "`crl.max_size`",
    accept: "application/pkix-crl",
};
/// How often files are looked at, at most.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// A fetch that failed is tried again after this, or after `refresh` if that is less.
const RETRY: Duration = Duration::from_secs(60);
/// A list is asked for again no sooner than this, whatever it says.
const SOONEST: Duration = Duration::from_secs(10);
/// Lists fetched at the same time, each of which is in memory as a whole.
const MOST_FETCHES: usize = 8;
/// Lists kept of one URL although it serves others now.
const MOST_KEPT: usize = 8;

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
    /// Who has more to say about which lists are used when there are too many: what the operator wrote, then what
    /// certificates name.
    const fn rank(&self) -> u8 {
        match self {
            Self::File(_) => 0,
            Self::Url(_, NamedBy::Configuration) => 1,
            Self::Url(_, NamedBy::Certificate) => 2,
        }
    }

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
    /// What the disk had of it was read.
    recalled: bool,
    /// It is being fetched.
    asked: bool,
}

/// What else is to be held when lists are taken.
#[derive(Default)]
struct Taken {
    kept: Vec<Arc<RevocationList>>,
    problem: Option<String>,
}

/// One list or one origin without any, for people.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[schemars(rename = "RevocationList")]
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
    settings: ArcSwap<CrlSettings>,
    trust: Arc<TrustStore>,
    audit: Arc<AuditLog>,
    metrics: CrlMetrics,
    cache: DiskCache,
    held: Mutex<BTreeMap<Origin, Held>>,
    arrived: Mutex<Vec<Arrived>>,
    wake: Notify,
    /// Held by whoever looks at files, and hands lists over: what was found earlier does not come later.
    looking: Mutex<()>,
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
            cache: DiskCache::new(settings.cache.clone(), "crl"),
            settings: ArcSwap::from_pointee(settings),
            trust,
            audit,
            metrics: CrlMetrics::register(metrics)?,
            held: Mutex::default(),
            arrived: Mutex::default(),
            wake: Notify::new(),
            looking: Mutex::default(),
        };
        service.know_urls(&service.settings());
        service.look();
        let service = Arc::new(service);
        let noticing = Arc::downgrade(&service);
        service.trust.on_notice(move |facts| {
            if let Some(service) = noticing.upgrade() {
                service.notice(facts);
            }
        });
        Ok(service)
    }

    /// What holds now.
    fn settings(&self) -> Arc<CrlSettings> {
        self.settings.load_full()
    }

    /// Reads what is on this machine and hands everything over.
    fn look(&self) {
        let _looking = lock(&self.looking);
        self.recall();
        self.look_at_files();
        self.apply();
    }

    /// Calls `arrived` after a list came into force, for each: new handshakes are judged by it already.
    pub fn on_arrival(&self, arrived: impl Fn(&RevocationList) + Send + Sync + 'static) {
        lock(&self.arrived).push(Arc::new(arrived));
    }

    /// Keeps the lists fresh until `shutdown`. To be run once.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(MOST_FETCHES));
        // A server that does not answer keeps nobody waiting but those who wait for its list.
        let mut fetches = JoinSet::new();
        loop {
            let pause = LOOK_AT_FILES.min(self.settings().refresh);
            let this = Arc::clone(&self);
            // Checks signatures over lists that may be large.
            let looked = tokio::task::spawn_blocking(move || {
                this.look_at_cas();
                this.look();
            });
            if looked.await.is_err() {
                tracing::error!("reading revocation lists broke down");
            }
            self.fetch_what_is_due(&places, &mut fetches);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                Some(fetched) = fetches.join_next() => {
                    if let Err(error) = fetched {
                        tracing::error!(%error, "fetching a revocation list broke down");
                    }
                }
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
        let settings = self.settings.load();
        if !settings.follow_distribution_points {
            return;
        }
        for url in distribution_urls(facts) {
            if !may_follow(&settings, &url) {
                continue;
            }
            let mut held = self.held();
            let is_known = held.keys().any(|origin| matches!(origin, Origin::Url(known, _) if *known == url));
            if is_known || held.len() >= settings.max_lists {
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
        lock(&self.held)
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

    /// Reads what the disk has of URLs that became known, so that their server may be down.
    fn recall(&self) {
        let max_bytes = self.settings().rules.max_bytes;
        let mut new = Vec::new();
        for (origin, held) in self.held().iter_mut().filter(|(_, held)| !held.recalled) {
            held.recalled = true;
            if let Origin::Url(url, _) = origin {
                new.push((origin.clone(), url.clone()));
            }
        }
        for (origin, url) in new {
            let Some((body, validators)) = self.cache.load(&url, max_bytes) else { continue };
            let Ok(lists) = source::parse(&body, max_bytes) else { continue };
            // What was fetched meanwhile is newer.
            if let Some(held) = self.held().get_mut(&origin).filter(|held| held.lists.is_empty()) {
                (held.lists, held.validators) = (lists, validators);
            }
        }
    }

    fn look_at_files(&self) {
        let settings = self.settings();
        let mut files: Vec<PathBuf> = settings.files.clone();
        let mut unreadable: Vec<&Path> = Vec::new();
        for folder in &settings.directories {
            match source::files_in(folder) {
                Ok(found) => files.extend(found),
                Err(error) => {
                    unreadable.push(folder);
                    tracing::error!(folder = %folder.display(), %error, "a folder of revocation lists cannot be read");
                }
            }
        }
        let known: HashSet<PathBuf> = files.iter().cloned().collect();
        // A file that was removed from a folder takes its list with it; what cannot be looked at was not removed.
        self.held().retain(|origin, _| match origin {
            Origin::File(path) => {
                let folder = path.parent();
                known.contains(path) || folder.is_some_and(|folder| unreadable.contains(&folder))
            }
            Origin::Url(..) => true,
        });
        for path in files {
            let stamp = source::stamp(&path);
            let origin = Origin::File(path.clone());
            if stamp.is_some() && self.held().get(&origin).is_some_and(|held| held.stamp == stamp) {
                continue;
            }
            let read = source::read(&path, settings.rules.max_bytes);
            let (stays, _) = self.stays(&origin);
            let outcome = read.map_err(|error| error.to_string()).and_then(|lists| {
                let taken = self.check(&origin, &lists, &stays)?;
                Ok((lists, taken))
            });
            let mut all = self.held();
            let held = all.entry(origin.clone()).or_default();
            held.stamp = stamp;
            let problem = match outcome {
                Ok((lists, Taken { kept, problem })) => {
                    held.lists = kept.into_iter().chain(lists).collect();
                    problem
                }
                Err(problem) => Some(problem),
            };
            drop(all);
            self.note_problem(&origin, problem);
        }
    }

    fn fetch_what_is_due(self: &Arc<Self>, places: &Arc<Semaphore>, fetches: &mut JoinSet<()>) {
        let now = Instant::now();
        let due: Vec<(Origin, Validators)> = self
            .held()
            .iter_mut()
            .filter(|(_, held)| !held.asked && held.due.is_some_and(|due| due <= now))
            .map(|(origin, held)| {
                // Until its outcome says when to ask again.
                (held.asked, held.due) = (true, None);
                (origin.clone(), held.validators.clone())
            })
            .collect();
        for (origin, known) in due {
            let (this, places) = (Arc::clone(self), Arc::clone(places));
            fetches.spawn(async move {
                let Origin::Url(url, named_by) = &origin else { return };
                // Nobody closes it.
                let _place = places.acquire_owned().await;
                let rules = Arc::clone(&this.settings().rules);
                let fetched = rules.get(url, *named_by, &known).await;
                // Ten megabytes are read and their signature is checked: not where others wait.
                let (service, of) = (Arc::clone(&this), origin.clone());
                if tokio::task::spawn_blocking(move || service.fetched(&of, fetched)).await.is_err() {
                    tracing::error!(source = origin.text(), "reading a revocation list broke down");
                    this.ask_again(&origin, Instant::now() + RETRY);
                }
            });
        }
    }

    fn fetched(&self, origin: &Origin, fetched: Result<Fetched, fetch::FetchError>) {
        let (in_use, mut ca) = self.stays(origin);
        let mut news = None;
        let (result, problem) = match fetched {
            Ok(Fetched::NotModified) => ("not_modified", None),
            Ok(Fetched::New { body, validators }) => {
                let read = source::parse(&body, self.settings().rules.max_bytes);
                match read.map_err(|error| ("malformed", error.to_string())).and_then(|lists| {
                    let taken =
                        self.check(origin, &lists, &in_use).map_err(|problem| ("untrusted", problem))?;
                    Ok((lists, taken))
                }) {
                    Err((result, problem)) => (result, Some(problem)),
                    Ok((lists, Taken { kept, problem })) => {
                        ca = ca.or_else(|| lists.first().and_then(|list| self.ca_of(list)));
                        let validators = match (&problem, origin) {
                            (None, Origin::Url(url, _)) => {
                                self.cache.store(url, &body, &validators);
                                Some(validators)
                            }
                            // It is asked for again as a whole, and what the disk has stays.
                            _ => None,
                        };
                        news = Some((kept.into_iter().chain(lists).collect(), validators));
                        (if problem.is_none() { "ok" } else { "untrusted" }, problem)
                    }
                }
            }
            Err(error) => (error.kind(), Some(error.to_string())),
        };
        let refresh = self.settings().refresh;
        let mut all = self.held();
        // It may have been taken out of the configuration while it was fetched.
        let Some(held) = all.get_mut(origin) else { return };
        if let Some((lists, validators)) = news {
            held.lists = lists;
            if let Some(validators) = validators {
                held.validators = validators;
            }
        }
        let wait = match (&problem, next_update(&held.lists)) {
            (Some(_), _) => refresh.min(RETRY),
            (None, Some(next)) => {
                let left = next.0.saturating_sub(clock::now().seconds().0);
                refresh.min(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
            }
            (None, None) => refresh,
        };
        drop(all);
        self.ask_again(origin, Instant::now() + wait.max(SOONEST));
        self.metrics.fetches.with_label_values(&[ca.as_deref().unwrap_or("other"), result]).inc();
        self.note_problem(origin, problem);
    }

    /// It was asked, and is to be again then, unless somebody wants it sooner.
    fn ask_again(&self, origin: &Origin, then: Instant) {
        if let Some(held) = self.held().get_mut(origin) {
            held.asked = false;
            held.due = Some(held.due.unwrap_or(then));
        }
    }

    /// What is held of an origin, and the CA that made it.
    fn stays(&self, origin: &Origin) -> (Vec<Arc<RevocationList>>, Option<String>) {
        let lists = self.held().get(origin).map(|held| held.lists.clone()).unwrap_or_default();
        let ca = lists.first().and_then(|list| self.ca_of(list));
        (lists, ca)
    }

    /// Whether lists may take the place of those in use; nothing takes a step back. What the network serves is anybody's
    /// word until a signature shows whose it is: the lists of a CA that was seen give way to that CA's only.
    fn check(
        &self,
        origin: &Origin,
        lists: &[Arc<RevocationList>],
        in_use: &[Arc<RevocationList>],
    ) -> Result<Taken, String> {
        let trust = self.trust.current();
        for list in lists {
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
        }
        let is_fetched = matches!(origin, Origin::Url(..));
        let older = |list: &RevocationList| {
            Err(format!("the list of \"{}\" is older than the one in use", list.issuer()))
        };
        // The CA has another key now, and this one's last list has run out.
        let now = clock::now().seconds();
        let is_outlived = |known: &RevocationList| {
            known.next_update.is_some_and(|next| next < now)
                && in_use.iter().any(|other| other.is_proved() && other.this_update > known.this_update)
        };
        let mut taken = Taken::default();
        for known in in_use {
            if !known.is_proved() {
                match lists.iter().find(|list| list.replaces(known) && known.is_newer_than(list)) {
                    None => {}
                    Some(list) if !is_fetched => return older(list),
                    // Either may be forged: a certificate of their CA will tell.
                    Some(_) => taken.kept.push(Arc::clone(known)),
                }
                continue;
            }
            let successor =
                lists.iter().find(|list| list.is_about_the_same_as(known) && list.is_made_as(known));
            match successor {
                Some(list) if known.is_newer_than(list) => return older(list),
                Some(_) => {}
                None if is_fetched && !is_outlived(known) => taken.kept.push(Arc::clone(known)),
                None => {}
            }
        }
        let is_theirs = |list: &Arc<RevocationList>| in_use.iter().any(|known| list.is_made_as(known));
        if taken.kept.iter().any(|kept| kept.is_proved()) && !lists.iter().any(is_theirs) {
            taken.problem =
                Some("it is not signed by the CA that made the list in use, which stays".to_owned());
        }
        taken.kept.truncate(MOST_KEPT);
        Ok(taken)
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
        let all = self.held();
        let mut origins: Vec<_> = all.iter().collect();
        origins.sort_by_key(|(origin, _)| origin.rank());
        for (origin, held) in origins {
            for list in &held.lists {
                if !lists.iter().any(|(_, known)| known.der() == list.der()) {
                    lists.push((origin.text(), Arc::clone(list)));
                }
            }
        }
        drop(all);
        let max_lists = self.settings().max_lists;
        if lists.len() > max_lists {
            tracing::error!(
                lists = lists.len(),
                limit = max_lists,
                "there are more revocation lists than `crl.max_lists`: the rest is not used"
            );
            lists.truncate(max_lists);
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
        let arrived = lock(&self.arrived).clone();
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
