//! What a hook is asked: the native types as records of the ABI.

pub(crate) mod records;

use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict};
use mqgate_identity::certificate::{
    CertificateFacts, ClientCertificate, DistinguishedName, GeneralName, KeyUsage, MatchedAnchor,
};
use mqgate_identity::hooks::{
    Attribute, ConnectFacts, Connection, Identity, Peer, TlsSession, Value, WillFacts,
};

use crate::bindings::exports::mqgate::plugin::auditor;
use crate::bindings::mqgate::plugin::certificates;

/// Whether the plugin may see passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credentials {
    Shown,
    Hidden,
}

pub(crate) fn connection(on: &Connection, credentials: Credentials) -> records::Connection<'_> {
    records::Connection {
        id: on.id,
        trace_id: &on.trace_id,
        listener: &on.listener,
        accepted_at: on.accepted_at.0,
        peer: peer(&on.peer),
        tls: on.tls.as_ref().map(tls_session),
        certificate: on.certificate.as_deref().map(client_certificate),
        connect: connect(&on.connect, credentials),
        attributes: attributes(&on.attributes),
    }
}

pub(crate) fn identity(who: &Identity) -> records::Identity<'_> {
    records::Identity {
        device_id: &who.device_id,
        tenant: who.tenant.as_deref(),
        tags: &who.tags,
        attributes: attributes(&who.attributes),
    }
}

/// With the digits of its fingerprint written where there is room for them.
pub(crate) fn audit_event<'a>(event: &'a AuditEvent, digits: &'a mut [u8; 64]) -> records::AuditEvent<'a> {
    records::AuditEvent {
        sequence: event.sequence,
        at: event.at.0,
        name: event.name,
        outcome: match event.outcome {
            Outcome::Success => auditor::Outcome::Success,
            Outcome::Failure => auditor::Outcome::Failure,
            Outcome::Error => auditor::Outcome::Error,
        },
        reason: event.reason.as_str(),
        actor: &event.actor,
        connection_id: event.connection_id,
        device_id: event.device_id.as_deref(),
        client_id: event.client_id.as_deref(),
        peer_address: event.peer_address.as_deref(),
        listener: event.listener.as_deref(),
        certificate_fingerprint: event.certificate_fingerprint.map(|it| it.write_hex(digits)),
        subject: event.subject.as_deref(),
        server_name: event.server_name.as_deref(),
        plugins: event.plugins.iter().map(plugin_verdict).collect(),
        fields: attributes(&event.fields),
    }
}

fn plugin_verdict(verdict: &PluginVerdict) -> records::PluginVerdict<'_> {
    records::PluginVerdict {
        name: &verdict.name,
        digest: verdict.digest.as_deref(),
        hook: verdict.hook,
        answer: verdict.result,
        microseconds: verdict.microseconds,
    }
}

fn peer(peer: &Peer) -> records::Peer {
    records::Peer {
        address: peer.address.to_string(),
        port: peer.port,
        via_proxy: peer.via_proxy.map(|address| address.to_string()),
    }
}

fn tls_session(tls: &TlsSession) -> records::TlsSession<'_> {
    records::TlsSession {
        version: tls.version,
        cipher_suite: tls.cipher_suite,
        server_name: tls.server_name.as_deref(),
        alpn: tls.alpn.as_deref(),
        resumed: tls.resumed,
    }
}

fn connect(connect: &ConnectFacts, credentials: Credentials) -> records::Connect<'_> {
    records::Connect {
        protocol_level: connect.protocol_level,
        client_id: &connect.client_id,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        user_name: connect.user_name.as_deref(),
        password: match credentials {
            Credentials::Shown => connect.password.as_ref().map(|secret| &*secret.0),
            Credentials::Hidden => None,
        },
        will: connect.will.as_ref().map(will),
        session_expiry: connect.session_expiry,
        receive_maximum: connect.receive_maximum,
        maximum_packet_size: connect.maximum_packet_size,
        authentication_method: connect.authentication_method.as_deref(),
        user_properties: &connect.user_properties,
    }
}

fn will(will: &WillFacts) -> records::Will<'_> {
    records::Will {
        topic: &will.topic,
        qos: will.qos,
        retain: will.retain,
        payload_length: will.payload_length,
    }
}

fn client_certificate(certificate: &ClientCertificate) -> records::ClientCertificate<'_> {
    records::ClientCertificate {
        leaf: facts(&certificate.leaf),
        intermediates: certificate.intermediates.iter().map(|der| &**der).collect(),
        chain: records::ChainStatus::Verified(anchor(&certificate.anchor)),
        revocation: records::RevocationStatus::NotChecked,
        attributes: &[],
    }
}

fn anchor(anchor: &MatchedAnchor) -> records::TrustAnchor<'_> {
    records::TrustAnchor { name: &anchor.name, fingerprint_sha256: &anchor.certificate_fingerprint.0 }
}

fn facts(facts: &CertificateFacts) -> records::Certificate<'_> {
    records::Certificate {
        fingerprint_sha256: &facts.certificate_fingerprint.0,
        version: facts.version,
        serial: &facts.serial,
        subject: name(&facts.subject),
        issuer: name(&facts.issuer),
        not_before: facts.not_before.0,
        not_after: facts.not_after.0,
        subject_alt_names: facts.subject_alt_names.iter().map(general_name).collect(),
        key_usage: facts.key_usage.map(key_usage),
        extended_key_usage: &facts.extended_key_usage,
        is_ca: facts.is_ca,
        public_key: records::PublicKey {
            algorithm_oid: &facts.public_key.algorithm_oid,
            bits: facts.public_key.bits,
            spki_sha256: &facts.public_key.spki_sha256,
        },
        extensions: facts
            .extensions
            .iter()
            .map(|extension| records::Extension {
                oid: &extension.oid,
                critical: extension.critical,
                raw: &extension.raw,
            })
            .collect(),
        der: &facts.der,
    }
}

fn name(name: &DistinguishedName) -> records::DistinguishedName<'_> {
    records::DistinguishedName {
        display: &name.display,
        attributes: name
            .attributes
            .iter()
            .map(|attribute| records::NameAttribute {
                oid: &attribute.oid,
                text: attribute.text.as_deref(),
                raw: &attribute.raw,
            })
            .collect(),
        raw: &name.raw,
    }
}

fn general_name(name: &GeneralName) -> records::GeneralName<'_> {
    match name {
        GeneralName::Dns(text) => records::GeneralName::Dns(text),
        GeneralName::Email(text) => records::GeneralName::Email(text),
        GeneralName::Uri(text) => records::GeneralName::Uri(text),
        GeneralName::Ip(bytes) => records::GeneralName::Ip(bytes),
        GeneralName::RegisteredId(oid) => records::GeneralName::RegisteredId(oid),
        GeneralName::Directory(der) => records::GeneralName::Directory(der),
        GeneralName::Other(oid, der) => records::GeneralName::Other((oid, der)),
        GeneralName::Malformed(tag, content) => records::GeneralName::Malformed((*tag, content)),
    }
}

fn key_usage(usage: KeyUsage) -> certificates::KeyUsage {
    let KeyUsage {
        digital_signature,
        content_commitment,
        key_encipherment,
        data_encipherment,
        key_agreement,
        key_cert_sign,
        crl_sign,
        encipher_only,
        decipher_only,
    } = usage;
    [
        (digital_signature, certificates::KeyUsage::DIGITAL_SIGNATURE),
        (content_commitment, certificates::KeyUsage::CONTENT_COMMITMENT),
        (key_encipherment, certificates::KeyUsage::KEY_ENCIPHERMENT),
        (data_encipherment, certificates::KeyUsage::DATA_ENCIPHERMENT),
        (key_agreement, certificates::KeyUsage::KEY_AGREEMENT),
        (key_cert_sign, certificates::KeyUsage::KEY_CERT_SIGN),
        (crl_sign, certificates::KeyUsage::CRL_SIGN),
        (encipher_only, certificates::KeyUsage::ENCIPHER_ONLY),
        (decipher_only, certificates::KeyUsage::DECIPHER_ONLY),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .fold(certificates::KeyUsage::empty(), |flags, (_, flag)| flags | flag)
}

fn attributes(attributes: &[Attribute]) -> Vec<records::Attribute<'_>> {
    attributes
        .iter()
        .map(|attribute| records::Attribute {
            name: &attribute.name,
            value: match &attribute.value {
                Value::Text(text) => records::Value::Text(text),
                Value::Integer(number) => records::Value::Integer(*number),
                Value::Boolean(value) => records::Value::Boolean(*value),
                Value::Blob(bytes) => records::Value::Blob(bytes),
                Value::Texts(texts) => records::Value::Texts(texts),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mqgate_identity::hooks::{Occasion, Secret};
    use mqgate_identity::time::UnixMillis;

    use super::*;

    #[test]
    fn a_password_is_for_plugins_with_the_grant() {
        let on = Connection {
            id: 7,
            trace_id: String::from("t"),
            listener: "l".into(),
            accepted_at: UnixMillis(1),
            peer: Peer { address: [10, 0, 0, 1].into(), port: 1, via_proxy: Some([10, 0, 0, 2].into()) },
            tls: None,
            certificate: None,
            connect: ConnectFacts {
                protocol_level: 4,
                client_id: String::from("c"),
                clean_start: true,
                keep_alive: 60,
                user_name: Some(String::from("u")),
                password: Some(Secret(b"p".to_vec())),
                will: None,
                session_expiry: None,
                receive_maximum: None,
                maximum_packet_size: None,
                authentication_method: None,
                user_properties: Vec::new(),
            },
            attributes: Vec::new(),
            occasion: Occasion::Admission,
        };
        let hidden = connection(&on, Credentials::Hidden);
        assert_eq!((hidden.connect.user_name, hidden.connect.password), (Some("u"), None));
        let shown = connection(&on, Credentials::Shown);
        assert_eq!(shown.connect.password, Some(&b"p"[..]));
        assert_eq!(
            (shown.peer.address.as_str(), shown.peer.via_proxy.as_deref()),
            ("10.0.0.1", Some("10.0.0.2"))
        );
    }

    #[test]
    fn each_key_usage_is_itself() {
        let usage = KeyUsage { crl_sign: true, digital_signature: true, ..KeyUsage::default() };
        assert_eq!(
            key_usage(usage),
            certificates::KeyUsage::CRL_SIGN | certificates::KeyUsage::DIGITAL_SIGNATURE
        );
    }
}
