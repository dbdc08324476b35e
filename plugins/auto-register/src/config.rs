//! The configuration, read and checked once.

use mqgate_plugin_sdk::certificate::{Field, hex};
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::select::{Criteria, Source};
use mqgate_plugin_sdk::template::plain;
use mqgate_plugin_sdk::types::{ConflictPolicy, InitError, PluginContext, TrustAnchor};
use serde::Deserialize;

/// A century; longer is a slip of the keyboard.
const MOST_DAYS: u32 = 36_500;

pub struct Config {
    /// In the order in which they are tried.
    pub cas: Vec<Ca>,
}

/// What certificates of one authority may do.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ca {
    /// Name of the trust anchor; with neither this nor the fingerprint, any.
    #[serde(default)]
    anchor: Option<String>,
    /// SHA-256 of the trust anchor's DER in hexadecimal, with or without colons.
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default, rename = "match")]
    pub criteria: Criteria,
    #[serde(default = "common_name")]
    pub device_id: Vec<Source>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub on_conflict: OnConflict,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub maximum_lifetime_days: Option<u32>,
    #[serde(default = "most_devices")]
    pub maximum_devices: u64,
    #[serde(default = "per_minute")]
    pub registrations_per_minute: u32,
    #[serde(default = "burst")]
    pub burst: u32,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Active,
    Pending,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    Refuse,
    /// How many a device may have, and what becomes of the older ones, is the broker's to say.
    #[default]
    AddCertificate,
    ReplaceCertificates,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    cas: Option<Vec<Ca>>,
}

fn common_name() -> Vec<Source> {
    vec![Source::field(Field::Cn)]
}

const fn most_devices() -> u64 {
    100_000
}

const fn per_minute() -> u32 {
    6_000
}

const fn burst() -> u32 {
    1_000
}

impl Config {
    /// Without `cas`, every authority the broker trusts may register, within the default bounds.
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        let mut cas = match raw.cas {
            Some(cas) => cas,
            None => vec![serde_json::from_str("{}").map_err(|error| InitError::Failed(error.to_string()))?],
        };
        for (index, ca) in cas.iter_mut().enumerate() {
            ca.check(&format!("/cas/{index}"))?;
        }
        Ok(Self { cas })
    }
}

impl Ca {
    pub fn is(&self, anchor: &TrustAnchor) -> bool {
        self.anchor.as_ref().is_none_or(|name| *name == anchor.name)
            && self.fingerprint.as_ref().is_none_or(|digits| *digits == hex(&anchor.fingerprint_sha256))
    }

    fn check(&mut self, at: &str) -> Result<(), InitError> {
        if let Some(fingerprint) = &mut self.fingerprint {
            fingerprint.retain(|c| c != ':');
            fingerprint.make_ascii_lowercase();
            if fingerprint.len() != 64 || !fingerprint.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(problem(
                    format!("{at}/fingerprint"),
                    "a SHA-256 fingerprint has 64 hexadecimal digits",
                ));
            }
        }
        if self.device_id.is_empty() {
            return Err(problem(format!("{at}/device-id"), "needs at least one field"));
        }
        if let Some(Err(why)) = self.tenant.as_deref().map(plain) {
            return Err(problem(format!("{at}/tenant"), format!("the tenant {why}")));
        }
        if self.maximum_lifetime_days.is_some_and(|days| days == 0 || days > MOST_DAYS) {
            return Err(problem(format!("{at}/maximum-lifetime-days"), format!("is 1 to {MOST_DAYS}")));
        }
        for (key, number) in
            [("registrations-per-minute", self.registrations_per_minute), ("burst", self.burst)]
        {
            if number == 0 {
                return Err(problem(
                    format!("{at}/{key}"),
                    "is at least 1; leave the authority out to register nothing",
                ));
            }
        }
        Ok(())
    }
}

impl From<OnConflict> for ConflictPolicy {
    fn from(policy: OnConflict) -> Self {
        match policy {
            OnConflict::Refuse => Self::Refuse,
            OnConflict::AddCertificate => Self::AddCertificate,
            OnConflict::ReplaceCertificates => Self::ReplaceCertificates,
        }
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;

    use super::*;

    fn read(json: &str) -> Result<Config, String> {
        Config::read(&testing::context(json)).map_err(|error| match error {
            InitError::InvalidConfig(problems) => problems[0].at.clone(),
            InitError::Failed(message) => message,
        })
    }

    #[test]
    fn without_configuration_every_trusted_authority_may_register() {
        let config = read("{}").ok().unwrap();
        let any = TrustAnchor { name: "any".into(), fingerprint_sha256: vec![7; 32] };
        assert!(config.cas.len() == 1 && config.cas[0].is(&any) && config.cas[0].mode == Mode::Active);
        assert!(read(r#"{"cas": []}"#).ok().unwrap().cas.is_empty());
    }

    #[test]
    fn an_authority_is_known_by_name_or_fingerprint() {
        let anchor = TrustAnchor { name: "fleet".into(), fingerprint_sha256: vec![0xab; 32] };
        let is = |json: &str| read(&format!(r#"{{"cas": [{json}]}}"#)).ok().unwrap().cas[0].is(&anchor);
        assert!(is(r#"{"anchor": "fleet"}"#));
        assert!(!is(r#"{"anchor": "other"}"#));
        assert!(is(&format!(r#"{{"fingerprint": "{}"}}"#, ["AB"; 32].join(":"))));
        assert!(!is(&format!(r#"{{"anchor": "fleet", "fingerprint": "{}"}}"#, "cd".repeat(32))));
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |json: &str| read(&format!(r#"{{"cas": [{json}]}}"#)).err().unwrap_or_default();
        assert_eq!(at(r#"{"fingerprint": "ab"}"#), "/cas/0/fingerprint");
        assert_eq!(at(r#"{"device-id": []}"#), "/cas/0/device-id");
        assert_eq!(at(r#"{"mode": "held"}"#), "/cas/0/mode");
        assert_eq!(at(r#"{"tenant": "a/b"}"#), "/cas/0/tenant");
        assert_eq!(at(r#"{"burst": 0}"#), "/cas/0/burst");
        assert_eq!(at(r#"{"maximum-lifetime-days": 40000}"#), "/cas/0/maximum-lifetime-days");
        assert_eq!(at(r#"{"match": {"cn": {"pattern": "("}}}"#), "/cas/0/match/cn/pattern");
    }
}
