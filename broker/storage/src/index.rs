//! The indexes of device certificates: which keys a record has in them, and how they are kept in the same step as
//! the record.
//!
//! Texts are hashed: indexes answer "which records have exactly this", all keys have one length, and nothing that a
//! certificate says makes a key longer than the database takes. Whoever reads an index compares the record as well.

use std::collections::BTreeSet;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{DeviceCertificate, DeviceState, StorageError, plain_serial};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use sha2::{Digest, Sha256};

use crate::engine::{Batch, Space};
use crate::keys::{self, device_key, name_of_key, state_letter};

pub(crate) const SERIAL: u8 = b'r';
pub(crate) const SPKI: u8 = b'k';
pub(crate) const COMMON_NAME: u8 = b'c';
pub(crate) const CLIENT_ID: u8 = b'u';
pub(crate) const ALTERNATIVE_NAME: u8 = b'a';
pub(crate) const ORGANIZATIONAL_UNIT: u8 = b'o';
pub(crate) const TAG: u8 = b'g';
pub(crate) const NOT_AFTER: u8 = b'y';
pub(crate) const LAST_SEEN: u8 = b'l';
pub(crate) const CA_STATE: u8 = b'p';
pub(crate) const STATE: u8 = b's';
/// By issuer and serial number, to one id: unique.
const ISSUER_SERIAL: u8 = b'i';
/// Keys that must never be seen again, to the ids that were revoked for them.
const COMPROMISED: u8 = b'h';

/// What an index by text begins with for this text.
pub(crate) fn text_prefix(kind: u8, text: &str) -> Vec<u8> {
    let digest = Sha256::digest(text.as_bytes());
    [b"x", &[kind][..], &digest[..16]].concat()
}

pub(crate) fn not_after_prefix(at: UnixSeconds) -> Vec<u8> {
    // With the sign bit turned, numbers and bytes have one order.
    let ordered = (at.0 as u64) ^ (1 << 63);
    [b"x", &[NOT_AFTER][..], &ordered.to_be_bytes()].concat()
}

pub(crate) fn last_seen_prefix(at: UnixMillis) -> Vec<u8> {
    [b"x", &[LAST_SEEN][..], &at.0.to_be_bytes()].concat()
}

pub(crate) fn ca_state_prefix(ca: &CertificateFingerprint, state: DeviceState) -> Vec<u8> {
    [b"x", &[CA_STATE][..], &ca.0, &[state_letter(state)]].concat()
}

pub(crate) fn state_prefix(state: DeviceState) -> Vec<u8> {
    [b"x", &[STATE][..], &[state_letter(state)]].concat()
}

/// An alternative name is looked for with its type and without; the case is left to who compares.
pub(crate) fn alternative_name_prefix(name: &str) -> Vec<u8> {
    text_prefix(ALTERNATIVE_NAME, &name.to_ascii_lowercase())
}

fn issuer_serial_key(record: &DeviceCertificate) -> Vec<u8> {
    let mut hash = Sha256::new();
    // A key's digest is no distinguished name.
    let issuer = match record.issuer_key_id.is_empty() {
        true => &record.issuer,
        false => &record.issuer_key_id,
    };
    hash.update((issuer.len() as u64).to_be_bytes());
    hash.update(issuer.as_bytes());
    hash.update(plain_serial(&record.serial).as_bytes());
    [b"x", &[ISSUER_SERIAL][..], &hash.finalize()].concat()
}

fn compromised_prefix(spki_sha256: &str) -> Vec<u8> {
    let digest = Sha256::digest(spki_sha256.to_ascii_lowercase().as_bytes());
    [b"x", &[COMPROMISED][..], &digest].concat()
}

/// Every key of a record that has no value; `last_seen` is kept apart.
fn index_keys(record: &DeviceCertificate) -> BTreeSet<Vec<u8>> {
    let mut prefixes = vec![
        text_prefix(SERIAL, &plain_serial(&record.serial)),
        text_prefix(SPKI, &record.spki_sha256.to_ascii_lowercase()),
        not_after_prefix(record.not_after),
        ca_state_prefix(&record.ca_id, record.state),
        state_prefix(record.state),
    ];
    prefixes.extend(record.common_name.as_deref().map(|name| text_prefix(COMMON_NAME, name)));
    prefixes.extend(record.client_id.as_deref().map(|id| text_prefix(CLIENT_ID, id)));
    prefixes.extend(record.organizational_units.iter().map(|unit| text_prefix(ORGANIZATIONAL_UNIT, unit)));
    prefixes.extend(record.tags.iter().map(|tag| text_prefix(TAG, tag)));
    for name in &record.subject_alt_names {
        prefixes.push(alternative_name_prefix(name));
        prefixes.extend(name.split_once(':').map(|(_, bare)| alternative_name_prefix(bare)));
    }
    if record.is_key_compromised() {
        prefixes.push(compromised_prefix(&record.spki_sha256));
    }
    let mut keys: BTreeSet<_> =
        prefixes.into_iter().map(|prefix| [&prefix[..], &record.id.0].concat()).collect();
    keys.insert(device_key(&record.device_id, &record.id));
    keys
}

/// Brings the indexes from the record as it is stored to what it becomes, either of which may not be there. Refuses
/// what must be unique and is not.
pub(crate) fn update(
    space: &Space,
    batch: &mut Batch,
    stored: Option<&DeviceCertificate>,
    next: Option<&DeviceCertificate>,
) -> Result<(), StorageError> {
    let before = stored.map(index_keys).unwrap_or_default();
    let after = next.map(index_keys).unwrap_or_default();
    for key in before.difference(&after) {
        batch.remove(key);
    }
    for key in after.difference(&before) {
        batch.put(key, b"");
    }
    let unique_before = stored.map(issuer_serial_key);
    let unique_after = next.map(issuer_serial_key);
    if let (Some(key), Some(next)) = (&unique_after, next) {
        match read_unique(space, batch, key)? {
            Some(owner) if owner != next.id => {
                return Err(StorageError::DuplicateSerial { existing: owner });
            }
            Some(_) => {}
            None => batch.put(key, &next.id.0),
        }
        if comes_into_use(stored.map(|stored| stored.state), next.state)
            && let Some(existing) = compromised(space, batch, next)?
        {
            return Err(StorageError::KeyCompromised { existing });
        }
    }
    if let Some(key) = unique_before.filter(|key| unique_after.as_ref() != Some(key)) {
        let owner = read_unique(space, batch, &key)?;
        // Of records that were written before this index there may be two.
        if owner.is_some() && owner == stored.map(|stored| stored.id) {
            batch.remove(&key);
        }
    }
    Ok(())
}

/// Puts every key of a record that was written before there were indexes. It may break their rules; it stays, and
/// only what comes after it is refused.
pub(crate) fn build(
    space: &Space,
    batch: &mut Batch,
    record: &DeviceCertificate,
) -> Result<(), StorageError> {
    for key in index_keys(record) {
        batch.put(&key, b"");
    }
    let key = issuer_serial_key(record);
    if read_unique(space, batch, &key)?.is_none() {
        batch.put(&key, &record.id.0);
    }
    Ok(())
}

/// Whether any record is bound to a client id.
pub(crate) fn has_client_ids(space: &Space) -> Result<bool, StorageError> {
    let prefix = [b'x', CLIENT_ID];
    let first = space.keys(&prefix, &keys::after_prefix(&prefix), name_of_key).next();
    Ok(first.transpose()?.is_some())
}

/// Whether a certificate that was not in use is now, or may be.
fn comes_into_use(before: Option<DeviceState>, after: DeviceState) -> bool {
    let is_open = |state| match state {
        DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => true,
        DeviceState::Revoked | DeviceState::Tombstone => false,
    };
    let is_let_in = after == DeviceState::Active && before != Some(DeviceState::Active);
    is_let_in || (is_open(after) && !before.is_some_and(is_open))
}

fn read_unique(
    space: &Space,
    batch: &Batch,
    key: &[u8],
) -> Result<Option<CertificateFingerprint>, StorageError> {
    let payload = match batch.change(key) {
        Some(change) => change.map(<[u8]>::to_vec),
        None => space.get(key, || name_of_key(key))?.map(|payload| payload.to_vec()),
    };
    let corrupt = |_| StorageError::Corrupt(name_of_key(key));
    payload.map(|id| id.try_into().map(CertificateFingerprint).map_err(corrupt)).transpose()
}

/// Another certificate that was revoked because this one's key is compromised.
fn compromised(
    space: &Space,
    batch: &Batch,
    record: &DeviceCertificate,
) -> Result<Option<CertificateFingerprint>, StorageError> {
    let prefix = compromised_prefix(&record.spki_sha256);
    for key in space.keys(&prefix, &keys::after_prefix(&prefix), name_of_key) {
        let key = key?;
        let gone = batch.change(&key).is_some_and(|change| change.is_none());
        let id = keys::trailing_id(&key).filter(|id| *id != record.id);
        if let (Some(id), false) = (id, gone) {
            return Ok(Some(id));
        }
    }
    Ok(batch.puts(&prefix).filter_map(keys::trailing_id).find(|id| *id != record.id))
}
