//! A small PKI for the tests.

use std::sync::Arc;

use mqgate_identity::evaluation::{Anchor, TrustAnchors};
use mqgate_identity::time::UnixSeconds;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Some time in November 2023.
pub const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

pub struct Authority {
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

pub fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Authority {
    pub fn root(name: &str) -> Self {
        Self::root_from(ca_params(name))
    }

    pub fn root_from(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        self.intermediate_from(ca_params(name))
    }

    pub fn intermediate_from(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub fn leaf(&self, name: &str) -> Vec<u8> {
        self.sign(named(name))
    }

    pub fn sign(&self, params: CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

pub fn anchors(authorities: &[(&str, &[u8])]) -> TrustAnchors {
    let anchors = authorities
        .iter()
        .map(|(name, der)| Anchor { name: Arc::from(*name), der: Arc::from(*der) })
        .collect();
    TrustAnchors::new(anchors).unwrap()
}
