//! Private keys from PEM: plain, as encrypted PKCS #8, or encrypted in the way of OpenSSL before 1.0.
//!
//! The ciphers are those that tools write; which of them is in use is read from the file.

use std::sync::Arc;

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use des::TdesEde3;
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::EncryptionScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::SigningKey;

/// Why a private key cannot be used. Says what to do; which file it is, the caller knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no private key in it: it must hold \"-----BEGIN PRIVATE KEY-----\"")]
    Missing,
    #[error("the private key is encrypted: set `password` (the text, \"file://PATH\" or \"env:NAME\")")]
    NoPassword,
    #[error("the private key cannot be decrypted: the password is wrong")]
    WrongPassword,
    #[error(
        "the private key is encrypted with {0}, which is not supported: write it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc`"
    )]
    Encryption(String),
    #[error("this is no PEM: {0}")]
    Pem(String),
    #[error(
        "the private key cannot be used: {0}; RSA from 2048 bits, ECDSA on P-256, P-384 and P-521, and Ed25519 can"
    )]
    Unusable(String),
}

/// A private key that can sign, and whether its password was needed.
pub(super) struct ReadKey {
    pub(super) signing: Arc<dyn SigningKey>,
    pub(super) encrypted: bool,
}

/// The first private key in `text`; certificates beside it are passed over.
pub(super) fn read(text: &[u8], password: Option<&str>) -> Result<ReadKey, KeyError> {
    let (der, encrypted) = read_der(text, password)?;
    let unusable = |error: rustls::Error| KeyError::Unusable(error.to_string());
    Ok(ReadKey { signing: any_supported_type(&der).map_err(unusable)?, encrypted })
}

/// And whether it was encrypted.
fn read_der(text: &[u8], password: Option<&str>) -> Result<(PrivateKeyDer<'static>, bool), KeyError> {
    let sections = pem::parse_many(text).map_err(|error| KeyError::Pem(error.to_string()))?;
    let section = sections
        .into_iter()
        .find(|section| section.tag().ends_with("PRIVATE KEY"))
        .ok_or(KeyError::Missing)?;
    let usable = |der: &PrivateKeyDer<'static>| {
        any_supported_type(der).map_err(|error| KeyError::Unusable(error.to_string()))
    };
    let encrypted_legacy =
        section.headers().get("Proc-Type").is_some_and(|value| value.ends_with("ENCRYPTED"));
    if section.tag() != "ENCRYPTED PRIVATE KEY" && !encrypted_legacy {
        return Ok((typed(section.tag(), section.contents().to_vec())?, false));
    }
    let password = password.ok_or(KeyError::NoPassword)?.as_bytes();
    let der = if encrypted_legacy {
        let info = section.headers().get("DEK-Info").unwrap_or_default();
        typed(section.tag(), decrypt_legacy(section.contents(), info, password)?)?
    } else {
        PrivatePkcs8KeyDer::from(decrypt_pkcs8(section.contents(), password)?).into()
    };
    // The padding fits a wrong password once in 256 times: what comes out is no key then.
    usable(&der).map_err(|error| match looks_like_key(&der) {
        true => error,
        false => KeyError::WrongPassword,
    })?;
    Ok((der, true))
}

/// The first private key in `text` as PEM that is not encrypted.
pub fn plain_pem(text: &[u8], password: Option<&str>) -> Result<String, KeyError> {
    let (der, _) = read_der(text, password)?;
    let tag = match &der {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    Ok(pem::encode(&pem::Pem::new(tag, der.secret_der().to_vec())))
}

fn typed(tag: &str, der: Vec<u8>) -> Result<PrivateKeyDer<'static>, KeyError> {
    Ok(match tag {
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(der).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der).into(),
        other => return Err(KeyError::Unusable(format!("a key of type \"{other}\""))),
    })
}

/// A SEQUENCE of the length it says, a small INTEGER first: every form of private key begins so.
fn looks_like_key(der: &PrivateKeyDer<'_>) -> bool {
    let bytes = der.secret_der();
    let (header, length) = match bytes {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(*high) << 8 | usize::from(*low)),
        _ => return false,
    };
    bytes.len() == header + length && bytes[header..].starts_with(&[0x02, 0x01])
}

fn decrypt_pkcs8(der: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let info = EncryptedPrivateKeyInfoRef::try_from(der)
        .map_err(|error| KeyError::Encryption(format!("a scheme that is not known here ({error})")))?;
    if let EncryptionScheme::Pbes1(_) = info.encryption_algorithm {
        return Err(KeyError::Encryption("PBES1".to_owned()));
    }
    info.decrypt(password).map(|document| document.as_bytes().to_vec()).map_err(|_| KeyError::WrongPassword)
}

/// RFC 1421 headers as OpenSSL writes them: `DEK-Info: AES-256-CBC,` and the initialisation vector, of which the
/// first eight bytes are the salt of the key, too.
fn decrypt_legacy(data: &[u8], info: &str, password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (name, iv) = info.split_once(',').unwrap_or((info, ""));
    let iv =
        hex::decode(iv.trim()).map_err(|_| KeyError::Pem("the DEK-Info header is damaged".to_owned()))?;
    let salt = iv.get(..8).ok_or_else(|| KeyError::Pem("the DEK-Info header is too short".to_owned()))?;
    match name.trim() {
        "AES-128-CBC" => decrypt_cbc::<Aes128>(data, &bytes_to_key(password, salt, 16), &iv),
        "AES-192-CBC" => decrypt_cbc::<Aes192>(data, &bytes_to_key(password, salt, 24), &iv),
        "AES-256-CBC" => decrypt_cbc::<Aes256>(data, &bytes_to_key(password, salt, 32), &iv),
        "DES-EDE3-CBC" => decrypt_cbc::<TdesEde3>(data, &bytes_to_key(password, salt, 24), &iv),
        other => Err(KeyError::Encryption(other.chars().take(64).collect())),
    }
}

fn decrypt_cbc<C>(data: &[u8], key: &[u8], iv: &[u8]) -> Result<Vec<u8>, KeyError>
where
    C: BlockCipherDecrypt + KeyInit,
{
    cbc::Decryptor::<C>::new_from_slices(key, iv)
        .map_err(|_| KeyError::Pem("the DEK-Info header does not fit the cipher".to_owned()))?
        .decrypt_padded_vec::<Pkcs7>(data)
        .map_err(|_| KeyError::WrongPassword)
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round: what the form is defined by.
fn bytes_to_key(password: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let mut key: Vec<u8> = Vec::with_capacity(length + 16);
    let mut block: Vec<u8> = Vec::new();
    while key.len() < length {
        let mut hash = Md5::new();
        hash.update(&block);
        hash.update(password);
        hash.update(salt);
        block = hash.finalize().to_vec();
        key.extend_from_slice(&block);
    }
    key.truncate(length);
    key
}
