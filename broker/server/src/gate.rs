//! The gate: everything between a finished handshake with a CONNECT packet and a [`Permit`].
//!
//! Order: required plugins, registry, authenticators, registrars (an unknown certificate where every device
//! has its own), authorizers, audit. Everything that fails on the way is a refusal. Does not know sockets,
//! sessions or how a plugin runs.

mod answer;
mod facts;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use mqgate_codec::{Connect, ReasonCode};
use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict, names};
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::{
    Acl, AclRule, Connection, Denial, Grant, HookSet, Identity, Peer, RegistrationDecision, TlsSession,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::DeviceCertificate;
use mqgate_identity::registry::rules::effective;
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::permit::{Granted, Permit};

pub use self::answer::connack_code;
pub(crate) use self::facts::event_about;
use crate::audit::AuditLog;
use crate::chain::{Stop, Walk, failure_reason};
use crate::clock;
use crate::metrics::GateMetrics;
use crate::metrics::gate::{ProvisionOutcome, Stage};
use crate::registry::{JitRegistration, Registry};

/// What is known about a connection once its transport is up, before CONNECT.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Unique within the process.
    pub id: u64,
    pub listener: Arc<str>,
    pub accepted_at: UnixMillis,
    pub peer: Peer,
    pub tls: Option<TlsSession>,
    /// Its key was proved and its path judged, also after a resumption.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The answer to CONNECT.
#[derive(Debug)]
pub enum Admission {
    Admitted(Box<Permit>),
    Refused(Refusal),
}

/// Already audited and counted when it is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// For MQTT 5.0; mapped for 3.1.1 by the protocol machine.
    pub code: ReasonCode,
    pub reason_string: Option<ByteString>,
    pub server_reference: Option<ByteString>,
    /// Sent as the user property `retry-after`, seconds.
    pub retry_after: Option<u32>,
}

/// The answer to asking again about a live session.
#[derive(Debug)]
pub enum Reauthorization {
    /// The old grant goes on: nobody with an opinion could be asked.
    Kept,
    Replaced(Box<Permit>),
    /// Disconnect.
    Withdrawn(Refusal),
}

/// How clients of a listener prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// No client certificate is asked for.
    #[default]
    OneWay,
    /// A certificate of one of our CAs.
    Mutual,
    /// A certificate of one of our CAs that is also registered, one for each device.
    PerDevice,
}

/// What happens to an unknown certificate where every device has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegistrationMode {
    /// The registrars decide; without one that does, the client is refused.
    #[default]
    Auto,
    /// It is refused until an operator registers it.
    Manual,
}

/// What the gate has to know about a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerPolicy {
    pub auth_mode: AuthMode,
    pub registration: RegistrationMode,
    /// Whether a plugin's message for the client is sent to it.
    pub send_reason_strings: bool,
}

#[derive(Debug, Clone, Default)]
pub struct GateSettings {
    /// By name.
    pub listeners: HashMap<Arc<str>, ListenerPolicy>,
    /// For listeners that are not in `listeners`; without it they admit nobody.
    pub other_listeners: Option<ListenerPolicy>,
    /// The rule sets a grant may name.
    pub named_acls: HashMap<String, Vec<AclRule>>,
    /// Seconds a client waits before it asks again about a registration that is pending.
    pub pending_retry_after: u32,
}

/// Judges connections.
pub struct Gate {
    hooks: Arc<ArcSwap<HookSet>>,
    registry: Option<Arc<Registry>>,
    audit: Arc<AuditLog>,
    metrics: Arc<GateMetrics>,
    settings: GateSettings,
}

/// Everything the chains came to: what a permit is compiled from.
struct Decision {
    identity: Identity,
    grant: Grant,
    rules: Option<Vec<AclRule>>,
    client_id: ByteString,
    assigned: bool,
}

/// Why there is no decision.
#[derive(Default)]
struct No {
    reason: Option<Reason>,
    denial: Option<Denial>,
    by: Option<Arc<str>>,
    /// For the operator.
    detail: Option<String>,
    retry_after: Option<u32>,
    /// A hook gave no answer: a live session keeps its grant.
    unanswered: bool,
}

/// Whether chains are asked for a new connection or about a live session.
#[derive(Clone, Copy)]
enum Asked<'a> {
    New,
    Again { current: &'a Permit },
}

impl Gate {
    /// A gate over `hooks`, which may be replaced at any time: each connection is judged by one snapshot.
    /// Without a registry, listeners where every device has its own certificate admit nobody.
    pub fn new(
        hooks: Arc<ArcSwap<HookSet>>,
        registry: Option<Arc<Registry>>,
        audit: Arc<AuditLog>,
        metrics: Arc<GateMetrics>,
        settings: GateSettings,
    ) -> Self {
        Self { hooks, registry, audit, metrics, settings }
    }

    /// The hook set that judges new connections.
    pub fn hooks(&self) -> &Arc<ArcSwap<HookSet>> {
        &self.hooks
    }

    /// Runs registry, authenticators, registrars and authorizers for one CONNECT, and audits the outcome.
    ///
    /// The connection is in the directory by now: a certificate that is revoked while this runs reaches it.
    pub async fn admit(&self, accepted: &Accepted, connect: &Connect) -> Admission {
        let started = Instant::now();
        let hooks = self.hooks.load_full();
        let on = Arc::new(facts::connection(accepted, connect));
        let mut walk = Walk::new(&hooks, &on);
        let judged = self.judge(&mut walk, accepted, &on, &hooks, Asked::New).await;
        let verdicts = std::mem::take(&mut walk.verdicts);

        let admission = match judged.and_then(|decision| {
            let permit = permit(&decision, accepted, hooks.generation)?;
            Ok((decision, permit))
        }) {
            Ok((decision, permit)) => {
                let event = self.event(
                    names::CONNECTION_ACCEPTED,
                    Outcome::Success,
                    Reason::Ok,
                    accepted,
                    &on,
                    &verdicts,
                );
                match self.audit.try_record(facts::accepted_event(event, &permit, &decision.grant)) {
                    Ok(_) => Admission::Admitted(Box::new(permit)),
                    Err(refused) => {
                        let no = No::because(Reason::AuditUnavailable).detail(refused.to_string());
                        Admission::Refused(self.refuse(no, accepted, &on, &verdicts))
                    }
                }
            }
            Err(no) => Admission::Refused(self.refuse(no, accepted, &on, &verdicts)),
        };
        let reason = match &admission {
            Admission::Admitted(_) => Reason::Ok,
            Admission::Refused(refusal) => refusal.reason,
        };
        self.metrics.decided(&accepted.listener, Stage::Connect, reason);
        self.metrics
            .auth_decision_duration
            .with_label_values(&[Stage::Connect.as_str()])
            .observe(started.elapsed().as_secs_f64());
        if reason == Reason::Ok
            && let (Some(registry), Some(certificate)) = (&self.registry, &accepted.certificate)
        {
            registry.seen(certificate.leaf.certificate_fingerprint);
        }
        admission
    }

    /// Asks the current hook set about a live session. A failure of a hook leaves the grant as it is.
    pub async fn reauthorize(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        current: &Permit,
    ) -> Reauthorization {
        let hooks = self.hooks.load_full();
        let on = Arc::new(facts::connection(accepted, connect));
        let mut walk = Walk::new(&hooks, &on);
        let judged = self.judge(&mut walk, accepted, &on, &hooks, Asked::Again { current }).await;
        let verdicts = std::mem::take(&mut walk.verdicts);
        match judged.and_then(|decision| permit(&decision, accepted, hooks.generation)) {
            Ok(permit) if permit.device_id != current.device_id => {
                let no = No::because(Reason::NotAuthorized).detail("it is another device now".into());
                self.metrics.decided(&accepted.listener, Stage::Connect, Reason::NotAuthorized);
                Reauthorization::Withdrawn(self.refuse(no, accepted, &on, &verdicts))
            }
            Ok(permit) => Reauthorization::Replaced(Box::new(permit)),
            Err(no) if no.unanswered => {
                tracing::warn!(
                    connection = accepted.id,
                    by = no.by.as_deref(),
                    detail = no.detail,
                    "asking again failed: the session keeps its grant"
                );
                Reauthorization::Kept
            }
            Err(no) => {
                self.metrics.decided(&accepted.listener, Stage::Connect, no.reason());
                Reauthorization::Withdrawn(self.refuse(no, accepted, &on, &verdicts))
            }
        }
    }

    async fn judge(
        &self,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        on: &Arc<Connection>,
        hooks: &HookSet,
        asked: Asked<'_>,
    ) -> Result<Decision, No> {
        let Some(policy) = self.policy(accepted) else {
            tracing::error!(listener = %accepted.listener, "this listener has no policy");
            return Err(No::because(Reason::Other).detail("the listener has no policy".into()));
        };
        if let Some((name, why)) = hooks.missing.first() {
            let mut no =
                No::because(Reason::PluginUnavailable).detail(format!("required and not live: {why}"));
            no.by = Some(Arc::clone(name));
            no.unanswered = true;
            return Err(no);
        }
        let mut record = self.registered(accepted, policy).await?;
        let may_register = policy.auth_mode == AuthMode::PerDevice && matches!(asked, Asked::New);
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            // An unknown certificate and no one who may change that: no plugin is asked.
            let somebody = hooks.members.iter().any(|member| member.registrar.is_some());
            if policy.registration == RegistrationMode::Manual || !somebody || !may_register {
                return Err(No::because(Reason::CertNotRegistered));
            }
        }
        check_binding(record.as_deref(), on, asked)?;

        let claimed = walk.authenticate().await?;
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            let registered = self.register(walk, accepted, claimed.as_ref()).await?;
            check_binding(Some(&registered), on, asked)?;
            record = Some(registered);
        }
        let identity = match (claimed, record.as_deref()) {
            // Which device a registered certificate belongs to is the registry's word.
            (Some(claimed), Some(record)) => Identity {
                device_id: record.device_id.clone(),
                tenant: record.tenant.clone().or(claimed.tenant),
                tags: claimed.tags,
                attributes: claimed.attributes,
            },
            (Some(claimed), None) => claimed,
            (None, Some(record)) if policy.auth_mode == AuthMode::PerDevice => facts::identity(record),
            (None, _) => return Err(No::because(Reason::AllAbstained).detail("authenticators".into())),
        };

        let Some((by, grant)) = walk.authorize(&identity).await? else {
            return Err(No::because(Reason::AllAbstained).detail("authorizers".into()));
        };
        let rules = match &grant.acl {
            Acl::Inline(_) => None,
            Acl::Named(name) => match self.settings.named_acls.get(name) {
                Some(rules) => Some(rules.clone()),
                None => {
                    let mut no = No::because(Reason::PluginInvalid)
                        .detail(format!("its grant names the access list {name:?}, which is not configured"));
                    no.by = Some(by);
                    no.unanswered = true;
                    return Err(no);
                }
            },
        };
        let (client_id, assigned) = client_id(on, record.as_deref(), &grant, asked);
        Ok(Decision { identity, grant, rules, client_id, assigned })
    }

    fn policy(&self, accepted: &Accepted) -> Option<ListenerPolicy> {
        self.settings.listeners.get(&accepted.listener).copied().or(self.settings.other_listeners)
    }

    /// The record of the connection's certificate, if it has one and the record lets it in. A certificate that
    /// was revoked is refused on every listener, registered devices only or not.
    async fn registered(
        &self,
        accepted: &Accepted,
        policy: ListenerPolicy,
    ) -> Result<Option<Arc<DeviceCertificate>>, No> {
        let Some(certificate) = &accepted.certificate else {
            return match policy.auth_mode {
                AuthMode::PerDevice => Err(No::because(Reason::TlsNoPeerCert)),
                AuthMode::OneWay | AuthMode::Mutual => Ok(None),
            };
        };
        let Some(registry) = &self.registry else {
            return match policy.auth_mode {
                AuthMode::PerDevice => {
                    Err(No::because(Reason::RegistryUnavailable).detail("there is no registry".into()))
                }
                AuthMode::OneWay | AuthMode::Mutual => Ok(None),
            };
        };
        if !registry.trusts(certificate.anchor.certificate_fingerprint) {
            return Err(No::because(Reason::CaInactive));
        }
        let record = registry
            .lookup(certificate.leaf.certificate_fingerprint)
            .await
            .map_err(|error| No::because(Reason::RegistryUnavailable).detail(error.to_string()))?;
        let Some(record) = record else { return Ok(None) };
        self.in_force(record, certificate, registry).map(Some)
    }

    /// Whether a record lets its certificate in now: its state, its validity, the CA that its path ends in.
    fn in_force(
        &self,
        record: Arc<DeviceCertificate>,
        certificate: &ClientCertificate,
        registry: &Registry,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let ca = registry.ca(certificate.anchor.certificate_fingerprint);
        effective(&record, ca.as_ref(), registry.policy(), clock::now().seconds()).map_err(|reason| {
            let mut no = No::because(reason);
            if reason == Reason::CertPending {
                no.retry_after = Some(self.settings.pending_retry_after.max(1));
            }
            no
        })?;
        Ok(record)
    }

    /// Asks the registrars about an unknown certificate and writes down what they say.
    async fn register(
        &self,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        claimed: Option<&Identity>,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let (Some(certificate), Some(registry)) = (&accepted.certificate, &self.registry) else {
            return Err(No::because(Reason::CertNotRegistered));
        };
        let started = Instant::now();
        let id = certificate.leaf.certificate_fingerprint;
        let _flight = registry.flight(id).await;
        // Another connection may have been first.
        let known = registry
            .lookup(id)
            .await
            .map_err(|error| No::because(Reason::RegistryUnavailable).detail(error.to_string()))?;
        if let Some(record) = known {
            return self.in_force(record, certificate, registry);
        }
        let registered = self.register_with(walk, accepted, claimed, certificate, registry).await;
        let outcome = match &registered {
            Ok(_) => ProvisionOutcome::Registered,
            Err(no) => match no.reason() {
                Reason::CertPending => ProvisionOutcome::Pending,
                Reason::ProvisionQuota => ProvisionOutcome::Quota,
                Reason::ProvisionRateLimited => ProvisionOutcome::RateLimited,
                _ if no.unanswered || no.reason() == Reason::RegistryUnavailable => ProvisionOutcome::Error,
                _ => ProvisionOutcome::Denied,
            },
        };
        let ca: &str = &certificate.anchor.name;
        self.metrics.provision_attempts.with_label_values(&[ca, outcome.as_str()]).inc();
        self.metrics.provision_duration.with_label_values(&[ca]).observe(started.elapsed().as_secs_f64());
        registered
    }

    async fn register_with(
        &self,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        claimed: Option<&Identity>,
        certificate: &ClientCertificate,
        registry: &Arc<Registry>,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let (by, decision) = match walk.register(claimed).await {
            Ok(Some(decision)) => decision,
            Ok(None) => return Err(No::because(Reason::CertNotRegistered)),
            Err(Stop::Denied { by, denial }) => {
                let reason = match answer::denial_reason(&denial) {
                    Reason::PluginDenied => Reason::ProvisionDenied,
                    other => other,
                };
                return Err(No { reason: Some(reason), denial: Some(denial), by: Some(by), ..No::default() });
            }
            Err(stop) => return Err(stop.into()),
        };
        let (registration, hold) = match decision {
            RegistrationDecision::Register(registration) => (registration, false),
            RegistrationDecision::Hold(registration) => (registration, true),
            // `Walk::register` has turned these into other answers.
            RegistrationDecision::Deny(_) | RegistrationDecision::Abstain => {
                return Err(No::because(Reason::CertNotRegistered));
            }
        };
        let record = registry
            .register_jit(JitRegistration {
                accepted,
                certificate,
                registration,
                hold,
                by: &by,
                verdicts: &walk.verdicts,
            })
            .await
            .map_err(|error| {
                let mut no = No::because(error.reason()).detail(error.to_string());
                no.by = Some(by);
                no
            })?;
        self.in_force(record, certificate, registry)
    }

    /// Audits and counts a refusal.
    fn refuse(&self, no: No, accepted: &Accepted, on: &Connection, verdicts: &[PluginVerdict]) -> Refusal {
        let reason = no.reason();
        let outcome = if no.unanswered { Outcome::Error } else { Outcome::Failure };
        let mut event = self.event(names::CONNECTION_REFUSED, outcome, reason, accepted, on, verdicts);
        if let Some(by) = &no.by {
            event = event.field("refused_by", &**by);
        }
        if let Some(detail) = no.detail.as_deref() {
            event = event.field("detail", detail);
        }
        if let Some(denial) = &no.denial {
            if let Some(detail) = denial.audit_detail.as_deref() {
                event = event.field("plugin.detail", detail);
            }
            event.fields.extend(denial.attributes.iter().cloned().map(facts::plugin_field));
        }
        self.audit.record(event);
        tracing::debug!(
            connection = accepted.id,
            %reason,
            by = no.by.as_deref(),
            detail = no.detail.as_deref(),
            "connection refused"
        );
        self.answer(&no, self.policy(accepted).unwrap_or_default())
    }

    fn answer(&self, no: &No, policy: ListenerPolicy) -> Refusal {
        answer::refusal(no.reason(), no.denial.as_ref(), no.retry_after, policy.send_reason_strings)
    }

    fn event(
        &self,
        name: &'static str,
        outcome: Outcome,
        reason: Reason,
        accepted: &Accepted,
        on: &Connection,
        verdicts: &[PluginVerdict],
    ) -> AuditEvent {
        let mut event = event_about(AuditEvent::new(name, outcome, reason), accepted);
        event.client_id = Some(on.connect.client_id.clone());
        event.plugins = verdicts.to_vec();
        facts::connect_fields(event, on)
    }
}

impl No {
    fn because(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }

    fn detail(mut self, detail: String) -> Self {
        self.detail = Some(detail);
        self
    }

    fn reason(&self) -> Reason {
        self.reason.unwrap_or(Reason::Other)
    }
}

impl From<Stop> for No {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Denied { by, denial } => Self {
                reason: Some(answer::denial_reason(&denial)),
                denial: Some(denial),
                by: Some(by),
                ..Self::default()
            },
            Stop::Failed { by, failure } => Self {
                reason: Some(failure_reason(failure.kind)),
                by: Some(by),
                detail: Some(format!("{}: {}", failure.kind.as_str(), failure.detail)),
                unanswered: true,
                ..Self::default()
            },
        }
    }
}

/// A certificate bound to a client id may use no other.
fn check_binding(record: Option<&DeviceCertificate>, on: &Connection, asked: Asked<'_>) -> Result<(), No> {
    let Some(bound) = record.and_then(|record| record.client_id.as_deref()) else { return Ok(()) };
    let used = match asked {
        Asked::New => &*on.connect.client_id,
        Asked::Again { current } => &*current.client_id,
    };
    if used == bound || (used.is_empty() && matches!(asked, Asked::New)) {
        return Ok(());
    }
    Err(No::because(Reason::ClientIdMismatch).detail(format!("the certificate is bound to {bound:?}")))
}

/// As sent; else as bound; else as the authorizer says; else drawn.
fn client_id(
    on: &Connection,
    record: Option<&DeviceCertificate>,
    grant: &Grant,
    asked: Asked<'_>,
) -> (ByteString, bool) {
    if let Asked::Again { current } = asked {
        return (current.client_id.clone(), current.assigned);
    }
    if !on.connect.client_id.is_empty() {
        return (on.connect.client_id.as_str().into(), false);
    }
    let given = record
        .and_then(|record| record.client_id.as_deref())
        .or(grant.assigned_client_id.as_deref())
        .filter(|id| !id.is_empty());
    match given {
        Some(id) => (id.into(), true),
        None => (format!("mqgate-{}", facts::random_hex()).into(), true),
    }
}

fn permit(decision: &Decision, accepted: &Accepted, generation: u64) -> Result<Permit, No> {
    let rules = match (&decision.rules, &decision.grant.acl) {
        (Some(rules), _) | (None, Acl::Inline(rules)) => rules.as_slice(),
        (None, Acl::Named(_)) => &[],
    };
    let fingerprint = |certificate: &Arc<ClientCertificate>| -> CertificateFingerprint {
        certificate.leaf.certificate_fingerprint
    };
    Permit::granted_by(&Granted {
        client_id: decision.client_id.clone(),
        assigned: decision.assigned,
        device_id: &decision.identity.device_id,
        tenant: decision.identity.tenant.as_deref(),
        certificate_fingerprint: accepted.certificate.as_ref().map(fingerprint),
        rules,
        otherwise: decision.grant.otherwise,
        limits: decision.grant.limits,
        generation,
    })
    .map_err(|error| {
        let mut no = No::because(Reason::PluginInvalid).detail(error.to_string());
        no.unanswered = true;
        no
    })
}

#[cfg(test)]
mod tests;
