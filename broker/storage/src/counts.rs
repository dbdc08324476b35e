//! How many certificates each CA has in each state, kept in memory beside the records that say so: they are a few keys
//! that every registration writes, and who reads those in order walks over all their older versions.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{DeviceState, StorageError};

use crate::engine::{Batch, Space, guard};
use crate::keys::{COUNTS, STATES, name_of_key};

type Place = (CertificateFingerprint, DeviceState);

/// What a write adds to counts, or takes away.
pub(crate) type Moved = Vec<(Place, i64)>;

/// Writers add what they moved in any order: for a moment a sum may be below nothing.
#[derive(Debug)]
pub(crate) struct Counts(Mutex<BTreeMap<Place, i64>>);

impl Counts {
    pub(crate) fn load(space: &Space) -> Result<Self, StorageError> {
        let mut counts = BTreeMap::new();
        for entry in space.scan(COUNTS, None, name_of_key) {
            let (key, payload) = entry?;
            counts.insert(place(&key)?, number(&key, &payload)?);
        }
        Ok(Self(Mutex::new(counts)))
    }

    /// To be called when the write is in the database.
    pub(crate) fn add(&self, moved: &Moved) {
        let mut counts = guard(&self.0);
        for (place, change) in moved {
            *counts.entry(*place).or_default() += change;
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<Place, u64> {
        let counts = guard(&self.0);
        let known = counts.iter().filter_map(|(place, count)| Some((*place, u64::try_from(*count).ok()?)));
        known.filter(|(_, count)| *count > 0).collect()
    }
}

/// What `batch` does to the counts in `space`.
pub(crate) fn moved(space: &Space, batch: &Batch) -> Result<Moved, StorageError> {
    let changed = batch.puts(COUNTS).filter_map(|key| Some((key, batch.change(key)??)));
    let moved = changed.map(|(key, after)| {
        let before = match space.get(key, || name_of_key(key))? {
            Some(before) => number(key, &before)?,
            None => 0,
        };
        Ok((place(key)?, number(key, after)? - before))
    });
    moved.collect()
}

fn place(key: &[u8]) -> Result<Place, StorageError> {
    let parts = || {
        let (ca, state) = key.strip_prefix(COUNTS)?.split_at_checked(32)?;
        let state = STATES.iter().find(|known| state == [known.0])?.1;
        Some((CertificateFingerprint(ca.try_into().ok()?), state))
    };
    parts().ok_or_else(|| StorageError::Corrupt(name_of_key(key)))
}

fn number(key: &[u8], payload: &[u8]) -> Result<i64, StorageError> {
    let digits = payload.try_into().ok().map(u64::from_be_bytes);
    let number = digits.and_then(|number| i64::try_from(number).ok());
    number.ok_or_else(|| StorageError::Corrupt(name_of_key(key)))
}
