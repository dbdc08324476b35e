//! The gate: everything between a finished handshake with a CONNECT packet and a [`Permit`].
//!
//! Order: required plugins, registry, authenticators, registrars (an unknown certificate where every device
//! has its own), authorizers, audit. Everything that fails on the way is a refusal. Does not know sockets,
//! sessions or how a plugin runs.

mod answer;
mod banned;
mod binding;
mod dialogue;
mod explain;
mod facts;
mod findings;
mod judge;
mod register;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytestring::ByteString;
use mqgate_codec::{Connect, ReasonCode};
use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict, names};
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::evaluation::Rejection;
use mqgate_identity::hooks::{AclRule, Attribute, Connection, HookSet, Peer, TlsSession};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::permit::Permit;

pub use self::answer::connack_code;
pub use self::binding::{BindClientId, OnClientIdMismatch};
pub use self::dialogue::Dialogue;
pub(crate) use self::dialogue::{Data, Interpreter};
pub use self::explain::{Explanation, Refused, Step, StepOutcome};
pub(crate) use self::facts::event_about;
use self::findings::Findings;
use self::judge::{Asked, Decision, No, permit};
use crate::audit::AuditLog;
use crate::bans::Bans;
use crate::chain::Walk;
pub use crate::chain::{ChainMode, ChainModes, GrantedAcl, Granting, ListenerChain, Terms};
use crate::clock::{self, sanity::ClockWatch};
use crate::metrics::GateMetrics;
use crate::metrics::gate::Stage;
use crate::metrics::mqtt::Transport;
use crate::provision::{Provision, ProvisionSettings};
use crate::registry::{Registry, RegistryChange, RotationSettings};
use crate::sharing::Sharing;

/// What is known about a connection once its transport is up, before CONNECT.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Unique within the process.
    pub id: u64,
    pub listener: Arc<str>,
    pub accepted_at: UnixMillis,
    pub transport: Transport,
    pub peer: Peer,
    pub tls: Option<TlsSession>,
    /// Its key was proved and its path judged, also after a resumption.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// What else the transport tells, for hooks and audit records.
    pub attributes: Vec<Attribute>,
    /// The listener's own certificate that the client was shown.
    pub server_certificate: Option<CertificateFingerprint>,
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
    /// Nobody comes in without a certificate, however the connection came about: also where a proxy's header says
    /// nothing of one, or where there is no header.
    pub needs_certificate: bool,
    /// Whether a plugin's message for the client is sent to it.
    pub send_reason_strings: bool,
}

#[derive(Debug, Clone, Default)]
pub struct GateSettings {
    /// By name.
    pub listeners: HashMap<Arc<str>, ListenerPolicy>,
    /// For listeners that are not in `listeners`; without it they admit nobody.
    pub other_listeners: Option<ListenerPolicy>,
    /// How the members of the chain come to a decision about clients of a listener, where the first of them does not decide.
    pub chains: HashMap<Arc<str>, ListenerChain>,
    /// The rule sets a grant may name.
    pub named_acls: HashMap<String, Vec<AclRule>>,
    /// Seconds a client waits before it asks again about a registration that is pending.
    pub pending_retry_after: u32,
    /// What holds an unknown certificate back before a registrar is asked about it.
    pub provision: ProvisionSettings,
    /// How long a certificate waits for an operator before it is forgotten.
    pub pending_ttl: Duration,
    pub bind_client_id: BindClientId,
    pub on_client_id_mismatch: OnClientIdMismatch,
    pub rotation: RotationSettings,
}

/// How long a grant that has run out is kept while nobody can be asked for another.
pub const MAX_STALE: Duration = Duration::from_secs(3600);

/// Judges connections.
pub struct Gate {
    hooks: Arc<ArcSwap<HookSet>>,
    registry: Option<Arc<Registry>>,
    audit: Arc<AuditLog>,
    metrics: Arc<GateMetrics>,
    settings: ArcSwap<GateSettings>,
    anchor_now: OnceLock<Arc<AnchorNow>>,
    bans: Option<Arc<Bans>>,
    provision: Arc<Provision>,
    findings: Findings,
    sharing: OnceLock<Arc<Sharing>>,
    clock: OnceLock<Arc<ClockWatch>>,
}

/// Which CA the path of a certificate ends in now: of the connection with this number, on the listener of this name.
pub type AnchorNow =
    dyn Fn(u64, &str, &ClientCertificate) -> Result<CertificateFingerprint, Rejection> + Send + Sync;

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
        let provision = Arc::new(Provision::new(Arc::clone(&metrics.provision)));
        if let Some(registry) = &registry {
            let waiting = Arc::downgrade(&provision);
            registry.on_change(move |change| {
                let (RegistryChange::DeviceChanged { certificate }
                | RegistryChange::DeviceBarred { certificate, .. }) = change
                else {
                    return;
                };
                if let Some(provision) = waiting.upgrade() {
                    provision.changed(certificate);
                }
            });
        }
        Self {
            hooks,
            registry,
            audit,
            metrics,
            settings: ArcSwap::from_pointee(settings),
            anchor_now: OnceLock::new(),
            bans: None,
            provision,
            findings: Findings::default(),
            sharing: OnceLock::new(),
            clock: OnceLock::new(),
        }
    }

    /// Keeps out who is banned.
    #[must_use]
    pub fn with_bans(mut self, bans: Arc<Bans>) -> Self {
        self.bans = Some(bans);
        self
    }

    /// Replaces the settings: they hold for every decision from now on.
    pub fn configure(&self, settings: GateSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Says how to judge a path whose trust set may have changed since the handshake; the first one stays.
    pub fn anchors_from(&self, anchor_now: Arc<AnchorNow>) {
        let _ = self.anchor_now.set(anchor_now);
    }

    /// Says who looks for certificates that are on two devices; the first one stays.
    pub fn finds_shared_by(&self, sharing: Arc<Sharing>) {
        let _ = self.sharing.set(sharing);
    }

    /// Says who looks at the clock; the first one stays.
    pub fn reads(&self, clock: Arc<ClockWatch>) {
        let _ = self.clock.set(clock);
    }

    /// What holds unknown certificates back.
    pub fn provision(&self) -> &Arc<Provision> {
        &self.provision
    }

    /// Forgets what is over. To be called once in a while.
    pub fn sweep(&self) {
        self.provision.sweep();
        if let Some(sharing) = self.sharing.get() {
            sharing.sweep();
        }
    }

    pub(crate) fn metrics(&self) -> &GateMetrics {
        &self.metrics
    }

    /// The hook set that judges new connections.
    pub fn hooks(&self) -> &Arc<ArcSwap<HookSet>> {
        &self.hooks
    }

    /// Runs registry, authenticators, registrars and authorizers for one CONNECT, and audits the outcome.
    ///
    /// The connection is in the directory by now: a certificate that is revoked while this runs reaches it.
    /// A client that asks for enhanced authentication is refused: see [`Gate::admit_with`].
    pub async fn admit(&self, accepted: &Accepted, connect: &Connect) -> Admission {
        self.admit_with(accepted, connect, None).await
    }

    /// The same; a client that asks for enhanced authentication is spoken to by `dialogue`.
    pub async fn admit_with(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        dialogue: Option<Dialogue>,
    ) -> Admission {
        let started = Instant::now();
        let hooks = self.hooks.load_full();
        let on = Arc::new(facts::connection(accepted, connect));
        let mut walk = Walk::new(&hooks, self.chain(accepted), &on);
        let judged = self.judge(&mut walk, accepted, &on, &hooks, Asked::New { dialogue }).await;
        let verdicts = std::mem::take(&mut walk.verdicts);

        let judged = match judged {
            Ok(decision) => self.permitted(accepted, connect, decision, hooks.generation).await,
            Err(no) => Err(no),
        };
        let used =
            judged.as_ref().ok().and_then(|(decision, _)| decision.record.clone().zip(decision.anchor));
        let admission = match judged {
            Ok((decision, permit)) => {
                let event = self.event(
                    names::CONNECTION_ACCEPTED,
                    Outcome::Success,
                    Reason::Ok,
                    accepted,
                    &on,
                    &verdicts,
                );
                match self.audit.admit(facts::accepted_event(event, &permit, &decision.terms)).await {
                    Ok(_) => Admission::Admitted(Box::new(permit)),
                    Err(refused) => {
                        let no = No::because(Reason::AuditUnavailable).detail(refused.to_string());
                        Admission::Refused(self.refuse(&no, accepted, &on, &verdicts))
                    }
                }
            }
            Err(no) => Admission::Refused(self.refuse(&no, accepted, &on, &verdicts)),
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
            if let Some((record, anchor)) = &used {
                registry.used(record, *anchor, self.settings.load().rotation);
            }
        }
        admission
    }

    /// The permit, and a last look at whether the certificate is on another device as well.
    async fn permitted(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        decision: Decision,
        generation: u64,
    ) -> Result<(Decision, Permit), No> {
        let permit = permit(&decision, accepted, generation)?;
        self.check_sharing(accepted, connect.keep_alive, &decision, &permit).await?;
        self.note_injection(accepted, &decision, &permit);
        Ok((decision, permit))
    }

    /// Asks the current hook set about a live session. A failure of a hook leaves the grant as it is, but not
    /// for ever: one that ran out more than [`MAX_STALE`] ago is withdrawn.
    pub async fn reauthorize(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        current: &Permit,
    ) -> Reauthorization {
        self.reauthorize_with(accepted, connect, current, None).await
    }

    /// The same; with `dialogue` the client proves once more who it is, and a failure ends the session.
    pub async fn reauthorize_with(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        current: &Permit,
        dialogue: Option<Dialogue>,
    ) -> Reauthorization {
        let hooks = self.hooks.load_full();
        let on = Arc::new(facts::live_connection(accepted, connect, clock::now()));
        let mut walk = Walk::new(&hooks, self.chain(accepted), &on);
        // With a dialogue it is the client that wants to be asked, and nothing but a proof counts.
        let by_client = dialogue.is_some();
        let asked = Asked::Again { current, dialogue };
        let judged = self.judge(&mut walk, accepted, &on, &hooks, asked).await;
        let verdicts = std::mem::take(&mut walk.verdicts);
        match judged.and_then(|decision| permit(&decision, accepted, hooks.generation)) {
            Ok(permit) if permit.device_id != current.device_id => {
                let no = No::because(Reason::NotAuthorized).detail("it is another device now".into());
                Reauthorization::Withdrawn(self.withdraw(&no, accepted, &on, &verdicts))
            }
            Ok(permit) => {
                let mut event = self.event(
                    names::CONNECTION_REAUTHORIZED,
                    Outcome::Success,
                    Reason::Ok,
                    accepted,
                    &on,
                    &verdicts,
                );
                event.client_id = Some(permit.client_id.to_string());
                event.device_id = Some(permit.device_id.to_string());
                self.audit.record(event);
                Reauthorization::Replaced(Box::new(permit))
            }
            Err(no) if no.unanswered && !by_client && !Self::is_stale(current) => {
                let mut event = self.event(
                    names::CONNECTION_REAUTHORIZED,
                    Outcome::Error,
                    no.reason(),
                    accepted,
                    &on,
                    &verdicts,
                );
                event.client_id = Some(current.client_id.to_string());
                event.device_id = Some(current.device_id.to_string());
                self.audit.record(no.tell(event));
                tracing::warn!(
                    connection = accepted.id,
                    by = no.by.as_deref(),
                    detail = no.detail,
                    "asking again failed: the session keeps its grant"
                );
                Reauthorization::Kept
            }
            Err(no) => Reauthorization::Withdrawn(self.withdraw(&no, accepted, &on, &verdicts)),
        }
    }

    fn policy(&self, accepted: &Accepted) -> Option<ListenerPolicy> {
        let settings = self.settings.load();
        settings.listeners.get(&accepted.listener).copied().or(settings.other_listeners)
    }

    fn chain(&self, accepted: &Accepted) -> ListenerChain {
        self.settings.load().chains.get(&accepted.listener).cloned().unwrap_or_default()
    }

    /// Whether a permit ran out too long ago.
    fn is_stale(permit: &Permit) -> bool {
        let (Some(granted_at), Some(validity)) = (permit.granted_at, permit.valid_for) else { return false };
        let age = Duration::from_millis(clock::now().0.saturating_sub(granted_at.0));
        age > validity.saturating_add(MAX_STALE)
    }

    /// Audits the refusal of a CONNECT: those that are alike are one record and a count.
    fn refuse(&self, no: &No, accepted: &Accepted, on: &Connection, verdicts: &[PluginVerdict]) -> Refusal {
        let event = self.refused(no, accepted, on, verdicts);
        self.audit.record_refusal(accepted.peer.address, event);
        self.answer(no, self.policy(accepted).unwrap_or_default())
    }

    /// Audits and counts the end of a session that lost its permit.
    fn withdraw(&self, no: &No, accepted: &Accepted, on: &Connection, verdicts: &[PluginVerdict]) -> Refusal {
        self.metrics.decided(&accepted.listener, Stage::Connect, no.reason());
        let event = self.refused(no, accepted, on, verdicts);
        self.audit.record(event);
        self.answer(no, self.policy(accepted).unwrap_or_default())
    }

    fn refused(
        &self,
        no: &No,
        accepted: &Accepted,
        on: &Connection,
        verdicts: &[PluginVerdict],
    ) -> AuditEvent {
        let reason = no.reason();
        let outcome = if no.unanswered { Outcome::Error } else { Outcome::Failure };
        let mut event = self.event(names::CONNECTION_REFUSED, outcome, reason, accepted, on, verdicts);
        event.device_id = no.device_id.clone();
        tracing::debug!(
            connection = accepted.id,
            %reason,
            by = no.by.as_deref(),
            detail = no.detail.as_deref(),
            "connection refused"
        );
        no.tell(event)
    }

    fn answer(&self, no: &No, policy: ListenerPolicy) -> Refusal {
        answer::refusal(no.reason(), no.denial.as_deref(), no.retry_after, policy.send_reason_strings)
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

#[cfg(test)]
mod tests;
