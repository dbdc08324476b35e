//! OCSP responses for the server's certificates, fetched before clients would ask for them and sent along with the
//! certificate ("stapled").
//!
//! One task looks at every certificate of every listener that wants it, whichever way it came there. A response is
//! sent only if its signature, its subject and its time are right and it says "good"; it is kept while the responder
//! is away, on the disk as well, and taken back when its time is over. What an answer means is `mqgate-identity`'s.

mod ask;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::evaluation::{OcspError, must_staple};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::ask::OcspSettings;
use self::ask::{MOST_BYTES, Problem, Staple, ask, question};
use self::metrics::OcspMetrics;
use crate::audit::AuditLog;
use crate::bundles::GLOBAL;
use crate::clock;
use crate::fetch::cache::DiskCache;
use crate::metrics::gate::NAMESPACE;
use crate::tls::{BoundCertificate, CertificateSource, ServerCertificate, TlsServer};

/// How often is looked at what is due, and no certificate is asked about more often.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure, or after the interval if that is less.
const RETRY: Duration = Duration::from_secs(30);
/// Responders asked at the same time.
const AT_ONCE: usize = 4;

/// The service.
pub struct Stapler {
    listeners: Mutex<BTreeMap<String, Watched>>,
    known: Mutex<HashMap<CertificateFingerprint, Known>>,
    cache: DiskCache,
    audit: Arc<AuditLog>,
    metrics: OcspMetrics,
    wake: Notify,
}

struct Watched {
    tls: Arc<TlsServer>,
    settings: OcspSettings,
}

/// What is known of one certificate.
struct Known {
    bundle: String,
    due: Instant,
    staple: Option<Staple>,
    /// The newest word of the issuer, good or not: nothing older counts.
    newest: UnixSeconds,
    revoked: bool,
    /// Said once, and again when it changes.
    problem: Option<String>,
}

/// One certificate to see to, in each of its places.
struct Task {
    fingerprint: CertificateFingerprint,
    certificates: Vec<ServerCertificate>,
    bundle: String,
    listeners: Vec<String>,
    settings: OcspSettings,
}

impl Task {
    fn staple(&self, response: Option<&Vec<u8>>) {
        for certificate in &self.certificates {
            if response.is_some() || certificate.is_stapled() {
                certificate.staple(response.cloned());
            }
        }
    }

    fn must_staple(&self) -> bool {
        must_staple(self.certificates[0].facts())
    }
}

impl Stapler {
    /// `cache`: where responses are kept.
    pub fn new(
        cache: Option<PathBuf>,
        audit: Arc<AuditLog>,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self {
            listeners: Mutex::default(),
            known: Mutex::default(),
            cache: DiskCache::new(cache, "ocsp"),
            audit,
            metrics: OcspMetrics::register(metrics)?,
            wake: Notify::new(),
        }))
    }

    /// From now on the certificates of this listener are stapled; `None`: no longer. What is known is sent at once: read
    /// from the disk, it counts from the first handshake.
    pub fn watch(&self, listener: &str, tls: &Arc<TlsServer>, settings: Option<OcspSettings>) {
        match settings {
            Some(settings) => {
                let watched = Watched { tls: Arc::clone(tls), settings };
                self.listeners().insert(listener.to_owned(), watched);
                self.tasks().iter().for_each(|task| self.keep(task));
                self.wake.notify_one();
            }
            None => self.forget(listener),
        }
    }

    /// The listener is gone.
    pub fn forget(&self, listener: &str) {
        self.listeners().remove(listener);
    }

    /// Fetches, checks, staples, until the end. To be run once.
    pub async fn run(self: Arc<Self>, end: CancellationToken) {
        let fingerprints: Vec<String> = self.tasks().iter().map(|task| task.fingerprint.to_hex()).collect();
        self.cache.keep_only(fingerprints.iter().map(String::as_str));
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = self.look() => {}
            }
            tokio::select! {
                () = end.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn look(&self) {
        let tasks = self.tasks();
        self.forget_all_but(&tasks);
        tasks.iter().for_each(|task| self.keep(task));
        let mut due: Vec<Task> = tasks.into_iter().filter(|task| self.is_due(task)).collect();
        while !due.is_empty() {
            let mut asked = JoinSet::new();
            for task in due.drain(..due.len().min(AT_ONCE)) {
                let known = self.known().get(&task.fingerprint).and_then(|known| known.staple.clone());
                asked.spawn(async move {
                    let answer = ask(&task.certificates[0], &task.settings, known).await;
                    (task, answer)
                });
            }
            while let Some(answered) = asked.join_next().await {
                if let Ok((task, answer)) = answered {
                    self.take(&task, answer);
                }
            }
        }
    }

    /// Every enabled certificate of the listeners, each once. The built-in one and others that sign themselves have
    /// nobody who could be asked.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        for (listener, watched) in self.listeners().iter() {
            for bound in watched.tls.current().certificates().iter().filter(|bound| can_be_asked_about(bound))
            {
                let fingerprint = bound.certificate.facts().certificate_fingerprint;
                if let Some(task) = tasks.iter_mut().find(|task| task.fingerprint == fingerprint) {
                    task.certificates.push(bound.certificate.clone());
                    task.listeners.push(listener.clone());
                    task.settings.join(&watched.settings);
                    continue;
                }
                let bundle = match bound.source.labels(listener) {
                    (GLOBAL | NAMESPACE, name) => name.to_owned(),
                    (namespace, name) => format!("{namespace}/{name}"),
                };
                tasks.push(Task {
                    fingerprint,
                    certificates: vec![bound.certificate.clone()],
                    bundle,
                    listeners: vec![listener.clone()],
                    settings: watched.settings.clone(),
                });
            }
        }
        tasks
    }

    fn is_due(&self, task: &Task) -> bool {
        self.known().get(&task.fingerprint).is_some_and(|known| known.due <= Instant::now())
    }

    fn forget_all_but(&self, tasks: &[Task]) {
        let there: HashSet<_> = tasks.iter().map(|task| task.fingerprint).collect();
        let labels: HashSet<_> = tasks.iter().map(|task| &*task.bundle).collect();
        self.known().retain(|fingerprint, known| {
            let kept = there.contains(fingerprint);
            if !kept {
                self.cache.remove(&fingerprint.to_hex());
                if !labels.contains(&*known.bundle) {
                    self.metrics.end(&known.bundle);
                }
            }
            kept
        });
    }

    /// Gives a certificate that was read anew what is known, and takes back what counts no more.
    fn keep(&self, task: &Task) {
        let mut all = self.known();
        let known = all.entry(task.fingerprint).or_insert_with(|| self.begin(task));
        let Some(staple) = &known.staple else { return };
        if staple.good.next_update <= clock::now().seconds() {
            known.staple = None;
            task.staple(None);
            self.metrics.valid_until(&task.bundle, 0);
            tracing::warn!(certificate = task.bundle, "the OCSP response has expired and is sent no longer");
            self.warn_of_must_staple(task);
        } else if task.certificates.iter().any(|certificate| !certificate.is_stapled()) {
            task.staple(Some(&staple.response));
        }
    }

    /// What was known of a certificate when the broker ran before.
    fn begin(&self, task: &Task) -> Known {
        self.metrics.begin(&task.bundle);
        let mut known = Known {
            bundle: task.bundle.clone(),
            due: Instant::now(),
            staple: None,
            newest: UnixSeconds(i64::MIN),
            revoked: false,
            problem: None,
        };
        let kept = || {
            let (response, validators) = self.cache.load(&task.fingerprint.to_hex(), MOST_BYTES)?;
            let question = question(&task.certificates[0], &task.settings)?;
            let good = question.check(&response, clock::now().seconds()).ok()?;
            Some(Staple { response, good, validators })
        };
        if let Some(staple) = kept() {
            tracing::info!(certificate = task.bundle, until = %staple.good.next_update, "an OCSP response was kept");
            self.metrics.valid_until(&task.bundle, staple.good.next_update.0);
            known.newest = staple.good.this_update;
            known.staple = Some(staple);
        }
        known
    }

    fn take(&self, task: &Task, answer: Result<Staple, Problem>) {
        let mut all = self.known();
        let Some(known) = all.get_mut(&task.fingerprint) else { return };
        let answer = answer.and_then(|staple| match staple.good.this_update < known.newest {
            true => Err(Problem::Older),
            false => Ok(staple),
        });
        self.metrics.fetched(&task.bundle, answer.as_ref().map_or_else(Problem::as_str, |_| "ok"));
        let refresh = task.settings.refresh;
        match answer {
            Ok(staple) => {
                let until = staple.good.next_update;
                let left = until.0.saturating_sub(clock::now().seconds().0).max(0).unsigned_abs();
                known.due = Instant::now() + refresh.min(Duration::from_secs(left / 2)).max(LOOK);
                task.staple(Some(&staple.response));
                self.metrics.valid_until(&task.bundle, until.0);
                if known.problem.take().is_some() || known.staple.is_none() {
                    tracing::info!(certificate = task.bundle, %until, "an OCSP response is sent with the certificate");
                }
                (known.newest, known.revoked) = (staple.good.this_update, false);
                let key = task.fingerprint.to_hex();
                self.cache.store(&key, &staple.response, &staple.validators);
                known.staple = Some(staple);
            }
            Err(problem) => {
                known.due = Instant::now() + refresh.min(RETRY).max(LOOK);
                let text = problem.to_string();
                let is_news = known.problem.as_ref() != Some(&text);
                if let Problem::Answer(OcspError::Revoked { this_update, .. }) = problem {
                    self.take_back(task, known, this_update, &text);
                } else if is_news {
                    let kept_until = known.staple.as_ref().map(|staple| staple.good.next_update.to_string());
                    tracing::warn!(
                        certificate = task.bundle,
                        problem = text,
                        kept_until,
                        "no new OCSP response for the server certificate"
                    );
                    if known.staple.is_none() {
                        self.warn_of_must_staple(task);
                    }
                }
                known.problem = Some(text);
            }
        }
    }

    /// What the issuer takes back is not vouched for until the old answer runs out.
    fn take_back(&self, task: &Task, known: &mut Known, at: UnixSeconds, problem: &str) {
        known.staple = None;
        known.newest = known.newest.max(at);
        task.staple(None);
        self.cache.remove(&task.fingerprint.to_hex());
        self.metrics.valid_until(&task.bundle, 0);
        if std::mem::replace(&mut known.revoked, true) {
            return;
        }
        tracing::error!(certificate = task.bundle, listeners = ?task.listeners, "OCSP: {problem}");
        let facts = task.certificates[0].facts();
        let mut event = AuditEvent::new(names::SERVER_CERT_REVOKED, Outcome::Failure, Reason::CertRevoked)
            .field("bundle", &*task.bundle)
            .field("fingerprint", facts.certificate_fingerprint.to_hex())
            .field("serial", hex::encode(&facts.serial))
            .field("listeners", task.listeners.join(","))
            .field("detail", problem);
        event.subject = Some(facts.subject.display.clone());
        self.audit.record(event);
    }

    fn warn_of_must_staple(&self, task: &Task) {
        if task.must_staple() {
            tracing::error!(
                certificate = task.bundle,
                "the certificate demands an OCSP response with it (must-staple), and there is none: clients that heed \
                 it refuse the broker"
            );
        }
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<CertificateFingerprint, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn can_be_asked_about(bound: &BoundCertificate) -> bool {
    let facts = bound.certificate.facts();
    bound.enabled && bound.source != CertificateSource::Builtin && facts.issuer.raw != facts.subject.raw
}
