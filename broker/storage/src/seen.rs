//! When certificates were last seen: beside the records, so that it is noted without a new revision.

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::StorageError;
use mqgate_identity::time::UnixMillis;

use crate::engine::{Batch, Space};
use crate::index::last_seen_prefix;
use crate::keys::{id_key, name_of_key};

pub(crate) fn read(space: &Space, id: &CertificateFingerprint) -> Result<Option<UnixMillis>, StorageError> {
    let key = id_key(b'l', id);
    let payload = space.get(&key, || name_of_key(&key))?;
    payload.map(|payload| parse(&key, &payload)).transpose()
}

fn read_in(
    space: &Space,
    batch: &Batch,
    id: &CertificateFingerprint,
) -> Result<Option<UnixMillis>, StorageError> {
    let key = id_key(b'l', id);
    match batch.change(&key) {
        Some(change) => change.map(|payload| parse(&key, payload)).transpose(),
        None => read(space, id),
    }
}

fn parse(key: &[u8], payload: &[u8]) -> Result<UnixMillis, StorageError> {
    let digits = payload.try_into().map_err(|_| StorageError::Corrupt(name_of_key(key)))?;
    Ok(UnixMillis(u64::from_be_bytes(digits)))
}

/// Notes it, unless it was seen later.
pub(crate) fn note(
    space: &Space,
    batch: &mut Batch,
    id: &CertificateFingerprint,
    at: UnixMillis,
) -> Result<(), StorageError> {
    let before = read_in(space, batch, id)?;
    if before.is_some_and(|before| before >= at) {
        return Ok(());
    }
    if let Some(before) = before {
        batch.remove(&index_key(before, id));
    }
    batch.put(&id_key(b'l', id), &at.0.to_be_bytes());
    batch.put(&index_key(at, id), b"");
    Ok(())
}

pub(crate) fn forget(
    space: &Space,
    batch: &mut Batch,
    id: &CertificateFingerprint,
) -> Result<(), StorageError> {
    if let Some(before) = read_in(space, batch, id)? {
        batch.remove(&index_key(before, id));
        batch.remove(&id_key(b'l', id));
    }
    Ok(())
}

fn index_key(at: UnixMillis, id: &CertificateFingerprint) -> Vec<u8> {
    [&last_seen_prefix(at)[..], &id.0].concat()
}
