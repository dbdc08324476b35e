//! Private keys: which kinds are made, how they are written into files and read from them.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::exit::Failure;

/// Rounds of PBKDF2 with HMAC-SHA-256.
const ROUNDS: u32 = 600_000;

/// Which kind of key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum KeyKind {
    #[default]
    #[value(name = "ec-p256", alias = "ec", alias = "ecdsa")]
    EcP256,
    #[value(name = "ec-p384")]
    EcP384,
    #[value(name = "rsa-2048")]
    Rsa2048,
    #[value(name = "rsa-3072", alias = "rsa")]
    Rsa3072,
    #[value(name = "rsa-4096")]
    Rsa4096,
    Ed25519,
}

impl KeyKind {
    pub fn generate(self) -> Result<KeyPair> {
        let rsa = |size| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size);
        match self {
            Self::EcP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::EcP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => rsa(RsaKeySize::_2048),
            Self::Rsa3072 => rsa(RsaKeySize::_3072),
            Self::Rsa4096 => rsa(RsaKeySize::_4096),
            Self::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
        }
        .context("no key can be generated")
    }
}

/// PEM text of PKCS #8; with a password, encrypted (PBES2: PBKDF2 and AES-256-CBC, which OpenSSL reads too).
pub fn to_pem(key: &KeyPair, password: Option<&str>) -> Result<String> {
    let der = without_public_key(key.serialized_der());
    let Some(password) = password else {
        let document = SecretDocument::try_from(der.as_slice()).map_err(unwritable)?;
        return Ok(document.to_pem("PRIVATE KEY", LineEnding::LF).map_err(unwritable)?.to_string());
    };
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| anyhow!("no random numbers: {error}"))?;
    let (salt, iv) = random.split_at(16);
    let iv = iv.try_into().context("an initialisation vector has 16 bytes")?;
    let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, salt, iv)
        .map_err(|error| anyhow!("the key cannot be encrypted: {error}"))?;
    let plain = PrivateKeyInfoRef::try_from(der.as_slice()).map_err(unwritable)?;
    let encrypted = plain.encrypt_with_params(parameters, password).map_err(unwritable)?;
    Ok(encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).map_err(unwritable)?.to_string())
}

fn unwritable(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the key cannot be written as PKCS #8: {error}")
}

/// Ed25519 keys come with their public half (RFC 5958, version 2), which OpenSSL 3.0 does not read. The form
/// without it (RFC 8410) has the same 32 bytes of key.
fn without_public_key(der: &[u8]) -> Vec<u8> {
    const VERSION_2: &[u8] =
        &[0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    const PLAIN: &[u8] =
        &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    match der.get(2..).and_then(|rest| rest.strip_prefix(VERSION_2)).and_then(|rest| rest.get(..32)) {
        Some(seed) => [PLAIN, seed].concat(),
        None => der.to_vec(),
    }
}

/// Reads the first private key of a PEM file: PKCS #8, encrypted or not, PKCS #1 or SEC 1.
pub fn read(path: &Path, password: Option<&str>) -> Result<KeyPair> {
    from_pem(&super::read(path)?, password).with_context(|| format!("{} holds no usable key", path.display()))
}

fn from_pem(text: &[u8], password: Option<&str>) -> Result<KeyPair> {
    let shown = String::from_utf8_lossy(text);
    if let Some(start) = shown.find("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        let Some(password) = password else {
            return Err(Failure::refused("it is encrypted: give its password by --ca-password-file").into());
        };
        let (_, document) = SecretDocument::from_pem(section(&shown[start..]))
            .map_err(|error| Failure::refused(format!("the encrypted key is no PEM: {error}")))?;
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
            .map_err(|error| Failure::refused(format!("the encrypted key cannot be read: {error}")))?;
        let plain = encrypted
            .decrypt(password)
            .map_err(|_| Failure::refused("the password is wrong, or the encryption is not known here"))?;
        return KeyPair::try_from(plain.as_bytes()).map_err(|_| unsupported());
    }
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| Failure::refused(error.to_string()))?;
    KeyPair::try_from(&key).map_err(|_| unsupported())
}

fn unsupported() -> anyhow::Error {
    Failure::refused("its kind of key is not supported: ECDSA (P-256, P-384), Ed25519 and RSA are").into()
}

/// From `text`, which begins with a PEM section, that section alone.
fn section(text: &str) -> &str {
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    text.find(END).map_or(text, |end| &text[..end + END.len()])
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;

    use super::*;

    #[test]
    fn keys_are_written_and_read_again() {
        for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048, KeyKind::Ed25519] {
            let key = kind.generate().expect("a key");
            let public = key.subject_public_key_info();
            let plain = to_pem(&key, None).expect("PEM");
            assert!(plain.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{kind:?}");
            assert_eq!(from_pem(plain.as_bytes(), None).expect("a key").subject_public_key_info(), public);
        }
    }

    #[test]
    fn a_password_is_needed_and_must_be_the_right_one() {
        let key = KeyKind::Ed25519.generate().expect("a key");
        let text = to_pem(&key, Some("open sesame")).expect("PEM");
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        let read = |password| from_pem(text.as_bytes(), password).map(|key| key.subject_public_key_info());
        assert_eq!(read(Some("open sesame")).expect("a key"), key.subject_public_key_info());
        let error = read(None).expect_err("no password");
        assert!(error.to_string().contains("--ca-password-file"), "{error}");
        assert!(read(Some("wrong")).is_err());
    }
}
