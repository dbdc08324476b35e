//! Signatures of components: whose key made one, whether that key is trusted, and what it signs.
//!
//! Everything is in the signature's file and the operator's configuration: no network, no clock of anybody else.
//! Who makes signatures is elsewhere; [`statement`] is what both sides agree on.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use mqgate_identity::time::UnixMillis;
use serde::{Deserialize, Serialize};

const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
const PREFIX: &str = "ed25519:";
const FORMAT: u32 = 1;
/// No signature's file is larger.
const MAX_TEXT: usize = 4096;

/// An Ed25519 public key, shown as `ed25519:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

/// A key whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// Name the operator gave it: what audit records and lists call it.
    pub name: String,
    pub key: PublicKey,
    /// From then on nothing new is accepted by it; what was accepted before goes on.
    pub until: Option<UnixMillis>,
}

/// Whose signatures count, and whether there must be one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    pub require_signed: bool,
    pub keys: Vec<TrustedKey>,
}

/// A signature over a component's digest and the moment of signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub digest: String,
    pub signed_at: UnixMillis,
    pub key: PublicKey,
    pub bytes: [u8; SIGNATURE_BYTES],
}

/// The trusted key that signed a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    pub name: String,
    /// As [`PublicKey`] is shown.
    pub key: String,
}

/// The file beside a component: `NAME.wasm.sig`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mqgate_plugin_signature: u32,
    digest: String,
    /// Milliseconds since the Unix epoch.
    signed_at: u64,
    key: String,
    signature: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("this is no signature of a plugin: {0}")]
    Malformed(String),
    #[error("the signature is for {signed}, and the component is {digest}")]
    OtherComponent { signed: String, digest: String },
    #[error("the signature does not hold: it was not made by the key {0} for this component")]
    Broken(PublicKey),
    #[error("the signature is by {0}, which is none of the trusted keys")]
    UnknownKey(PublicKey),
    #[error("the key `{0}` is trusted no longer: its time is over")]
    Expired(String),
    #[error("there is no signature, and `plugin_host.require_signed` asks for one")]
    Missing,
}

/// What is signed.
pub fn statement(digest: &str, signed_at: UnixMillis) -> Vec<u8> {
    format!("mqgate plugin signature {FORMAT}\n{digest}\n{}\n", signed_at.0).into_bytes()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let malformed =
            || SignatureError::Malformed(format!("a key is `{PREFIX}` and 64 hexadecimal digits"));
        let mut key = [0; KEY_BYTES];
        let digits = text.trim().strip_prefix(PREFIX).ok_or_else(malformed)?;
        hex::decode_to_slice(digits, &mut key).map_err(|_| malformed())?;
        Ok(Self(key))
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        if text.len() > MAX_TEXT {
            return Err(SignatureError::Malformed(format!("it has more than {MAX_TEXT} bytes")));
        }
        let file: File =
            serde_json::from_str(text).map_err(|error| SignatureError::Malformed(error.to_string()))?;
        if file.mqgate_plugin_signature != FORMAT {
            let what =
                format!("its format is {}, and this broker reads {FORMAT}", file.mqgate_plugin_signature);
            return Err(SignatureError::Malformed(what));
        }
        let mut bytes = [0; SIGNATURE_BYTES];
        hex::decode_to_slice(&file.signature, &mut bytes)
            .map_err(|error| SignatureError::Malformed(format!("`signature`: {error}")))?;
        Ok(Self { digest: file.digest, signed_at: UnixMillis(file.signed_at), key: file.key.parse()?, bytes })
    }
}

impl fmt::Display for Signature {
    /// The file's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = File {
            mqgate_plugin_signature: FORMAT,
            digest: self.digest.clone(),
            signed_at: self.signed_at.0,
            key: self.key.to_string(),
            signature: hex::encode(self.bytes),
        };
        f.write_str(&serde_json::to_string(&file).map_err(|_| fmt::Error)?)
    }
}

impl Signature {
    /// Whether the key it names made it, for this component.
    pub fn holds_for(&self, digest: &str) -> Result<(), SignatureError> {
        if self.digest != digest {
            let (signed, digest) = (self.digest.clone(), digest.to_owned());
            return Err(SignatureError::OtherComponent { signed, digest });
        }
        UnparsedPublicKey::new(&ED25519, &self.key.0)
            .verify(&statement(digest, self.signed_at), &self.bytes)
            .map_err(|_| SignatureError::Broken(self.key))
    }
}

impl Trust {
    /// Of the keys, for messages.
    pub(crate) fn names(&self) -> String {
        match &self.keys[..] {
            [] => String::from("no key"),
            keys => keys.iter().map(|trusted| trusted.name.as_str()).collect::<Vec<_>>().join(", "),
        }
    }

    /// Who signed a component that is new here. `None`: nobody, and nobody has to.
    pub fn check(
        &self,
        digest: &str,
        signature: Option<&Signature>,
        now: UnixMillis,
    ) -> Result<Option<Signer>, SignatureError> {
        let Some(signature) = signature else {
            return if self.require_signed { Err(SignatureError::Missing) } else { Ok(None) };
        };
        if self.keys.is_empty() && !self.require_signed {
            return Ok(None);
        }
        signature.holds_for(digest)?;
        let known = self.keys.iter().find(|trusted| trusted.key == signature.key);
        let trusted = known.ok_or(SignatureError::UnknownKey(signature.key))?;
        // By the broker's clock: the moment in the signature is its maker's word.
        if trusted.until.is_some_and(|until| now >= until) {
            return Err(SignatureError::Expired(trusted.name.clone()));
        }
        Ok(Some(Signer { name: trusted.name.clone(), key: trusted.key.to_string() }))
    }

    /// Whether what was accepted earlier, by this key or without any, may run again: a key whose time is over counts,
    /// one that was taken out of the configuration does not.
    pub fn check_again(&self, signer: Option<&Signer>) -> Result<(), SignatureError> {
        if !self.require_signed {
            return Ok(());
        }
        let signer = signer.ok_or(SignatureError::Missing)?;
        if self.keys.iter().any(|trusted| trusted.key.to_string() == signer.key) {
            return Ok(());
        }
        Err(signer.key.parse().map_or_else(|error| error, SignatureError::UnknownKey))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);

    struct Maker {
        pair: Ed25519KeyPair,
    }

    impl Maker {
        fn new(seed: u8) -> Self {
            Self { pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key") }
        }

        fn key(&self) -> PublicKey {
            PublicKey(self.pair.public_key().as_ref().try_into().expect("32 bytes"))
        }

        fn sign(&self, digest: &str) -> Signature {
            let bytes = self.pair.sign(&statement(digest, NOW)).as_ref().try_into().expect("64 bytes");
            Signature { digest: digest.to_owned(), signed_at: NOW, key: self.key(), bytes }
        }

        fn trusted(&self, until: Option<UnixMillis>) -> Trust {
            let key = TrustedKey { name: String::from("release"), key: self.key(), until };
            Trust { require_signed: true, keys: vec![key] }
        }
    }

    #[test]
    fn a_signature_is_written_and_read_again() {
        let signature = Maker::new(1).sign("sha256:aa");
        let text = signature.to_string();
        assert_eq!(text.parse(), Ok(signature));
        for (from, to) in [("signature\":1", "signature\":2"), ("ed25519:", "rsa:"), ("{", "[")] {
            let error = text.replacen(from, to, 1).parse::<Signature>().expect_err("refused");
            assert!(matches!(error, SignatureError::Malformed(_)), "{error}");
        }
        let long = " ".repeat(MAX_TEXT + 1);
        assert!(long.parse::<Signature>().is_err());
    }

    #[test]
    fn one_changed_byte_breaks_it() {
        let (maker, digest) = (Maker::new(1), "sha256:aa");
        let good = maker.sign(digest);
        assert_eq!(good.holds_for(digest), Ok(()));
        let mut bad = good.clone();
        bad.bytes[40] ^= 1;
        assert_eq!(bad.holds_for(digest), Err(SignatureError::Broken(maker.key())));
        let mut later = good.clone();
        later.signed_at = UnixMillis(NOW.0 + 1);
        assert!(later.holds_for(digest).is_err(), "the moment is signed too");
        let mut claimed = good.clone();
        claimed.key = Maker::new(2).key();
        assert!(claimed.holds_for(digest).is_err(), "another key did not make it");
        assert!(matches!(good.holds_for("sha256:bb"), Err(SignatureError::OtherComponent { .. })));
    }

    #[test]
    fn a_trusted_key_counts_while_its_time_lasts() {
        let (maker, digest) = (Maker::new(1), "sha256:aa");
        let signature = maker.sign(digest);
        let until = UnixMillis(5_000);
        let trust = maker.trusted(Some(until));
        let signer = trust.check(digest, Some(&signature), UnixMillis(4_999)).expect("trusted");
        assert_eq!(signer.as_ref().map(|signer| signer.name.as_str()), Some("release"));
        let late = trust.check(digest, Some(&signature), until);
        assert_eq!(late, Err(SignatureError::Expired(String::from("release"))));
        // It goes on after a restart, until its key is taken away.
        assert_eq!(trust.check_again(signer.as_ref()), Ok(()));
        let other = Maker::new(2).trusted(None);
        assert_eq!(other.check_again(signer.as_ref()), Err(SignatureError::UnknownKey(maker.key())));
        assert_eq!(other.check_again(None), Err(SignatureError::Missing));
        let stranger = other.check(digest, Some(&signature), NOW);
        assert_eq!(stranger, Err(SignatureError::UnknownKey(maker.key())));
    }

    #[test]
    fn without_keys_nothing_is_asked_and_with_keys_what_is_given_must_hold() {
        let (maker, digest) = (Maker::new(1), "sha256:aa");
        let mut bad = maker.sign(digest);
        bad.bytes[0] ^= 1;
        assert_eq!(Trust::default().check(digest, Some(&bad), NOW), Ok(None));
        let optional = Trust { require_signed: false, ..maker.trusted(None) };
        assert_eq!(optional.check(digest, None, NOW), Ok(None));
        assert!(optional.check(digest, Some(&bad), NOW).is_err());
        assert_eq!(maker.trusted(None).check(digest, None, NOW), Err(SignatureError::Missing));
        assert_eq!(optional.check_again(None), Ok(()));
    }
}
