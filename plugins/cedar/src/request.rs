//! What policies are told of a client: the device as principal, connection and certificate as context. All of it is put
//! together as values, never as text: nothing that a client or a certificate says is read as Cedar or JSON.

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use mqgate_plugin_sdk::certificate::{Field, anchor};
use mqgate_plugin_sdk::types::{ClientCertificate, Connection, Identity};

use crate::config::{Config, Known, chain};

pub struct Client {
    pub principal: EntityUid,
    pub context: Context,
    pub entities: Entities,
}

/// The types of what a client is.
pub struct Names {
    pub device: EntityTypeName,
    pub tag: EntityTypeName,
    pub tenant: EntityTypeName,
}

impl Names {
    pub fn new() -> Result<Self, String> {
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(chain);
        Ok(Self { device: name("Device")?, tag: name("Tag")?, tenant: name("Tenant")? })
    }
}

impl Client {
    pub fn new(config: &Config, on: &Connection, who: &Identity) -> Result<Self, String> {
        let device = device(config, who)?;
        let principal = device.uid();
        // In place of the one that the operator wrote, to whom others may refer.
        let entities = config.entities.clone().upsert_entities([device], None).map_err(chain)?;
        Ok(Self { principal, context: Context::from_pairs(context(on)?).map_err(chain)?, entities })
    }
}

pub fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// As the operator wrote it, if so, and what is known of it besides: tenant and tags are its parents.
fn device(config: &Config, who: &Identity) -> Result<Entity, String> {
    let names = &config.names;
    let Known { attributes, mut parents } = config.devices.get(&who.device_id).cloned().unwrap_or_default();
    parents.extend(who.tenant.iter().map(|tenant| uid(&names.tenant, tenant)));
    parents.extend(who.tags.iter().map(|tag| uid(&names.tag, tag)));
    Entity::new(uid(&names.device, &who.device_id), attributes, parents).map_err(chain)
}

fn context(on: &Connection) -> Result<Vec<(String, RestrictedExpression)>, String> {
    let connect = &on.connect;
    let mut facts = vec![
        ("listener".to_owned(), text(&on.listener)),
        ("clientId".to_owned(), text(&connect.client_id)),
        ("protocolLevel".to_owned(), RestrictedExpression::new_long(connect.protocol_level.into())),
    ];
    // Clients of a Unix socket have none.
    if let Ok(address) = on.peer.address.parse::<std::net::IpAddr>() {
        // One of version 4 is in networks of version 4, however it is written.
        let address = address.to_canonical().to_string();
        facts.push(("address".to_owned(), RestrictedExpression::new_ip(address)));
    }
    if let Some(user_name) = &connect.user_name {
        facts.push(("userName".to_owned(), text(user_name)));
    }
    if let Some(tls) = &on.tls {
        let version = match tls.version {
            0x0303 => "1.2",
            0x0304 => "1.3",
            _ => "other",
        };
        facts.push(("tls".to_owned(), text(version)));
    }
    let verified = on.certificate.as_ref().filter(|certificate| anchor(certificate).is_some());
    if let Some(of) = verified {
        facts.push(("certificate".to_owned(), certificate(of)?));
    }
    Ok(facts)
}

/// Every field as a set of texts. One that is no text would be missing from the set, and lead past a policy that forbids
/// it: then there is no set at all, and no decision.
fn certificate(of: &ClientCertificate) -> Result<RestrictedExpression, String> {
    let mut facts = Vec::new();
    for field in Field::ALL {
        let values = field.values(of).map_err(|error| error.to_string())?;
        let values = RestrictedExpression::new_set(values.iter().map(|value| text(value)));
        facts.push((camel_case(field.name()), values));
    }
    for (name, number) in [
        ("notBefore", of.leaf.not_before),
        ("notAfter", of.leaf.not_after),
        ("keyBits", of.leaf.public_key.bits.into()),
    ] {
        facts.push((name.to_owned(), RestrictedExpression::new_long(number)));
    }
    RestrictedExpression::new_record(facts).map_err(chain)
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

/// `san.uri` is `sanUri`: attributes in policies are identifiers.
pub fn camel_case(name: &str) -> String {
    let mut parts = name.split(['.', '-']);
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}
