//! What would happen to a client: the path of a CONNECT through the gate, walked for an operator and told step by
//! step.
//!
//! It asks the same hooks about the same facts, and changes nothing: no registration, no audit record, no metric,
//! no memory of having been here. What it says holds for the moment in which it was asked.

use std::sync::Arc;
use std::time::Instant;

use mqgate_codec::{Connect, ConnectReturnCode};
use mqgate_identity::audit::PluginVerdict;
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::{Connection, HookSet, Identity, Occasion, Registration, RegistrationDecision};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{AutoRegistration, CaCertificate, DeviceCertificate};
use mqgate_protocol::permit::Permit;

use super::judge::{Asked, Decision, No, permit};
use super::register::Start;
use super::{
    Accepted, AuthMode, Gate, Granting, ListenerPolicy, Refusal, RegistrationMode, answer, binding, facts,
};
use crate::chain::{Stop, Walk};
use crate::registry::{JitRegistration, Registry};

/// One step of the path, as it went.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Step {
    pub step: &'static str,
    pub outcome: StepOutcome,
    /// Why it refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    pub detail: String,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microseconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    Passed,
    Failed,
    /// There was nothing to ask.
    Skipped,
    /// It cannot be known from here.
    Open,
}

/// The whole path.
#[derive(Debug)]
pub struct Explanation {
    pub steps: Vec<Step>,
    /// What the plugins said, in the order in which they were asked.
    pub verdicts: Vec<PluginVerdict>,
    /// Who it would be, as far as that became known.
    pub identity: Option<Identity>,
    /// The record of its certificate; one that would be written has revision 1 and is in no registry.
    pub record: Option<DeviceCertificate>,
    pub grant: Option<Granting>,
    pub outcome: Result<Box<Permit>, Refused>,
}

/// Why it would not get in, and what it would hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    pub detail: Option<String>,
    /// The plugin that said no.
    pub by: Option<Arc<str>>,
    pub answer: Refusal,
}

impl Refused {
    /// What CONNACK says in MQTT 3.1.1; `None`: the connection is closed without one.
    pub fn return_code(&self) -> Option<u8> {
        ConnectReturnCode::for_reason(self.answer.code).map(|code| code as u8)
    }
}

/// The steps so far.
#[derive(Default)]
struct Told {
    steps: Vec<Step>,
    identity: Option<Identity>,
    record: Option<DeviceCertificate>,
    grant: Option<Granting>,
}

impl Told {
    fn passed(&mut self, step: &'static str, since: Option<Instant>, detail: impl Into<String>) {
        self.note(step, StepOutcome::Passed, None, detail.into(), since);
    }

    fn skipped(&mut self, step: &'static str, detail: impl Into<String>) {
        self.note(step, StepOutcome::Skipped, None, detail.into(), None);
    }

    /// A no is a failed step, and the last one.
    fn failed(&mut self, step: &'static str, since: Option<Instant>, no: No) -> No {
        let denied = no.denial.as_ref().and_then(|denial| denial.audit_detail.clone());
        let by = no.by.as_ref().map(ToString::to_string);
        let detail: Vec<String> = [by, no.detail.clone(), denied].into_iter().flatten().collect();
        self.note(step, StepOutcome::Failed, Some(no.reason().as_str()), detail.join(": "), since);
        no
    }

    fn note(
        &mut self,
        step: &'static str,
        outcome: StepOutcome,
        reason: Option<&'static str>,
        detail: String,
        since: Option<Instant>,
    ) {
        let took = |since: Instant| u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.steps.push(Step { step, outcome, reason, detail, microseconds: since.map(took) });
    }
}

impl Gate {
    /// Says what would happen to this client if it came now.
    pub async fn explain(&self, accepted: &Accepted, connect: &Connect) -> Explanation {
        let hooks = self.hooks.load_full();
        let on = Connection { occasion: Occasion::Explanation, ..facts::connection(accepted, connect) };
        let on = Arc::new(on);
        let mut walk = Walk::new(&hooks, self.chain(accepted), &on);
        let mut told = Told::default();
        let outcome = self.tell(&mut told, &mut walk, accepted, &on, &hooks).await;
        let outcome = outcome.map(Box::new).map_err(|no| Refused {
            reason: no.reason(),
            answer: self.answer(&no, self.policy(accepted).unwrap_or_default()),
            detail: no.detail,
            by: no.by,
        });
        let Told { steps, identity, record, grant } = told;
        Explanation { steps, verdicts: walk.verdicts, identity, record, grant, outcome }
    }

    /// In the order of [`Gate::judge`].
    async fn tell(
        &self,
        told: &mut Told,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        on: &Arc<Connection>,
        hooks: &HookSet,
    ) -> Result<Permit, No> {
        let Some(policy) = self.policy(accepted) else {
            let no = No::because(Reason::Other).detail("the listener has no policy".into());
            return Err(told.failed("listener", None, no));
        };
        self.unbanned(accepted, &on.connect.client_id, None).map_err(|no| told.failed("bans", None, no))?;
        told.passed("bans", None, "neither address, client id nor certificate is banned");
        if let Some((name, why)) = hooks.missing.first() {
            let mut no = No::unanswered(
                Reason::PluginUnavailable,
                format!("it is required and not live: {why}; `mqgate plugin list` shows it"),
            );
            no.by = Some(Arc::clone(name));
            return Err(told.failed("plugins", None, no));
        }
        let (record, anchor) = self.look_up(told, accepted, policy).await?;
        if policy.auth_mode == AuthMode::PerDevice && record.is_none() {
            let somebody = walk.has_registrar();
            let why = match (policy.registration, somebody) {
                (RegistrationMode::Manual, _) => {
                    Some("registration is manual here: `mqgate cert register FILE` first")
                }
                (RegistrationMode::Auto, false) => Some(
                    "no plugin of the chain registers devices: `mqgate cert register FILE`, or load one that does",
                ),
                (RegistrationMode::Auto, true) => None,
            };
            if let Some(why) = why {
                let no = No::because(Reason::CertNotRegistered).detail(why.into());
                return Err(told.failed("registration", None, no));
            }
        }
        self.bound(told, record.as_ref(), on).await?;

        let since = Instant::now();
        let claimed = walk.authenticate().await;
        let claimed = claimed.map_err(|stop| told.failed("authenticators", Some(since), stop.into()))?;
        match &claimed {
            Some(identity) => {
                told.passed("authenticators", Some(since), format!("device \"{}\"", identity.device_id));
            }
            None => told.skipped("authenticators", "nobody has an opinion"),
        }
        let record = match record {
            None if policy.auth_mode == AuthMode::PerDevice => {
                let new = self.would_register(told, walk, (accepted, on, anchor), claimed.as_ref()).await?;
                self.bound(told, Some(&new), on).await?;
                Some(new)
            }
            known => known,
        };
        told.record.clone_from(&record);
        let identity = match (claimed, record.as_ref()) {
            (Some(claimed), Some(record)) => Identity {
                device_id: record.device_id.clone(),
                tenant: record.tenant.clone().or(claimed.tenant),
                ..claimed
            },
            (Some(claimed), None) => claimed,
            (None, Some(record)) if policy.auth_mode == AuthMode::PerDevice => facts::identity(record),
            (None, _) => {
                let no = No::because(Reason::AllAbstained).detail("no authenticator says who it is".into());
                return Err(told.failed("identity", None, no));
            }
        };
        told.passed("identity", None, format!("device \"{}\"", identity.device_id));
        told.identity = Some(identity.clone());
        self.grant(told, walk, accepted, on, hooks, (identity, record, anchor)).await
    }

    /// What the registry has of the certificate. Read past the cache: this is not a use of it.
    async fn look_up(
        &self,
        told: &mut Told,
        accepted: &Accepted,
        policy: ListenerPolicy,
    ) -> Result<(Option<DeviceCertificate>, Option<CertificateFingerprint>), No> {
        let Some(certificate) = &accepted.certificate else {
            return match policy.auth_mode {
                AuthMode::OneWay | AuthMode::Mutual if !policy.needs_certificate => {
                    told.skipped("registry", "there is no certificate");
                    Ok((None, None))
                }
                _ => Err(told.failed("certificate", None, No::because(Reason::TlsNoPeerCert))),
            };
        };
        let Some(registry) = &self.registry else {
            return match policy.auth_mode {
                AuthMode::PerDevice => {
                    let no = No::unanswered(Reason::RegistryUnavailable, "there is no registry".into());
                    Err(told.failed("registry", None, no))
                }
                AuthMode::OneWay | AuthMode::Mutual => Ok((None, None)),
            };
        };
        let since = Some(Instant::now());
        let anchor = self.anchor_now(accepted, certificate, registry);
        let anchor = anchor.map_err(|no| told.failed("ca", since, no))?;
        told.passed("ca", since, format!("\"{}\" is trusted here", certificate.anchor.name));
        let since = Some(Instant::now());
        let found = registry.device(certificate.leaf.certificate_fingerprint).await;
        let record = found.map_err(|error| {
            told.failed("registry", since, No::unanswered(Reason::RegistryUnavailable, error.to_string()))
        })?;
        let Some(record) = record else {
            told.passed("registry", since, "does not know the certificate");
            return Ok((None, Some(anchor)));
        };
        let what = format!("device \"{}\", revision {}", record.device_id, record.revision);
        told.record = Some(record.clone());
        match self.in_force(Arc::new(record), anchor, registry) {
            Ok(record) => {
                told.passed("registry", since, what);
                Ok((Some(DeviceCertificate::clone(&record)), Some(anchor)))
            }
            Err(no) => {
                let detail = match no.detail.clone() {
                    Some(detail) => format!("{what}: {detail}"),
                    None => what,
                };
                Err(told.failed("registry", since, no.detail(detail)))
            }
        }
    }

    async fn bound(
        &self,
        told: &mut Told,
        record: Option<&DeviceCertificate>,
        on: &Connection,
    ) -> Result<(), No> {
        let Some(record) = record else { return Ok(()) };
        let asked = Asked::New { dialogue: None };
        self.binding(record, on, &asked).await.map_err(|no| told.failed("binding", None, no))?;
        match &record.client_id {
            Some(bound) => told.passed("binding", None, format!("bound to client id \"{bound}\"")),
            None => told.passed("binding", None, "bound to no client id"),
        }
        Ok(())
    }

    /// Asks the CA's rules and the registrars, and the rules of the registry what would become of their answer.
    async fn would_register(
        &self,
        told: &mut Told,
        walk: &mut Walk<'_>,
        (accepted, on, anchor): (&Accepted, &Connection, Option<CertificateFingerprint>),
        claimed: Option<&Identity>,
    ) -> Result<DeviceCertificate, No> {
        let (Some(certificate), Some(registry), Some(anchor)) =
            (&accepted.certificate, &self.registry, anchor)
        else {
            return Err(told.failed("registration", None, No::because(Reason::CertNotRegistered)));
        };
        let settings = self.settings.load_full();
        let since = Some(Instant::now());
        let start = self.may_register(certificate, registry, anchor, &settings).await;
        let Start { ca, ceiling, .. } = start.map_err(|no| told.failed("ca_rules", since, no))?;
        let waits = match ceiling {
            AutoRegistration::Pending => ", and has them wait for an operator",
            AutoRegistration::Off | AutoRegistration::Active => "",
        };
        told.passed(
            "ca_rules",
            since,
            format!("CA \"{}\" lets its devices register themselves{waits}", ca.name),
        );
        let rates = "a token of the registration rates is taken when it comes, and none by asking";
        told.note("rates", StepOutcome::Open, None, rates.to_owned(), None);

        let since = Some(Instant::now());
        let answer = walk.register(claimed, ca.settings.registrar.as_deref()).await;
        let (by, decision) = match answer {
            Ok(Some(decision)) => decision,
            Ok(None) => {
                let no = No::because(Reason::CertNotRegistered).detail("no registrar has an opinion".into());
                return Err(told.failed("registration", since, no));
            }
            Err(Stop::Denied { by, denial }) => {
                let reason = answer::provision_reason(&denial);
                let no = No { reason: Some(reason), denial: Some(denial), by: Some(by), ..No::default() };
                return Err(told.failed("registration", since, no));
            }
            Err(stop) => return Err(told.failed("registration", since, stop.into())),
        };
        let (mut registration, asked_to_hold) = match decision {
            RegistrationDecision::Register(registration) => (registration, false),
            RegistrationDecision::Hold(registration) => (registration, true),
            // `Walk::register` has turned these into other answers.
            RegistrationDecision::Deny(_) | RegistrationDecision::Abstain => {
                return Err(told.failed("registration", since, No::because(Reason::CertNotRegistered)));
            }
        };
        let bound = self.would_bind(&mut registration, certificate, on, registry, &ca).await;
        let client_id = bound.map_err(|no| told.failed("registration", since, no))?;
        let jit = JitRegistration {
            accepted: accepted.clone(),
            certificate: Arc::clone(certificate),
            anchor,
            registration,
            client_id,
            hold: asked_to_hold || ceiling == AutoRegistration::Pending,
            by: Arc::clone(&by),
            verdicts: Vec::new(),
            rotation: settings.rotation,
            pending_ttl: settings.pending_ttl,
        };
        let new = registry.preview_jit(&jit).await.map_err(|error| {
            let mut no = No::because(error.reason()).detail(error.to_string());
            no.by = Some(Arc::clone(&by));
            told.failed("registration", since, no)
        })?;
        let what = format!("{by} registers it for device \"{}\"", new.device_id);
        self.allowed(told, since, new, what, (anchor, registry))
    }

    /// The client id that the new certificate would be bound to.
    async fn would_bind(
        &self,
        registration: &mut Registration,
        certificate: &ClientCertificate,
        on: &Connection,
        registry: &Registry,
        ca: &CaCertificate,
    ) -> Result<Option<String>, No> {
        let settings = self.settings.load_full();
        let asked = &on.connect.client_id;
        let bound = binding::at_registration(settings.bind_client_id, certificate, asked, registration);
        let Some(bound) = bound.map_err(|detail| No::because(Reason::ProvisionDenied).detail(detail))? else {
            return Ok(None);
        };
        binding::check(&bound, asked, settings.on_client_id_mismatch)?;
        let owner = registry.bound_to(&bound, &ca.trust_domain, &registration.identity.device_id).await;
        match owner.map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))? {
            None => Ok(Some(bound)),
            Some(owner) => Err(binding::is_anothers(&bound, &owner)),
        }
    }

    /// Whether the record that would be written lets its certificate in.
    fn allowed(
        &self,
        told: &mut Told,
        since: Option<Instant>,
        new: DeviceCertificate,
        what: String,
        (anchor, registry): (CertificateFingerprint, &Registry),
    ) -> Result<DeviceCertificate, No> {
        told.record = Some(new.clone());
        match self.in_force(Arc::new(new), anchor, registry) {
            Ok(record) => {
                told.passed("registration", since, what);
                Ok(DeviceCertificate::clone(&record))
            }
            Err(no) => {
                let detail = match no.reason() {
                    Reason::CertPending => format!("{what}, to be approved: `mqgate cert pending approve`"),
                    _ => what,
                };
                Err(told.failed("registration", since, no.detail(detail)))
            }
        }
    }

    /// Asks the authorizers, and compiles what they grant.
    async fn grant(
        &self,
        told: &mut Told,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        on: &Connection,
        hooks: &HookSet,
        (identity, record, anchor): (Identity, Option<DeviceCertificate>, Option<CertificateFingerprint>),
    ) -> Result<Permit, No> {
        let since = Some(Instant::now());
        let device_id = identity.device_id.clone();
        let granted = walk.authorize(&identity).await;
        let granted = granted.map_err(|stop| told.failed("authorizers", since, stop.into()))?;
        let Some(granting) = granted else {
            let no = No::because(Reason::AllAbstained).detail("no authorizer has an opinion".into());
            return Err(told.failed("authorizers", since, no.about(&device_id)));
        };
        told.grant = Some(granting.clone());
        let by = granting.names();
        let Granting { acls, terms } = granting;
        let what = match acls.len() {
            1 => format!("{by} allows it"),
            _ => format!("{by} allow it; what each of them allows holds"),
        };
        let rules = self.rule_sets(acls, &device_id);
        let rules = rules.map_err(|no| told.failed("authorizers", since, no))?;
        told.passed("authorizers", since, what);
        let asked = Asked::New { dialogue: None };
        let (client_id, assigned) = binding::client_id(on, record.as_ref(), &terms, &asked);
        self.unbanned(accepted, &client_id, Some(&device_id)).map_err(|no| told.failed("bans", None, no))?;
        let record = record.map(Arc::new);
        let decision = Decision {
            identity,
            rules,
            terms,
            client_id,
            assigned,
            record,
            anchor,
            proved: None,
            data: None,
        };
        let permit = permit(&decision, accepted, hooks.generation);
        let permit = permit.map_err(|no| told.failed("permit", None, no))?;
        let drawn = if permit.assigned { ", assigned by the broker" } else { "" };
        told.passed("permit", None, format!("client id \"{}\"{drawn}", permit.client_id));
        Ok(permit)
    }
}
