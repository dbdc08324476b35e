//! What stands around every stored value: the version of its form, and a checksum over key and value.

use mqgate_identity::registry::StorageError;
use sha2::{Digest, Sha256};

/// The form written by this version.
const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

pub(crate) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(1 + CHECKSUM_BYTES + payload.len());
    sealed.push(FORMAT);
    sealed.extend_from_slice(&checksum(key, payload));
    sealed.extend_from_slice(payload);
    sealed
}

/// The payload, if it is what was stored under `key`. `what` names the record in the error.
pub(crate) fn open<'a>(
    key: &[u8],
    sealed: &'a [u8],
    what: impl FnOnce() -> String,
) -> Result<&'a [u8], StorageError> {
    let corrupt = |why: &str, what: String| Err(StorageError::Corrupt(format!("{what}: {why}")));
    let Some((&format, rest)) = sealed.split_first() else {
        return corrupt("the record is empty", what());
    };
    let Some((sum, payload)) = rest.split_at_checked(CHECKSUM_BYTES) else {
        return corrupt("the record is cut off", what());
    };
    if format != FORMAT {
        let why = format!(
            "the record has format {format}, this mqgate knows format {FORMAT} (was it written by a newer one?)"
        );
        return corrupt(&why, what());
    }
    if sum != checksum(key, payload) {
        return corrupt("the checksum is wrong", what());
    }
    Ok(payload)
}

/// Eight bytes of a SHA-256: against accidents, not against an attacker, who could compute it as well.
pub(crate) fn checksum(key: &[u8], payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Sha256::new();
    hash.update([FORMAT]);
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(payload);
    let digest: [u8; 32] = hash.finalize().into();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_noticed_and_named() {
        let sealed = seal(b"key", b"payload");
        assert_eq!(open(b"key", &sealed, || unreachable!()).unwrap(), b"payload");
        let name = || "setting \"x\"".to_owned();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let error = open(b"key", &changed, name).unwrap_err().to_string();
                assert!(error.contains("setting \"x\""), "{error}");
            }
            assert!(open(b"key", &sealed[..at], name).is_err());
        }
        assert!(open(b"other", &sealed, name).is_err());
    }
}
