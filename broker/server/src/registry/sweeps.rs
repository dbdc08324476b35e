//! What time does to records: pending certificates are forgotten, and who watches is told of certificates that expire.
//! A bounded piece of it each time, by index.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::names;
use mqgate_identity::registry::rules::lapse;
use mqgate_identity::registry::{
    CaCertificate, CaState, Cursor, DeviceCertificate, DeviceQuery, DeviceState, EventContext, EventKind,
    NewEvent, Span, StorageError,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::ask::Ask;
use super::changes::{Called, Verdict};
use super::{Registry, RegistryError};
use crate::clock;
use crate::directory::lock;

/// Records on one page of a sweep.
const PAGE: usize = if cfg!(test) { 2 } else { 500 };
/// Pages of one round: the next one goes on from there.
const MOST_PAGES: usize = 8;
/// Where the sweep over what expires has come to.
const SETTING: &str = "registry/expiry";
/// Nobody waits for a warning of days: it is looked at this often.
pub(super) const PERIOD: Duration = Duration::from_secs(60);
/// Longer than this the broker may have been away: what it has missed is told, but not of years.
const MOST_MISSED: i64 = 90 * 86_400;

/// How far the sweep over what expires has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Everything that was due by then is told.
    done: UnixSeconds,
    /// While a sweep goes on: up to when, which of the warnings, and where in its page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    going: Option<Going>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Going {
    until: UnixSeconds,
    /// Seconds before the end; 0: it has expired.
    warning: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

impl Registry {
    /// One piece of each.
    pub(super) async fn sweep(self: &Arc<Self>) {
        if let Err(error) = self.sweep_pending().await {
            tracing::warn!(%error, "pending certificates that are too old stay for now");
        }
        if let Err(error) = self.sweep_expiry(&self.settings.expiry_warnings).await {
            tracing::warn!(%error, "warnings of certificates that expire come later");
        }
    }

    /// Forgets pending certificates that nobody has activated in time; says how many.
    pub(crate) async fn sweep_pending(self: &Arc<Self>) -> Result<usize, RegistryError> {
        let query = DeviceQuery {
            states: vec![DeviceState::PendingActivation],
            limit: PAGE,
            cursor: lock(&self.pending_cursor).clone(),
            ..DeviceQuery::default()
        };
        let page = self.query(query).await?;
        lock(&self.pending_cursor).clone_from(&page.next);
        let now = clock::now();
        let mut forgotten = 0;
        for record in page.records.iter().filter(|record| lapse(record, now).is_ok()) {
            let called = Called::new(EventKind::CertLapsed, names::DEVICE_LAPSED);
            let rule = |record: &DeviceCertificate, _: Option<&CaCertificate>, now| {
                lapse(record, now).map(|()| Verdict::Gone)
            };
            match self.change(record.id, &Ask::by("system:pending"), called, &rule).await {
                Ok(_) => forgotten += 1,
                // Somebody has decided meanwhile.
                Err(RegistryError::Rule(_) | RegistryError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }

    /// Tells of a piece of what has come nearer to its end since the last time: each certificate once for each warning.
    pub(crate) async fn sweep_expiry(self: &Arc<Self>, warnings: &[Duration]) -> Result<(), RegistryError> {
        let now = clock::now();
        let stored = self.blocking(|storage| storage.setting(SETTING)).await?;
        let progress = stored.and_then(|bytes| serde_json::from_slice::<Progress>(&bytes).ok());
        let Some(mut progress) = progress else {
            // From here on: what is near its end already is told of at its next warning.
            return self.note_progress(&Progress { done: now.seconds(), going: None }).await;
        };
        // A clock that was set back waits until it is there again.
        if now.seconds() <= progress.done {
            return Ok(());
        }
        progress.done = progress.done.max(UnixSeconds(now.seconds().0.saturating_sub(MOST_MISSED)));
        let mut all: Vec<i64> =
            warnings.iter().map(|warning| i64::try_from(warning.as_secs()).unwrap_or(i64::MAX)).collect();
        all.push(0);
        all.sort_unstable();
        all.dedup();
        // A sweep that was interrupted goes on where it was.
        let going = progress.going.clone().filter(|going| all.contains(&going.warning));
        let until = going.as_ref().map_or(now.seconds(), |going| going.until);
        let (mut cursor, from) = match &going {
            Some(going) => (going.cursor.as_deref().and_then(Cursor::parse), going.warning),
            None => {
                self.tell_cas(&all, progress.done, until, now).await?;
                (None, 0)
            }
        };
        let mut pages = 0;
        for warning in all.into_iter().filter(|warning| *warning >= from) {
            loop {
                let page = self.query(crossing(warning, progress.done, until, cursor.take())).await?;
                let events: Vec<_> = page.records.iter().map(|record| told(record, warning, now)).collect();
                if !events.is_empty() {
                    self.announce(events).await?;
                }
                let Some(next) = page.next else { break };
                pages += 1;
                if pages >= MOST_PAGES {
                    let going = Going { until, warning, cursor: Some(next.to_string()) };
                    return self.note_progress(&Progress { done: progress.done, going: Some(going) }).await;
                }
                cursor = Some(next);
            }
        }
        self.note_progress(&Progress { done: until, going: None }).await
    }

    async fn note_progress(&self, progress: &Progress) -> Result<(), RegistryError> {
        let bytes =
            serde_json::to_vec(progress).map_err(|error| StorageError::Unavailable(error.to_string()))?;
        Ok(self.blocking(move |storage| storage.put_setting(SETTING, &bytes)).await?)
    }

    async fn tell_cas(
        &self,
        warnings: &[i64],
        done: UnixSeconds,
        until: UnixSeconds,
        now: UnixMillis,
    ) -> Result<(), RegistryError> {
        let mut events = Vec::new();
        for ca in self.cas() {
            if matches!(ca.state, CaState::Revoked | CaState::Inactive) {
                continue;
            }
            // Of several at once the last is news enough.
            if let Some(warning) = warnings.iter().find(|warning| crosses(&ca, **warning, done, until)) {
                let kind = if *warning == 0 { EventKind::CaExpired } else { EventKind::CaExpiring };
                events.push(NewEvent::ca(kind, Some(ca.state), &ca, "system:expiry", now));
            }
        }
        if events.is_empty() { Ok(()) } else { self.announce(events).await }
    }
}

/// Certificates in use whose end was further away than `warning` at `done`, and is not at `until`.
fn crossing(warning: i64, done: UnixSeconds, until: UnixSeconds, cursor: Option<Cursor>) -> DeviceQuery {
    let (from, to) = window(warning, done, until);
    DeviceQuery {
        states: vec![DeviceState::Active],
        not_after: Span { from: Some(from), until: Some(to) },
        cursor,
        limit: PAGE,
        ..DeviceQuery::default()
    }
}

/// `from <= not_after < to`. A certificate is good up to and with its last second, so it has expired one later.
fn window(warning: i64, done: UnixSeconds, until: UnixSeconds) -> (UnixSeconds, UnixSeconds) {
    let after = i64::from(warning > 0);
    let bound = |at: UnixSeconds| UnixSeconds(at.0.saturating_add(warning).saturating_add(after));
    (bound(done), bound(until))
}

fn crosses(ca: &CaCertificate, warning: i64, done: UnixSeconds, until: UnixSeconds) -> bool {
    let (from, to) = window(warning, done, until);
    from <= ca.not_after && ca.not_after < to
}

fn told(record: &DeviceCertificate, warning: i64, now: UnixMillis) -> NewEvent {
    let kind = if warning == 0 { EventKind::CertExpired } else { EventKind::CertExpiring };
    let detail = match warning {
        0 => "it has expired".to_owned(),
        days if days % 86_400 == 0 => format!("it expires within {} d", days / 86_400),
        seconds => format!("it expires within {seconds} s"),
    };
    let context = EventContext { detail: Some(detail), ..EventContext::default() };
    NewEvent::device(kind, Some(record.state), record, "system:expiry", now).at_connection(context)
}

#[cfg(test)]
mod tests {
    use mqgate_identity::certificate::CertificateFingerprint;
    use mqgate_identity::registry::{EventData, Storage};

    use super::*;
    use crate::audit::AuditLog;
    use crate::registry::{CaProof, CaRegistration, ManualRegistration, RegistrySettings};
    use crate::testing::{MemoryStorage, TestCa, metrics};
    use crate::trust::TrustStore;

    const DAY: i64 = 86_400;

    struct World {
        ca: TestCa,
        storage: Arc<MemoryStorage>,
        registry: Arc<Registry>,
    }

    impl World {
        async fn new() -> Self {
            let ca = TestCa::new("devices");
            let storage = Arc::new(MemoryStorage::default());
            let trust = Arc::new(TrustStore::new(2));
            trust.configure(vec![ca.anchor()]).unwrap();
            let registry = Registry::open(
                Arc::clone(&storage) as _,
                trust,
                Arc::new(AuditLog::default()),
                Arc::clone(&metrics().gate),
                RegistrySettings::default(),
            );
            Self { ca, storage, registry: registry.await.unwrap() }
        }

        /// A record as it would be at another time.
        async fn device(
            &self,
            name: &str,
            change: impl FnOnce(&mut DeviceCertificate),
        ) -> CertificateFingerprint {
            let request =
                ManualRegistration { pem: self.ca.device(name).pem(), ..ManualRegistration::default() };
            let mut record =
                DeviceCertificate::clone(&self.registry.register(request, "admin:test").await.unwrap().after);
            let expected = record.revision;
            record.revision += 1;
            change(&mut record);
            self.storage.put_device_certificate(&record, Some(expected)).unwrap();
            self.registry.cache.forget(&record.id);
            record.id
        }

        async fn expires_in(&self, name: &str, seconds: i64) -> CertificateFingerprint {
            let at = UnixSeconds(clock::now().seconds().0 + seconds);
            self.device(name, |record| record.not_after = at).await
        }

        fn last_sweep(&self, seconds_ago: i64) {
            let done = UnixSeconds(clock::now().seconds().0 - seconds_ago);
            let progress = serde_json::to_vec(&Progress { done, going: None }).unwrap();
            self.storage.put_setting(SETTING, &progress).unwrap();
        }

        /// What was told since the last look: whom it is about, and how.
        async fn told(&self, since: &mut u64) -> Vec<(EventKind, String, String)> {
            let page = self.registry.events(*since, 10_000).await.unwrap();
            *since = page.newest;
            let expiry = [
                EventKind::CertExpiring,
                EventKind::CertExpired,
                EventKind::CaExpiring,
                EventKind::CaExpired,
            ];
            let events = page.events.into_iter().filter(|event| expiry.contains(&event.kind));
            events
                .map(|event| match event.data {
                    EventData::Device(data) => {
                        (event.kind, data.device_id, data.context.detail.unwrap_or_default())
                    }
                    EventData::Ca(data) => (event.kind, data.name, String::new()),
                })
                .collect()
        }
    }

    fn days() -> Vec<Duration> {
        [60, 30, 14, 7, 1].map(|days| Duration::from_secs(days * DAY as u64)).to_vec()
    }

    #[tokio::test]
    async fn warning_events_once_per_threshold() {
        let world = World::new().await;
        let mut since = 0;
        for (name, left) in [
            ("far", 61 * DAY),
            ("at-60", 60 * DAY - 10),
            ("at-30", 30 * DAY - 10),
            ("at-14", 14 * DAY - 10),
            ("at-7", 7 * DAY - 10),
            ("at-1", DAY - 10),
            ("over", -10),
            ("told-before", 20 * DAY),
        ] {
            world.expires_in(name, left).await;
        }
        let inactive = world.expires_in("inactive", 7 * DAY - 10).await;
        world.registry.deactivate(inactive, "admin:test").await.unwrap();
        let end = clock::now().seconds().0 + 7 * DAY - 10;
        let request = CaRegistration {
            pem: TestCa::until("factory", end as u64).pem(),
            name: "factory".into(),
            proof: CaProof::Skip,
            ..CaRegistration::default()
        };
        world.registry.register_ca(request, "admin:test").await.unwrap();
        // Whatever is near its end when the first sweep is made is told of at its next warning.
        world.registry.sweep_expiry(&days()).await.unwrap();
        assert_eq!(world.told(&mut since).await, []);

        world.last_sweep(3600);
        world.registry.sweep_expiry(&days()).await.unwrap();
        let mut told = world.told(&mut since).await;
        told.sort_by(|a, b| a.1.cmp(&b.1));
        let expiring = |name: &str, days: i64| {
            (EventKind::CertExpiring, name.to_owned(), format!("it expires within {days} d"))
        };
        assert_eq!(
            told,
            [
                expiring("at-1", 1),
                expiring("at-14", 14),
                expiring("at-30", 30),
                expiring("at-60", 60),
                expiring("at-7", 7),
                (EventKind::CaExpiring, "factory".to_owned(), String::new()),
                (EventKind::CertExpired, "over".to_owned(), "it has expired".to_owned()),
            ]
        );
        world.registry.sweep_expiry(&days()).await.unwrap();
        world.last_sweep(5);
        world.registry.sweep_expiry(&days()).await.unwrap();
        assert_eq!(world.told(&mut since).await, [], "once for each warning");
    }

    #[tokio::test]
    async fn a_sweep_over_many_goes_on_where_it_was() {
        let world = World::new().await;
        let many = PAGE * MOST_PAGES + 3;
        for number in 0..many {
            world.expires_in(&format!("device-{number}"), 7 * DAY - 10).await;
        }
        world.last_sweep(3600);
        let mut since = 0;
        let _ = world.registry.sweep_expiry(&days()).await;
        let first = world.told(&mut since).await.len();
        assert!(first < many, "{first} in one round");
        let mut all = first;
        for _ in 0..3 {
            world.registry.sweep_expiry(&days()).await.unwrap();
            all += world.told(&mut since).await.len();
        }
        assert_eq!(all, many, "each of them once");
    }

    #[tokio::test]
    async fn pending_for_too_long_is_forgotten_without_a_tombstone() {
        let world = World::new().await;
        let now = clock::now();
        let pending = |until: UnixMillis| {
            move |record: &mut DeviceCertificate| {
                record.state = DeviceState::PendingActivation;
                record.pending_until = Some(until);
            }
        };
        let old = world.device("old", pending(UnixMillis(now.0 - 1))).await;
        let young = world.device("young", pending(UnixMillis(now.0 + 60_000))).await;
        assert_eq!(world.registry.sweep_pending().await.unwrap(), 1);
        assert_eq!(world.registry.sweep_pending().await.unwrap(), 0);
        assert!(world.registry.device(old).await.unwrap().is_none(), "it may register once more");
        assert!(world.registry.device(young).await.unwrap().is_some());
        let page = world.registry.events(0, 100).await.unwrap();
        assert!(page.events.iter().any(|event| event.kind == EventKind::CertLapsed));
    }
}
