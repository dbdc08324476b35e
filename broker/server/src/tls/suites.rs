//! Cipher suites and key-exchange groups by the names that people write, OpenSSL's and IANA's.

use std::fmt;

use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, kx_group};

use super::TlsVersion;

/// The IANA name, OpenSSL's name, and the suite; in the order of preference.
const SUITES: [(&str, &str, SupportedCipherSuite); 9] = [
    ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// The usual names of each group, the first as we show it; in the order of preference.
const GROUPS: [(&[&str], &dyn SupportedKxGroup, Default); 5] = [
    (&["X25519MLKEM768"], kx_group::X25519MLKEM768, Default::Yes),
    (&["X25519"], kx_group::X25519, Default::Yes),
    (&["secp256r1", "P-256", "prime256v1"], kx_group::SECP256R1, Default::Yes),
    (&["secp384r1", "P-384"], kx_group::SECP384R1, Default::Yes),
    (&["SecP256r1MLKEM768"], kx_group::SECP256R1MLKEM768, Default::No),
];

/// Whether a group is offered unless configured otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Default {
    Yes,
    No,
}

/// Cipher suites in order of preference; at least one.
#[derive(Clone, PartialEq)]
pub struct CipherSuites(Vec<SupportedCipherSuite>);

/// Key-exchange groups in order of preference; at least one.
#[derive(Clone)]
pub struct KeyExchangeGroups(Vec<&'static dyn SupportedKxGroup>);

/// A name that leads to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "the cipher suite `{0}` uses a pre-shared key (PSK), which this broker does not speak: authenticate devices \
         by certificate, or clients by password; remove it from the list"
    )]
    Psk(String),
    #[error(
        "the cipher suite `{0}` is not supported: forward secrecy and authenticated encryption are required; there are {1}"
    )]
    Suite(String, String),
    #[error("there is no key-exchange group `{0}` here; there are {1}")]
    Group(String, String),
    #[error("no cipher suite is left: leave the key out for the default")]
    NoSuite,
    #[error("no key-exchange group is left: leave the key out for the default")]
    NoGroup,
}

impl std::default::Default for CipherSuites {
    fn default() -> Self {
        Self(SUITES.iter().map(|(_, _, suite)| *suite).collect())
    }
}

impl std::default::Default for KeyExchangeGroups {
    fn default() -> Self {
        let wanted = GROUPS.iter().filter(|(_, _, default)| *default == Default::Yes);
        Self(wanted.map(|(_, group, _)| *group).collect())
    }
}

impl CipherSuites {
    /// From names as OpenSSL or IANA write them, in either case; a name may hold several, separated by `:` or `,`.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, NameError> {
        let mut suites = Vec::new();
        for name in parts(names) {
            let suite = find_suite(name)?;
            if !suites.contains(&suite) {
                suites.push(suite);
            }
        }
        if suites.is_empty() { Err(NameError::NoSuite) } else { Ok(Self(suites)) }
    }

    /// Whether one of them is of this version.
    pub fn serves(&self, version: TlsVersion) -> bool {
        self.0.iter().any(|suite| version_of(suite) == version)
    }

    /// Those of a version, by name.
    pub fn all_of(version: TlsVersion) -> String {
        let of_version = SUITES.iter().filter(|(_, _, suite)| version_of(suite) == version);
        of_version.map(|(_, openssl, _)| *openssl).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn to_vec(&self) -> Vec<SupportedCipherSuite> {
        self.0.clone()
    }
}

impl KeyExchangeGroups {
    /// From names as OpenSSL or IANA write them, in either case; a name may hold several, separated by `:` or `,`.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, NameError> {
        let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
        for name in parts(names) {
            let known =
                |(names, ..): &&(&[&str], _, _)| names.iter().any(|known| known.eq_ignore_ascii_case(name));
            let Some((_, group, _)) = GROUPS.iter().find(known) else {
                let all: Vec<_> = GROUPS.iter().filter_map(|(names, ..)| names.first().copied()).collect();
                return Err(NameError::Group(name.to_owned(), all.join(", ")));
            };
            if groups.iter().all(|have| have.name() != group.name()) {
                groups.push(*group);
            }
        }
        if groups.is_empty() { Err(NameError::NoGroup) } else { Ok(Self(groups)) }
    }

    /// ML-KEM alone or beside a curve exists only in TLS 1.3.
    pub fn serves_tls12(&self) -> bool {
        self.0.iter().any(|group| !matches!(u16::from(group.name()), 0x0200..=0x0202 | 0x11eb..=0x11ed))
    }

    pub(super) fn to_vec(&self) -> Vec<&'static dyn SupportedKxGroup> {
        self.0.clone()
    }
}

impl fmt::Debug for CipherSuites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(SupportedCipherSuite::suite)).finish()
    }
}

impl fmt::Debug for KeyExchangeGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|group| group.name())).finish()
    }
}

fn parts<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    names.into_iter().flat_map(|name| name.split([':', ','])).map(str::trim).filter(|name| !name.is_empty())
}

fn version_of(suite: &SupportedCipherSuite) -> TlsVersion {
    match suite {
        SupportedCipherSuite::Tls12(_) => TlsVersion::V1_2,
        SupportedCipherSuite::Tls13(_) => TlsVersion::V1_3,
    }
}

fn find_suite(name: &str) -> Result<SupportedCipherSuite, NameError> {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    if let Some((_, _, suite)) = SUITES.iter().find(|(iana, openssl, _)| is(iana) || is(openssl)) {
        return Ok(*suite);
    }
    let is_psk = name.split(['-', '_']).any(|part| part.eq_ignore_ascii_case("PSK"));
    if is_psk {
        return Err(NameError::Psk(name.to_owned()));
    }
    let all: Vec<_> = SUITES.iter().map(|(_, openssl, _)| *openssl).collect();
    Err(NameError::Suite(name.to_owned(), all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_two_names() {
        for (iana, openssl, suite) in SUITES {
            let lower = openssl.to_ascii_lowercase();
            for name in [iana, openssl, &lower] {
                assert_eq!(CipherSuites::parse([name]), Ok(CipherSuites(vec![suite])), "{name}");
            }
            // The library's name differs for TLS 1.3 only.
            let known = suite.suite().as_str().unwrap().replace("TLS13_", "TLS_");
            assert_eq!(known, iana);
        }
        assert_eq!(SUITES.len(), rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.len());
    }

    #[test]
    fn a_list_is_read_in_its_order() {
        let one = "ECDHE-RSA-CHACHA20-POLY1305:TLS_AES_128_GCM_SHA256,ECDHE-RSA-CHACHA20-POLY1305";
        let suites = CipherSuites::parse([one]).unwrap();
        assert_eq!(
            format!("{suites:?}"),
            "[TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256]"
        );
        assert!(suites.serves(TlsVersion::V1_2) && suites.serves(TlsVersion::V1_3));
        assert!(!CipherSuites::parse(["TLS_AES_128_GCM_SHA256"]).unwrap().serves(TlsVersion::V1_2));
        assert_eq!(CipherSuites::parse([" : "]), Err(NameError::NoSuite));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for name in ["RSA-PSK-AES128-CBC-SHA", "PSK-AES256-GCM-SHA384", "TLS_PSK_WITH_AES_128_CBC_SHA"] {
            assert_eq!(CipherSuites::parse([name]), Err(NameError::Psk(name.into())));
        }
        for name in ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "TLS_RSA_WITH_AES_128_GCM_SHA256", "none"] {
            assert!(matches!(CipherSuites::parse([name]), Err(NameError::Suite(..))), "{name}");
        }
    }

    #[test]
    fn groups_by_any_of_their_names() {
        let groups = KeyExchangeGroups::parse(["P-256", "x25519mlkem768:secp384r1", "prime256v1"]).unwrap();
        assert_eq!(format!("{groups:?}"), "[secp256r1, X25519MLKEM768, secp384r1]");
        assert!(groups.serves_tls12());
        assert!(!KeyExchangeGroups::parse(["X25519MLKEM768"]).unwrap().serves_tls12());
        let error = KeyExchangeGroups::parse(["ffdhe2048"]).err().unwrap().to_string();
        assert!(error.contains("`ffdhe2048`") && error.contains("X25519MLKEM768"), "{error}");
        let default = KeyExchangeGroups::default();
        assert_eq!(format!("{default:?}"), "[X25519MLKEM768, X25519, secp256r1, secp384r1]");
    }
}
