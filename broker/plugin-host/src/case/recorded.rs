//! A call that was made, as a case: with what the plugin was told, and without what is secret.

use std::collections::BTreeMap;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::Answer;
use super::connection::{ConnectionPart, ExchangePart, IdentityPart};
use super::host::{
    CountPart, DevicePart, Entry, HostPart, HttpAnswer, HttpFailure, HttpPart, RandomPart, StatusPart,
};
use super::settings::{LimitsOfCase, PluginPart, Size, Span};
use super::value::{Bytes, Time};
use super::{HookWord, Written};
use crate::capability::http::Failure;
use crate::instance::Runnable;
use crate::tap::{Heard, HostCall, KnownDevice, Tapped};

/// Fields of an answer that are for whoever asked alone.
const SECRET_FIELDS: [&str; 3] = ["set-cookie", "authorization", "www-authenticate"];

/// Where a recorded case is from.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    pub at: Time,
    pub plugin: String,
    /// `sha256:…` of the component that answered.
    pub digest: String,
    /// How long it took.
    pub micros: u64,
    /// The instance began with this call.
    #[serde(default)]
    pub fresh: bool,
    /// Prefixes whose keys are all in `host.key_value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<String>,
    /// The plugin asked the host for more than was recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The first line of a recording: with what the plugin runs. Its configuration may hold secrets, and is left out.
pub(crate) fn headline(runnable: &Runnable) -> String {
    let grants = &runnable.services.grants;
    let limits = runnable.limits;
    let part = PluginPart {
        config: None,
        grant: Some(grants.capabilities.clone()),
        limits: LimitsOfCase {
            memory: Some(Size(limits.memory)),
            cpu: Some(Span(limits.cpu)),
            wall: Some(Span(limits.wall)),
            init: Some(Span(limits.init)),
        },
        http_allow: Some(grants.http.allow.iter().map(ToString::to_string).collect()),
    };
    json!({ "common": { "plugin": part } }).to_string()
}

/// One line of a recording. `None`: it is no case.
pub(crate) fn captured(number: u64, plugin: &str, digest: &str, call: &Tapped) -> Option<String> {
    let hook = HookWord::of(call.asked.hook)?;
    let mut answer = Answer::of(&call.told);
    answer.redact();
    let (host, listed) = host(call.at, &call.heard);
    let written = Written {
        name: format!("{plugin} {number}"),
        hook,
        plugin: PluginPart::default(),
        connection: ConnectionPart::of(&call.asked.on),
        identity: call.asked.who.as_ref().map(IdentityPart::of),
        exchange: call.asked.exchange.as_ref().map(ExchangePart::of),
        host,
        expect: None,
        answer: Some(answer),
        recorded: Some(Recording {
            at: Time(call.at),
            plugin: plugin.to_owned(),
            digest: digest.to_owned(),
            micros: u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX),
            fresh: call.heard.fresh,
            listed,
            cut: call.heard.cut,
        }),
    };
    serde_json::to_string(&written).ok()
}

/// What there was before the call, as far as its host calls tell; and the prefixes of which all keys are known.
fn host(at: UnixMillis, heard: &Heard) -> (HostPart, Vec<String>) {
    let mut host = HostPart { clock: Time(at), ..HostPart::default() };
    let mut before: BTreeMap<String, Option<Entry>> = BTreeMap::new();
    // What the call itself wrote tells nothing of what was there.
    let mut written: Vec<&str> = Vec::new();
    let (mut random, mut listed) = (Vec::new(), Vec::new());
    let unknown = |version| Entry { value: Bytes::Redacted, version, expires: None };
    let mut has_looked = false;
    for call in &heard.calls {
        match call {
            HostCall::Get { key, found: Ok(found) } if !written.contains(&key.as_str()) => {
                let entry = |(value, version): &(Vec<u8>, u64)| Entry {
                    value: Bytes::Are(value.clone()),
                    version: *version,
                    expires: None,
                };
                before.insert(key.clone(), found.as_ref().map(entry));
            }
            HostCall::Add { key, delta, number: Ok(number) } => {
                if !written.contains(&key.as_str()) && !before.contains_key(key) {
                    let was = number.saturating_sub(*delta);
                    let entry = Entry { value: Bytes::from(was.to_string()), version: 1, expires: None };
                    before.insert(key.clone(), (was != 0).then_some(entry));
                }
                written.push(key);
            }
            HostCall::Swap { key, expected, version: Ok(_) } => {
                if !written.contains(&key.as_str()) {
                    before.entry(key.clone()).or_insert_with(|| expected.map(unknown));
                }
                written.push(key);
            }
            HostCall::Set { key, done: Ok(()) } | HostCall::Delete { key, done: Ok(()) } => written.push(key),
            HostCall::List { prefix, keys: Ok(keys) } if written.is_empty() => {
                for key in keys {
                    before.entry(key.clone()).or_insert_with(|| Some(unknown(1)));
                }
                listed.push(prefix.clone());
            }
            HostCall::Device { by, found: Ok(None) } => host.no_devices.push(by.clone()),
            HostCall::Device { found: Ok(Some(device)), .. } => {
                if !host.devices.iter().any(|known| known.device_id == device.device_id) {
                    host.devices.push(DevicePart::from(device));
                }
            }
            HostCall::Count { tenant, tag, count: Ok(count) } => {
                host.counts.push(CountPart { tenant: tenant.clone(), tag: tag.clone(), count: *count });
            }
            HostCall::Http { method, url, answer: Err(failure) } => {
                let Some(failure) = failure_of(*failure) else { continue };
                let answer = HttpAnswer {
                    when_body_contains: None,
                    status: None,
                    headers: BTreeMap::new(),
                    body: None,
                    failure: Some(failure),
                };
                let answers = host.http.entry(format!("{method} {url}")).or_insert(HttpPart(Vec::new()));
                answers.0.push(answer);
            }
            HostCall::Http { method, url, answer: Ok(answer) } => {
                let headers =
                    answer.headers.iter().filter(|(name, _)| !SECRET_FIELDS.contains(&name.as_str()));
                let headers =
                    headers.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()));
                let answer = HttpAnswer {
                    when_body_contains: None,
                    status: Some(answer.status),
                    headers: headers.collect(),
                    body: Some(Bytes::Are(answer.body.clone())),
                    failure: None,
                };
                let answers = host.http.entry(format!("{method} {url}")).or_insert(HttpPart(Vec::new()));
                answers.0.push(answer);
            }
            HostCall::Clock { now } if !has_looked => {
                has_looked = true;
                host.clock = Time(*now);
            }
            HostCall::Random { bytes } => random.extend_from_slice(bytes),
            // Failures of the host, and what says nothing of what was there.
            HostCall::Get { .. }
            | HostCall::Set { .. }
            | HostCall::Swap { .. }
            | HostCall::Add { .. }
            | HostCall::Delete { .. }
            | HostCall::List { .. }
            | HostCall::Device { .. }
            | HostCall::Count { .. }
            | HostCall::Clock { .. }
            | HostCall::Log { .. } => {}
        }
    }
    if !random.is_empty() {
        host.random = RandomPart::Bytes(Bytes::Are(random));
    }
    host.key_value = before;
    (host, listed)
}

/// `None`: a guard of the broker's stopped it, and would again.
fn failure_of(failure: Failure) -> Option<HttpFailure> {
    Some(match failure {
        Failure::NotFound => HttpFailure::Dns,
        Failure::ConnectionRefused | Failure::Unreachable => HttpFailure::Refused,
        Failure::LookupTimeout | Failure::ConnectTimeout | Failure::ResponseTimeout => HttpFailure::Timeout,
        Failure::Certificate | Failure::Tls => HttpFailure::Tls,
        Failure::Protocol | Failure::Terminated => HttpFailure::Reset,
        Failure::Denied
        | Failure::Prohibited
        | Failure::TooMany
        | Failure::Unfinished
        | Failure::Invalid
        | Failure::HeadersTooLarge
        | Failure::BodyTooLarge => return None,
    })
}

impl From<&KnownDevice> for DevicePart {
    fn from(device: &KnownDevice) -> Self {
        Self {
            device_id: device.device_id.clone(),
            tenant: device.tenant.clone(),
            status: match device.status {
                "active" => StatusPart::Active,
                "pending" => StatusPart::Pending,
                _ => StatusPart::Suspended,
            },
            tags: device.tags.clone(),
            fingerprints: device.fingerprints.iter().map(|it| CertificateFingerprint(*it)).collect(),
            registered_at: Some(Time(device.registered_at)),
            last_seen: device.last_seen.map(Time),
            attributes: device.attributes.iter().cloned().collect(),
            ca: None,
        }
    }
}
