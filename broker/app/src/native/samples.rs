//! Connections as the native hooks' tests need them.

use std::sync::Arc;

use mqgate_identity::certificate::{
    CertificateFacts, CertificateFingerprint, ClientCertificate, DistinguishedName, GeneralName,
    MatchedAnchor, NameAttribute, PublicKey,
};
use mqgate_identity::hooks::{ConnectFacts, Connection, HookFuture, Occasion, Peer, Secret};
use mqgate_identity::time::{UnixMillis, UnixSeconds};

/// Builds one connection.
pub struct Sample(Connection);

/// The answer of a hook that does not wait.
pub fn now<T>(mut answer: HookFuture<'_, T>) -> Result<T, mqgate_identity::hooks::HookFailure> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match answer.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("this hook waits"),
    }
}

impl Sample {
    pub fn on(listener: &str) -> Self {
        Self(Connection {
            id: 1,
            trace_id: "0".repeat(32),
            listener: listener.into(),
            accepted_at: UnixMillis(0),
            peer: Peer { address: "192.0.2.7".parse().expect("an address"), port: 1, via_proxy: None },
            tls: None,
            certificate: None,
            connect: ConnectFacts {
                protocol_level: 5,
                client_id: String::new(),
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
            occasion: Occasion::Admission,
        })
    }

    pub fn from(mut self, address: &str) -> Self {
        self.0.peer.address = address.parse().expect("an address");
        self
    }

    pub fn via_proxy(mut self) -> Self {
        self.0.peer.via_proxy = Some("127.0.0.1".parse().expect("an address"));
        self
    }

    pub fn proxied_name(mut self, name: &str) -> Self {
        self.0.attributes.push(super::text("proxy.cn", name));
        self
    }

    pub fn client(mut self, client_id: &str) -> Self {
        client_id.clone_into(&mut self.0.connect.client_id);
        self
    }

    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.0.connect.user_name = Some(name.to_owned());
        self.0.connect.password = Some(Secret(password.into()));
        self
    }

    /// A certificate with these subject attributes, by object identifier, and DNS names.
    pub fn certificate(mut self, subject: &[(&str, Option<&str>)], dns: &[&str]) -> Self {
        let name = |attributes: &[(&str, Option<&str>)]| DistinguishedName {
            display: String::from("display"),
            attributes: attributes
                .iter()
                .map(|(oid, text)| NameAttribute {
                    oid: (*oid).to_owned(),
                    text: text.map(str::to_owned),
                    raw: Vec::new(),
                })
                .collect(),
            raw: Vec::new(),
        };
        self.0.certificate = Some(Arc::new(ClientCertificate {
            leaf: CertificateFacts {
                certificate_fingerprint: CertificateFingerprint([7; 32]),
                version: 3,
                serial: vec![0x0a, 0xff],
                subject: name(subject),
                issuer: name(&[("2.5.4.3", Some("Demo CA"))]),
                not_before: UnixSeconds(0),
                not_after: UnixSeconds(1),
                subject_alt_names: dns.iter().map(|dns| GeneralName::Dns((*dns).to_owned())).collect(),
                key_usage: None,
                extended_key_usage: Vec::new(),
                is_ca: false,
                public_key: PublicKey { algorithm_oid: String::new(), bits: 256, spki_sha256: [0; 32] },
                extensions: Vec::new(),
                der: Arc::from([]),
            },
            intermediates: Vec::new(),
            anchor: MatchedAnchor {
                name: "demo".into(),
                certificate_fingerprint: CertificateFingerprint([9; 32]),
            },
            issuer_key: [0; 32],
            not_after: UnixSeconds(1),
            judged_by: 0,
        }));
        self
    }

    pub fn connection(self) -> Arc<Connection> {
        Arc::new(self.0)
    }
}
