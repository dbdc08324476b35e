//! The configuration, read and checked once.

use std::fmt;

use mqgate_plugin_sdk::access::{BROKER_VARIABLES, LimitsTable, Line, TopicLists, filter_template};
use mqgate_plugin_sdk::certificate::Field;
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::template::Template;
use mqgate_plugin_sdk::types::{InitError, Limits, PluginContext};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::claims::Required;
use crate::keys::{Algorithm, Jwk, Key};

/// Each may be tried for one token, and trying takes time.
const MOST_KEYS: usize = 16;
/// Ten minutes; clocks that differ by more are wrong.
const LONGEST_LEEWAY: u32 = 600;

pub struct Config {
    pub keys: Vec<Key>,
    pub token: Required,
    /// What `typ` of the header must be.
    pub typ: Option<String>,
    pub binding: Binding,
    /// Clients without a token are refused, and not left to others.
    pub required: bool,
    pub device_id: Template,
    pub tenant: Option<Template>,
    /// Claim with a list of tags.
    pub tags: Option<String>,
    pub user_name: Option<Template>,
    pub lines: Vec<Line>,
    pub publish: Option<ListClaim>,
    pub subscribe: Option<ListClaim>,
    pub outside: Outside,
    pub limits: Limits,
}

/// What ties a token to the certificate of the client that shows it.
#[derive(Debug, Default)]
pub enum Binding {
    #[default]
    /// `cnf` with the certificate's thumbprint, RFC 8705.
    Thumbprint,
    /// A claim that is the one value of a field.
    Claim { claim: String, field: Field },
    /// Whoever has the token may use it.
    None,
}

/// Topic filters that a token brings along, and how far they may reach.
pub struct ListClaim {
    pub claim: String,
    pub within: Vec<Template>,
}

#[derive(Deserialize, Default, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    #[default]
    Refuse,
    LeaveOut,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    keys: Vec<RawKey>,
    jwks: Option<RawKeySet>,
    issuer: String,
    audience: OneOrMore,
    #[serde(rename = "type")]
    typ: Option<String>,
    #[serde(default = "minute")]
    leeway: u32,
    maximum_lifetime: Option<u32>,
    #[serde(default)]
    binding: Binding,
    #[serde(default)]
    required: bool,
    #[serde(default = "subject")]
    device_id: String,
    tenant: Option<String>,
    tags_claim: Option<String>,
    require_username_matches: Option<String>,
    #[serde(default)]
    topics: RawTopics,
    #[serde(default)]
    limits: LimitsTable,
}

fn minute() -> u32 {
    60
}

fn subject() -> String {
    "${sub}".to_owned()
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawKey {
    algorithm: Algorithm,
    kid: Option<String>,
    pem: Option<String>,
    secret: Option<String>,
}

/// Sets have members of all kinds beside `keys`.
#[derive(Deserialize)]
struct RawKeySet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ClaimBinding {
    claim: String,
    field: Field,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawTopics {
    deny_publish: Vec<String>,
    deny_subscribe: Vec<String>,
    allow_publish: Vec<String>,
    allow_subscribe: Vec<String>,
    publish_claim: Option<String>,
    publish_within: Vec<String>,
    subscribe_claim: Option<String>,
    subscribe_within: Vec<String>,
    outside: Outside,
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        let keys = keys(raw.keys, raw.jwks)?;
        let audience = match raw.audience {
            OneOrMore::One(audience) => vec![audience],
            OneOrMore::More(audience) => audience,
        };
        if audience.is_empty() {
            return Err(problem("/audience", "needs at least one"));
        }
        if raw.leeway > LONGEST_LEEWAY {
            return Err(problem("/leeway", format!("is at most {LONGEST_LEEWAY} seconds")));
        }
        let lists = TopicLists {
            deny_publish: raw.topics.deny_publish,
            deny_subscribe: raw.topics.deny_subscribe,
            allow_publish: raw.topics.allow_publish,
            allow_subscribe: raw.topics.allow_subscribe,
        };
        let list = |key: &str, claim: Option<String>, within: Vec<String>| match (claim, within.is_empty()) {
            (None, true) => Ok(None),
            (None, false) => Err(problem(
                format!("/topics/{key}-within"),
                format!("there is no {key}-claim for it to bound"),
            )),
            (Some(_), true) => Err(problem(
                format!("/topics/{key}-claim"),
                format!(
                    "whoever issues tokens could grant everything: {key}-within says what may be in them"
                ),
            )),
            (Some(claim), false) => {
                let within = within.iter().enumerate().map(|(position, text)| {
                    let known = |name: &str| is_claim(name) || name == "device-id";
                    filter_template(text, known, |_| false)
                        .map_err(|why| problem(format!("/topics/{key}-within/{position}"), why))
                });
                Ok(Some(ListClaim { claim, within: within.collect::<Result<_, _>>()? }))
            }
        };
        let name = |at: &str, text: &str| match text {
            "" => Err(problem(at, "is empty")),
            text => {
                Template::parse(text, is_claim, |_| false).map_err(|error| problem(at, error.to_string()))
            }
        };
        Ok(Self {
            keys,
            token: Required {
                issuer: raw.issuer,
                audience,
                leeway: raw.leeway,
                longest_life: raw.maximum_lifetime,
            },
            typ: raw.typ,
            binding: raw.binding,
            required: raw.required,
            device_id: name("/device-id", &raw.device_id)?,
            tenant: raw.tenant.map(|text| name("/tenant", &text)).transpose()?,
            tags: raw.tags_claim,
            user_name: raw
                .require_username_matches
                .map(|text| name("/require-username-matches", &text))
                .transpose()?,
            lines: lists.check("/topics", is_claim, |_| Ok(()))?,
            publish: list("publish", raw.topics.publish_claim, raw.topics.publish_within)?,
            subscribe: list("subscribe", raw.topics.subscribe_claim, raw.topics.subscribe_within)?,
            outside: raw.topics.outside,
            limits: raw.limits.check("/limits")?,
        })
    }
}

/// Any name may be that of a claim, but for those that mean something else in topics: these are reached as `/tenant`.
fn is_claim(name: &str) -> bool {
    !name.is_empty() && !BROKER_VARIABLES.contains(&name)
}

fn keys(written: Vec<RawKey>, set: Option<RawKeySet>) -> Result<Vec<Key>, InitError> {
    let mut keys = Vec::new();
    for (index, RawKey { algorithm, kid, pem, secret }) in written.into_iter().enumerate() {
        let at = format!("/keys/{index}");
        let (place, key) = match (pem, secret, algorithm) {
            (None, Some(secret), Algorithm::Hs256) => ("/secret", Key::of_secret(kid, &secret)),
            (Some(pem), None, algorithm) => ("/pem", Key::of_pem(algorithm, kid, &pem)),
            (None, Some(_), algorithm) => {
                ("/secret", Err(format!("{algorithm} has a public key (pem) and no secret")))
            }
            (None, None, _) | (Some(_), Some(_), _) => ("", Err("has either pem or secret".into())),
        };
        keys.push(key.map_err(|why| problem(format!("{at}{place}"), why))?);
    }
    for (index, jwk) in set.into_iter().flat_map(|set| set.keys).enumerate() {
        let key = Key::of_jwk(jwk).map_err(|why| problem(format!("/jwks/keys/{index}"), why))?;
        keys.extend(key);
    }
    match keys.len() {
        0 => Err(problem(
            "",
            "needs a key: `keys`, or one in `jwks` that verifies ES256, RS256, PS256 or EdDSA",
        )),
        1..=MOST_KEYS => Ok(keys),
        several => Err(problem("", format!("{several} keys, more than {MOST_KEYS}"))),
    }
}

// By hand and not with `untagged`, which forgets what was wrong and where.
impl<'de> Deserialize<'de> for Binding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bindings;

        impl<'de> Visitor<'de> for Bindings {
            type Value = Binding;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"thumbprint\", \"none\", or { claim = \"…\", field = \"…\" }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Binding, E> {
                match name {
                    "thumbprint" => Ok(Binding::Thumbprint),
                    "none" => Ok(Binding::None),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Binding, A::Error> {
                let table = ClaimBinding::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Binding::Claim { claim: table.claim, field: table.field })
            }
        }

        deserializer.deserialize_any(Bindings)
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::{ED25519, P256, RSA, RSA_1024};

    fn read(changes: Value) -> Result<Config, (String, String)> {
        let mut config = json!({
            "keys": [{"algorithm": "ES256", "pem": P256}], "issuer": "i", "audience": "a"
        });
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        Config::read(&testing::context(&config.to_string())).map_err(|error| match error {
            InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
            InitError::Failed(message) => (String::new(), message),
        })
    }

    fn at(changes: Value) -> String {
        let shown = changes.to_string();
        read(changes).err().unwrap_or_else(|| panic!("{shown} was taken")).0
    }

    #[test]
    fn what_is_left_out_is_closed() {
        let config = read(json!({})).unwrap_or_else(|why| panic!("{why:?}"));
        assert!(matches!(config.binding, Binding::Thumbprint));
        assert_eq!((config.token.leeway, config.outside), (60, Outside::Refuse));
        assert!(config.lines.is_empty() && config.publish.is_none() && !config.required);
    }

    #[test]
    fn keys_of_every_kind_are_read_and_of_no_other() {
        let jwk = |members: Value| read(json!({"jwks": {"keys": [members]}})).map(|config| config.keys.len());
        for (algorithm, pem) in [("ES256", P256), ("EdDSA", ED25519), ("RS256", RSA), ("PS256", RSA)] {
            assert!(
                read(json!({"keys": [{"algorithm": algorithm, "pem": pem, "kid": "k"}]})).is_ok(),
                "{algorithm}"
            );
            // The key of one algorithm is none of another.
            let other = if algorithm == "ES256" { RSA } else { P256 };
            assert_eq!(
                at(json!({"keys": [{"algorithm": algorithm, "pem": other}]})),
                "/keys/0/pem",
                "{algorithm}"
            );
        }
        assert!(
            read(json!({"keys": [{"algorithm": "RS256", "pem": RSA_1024}]}))
                .err()
                .unwrap()
                .1
                .contains("1024 bits")
        );
        assert_eq!(at(json!({"keys": [{"algorithm": "none", "pem": P256}]})), "/keys/0/algorithm");
        assert_eq!(at(json!({"keys": [{"algorithm": "HS256", "pem": P256}]})), "/keys/0/pem");
        assert_eq!(at(json!({"keys": [{"algorithm": "ES256", "secret": "AAAA"}]})), "/keys/0/secret");
        assert_eq!(at(json!({"keys": [{"algorithm": "HS256", "secret": "AAAA"}]})), "/keys/0/secret");
        assert_eq!(at(json!({"keys": [{"algorithm": "ES256"}]})), "/keys/0");
        assert_eq!(at(json!({"keys": []})), "");
        assert_eq!(at(json!({"keys": vec![json!({"algorithm": "ES256", "pem": P256}); 17]})), "");
        // RFC 7515, A.3.1 and RFC 8037, A.2.
        let p256 = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        let ed25519 =
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!((jwk(p256.clone()), jwk(ed25519)), (Ok(2), Ok(2)));
        let with = |name: &str, value: Value| {
            let mut key = p256.clone();
            key[name] = value;
            jwk(key)
        };
        // What a set holds for others is passed over.
        for (name, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("alg", json!("ES384")),
            ("crv", json!("P-384")),
            ("kty", json!("oct")),
        ] {
            assert_eq!(with(name, value), Ok(1), "{name}");
        }
        assert_eq!(
            with("y", json!("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1")).unwrap_err().0,
            "/jwks/keys/0"
        );
        assert_eq!(with("x", Value::Null).unwrap_err().0, "/jwks/keys/0");
        let secret = json!({"kty": "oct", "alg": "HS256", "k": "A".repeat(43)});
        assert_eq!(at(json!({"keys": [], "jwks": {"keys": [secret]}})), "");
    }

    #[test]
    fn mistakes_are_pointed_at() {
        assert_eq!(at(json!({"audience": []})), "/audience");
        assert_eq!(at(json!({"audience": 3})), "/audience");
        assert_eq!(at(json!({"issuers": "x"})), "/issuers");
        assert_eq!(at(json!({"leeway": 601})), "/leeway");
        assert_eq!(at(json!({"binding": "cnf"})), "/binding");
        assert_eq!(at(json!({"binding": {"claim": "sub", "field": "subject"}})), "/binding/field");
        assert_eq!(at(json!({"device-id": ""})), "/device-id");
        assert_eq!(at(json!({"device-id": "${device-id}"})), "/device-id");
        assert_eq!(at(json!({"tenant": "${tenant}"})), "/tenant");
        assert_eq!(at(json!({"require-username-matches": "${"})), "/require-username-matches");
        assert_eq!(at(json!({"limits": {"maximum-qos": 9}})), "/limits/maximum-qos");
        assert_eq!(at(json!({"topics": {"allow-publish": ["a/#/b"]}})), "/topics/allow-publish/0");
        assert_eq!(at(json!({"topics": {"publish-claim": "p"}})), "/topics/publish-claim");
        assert_eq!(at(json!({"topics": {"subscribe-within": ["#"]}})), "/topics/subscribe-within");
        let wrong = json!({"topics": {"subscribe-claim": "s", "subscribe-within": ["a", "a/${client-id}"]}});
        assert_eq!(at(wrong), "/topics/subscribe-within/1");
        assert_eq!(at(json!({"topics": {"outside": "ignore"}})), "/topics/outside");
    }
}
