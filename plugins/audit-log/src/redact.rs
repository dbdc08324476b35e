//! What becomes of a value before it is written.

use mqgate_plugin_sdk::certificate::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::glob::Glob;

pub struct Redaction {
    pub drop: Vec<Glob>,
    pub hash: Vec<Glob>,
    pub salt: Vec<u8>,
}

impl Redaction {
    /// `value` as it may be written under `name`; `None` when it may not.
    pub fn apply(&self, name: &str, value: Value) -> Option<Value> {
        let named = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        if named(&self.drop) {
            None
        } else if named(&self.hash) {
            Some(self.hashed(&value).into())
        } else {
            Some(value)
        }
    }

    /// Equal values stay equal, so that lines can still be brought together. Half of the digest is enough for
    /// that, and lines are short.
    fn hashed(&self, value: &Value) -> String {
        let text = match value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let mut hasher = Sha256::new();
        hasher.update((self.salt.len() as u64).to_le_bytes());
        hasher.update(&self.salt);
        hasher.update(text.as_bytes());
        format!("sha256:{}", hex(&hasher.finalize()[..16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction(salt: &str) -> Redaction {
        Redaction {
            drop: vec![Glob::new("subject")],
            hash: vec![Glob::new("p*"), Glob::new("subject")],
            salt: salt.into(),
        }
    }

    #[test]
    fn values_are_dropped_hashed_or_kept() {
        let redact = redaction("salt");
        assert_eq!(redact.apply("subject", "CN=x".into()), None);
        assert_eq!(redact.apply("device_id", "d".into()), Some("d".into()));
        let hashed = redact.apply("peer", "192.0.2.1".into()).unwrap();
        assert!(hashed.as_str().unwrap().starts_with("sha256:") && !hashed.to_string().contains("192"));
    }

    #[test]
    fn hashes_are_equal_for_equal_values_and_salts_only() {
        let hash = |salt: &str, value: &str| redaction(salt).apply("peer", value.into());
        assert_eq!(hash("salt", "a"), hash("salt", "a"));
        assert_ne!(hash("salt", "a"), hash("salt", "b"));
        assert_ne!(hash("salt", "a"), hash("other", "a"));
        // The border between salt and value cannot be moved.
        assert_ne!(hash("salt", "ab"), hash("salta", "b"));
    }
}
