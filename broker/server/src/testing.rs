//! For tests in this crate: certificates made on the spot, a registry storage in memory, hooks that answer
//! what they are told to.

mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::{
    CertificateFacts, CertificateFingerprint, ClientCertificate, MatchedAnchor, to_pem,
};
use mqgate_identity::evaluation::{Anchor, subject_public_key_info};
use mqgate_identity::hooks::{
    Acl, AclRule, AuditSink, Authentication, Authenticator, Authorization, Authorizer, ChainMember,
    ConnackReason, Connection, Denial, Effect, FailureKind, Grant, GrantLimits, HookFailure, HookFuture,
    HookSet, Identity, Peer, Registrar, RegistrationDecision, RetainMatch,
};
use mqgate_identity::registry::{
    CaCertificate, CaTombstone, Cursor, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, EventsPage,
    KvAnswer, KvEntry, KvError, KvOperation, KvRequest, NewEvent, QueryIndex, RecordWrite, RegistrationCode,
    RegistryChanges, RegistryEvent, ServerBundle, Storage, StorageError,
};
use mqgate_identity::time::UnixMillis;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SigningKey,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use self::storage::MemoryStorage;
use crate::gate::Accepted;
use crate::metrics::mqtt::Transport;
use crate::metrics::{BuildInfo, Metrics};
use crate::tls::material::Pem;
use crate::tls::{BoundCertificate, CertificateSet, CertificateSource, ServerCertificate};

/// A CA of its own.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: String,
}

/// A certificate and the key to it.
pub(crate) struct TestCertificate {
    pub(crate) der: Vec<u8>,
    pub(crate) key: KeyPair,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, name: name.into() }
    }

    /// A CA that is good until this second.
    pub(crate) fn until(name: &str, end: u64) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(end);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, name: name.into() }
    }

    /// A CA whose certificate this one signed.
    pub(crate) fn below(&self, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Self { issuer, name: name.into() }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.issuer.key().sign(message).unwrap()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Another certificate of the same CA: the same subject and key, under another name here.
    pub(crate) fn renewed(&self, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Self { issuer, name: name.into() }
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    pub(crate) fn pem(&self) -> String {
        to_pem(self.issuer.der())
    }

    pub(crate) fn id(&self) -> CertificateFingerprint {
        CertificateFacts::parse(self.issuer.der()).unwrap().certificate_fingerprint
    }

    pub(crate) fn anchor(&self) -> Anchor {
        Anchor { name: self.name.as_str().into(), der: self.der().into() }
    }

    pub(crate) fn device(&self, common_name: &str) -> TestCertificate {
        self.issue(common_name, ExtendedKeyUsagePurpose::ClientAuth, |_| {})
    }

    pub(crate) fn expired(&self, common_name: &str) -> TestCertificate {
        self.issue(common_name, ExtendedKeyUsagePurpose::ClientAuth, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    pub(crate) fn server(&self) -> TestCertificate {
        self.server_named(&["localhost"])
    }

    pub(crate) fn server_named(&self, names: &[&str]) -> TestCertificate {
        self.issue(names[0], ExtendedKeyUsagePurpose::ServerAuth, |params| {
            for name in names {
                params.subject_alt_names.push(rcgen::SanType::DnsName((*name).try_into().unwrap()));
            }
        })
    }

    /// A CA with name constraints.
    pub(crate) fn only_for(name: &str, domain: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName(domain.into())],
            excluded_subtrees: Vec::new(),
        });
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, name: name.into() }
    }

    pub(crate) fn certify(&self, params: &CertificateParams, key: KeyPair) -> TestCertificate {
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        TestCertificate { der, key }
    }

    /// The CA's certificate as if it were a device's.
    pub(crate) fn as_device(&self) -> TestCertificate {
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        TestCertificate { der: self.der(), key }
    }

    /// A revocation list, good until the year given.
    pub(crate) fn crl(&self, number: u64, until: i32, revoked: &[&TestCertificate]) -> Vec<u8> {
        let revoked = revoked.iter().map(|certificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&certificate.facts().serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, number as u8 + 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn issue(
        &self,
        common_name: &str,
        purpose: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> TestCertificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![purpose];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        TestCertificate { der, key }
    }

    /// X.509 version 1, as `openssl x509 -req` makes them without `-extfile`.
    pub(crate) fn v1_device(&self, common_name: &str) -> TestCertificate {
        let template = self.device(common_name);
        let facts = CertificateFacts::parse(&template.der).unwrap();
        let key = subject_public_key_info(&template.der).unwrap();
        // ecdsa-with-SHA256
        let algorithm = sequence(&[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]]);
        let validity = sequence(&[&tlv(0x17, b"200101000000Z"), &tlv(0x17, b"490101000000Z")]);
        let to_be_signed = sequence(&[
            &tlv(0x02, &[0x05]),
            &algorithm,
            &facts.issuer.raw,
            &validity,
            &facts.subject.raw,
            key.as_ref(),
        ]);
        let mut signature = vec![0];
        signature.extend(self.issuer.key().sign(&to_be_signed).unwrap());
        let der = sequence(&[&to_be_signed, &algorithm, &tlv(0x03, &signature)]);
        TestCertificate { der, key: template.key }
    }
}

impl TestCertificate {
    pub(crate) fn pem(&self) -> String {
        to_pem(&self.der)
    }

    pub(crate) fn facts(&self) -> CertificateFacts {
        CertificateFacts::parse(&self.der).unwrap()
    }

    pub(crate) fn id(&self) -> CertificateFingerprint {
        self.facts().certificate_fingerprint
    }

    /// As a listener's only certificate.
    pub(crate) fn served(&self) -> CertificateSet {
        let (chain, key) = (self.pem(), self.key.serialize_pem());
        let pem = Pem {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
            password: None,
            chain_name: "c",
            key_name: "k",
        };
        let certificate = ServerCertificate::from_pem(pem, crate::clock::now().seconds()).unwrap();
        CertificateSet::new(vec![BoundCertificate::new(CertificateSource::Builtin, certificate)])
    }

    /// As a finished handshake leaves it.
    pub(crate) fn proved(&self, ca: &TestCa) -> Arc<ClientCertificate> {
        let anchor = MatchedAnchor { name: ca.name.as_str().into(), certificate_fingerprint: ca.id() };
        let leaf = self.facts();
        let not_after = leaf.not_after;
        let issuer_key = CertificateFacts::parse(&ca.der()).unwrap().public_key.spki_sha256;
        let intermediates = Vec::new();
        Arc::new(ClientCertificate { leaf, intermediates, anchor, issuer_key, not_after, judged_by: 0 })
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.der.clone())]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..128 => out.push(short as u8),
        medium @ 128..256 => out.extend([0x81, medium as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// A connection whose transport is up.
pub(crate) fn accepted(id: u64, listener: &str, certificate: Option<Arc<ClientCertificate>>) -> Accepted {
    Accepted {
        id,
        listener: listener.into(),
        accepted_at: UnixMillis(0),
        peer: Peer { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
        transport: Transport::Tcp,
        tls: None,
        certificate,
        server_certificate: None,
        attributes: Vec::new(),
    }
}

/// Answers what it is told to, and counts how often it was asked.
#[derive(Default)]
pub(crate) struct FakeHook {
    pub(crate) authentication: Option<Result<Authentication, HookFailure>>,
    pub(crate) registration: Option<Result<RegistrationDecision, HookFailure>>,
    pub(crate) authorization: Option<Result<Authorization, HookFailure>>,
    pub(crate) asked: AtomicUsize,
    /// What the authenticator was asked about.
    pub(crate) connections: Mutex<Vec<Arc<Connection>>>,
    /// What the registrar was told of the authenticators' answer.
    pub(crate) claimed: Mutex<Option<Identity>>,
    /// Events taken; the next calls fail as often as `refusals` says.
    pub(crate) events: Mutex<Vec<Arc<AuditEvent>>>,
    pub(crate) refusals: AtomicUsize,
}

impl Authenticator for FakeHook {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.connections.lock().unwrap().push(Arc::clone(on));
        let answer = self.authentication.clone().unwrap();
        Box::pin(async move { answer })
    }
}

impl Registrar for FakeHook {
    fn register<'a>(
        &'a self,
        _: &'a Arc<Connection>,
        claimed: Option<&'a Identity>,
    ) -> HookFuture<'a, RegistrationDecision> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        *self.claimed.lock().unwrap() = claimed.cloned();
        let answer = self.registration.clone().unwrap();
        Box::pin(async move {
            tokio::task::yield_now().await;
            answer
        })
    }
}

impl Authorizer for FakeHook {
    fn authorize<'a>(&'a self, _: &'a Arc<Connection>, _: &'a Identity) -> HookFuture<'a, Authorization> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.authorization.clone().unwrap();
        Box::pin(async move { answer })
    }
}

impl AuditSink for FakeHook {
    fn record_events<'a>(&'a self, events: &'a [Arc<AuditEvent>]) -> HookFuture<'a, u64> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let refuse = self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        let answer = if refuse {
            Err(failure(FailureKind::Trap))
        } else {
            self.events.lock().unwrap().extend(events.iter().cloned());
            Ok(events.last().unwrap().sequence)
        };
        Box::pin(async move { answer })
    }
}

/// A member of the chains, with the hooks that have an answer.
pub(crate) fn member(name: &str, hook: &Arc<FakeHook>) -> Arc<ChainMember> {
    Arc::new(ChainMember {
        name: name.into(),
        digest: Some("sha256:00".into()),
        authenticator: hook.authentication.is_some().then(|| Arc::clone(hook) as Arc<dyn Authenticator>),
        enhanced_authenticator: None,
        registrar: hook.registration.is_some().then(|| Arc::clone(hook) as Arc<dyn Registrar>),
        authorizer: hook.authorization.is_some().then(|| Arc::clone(hook) as Arc<dyn Authorizer>),
        auditor: None,
    })
}

pub(crate) fn hooks(members: Vec<Arc<ChainMember>>) -> Arc<ArcSwap<HookSet>> {
    Arc::new(ArcSwap::from_pointee(HookSet { generation: 1, members, ..HookSet::default() }))
}

pub(crate) fn identity(device_id: &str) -> Identity {
    Identity { device_id: device_id.into(), tenant: None, tags: Vec::new(), attributes: Vec::new() }
}

pub(crate) fn failure(kind: FailureKind) -> HookFailure {
    HookFailure { kind, detail: "told to".into() }
}

pub(crate) fn denial(reason: ConnackReason) -> Denial {
    Denial {
        reason,
        client_message: Some("go away".into()),
        audit_detail: Some("for the record".into()),
        server_reference: None,
        cache: None,
        attributes: Vec::new(),
    }
}

pub(crate) fn grant(filter: &str) -> Grant {
    Grant {
        acl: Acl::Inline(vec![AclRule {
            effect: Effect::Allow,
            publish: true,
            subscribe: true,
            filter: filter.into(),
            qos: 0b111,
            retain: RetainMatch::Any,
        }]),
        otherwise: Effect::Deny,
        limits: GrantLimits::default(),
        assigned_client_id: None,
        valid_for: None,
        cache: None,
        attributes: Vec::new(),
    }
}

pub(crate) fn metrics() -> Arc<Metrics> {
    Metrics::new(&BuildInfo::default()).unwrap()
}
