//! The configuration, read and checked once.

use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::types::{AuditEvent, InitError, PluginContext};
use serde::Deserialize;

use crate::glob::Glob;
use crate::line::{REDACTABLE, outcome};
use crate::redact::Redaction;

/// Short salts can be guessed, and the hashed values with them: there are only so many addresses.
const SHORTEST_SALT: usize = 16;

pub struct Config {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
    outcomes: Vec<Glob>,
    pub redaction: Redaction,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    #[serde(default = "everything")]
    include: Vec<Glob>,
    #[serde(default)]
    exclude: Vec<Glob>,
    #[serde(default = "everything")]
    outcomes: Vec<Glob>,
    #[serde(default)]
    redact: RawRedact,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawRedact {
    drop: Vec<Glob>,
    hash: Vec<Glob>,
    salt: String,
}

fn everything() -> Vec<Glob> {
    vec![Glob::new("*")]
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        for (key, globs) in [("drop", &raw.redact.drop), ("hash", &raw.redact.hash)] {
            for (index, glob) in globs.iter().enumerate() {
                // A slip of the keyboard must not let pass what was meant to be hidden.
                let known =
                    REDACTABLE.iter().any(|name| glob.matches(name)) || glob.text().starts_with("fields.");
                if !known {
                    let names = REDACTABLE.join(", ");
                    let message =
                        format!("{:?} names nothing; there are {names} and fields.NAME", glob.text());
                    return Err(problem(format!("/redact/{key}/{index}"), message));
                }
            }
        }
        if !raw.redact.hash.is_empty() && raw.redact.salt.len() < SHORTEST_SALT {
            let message = format!("hashing needs a secret of at least {SHORTEST_SALT} bytes");
            return Err(problem("/redact/salt", message));
        }
        Ok(Self {
            include: raw.include,
            exclude: raw.exclude,
            outcomes: raw.outcomes,
            redaction: Redaction {
                drop: raw.redact.drop,
                hash: raw.redact.hash,
                salt: raw.redact.salt.into_bytes(),
            },
        })
    }

    pub fn wants(&self, event: &AuditEvent) -> bool {
        let any = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.matches(text));
        any(&self.include, &event.name)
            && !any(&self.exclude, &event.name)
            && any(&self.outcomes, outcome(event.outcome))
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;

    use super::*;

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |json: &str| match Config::read(&testing::context(json)) {
            Err(InitError::InvalidConfig(problems)) => problems[0].at.clone(),
            Err(InitError::Failed(message)) => message,
            Ok(_) => "taken".into(),
        };
        assert_eq!(at(r#"{"includes": []}"#), "/includes");
        assert_eq!(at(r#"{"redact": {"drop": ["subject", "fields.x", "p*"]}}"#), "taken");
        assert_eq!(at(r#"{"redact": {"drop": ["subject", "clientid"]}}"#), "/redact/drop/1");
        assert_eq!(at(r#"{"redact": {"drop": ["seq"]}}"#), "/redact/drop/0");
        assert_eq!(at(r#"{"redact": {"hash": ["peer"], "salt": "short"}}"#), "/redact/salt");
        assert_eq!(at(r#"{"redact": {"hash": ["peer"], "salt": "0123456789abcdef"}}"#), "taken");
    }
}
