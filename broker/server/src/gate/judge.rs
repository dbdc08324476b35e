//! The judgement itself: registry and chains, in their order, up to a decision or a no.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::{
    Acl, AclRule, ConnackReason, Connection, Denial, Grant, HookSet, Identity, RegistrationDecision,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::DeviceCertificate;
use mqgate_identity::registry::rules::effective;
use mqgate_protocol::permit::{Granted, Permit};

use super::{Accepted, AuthMode, Dialogue, Gate, ListenerPolicy, RegistrationMode, answer, facts};
use crate::chain::{Stop, Walk, failure_reason};
use crate::clock;
use crate::metrics::gate::ProvisionOutcome;
use crate::registry::{Flight, JitRegistration, Registry};

/// Everything the chains came to: what a permit is compiled from.
pub(super) struct Decision {
    pub(super) identity: Identity,
    pub(super) grant: Grant,
    pub(super) rules: Option<Vec<AclRule>>,
    pub(super) client_id: ByteString,
    pub(super) assigned: bool,
    proved: Option<Arc<Identity>>,
    data: Option<Bytes>,
}

/// Why there is no decision.
#[derive(Default)]
pub(super) struct No {
    pub(super) reason: Option<Reason>,
    pub(super) denial: Option<Box<Denial>>,
    pub(super) by: Option<Arc<str>>,
    /// As far as it was known.
    pub(super) device_id: Option<String>,
    /// For the operator.
    pub(super) detail: Option<String>,
    pub(super) retry_after: Option<u32>,
    /// A hook or the registry gave no answer: a live session keeps its grant.
    pub(super) unanswered: bool,
}

/// Whether chains are asked for a new connection or about a live session.
pub(super) enum Asked<'a> {
    New { dialogue: Option<Dialogue> },
    Again { current: &'a Permit, dialogue: Option<Dialogue> },
}

/// Who the client says it is, and how that was proved.
#[derive(Default)]
struct Claimed {
    identity: Option<Identity>,
    /// By enhanced authentication.
    proved: Option<Arc<Identity>>,
    /// The last word of that.
    data: Option<Bytes>,
}

impl Gate {
    pub(super) async fn judge(
        &self,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        on: &Arc<Connection>,
        hooks: &HookSet,
        mut asked: Asked<'_>,
    ) -> Result<Decision, No> {
        let Some(policy) = self.policy(accepted) else {
            tracing::error!(listener = %accepted.listener, "this listener has no policy");
            return Err(No::because(Reason::Other).detail("the listener has no policy".into()));
        };
        self.unbanned(accepted, &on.connect.client_id, None)?;
        if let Some((name, why)) = hooks.missing.first() {
            let mut no =
                No::because(Reason::PluginUnavailable).detail(format!("required and not live: {why}"));
            no.by = Some(Arc::clone(name));
            no.unanswered = true;
            return Err(no);
        }
        let mut record = self.registered(accepted, policy).await?;
        let may_register = policy.auth_mode == AuthMode::PerDevice && matches!(asked, Asked::New { .. });
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            // An unknown certificate and no one who may change that: no plugin is asked.
            let somebody = hooks.members.iter().any(|member| member.registrar.is_some());
            if policy.registration == RegistrationMode::Manual || !somebody || !may_register {
                return Err(No::because(Reason::CertNotRegistered));
            }
        }
        check_binding(record.as_deref(), on, &asked)?;

        let Claimed { identity: claimed, proved, data } = claimed(walk, on, &mut asked).await?;
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            let registered = self.register(walk, accepted, claimed.as_ref()).await?;
            check_binding(Some(&registered), on, &asked)?;
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

        let device_id = &identity.device_id;
        let granted = walk.authorize(&identity).await.map_err(|stop| No::from(stop).about(device_id))?;
        let Some((by, grant)) = granted else {
            return Err(No::because(Reason::AllAbstained).detail("authorizers".into()).about(device_id));
        };
        let rules = match &grant.acl {
            Acl::Inline(_) => None,
            Acl::Named(name) => match self.settings.load().named_acls.get(name) {
                Some(rules) => Some(rules.clone()),
                None => {
                    let mut no = No::because(Reason::PluginInvalid)
                        .about(device_id)
                        .detail(format!("its grant names the access list {name:?}, which is not configured"));
                    no.by = Some(by);
                    no.unanswered = true;
                    return Err(no);
                }
            },
        };
        let (client_id, assigned) = client_id(on, record.as_deref(), &grant, &asked);
        self.unbanned(accepted, &client_id, Some(&identity.device_id))?;
        Ok(Decision { identity, grant, rules, client_id, assigned, proved, data })
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
                AuthMode::OneWay | AuthMode::Mutual if !policy.needs_certificate => Ok(None),
                _ => Err(No::because(Reason::TlsNoPeerCert)),
            };
        };
        let Some(registry) = &self.registry else {
            return match policy.auth_mode {
                AuthMode::PerDevice => {
                    Err(No::unanswered(Reason::RegistryUnavailable, "there is no registry".into()))
                }
                AuthMode::OneWay | AuthMode::Mutual => Ok(None),
            };
        };
        let anchor = self.anchor_now(accepted, certificate, registry)?;
        let record = registry
            .lookup(certificate.leaf.certificate_fingerprint)
            .await
            .map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))?;
        let Some(record) = record else { return Ok(None) };
        self.in_force(record, anchor, registry).map(Some)
    }

    /// Whether somebody who was let in earlier would be kept out now, whatever the chains say: by a ban, or by
    /// the state of the certificate. What cannot be found out keeps out.
    pub(crate) async fn still_lets_in(
        &self,
        accepted: &Accepted,
        client_id: &str,
        device_id: &str,
    ) -> Result<(), Reason> {
        self.unbanned(accepted, client_id, Some(device_id)).map_err(|no| no.reason())?;
        // A listener that was removed meanwhile has no policy; its certificates have a state all the same.
        let policy = self.policy(accepted).unwrap_or_default();
        let record = self.registered(accepted, policy).await.map_err(|no| no.reason())?;
        match (policy.auth_mode, record) {
            (AuthMode::PerDevice, None) => Err(Reason::CertNotRegistered),
            _ => Ok(()),
        }
    }

    /// The CA that the certificate's path ends in. The trust set may have changed since the handshake: before this
    /// connection was in the directory, nobody who looked for those concerned found it.
    fn anchor_now(
        &self,
        accepted: &Accepted,
        certificate: &ClientCertificate,
        registry: &Registry,
    ) -> Result<CertificateFingerprint, No> {
        let anchor = certificate.anchor.certificate_fingerprint;
        match self.anchor_now.get() {
            Some(anchor_now) => {
                anchor_now(accepted.id, &accepted.listener, certificate).map_err(|rejection| match rejection
                    .reason
                {
                    Reason::CertUnknownCa => No::because(Reason::CaInactive),
                    reason => No::because(reason).detail(rejection.detail),
                })
            }
            None if registry.trusts(anchor) => Ok(anchor),
            None => Err(No::because(Reason::CaInactive)),
        }
    }

    /// Whether a record lets its certificate in now: its state, its validity, the CA that its path ends in.
    fn in_force(
        &self,
        record: Arc<DeviceCertificate>,
        anchor: CertificateFingerprint,
        registry: &Registry,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let ca = registry.ca(anchor);
        effective(&record, ca.as_ref(), &registry.policy(), clock::now()).map_err(|reason| {
            let mut no = No::because(reason).about(&record.device_id);
            if reason == Reason::CertPending {
                no.retry_after = Some(self.settings.load().pending_retry_after.max(1));
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
        let flight = registry.flight(id).await;
        // Another connection may have been first.
        let known = registry
            .lookup(id)
            .await
            .map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))?;
        if let Some(record) = known {
            return self.in_force(record, certificate.anchor.certificate_fingerprint, registry);
        }
        let registered = self.register_with(walk, accepted, claimed, certificate, registry, flight).await;
        let outcome = match &registered {
            Ok(_) => ProvisionOutcome::Registered,
            Err(no) => match no.reason() {
                Reason::CertPending => ProvisionOutcome::Pending,
                Reason::ProvisionQuota => ProvisionOutcome::Quota,
                Reason::ProvisionRateLimited => ProvisionOutcome::RateLimited,
                _ if no.unanswered => ProvisionOutcome::Error,
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
        certificate: &Arc<ClientCertificate>,
        registry: &Arc<Registry>,
        flight: Flight,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let (by, decision) = match walk.register(claimed).await {
            Ok(Some(decision)) => decision,
            Ok(None) => return Err(No::because(Reason::CertNotRegistered)),
            Err(Stop::Denied { by, denial }) => {
                let reason = answer::provision_reason(&denial);
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
            .register_jit(
                JitRegistration {
                    accepted: accepted.clone(),
                    certificate: Arc::clone(certificate),
                    registration,
                    hold,
                    by: Arc::clone(&by),
                    verdicts: walk.verdicts.clone(),
                },
                flight,
            )
            .await
            .map_err(|error| {
                let mut no = No::because(error.reason()).detail(error.to_string());
                no.by = Some(by);
                no
            })?;
        self.in_force(record, certificate.anchor.certificate_fingerprint, registry)
    }
}

impl No {
    pub(super) fn because(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }

    /// Nobody who could say yes or no could be asked.
    fn unanswered(reason: Reason, detail: String) -> Self {
        Self { unanswered: true, ..Self::because(reason).detail(detail) }
    }

    pub(super) fn about(mut self, device_id: &str) -> Self {
        self.device_id = Some(device_id.to_owned());
        self
    }

    pub(super) fn detail(mut self, detail: String) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Who said no, and in which words.
    pub(super) fn tell(&self, mut event: AuditEvent) -> AuditEvent {
        if let Some(by) = &self.by {
            event = event.field("refused_by", &**by);
        }
        if let Some(detail) = self.detail.as_deref() {
            event = event.field("detail", detail);
        }
        if let Some(denial) = &self.denial {
            if let Some(detail) = denial.audit_detail.as_deref() {
                event = event.field("plugin.detail", detail);
            }
            event.fields.extend(denial.attributes.iter().cloned().map(facts::plugin_field));
        }
        event
    }

    pub(super) fn reason(&self) -> Reason {
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

/// Asks the authenticators; those of several steps if the client asked for enhanced authentication, and then
/// nobody else.
async fn claimed(walk: &mut Walk<'_>, on: &Connection, asked: &mut Asked<'_>) -> Result<Claimed, No> {
    let Some(method) = on.connect.authentication_method.as_deref() else {
        return Ok(Claimed { identity: walk.authenticate().await?, ..Claimed::default() });
    };
    let (dialogue, again) = match asked {
        Asked::New { dialogue } => (dialogue, false),
        Asked::Again { current, dialogue } => {
            if let (None, Some(proved)) = (&dialogue, &current.proved) {
                // It has been proved, and the client was not told to prove it again.
                let identity = Some(Identity::clone(proved));
                return Ok(Claimed { identity, proved: Some(Arc::clone(proved)), data: None });
            }
            (dialogue, true)
        }
    };
    let proved = match dialogue {
        Some(dialogue) => walk.prove(dialogue, again).await?,
        None => None,
    };
    let Some((identity, data)) = proved else {
        let mut no = No::because(Reason::BadCredentials);
        no.denial = Some(Box::new(Denial {
            reason: ConnackReason::BadAuthenticationMethod, // [MQTT-4.12.0-1]
            client_message: None,
            audit_detail: Some(format!("nobody speaks the authentication method {method:?}")),
            server_reference: None,
            cache: None,
            attributes: Vec::new(),
        }));
        return Err(no);
    };
    let proved = Some(Arc::new(identity.clone()));
    Ok(Claimed { identity: Some(identity), proved, data: data.map(Bytes::from) })
}

/// A certificate bound to a client id may use no other.
fn check_binding(record: Option<&DeviceCertificate>, on: &Connection, asked: &Asked<'_>) -> Result<(), No> {
    let Some(record) = record else { return Ok(()) };
    let Some(bound) = record.client_id.as_deref() else { return Ok(()) };
    let used = match asked {
        Asked::New { .. } => &*on.connect.client_id,
        Asked::Again { current, .. } => &*current.client_id,
    };
    if used == bound || (used.is_empty() && matches!(asked, Asked::New { .. })) {
        return Ok(());
    }
    Err(No::because(Reason::ClientIdMismatch)
        .about(&record.device_id)
        .detail(format!("the certificate is bound to {bound:?}")))
}

/// As sent; else as bound; else as the authorizer says; else drawn.
fn client_id(
    on: &Connection,
    record: Option<&DeviceCertificate>,
    grant: &Grant,
    asked: &Asked<'_>,
) -> (ByteString, bool) {
    if let Asked::Again { current, .. } = asked {
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

pub(super) fn permit(decision: &Decision, accepted: &Accepted, generation: u64) -> Result<Permit, No> {
    let rules = match (&decision.rules, &decision.grant.acl) {
        (Some(rules), _) | (None, Acl::Inline(rules)) => rules.as_slice(),
        (None, Acl::Named(_)) => &[],
    };
    let fingerprint = |certificate: &Arc<ClientCertificate>| -> CertificateFingerprint {
        certificate.leaf.certificate_fingerprint
    };
    let mut permit = Permit::granted_by(&Granted {
        client_id: decision.client_id.clone(),
        assigned: decision.assigned,
        device_id: &decision.identity.device_id,
        tenant: decision.identity.tenant.as_deref(),
        certificate_fingerprint: accepted.certificate.as_ref().map(fingerprint),
        rules,
        otherwise: decision.grant.otherwise,
        limits: decision.grant.limits,
        valid_for: decision.grant.valid_for,
        generation,
    })
    .map_err(|error| {
        let mut no = No::because(Reason::PluginInvalid).about(&decision.identity.device_id);
        no.detail = Some(error.to_string());
        no.unanswered = true;
        no
    })?;
    permit.granted_at = Some(clock::now());
    permit.proved = decision.proved.clone();
    permit.authentication_data = decision.data.clone();
    Ok(permit)
}
