//! The facts that checks look at: from CAs, revocation lists and connections at once, from the registry page by page.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::evaluation::{RevocationList, RevocationLists};
use mqgate_identity::posture::{
    CaFacts, CaSource, Compared, Comparison, ConnectionFacts, ConnectionsSeen, CrlFacts, DeviceFacts, Facts,
    Finding, Thresholds, judge_device,
};
use mqgate_identity::registry::{
    AutoRegistration, CaCertificate, CaState, DeviceCertificate, DeviceState, StorageError,
};
use mqgate_identity::time::UnixMillis;

use super::book::Collected;
use super::{Posture, PostureSettings};
use crate::clock;
use crate::directory::Mark;
use crate::registry::{Registry, RegistryError};
use crate::trust::TrustSet;

/// Records read in one go.
const PAGE: usize = 500;
/// Connections looked at before others get a turn.
const TURN: usize = 4096;
/// The longest pause between two pages.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pauses are this many times as long as the work before them.
const PAUSES: u32 = 9;

/// How fast the registry is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// With pauses: a tenth of one core.
    Gentle,
    Fast,
}

/// How far a walk through the registry got.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walk {
    pub(super) records: u64,
    pub(super) complete: bool,
}

impl Posture {
    pub(super) async fn facts(&self) -> Facts {
        let mut facts = (self.parts.known)();
        let trust = self.parts.trust.current();
        facts.crls = crls(&trust);
        facts.connections = self.connections().await;
        let counts = self.active_devices().await;
        let registry = &self.parts.registry;
        let cas = registry.cas();
        if !cas.is_empty() && cas.iter().all(narrows) {
            facts.registrars.iter_mut().for_each(|registrar| registrar.has_pattern = true);
        }
        for ca in cas {
            let Some((_, known)) =
                trust.anchors.iter().find(|(_, facts)| facts.certificate_fingerprint == ca.id)
            else {
                continue;
            };
            let lists = trust.anchors.lists();
            facts.cas.push(CaFacts {
                source: match ca.revision {
                    _ if ca.state == CaState::Retiring || registry.is_retiring(ca.id) => CaSource::Transition,
                    0 => CaSource::Configuration,
                    _ => CaSource::Registry,
                },
                lints: registry.lint_ca(&ca),
                active_devices: counts.get(&ca.id).copied().unwrap_or(0),
                connections: self.parts.broker.connections().find(Mark::Anchor(ca.id)).len() as u64,
                has_list: lists.iter().any(|list| list.is_named_after(known)),
                revoked_by: lists
                    .iter()
                    .find(|list| {
                        list.issuer_raw() == known.issuer.raw && list.reason_of(&known.serial).is_some()
                    })
                    .map(|list| list.issuer().to_owned()),
                facts: known.clone(),
                name: ca.name,
            });
        }
        facts
    }

    async fn active_devices(&self) -> HashMap<CertificateFingerprint, u64> {
        let storage = Arc::clone(&self.parts.storage);
        let counts = super::blocking(move || storage.device_certificate_counts()).await.unwrap_or_default();
        let active = counts.into_iter().filter(|((_, state), _)| *state == DeviceState::Active);
        active.map(|((ca, _), count)| (ca, count)).collect()
    }

    async fn connections(&self) -> ConnectionsSeen {
        let mut seen = ConnectionsSeen::default();
        for (number, handle) in self.parts.broker.connections().list().into_iter().enumerate() {
            if number % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            // One that was not admitted yet has nothing in common with anybody.
            if handle.admitted().is_none() {
                continue;
            }
            seen.add(ConnectionFacts {
                certificate: handle.certificate_fingerprint,
                address: handle.peer_address,
                client_id: handle.client_id(),
                device_id: handle.device_id(),
            });
        }
        seen
    }

    /// Looks at every record of the registry, twice: what they have in common is known only when all were seen.
    pub(super) async fn walk(
        &self,
        settings: &PostureSettings,
        pace: Pace,
        now: UnixMillis,
        found: &mut Collected,
    ) -> Walk {
        match self.walk_through(settings.thresholds, pace, now, found).await {
            Ok(records) => Walk { records, complete: true },
            Err(error) => {
                tracing::error!(%error, "posture checks do not get through the registry");
                Walk::default()
            }
        }
    }

    async fn walk_through(
        &self,
        thresholds: Thresholds,
        pace: Pace,
        now: UnixMillis,
        found: &mut Collected,
    ) -> Result<u64, RegistryError> {
        let mut comparison = Comparison::default();
        let mut pages = Pages::new(pace);
        while let Some(page) = pages.next(&self.parts.registry).await? {
            page.iter().for_each(|record| comparison.add(record));
        }
        let compared = Arc::new(comparison.finish());
        if compared.is_partial {
            tracing::warn!(
                "the registry is too large to compare all keys and serial numbers with each other"
            );
        }
        let (mut pages, mut records) = (Pages::new(pace), 0);
        while let Some(page) = pages.next(&self.parts.registry).await? {
            records += page.len() as u64;
            let trust = self.parts.trust.current();
            let connections = self.parts.broker.connections();
            let connections: Vec<usize> =
                page.iter().map(|record| connections.find(Mark::Certificate(record.id)).len()).collect();
            let compared = Arc::clone(&compared);
            let judged = tokio::task::spawn_blocking(move || {
                judge_page(&page, &connections, &trust, &compared, &thresholds, now)
            });
            let judged = judged.await.map_err(|error| StorageError::Unavailable(error.to_string()))?;
            judged.into_iter().for_each(|finding| found.add(finding));
        }
        Ok(records)
    }
}

/// The registry, page by page.
struct Pages {
    pace: Pace,
    after: Option<CertificateFingerprint>,
    since: Option<Instant>,
    is_over: bool,
}

impl Pages {
    fn new(pace: Pace) -> Self {
        Self { pace, after: None, since: None, is_over: false }
    }

    async fn next(&mut self, registry: &Registry) -> Result<Option<Vec<DeviceCertificate>>, RegistryError> {
        if self.is_over {
            return Ok(None);
        }
        match (self.since, self.pace) {
            (None, _) => {}
            (Some(_), Pace::Fast) => tokio::task::yield_now().await,
            (Some(since), Pace::Gentle) => {
                tokio::time::sleep((since.elapsed() * PAUSES).min(LONGEST_PAUSE)).await;
            }
        }
        self.since = Some(Instant::now());
        let page = registry.devices(self.after, PAGE).await?;
        self.is_over = page.len() < PAGE;
        self.after = page.last().map(|record| record.id);
        Ok((!page.is_empty()).then_some(page))
    }
}

fn judge_page(
    page: &[DeviceCertificate],
    connections: &[usize],
    trust: &TrustSet,
    compared: &Compared,
    thresholds: &Thresholds,
    now: UnixMillis,
) -> Vec<Finding> {
    let by_issuer = lists_by_issuer(trust.anchors.lists());
    let mut found = Vec::new();
    for (record, connections) in page.iter().zip(connections) {
        let serial = hex::decode(&record.serial).unwrap_or_default();
        let lists = by_issuer.get(record.issuer.as_str()).map(Vec::as_slice).unwrap_or_default();
        let list = lists.iter().find(|list| list.reason_of(&serial).is_some());
        let device =
            DeviceFacts { record, connections: *connections, revoked_by: list.map(|list| list.issuer()) };
        found.extend(judge_device(&device, compared, thresholds, now));
    }
    found
}

/// By the issuer's name as it is shown: what is found so is looked at by a person.
fn lists_by_issuer(lists: &RevocationLists) -> HashMap<&str, Vec<&RevocationList>> {
    let mut by_issuer: HashMap<&str, Vec<&RevocationList>> = HashMap::new();
    for list in lists.iter() {
        by_issuer.entry(list.issuer()).or_default().push(list);
    }
    by_issuer
}

/// Whether not everything that a CA has signed registers itself at once.
fn narrows(ca: &CaCertificate) -> bool {
    let settings = &ca.settings;
    !ca.carries_registrations()
        || settings.auto_registration != AutoRegistration::Active
        || !settings.subject_patterns.is_empty()
        || !settings.san_patterns.is_empty()
}

fn crls(trust: &TrustSet) -> Vec<CrlFacts> {
    let now = clock::now().seconds();
    let lists = trust.anchors.lists().iter();
    lists
        .map(|list| {
            let ca = trust.anchors.iter().find(|(_, facts)| list.is_named_after(facts));
            CrlFacts {
                source: list.issuer().to_owned(),
                issuer: list.issuer().to_owned(),
                ca: ca.map(|(name, _)| name.to_string()),
                next_update: list.next_update,
                is_stale: list.next_update.is_none_or(|next| next < now),
            }
        })
        .collect()
}
