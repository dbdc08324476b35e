//! The world as one case has it: a clock that stands still, chance from a seed, entries, devices and servers in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use mqgate_identity::time::UnixMillis;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::capability::http::{Failure, Outgoing, Whole};
use crate::case::{Bytes, Case, Entry, HostPart, HttpAnswer, HttpFailure, RandomPart, StatusPart};
use crate::outside::{DeviceBy, NoRandomness, Outside};
use crate::tap::KnownDevice;

/// Answers for the case that is being asked; to nobody else.
#[derive(Debug, Default)]
pub(crate) struct World(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    host: HostPart,
    /// What is not there is not known, rather than absent.
    recorded: Option<Known>,
    /// How long the plugin slept, over all cases: a clock of this kind never goes back.
    slept: Duration,
    /// Where `slept` was when the case began.
    woke: Duration,
    /// Random bytes that were handed out.
    drawn: u64,
    pub(super) entries: BTreeMap<String, Stored>,
    /// Requests by method and URL.
    requests: HashMap<String, usize>,
    /// What the plugin asked and the recording does not tell.
    unknown: BTreeSet<String>,
}

/// What a recording tells beyond what was there.
#[derive(Debug, Default)]
struct Known {
    /// Keys that were looked up, there or not.
    keys: BTreeSet<String>,
    /// Prefixes of which all keys are known.
    listed: Vec<String>,
}

/// An entry of the key-value space.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    pub(super) version: u64,
    pub(super) expires: Option<UnixMillis>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            host: HostPart::default(),
            recorded: None,
            slept: Duration::ZERO,
            woke: Duration::ZERO,
            drawn: 0,
            entries: BTreeMap::new(),
            requests: HashMap::new(),
            unknown: BTreeSet::new(),
        }
    }
}

impl World {
    /// From here on the world is that of `case`.
    pub(super) fn begin(&self, case: &Case) {
        let mut state = self.locked();
        let slept = state.slept;
        let stored = |entry: &Entry| Stored {
            value: entry.value.clone(),
            version: entry.version,
            expires: entry.expires.map(|time| time.0),
        };
        let entries = case.host.key_value.iter();
        let entries = entries.filter_map(|(key, entry)| Some((key.clone(), stored(entry.as_ref()?))));
        let known = case.recorded.as_ref().map(|(recorded, _)| Known {
            keys: case.host.key_value.keys().cloned().collect(),
            listed: recorded.listed.clone(),
        });
        *state = State {
            entries: entries.collect(),
            host: case.host.clone(),
            recorded: known,
            slept,
            woke: slept,
            ..State::default()
        };
    }

    /// What the plugin asked and the recording does not tell.
    pub(super) fn unknown(&self) -> Vec<String> {
        self.locked().unknown.iter().cloned().collect()
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether it is known that there is no such key.
    pub(super) fn missing(&mut self, key: &str) {
        let Some(known) = &self.recorded else { return };
        let is_known = known.keys.contains(key) || known.listed.iter().any(|prefix| key.starts_with(prefix));
        if !is_known {
            self.unknown.insert(format!("the key-value entry {key:?}"));
        }
    }

    /// It is known from now on, for the plugin wrote it.
    pub(super) fn wrote(&mut self, key: &str) {
        if let Some(known) = &mut self.recorded {
            known.keys.insert(key.to_owned());
        }
    }

    pub(super) fn not_listed(&mut self, prefix: &str) {
        let Some(known) = &self.recorded else { return };
        if !known.listed.iter().any(|listed| prefix.starts_with(listed.as_str())) {
            self.unknown.insert(format!("the keys that begin with {prefix:?}"));
        }
    }

    pub(super) fn hidden(&mut self, key: &str) {
        self.unknown.insert(format!("the value of the key-value entry {key:?}"));
    }

    fn now(&self) -> UnixMillis {
        let slept = u64::try_from((self.slept - self.woke).as_millis()).unwrap_or(u64::MAX);
        UnixMillis(self.host.clock.0.0.saturating_add(slept))
    }

    fn answer(&mut self, key: &str, body: &[u8]) -> Option<HttpAnswer> {
        let answers = self.host.http.get(key)?;
        let matching: Vec<&HttpAnswer> = answers.matching(body).collect();
        let asked = self.requests.entry(key.to_owned()).or_default();
        let answer = matching.get(*asked).or(matching.last()).map(|answer| (*answer).clone());
        *asked += 1;
        answer
    }
}

impl Outside for World {
    fn now(&self) -> UnixMillis {
        self.locked().now()
    }

    fn passed(&self, _began: Instant) -> Duration {
        self.locked().slept
    }

    fn waited(&self, until: Duration) {
        let mut state = self.locked();
        state.slept = state.slept.max(until);
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        let mut state = self.locked();
        let (given, seed) = match &state.host.random {
            RandomPart::Seed(seed) => (Vec::new(), *seed),
            RandomPart::Bytes(bytes) => (bytes.known().unwrap_or_default().to_vec(), 0),
        };
        let mut ran_out = false;
        for byte in bytes {
            let at = state.drawn;
            state.drawn += 1;
            *byte = match usize::try_from(at).ok().and_then(|at| given.get(at)) {
                Some(known) => *known,
                None => {
                    ran_out = true;
                    let block = Sha256::digest([seed.to_be_bytes(), (at / 32).to_be_bytes()].concat());
                    block[usize::try_from(at % 32).unwrap_or(0)]
                }
            };
        }
        if ran_out && state.recorded.is_some() {
            state.unknown.insert(String::from("more random bytes than were recorded"));
        }
        Ok(())
    }

    fn has_network(&self) -> bool {
        false
    }

    fn fetch(&self, request: &Outgoing) -> Option<Result<Whole, Failure>> {
        let key = format!("{} {}", request.method, request.url());
        let mut state = self.locked();
        let Some(answer) = state.answer(&key, &request.body) else {
            if state.recorded.is_some() {
                state.unknown.insert(format!("the answer to {key}"));
            }
            return Some(Err(Failure::ConnectionRefused));
        };
        drop(state);
        Some(whole(&answer))
    }

    fn device(&self, by: DeviceBy<'_>) -> Option<Option<KnownDevice>> {
        let mut state = self.locked();
        let found = state.host.devices.iter().find(|device| match by {
            DeviceBy::Id(id) => device.device_id == id,
            DeviceBy::Fingerprint(sha256) => device.fingerprints.iter().any(|it| it.0 == *sha256),
        });
        let found = found.map(|device| KnownDevice {
            device_id: device.device_id.clone(),
            tenant: device.tenant.clone(),
            status: match device.status {
                StatusPart::Active => "active",
                StatusPart::Pending => "pending",
                StatusPart::Suspended => "suspended",
            },
            tags: device.tags.clone(),
            fingerprints: device.fingerprints.iter().map(|it| it.0).collect(),
            registered_at: device.registered_at.map_or(UnixMillis(0), |time| time.0),
            last_seen: device.last_seen.map(|time| time.0),
            attributes: device.attributes.clone().into_iter().collect(),
        });
        if found.is_none() && state.recorded.is_some() && !state.host.no_devices.contains(&by.to_string()) {
            state.unknown.insert(format!("the device {by}"));
        }
        Some(found)
    }

    fn count(&self, tenant: Option<&str>, tag: Option<&str>) -> Option<u64> {
        let mut state = self.locked();
        let counts = &state.host.counts;
        let known = counts.iter().find(|it| it.tenant.as_deref() == tenant && it.tag.as_deref() == tag);
        if let Some(known) = known {
            return Some(known.count);
        }
        if state.recorded.is_some() {
            let of = |what: Option<&str>| what.unwrap_or("any").to_owned();
            state.unknown.insert(format!("the count of tenant {}, tag {}", of(tenant), of(tag)));
            return Some(0);
        }
        let counted = state.host.devices.iter().filter(|device| {
            let has_tag = |tag: &str| match tag.strip_prefix("ca:") {
                Some(ca) => device.ca.is_some_and(|known| known.to_hex() == ca),
                None => device.tags.iter().any(|known| known == tag),
            };
            tenant.is_none_or(|tenant| device.tenant.as_deref() == Some(tenant)) && tag.is_none_or(has_tag)
        });
        // A device has a certificate, also where nobody wrote which.
        Some(counted.map(|device| device.fingerprints.len().max(1) as u64).sum())
    }
}

fn whole(answer: &HttpAnswer) -> Result<Whole, Failure> {
    if let Some(failure) = answer.failure {
        return Err(match failure {
            HttpFailure::Refused => Failure::ConnectionRefused,
            HttpFailure::Timeout => Failure::ResponseTimeout,
            HttpFailure::Dns => Failure::NotFound,
            HttpFailure::Tls => Failure::Tls,
            HttpFailure::Reset => Failure::Terminated,
        });
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Failure::Protocol)?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| Failure::Protocol)?);
    }
    let body = answer.body.as_ref().and_then(Bytes::known).unwrap_or_default().to_vec();
    Ok(Whole { status: answer.status.unwrap_or(200), headers, body: body.into() })
}
