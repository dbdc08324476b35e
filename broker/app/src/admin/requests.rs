//! What requests about plugins say: bodies of JSON that name a component by its digest. Read once, here, into what the
//! host understands.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use mqgate_identity::hooks::Reauthorize;
use mqgate_plugin_host::{
    Capability, Change, PluginSettings, Position, Provenance, Signature, Source, UnknownCapability,
    WALL_WITH_HTTP,
};
use mqgate_server::admin::{Code, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::model;
use crate::run::chain;

/// The body of `POST /plugins` and of `PUT /plugins/{name}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Said {
    /// Of a plugin that is loaded.
    pub name: Option<String>,
    /// Likewise: `first`, `last`, `before:NAME`, `after:NAME`; where the configuration has it, otherwise.
    pub position: Option<String>,
    /// Likewise.
    pub required: Option<bool>,
    /// Likewise: as in the configuration; what is not named is the default.
    pub limits: Option<model::PluginLimits>,
    /// Likewise: `auto`, `per-call`, `pooled`, `single`.
    pub isolation: Option<model::Isolation>,
    /// `sha256:…` of a component that was uploaded, or of a former version of the plugin.
    pub digest: String,
    /// The text of its signature's file.
    pub signature: Option<String>,
    /// The plugin's own settings.
    pub config: Option<Value>,
    /// Capabilities: a list, or words separated by commas.
    #[serde(deserialize_with = "words")]
    #[schemars(with = "Option<Vec<String>>")]
    pub grant: Option<Vec<String>>,
    /// Of a plugin that is loaded and granted `http`: as in the configuration, without a `ca_file`.
    pub http: Option<model::PluginHttp>,
    /// `none`, `lazy` or `eager`; as configured, otherwise.
    pub reauthorize: Option<String>,
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        Text(String),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::List(list) => list,
        Words::Text(text) => {
            text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
    }))
}

/// The body of a request, whole.
pub fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Arc<[u8]>, Problem> {
    let too_large = "the component is larger than `admin.max_upload`, or the upload broke off";
    body.map(|bytes| Arc::from(&*bytes)).map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::BadUpload,
        };
        Problem::new(code, format!("{too_large}: {}", rejection.body_text()))
    })
}

impl Said {
    /// The component.
    fn source(&self) -> Result<Source, Problem> {
        if self.digest.is_empty() {
            let detail = "which component? Upload it (POST /plugin-components), and name its `digest`";
            return Err(Problem::new(Code::NoComponent, detail));
        }
        Ok(Source::Stored(self.digest.clone()))
    }

    fn signature(&self) -> Result<Option<Signature>, Problem> {
        let parsed = self.signature.as_deref().map(str::parse).transpose();
        parsed.map_err(|error: mqgate_plugin_host::SignatureError| {
            Problem::new(Code::BadSignature, error.to_string())
        })
    }

    fn capabilities(&self) -> Result<Option<BTreeSet<Capability>>, Problem> {
        let Some(words) = &self.grant else { return Ok(None) };
        let parsed: Result<_, UnknownCapability> =
            words.iter().map(|word| capability(word).parse()).collect();
        parsed.map(Some).map_err(|error| Problem::new(Code::BadGrant, error.to_string()))
    }

    pub fn reauthorize(&self, configured: Reauthorize) -> Result<Reauthorize, Problem> {
        reauthorize(self.reauthorize.as_deref(), configured)
    }

    /// What becomes of a plugin that is there.
    pub fn change(&self, configured: Reauthorize, by: &str) -> Result<Change, Problem> {
        let kept = [
            self.name.is_some(),
            self.position.is_some(),
            self.required.is_some(),
            self.limits.is_some(),
            self.isolation.is_some(),
            self.http.is_some(),
        ];
        if kept.contains(&true) {
            let detail = "a plugin that is swapped keeps its `name`, its `position`, its `limits`, its `isolation`, its `http`, and whether \
                          it is `required`";
            return Err(Problem::new(Code::BadRequest, detail));
        }
        Ok(Change {
            component: Some(self.source()?),
            digest: None,
            signature: self.signature()?,
            config: self.config.clone(),
            capabilities: self.capabilities()?,
            reauthorize: self.reauthorize(configured)?,
            by: by.to_owned(),
        })
    }

    /// The settings to load with: those of the entry that failed under this name, where there is one, and what the
    /// request names instead.
    pub fn wanted(&self, name: &str, failed: Option<PluginSettings>) -> Result<PluginSettings, Problem> {
        let source = self.source()?;
        let is_new = failed.is_none();
        let mut wanted = match failed {
            Some(failed) => PluginSettings { source, ..failed },
            None => PluginSettings { required: false, ..PluginSettings::new(name, source) },
        };
        wanted.digest = None;
        wanted.provenance = Provenance::New(self.signature()?);
        if let Some(required) = self.required {
            wanted.required = required;
        }
        if let Some(isolation) = self.isolation {
            wanted.isolation = chain::isolation(isolation);
        }
        if let Some(capabilities) = self.capabilities()? {
            wanted.grants.capabilities = capabilities;
        }
        if let Some(http) = &self.http {
            if http.ca_file.is_some() {
                let detail = "only the configuration names a `ca_file`";
                return Err(Problem::new(Code::BadGrant, detail));
            }
            wanted.grants.http = chain::http(http);
        }
        match &self.limits {
            Some(limits) => wanted.limits = chain::limits(limits, &wanted.grants),
            // What waits for others has the time for it.
            None if is_new && wanted.grants.has(Capability::Http) => wanted.limits.wall = WALL_WITH_HTTP,
            None => {}
        }
        if let Some(config) = &self.config {
            wanted.config = config.clone();
        }
        Ok(wanted)
    }

    pub fn position(&self) -> Result<Position, Problem> {
        Ok(match self.position.as_deref() {
            None => Position::Configured,
            Some("first") => Position::First,
            Some("last") => Position::Last,
            Some(text) => match text.split_once(':') {
                Some(("before", name)) => Position::Before(name.to_owned()),
                Some(("after", name)) => Position::After(name.to_owned()),
                _ => {
                    let what = "a position is first, last, before:NAME or after:NAME";
                    return Err(Problem::new(Code::BadPosition, what));
                }
            },
        })
    }
}

pub fn reauthorize(text: Option<&str>, configured: Reauthorize) -> Result<Reauthorize, Problem> {
    match text {
        None => Ok(configured),
        Some("none") => Ok(Reauthorize::None),
        Some("lazy") => Ok(Reauthorize::Lazy),
        Some("eager") => Ok(Reauthorize::Eager),
        Some(_) => Err(Problem::new(Code::BadReauthorize, "reauthorize is none, lazy or eager")),
    }
}

/// The names of the interfaces are understood too.
fn capability(word: &str) -> &str {
    match word {
        "key-value" => "kv",
        "registry" => "registry.read",
        other => other,
    }
}

/// A work that was begun is finished and written down, whether or not the caller still waits.
pub async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Problem::new(Code::Internal, format!("it broke down: {error}"))))
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_host::Grants;
    use serde_json::json;

    use super::*;

    fn said(value: Value) -> Said {
        serde_json::from_value(value).expect("a body")
    }

    #[test]
    fn what_failed_is_loaded_with_its_own_settings() {
        let mut failed = PluginSettings::new("p", Source::File("missing.wasm".into()));
        failed.config = json!({ "a": 1 });
        failed.grants = Grants::of([Capability::KeyValue]);
        failed.grants.kv.entries = 7;
        failed.limits.concurrency = 3;
        let known = |settings: PluginSettings| {
            let granted: Vec<_> = settings.grants.capabilities.iter().map(|one| one.as_str()).collect();
            let (kv, limits) = (settings.grants.kv.entries, settings.limits.concurrency);
            assert!(matches!(&settings.source, Source::Stored(digest) if digest == "d"));
            (settings.required, granted.join(","), kv, limits, settings.config)
        };
        let load = |value: Value, failed: Option<PluginSettings>| {
            known(said(value).wanted("p", failed).map_err(|problem| problem.detail).expect("good settings"))
        };
        let again = load(json!({ "name": "p", "digest": "d" }), Some(failed.clone()));
        assert_eq!(again, (true, String::from("kv"), 7, 3, json!({ "a": 1 })));
        let other = json!({ "digest": "d", "grant": ["metrics"], "config": {}, "required": false });
        assert_eq!(load(other, Some(failed)), (false, String::from("metrics"), 7, 3, json!({})));
        let patient = json!({ "digest": "d", "limits": { "concurrency": 5, "wall": "30s" } });
        assert_eq!(load(patient, None).3, 5);
        let (required, granted, ..) = load(json!({ "digest": "d", "grant": "kv,registry" }), None);
        assert_eq!((required, granted.as_str()), (false, "kv,registry.read"));
    }

    #[test]
    fn http_is_granted_with_its_destinations_and_the_time_it_takes() {
        let load = |value: Value| said(value).wanted("p", None).map_err(|problem| problem.code);
        let http = json!({ "allow": ["https://policy.example"], "private_networks": true });
        let wanted = load(json!({ "digest": "d", "grant": "http", "http": http })).expect("good settings");
        let allowed: Vec<String> = wanted.grants.http.allow.iter().map(ToString::to_string).collect();
        assert_eq!(
            (allowed, wanted.grants.http.private_networks),
            (vec![String::from("https://policy.example:443")], true)
        );
        assert_eq!(wanted.limits.wall, WALL_WITH_HTTP);
        let quick = json!({ "digest": "d", "grant": "http", "limits": { "wall": "1s" } });
        assert_eq!(load(quick).map(|wanted| wanted.limits.wall.as_secs()), Ok(1));
        let other = json!({ "digest": "d", "grant": "kv", "limits": {} });
        assert_eq!(load(other).map(|wanted| wanted.limits.wall.as_millis()), Ok(100));
        let file = json!({ "digest": "d", "grant": "http", "http": { "ca_file": "/etc/shadow" } });
        assert_eq!(load(file).err(), Some(Code::BadGrant));
        assert!(serde_json::from_value::<Said>(json!({ "http": { "allow": ["policy.example"] } })).is_err());
    }

    #[test]
    fn what_is_wrong_has_a_code() {
        let code = |problem: Problem| problem.code;
        let bad = |value: Value| said(value).wanted("p", None).map_err(code).err();
        assert_eq!(bad(json!({ "digest": "d", "grant": ["files"] })), Some(Code::BadGrant));
        assert_eq!(bad(json!({ "digest": "d", "signature": "x" })), Some(Code::BadSignature));
        assert_eq!(bad(json!({ "name": "p" })), Some(Code::NoComponent));
        let placed = said(json!({ "position": "somewhere" }));
        assert_eq!(placed.position().map_err(code).err(), Some(Code::BadPosition));
        assert_eq!(
            said(json!({ "position": "before:x" })).position().ok(),
            Some(Position::Before("x".into()))
        );
        let now = said(json!({ "reauthorize": "now" })).reauthorize(Reauthorize::None);
        assert_eq!(now.map_err(code).err(), Some(Code::BadReauthorize));
        for kept in
            [json!({ "position": "first" }), json!({ "limits": {} }), json!({ "isolation": "single" })]
        {
            let mut body = kept;
            body["digest"] = json!("d");
            let moved = said(body).change(Reauthorize::None, "admin");
            assert_eq!(moved.map_err(code).err(), Some(Code::BadRequest));
        }
        assert!(
            serde_json::from_value::<Said>(json!({ "digets": "d" })).is_err(),
            "a word that nobody knows"
        );
    }
}
