//! The configuration, read and checked once.

use std::collections::BTreeMap;
use std::time::Duration;

use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::types::{InitError, PluginContext};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// In milliseconds; nobody waits longer for CONNACK.
const LONGEST_TIMEOUT: u32 = 60_000;
/// An hour, in seconds.
const LONGEST_CACHE: u32 = 3600;
const LARGEST_ANSWER: usize = 1 << 20;

pub struct Config {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
    pub hooks: Vec<Hook>,
    /// The certificate as a whole is sent as well.
    pub der: bool,
    pub maximum_answer: usize,
    /// Longest time in seconds for which an answer is kept.
    pub maximum_cache: u32,
    /// Of everything that is configured: another configuration keeps answers of its own.
    pub digest: [u8; 32],
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Authenticator,
    Authorizer,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    url: String,
    #[serde(default)]
    insecure: bool,
    bearer_token: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "most_of_the_call")]
    timeout: u32,
    #[serde(default = "both")]
    hooks: Vec<Hook>,
    #[serde(default)]
    der: bool,
    #[serde(default = "kibibytes_64")]
    maximum_answer: usize,
    #[serde(default = "five_minutes")]
    maximum_cache: u32,
}

fn most_of_the_call() -> u32 {
    1500
}

fn both() -> Vec<Hook> {
    vec![Hook::Authenticator, Hook::Authorizer]
}

fn kibibytes_64() -> usize {
    64 << 10
}

fn five_minutes() -> u32 {
    300
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        check_url(&raw.url, raw.insecure).map_err(|why| problem("/url", why))?;
        let mut headers = vec![("accept".to_owned(), "application/json".to_owned())];
        for (name, value) in raw.headers {
            let at = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
            let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if name.is_empty() || !name.chars().all(fine) {
                return Err(problem(at, "a name has letters, digits and -"));
            }
            if !is_header_value(&value) {
                return Err(problem(at, "a value has printable ASCII characters"));
            }
            let name = name.to_ascii_lowercase();
            if matches!(name.as_str(), "content-type" | "content-length" | "accept" | "host") {
                return Err(problem(at, "is set by the plugin itself"));
            }
            if name == "authorization" && raw.bearer_token.is_some() {
                return Err(problem(at, "bearer-token sets it already"));
            }
            headers.push((name, value));
        }
        if let Some(token) = raw.bearer_token {
            if token.is_empty() || !is_header_value(&token) || token.contains(' ') {
                return Err(problem("/bearer-token", "has printable ASCII characters and no blanks"));
            }
            headers.push(("authorization".into(), format!("Bearer {token}")));
        }
        for (at, number, most) in [
            ("/timeout", raw.timeout as usize, LONGEST_TIMEOUT as usize),
            ("/maximum-answer", raw.maximum_answer, LARGEST_ANSWER),
        ] {
            if number == 0 || number > most {
                return Err(problem(at, format!("is 1 to {most}")));
            }
        }
        if raw.maximum_cache > LONGEST_CACHE {
            return Err(problem("/maximum-cache", format!("is at most {LONGEST_CACHE} seconds")));
        }
        if raw.hooks.is_empty() {
            return Err(problem("/hooks", "needs at least one"));
        }
        Ok(Self {
            url: raw.url,
            headers,
            timeout: Duration::from_millis(raw.timeout.into()),
            hooks: raw.hooks,
            der: raw.der,
            maximum_answer: raw.maximum_answer,
            maximum_cache: raw.maximum_cache,
            digest: Sha256::digest(&context.config).into(),
        })
    }
}

fn check_url(url: &str, insecure: bool) -> Result<(), &'static str> {
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some(("http", rest)) if insecure => rest,
        Some(("http", _)) => {
            return Err("is not encrypted: what it answers could be anybody's. `insecure = true` takes it");
        }
        _ => return Err("begins with https://"),
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty()
        || authority.contains('@')
        || !url.chars().all(|c| c.is_ascii_graphic())
        || url.contains('#')
    {
        return Err("is a URL with a host, without user and fragment");
    }
    Ok(())
}

fn is_header_value(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_graphic() || c == ' ')
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
    fn every_key_is_understood() {
        let config = read(
            r#"{"url": "http://p.example:8080/v1?x=1", "insecure": true, "bearer-token": "t0ken", "headers": {"X-Site": "plant 1"},
                "timeout": 500, "hooks": ["authorizer"], "der": true, "maximum-answer": 1000, "maximum-cache": 0}"#,
        )
        .unwrap_or_else(|why| panic!("{why:?}"));
        let headers: Vec<String> =
            config.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(headers, ["accept: application/json", "x-site: plant 1", "authorization: Bearer t0ken"]);
        assert_eq!((config.timeout.as_millis(), config.hooks.as_slice()), (500, &[Hook::Authorizer][..]));
        assert!(config.der && config.maximum_answer == 1000 && config.maximum_cache == 0);
        let usual = read(r#"{"url": "https://p.example"}"#).unwrap_or_else(|why| panic!("{why:?}"));
        assert_eq!(
            (usual.timeout.as_millis(), usual.maximum_answer, usual.maximum_cache),
            (1500, 65536, 300)
        );
        assert_ne!(usual.digest, config.digest);
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |more: &str| {
            let json = format!(r#"{{"url": "https://p.example"{more}}}"#);
            read(&json).err().unwrap_or_else(|| panic!("{json} was taken")).0
        };
        for url in [
            "",
            "p.example",
            "ftp://p.example",
            "https://",
            "https:///x",
            "https://u@p.example",
            "https://p.example/#x",
            "https://p.example/ x",
            "http://p.example",
            "https://ü.example",
        ] {
            assert_eq!(
                read(&format!(r#"{{"url": "{url}"}}"#)).err().map(|(at, _)| at).as_deref(),
                Some("/url"),
                "{url}"
            );
        }
        assert_eq!(read("{}").err().unwrap().1, "missing field `url`");
        assert_eq!(at(r#", "bearer-token": """#), "/bearer-token");
        assert_eq!(at(r#", "bearer-token": "a\r\nx: y""#), "/bearer-token");
        assert_eq!(at(r#", "headers": {"x": "a\nb"}"#), "/headers/x");
        assert_eq!(at(r#", "headers": {"x y": "a"}"#), "/headers/x y");
        assert_eq!(at(r#", "headers": {"Content-Type": "a"}"#), "/headers/Content-Type");
        assert_eq!(
            at(r#", "bearer-token": "t", "headers": {"Authorization": "a"}"#),
            "/headers/Authorization"
        );
        assert_eq!(at(r#", "timeout": 0"#), "/timeout");
        assert_eq!(at(r#", "timeout": 60001"#), "/timeout");
        assert_eq!(at(r#", "maximum-answer": 1048577"#), "/maximum-answer");
        assert_eq!(at(r#", "maximum-cache": 3601"#), "/maximum-cache");
        assert_eq!(at(r#", "hooks": []"#), "/hooks");
        assert_eq!(at(r#", "hooks": ["registrar"]"#), "/hooks/0");
    }
}
