//! An unknown certificate: what its CA lets in and how fast, what the registrars say of it, and the wait for an
//! operator.

use std::sync::Arc;
use std::time::Instant;

use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::{Connection, Identity, Registration, RegistrationDecision};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::check_auto_registration;
use mqgate_identity::registry::{AutoRegistration, CaCertificate, DeviceCertificate, DeviceState, EventKind};

use super::judge::No;
use super::{Accepted, Gate, GateSettings, answer, binding, facts};
use crate::chain::{Stop, Walk};
use crate::clock;
use crate::metrics::gate::ProvisionOutcome;
use crate::provision::{Held, Reservation, Wait};
use crate::registry::{Flight, JitRegistration, Registry};

/// What is known of one attempt.
struct Attempt<'a> {
    accepted: &'a Accepted,
    on: &'a Connection,
    claimed: Option<&'a Identity>,
    certificate: &'a Arc<ClientCertificate>,
    registry: &'a Arc<Registry>,
    /// Where its path ends now.
    anchor: CertificateFingerprint,
    settings: &'a GateSettings,
}

/// What a registration begins with.
pub(super) struct Start {
    pub(super) ca: CaCertificate,
    /// The most that a registrar can say.
    pub(super) ceiling: AutoRegistration,
    place: Reservation,
}

impl Gate {
    /// Registers an unknown certificate, if everybody who is to be asked says so; gives the record that lets it in.
    pub(super) async fn register(
        &self,
        walk: &mut Walk<'_>,
        accepted: &Accepted,
        on: &Connection,
        claimed: Option<&Identity>,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let (Some(certificate), Some(registry)) = (&accepted.certificate, &self.registry) else {
            return Err(No::because(Reason::CertNotRegistered));
        };
        let started = Instant::now();
        let anchor = self.anchor_now(accepted, certificate, registry)?;
        let id = certificate.leaf.certificate_fingerprint;
        let flight = registry.flight(id).await;
        // Another connection may have been first.
        let known = registry
            .lookup(id)
            .await
            .map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))?;
        if let Some(record) = known {
            drop(flight);
            return self.let_in(accepted, record, anchor, registry).await;
        }
        let settings = self.settings.load_full();
        let attempt = Attempt { accepted, on, claimed, certificate, registry, anchor, settings: &settings };
        let registered = self.register_alone(walk, &attempt, flight).await;
        let outcome = match &registered {
            Ok(record) if record.state == DeviceState::PendingActivation => ProvisionOutcome::Pending,
            Ok(_) => ProvisionOutcome::Registered,
            Err(no) => match no.reason() {
                Reason::ProvisionQuota => ProvisionOutcome::Quota,
                Reason::ProvisionRateLimited => ProvisionOutcome::RateLimited,
                _ if no.unanswered => ProvisionOutcome::Error,
                _ => ProvisionOutcome::Denied,
            },
        };
        let ca: &str = &certificate.anchor.name;
        self.metrics.provision_attempts.with_label_values(&[ca, outcome.as_str()]).inc();
        self.metrics.provision_duration.with_label_values(&[ca]).observe(started.elapsed().as_secs_f64());
        match registered {
            Ok(record) => {
                self.provision.accepted(&id);
                if record.state == DeviceState::PendingActivation {
                    // The registration is the first event of the minute.
                    let _ = self.findings.attempted(id, EventKind::CertPending);
                }
                self.let_in(accepted, record, anchor, registry).await
            }
            Err(no) => {
                if outcome == ProvisionOutcome::Denied || outcome == ProvisionOutcome::Quota {
                    let detail = no.detail.as_deref().or_else(|| no.denial.as_ref()?.audit_detail.as_deref());
                    let why = (no.by.as_deref(), detail);
                    self.provision.rejected(&settings.provision, accepted, no.reason(), why, clock::now());
                }
                Err(no)
            }
        }
    }

    /// The only one in flight about this certificate, which the registry does not know. What costs nothing is asked
    /// first, the registrars last: nothing that was refused is written.
    async fn register_alone(
        &self,
        walk: &mut Walk<'_>,
        attempt: &Attempt<'_>,
        flight: Flight,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let Attempt { accepted, certificate, registry, anchor, settings, .. } = *attempt;
        let Start { ca, ceiling, place } = self.may_register(certificate, registry, anchor, settings).await?;
        self.provision.take(&settings.provision, &ca, accepted.peer.address).map_err(held)?;

        let (by, decision) = match walk.register(attempt.claimed, ca.settings.registrar.as_deref()).await {
            Ok(Some(decision)) => decision,
            Ok(None) => return Err(No::because(Reason::CertNotRegistered)),
            Err(Stop::Denied { by, denial }) => {
                let reason = answer::provision_reason(&denial);
                return Err(No { reason: Some(reason), denial: Some(denial), by: Some(by), ..No::default() });
            }
            Err(stop) => return Err(stop.into()),
        };
        let (mut registration, asked_to_hold) = match decision {
            RegistrationDecision::Register(registration) => (registration, false),
            RegistrationDecision::Hold(registration) => (registration, true),
            // `Walk::register` has turned these into other answers.
            RegistrationDecision::Deny(_) | RegistrationDecision::Abstain => {
                return Err(No::because(Reason::CertNotRegistered));
            }
        };
        // A registrar narrows what the CA lets in; it does not widen it.
        let hold = asked_to_hold || ceiling == AutoRegistration::Pending;
        if hold && ceiling != AutoRegistration::Pending {
            self.fits(registry, settings, &ca, &place, true).await?;
        }
        let client_id = self.bound_at_registration(attempt, &ca, &mut registration, &by).await?;
        let registered = registry
            .register_jit(
                JitRegistration {
                    accepted: accepted.clone(),
                    certificate: Arc::clone(certificate),
                    anchor,
                    registration,
                    client_id,
                    hold,
                    by: Arc::clone(&by),
                    verdicts: walk.verdicts.clone(),
                    rotation: settings.rotation,
                    pending_ttl: settings.pending_ttl,
                },
                flight,
            )
            .await;
        drop(place);
        registered.map_err(|error| {
            let mut no = No::because(error.reason()).detail(error.to_string());
            no.unanswered = error.is_temporary();
            no.by = Some(by);
            no
        })
    }

    /// Whether an unknown certificate of this CA may be registered now, but for the rates, which are taken from when it
    /// is. Looks only.
    pub(super) async fn may_register(
        &self,
        certificate: &ClientCertificate,
        registry: &Registry,
        anchor: CertificateFingerprint,
        settings: &GateSettings,
    ) -> Result<Start, No> {
        if let Some(clock) = self.clock.get() {
            let right = clock.judges_unknown();
            right.map_err(|wrong| No::unanswered(Reason::ClockInsane, wrong.to_string()))?;
        }
        let Some(ca) = registry.ca(anchor) else { return Err(No::because(Reason::CaInactive)) };
        if registry.is_retiring(anchor) {
            let detail = "the CA is being replaced, and registers nobody any more".to_owned();
            return Err(No::because(Reason::CaInactive).detail(detail));
        }
        // How many there are is asked below, where of two at once neither overlooks the other.
        let ceiling = check_auto_registration(&ca, &certificate.leaf, 0)
            .map_err(|error| No::because(error.reason()).detail(error.to_string()))?;
        let place = self.provision.reserve(anchor);
        self.fits(registry, settings, &ca, &place, ceiling == AutoRegistration::Pending).await?;
        Ok(Start { ca, ceiling, place })
    }

    /// Whether the CA, and those who wait for an operator, have room for one more.
    async fn fits(
        &self,
        registry: &Registry,
        settings: &GateSettings,
        ca: &CaCertificate,
        place: &Reservation,
        pending: bool,
    ) -> Result<(), No> {
        let settings = &settings.provision;
        let is_limited = ca.settings.max_device_certs.or(settings.max_device_certs).is_some();
        let may_be_refused = is_limited || (pending && settings.max_pending.is_some());
        if !may_be_refused {
            return Ok(());
        }
        let counts = registry
            .counts()
            .map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))?;
        let (mut registered, mut waiting) = (0_u64, 0_u64);
        for ((of, state), count) in counts {
            let counted = match state {
                DeviceState::PendingActivation => {
                    waiting = waiting.saturating_add(count);
                    true
                }
                DeviceState::Active | DeviceState::Inactive => true,
                DeviceState::Revoked | DeviceState::Tombstone => false,
            };
            if counted && of == ca.id {
                registered = registered.saturating_add(count);
            }
        }
        // Who is not to wait takes no place of those who do.
        let waiting = if pending { waiting } else { 0 };
        self.provision.fits(settings, ca, place, registered, waiting).map_err(held)
    }

    /// The client id that a certificate is bound to from its registration on. Nothing is written of a client that
    /// would be refused for it.
    async fn bound_at_registration(
        &self,
        attempt: &Attempt<'_>,
        ca: &CaCertificate,
        registration: &mut Registration,
        by: &Arc<str>,
    ) -> Result<Option<String>, No> {
        let Attempt { accepted, on, certificate, registry, settings, .. } = *attempt;
        let asked = &on.connect.client_id;
        let bound = binding::at_registration(settings.bind_client_id, certificate, asked, registration);
        let device_id = &registration.identity.device_id;
        let bound = bound.map_err(|detail| {
            let mut no = No::because(Reason::ProvisionDenied).detail(detail);
            no.by = Some(Arc::clone(by));
            no.about(device_id)
        })?;
        let Some(bound) = bound else { return Ok(None) };
        binding::check(&bound, asked, settings.on_client_id_mismatch).map_err(|no| no.about(device_id))?;
        let owner = registry
            .bound_to(&bound, &ca.trust_domain, device_id)
            .await
            .map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))?;
        match owner {
            None => Ok(Some(bound)),
            Some(owner) => {
                let no = binding::is_anothers(&bound, &owner).about(device_id);
                self.note_violation(accepted, &owner, &no);
                Err(no)
            }
        }
    }

    /// As [`Self::in_force`]; where the certificate waits for an operator, its client waits with it for a while.
    pub(super) async fn let_in(
        &self,
        accepted: &Accepted,
        record: Arc<DeviceCertificate>,
        anchor: CertificateFingerprint,
        registry: &Arc<Registry>,
    ) -> Result<Arc<DeviceCertificate>, No> {
        let id = record.id;
        let no = match self.in_force(Arc::clone(&record), anchor, registry) {
            Err(no) if no.reason() == Reason::CertPending => no,
            Err(no) => {
                if no.reason() == Reason::CertSuperseded && record.state == DeviceState::Active {
                    registry.over(id);
                }
                return Err(no);
            }
            settled => return settled,
        };
        if let Some(attempts) = self.findings.attempted(id, EventKind::CertPending) {
            let mut context = facts::event_context(accepted);
            context.attempts = Some(attempts);
            registry.tell_later(EventKind::CertPending, &record, context);
        }
        let settings = self.settings.load_full();
        let Some(waiting) = self.provision.park(&settings.provision, &accepted.listener, id) else {
            return Err(no);
        };
        loop {
            let changed = waiting.listen();
            let found = match registry.lookup(id).await {
                Ok(Some(record)) => self.in_force(record, anchor, registry),
                // It was forgotten.
                Ok(None) => Err(No::because(Reason::CertNotRegistered)),
                Err(error) => Err(No::unanswered(Reason::RegistryUnavailable, error.to_string())),
            };
            match found {
                Err(no) if no.reason() == Reason::CertPending => {}
                Ok(record) => {
                    waiting.ended(Wait::Activated);
                    return Ok(record);
                }
                Err(no) => {
                    waiting.ended(Wait::Refused);
                    return Err(no);
                }
            }
            if !waiting.has_changed(changed).await {
                waiting.ended(Wait::Timeout);
                return Err(no);
            }
        }
    }
}

fn held(held: Held) -> No {
    let mut no = No::because(held.reason()).detail(held.to_string());
    no.retry_after = held.retry_after();
    no
}
