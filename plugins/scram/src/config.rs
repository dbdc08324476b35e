//! What the operator configures: the users, and the secret of those who do not exist.

use std::collections::BTreeMap;

use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::types::{InitError, PluginContext};
use serde::Deserialize;

use crate::credentials::Credentials;

/// Shortest secret, in bytes.
const SECRET: usize = 16;
const LONGEST_NAME: usize = 256;
/// What `mqgate passwd` gives new users.
const USUAL: (u32, usize) = (16_384, 16);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    decoy_secret: String,
    users: BTreeMap<String, String>,
}

pub struct Config {
    users: BTreeMap<String, Credentials>,
    decoy_secret: Vec<u8>,
    /// Iterations and length of the salt of users who do not exist: those that most users have.
    usual: (u32, usize),
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let written: Written = parse(context)?;
        if written.decoy_secret.len() < SECRET {
            return Err(problem(
                "/decoy-secret",
                "a secret has 16 bytes at least: `openssl rand -hex 32` makes one",
            ));
        }
        let mut users = BTreeMap::new();
        for (name, line) in written.users {
            let at = format!("/users/{}", name.replace('~', "~0").replace('/', "~1"));
            if !is_name(&name) {
                return Err(problem(
                    at,
                    "a user name has 1 to 256 bytes, no `/`, `+`, `#` and no control character",
                ));
            }
            let credentials = Credentials::parse(&line).map_err(|why| problem(at, why))?;
            users.insert(name, credentials);
        }
        let usual = most_usual(&users);
        Ok(Self { users, decoy_secret: written.decoy_secret.into_bytes(), usual })
    }

    /// A user's credentials; those of one who does not exist fit no password.
    pub fn credentials(&self, user: &str) -> Credentials {
        // Made for everybody: making it takes time.
        let (iterations, salt_length) = self.usual;
        let decoy = Credentials::decoy(&self.decoy_secret, user, iterations, salt_length);
        self.users.get(user).cloned().unwrap_or(decoy)
    }
}

/// A user becomes a device id.
fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '+' | '#'))
}

fn most_usual(users: &BTreeMap<String, Credentials>) -> (u32, usize) {
    let mut counts: BTreeMap<(u32, usize), usize> = BTreeMap::new();
    for credentials in users.values() {
        *counts.entry((credentials.iterations, credentials.salt.len())).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(USUAL, |(usual, _)| usual)
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::context;

    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn read(users: &str) -> Result<Config, String> {
        let config = format!(r#"{{"decoy-secret": "0123456789abcdef", "users": {{{users}}}}}"#);
        Config::read(&context(&config)).map_err(|error| match error {
            InitError::InvalidConfig(problems) => format!("{}: {}", problems[0].at, problems[0].message),
            InitError::Failed(text) => text,
        })
    }

    fn user(name: &str, iterations: u32) -> String {
        format!(r#""{name}": "SCRAM-SHA-256${iterations}:AAAAAAAAAAAAAAAAAAAAAA==${KEY}:{KEY}""#)
    }

    #[test]
    fn mistakes_are_named_where_they_stand() {
        assert!(read(&user("a~/b", 4096)).is_err_and(|why| why.starts_with("/users/a~0~1b: a user name")));
        assert!(read(&user("ann", 1)).is_err_and(|why| why.starts_with("/users/ann: 4096")));
        assert!(read(r#""ann": 3"#).is_err_and(|why| why.starts_with("/users/ann: ")));
        let short = Config::read(&context(r#"{"decoy-secret": "0123456789abcde", "users": {}}"#));
        assert!(
            matches!(short, Err(InitError::InvalidConfig(problems)) if problems[0].at == "/decoy-secret")
        );
    }

    #[test]
    fn who_does_not_exist_looks_like_most_who_do() {
        let seen = |config: &Config| {
            let decoy = config.credentials("eve");
            (decoy.iterations, decoy.salt.len())
        };
        assert_eq!(seen(&read("").unwrap_or_else(|why| panic!("{why}"))), (16_384, 16));
        let users = [user("a", 5000), user("b", 9000), user("c", 5000)].join(",");
        assert_eq!(seen(&read(&users).unwrap_or_else(|why| panic!("{why}"))), (5000, 16));
    }
}
