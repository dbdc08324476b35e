//! Looks that change nothing: what a registration at a first connection would come to, and who would have another path
//! without a CA.

use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::evaluation::{Anchor, TrustAnchors, evaluate_facts};
use mqgate_identity::hooks::ConflictPolicy;
use mqgate_identity::registry::DeviceCertificate;
use mqgate_identity::registry::rules::{KnownDevices, register_new};

use super::devices::Look;
use super::jit::JitRegistration;
use super::rotation::surplus;
use super::{Registry, RegistryError};
use crate::clock;

impl Registry {
    /// The record that a registration would write, or the one that is there.
    pub(crate) async fn preview_jit(
        &self,
        jit: &JitRegistration,
    ) -> Result<DeviceCertificate, RegistryError> {
        let new = jit.new_device();
        let look = Look::new(&new);
        let (known, others) = self.blocking(move |storage| look.known_and_in_use(storage)).await?;
        if jit.registration.on_conflict == ConflictPolicy::Refuse && !others.is_empty() {
            return Err(RegistryError::DeviceExists(new.device_id));
        }
        let ca = self.ca(new.ca_id);
        let about_it = KnownDevices {
            existing: known.existing.as_ref(),
            ca: ca.as_ref(),
            same_key: &known.same_key,
            same_serial: known.same_serial,
        };
        let record = register_new(new, &about_it, clock::now())?.record().clone();
        let same_device: Vec<_> = others.into_iter().filter(|other| other.is_same_device(&record)).collect();
        if jit.registration.on_conflict != ConflictPolicy::ReplaceCertificates {
            surplus(&record, &same_device, jit.rotation)?;
        }
        Ok(record)
    }

    /// Every CA that is trusted, but one.
    pub(crate) fn anchors_without(&self, ca: CertificateFingerprint) -> TrustAnchors {
        let trust = self.trust.current();
        let others = trust.anchors.iter().filter(|(_, facts)| facts.certificate_fingerprint != ca);
        let others = others.map(|(name, facts)| Anchor { name: name.clone(), der: facts.der.clone() });
        // Each was read when it came.
        TrustAnchors::new(others.collect()).unwrap_or_default()
    }

    /// Whether a path of the certificate ends in one of these.
    pub(crate) fn leads_to(&self, certificate: &ClientCertificate, anchors: &TrustAnchors) -> bool {
        let (policy, now) = (self.policy(), clock::now().seconds());
        evaluate_facts(&certificate.leaf, &certificate.intermediates, anchors, &policy, now).is_ok()
    }
}
