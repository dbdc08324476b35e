//! What the service is asked: facts of the connection and its certificate as JSON. README.md has the schema. Passwords are
//! not among them: this plugin is not shown any.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqgate_plugin_sdk::certificate::{anchor, hex};
use mqgate_plugin_sdk::types::{
    Certificate, ClientCertificate, Connection, DistinguishedName, GeneralName, Identity,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::config::{Config, Hook};

pub struct Question {
    /// What holds for one call alone: its name and its moment.
    call: Map<String, Value>,
    /// What the answer may depend on.
    facts: Map<String, Value>,
}

impl Question {
    pub fn new(config: &Config, hook: Hook, on: &Connection, who: Option<&Identity>) -> Self {
        let mut call = Map::new();
        call.insert("id".into(), on.id.into());
        call.insert("trace-id".into(), on.trace_id.as_str().into());
        call.insert("at".into(), on.asked_at().into());
        call.insert("live".into(), on.reauthorized_at().is_some().into());
        call.insert("port".into(), on.peer.port.into());
        let mut facts = Map::new();
        facts.insert("version".into(), 1.into());
        let hook = match hook {
            Hook::Authenticator => "authenticator",
            Hook::Authorizer => "authorizer",
        };
        facts.insert("hook".into(), hook.into());
        facts.insert("listener".into(), on.listener.as_str().into());
        facts.insert("address".into(), on.peer.address.as_str().into());
        facts.insert("via-proxy".into(), on.peer.via_proxy.as_deref().into());
        facts.insert("tls".into(), tls(on));
        facts.insert("connect".into(), connect(on));
        facts.insert(
            "certificate".into(),
            on.certificate.as_ref().map_or(Value::Null, |of| certificate(of, config.der)),
        );
        if let Some(who) = who {
            let identity = json!({"device-id": who.device_id, "tenant": who.tenant, "tags": who.tags});
            facts.insert("identity".into(), identity);
        }
        Self { call, facts }
    }

    /// Under which an answer is kept: the same for the same facts and the same configuration.
    pub fn key(&self, config: &Config) -> String {
        let mut hash = Sha256::new();
        hash.update(config.digest);
        // Objects have one order of their members, whatever order they were made in.
        hash.update(Value::Object(self.facts.clone()).to_string());
        format!("answer/{}", hex(&hash.finalize()))
    }

    pub fn body(mut self) -> Vec<u8> {
        self.facts.insert("call".into(), Value::Object(self.call));
        Value::Object(self.facts).to_string().into_bytes()
    }
}

fn tls(on: &Connection) -> Value {
    let Some(tls) = &on.tls else { return Value::Null };
    let version = match tls.version {
        0x0303 => "1.2",
        0x0304 => "1.3",
        _ => "other",
    };
    json!({"version": version, "server-name": tls.server_name, "alpn": tls.alpn})
}

fn connect(on: &Connection) -> Value {
    let connect = &on.connect;
    let will = connect.will.as_ref();
    let will = will.map(|will| json!({"topic": will.topic, "qos": will.qos, "retain": will.retain}));
    json!({
        "protocol-level": connect.protocol_level,
        "client-id": connect.client_id,
        "clean-start": connect.clean_start,
        "keep-alive": connect.keep_alive,
        "session-expiry": connect.session_expiry,
        "user-name": connect.user_name,
        "will": will,
        "user-properties": connect.user_properties,
    })
}

fn certificate(of: &ClientCertificate, with_der: bool) -> Value {
    let leaf: &Certificate = &of.leaf;
    let anchor = anchor(of);
    let names: Vec<Value> = leaf.subject_alt_names.iter().map(general_name).collect();
    let mut facts = json!({
        "verified": anchor.is_some(),
        "anchor": anchor.map(|anchor| json!({"name": anchor.name, "fingerprint": hex(&anchor.fingerprint_sha256)})),
        "fingerprint": hex(&leaf.fingerprint_sha256),
        "spki-fingerprint": hex(&leaf.public_key.spki_sha256),
        "version": leaf.version,
        "serial": hex(&leaf.serial),
        "subject": name(&leaf.subject),
        "issuer": name(&leaf.issuer),
        "not-before": leaf.not_before,
        "not-after": leaf.not_after,
        "subject-alt-names": names,
        "extended-key-usage": leaf.extended_key_usage,
        "is-ca": leaf.is_ca,
        "key": {"algorithm": leaf.public_key.algorithm_oid, "bits": leaf.public_key.bits},
    });
    if with_der {
        facts["der"] = STANDARD.encode(&leaf.der).into();
    }
    facts
}

/// In the order of the certificate; `null` for what is no text.
fn name(name: &DistinguishedName) -> Value {
    name.attributes.iter().map(|attribute| json!({"oid": attribute.oid, "text": attribute.text})).collect()
}

fn general_name(name: &GeneralName) -> Value {
    let (kind, value) = match name {
        GeneralName::Dns(text) => ("dns", text.clone()),
        GeneralName::Email(text) => ("email", text.clone()),
        GeneralName::Uri(text) => ("uri", text.clone()),
        GeneralName::RegisteredId(oid) => ("registered-id", oid.clone()),
        GeneralName::Ip(bytes) => ("ip", hex(bytes)),
        GeneralName::Directory(der) => ("directory", STANDARD.encode(der)),
        GeneralName::Other((oid, der)) => {
            return json!({"type": "other", "oid": oid, "value": STANDARD.encode(der)});
        }
        GeneralName::Malformed((tag, bytes)) => {
            return json!({"type": "malformed", "tag": tag, "value": STANDARD.encode(bytes)});
        }
    };
    json!({"type": kind, "value": value})
}
