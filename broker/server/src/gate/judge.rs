//! The judgement itself: registry and chains, in their order, up to a decision or a no.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::{Acl, AclRule, ConnackReason, Connection, Denial, Effect, HookSet, Identity};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::effective;
use mqgate_identity::registry::{DeviceCertificate, EventKind};
use mqgate_protocol::permit::{GrantError, Granted, Permit};

use super::{
    Accepted, AuthMode, Dialogue, Gate, GrantedAcl, Granting, ListenerPolicy, RegistrationMode, Terms,
    answer, binding, facts,
};
use crate::chain::{Stop, Walk, failure_reason};
use crate::clock;
use crate::registry::Registry;

/// Everything the chains came to: what a permit is compiled from.
pub(super) struct Decision {
    pub(super) identity: Identity,
    /// Each of them has to allow.
    pub(super) rules: Vec<RuleSet>,
    pub(super) terms: Terms,
    pub(super) client_id: ByteString,
    pub(super) assigned: bool,
    /// Where every device has its own certificate.
    pub(super) record: Option<Arc<DeviceCertificate>>,
    /// The CA that the path of the certificate ends in now.
    pub(super) anchor: Option<CertificateFingerprint>,
    pub(super) proved: Option<Arc<Identity>>,
    pub(super) data: Option<Bytes>,
}

/// The topics of one grant, with the rules in it, whether they were named or brought along.
pub(super) struct RuleSet {
    pub(super) by: Arc<str>,
    pub(super) rules: Vec<AclRule>,
    pub(super) otherwise: Effect,
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
    /// Worth an event about the certificate.
    pub(super) finding: Option<EventKind>,
}

/// Of one CONNECT. Plugins are shown each of them: with a few bytes more a client would use up the computing time of a call,
/// and a plugin that fails for a few clients is not asked about any.
const MOST_USER_PROPERTIES: usize = 1000;

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
        let properties = on.connect.user_properties.len();
        if properties > MOST_USER_PROPERTIES {
            let why = format!("{properties} user properties, more than {MOST_USER_PROPERTIES}");
            return Err(No::because(Reason::QuotaExceeded).detail(why));
        }
        if let Some((name, why)) = hooks.missing.first() {
            let mut no =
                No::because(Reason::PluginUnavailable).detail(format!("required and not live: {why}"));
            no.by = Some(Arc::clone(name));
            no.unanswered = true;
            return Err(no);
        }
        let is_new = matches!(asked, Asked::New { .. });
        let found = self.registered(accepted, policy).await?;
        let mut anchor = found.as_ref().map(|(_, anchor)| *anchor);
        let mut record = match found {
            Some((record, anchor)) => Some(match (&self.registry, policy.auth_mode) {
                (Some(registry), AuthMode::PerDevice) if is_new => {
                    self.let_in(accepted, record, anchor, registry).await?
                }
                (Some(registry), _) => self.in_force(record, anchor, registry)?,
                (None, _) => record,
            }),
            None => None,
        };
        let may_register = policy.auth_mode == AuthMode::PerDevice && is_new;
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            // An unknown certificate and no one who may change that: no plugin is asked.
            let somebody = walk.has_registrar();
            if policy.registration == RegistrationMode::Manual || !somebody || !may_register {
                return Err(No::because(Reason::CertNotRegistered));
            }
        }
        if let Some(record) = &record {
            self.check_binding(accepted, record, on, &asked).await?;
        }

        let Claimed { identity: claimed, proved, data } = claimed(walk, on, &mut asked).await?;
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            let registered = self.register(walk, accepted, on, claimed.as_ref()).await?;
            self.check_binding(accepted, &registered, on, &asked).await?;
            anchor = Some(registered.ca_id);
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
        let Some(Granting { acls, terms }) = granted else {
            return Err(No::because(Reason::AllAbstained).detail("authorizers".into()).about(device_id));
        };
        let rules = self.rule_sets(acls, device_id)?;
        let (client_id, assigned) = binding::client_id(on, record.as_deref(), &terms, &asked);
        self.unbanned(accepted, &client_id, Some(&identity.device_id))?;
        let record = record.filter(|_| policy.auth_mode == AuthMode::PerDevice);
        Ok(Decision { identity, rules, terms, client_id, assigned, record, anchor, proved, data })
    }

    /// The rules that grants bring along or name.
    pub(super) fn rule_sets(&self, acls: Vec<GrantedAcl>, device_id: &str) -> Result<Vec<RuleSet>, No> {
        let settings = self.settings.load();
        let sets = acls.into_iter().map(|GrantedAcl { by, acl, otherwise }| match acl {
            Acl::Inline(rules) => Ok(RuleSet { by, rules, otherwise }),
            Acl::Named(name) => match settings.named_acls.get(&name) {
                Some(rules) => Ok(RuleSet { by, rules: rules.clone(), otherwise }),
                None => {
                    let mut no = No::because(Reason::PluginInvalid)
                        .about(device_id)
                        .detail(format!("its grant names the access list {name:?}, which is not configured"));
                    no.by = Some(by);
                    no.unanswered = true;
                    Err(no)
                }
            },
        });
        sets.collect()
    }

    /// Whether the client may use the client id that it asks for, with this certificate; if not, it is written down.
    async fn check_binding(
        &self,
        accepted: &Accepted,
        record: &DeviceCertificate,
        on: &Connection,
        asked: &Asked<'_>,
    ) -> Result<(), No> {
        let bound = self.binding(record, on, asked).await;
        if let Err(no) = &bound {
            self.note_violation(accepted, record, no);
        }
        bound
    }

    /// The same; looks only.
    pub(super) async fn binding(
        &self,
        record: &DeviceCertificate,
        on: &Connection,
        asked: &Asked<'_>,
    ) -> Result<(), No> {
        binding::check_record(record, on, asked, self.settings.load().on_client_id_mismatch)?;
        match asked {
            Asked::New { .. } => self.is_not_anothers(record, &on.connect.client_id).await,
            Asked::Again { .. } => Ok(()),
        }
    }

    /// The record of the connection's certificate, if it has one, and the CA that its path ends in now. A certificate
    /// that was revoked is refused on every listener, registered devices only or not: see [`Self::in_force`].
    async fn registered(
        &self,
        accepted: &Accepted,
        policy: ListenerPolicy,
    ) -> Result<Option<(Arc<DeviceCertificate>, CertificateFingerprint)>, No> {
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
        Ok(record.map(|record| (record, anchor)))
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
        let found = self.registered(accepted, policy).await.map_err(|no| no.reason())?;
        match (policy.auth_mode, found, &self.registry) {
            (AuthMode::PerDevice, None, _) => Err(Reason::CertNotRegistered),
            (_, Some((record, anchor)), Some(registry)) => {
                self.in_force(record, anchor, registry).map(drop).map_err(|no| no.reason())
            }
            _ => Ok(()),
        }
    }

    /// The CA that the certificate's path ends in. The trust set may have changed since the handshake: before this
    /// connection was in the directory, nobody who looked for those concerned found it.
    pub(super) fn anchor_now(
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
    pub(super) fn in_force(
        &self,
        record: Arc<DeviceCertificate>,
        anchor: CertificateFingerprint,
        registry: &Registry,
    ) -> Result<Arc<DeviceCertificate>, No> {
        if let Some(clock) = self.clock.get() {
            let right = clock.judges_known();
            right.map_err(|wrong| No::unanswered(Reason::ClockInsane, wrong.to_string()))?;
        }
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
}

impl No {
    pub(super) fn because(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }

    /// Nobody who could say yes or no could be asked.
    pub(super) fn unanswered(reason: Reason, detail: String) -> Self {
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
    if let Asked::Again { current, .. } = asked
        && let Some(before) = &current.proved
        && (&before.device_id, &before.tenant) != (&identity.device_id, &identity.tenant)
    {
        // Also where the registry's word about a certificate would hide it.
        return Err(No::because(Reason::NotAuthorized).detail("it proved to be another than before".into()));
    }
    let proved = Some(Arc::new(identity.clone()));
    Ok(Claimed { identity: Some(identity), proved, data: data.map(Bytes::from) })
}

pub(super) fn permit(decision: &Decision, accepted: &Accepted, generation: u64) -> Result<Permit, No> {
    let Some((first, others)) = decision.rules.split_first() else {
        return Err(No::because(Reason::AllAbstained).detail("authorizers".into()));
    };
    let wrong = |by: &Arc<str>, error: GrantError| {
        let mut no = No::because(Reason::PluginInvalid).about(&decision.identity.device_id);
        no.by = Some(Arc::clone(by));
        no.detail = Some(error.to_string());
        no.unanswered = true;
        no
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
        rules: &first.rules,
        otherwise: first.otherwise,
        limits: decision.terms.limits,
        valid_for: decision.terms.valid_for,
        generation,
    })
    .map_err(|error| wrong(&first.by, error))?;
    for set in others {
        permit = permit.narrowed_by(&set.rules, set.otherwise).map_err(|error| wrong(&set.by, error))?;
    }
    permit.granted_at = Some(clock::now());
    permit.proved = decision.proved.clone();
    permit.authentication_data = decision.data.clone();
    Ok(permit)
}
