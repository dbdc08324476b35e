//! What a server keeps of a password, and the arithmetic of SCRAM on it. [RFC 5802, section 3; RFC 7677]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::METHOD;

/// RFC 7677 says no less, and a client computes for as many.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=1_000_000;
/// Bytes of a salt.
const SALT: std::ops::RangeInclusive<usize> = 8..=32;

pub type Key = [u8; 32];

/// With them nobody logs in, but whoever has them can try passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub iterations: u32,
    pub salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl Credentials {
    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STORED-KEY:SERVER-KEY`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "this is not SCRAM-SHA-256$ITERATIONS:SALT$STORED-KEY:SERVER-KEY, as `mqgate passwd add --scram` writes it";
        let (head, keys) = text
            .strip_prefix(METHOD)
            .and_then(|rest| rest.strip_prefix('$'))
            .and_then(|rest| rest.split_once('$'))
            .ok_or(FORM)?;
        let (iterations, salt) = head.split_once(':').ok_or(FORM)?;
        let (stored, server) = keys.split_once(':').ok_or(FORM)?;
        let key = |text: &str| BASE64.decode(text).ok().and_then(|key| Key::try_from(key).ok()).ok_or(FORM);
        let (stored_key, server_key) = (key(stored)?, key(server)?);
        let iterations = iterations.parse().map_err(|_| FORM)?;
        if !ITERATIONS.contains(&iterations) {
            return Err("4096 to 1000000 iterations are possible");
        }
        let salt = BASE64.decode(salt).map_err(|_| FORM)?;
        if !SALT.contains(&salt.len()) {
            return Err("a salt has 8 to 32 bytes");
        }
        Ok(Self { iterations, salt, stored_key, server_key })
    }

    /// For a user who does not exist: the same salt each time, and no password that fits.
    pub fn decoy(secret: &[u8], user: &str, iterations: u32, salt_length: usize) -> Self {
        let mut salt = mac(secret, &[b"salt", user.as_bytes()]).to_vec();
        salt.truncate(salt_length);
        let nothing = mac(secret, &[b"no password", user.as_bytes()]);
        Self { iterations, salt, stored_key: nothing, server_key: nothing }
    }

    /// Whether `proof` is the client's for an exchange in which `signed` was said.
    pub fn fits(&self, signed: &[u8], proof: &Key) -> bool {
        let signature = mac(&self.stored_key, &[signed]);
        let mut client_key = *proof;
        for (byte, own) in client_key.iter_mut().zip(signature) {
            *byte ^= own;
        }
        let stored: Key = Sha256::digest(client_key).into();
        stored.ct_eq(&self.stored_key).into()
    }

    /// The server's own proof.
    pub fn server_signature(&self, signed: &[u8]) -> Key {
        mac(&self.server_key, &[signed])
    }
}

pub fn mac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_strictly() {
        let key = BASE64.encode([1; 32]);
        let line = |iterations: &str, salt: &[u8]| {
            Credentials::parse(&format!("SCRAM-SHA-256${iterations}:{}${key}:{key}", BASE64.encode(salt)))
        };
        assert_eq!(line("4096", &[1; 8]).map(|read| read.iterations), Ok(4096));
        assert!(line("1000000", &[1; 32]).is_ok());
        assert!(line("4095", &[1; 16]).is_err_and(|why| why.contains("4096 to")));
        assert!(line("1000001", &[1; 16]).is_err());
        assert!(line("x", &[1; 16]).is_err());
        assert!(line("4096", &[1; 7]).is_err_and(|why| why.contains("8 to 32 bytes")));
        assert!(line("4096", &[1; 33]).is_err());
        for bad in ["", "plain", "SCRAM-SHA-1$4096:AAAA$a:b", "SCRAM-SHA-256$4096:AAAAAAAAAAA=$AAAA:AAAA"] {
            assert!(Credentials::parse(bad).is_err_and(|why| why.contains("mqgate passwd")), "{bad}");
        }
    }

    #[test]
    fn a_decoy_fits_nobody() {
        let decoy = Credentials::decoy(b"secret", "eve", 4096, 16);
        assert_eq!(decoy, Credentials::decoy(b"secret", "eve", 4096, 16));
        assert_ne!(decoy.salt, Credentials::decoy(b"other secret", "eve", 4096, 16).salt);
        assert!(!decoy.fits(b"said", &[0; 32]));
    }
}
