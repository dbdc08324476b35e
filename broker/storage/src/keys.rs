//! The form of keys in the registry's space, and what they are called in messages.
//!
//! `d`+id device certificate, `l`+id when it was last seen, `i`+device id+NUL+id (index by device), `n`+CA id+state
//! (count), `c`+id CA, `t`+id what is left of a deleted CA, `g`+code registration code, `b`+namespace+NUL+name
//! bundle of a server, `s`+name setting, `e`+number event, `w` the numbers of the oldest and newest event, `v` the
//! form of the indexes, `x`+kind index.

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::DeviceState;

pub(crate) const OUTBOX_BOUNDS: &[u8] = b"w";
pub(crate) const INDEX_FORM: &[u8] = b"v";

pub(crate) const STATES: [(u8, DeviceState); 5] = [
    (b'p', DeviceState::PendingActivation),
    (b'a', DeviceState::Active),
    (b'i', DeviceState::Inactive),
    (b'r', DeviceState::Revoked),
    (b't', DeviceState::Tombstone),
];

pub(crate) const fn state_letter(state: DeviceState) -> u8 {
    match state {
        DeviceState::PendingActivation => b'p',
        DeviceState::Active => b'a',
        DeviceState::Inactive => b'i',
        DeviceState::Revoked => b'r',
        DeviceState::Tombstone => b't',
    }
}

pub(crate) fn id_key(kind: u8, id: &CertificateFingerprint) -> Vec<u8> {
    [&[kind][..], &id.0].concat()
}

/// Names of namespaces and bundles have no control characters.
pub(crate) fn bundle_key(namespace: &str, name: &str) -> Vec<u8> {
    [b"b", namespace.as_bytes(), &[0], name.as_bytes()].concat()
}

pub(crate) fn setting_key(name: &str) -> Vec<u8> {
    [b"s", name.as_bytes()].concat()
}

pub(crate) fn code_key(code: &str) -> Vec<u8> {
    [b"g", code.as_bytes()].concat()
}

pub(crate) fn event_key(number: u64) -> Vec<u8> {
    [b"e", &number.to_be_bytes()[..]].concat()
}

/// The rules forbid control characters in device ids, so that NUL ends one.
pub(crate) fn device_prefix(device_id: &str) -> Vec<u8> {
    [b"i", device_id.as_bytes(), &[0]].concat()
}

pub(crate) fn device_key(device_id: &str, id: &CertificateFingerprint) -> Vec<u8> {
    [&device_prefix(device_id)[..], &id.0].concat()
}

/// Counts begin with it.
pub(crate) const COUNTS: &[u8] = b"n";

pub(crate) fn count_key(ca: &CertificateFingerprint, state: DeviceState) -> Vec<u8> {
    [COUNTS, &ca.0[..], &[state_letter(state)]].concat()
}

/// The id at the end of an index's key.
pub(crate) fn trailing_id(key: &[u8]) -> Option<CertificateFingerprint> {
    key.last_chunk().map(|id| CertificateFingerprint(*id))
}

/// The first key after all that begin with `prefix`.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Keys begin with a letter, so that there always was one to raise.
    vec![u8::MAX]
}

/// For messages: what a key stands for.
pub(crate) fn name_of_key(key: &[u8]) -> String {
    let rest = key.get(1..).unwrap_or_default();
    match key.first() {
        Some(b'd') => format!("device certificate {}", hex::encode(rest)),
        Some(b'l') => format!("last time seen of device certificate {}", hex::encode(rest)),
        Some(b'c') => format!("CA certificate {}", hex::encode(rest)),
        Some(b't') => format!("tombstone of CA certificate {}", hex::encode(rest)),
        Some(b'g') => format!("registration code \"{}\"", rest.escape_ascii()),
        Some(b'i') => format!("index of devices at \"{}\"", rest.escape_ascii()),
        Some(b'n') => format!("count of certificates of CA {}", hex::encode(rest.get(..32).unwrap_or(rest))),
        Some(b'b') => format!("server certificate \"{}\"", rest.escape_ascii()),
        Some(b's') => format!("setting \"{}\"", rest.escape_ascii()),
        Some(b'e') => format!("event {}", hex::encode(rest)),
        Some(b'w') => "numbers of the events".to_owned(),
        Some(b'v') => "form of the indexes".to_owned(),
        Some(b'x') => format!("index \"{}\"", rest.escape_ascii()),
        _ => format!("key \"{}\"", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(after_prefix(b"xa"), b"xb");
        assert_eq!(after_prefix(b"x\xff\xff"), b"y");
        assert_eq!(after_prefix(b"x\x01\xff"), b"x\x02");
    }
}
