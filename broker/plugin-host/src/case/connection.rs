//! What a hook is asked, as a case has it: the connection, the identity, the step of an exchange.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqgate_identity::certificate::{
    CertificateFacts, CertificateFingerprint, ClientCertificate, MatchedAnchor, certificates_from_pem,
};
use mqgate_identity::hooks::{
    ConnectFacts, Connection, Identity, Occasion, Peer, Secret, TlsSession, WillFacts,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{Fingerprint, Short};
use super::value::{Attributes, Bytes, InShort, Time, maybe_short, said, short_or_whole};

/// TLS 1.3, and the cipher suite that everybody has.
const TLS_1_3: &str = "1.3";
const AES_128: u16 = 0x1301;

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionPart {
    pub id: u64,
    pub trace_id: String,
    pub listener: String,
    /// Without it, the host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Time>,
    #[serde(deserialize_with = "short_or_whole")]
    #[schemars(with = "Short<PeerPart>")]
    pub peer: PeerPart,
    /// Left out: TLS 1.3 where there is a certificate.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub tls: Option<Option<TlsPart>>,
    #[serde(deserialize_with = "maybe_short", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Short<CertificatePart>>")]
    pub certificate: Option<CertificatePart>,
    pub connect: ConnectPart,
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    #[serde(skip_serializing_if = "OccasionPart::is_admission")]
    pub occasion: OccasionPart,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeerPart {
    pub address: IpAddr,
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via_proxy: Option<IpAddr>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsPart {
    pub version: String,
    pub cipher_suite: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    pub resumed: bool,
}

/// Facts are not stored: the broker's own parser finds them in the certificate, each time.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatePart {
    /// Beside the case file, or an absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub der: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intermediates: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<AnchorPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Fingerprint>")]
    pub issuer_key: Option<CertificateFingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<UnixSeconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<u64>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnchorPart {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Fingerprint>")]
    pub fingerprint: Option<CertificateFingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectPart {
    pub protocol_level: u8,
    pub client_id: String,
    pub clean_start: bool,
    pub keep_alive: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will: Option<WillPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_maximum: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_packet_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_method: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_properties: Vec<(String, String)>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WillPart {
    pub topic: String,
    #[serde(default)]
    pub qos: u8,
    #[serde(default)]
    pub retain: bool,
    #[serde(default)]
    pub payload_length: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OccasionPart {
    #[default]
    Admission,
    Explanation,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityPart {
    pub device_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
}

/// One step of enhanced authentication.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExchangePart {
    pub method: String,
    #[serde(default)]
    pub round: u32,
    #[serde(default = "nothing")]
    pub state: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Bytes>,
    #[serde(default)]
    pub again: bool,
}

fn nothing() -> Bytes {
    Bytes::Are(Vec::new())
}

impl Default for ConnectionPart {
    fn default() -> Self {
        Self {
            id: 1,
            trace_id: String::from("00000000000000000000000000000001"),
            listener: String::from("mqtts"),
            accepted_at: None,
            peer: PeerPart::default(),
            tls: None,
            certificate: None,
            connect: ConnectPart::default(),
            attributes: Attributes::default(),
            occasion: OccasionPart::Admission,
        }
    }
}

impl Default for PeerPart {
    fn default() -> Self {
        Self { address: [192, 0, 2, 1].into(), port: 50_000, via_proxy: None }
    }
}

impl Default for TlsPart {
    fn default() -> Self {
        Self {
            version: String::from(TLS_1_3),
            cipher_suite: AES_128,
            server_name: None,
            alpn: None,
            resumed: false,
        }
    }
}

impl Default for ConnectPart {
    fn default() -> Self {
        Self {
            protocol_level: 5,
            client_id: String::from("client"),
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
        }
    }
}

impl OccasionPart {
    fn is_admission(&self) -> bool {
        *self == Self::Admission
    }
}

impl InShort for PeerPart {
    const WHAT: &'static str = "an address such as \"192.0.2.1\", or { \"address\": …, \"port\": … }";

    fn in_short(text: &str) -> Result<Self, String> {
        let address = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
        Ok(Self { address, ..Self::default() })
    }
}

impl InShort for CertificatePart {
    const WHAT: &'static str = "a PEM file beside the case file, or { \"file\" | \"pem\" | \"der\": … }";

    fn in_short(text: &str) -> Result<Self, String> {
        Ok(Self { file: Some(text.to_owned()), ..Self::default() })
    }
}

impl InShort for IdentityPart {
    const WHAT: &'static str = "a device id, or { \"device_id\": … }";

    fn in_short(text: &str) -> Result<Self, String> {
        let device_id = text.to_owned();
        Ok(Self { device_id, tenant: None, tags: Vec::new(), attributes: Attributes::default() })
    }
}

impl ConnectionPart {
    /// As the hooks are asked about it. A password that a recording left out is empty; [`super::Case::redacted`]
    /// says that it was there.
    pub(super) fn native(&self, folder: &Path, clock: UnixMillis) -> Result<Connection, String> {
        let certificate = self.certificate.as_ref().map(|it| it.native(folder)).transpose()?;
        let tls = match &self.tls {
            Some(tls) => tls.as_ref().map(TlsPart::native).transpose()?,
            None => certificate.is_some().then(|| TlsPart::default().native()).transpose()?,
        };
        Ok(Connection {
            id: self.id,
            trace_id: self.trace_id.clone(),
            listener: self.listener.as_str().into(),
            accepted_at: self.accepted_at.map_or(clock, |time| time.0),
            peer: Peer { address: self.peer.address, port: self.peer.port, via_proxy: self.peer.via_proxy },
            tls,
            certificate: certificate.map(Arc::new),
            connect: self.connect.native(),
            attributes: self.attributes.0.clone(),
            occasion: match self.occasion {
                OccasionPart::Admission => Occasion::Admission,
                OccasionPart::Explanation => Occasion::Explanation,
            },
        })
    }

    pub(super) fn of(on: &Connection) -> Self {
        Self {
            id: on.id,
            trace_id: on.trace_id.clone(),
            listener: on.listener.to_string(),
            accepted_at: Some(Time(on.accepted_at)),
            peer: PeerPart { address: on.peer.address, port: on.peer.port, via_proxy: on.peer.via_proxy },
            tls: Some(on.tls.as_ref().map(TlsPart::of)),
            certificate: on.certificate.as_deref().map(CertificatePart::of),
            connect: ConnectPart::of(&on.connect),
            attributes: Attributes(on.attributes.clone()),
            occasion: match on.occasion {
                Occasion::Admission => OccasionPart::Admission,
                Occasion::Explanation => OccasionPart::Explanation,
            },
        }
    }
}

impl TlsPart {
    fn native(&self) -> Result<TlsSession, String> {
        let version = match self.version.as_str() {
            "1.2" => 0x0303,
            "1.3" => 0x0304,
            other => return Err(format!("connection.tls.version: {other:?} is neither \"1.2\" nor \"1.3\"")),
        };
        Ok(TlsSession {
            version,
            cipher_suite: self.cipher_suite,
            server_name: self.server_name.clone(),
            alpn: self.alpn.clone(),
            resumed: self.resumed,
        })
    }

    fn of(tls: &TlsSession) -> Self {
        Self {
            version: String::from(if tls.version == 0x0303 { "1.2" } else { TLS_1_3 }),
            cipher_suite: tls.cipher_suite,
            server_name: tls.server_name.clone(),
            alpn: tls.alpn.clone(),
            resumed: tls.resumed,
        }
    }
}

impl CertificatePart {
    fn native(&self, folder: &Path) -> Result<ClientCertificate, String> {
        let mut chain = self.chain(folder)?;
        let leaf = CertificateFacts::parse(&chain.remove(0)).map_err(|error| {
            format!("connection.certificate: {error}; the broker refuses it before any plugin is asked")
        })?;
        let mut intermediates: Vec<Arc<[u8]>> = chain.into_iter().map(Arc::from).collect();
        for text in &self.intermediates {
            intermediates.push(decoded("connection.certificate.intermediates", text)?.into());
        }
        let anchor = match &self.anchor {
            Some(anchor) => anchor.native(folder)?,
            None => MatchedAnchor {
                name: "test-ca".into(),
                certificate_fingerprint: CertificateFingerprint([0; 32]),
            },
        };
        Ok(ClientCertificate {
            not_after: self.not_after.unwrap_or(leaf.not_after),
            leaf,
            intermediates,
            anchor,
            issuer_key: self.issuer_key.map_or([0; 32], |key| key.0),
            judged_by: self.judged_by.unwrap_or(0),
        })
    }

    /// The leaf, and what follows it.
    fn chain(&self, folder: &Path) -> Result<Vec<Vec<u8>>, String> {
        let of_pem = |what: &str, text: &[u8]| {
            certificates_from_pem(text).map_err(|error| format!("connection.certificate{what}: {error}"))
        };
        match (&self.file, &self.pem, &self.der) {
            (Some(file), None, None) => {
                let path = folder.join(file);
                let text = std::fs::read(&path).map_err(|error| {
                    format!("connection.certificate: {} cannot be read: {error}", path.display())
                })?;
                of_pem(&format!(" ({})", path.display()), &text)
            }
            (None, Some(text), None) => of_pem(".pem", text.as_bytes()),
            (None, None, Some(text)) => Ok(vec![decoded("connection.certificate.der", text)?]),
            _ => Err(String::from("connection.certificate: write one of \"file\", \"pem\" and \"der\"")),
        }
    }

    fn of(certificate: &ClientCertificate) -> Self {
        let intermediates = certificate.intermediates.iter().map(|der| STANDARD.encode(der));
        Self {
            file: None,
            pem: None,
            der: Some(STANDARD.encode(&certificate.leaf.der)),
            intermediates: intermediates.collect(),
            anchor: Some(AnchorPart {
                name: certificate.anchor.name.to_string(),
                fingerprint: Some(certificate.anchor.certificate_fingerprint),
                file: None,
            }),
            issuer_key: Some(CertificateFingerprint(certificate.issuer_key)),
            not_after: Some(certificate.not_after),
            judged_by: Some(certificate.judged_by),
        }
    }
}

impl AnchorPart {
    fn native(&self, folder: &Path) -> Result<MatchedAnchor, String> {
        let certificate_fingerprint = match (&self.fingerprint, &self.file) {
            (Some(fingerprint), None) => *fingerprint,
            (None, None) => CertificateFingerprint([0; 32]),
            (None, Some(file)) => {
                let part = CertificatePart { file: Some(file.clone()), ..CertificatePart::default() };
                let of_anchor =
                    |why: String| why.replace("connection.certificate", "connection.certificate.anchor");
                CertificateFingerprint::of(&part.chain(folder).map_err(of_anchor)?[0])
            }
            (Some(_), Some(_)) => {
                return Err(String::from(
                    "connection.certificate.anchor: write \"fingerprint\" or \"file\", not both",
                ));
            }
        };
        Ok(MatchedAnchor { name: self.name.as_str().into(), certificate_fingerprint })
    }
}

fn decoded(field: &str, text: &str) -> Result<Vec<u8>, String> {
    let text: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(text).map_err(|error| format!("{field}: no base64 of DER: {error}"))
}

impl ConnectPart {
    fn native(&self) -> ConnectFacts {
        ConnectFacts {
            protocol_level: self.protocol_level,
            client_id: self.client_id.clone(),
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            user_name: self.user_name.clone(),
            password: self.password.as_ref().map(|it| Secret(it.known().unwrap_or_default().to_vec())),
            will: self.will.as_ref().map(|will| WillFacts {
                topic: will.topic.clone(),
                qos: will.qos,
                retain: will.retain,
                payload_length: will.payload_length,
            }),
            session_expiry: self.session_expiry,
            receive_maximum: self.receive_maximum,
            maximum_packet_size: self.maximum_packet_size,
            authentication_method: self.authentication_method.clone(),
            user_properties: self.user_properties.clone(),
        }
    }

    /// Without the password.
    fn of(connect: &ConnectFacts) -> Self {
        Self {
            protocol_level: connect.protocol_level,
            client_id: connect.client_id.clone(),
            clean_start: connect.clean_start,
            keep_alive: connect.keep_alive,
            user_name: connect.user_name.clone(),
            password: connect.password.as_ref().map(|_| Bytes::Redacted),
            will: connect.will.as_ref().map(|will| WillPart {
                topic: will.topic.clone(),
                qos: will.qos,
                retain: will.retain,
                payload_length: will.payload_length,
            }),
            session_expiry: connect.session_expiry,
            receive_maximum: connect.receive_maximum,
            maximum_packet_size: connect.maximum_packet_size,
            authentication_method: connect.authentication_method.clone(),
            user_properties: connect.user_properties.clone(),
        }
    }
}

impl IdentityPart {
    pub(super) fn native(&self) -> Identity {
        Identity {
            device_id: self.device_id.clone(),
            tenant: self.tenant.clone(),
            tags: self.tags.clone(),
            attributes: self.attributes.0.clone(),
        }
    }

    pub(super) fn of(who: &Identity) -> Self {
        Self {
            device_id: who.device_id.clone(),
            tenant: who.tenant.clone(),
            tags: who.tags.clone(),
            attributes: Attributes(who.attributes.clone()),
        }
    }
}
