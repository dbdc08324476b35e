//! Signed notes and checkpoints, as C2SP's `signed-note` and `tlog-checkpoint` define them: a text, an empty line, and
//! a line for each signature. Tools for other transparency logs read them.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::hash::Hash;

/// Ed25519 in signed notes.
const ALGORITHM: u8 = 1;
/// What a line with a signature begins with.
pub(crate) const SIGNATURE: &str = "\u{2014} ";
/// A note of ours has some hundred bytes.
pub const LARGEST_NOTE: usize = 16 << 10;

/// What is wrong with a key or a note; never a position in secret data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("not a key of the form name+hash+base64 (an Ed25519 key of a signed note)")]
    Key,
    #[error("not a PKCS#8 Ed25519 key in PEM")]
    PrivateKey,
    #[error("not a signed note: {0}")]
    Form(&'static str),
    #[error("not a checkpoint: {0}")]
    Checkpoint(&'static str),
    #[error("no signature by the key {0}")]
    NotSigned(String),
    #[error("the signature by the key {0} does not hold")]
    BadSignature(String),
}

/// A public key and the name it signs under. Written `name+hash+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    public: [u8; 32],
}

impl VerifyingKey {
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        let bytes = BASE64.decode(key).map_err(|_| NoteError::Key)?;
        let Some((&ALGORITHM, public)) = bytes.split_first() else { return Err(NoteError::Key) };
        let public = public.try_into().map_err(|_| NoteError::Key)?;
        let key = Self { name: name.to_owned(), public };
        if !is_name(name) || id != key.id() {
            return Err(NoteError::Key);
        }
        Ok(key)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Eight hexadecimal digits that name the key in signatures.
    pub fn id(&self) -> String {
        hex::encode(self.id_bytes())
    }

    fn id_bytes(&self) -> [u8; 4] {
        let hash = Hash::over(&[self.name.as_bytes(), b"\n", &[ALGORITHM], &self.public]);
        [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ALGORITHM];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, self.id(), BASE64.encode(key))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '+' || c.is_whitespace() || c.is_control())
}

/// A private key and the name it signs under.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    verifying: VerifyingKey,
}

impl SigningKey {
    /// A new key, and its PKCS#8 form in PEM.
    pub fn generate(name: &str) -> Result<(Self, String), NoteError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| NoteError::PrivateKey)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| NoteError::PrivateKey)?;
        let pem = pem::encode_config(
            &pem::Pem::new("PRIVATE KEY", pkcs8.as_ref()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        Ok((Self::over(pair, name)?, pem))
    }

    pub fn from_pem(name: &str, text: &str) -> Result<Self, NoteError> {
        let parsed = pem::parse(text).map_err(|_| NoteError::PrivateKey)?;
        if parsed.tag() != "PRIVATE KEY" {
            return Err(NoteError::PrivateKey);
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(parsed.contents())
            .map_err(|_| NoteError::PrivateKey)?;
        Self::over(pair, name)
    }

    fn over(pair: Ed25519KeyPair, name: &str) -> Result<Self, NoteError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::PrivateKey)?;
        if !is_name(name) {
            return Err(NoteError::Key);
        }
        Ok(Self { pair, verifying: VerifyingKey { name: name.to_owned(), public } })
    }

    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// The line that signs `text`, which ends in a line feed.
    fn signature_line(&self, text: &str) -> String {
        let mut blob = self.verifying.id_bytes().to_vec();
        blob.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{SIGNATURE}{} {}\n", self.verifying.name, BASE64.encode(blob))
    }
}

/// `text`, which ends in a line feed and holds no empty line, signed by each of `keys`.
pub fn sign(text: &str, keys: &[&SigningKey]) -> String {
    let lines: String = keys.iter().map(|key| key.signature_line(text)).collect();
    format!("{text}\n{lines}")
}

/// A note that was read; nothing about its signatures is known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    /// Key name, key id, signature.
    signatures: Vec<(String, [u8; 4], Vec<u8>)>,
}

impl Note {
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > LARGEST_NOTE {
            return Err(NoteError::Form("too large"));
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Form("no empty line before the signatures"))?;
        let (text, rest) = (&note[..=at], &note[at + 2..]);
        let lines = rest.strip_suffix('\n').ok_or(NoteError::Form("cut off"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            let line = line.strip_prefix(SIGNATURE).ok_or(NoteError::Form("a line that is no signature"))?;
            let (name, blob) = line.split_once(' ').ok_or(NoteError::Form("a signature without a name"))?;
            let blob = BASE64.decode(blob).map_err(|_| NoteError::Form("a signature that is no base64"))?;
            let Some((id, signature)) = blob.split_first_chunk::<4>() else {
                return Err(NoteError::Form("a signature that is too short"));
            };
            signatures.push((name.to_owned(), *id, signature.to_vec()));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The signed text, with its last line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `key` signed it.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), NoteError> {
        let mut of_key =
            self.signatures.iter().filter(|(name, id, _)| *name == key.name && *id == key.id_bytes());
        let (_, _, signature) = of_key.next().ok_or_else(|| NoteError::NotSigned(key.to_string()))?;
        UnparsedPublicKey::new(&ED25519, key.public)
            .verify(self.text.as_bytes(), signature)
            .map_err(|_| NoteError::BadSignature(key.to_string()))
    }
}

/// The state of the log when it had `size` records, and the note that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    /// Records in the tree: the sequence number of the last.
    pub size: u64,
    pub root: Hash,
    /// When it was signed: RFC 3339, UTC.
    pub time: String,
    /// The signed note.
    pub note: String,
}

impl Checkpoint {
    /// Signs the tree.
    pub fn sign(key: &SigningKey, size: u64, root: Hash, time: &str) -> Self {
        let origin = key.verifying.name.clone();
        let text = format!("{origin}\n{size}\n{}\ntime {time}\n", BASE64.encode(root.0));
        Self { note: sign(&text, &[key]), origin, size, root, time: time.to_owned() }
    }

    /// Reads a checkpoint; who signed it is for [`Note::verify`] to say.
    pub fn parse(note: &str) -> Result<(Self, Note), NoteError> {
        let parsed = Note::parse(note)?;
        let mut lines = parsed.text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Checkpoint("fewer than three lines"));
        };
        let plain = !size.starts_with('+') && (size == "0" || !size.starts_with('0'));
        let size = size.parse().ok().filter(|_| plain).ok_or(NoteError::Checkpoint("no tree size"))?;
        let root = BASE64.decode(root).ok().and_then(|root| root.try_into().ok());
        let root = Hash(root.ok_or(NoteError::Checkpoint("no root hash"))?);
        let time = lines.find_map(|line| line.strip_prefix("time ")).unwrap_or_default().to_owned();
        let checkpoint = Self { origin: origin.to_owned(), size, root, time, note: note.to_owned() };
        Ok((checkpoint, parsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_signed_read_and_verified() {
        let (key, pem) = SigningKey::generate("mqgate.audit/0011223344556677").unwrap();
        let again = SigningKey::from_pem("mqgate.audit/0011223344556677", &pem).unwrap();
        assert_eq!(again.verifying(), key.verifying());
        let checkpoint = Checkpoint::sign(&key, 1000, Hash([7; 32]), "2026-11-22T09:00:00.000Z");
        let (read, note) = Checkpoint::parse(&checkpoint.note).unwrap();
        assert_eq!(read, checkpoint);
        let public = VerifyingKey::parse(&key.verifying().to_string()).unwrap();
        assert_eq!(note.verify(&public), Ok(()));
        let (other, _) = SigningKey::generate("mqgate.audit/0011223344556677").unwrap();
        assert!(matches!(note.verify(other.verifying()), Err(NoteError::NotSigned(_))));
    }

    /// The key and the note of the specification's example.
    #[test]
    fn the_example_of_signed_notes_holds() {
        let key = VerifyingKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
            .unwrap();
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(Note::parse(note).unwrap().verify(&key), Ok(()));
        let forged = note.replace("problem is", "problem isn't");
        assert!(matches!(Note::parse(&forged).unwrap().verify(&key), Err(NoteError::BadSignature(_))));
    }

    #[test]
    fn every_changed_byte_of_a_checkpoint_is_noticed() {
        let (key, _) = SigningKey::generate("mqgate.audit/0011223344556677").unwrap();
        let checkpoint = Checkpoint::sign(&key, 12, Hash([7; 32]), "2026-11-22T09:00:00.000Z");
        for at in 0..checkpoint.note.len() {
            let mut bytes = checkpoint.note.clone().into_bytes();
            bytes[at] ^= 1;
            let holds = String::from_utf8(bytes).is_ok_and(|text| {
                Checkpoint::parse(&text).is_ok_and(|(_, note)| note.verify(key.verifying()).is_ok())
            });
            assert!(!holds, "byte {at}");
        }
    }

    #[test]
    fn what_is_no_key_and_no_note_is_said_so() {
        for text in [
            "",
            "a+b",
            "a+00000000+AA==",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert_eq!(VerifyingKey::parse(text), Err(NoteError::Key), "{text}");
        }
        for text in [
            "",
            "a\n",
            "a\n\n",
            "a\n\nb\n",
            "a\n\n\u{2014} b\n",
            "a\n\n\u{2014} b AAAA\n",
            "a\n\n\u{2014} b AAAAAAAA",
        ] {
            assert!(matches!(Note::parse(text), Err(NoteError::Form(_))), "{text:?}");
        }
        let key = SigningKey::generate("k").unwrap().0;
        for text in ["a\n", "a\n+1\nAAAA\n", "a\n01\nAAAA\n", "a\n1\nAAAA\n"] {
            assert!(
                matches!(Checkpoint::parse(&sign(text, &[&key])), Err(NoteError::Checkpoint(_))),
                "{text:?}"
            );
        }
    }
}
