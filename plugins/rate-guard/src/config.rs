//! The configuration, read and checked once.

use mqgate_plugin_sdk::certificate::Field;
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::rate::Rate;
use mqgate_plugin_sdk::select::Criteria;
use mqgate_plugin_sdk::types::{InitError, PluginContext};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A week; what is counted for longer is a quota and no rate.
const LONGEST_PERIOD: u32 = 604_800;
const LONGEST_NAME: usize = 64;

pub struct Config {
    /// In the order in which they are charged.
    pub limits: Vec<Limit>,
    pub unavailable: Unavailable,
}

pub struct Limit {
    pub name: String,
    pub of: Counted,
    pub per: Subject,
    /// `None`: whoever it is, certificate or not.
    pub criteria: Option<Criteria>,
    pub rate: Rate,
}

#[derive(Deserialize, Default, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    #[default]
    Connections,
    Registrations,
}

/// What has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Each value of a certificate's field.
    Field(Field),
    /// Each address of version 4, each network of 64 bits of version 6.
    Address,
    Listener,
    Everybody,
}

/// What becomes of clients that cannot be counted.
#[derive(Deserialize, Default, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    #[default]
    Refuse,
    LetPass,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    limits: Option<Vec<RawLimit>>,
    #[serde(default)]
    unavailable: Unavailable,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawLimit {
    name: String,
    #[serde(default)]
    of: Counted,
    per: Subject,
    #[serde(rename = "match")]
    criteria: Option<Criteria>,
    rate: u32,
    #[serde(default = "minute")]
    period: u32,
    burst: Option<u32>,
}

const fn minute() -> u32 {
    60
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        let raw_limits = raw.limits.unwrap_or_else(usual);
        let mut limits: Vec<Limit> = Vec::with_capacity(raw_limits.len());
        for (index, limit) in raw_limits.into_iter().enumerate() {
            let limit = limit.check(&format!("/limits/{index}"))?;
            if limits.iter().any(|other| other.name == limit.name) {
                return Err(problem(
                    format!("/limits/{index}/name"),
                    format!("another limit has the name {:?}, and with it the same buckets", limit.name),
                ));
            }
            limits.push(limit);
        }
        if limits.is_empty() {
            return Err(problem("/limits", "needs at least one limit"));
        }
        Ok(Self { limits, unavailable: raw.unavailable })
    }
}

/// What holds without configuration: a client that connects once a second is broken.
fn usual() -> Vec<RawLimit> {
    vec![RawLimit {
        name: "certificate".into(),
        of: Counted::Connections,
        per: Subject::Field(Field::Fingerprint),
        criteria: None,
        rate: 60,
        period: minute(),
        burst: Some(20),
    }]
}

impl RawLimit {
    fn check(self, at: &str) -> Result<Limit, InitError> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > LONGEST_NAME || !self.name.chars().all(fine) {
            let why = format!("a name has 1 to {LONGEST_NAME} of a to z, 0 to 9 and -");
            return Err(problem(format!("{at}/name"), why));
        }
        let burst = self.burst.unwrap_or(self.rate);
        for (key, number) in [("rate", self.rate), ("burst", burst)] {
            if number == 0 {
                return Err(problem(format!("{at}/{key}"), "is at least 1"));
            }
        }
        if self.period == 0 || self.period > LONGEST_PERIOD {
            let why = format!("is 1 to {LONGEST_PERIOD} seconds");
            return Err(problem(format!("{at}/period"), why));
        }
        Ok(Limit {
            name: self.name,
            of: self.of,
            per: self.per,
            criteria: self.criteria,
            rate: Rate { tokens: self.rate, period: self.period, burst },
        })
    }
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Field(field) => field.name(),
            Self::Address => "address",
            Self::Listener => "listener",
            Self::Everybody => "everybody",
        }
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.as_str() {
            "address" => Ok(Self::Address),
            "listener" => Ok(Self::Listener),
            "everybody" => Ok(Self::Everybody),
            name => Field::parse(name).map(Self::Field).ok_or_else(|| {
                D::Error::custom(format!(
                    "{name:?} is neither address, listener or everybody nor a certificate field"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;

    use super::*;

    fn read(json: &str) -> Result<Config, (String, String)> {
        Config::read(&testing::context(json)).map_err(|error| match error {
            InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
            InitError::Failed(message) => (String::new(), message),
        })
    }

    #[test]
    fn without_configuration_each_certificate_is_limited() {
        let config = read("{}").unwrap_or_else(|why| panic!("{why:?}"));
        let [limit] = &config.limits[..] else { panic!("not one limit") };
        assert_eq!((limit.of, limit.per), (Counted::Connections, Subject::Field(Field::Fingerprint)));
        assert_eq!(limit.rate, Rate::per_minute(60, 20));
        assert_eq!(config.unavailable, Unavailable::Refuse);
    }

    #[test]
    fn every_key_is_understood() {
        let config = read(
            r#"{"unavailable": "let-pass", "limits": [
                {"name": "units", "of": "registrations", "per": "ou", "match": {"o": "acme"}, "rate": 5, "period": 3600, "burst": 2},
                {"name": "all", "per": "everybody", "rate": 100}
            ]}"#,
        )
        .unwrap_or_else(|why| panic!("{why:?}"));
        assert_eq!(config.unavailable, Unavailable::LetPass);
        let [units, all] = &config.limits[..] else { panic!("not two limits") };
        assert_eq!(units.rate, Rate { tokens: 5, period: 3600, burst: 2 });
        assert_eq!((units.of, units.per), (Counted::Registrations, Subject::Field(Field::Ou)));
        assert!(units.criteria.is_some() && all.criteria.is_none());
        assert_eq!(all.rate, Rate::per_minute(100, 100));
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |limit: &str| {
            let json = format!(r#"{{"limits": [{{"name": "a", "per": "address", "rate": 1}}, {limit}]}}"#);
            read(&json).err().unwrap_or_else(|| panic!("{limit} was taken")).0
        };
        assert_eq!(at(r#"{"name": "", "per": "ou", "rate": 1}"#), "/limits/1/name");
        assert_eq!(at(r#"{"name": "a/b", "per": "ou", "rate": 1}"#), "/limits/1/name");
        assert_eq!(at(r#"{"name": "a", "per": "ou", "rate": 1}"#), "/limits/1/name");
        assert_eq!(at(r#"{"name": "b", "per": "org", "rate": 1}"#), "/limits/1/per");
        assert_eq!(at(r#"{"name": "b", "per": "ou", "rate": 0}"#), "/limits/1/rate");
        assert_eq!(at(r#"{"name": "b", "per": "ou", "rate": 1, "burst": 0}"#), "/limits/1/burst");
        assert_eq!(at(r#"{"name": "b", "per": "ou", "rate": 1, "period": 0}"#), "/limits/1/period");
        assert_eq!(at(r#"{"name": "b", "per": "ou", "rate": 1, "period": 604801}"#), "/limits/1/period");
        assert_eq!(at(r#"{"name": "b", "per": "ou", "rate": 1, "match": {"x": "y"}}"#), "/limits/1/match/x");
        assert_eq!(at(r#"{"name": "b", "per": "ou", "rate": 1, "of": "publishes"}"#), "/limits/1/of");
        assert_eq!(read(r#"{"limits": []}"#).err().unwrap().0, "/limits");
        assert_eq!(read(r#"{"unavailable": "open"}"#).err().unwrap().0, "/unavailable");
    }
}
