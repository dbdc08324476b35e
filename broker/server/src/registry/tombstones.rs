//! Tombstones that have no use any more go: a page of them now and then, by index.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mqgate_identity::audit::names;
use mqgate_identity::registry::rules::{RuleError, TOMBSTONE_SKEW_SECONDS, is_spent_tombstone};
use mqgate_identity::registry::{Cursor, DeviceQuery, DeviceState, EventKind, Span, StorageError};
use mqgate_identity::time::UnixSeconds;
use tokio::time::Instant;

use super::ask::Ask;
use super::changes::{Called, Verdict};
use super::{Registry, RegistryError};
use crate::clock;

/// Nobody waits for it.
const PERIOD: Duration = Duration::from_secs(60);
/// Tombstones looked at in one round.
const PAGE: usize = if cfg!(test) { 2 } else { 500 };

/// Where the last round ended, and when.
#[derive(Default)]
pub(super) struct Sweep(Mutex<(Option<Cursor>, Option<Instant>)>);

impl Registry {
    /// Once in a while, one round.
    pub(super) async fn sweep_tombstones_in_time(self: &Arc<Self>) {
        {
            let mut state = self.tombstones.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.1.is_some_and(|at| at.elapsed() < PERIOD) {
                return;
            }
            state.1 = Some(Instant::now());
        }
        if let Err(error) = self.sweep_tombstones().await {
            tracing::warn!(%error, "tombstones of certificates that expired stay for now");
        }
    }

    /// Forgets spent tombstones of one page; says how many.
    pub(super) async fn sweep_tombstones(self: &Arc<Self>) -> Result<usize, RegistryError> {
        let state = || self.tombstones.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor = state().0.take();
        let until = UnixSeconds(clock::now().seconds().0.saturating_sub(TOMBSTONE_SKEW_SECONDS));
        let query = DeviceQuery {
            states: vec![DeviceState::Tombstone],
            not_after: Span { from: None, until: Some(until) },
            limit: PAGE,
            cursor,
            ..DeviceQuery::default()
        };
        let page = match self.query(query).await {
            // The range ends elsewhere each time: then it begins again.
            Err(RegistryError::Storage(StorageError::BadCursor)) => return Ok(0),
            page => page?,
        };
        // Those whose key is remembered stay, and must not be in the way of the rest.
        state().0 = page.next;
        let mut gone = 0;
        for record in page.records.iter().filter(|record| is_spent_tombstone(record, clock::now())) {
            let called = Called::new(EventKind::CertPurged, names::DEVICE_PURGED);
            let rule = |record: &_, _: Option<&_>, now| match is_spent_tombstone(record, now) {
                true => Ok(Verdict::Gone),
                false => Err(RuleError::NotTombstoned),
            };
            match self.change(record.id, &Ask::by("system:tombstones"), called, &rule).await {
                Ok(_) => gone += 1,
                // Registered again meanwhile.
                Err(RegistryError::NotFound | RegistryError::Rule(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}
