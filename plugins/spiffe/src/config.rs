//! The configuration, read and checked once. Past this module a rule cannot be wrong.

use mqgate_plugin_sdk::access::{LimitsTable, Line, TopicLists};
use mqgate_plugin_sdk::certificate::hex;
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::template::Template;
use mqgate_plugin_sdk::types::{CacheHint, CacheScope, InitError, Limits, PluginContext, TrustAnchor};
use serde::Deserialize;

use crate::id::{is_segment_char, trust_domain_name};
use crate::path::PathPattern;

/// As the broker has it.
const MOST_TAGS: usize = 64;

pub struct Config {
    pub trust_domains: Vec<TrustDomain>,
    /// In the order in which they are tried.
    pub ids: Vec<Rule>,
    /// Certificates without a SPIFFE ID are refused, and not left to others.
    pub required: bool,
    /// Seconds for which an answer holds for everybody with the same certificate.
    cache: u32,
}

pub struct TrustDomain {
    pub name: String,
    /// Empty: every anchor that the broker trusts.
    anchors: Vec<String>,
}

/// What becomes of SPIFFE IDs whose path fits.
pub struct Rule {
    pub name: String,
    /// `None`: of every trust domain.
    pub trust_domain: Option<String>,
    pub path: PathPattern,
    pub refuse: bool,
    pub device_id: Template,
    pub tenant: Option<Template>,
    pub tags: Vec<Template>,
    pub lines: Vec<Line>,
    pub limits: Limits,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    trust_domains: Vec<RawTrustDomain>,
    ids: Vec<RawRule>,
    #[serde(default)]
    required: bool,
    #[serde(default = "five_minutes")]
    cache: u32,
}

fn five_minutes() -> u32 {
    300
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawTrustDomain {
    name: String,
    #[serde(default)]
    anchors: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRule {
    name: Option<String>,
    trust_domain: Option<String>,
    path: String,
    #[serde(default)]
    refuse: bool,
    #[serde(default = "captured_id")]
    device_id: String,
    tenant: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    deny_publish: Vec<String>,
    #[serde(default)]
    deny_subscribe: Vec<String>,
    #[serde(default)]
    allow_publish: Vec<String>,
    #[serde(default)]
    allow_subscribe: Vec<String>,
    #[serde(default)]
    limits: LimitsTable,
}

fn captured_id() -> String {
    "${id}".to_owned()
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        let trust_domains = trust_domains(raw.trust_domains)?;
        if raw.ids.is_empty() {
            return Err(problem("/ids", "needs at least one entry"));
        }
        let ids = raw.ids.into_iter().enumerate();
        let ids = ids.map(|(index, rule)| rule.check(index, &trust_domains)).collect::<Result<_, _>>()?;
        Ok(Self { trust_domains, ids, required: raw.required, cache: raw.cache })
    }

    /// Nothing but the certificate counts.
    pub fn cache(&self) -> Option<CacheHint> {
        (self.cache > 0).then_some(CacheHint { scope: CacheScope::Certificate, ttl: self.cache })
    }
}

impl TrustDomain {
    /// Whether `anchor` may vouch for this trust domain.
    pub fn is_of(&self, anchor: &TrustAnchor) -> bool {
        self.anchors.is_empty()
            || self.anchors.iter().any(|known| match known.strip_prefix(FINGERPRINT) {
                Some(digits) => digits == hex(&anchor.fingerprint_sha256),
                None => *known == anchor.name,
            })
    }
}

/// In front of the fingerprint of an anchor; without it, it is a name.
const FINGERPRINT: &str = "sha256:";

fn trust_domains(raw: Vec<RawTrustDomain>) -> Result<Vec<TrustDomain>, InitError> {
    let several = raw.len() > 1;
    let mut trust_domains: Vec<TrustDomain> = Vec::new();
    for (index, RawTrustDomain { name, mut anchors }) in raw.into_iter().enumerate() {
        let at = format!("/trust-domains/{index}");
        trust_domain_name(&name)
            .map_err(|why| problem(format!("{at}/name"), format!("{name:?} is no name: it {why}")))?;
        if trust_domains.iter().any(|other| other.name == name) {
            return Err(problem(format!("{at}/name"), format!("{name} stands here twice")));
        }
        if several && anchors.is_empty() {
            let why = "with several trust domains each names the anchors that may vouch for it: else each could \
                       name devices of all";
            return Err(problem(format!("{at}/anchors"), why));
        }
        for (position, anchor) in anchors.iter_mut().enumerate() {
            if let Some(digits) = anchor.strip_prefix(FINGERPRINT) {
                let digits = digits.replace(':', "").to_ascii_lowercase();
                if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    let why = "a SHA-256 fingerprint has 64 hexadecimal digits";
                    return Err(problem(format!("{at}/anchors/{position}"), why));
                }
                *anchor = format!("{FINGERPRINT}{digits}");
            }
        }
        trust_domains.push(TrustDomain { name, anchors });
    }
    if trust_domains.is_empty() {
        return Err(problem("/trust-domains", "needs at least one trust domain"));
    }
    Ok(trust_domains)
}

impl RawRule {
    fn check(self, index: usize, trust_domains: &[TrustDomain]) -> Result<Rule, InitError> {
        let at = format!("/ids/{index}");
        let below = |key: &str| format!("{at}/{key}");
        let path = PathPattern::parse(&self.path)
            .map_err(|why| problem(below("path"), format!("a pattern of a path {why}")))?;
        if let Some(name) = &self.trust_domain
            && !trust_domains.iter().any(|known| known.name == *name)
        {
            return Err(problem(below("trust-domain"), format!("there is no trust domain {name:?}")));
        }
        let lists = TopicLists {
            deny_publish: self.deny_publish,
            deny_subscribe: self.deny_subscribe,
            allow_publish: self.allow_publish,
            allow_subscribe: self.allow_subscribe,
        };
        let known = |name: &str| name == "trust-domain" || path.has(name);
        let rule = Rule {
            name: self.name.unwrap_or_else(|| format!("id {index}")),
            trust_domain: self.trust_domain,
            refuse: self.refuse,
            device_id: match self.refuse {
                // Nobody is named by it.
                true => Template::parse("", |_| false, |_| false).map_err(|e| problem("", e.to_string()))?,
                false => name_template(&below("device-id"), &self.device_id, known)?,
            },
            tenant: self.tenant.map(|text| name_template(&below("tenant"), &text, known)).transpose()?,
            tags: self
                .tags
                .iter()
                .enumerate()
                .map(|(position, text)| name_template(&format!("{at}/tags/{position}"), text, known))
                .collect::<Result<_, _>>()?,
            lines: lists.check(&at, known, |_| Ok(()))?,
            limits: self.limits.check(format_args!("{at}/limits"))?,
            path,
        };
        for (text, at) in lists.texts(&at) {
            tells_apart(text).map_err(|why| problem(at, why))?;
        }
        if rule.refuse && (!rule.lines.is_empty() || rule.tenant.is_some() || !rule.tags.is_empty()) {
            return Err(problem(at, "an entry that refuses has no tenant, tags or topics"));
        }
        if rule.tags.len() > MOST_TAGS {
            return Err(problem(below("tags"), format!("more than {MOST_TAGS} tags")));
        }
        let several = rule.trust_domain.is_none() && trust_domains.len() > 1;
        if several && !rule.refuse && !rule.device_id.uses("trust-domain") {
            let why = "the same path of two trust domains would be one device: put ${trust-domain} into device-id, \
                       or say which trust-domain the entry is about";
            return Err(problem(below("device-id"), why));
        }
        Ok(rule)
    }
}

/// What becomes a name: nothing in it is the broker's to replace.
fn name_template(at: &str, text: &str, known: impl Fn(&str) -> bool) -> Result<Template, InitError> {
    let missing = |name: &str| format!("there is no ${{{name}}} in the path");
    let template = Template::parse(text, known, |_| false).map_err(|error| match error {
        mqgate_plugin_sdk::template::TemplateError::Unknown(name) => problem(at, missing(&name)),
        error => problem(at, error.to_string()),
    })?;
    if text.is_empty() {
        return Err(problem(at, "is empty"));
    }
    tells_apart(text).map_err(|why| problem(at, why))?;
    Ok(template)
}

/// Between two values must stand what cannot be part of either: `${a}-${b}` is the same for `x-y`, `z` and `x`, `y-z`.
fn tells_apart(text: &str) -> Result<(), String> {
    let ends = text.split("${").skip(1).filter_map(|part| part.split_once('}'));
    let mut before: Option<(&str, &str)> = None;
    for (name, after) in ends {
        if let Some((first, between)) = before
            && between.chars().all(is_segment_char)
        {
            return Err(format!(
                "between ${{{first}}} and ${{{name}}} stands {between:?}, which may be part of either: take : or the like"
            ));
        }
        before = Some((name, after));
    }
    Ok(())
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

    const ONE: &str = r#""trust-domains": [{"name": "a.example"}]"#;
    const TWO: &str = r#""trust-domains": [{"name": "a.example", "anchors": ["a"]},
        {"name": "b.example", "anchors": ["SHA256"]}]"#;

    #[test]
    fn every_key_is_understood() {
        let fingerprint = format!("sha256:{}", ["AB"; 32].join(":"));
        let config = read(&format!(
            r##"{{"required": true, "cache": 10,
            "trust-domains": [{{"name": "a.example", "anchors": ["fleet", "{fingerprint}"]}}],
            "ids": [
                {{"path": "/old/**", "refuse": true}},
                {{"name": "meters", "trust-domain": "a.example", "path": "/r/${{region}}/*/${{id}}",
                 "device-id": "${{region}}:${{id}}", "tenant": "${{region}}", "tags": ["r-${{region}}", "meter"],
                 "deny-publish": ["a/b"], "deny-subscribe": ["a/+"],
                 "allow-publish": ["m/${{trust-domain}}/${{region}}/${{id}}/${{device-id}}/#"], "allow-subscribe": ["#"],
                 "limits": {{"maximum-qos": 1}}}}
            ]}}"##
        ))
        .unwrap_or_else(|why| panic!("{why:?}"));
        assert!(config.required && config.cache().unwrap().ttl == 10);
        let anchor = |name: &str, byte| TrustAnchor { name: name.into(), fingerprint_sha256: vec![byte; 32] };
        assert!(config.trust_domains[0].is_of(&anchor("fleet", 0)));
        assert!(config.trust_domains[0].is_of(&anchor("other", 0xab)));
        assert!(!config.trust_domains[0].is_of(&anchor("other", 0)));
        assert_eq!((config.ids[0].name.as_str(), config.ids[1].lines.len()), ("id 0", 4));
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |domains: &str, rule: &str| {
            let json = format!(r#"{{{domains}, "ids": [{rule}]}}"#);
            read(&json).err().unwrap_or_else(|| panic!("{json} was taken"))
        };
        let of = |rule: &str| at(ONE, rule).0;
        assert_eq!(read(&format!(r#"{{{ONE}, "ids": []}}"#)).err().unwrap().0, "/ids");
        assert_eq!(read(r#"{"trust-domains": [], "ids": []}"#).err().unwrap().0, "/trust-domains");
        assert_eq!(of(r#"{"path": "a"}"#), "/ids/0/path");
        // Nothing in the path says which device it is.
        assert_eq!(of(r#"{"path": "/a/*"}"#), "/ids/0/device-id");
        assert_eq!(at(ONE, r#"{"path": "/a/*"}"#).1, "there is no ${id} in the path");
        assert_eq!(of(r#"{"path": "/${x}", "device-id": ""}"#), "/ids/0/device-id");
        assert_eq!(of(r#"{"path": "/${id}", "tenant": "${client-id}"}"#), "/ids/0/tenant");
        assert_eq!(of(r#"{"path": "/${id}", "tags": ["a", "${x}"]}"#), "/ids/0/tags/1");
        assert_eq!(of(r#"{"path": "/${id}", "allow-publish": ["a/${x}"]}"#), "/ids/0/allow-publish/0");
        assert_eq!(of(r#"{"path": "/${id}", "trust-domain": "b"}"#), "/ids/0/trust-domain");
        assert_eq!(of(r#"{"path": "/${id}", "limits": {"maximum-qos": 3}}"#), "/ids/0/limits/maximum-qos");
        assert_eq!(of(r#"{"path": "/a", "refuse": true, "allow-publish": ["a"]}"#), "/ids/0");
        assert_eq!(at(TWO, r#"{"path": "/${id}"}"#).0, "/ids/0/device-id");
        let domains = |json: &str| at(&format!(r#""trust-domains": [{json}]"#), r#"{"path": "/${id}"}"#).0;
        assert_eq!(domains(r#"{"name": "A"}"#), "/trust-domains/0/name");
        assert_eq!(
            domains(r#"{"name": "a", "anchors": ["x"]}, {"name": "a", "anchors": ["x"]}"#),
            "/trust-domains/1/name"
        );
        assert_eq!(domains(r#"{"name": "a", "anchors": ["x"]}, {"name": "b"}"#), "/trust-domains/1/anchors");
        assert_eq!(domains(r#"{"name": "a", "anchors": ["x", "sha256:ab"]}"#), "/trust-domains/0/anchors/1");
    }

    #[test]
    fn two_devices_cannot_become_one_by_a_separator_that_both_may_hold() {
        let of =
            |rule: &str| read(&format!(r#"{{{ONE}, "ids": [{{"path": "/${{a}}/${{b}}", {rule}}}]}}"#)).err();
        for (rule, at) in [
            (r#""device-id": "${a}-${b}""#, "/ids/0/device-id"),
            (r#""device-id": "${a}${b}""#, "/ids/0/device-id"),
            (r#""device-id": "${a}.x_${b}""#, "/ids/0/device-id"),
            (r#""device-id": "${a}:${b}", "allow-publish": ["x/${a}_${b}/#"]"#, "/ids/0/allow-publish/0"),
            (r#""device-id": "${a}:${b}", "tags": ["${a}${b}"]"#, "/ids/0/tags/0"),
        ] {
            assert_eq!(of(rule).unwrap_or_else(|| panic!("{rule} was taken")).0, at, "{rule}");
        }
        assert!(of(r#""device-id": "x-${a}:${b}-y", "allow-publish": ["x/${a}/-/${b}"]"#).is_none());
    }
}
