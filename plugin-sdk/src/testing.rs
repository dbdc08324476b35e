//! For a plugin's own tests: a host in memory, and certificates and connections to start from.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::host::{Clock, Http, KeyValue, Log, Metrics, Random, Registry};
use crate::http::{HttpError, HttpRequest, HttpResponse};
use crate::types::{
    Attribute, Certificate, ChainStatus, ClientCertificate, Connect, Connection, Device, DistinguishedName,
    Entry, KeyValueError, Level, Metric, MetricDefinition, MetricError, NameAttribute, Page, Peer,
    PluginContext, PublicKey, RegistryError, RevocationStatus, Seconds, TlsSession, TrustAnchor, UnixMillis,
    Value,
};

/// Everything a broker offers, in memory. Fields are public: a test fills and reads them.
#[derive(Debug, Default)]
pub struct MemoryHost {
    pub messages: RefCell<Vec<(Level, String)>>,
    pub entries: RefCell<BTreeMap<String, (u64, Vec<u8>)>>,
    pub devices: RefCell<Vec<Device>>,
    pub metrics: RefCell<Vec<MetricDefinition>>,
    /// Every call on the key-value space and the registry fails while this is set.
    pub unavailable: RefCell<bool>,
    /// What servers answer, by URL. Any other URL is refused, as one that is not allowed.
    pub answers: RefCell<BTreeMap<String, Result<HttpResponse, HttpError>>>,
    /// The requests so far.
    pub requests: RefCell<Vec<HttpRequest>>,
    /// It moves when a test sets it.
    pub now: Cell<UnixMillis>,
    /// The next byte that counts as random; each is one more than the one before.
    pub random: Cell<u8>,
}

impl MemoryHost {
    fn available(&self) -> Result<(), String> {
        if *self.unavailable.borrow() { Err("out of order".to_owned()) } else { Ok(()) }
    }
}

impl Log for MemoryHost {
    fn enabled(&self, _: Level) -> bool {
        true
    }

    fn log(&self, level: Level, message: &str, _: &[Attribute]) {
        self.messages.borrow_mut().push((level, message.to_owned()));
    }
}

impl KeyValue for MemoryHost {
    fn get(&self, key: &str) -> Result<Option<Entry>, KeyValueError> {
        self.available().map_err(KeyValueError::Unavailable)?;
        let entries = self.entries.borrow();
        Ok(entries.get(key).map(|(version, value)| Entry { value: value.clone(), version: *version }))
    }

    fn set(&self, key: &str, value: &[u8], _: Option<Seconds>) -> Result<(), KeyValueError> {
        self.available().map_err(KeyValueError::Unavailable)?;
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key.to_owned()).or_default();
        *entry = (entry.0 + 1, value.to_vec());
        Ok(())
    }

    fn swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
        ttl: Option<Seconds>,
    ) -> Result<u64, KeyValueError> {
        if self.get(key)?.map(|entry| entry.version) != expected {
            return Err(KeyValueError::Conflict);
        }
        self.set(key, value, ttl)?;
        Ok(expected.unwrap_or(0) + 1)
    }

    fn add(&self, key: &str, delta: i64, ttl: Option<Seconds>) -> Result<i64, KeyValueError> {
        let old = self.get(key)?.and_then(|entry| String::from_utf8(entry.value).ok()?.parse::<i64>().ok());
        let new = old.unwrap_or(0).saturating_add(delta);
        self.set(key, new.to_string().as_bytes(), ttl)?;
        Ok(new)
    }

    fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.available().map_err(KeyValueError::Unavailable)?;
        self.entries.borrow_mut().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page, KeyValueError> {
        self.available().map_err(KeyValueError::Unavailable)?;
        let entries = self.entries.borrow();
        let mut rest =
            entries.keys().filter(|key| key.starts_with(prefix) && cursor.is_none_or(|at| key.as_str() > at));
        let keys: Vec<String> = rest.by_ref().take(limit as usize).cloned().collect();
        let cursor = rest.next().and(keys.last().cloned());
        Ok(Page { keys, cursor })
    }
}

impl Registry for MemoryHost {
    fn device_by_id(&self, device_id: &str) -> Result<Option<Device>, RegistryError> {
        self.available().map_err(RegistryError::Unavailable)?;
        Ok(self.devices.borrow().iter().find(|device| device.device_id == device_id).cloned())
    }

    fn device_by_fingerprint(&self, sha256: &[u8]) -> Result<Option<Device>, RegistryError> {
        self.available().map_err(RegistryError::Unavailable)?;
        let has = |device: &&Device| device.fingerprints.iter().any(|fingerprint| fingerprint == sha256);
        Ok(self.devices.borrow().iter().find(has).cloned())
    }

    fn count_devices(&self, tenant: Option<&str>, tag: Option<&str>) -> Result<u64, RegistryError> {
        self.available().map_err(RegistryError::Unavailable)?;
        let counts = |device: &&Device| {
            tenant.is_none_or(|tenant| device.tenant.as_deref() == Some(tenant))
                && tag.is_none_or(|tag| device.tags.iter().any(|has| has == tag))
        };
        Ok(self.devices.borrow().iter().filter(counts).count() as u64)
    }
}

impl Metrics for MemoryHost {
    fn define_metric(&self, metric: &MetricDefinition) -> Result<Metric, MetricError> {
        let mut metrics = self.metrics.borrow_mut();
        metrics.push(metric.clone());
        Ok(metrics.len() as Metric - 1)
    }

    fn record_metric(&self, _: Metric, _: f64, _: &[String]) {}
}

impl Http for MemoryHost {
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        self.requests.borrow_mut().push(request.clone());
        let answer = self.answers.borrow().get(&request.url).cloned();
        answer.unwrap_or_else(|| Err(HttpError::Refused(format!("{} is not allowed", request.url))))
    }
}

impl Clock for MemoryHost {
    fn now(&self) -> UnixMillis {
        self.now.get()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now.get())
    }
}

impl Random for MemoryHost {
    fn random(&self, length: usize) -> Vec<u8> {
        let next = || self.random.replace(self.random.get().wrapping_add(1));
        std::iter::repeat_with(next).take(length).collect()
    }
}

/// What `init` gets for the configuration `json`.
pub fn context(json: &str) -> PluginContext {
    PluginContext {
        name: "test".into(),
        digest: "sha256:00".into(),
        broker_version: "0.1.0".into(),
        config: json.into(),
        granted: Vec::new(),
        trial: false,
        attributes: Vec::new(),
    }
}

/// A name of `cn`, `o`, `ou` and other attributes by their object identifiers.
pub fn name(attributes: &[(&str, &str)]) -> DistinguishedName {
    let oid = |name: &str| match name {
        "cn" => "2.5.4.3".to_owned(),
        "o" => "2.5.4.10".to_owned(),
        "ou" => "2.5.4.11".to_owned(),
        oid => oid.to_owned(),
    };
    DistinguishedName {
        display: String::new(),
        attributes: attributes
            .iter()
            .map(|(name, text)| NameAttribute {
                oid: oid(name),
                text: Some((*text).to_owned()),
                raw: Vec::new(),
            })
            .collect(),
        raw: Vec::new(),
    }
}

/// A certificate with this subject, valid for thirty days from 2026-01-01, of the verified anchor `test-ca`.
pub fn certificate(subject: &[(&str, &str)]) -> ClientCertificate {
    const NEW_YEAR_2026: i64 = 1_767_225_600;
    ClientCertificate {
        leaf: Certificate {
            fingerprint_sha256: vec![0x11; 32],
            version: 3,
            serial: vec![1],
            subject: name(subject),
            issuer: name(&[("o", "Test"), ("cn", "Test CA")]),
            not_before: NEW_YEAR_2026,
            not_after: NEW_YEAR_2026 + 30 * 86_400,
            subject_alt_names: Vec::new(),
            key_usage: None,
            extended_key_usage: Vec::new(),
            is_ca: false,
            public_key: PublicKey {
                algorithm_oid: "1.2.840.10045.2.1".into(),
                bits: 256,
                spki_sha256: vec![0x22; 32],
            },
            extensions: Vec::new(),
            der: Vec::new(),
        },
        intermediates: Vec::new(),
        chain: ChainStatus::Verified(TrustAnchor {
            name: "test-ca".into(),
            fingerprint_sha256: vec![0x33; 32],
        }),
        revocation: RevocationStatus::NotChecked,
        attributes: Vec::new(),
    }
}

/// An MQTT 5 connection over TLS 1.3 with client id `client`, accepted on 2026-01-02.
pub fn connection(certificate: Option<ClientCertificate>) -> Connection {
    Connection {
        id: 1,
        trace_id: "0123456789abcdef0123456789abcdef".into(),
        listener: "mqtts".into(),
        accepted_at: 1_767_312_000_000,
        peer: Peer { address: "192.0.2.1".into(), port: 50000, via_proxy: None },
        tls: Some(TlsSession {
            version: 0x0304,
            cipher_suite: 0x1301,
            server_name: None,
            alpn: None,
            resumed: false,
        }),
        certificate,
        connect: Connect {
            protocol_level: 5,
            client_id: "client".into(),
            clean_start: true,
            keep_alive: 60,
            user_name: None,
            password: None,
            will: None,
            session_expiry: None,
            receive_maximum: None,
            maximum_packet_size: None,
            authentication_method: None,
            user_properties: Vec::new(),
        },
        attributes: Vec::new(),
    }
}

/// `on` as it is shown when its live session is judged once more.
pub fn reauthorized(mut on: Connection, at: UnixMillis) -> Connection {
    let value = Value::Integer(i64::try_from(at).unwrap_or(i64::MAX));
    on.attributes.push(Attribute { name: "reauthorization.at".into(), value });
    on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_session_is_judged_by_another_moment() {
        let on = connection(None);
        assert_eq!((on.reauthorized_at(), on.asked_at()), (None, on.accepted_at));
        let again = reauthorized(on, 1_767_400_000_000);
        assert_eq!((again.reauthorized_at(), again.asked_at()), (Some(1_767_400_000_000), 1_767_400_000_000));
    }
}
