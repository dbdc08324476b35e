//! Server certificates that the broker keeps: bundles of a chain and its key under a name in a namespace, and the
//! built-in one. Stored before they count; a change counts at once in every listener that has the bundle.
//!
//! Who uses a bundle is read from the listeners themselves, so that it cannot be out of date. Does not know
//! configuration; private keys go in and never come out.

mod replace;
mod trial;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{ServerBundle, Storage, StorageError};

use self::replace::Old;
use crate::admin::ADMIN_TLS;
use crate::audit::{AuditLog, AuditRefused, before_and_after, request};
use crate::clock;
use crate::metrics::GateMetrics;
use crate::retirement::{Retirement, RetirementError, RetirementSlot};
use crate::tls::material::Pem;
use crate::tls::{
    BoundCertificate, CertificateSet, CertificateSource, MaterialError, ServerCertificate, TlsError,
    TlsServer,
};

/// The namespace of bundles that name none.
pub const GLOBAL: &str = "global";
/// Server certificates besides the built-in one, unless configured otherwise.
pub const DEFAULT_LIMIT: usize = 3;
const MOST_NAME_BYTES: usize = 64;
/// Setting under which is kept that the built-in certificate is not to be served.
const BUILTIN_SETTING: &str = "builtin-certificate";

/// The service.
pub struct Bundles {
    storage: Arc<dyn Storage>,
    audit: Arc<AuditLog>,
    metrics: Arc<GateMetrics>,
    limit: AtomicUsize,
    retirement: RetirementSlot,
    state: Mutex<State>,
    /// Held by whoever changes something, across the write.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    bundles: BTreeMap<(String, String), Known>,
    builtin: Option<ServerCertificate>,
    builtin_enabled: bool,
    listeners: BTreeMap<String, Arc<TlsServer>>,
}

#[derive(Clone)]
struct Known {
    record: ServerBundle,
    certificate: ServerCertificate,
}

/// A bundle without its secrets.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "ServerCertificate")]
pub struct BundleInfo {
    pub namespace: String,
    pub name: String,
    pub builtin: bool,
    pub enabled: bool,
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    /// SHA-256 of the server's own certificate.
    pub fingerprint: String,
    pub server_names: Vec<String>,
    pub not_before: i64,
    pub not_after: i64,
    /// Certificates in the chain.
    pub chain_length: usize,
    /// Whether an OCSP response is sent with it.
    pub stapled: bool,
    /// Listeners that have it.
    pub used_by: Vec<String>,
    pub warnings: Vec<String>,
    pub revision: u64,
}

/// What a bundle is made of.
#[derive(Clone)]
pub struct BundleMaterial {
    pub chain: String,
    pub key: String,
    pub password: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error(
        "there is no server certificate \"{name}\" in namespace \"{namespace}\": `mqgate server-cert list` shows all"
    )]
    NotFound { namespace: String, name: String },
    #[error(
        "there is a server certificate \"{name}\" in namespace \"{namespace}\" already: replace it, or choose another name"
    )]
    Exists { namespace: String, name: String },
    #[error(
        "`{0}` cannot be a name: 1 to {MOST_NAME_BYTES} lower-case letters, digits, `-`, `_` and `.`, the first a letter or digit"
    )]
    Name(String),
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error(
        "{known} server certificates besides the built-in one are more than the limit of {limit} (`limits.server_certs`): remove one, or raise it"
    )]
    TooMany { known: usize, limit: usize },
    #[error("the server certificate is in use by {}: take it out there first", list(.used_by))]
    InUse { used_by: Vec<String> },
    #[error("no certificate would be left for {}: bind another one first", list(.used_by))]
    LastOne { used_by: Vec<String> },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Retirement(#[from] RetirementError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Audit(#[from] AuditRefused),
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("listener `{name}`")).collect::<Vec<_>>().join(", ")
}

impl Bundles {
    /// Reads what is stored. A bundle that cannot be used any more is an error: a listener would miss it.
    pub async fn open(
        storage: Arc<dyn Storage>,
        audit: Arc<AuditLog>,
        metrics: Arc<GateMetrics>,
        limit: usize,
    ) -> Result<Arc<Self>, BundleError> {
        let state = blocking(&storage, |storage| {
            let mut state = State { builtin_enabled: true, ..State::default() };
            if storage.setting(BUILTIN_SETTING)?.as_deref() == Some(b"disabled") {
                state.builtin_enabled = false;
            }
            for record in storage.server_bundles()? {
                let certificate = read(&record)?;
                state.bundles.insert(key(&record.namespace, &record.name), Known { record, certificate });
            }
            Ok::<_, BundleError>(state)
        })
        .await?;
        Ok(Arc::new(Self {
            storage,
            audit,
            metrics,
            limit: AtomicUsize::new(limit),
            retirement: RetirementSlot::default(),
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::default(),
        }))
    }

    /// A place in a listener's list.
    pub fn bind(&self, namespace: &str, name: &str) -> Result<BoundCertificate, BundleError> {
        let state = self.state();
        let known = state.bundles.get(&key(namespace, name)).ok_or_else(|| not_found(namespace, name))?;
        let mut bound = BoundCertificate::new(source(&known.record), known.certificate.clone());
        bound.enabled = known.record.enabled;
        Ok(bound)
    }

    /// The built-in certificate's place; `None` before there is one.
    pub fn bind_builtin(&self) -> Option<BoundCertificate> {
        let state = self.state();
        let mut bound = BoundCertificate::new(CertificateSource::Builtin, state.builtin.clone()?);
        bound.enabled = state.builtin_enabled;
        Some(bound)
    }

    /// From now on changes reach this listener, and it counts as a user of what it has. What was changed since it was
    /// put together reaches it, too. It takes the place of one of the same name.
    pub fn watch(&self, listener: &str, tls: &Arc<TlsServer>) {
        let mut state = self.state();
        let before = state.listeners.insert(listener.to_owned(), Arc::clone(tls));
        let updated = tls.update(|set| {
            let mut certificates = set.certificates().clone();
            for bound in set.certificates().iter() {
                let (certificate, enabled) = match &bound.source {
                    CertificateSource::Builtin => match &state.builtin {
                        Some(builtin) => (builtin, state.builtin_enabled),
                        None => continue,
                    },
                    CertificateSource::Bundle { namespace, name } => {
                        match state.bundles.get(&key(namespace, name)) {
                            Some(known) => (&known.certificate, known.record.enabled),
                            None => continue,
                        }
                    }
                    CertificateSource::Files { .. } | CertificateSource::Retired { .. } => continue,
                };
                certificates = certificates.changed(&bound.source, |bound| {
                    bound.certificate = certificate.clone();
                    bound.enabled = enabled;
                });
            }
            set.with_certificates(certificates)
        });
        drop(state);
        if let Err(error) = updated {
            tracing::error!(listener, %error, "server certificates that were just changed are not shown");
        }
        let before = before.map(|before| before.current());
        let before = before.as_ref().map(|set| set.certificates());
        self.metrics.note_certificates(listener, before, tls.current().certificates());
    }

    /// The listener is gone.
    pub fn forget(&self, listener: &str) {
        let gone = self.state().listeners.remove(listener);
        if let Some(gone) = gone {
            let none = CertificateSet::default();
            self.metrics.note_certificates(listener, Some(gone.current().certificates()), &none);
        }
    }

    /// Puts a built-in certificate in place, or a newer one in its place.
    pub fn set_builtin(&self, certificate: ServerCertificate) -> Result<(), BundleError> {
        self.state().builtin = Some(certificate.clone());
        self.apply(&CertificateSource::Builtin, |bound| bound.certificate = certificate.clone())
    }

    /// Every server certificate that the broker keeps, the built-in one first.
    pub fn list(&self) -> Vec<BundleInfo> {
        let state = self.state();
        let builtin = state.builtin.as_ref().map(|certificate| builtin_info(&state, certificate));
        builtin.into_iter().chain(state.bundles.values().map(|known| info(&state, known))).collect()
    }

    pub fn show(&self, namespace: &str, name: &str) -> Result<BundleInfo, BundleError> {
        let state = self.state();
        let known = state.bundles.get(&key(namespace, name)).ok_or_else(|| not_found(namespace, name))?;
        Ok(info(&state, known))
    }

    pub fn builtin(&self) -> Result<BundleInfo, BundleError> {
        let state = self.state();
        let builtin = state.builtin.as_ref().ok_or_else(|| not_found(GLOBAL, "builtin"))?;
        Ok(builtin_info(&state, builtin))
    }

    /// Says who keeps certificates valid that are replaced; the first one stays.
    pub fn retires_with(&self, retirement: &Arc<dyn Retirement>) {
        self.retirement.fill(retirement);
    }

    /// Nothing is added, replaced or removed as long as the answer lives: a listener that is put together meanwhile
    /// does not lose what it is made of.
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// Changes how many certificates there may be; those that are there stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether `more` certificates besides those kept here would be within the limit.
    fn check_limit(&self, more: usize) -> Result<(), BundleError> {
        self.check_files(more, self.limit.load(Ordering::Relaxed))
    }

    /// Whether so many pairs of files of listeners and the bundles kept here are within a limit together.
    pub fn check_files(&self, files: usize, limit: usize) -> Result<(), BundleError> {
        let known = self.state().bundles.len() + files;
        if known > limit { Err(BundleError::TooMany { known, limit }) } else { Ok(()) }
    }

    pub async fn add(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        material: BundleMaterial,
        actor: &str,
    ) -> Result<BundleInfo, BundleError> {
        check_name(namespace)?;
        check_name(name)?;
        let (this, namespace, name) = (Arc::clone(self), namespace.to_owned(), name.to_owned());
        let actor = actor.to_owned();
        finished(async move {
            let _writing = this.writing.lock().await;
            this.audit.check()?;
            if this.state().bundles.contains_key(&key(&namespace, &name)) {
                return Err(BundleError::Exists { namespace, name });
            }
            this.check_limit(1 + this.files_in_use())?;
            let now = clock::now();
            let record = ServerBundle {
                namespace,
                name,
                enabled: true,
                created_at: now,
                updated_at: now,
                revision: 1,
                chain_pem: material.chain,
                key_pem: material.key,
                password: material.password,
            };
            this.put(record, None, None, names::SERVER_CERT_ADDED, &actor).await
        })
        .await
    }

    pub async fn enable(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        enabled: bool,
        actor: &str,
    ) -> Result<BundleInfo, BundleError> {
        let event = if enabled { names::SERVER_CERT_ENABLED } else { names::SERVER_CERT_DISABLED };
        self.change(namespace, name, event, actor, move |record| record.enabled = enabled).await
    }

    async fn change(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        event: &'static str,
        actor: &str,
        change: impl FnOnce(&mut ServerBundle) + Send + 'static,
    ) -> Result<BundleInfo, BundleError> {
        let (this, key) = (Arc::clone(self), key(namespace, name));
        let actor = actor.to_owned();
        finished(async move {
            let _writing = this.writing.lock().await;
            this.audit.check()?;
            let known = this.state().bundles.get(&key).cloned().ok_or_else(|| not_found(&key.0, &key.1))?;
            let mut record = known.record.clone();
            change(&mut record);
            record.revision += 1;
            record.updated_at = clock::now();
            if !record.enabled {
                this.check_not_last(&source(&record))?;
            }
            this.put(record, Some(known.record.revision), None, event, &actor).await
        })
        .await
    }

    /// Only what no listener has can be removed.
    pub async fn remove(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        actor: &str,
    ) -> Result<BundleInfo, BundleError> {
        let (this, key) = (Arc::clone(self), key(namespace, name));
        let actor = actor.to_owned();
        finished(async move {
            let _writing = this.writing.lock().await;
            this.audit.check()?;
            let known = this.state().bundles.get(&key).cloned().ok_or_else(|| not_found(&key.0, &key.1))?;
            let info = info(&this.state(), &known);
            if !info.used_by.is_empty() {
                return Err(BundleError::InUse { used_by: info.used_by });
            }
            let revision = known.record.revision;
            let (namespace, name) = key.clone();
            blocking(&this.storage, move |storage| {
                Ok::<_, BundleError>(storage.remove_server_bundle(&namespace, &name, revision)?)
            })
            .await?;
            this.state().bundles.remove(&key);
            let event = about(names::SERVER_CERT_REMOVED, &info, &actor);
            this.audit.record_durable(before_and_after(event, Some(&info), None::<&BundleInfo>)).await?;
            Ok(info)
        })
        .await
    }

    /// The built-in certificate can be turned off only where every listener that has it has another.
    pub async fn enable_builtin(
        self: &Arc<Self>,
        enabled: bool,
        actor: &str,
    ) -> Result<BundleInfo, BundleError> {
        let (this, actor) = (Arc::clone(self), actor.to_owned());
        finished(async move {
            let _writing = this.writing.lock().await;
            this.audit.check()?;
            let before = this.builtin()?;
            if !enabled {
                this.check_not_last(&CertificateSource::Builtin)?;
            }
            let value: &[u8] = if enabled { b"enabled" } else { b"disabled" };
            blocking(&this.storage, move |storage| {
                Ok::<_, BundleError>(storage.put_setting(BUILTIN_SETTING, value)?)
            })
            .await?;
            this.state().builtin_enabled = enabled;
            this.apply(&CertificateSource::Builtin, |bound| bound.enabled = enabled)?;
            let event = if enabled { names::SERVER_CERT_ENABLED } else { names::SERVER_CERT_DISABLED };
            let info = this.builtin()?;
            let event = before_and_after(about(event, &info, &actor), Some(&before), Some(&info));
            this.audit.record_durable(event).await?;
            Ok(info)
        })
        .await
    }

    /// Checked, stored, served, written down: in this order.
    async fn put(
        &self,
        record: ServerBundle,
        expected: Option<u64>,
        old: Option<Old>,
        event: &'static str,
        actor: &str,
    ) -> Result<BundleInfo, BundleError> {
        let to_store = record.clone();
        let certificate = blocking(&self.storage, move |storage| {
            let certificate = read(&to_store)?;
            storage.put_server_bundle(&to_store, expected)?;
            Ok::<_, BundleError>(certificate)
        })
        .await?;
        let known = Known { record, certificate };
        let before = {
            let mut state = self.state();
            let before =
                state.bundles.insert(key(&known.record.namespace, &known.record.name), known.clone());
            before.map(|before| info(&state, &before))
        };
        self.apply_beside(&source(&known.record), old.as_ref(), |bound| {
            bound.certificate = known.certificate.clone();
            bound.enabled = known.record.enabled;
        })?;
        let info = info(&self.state(), &known);
        let event = before_and_after(about(event, &info, actor), before.as_ref(), Some(&info));
        self.audit.record_durable(event).await?;
        Ok(info)
    }

    /// Changes every place of `source` in every listener.
    fn apply(
        &self,
        source: &CertificateSource,
        change: impl Fn(&mut BoundCertificate),
    ) -> Result<(), BundleError> {
        self.apply_beside(source, None, change)
    }

    fn check_not_last(&self, source: &CertificateSource) -> Result<(), BundleError> {
        let state = self.state();
        let left = |set: &CertificateSet| set.iter().any(|bound| bound.enabled && bound.source != *source);
        let used_by: Vec<_> = state
            .listeners
            .iter()
            .filter(|(_, tls)| has(tls, source) && !left(tls.current().certificates()))
            .map(|(name, _)| name.clone())
            .collect();
        if used_by.is_empty() { Ok(()) } else { Err(BundleError::LastOne { used_by }) }
    }

    /// Pairs of files that listeners have, each counted once.
    fn files_in_use(&self) -> usize {
        let state = self.state();
        let mut files = std::collections::BTreeSet::new();
        // The admin API's own are not what the limit is about.
        for (_, tls) in state.listeners.iter().filter(|(name, _)| *name != ADMIN_TLS) {
            let set = tls.current();
            files.extend(set.certificates().iter().filter_map(|bound| match &bound.source {
                CertificateSource::Files { certificate, key, .. } => Some((certificate.clone(), key.clone())),
                CertificateSource::Builtin
                | CertificateSource::Bundle { .. }
                | CertificateSource::Retired { .. } => None,
            }));
        }
        files.len()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that is begun is done, also when whoever asked for it goes away.
async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, BundleError>> + Send + 'static,
) -> Result<T, BundleError> {
    request::spawn(work).await.unwrap_or_else(|error| {
        Err(StorageError::Unavailable(format!("the change was interrupted: {error}")).into())
    })
}

async fn blocking<T: Send + 'static>(
    storage: &Arc<dyn Storage>,
    work: impl FnOnce(&dyn Storage) -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    let storage = Arc::clone(storage);
    tokio::task::spawn_blocking(move || work(&*storage)).await.unwrap_or_else(|error| {
        Err(StorageError::Unavailable(format!("the storage panicked: {error}")).into())
    })
}

fn has(tls: &TlsServer, source: &CertificateSource) -> bool {
    tls.current().certificates().iter().any(|bound| bound.source == *source)
}

fn key(namespace: &str, name: &str) -> (String, String) {
    (namespace.to_owned(), name.to_owned())
}

fn not_found(namespace: &str, name: &str) -> BundleError {
    BundleError::NotFound { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn source(record: &ServerBundle) -> CertificateSource {
    CertificateSource::Bundle { namespace: record.namespace.clone(), name: record.name.clone() }
}

/// Names become labels of metrics and parts of addresses.
fn check_name(name: &str) -> Result<(), BundleError> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = bytes.len() <= MOST_NAME_BYTES
        && bytes.first().is_some_and(|first| letter(*first))
        && bytes.iter().all(|byte| letter(*byte) || matches!(byte, b'-' | b'_' | b'.'));
    if good { Ok(()) } else { Err(BundleError::Name(name.chars().take(128).collect())) }
}

fn read(record: &ServerBundle) -> Result<ServerCertificate, MaterialError> {
    let name = format!("{}/{}", record.namespace, record.name);
    let pem = Pem {
        chain: record.chain_pem.as_bytes(),
        key: record.key_pem.as_bytes(),
        password: record.password.as_deref(),
        chain_name: &format!("{name} (chain)"),
        key_name: &format!("{name} (key)"),
    };
    ServerCertificate::from_pem(pem, clock::now().seconds())
}

fn info(state: &State, known: &Known) -> BundleInfo {
    let Known { record, certificate } = known;
    BundleInfo {
        enabled: record.enabled,
        builtin: false,
        revision: record.revision,
        ..shown(state, &record.namespace, &record.name, &source(record), certificate)
    }
}

fn builtin_info(state: &State, certificate: &ServerCertificate) -> BundleInfo {
    BundleInfo {
        enabled: state.builtin_enabled,
        ..shown(state, GLOBAL, "builtin", &CertificateSource::Builtin, certificate)
    }
}

fn shown(
    state: &State,
    namespace: &str,
    name: &str,
    source: &CertificateSource,
    certificate: &ServerCertificate,
) -> BundleInfo {
    let facts: &CertificateFacts = certificate.facts();
    let users = state.listeners.iter().filter(|(_, tls)| has(tls, source));
    BundleInfo {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        builtin: true,
        enabled: true,
        subject: facts.subject.display.clone(),
        issuer: facts.issuer.display.clone(),
        serial: hex::encode(&facts.serial),
        fingerprint: facts.certificate_fingerprint.to_hex(),
        server_names: certificate.names().to_vec(),
        not_before: facts.not_before.0,
        not_after: facts.not_after.0,
        chain_length: certificate.chain().len(),
        stapled: certificate.is_stapled(),
        used_by: users.map(|(listener, _)| listener.clone()).collect(),
        warnings: certificate.warnings().to_vec(),
        revision: 0,
    }
}

fn about(event: &'static str, info: &BundleInfo, actor: &str) -> AuditEvent {
    let mut event = AuditEvent::new(event, Outcome::Success, Reason::Ok)
        .actor(actor)
        .field("namespace", &*info.namespace)
        .field("bundle", &*info.name)
        .field("fingerprint", &*info.fingerprint);
    event.subject = Some(info.subject.clone());
    if info.used_by.is_empty() { event } else { event.field("listeners", info.used_by.join(",")) }
}

#[cfg(test)]
mod tests;
