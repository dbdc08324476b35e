//! What policies are told of a client: the device as principal, connection and certificate as context.

use cedar_policy::{Context, Entities, EntityUid};
use mqgate_plugin_sdk::certificate::{Field, anchor};
use mqgate_plugin_sdk::types::{ClientCertificate, Connection, Identity};
use serde_json::{Map, Value, json};

use crate::config::{Config, chain, entity};

pub struct Client {
    pub principal: EntityUid,
    pub context: Context,
    pub entities: Entities,
}

impl Client {
    pub fn new(config: &Config, on: &Connection, who: &Identity) -> Result<Self, String> {
        let device = entity(device(config, who))?;
        let principal = device.uid();
        Ok(Self {
            principal,
            context: Context::from_json_value(context(on)?, None).map_err(chain)?,
            entities: config.entities.clone().add_entities([device], None).map_err(chain)?,
        })
    }
}

/// As the operator wrote it, if so, and what is known of it besides: tenant and tags are its parents.
fn device(config: &Config, who: &Identity) -> Value {
    let bare = || json!({"uid": {"type": "Device", "id": who.device_id}, "attrs": {}, "parents": []});
    let mut device = config.devices.get(&who.device_id).cloned().unwrap_or_else(bare);
    let parent = |kind: &str, id: &str| json!({"type": kind, "id": id});
    let tenant = who.tenant.iter().map(|tenant| parent("Tenant", tenant));
    let tags = who.tags.iter().map(|tag| parent("Tag", tag));
    if let Some(parents) = device["parents"].as_array_mut() {
        parents.extend(tenant.chain(tags));
    }
    device
}

fn context(on: &Connection) -> Result<Value, String> {
    let connect = &on.connect;
    let mut facts = Map::new();
    facts.insert("listener".into(), on.listener.as_str().into());
    // Clients of a Unix socket have none.
    if on.peer.address.parse::<std::net::IpAddr>().is_ok() {
        facts.insert("address".into(), json!({"__extn": {"fn": "ip", "arg": on.peer.address}}));
    }
    facts.insert("clientId".into(), connect.client_id.as_str().into());
    facts.insert("protocolLevel".into(), connect.protocol_level.into());
    if let Some(user_name) = &connect.user_name {
        facts.insert("userName".into(), user_name.as_str().into());
    }
    if let Some(tls) = &on.tls {
        let version = match tls.version {
            0x0303 => "1.2",
            0x0304 => "1.3",
            _ => "other",
        };
        facts.insert("tls".into(), version.into());
    }
    let verified = on.certificate.as_ref().filter(|certificate| anchor(certificate).is_some());
    if let Some(of) = verified {
        facts.insert("certificate".into(), certificate(of)?);
    }
    Ok(Value::Object(facts))
}

/// Every field as a set of texts. One that is no text would be missing from the set, and lead past a policy that forbids
/// it: then there is no set at all, and no decision.
fn certificate(of: &ClientCertificate) -> Result<Value, String> {
    let mut facts = Map::new();
    for field in Field::ALL {
        let values = field.values(of).map_err(|error| error.to_string())?;
        facts.insert(camel_case(field.name()), values.iter().map(|value| Value::from(&**value)).collect());
    }
    facts.insert("notBefore".into(), of.leaf.not_before.into());
    facts.insert("notAfter".into(), of.leaf.not_after.into());
    facts.insert("keyBits".into(), of.leaf.public_key.bits.into());
    Ok(Value::Object(facts))
}

/// `san.uri` is `sanUri`: attributes in policies are identifiers.
fn camel_case(name: &str) -> String {
    let mut parts = name.split(['.', '-']);
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}
