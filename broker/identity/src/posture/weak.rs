//! Keys that are weaker than they look.
//!
//! ROCA (CVE-2017-15361, Nemec et al., "The Return of Coppersmith's Attack", CCS 2017): the primes of a vulnerable key
//! are `k * M + (65537^a mod M)`, `M` being a product of the first primes. So its modulus is a power of 65537 modulo
//! `M`, which is all that has to be asked. A key that is not vulnerable is one by chance with a probability of about
//! 2^-154. Debian's keys of 2008 (CVE-2008-0166) take a list to be known, which is not here.

use std::fmt;
use std::sync::OnceLock;

use crate::certificate::{Structure, integer, object_identifier, oid, only, tag, take_tagged};

/// What is wrong with a key, or with the signature over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWeakness {
    /// RSA, of so many bits.
    Short(u32),
    Roca,
    /// The modulus of an RSA key can be divided by this.
    SmallFactor(u32),
    /// The public exponent of an RSA key is 1, or even.
    Exponent,
    /// The certificate is signed by means of this.
    Digest(&'static str),
}

impl fmt::Display for KeyWeakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(bits) => write!(f, "the RSA key has {bits} bits; 2048 are the least that is safe"),
            Self::Roca => f.write_str(
                "the key was made by the flawed library of Infineon chips (ROCA, CVE-2017-15361): others can work out \
                 its private part",
            ),
            Self::SmallFactor(factor) => write!(f, "the RSA modulus can be divided by {factor}"),
            Self::Exponent => f.write_str("the public exponent of the RSA key protects nothing"),
            Self::Digest(name) => write!(f, "the certificate is signed by means of {name}, which is broken"),
        }
    }
}

const SHORTEST: u32 = 2048;

/// The worst that is known of the key of a certificate (DER). What cannot be read is not weak: it is refused elsewhere.
pub fn key_weakness(der: &[u8]) -> Option<KeyWeakness> {
    let certificate = Structure::read(der).ok()?;
    if let Some((modulus, exponent)) = rsa(certificate.key) {
        if let Some(weakness) = weak_modulus(modulus) {
            return Some(weakness);
        }
        let exponent = exponent.strip_prefix(&[0]).unwrap_or(exponent);
        if exponent == [1] || exponent.last().is_none_or(|last| last % 2 == 0) {
            return Some(KeyWeakness::Exponent);
        }
        let bits = bits(modulus);
        if bits < SHORTEST {
            return Some(KeyWeakness::Short(bits));
        }
    }
    let mut algorithm = certificate.algorithm;
    let signed_by = object_identifier(take_tagged(&mut algorithm, tag::OBJECT_IDENTIFIER)?.content)?;
    match signed_by.as_str() {
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => {
            Some(KeyWeakness::Digest("SHA-1"))
        }
        "1.2.840.113549.1.1.4" => Some(KeyWeakness::Digest("MD5")),
        "1.2.840.113549.1.1.2" => Some(KeyWeakness::Digest("MD2")),
        _ => None,
    }
}

/// Modulus and exponent of an RSA key, from its SubjectPublicKeyInfo.
fn rsa(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = only(key, tag::SEQUENCE)?.content;
    let mut algorithm = take_tagged(&mut parts, tag::SEQUENCE)?.content;
    let kind = object_identifier(take_tagged(&mut algorithm, tag::OBJECT_IDENTIFIER)?.content)?;
    if kind != oid::RSA_ENCRYPTION {
        return None;
    }
    let bits = only(parts, tag::BIT_STRING)?.content.strip_prefix(&[0])?;
    let mut numbers = only(bits, tag::SEQUENCE)?.content;
    Some((integer(&mut numbers)?, integer(&mut numbers)?))
}

fn bits(big_endian: &[u8]) -> u32 {
    let zeros = big_endian.iter().take_while(|&&byte| byte == 0).count();
    let digits = &big_endian[zeros..];
    digits.first().map_or(0, |first| digits.len() as u32 * 8 - first.leading_zeros())
}

fn weak_modulus(modulus: &[u8]) -> Option<KeyWeakness> {
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Some(KeyWeakness::SmallFactor(2));
    }
    let mut is_roca = true;
    let mut known: Vec<(u32, u32)> = Vec::new();
    for group in groups() {
        let rest = remainder(modulus, group.prime);
        if rest == 0 {
            return Some(KeyWeakness::SmallFactor(group.prime));
        }
        // Whether one exponent can be meant for all primes: whether each two agree where they can be compared.
        let exponent = group.exponents[rest as usize].filter(|exponent| {
            is_roca
                && known.iter().all(|(other, order)| {
                    let common = greatest_common_divisor(*order, group.order);
                    exponent % common == other % common
                })
        });
        match exponent {
            Some(exponent) => known.push((exponent, group.order)),
            None => is_roca = false,
        }
    }
    is_roca.then_some(KeyWeakness::Roca)
}

/// What 65537 generates modulo a small prime.
struct Group {
    prime: u32,
    /// How many numbers it generates.
    order: u32,
    /// By number: the power of 65537 that it is.
    exponents: Vec<Option<u32>>,
}

/// The primes that divide `M` for keys of every size; 2 says nothing.
const LAST_PRIME: u32 = 167;
const GENERATOR: u32 = 65_537;

fn groups() -> &'static [Group] {
    static GROUPS: OnceLock<Vec<Group>> = OnceLock::new();
    GROUPS.get_or_init(|| {
        let is_prime = |number: &u32| (2..*number).all(|divisor| !number.is_multiple_of(divisor));
        (3..=LAST_PRIME).filter(is_prime).map(Group::new).collect()
    })
}

impl Group {
    fn new(prime: u32) -> Self {
        let mut exponents = vec![None; prime as usize];
        let (mut power, mut order) = (1, 0);
        while exponents[power as usize].is_none() {
            exponents[power as usize] = Some(order);
            power = power * (GENERATOR % prime) % prime;
            order += 1;
        }
        Self { prime, order, exponents }
    }
}

fn remainder(big_endian: &[u8], divisor: u32) -> u32 {
    big_endian.iter().fold(0, |rest, &byte| (rest << 8 | u32::from(byte)) % divisor)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
