//! The records of the ABI that the broker fills, as views of its own types: what is generated from `wit/` owns every string,
//! and a question has a hundred. That they are the records of `wit/` is seen when a plugin is loaded: types are compared then.

use wasmtime::component::{ComponentType, Lower};

use crate::bindings::exports::mqgate::plugin::auditor::Outcome;
use crate::bindings::mqgate::plugin::certificates::KeyUsage;

#[derive(ComponentType, Lower)]
#[component(variant)]
pub(crate) enum Value<'a> {
    #[component(name = "text")]
    Text(&'a str),
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "blob")]
    Blob(&'a [u8]),
    #[component(name = "texts")]
    Texts(&'a [String]),
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Attribute<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: Value<'a>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Identity<'a> {
    #[component(name = "device-id")]
    pub(crate) device_id: &'a str,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) tags: &'a [String],
    pub(crate) attributes: Vec<Attribute<'a>>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct NameAttribute<'a> {
    pub(crate) oid: &'a str,
    pub(crate) text: Option<&'a str>,
    pub(crate) raw: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct DistinguishedName<'a> {
    pub(crate) display: &'a str,
    pub(crate) attributes: Vec<NameAttribute<'a>>,
    pub(crate) raw: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(variant)]
pub(crate) enum GeneralName<'a> {
    #[component(name = "dns")]
    Dns(&'a str),
    #[component(name = "email")]
    Email(&'a str),
    #[component(name = "uri")]
    Uri(&'a str),
    #[component(name = "ip")]
    Ip(&'a [u8]),
    #[component(name = "registered-id")]
    RegisteredId(&'a str),
    #[component(name = "directory")]
    Directory(&'a [u8]),
    #[component(name = "other")]
    Other((&'a str, &'a [u8])),
    #[component(name = "malformed")]
    Malformed((u8, &'a [u8])),
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Extension<'a> {
    pub(crate) oid: &'a str,
    pub(crate) critical: bool,
    pub(crate) raw: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct PublicKey<'a> {
    #[component(name = "algorithm-oid")]
    pub(crate) algorithm_oid: &'a str,
    pub(crate) bits: u32,
    #[component(name = "spki-sha256")]
    pub(crate) spki_sha256: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Certificate<'a> {
    #[component(name = "fingerprint-sha256")]
    pub(crate) fingerprint_sha256: &'a [u8],
    pub(crate) version: u8,
    pub(crate) serial: &'a [u8],
    pub(crate) subject: DistinguishedName<'a>,
    pub(crate) issuer: DistinguishedName<'a>,
    #[component(name = "not-before")]
    pub(crate) not_before: i64,
    #[component(name = "not-after")]
    pub(crate) not_after: i64,
    #[component(name = "subject-alt-names")]
    pub(crate) subject_alt_names: Vec<GeneralName<'a>>,
    #[component(name = "key-usage")]
    pub(crate) key_usage: Option<KeyUsage>,
    #[component(name = "extended-key-usage")]
    pub(crate) extended_key_usage: &'a [String],
    #[component(name = "is-ca")]
    pub(crate) is_ca: bool,
    #[component(name = "public-key")]
    pub(crate) public_key: PublicKey<'a>,
    pub(crate) extensions: Vec<Extension<'a>>,
    pub(crate) der: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct TrustAnchor<'a> {
    pub(crate) name: &'a str,
    #[component(name = "fingerprint-sha256")]
    pub(crate) fingerprint_sha256: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(variant)]
pub(crate) enum ChainStatus<'a> {
    #[component(name = "verified")]
    Verified(TrustAnchor<'a>),
    #[cfg_attr(not(test), expect(dead_code, reason = "the broker refuses such certificates itself"))]
    #[component(name = "unverified")]
    Unverified(&'a str),
}

#[derive(ComponentType, Lower)]
#[component(variant)]
pub(crate) enum RevocationStatus<'a> {
    #[component(name = "not-checked")]
    NotChecked,
    #[expect(dead_code, reason = "no plugin is told of lists")]
    #[component(name = "good")]
    Good(u32),
    #[expect(dead_code, reason = "as above")]
    #[component(name = "revoked")]
    Revoked(&'a str),
    #[expect(dead_code, reason = "as above")]
    #[component(name = "unknown")]
    Unknown(&'a str),
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct ClientCertificate<'a> {
    pub(crate) leaf: Certificate<'a>,
    pub(crate) intermediates: Vec<&'a [u8]>,
    pub(crate) chain: ChainStatus<'a>,
    pub(crate) revocation: RevocationStatus<'a>,
    pub(crate) attributes: &'a [Attribute<'a>],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) port: u16,
    #[component(name = "via-proxy")]
    pub(crate) via_proxy: Option<String>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct TlsSession<'a> {
    pub(crate) version: u16,
    #[component(name = "cipher-suite")]
    pub(crate) cipher_suite: u16,
    #[component(name = "server-name")]
    pub(crate) server_name: Option<&'a str>,
    pub(crate) alpn: Option<&'a str>,
    pub(crate) resumed: bool,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    #[component(name = "payload-length")]
    pub(crate) payload_length: u32,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Connect<'a> {
    #[component(name = "protocol-level")]
    pub(crate) protocol_level: u8,
    #[component(name = "client-id")]
    pub(crate) client_id: &'a str,
    #[component(name = "clean-start")]
    pub(crate) clean_start: bool,
    #[component(name = "keep-alive")]
    pub(crate) keep_alive: u16,
    #[component(name = "user-name")]
    pub(crate) user_name: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) will: Option<Will<'a>>,
    #[component(name = "session-expiry")]
    pub(crate) session_expiry: Option<u32>,
    #[component(name = "receive-maximum")]
    pub(crate) receive_maximum: Option<u16>,
    #[component(name = "maximum-packet-size")]
    pub(crate) maximum_packet_size: Option<u32>,
    #[component(name = "authentication-method")]
    pub(crate) authentication_method: Option<&'a str>,
    #[component(name = "user-properties")]
    pub(crate) user_properties: &'a [(String, String)],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Connection<'a> {
    pub(crate) id: u64,
    #[component(name = "trace-id")]
    pub(crate) trace_id: &'a str,
    pub(crate) listener: &'a str,
    #[component(name = "accepted-at")]
    pub(crate) accepted_at: u64,
    pub(crate) peer: Peer,
    pub(crate) tls: Option<TlsSession<'a>>,
    pub(crate) certificate: Option<ClientCertificate<'a>>,
    pub(crate) connect: Connect<'a>,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Exchange<'a> {
    pub(crate) method: &'a str,
    pub(crate) round: u32,
    pub(crate) state: &'a [u8],
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) again: bool,
    pub(crate) random: &'a [u8],
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct PluginVerdict<'a> {
    pub(crate) name: &'a str,
    pub(crate) digest: Option<&'a str>,
    pub(crate) hook: &'a str,
    pub(crate) answer: &'a str,
    pub(crate) microseconds: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct AuditEvent<'a> {
    pub(crate) sequence: u64,
    pub(crate) at: u64,
    pub(crate) name: &'a str,
    pub(crate) outcome: Outcome,
    pub(crate) reason: &'a str,
    pub(crate) actor: &'a str,
    #[component(name = "connection-id")]
    pub(crate) connection_id: Option<u64>,
    #[component(name = "device-id")]
    pub(crate) device_id: Option<&'a str>,
    #[component(name = "client-id")]
    pub(crate) client_id: Option<&'a str>,
    #[component(name = "peer-address")]
    pub(crate) peer_address: Option<&'a str>,
    pub(crate) listener: Option<&'a str>,
    #[component(name = "certificate-fingerprint")]
    pub(crate) certificate_fingerprint: Option<&'a str>,
    pub(crate) subject: Option<&'a str>,
    #[component(name = "server-name")]
    pub(crate) server_name: Option<&'a str>,
    pub(crate) plugins: Vec<PluginVerdict<'a>>,
    pub(crate) fields: Vec<Attribute<'a>>,
}
