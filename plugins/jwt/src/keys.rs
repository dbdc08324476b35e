//! Keys of the configuration, each for one algorithm, and signatures verified with them. The algorithm is the key's and
//! never the token's: a token that names another finds no key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use p256::pkcs8::DecodePublicKey as _;
use rsa::BigUint;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::signature::Verifier as _;
use rsa::traits::PublicKeyParts as _;
use serde::Deserialize;
use sha2::Sha256;

use crate::token::{Token, decode};

/// RFC 7518, 3.3 and 3.5.
const SHORTEST_MODULUS: usize = 2048;
/// RFC 7518, 3.2.
const SHORTEST_SECRET: usize = 32;

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "EdDSA", alias = "Ed25519")]
    EdDsa,
    #[serde(rename = "HS256")]
    Hs256,
}

pub struct Key {
    pub kid: Option<String>,
    material: Material,
}

enum Material {
    Es256(p256::ecdsa::VerifyingKey),
    Rs256(rsa::pkcs1v15::VerifyingKey<rsa::sha2::Sha256>),
    Ps256(rsa::pss::VerifyingKey<rsa::sha2::Sha256>),
    EdDsa(ed25519_dalek::VerifyingKey),
    Hs256(Vec<u8>),
}

/// A JSON Web Key (RFC 7517) as far as it is read.
#[derive(Deserialize, Debug)]
pub struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Key {
    pub fn of_pem(algorithm: Algorithm, kid: Option<String>, pem: &str) -> Result<Self, String> {
        let wrong = |error: &dyn fmt::Display| format!("is no public key for {algorithm}: {error}");
        let material = match algorithm {
            Algorithm::Es256 => {
                let key = p256::PublicKey::from_public_key_pem(pem).map_err(|error| wrong(&error))?;
                Material::Es256(key.into())
            }
            Algorithm::EdDsa => Material::EdDsa(
                ed25519_dalek::VerifyingKey::from_public_key_pem(pem).map_err(|error| wrong(&error))?,
            ),
            Algorithm::Rs256 | Algorithm::Ps256 => rsa_key(
                algorithm,
                rsa::RsaPublicKey::from_public_key_pem(pem).map_err(|error| wrong(&error))?,
            )?,
            Algorithm::Hs256 => return Err("HS256 has a secret and no public key".into()),
        };
        Ok(Self { kid, material })
    }

    pub fn of_secret(kid: Option<String>, base64: &str) -> Result<Self, String> {
        let secret = STANDARD.decode(base64).map_err(|_| "is no base64".to_owned())?;
        if secret.len() < SHORTEST_SECRET {
            return Err(format!(
                "a secret has {SHORTEST_SECRET} bytes at least: `openssl rand -base64 32` makes one"
            ));
        }
        Ok(Self { kid, material: Material::Hs256(secret) })
    }

    /// `None` for keys that are for something else, which a set may hold: for encryption, of another curve or kind. Secrets
    /// (`oct`) are among these: they have no place among keys that are published.
    pub fn of_jwk(jwk: Jwk) -> Result<Option<Self>, String> {
        let for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        if !for_signatures {
            return Ok(None);
        }
        let part = |value: &Option<String>, name: &str| {
            let bytes = value.as_deref().and_then(decode);
            bytes.ok_or_else(|| format!("has no {name} in base64url"))
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()) {
            ("EC", Some("P-256"), None | Some("ES256")) => {
                let point = [vec![4], part(&jwk.x, "x")?, part(&jwk.y, "y")?].concat();
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                Material::Es256(key.map_err(|_| "is no point of P-256".to_owned())?)
            }
            ("OKP", Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => {
                let key =
                    part(&jwk.x, "x")?.try_into().map_err(|_| "has an x that is not 32 bytes".to_owned())?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&key);
                Material::EdDsa(key.map_err(|_| "is no point of Ed25519".to_owned())?)
            }
            ("RSA", _, alg @ (None | Some("RS256" | "PS256"))) => {
                let number =
                    |value: &Option<String>, name| part(value, name).map(|n| BigUint::from_bytes_be(&n));
                let key = rsa::RsaPublicKey::new(number(&jwk.n, "n")?, number(&jwk.e, "e")?);
                // What is there without a word is for the algorithm that nearly all of them are for.
                let algorithm = if alg == Some("PS256") { Algorithm::Ps256 } else { Algorithm::Rs256 };
                rsa_key(algorithm, key.map_err(|error| error.to_string())?)?
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { kid: jwk.kid, material }))
    }

    /// Whether a token may be tried with this key.
    pub fn is_for(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        let same_key = match (&self.kid, kid) {
            (Some(own), Some(named)) => own == named,
            // One of them does not tell keys apart.
            (None, _) | (_, None) => true,
        };
        same_key && self.algorithm() == algorithm
    }

    pub fn verifies(&self, token: &Token<'_>) -> bool {
        let (signed, signature) = (token.signed, token.signature.as_slice());
        match &self.material {
            Material::Es256(key) => p256::ecdsa::Signature::from_slice(signature).is_ok_and(|signature| {
                p256::ecdsa::signature::Verifier::verify(key, signed, &signature).is_ok()
            }),
            Material::Rs256(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
            Material::Ps256(key) => rsa::pss::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
            Material::EdDsa(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(signed, &signature).is_ok()),
            Material::Hs256(secret) => Hmac::<Sha256>::new_from_slice(secret)
                // In constant time.
                .is_ok_and(|mac| mac.chain_update(signed).verify_slice(signature).is_ok()),
        }
    }

    fn algorithm(&self) -> Algorithm {
        match &self.material {
            Material::Es256(_) => Algorithm::Es256,
            Material::Rs256(_) => Algorithm::Rs256,
            Material::Ps256(_) => Algorithm::Ps256,
            Material::EdDsa(_) => Algorithm::EdDsa,
            Material::Hs256(_) => Algorithm::Hs256,
        }
    }
}

fn rsa_key(algorithm: Algorithm, key: rsa::RsaPublicKey) -> Result<Material, String> {
    let bits = key.n().bits();
    if bits < SHORTEST_MODULUS {
        return Err(format!("is an RSA key of {bits} bits; {SHORTEST_MODULUS} are the least"));
    }
    Ok(match algorithm {
        Algorithm::Ps256 => Material::Ps256(rsa::pss::VerifyingKey::new(key)),
        _ => Material::Rs256(rsa::pkcs1v15::VerifyingKey::new(key)),
    })
}

impl Algorithm {
    /// What a header says; `none` is among those that are not there.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            // RFC 9864 has another name for it.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "HS256" => Some(Self::Hs256),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        })
    }
}
