//! A CA that signs: made, or opened from its files. What it signs is read back before anybody gets it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem, to_pem};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;

use super::key;
use crate::exit::Failure;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Signs others; so many CAs may stand between it and a leaf.
    Ca {
        path_length: u8,
    },
    Server,
    Device,
}

impl Role {
    /// How long a certificate lives unless somebody says otherwise.
    pub const fn usual_days(self) -> u32 {
        match self {
            Self::Ca { path_length: 0 } => 1_825,
            Self::Ca { .. } => 3_650,
            Self::Server | Self::Device => 365,
        }
    }
}

/// What to sign.
#[derive(Debug, Clone)]
pub struct Template {
    pub subject: DistinguishedName,
    pub alternative_names: Vec<SanType>,
    pub role: Role,
    /// `None`: [`Role::usual_days`], or as long as the CA lives if that is shorter.
    pub days: Option<u32>,
    /// Where a revocation list will be.
    pub crl_urls: Vec<String>,
}

/// A certificate that was signed, and what it says.
#[derive(Debug, Clone)]
pub struct Issued {
    pub facts: CertificateFacts,
    /// PEM of it and of the intermediates that its holder sends along.
    pub pem: String,
}

pub struct Authority {
    pub facts: CertificateFacts,
    /// DER of what a holder sends after its own certificate: this CA and those above it, never a root.
    chain: Vec<Vec<u8>>,
    issuer: Issuer<'static, KeyPair>,
    /// CAs that may stand below it.
    path_length: Option<u32>,
}

/// A CA that signs itself.
pub fn root(subject: DistinguishedName, days: Option<u32>, path_length: u8, key: &KeyPair) -> Result<Issued> {
    let role = Role::Ca { path_length };
    let now = SystemTime::now();
    let template = Template { subject, alternative_names: Vec::new(), role, days, crl_urls: Vec::new() };
    let mut params = params(&template)?;
    params.not_before = (now - HOUR).into();
    params.not_after = (now + DAY * days.unwrap_or(3_650)).into();
    let signed = params.self_signed(key).context("the CA cannot sign itself")?;
    let facts = CertificateFacts::parse(signed.der())?;
    Ok(Issued { pem: to_pem(&facts.der), facts })
}

impl Authority {
    /// Reads `{name}.pem` and `{name}.key` in `dir`.
    pub fn open(dir: &Path, name: &str, password: Option<&str>) -> Result<Self> {
        let (file, key_file) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        let text = super::read(&file)
            .map_err(|error| error.context("a CA is needed: make one with `mqgate pki ca`"))?;
        let ders = certificates_from_pem(&text)
            .map_err(|error| Failure::refused(format!("{}: {error}", file.display())))?;
        let key = key::read(&key_file, password)?;
        Self::new(&ders, key).map_err(|error| error.context(format!("{} cannot sign", file.display())))
    }

    /// With this certificate, and its key in a file.
    pub fn with_key(pem: &[u8], key_file: &Path, password: Option<&str>) -> Result<Self> {
        let ders = certificates_from_pem(pem).map_err(|error| Failure::refused(error.to_string()))?;
        let key = key::read(key_file, password)?;
        Self::new(&ders, key).map_err(|error| error.context(format!("{} cannot sign", key_file.display())))
    }

    /// `ders`: its own certificate first.
    fn new(ders: &[Vec<u8>], key: KeyPair) -> Result<Self> {
        let own = ders.first().context("no certificate")?;
        let facts = CertificateFacts::parse(own).map_err(|error| Failure::refused(error.to_string()))?;
        let refused =
            |why: &str| Err(Failure::refused(format!("\"{}\" {why}", facts.subject.display)).into());
        if !facts.is_ca {
            return refused("is no CA certificate (CA:TRUE)");
        }
        if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
            return refused("may not sign certificates: its key usage lacks keyCertSign");
        }
        if <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())) != facts.public_key.spki_sha256 {
            return refused("does not belong to the key");
        }
        let mut chain = Vec::new();
        for der in ders {
            let each = CertificateFacts::parse(der).map_err(|error| Failure::refused(error.to_string()))?;
            if each.subject.raw != each.issuer.raw {
                chain.push(der.clone());
            }
        }
        let path_length = extension(&facts, BASIC_CONSTRAINTS)
            .and_then(|raw| x509_parser::extensions::BasicConstraints::from_der(raw).ok())
            .and_then(|(_, constraints)| constraints.path_len_constraint);
        let der = rustls_pki_types::CertificateDer::from(own.as_slice());
        let issuer = Issuer::from_ca_cert_der(&der, key).context("its name cannot be used by an issuer")?;
        Ok(Self { facts, chain, issuer, path_length })
    }

    /// Signs a certificate for the holder of `public_key`.
    pub fn issue(&self, template: &Template, public_key: &impl PublicKeyData) -> Result<Issued> {
        let mut params = params(template)?;
        if let Role::Ca { path_length } = template.role
            && self.path_length.is_some_and(|allowed| u32::from(path_length) >= allowed)
        {
            let allowed = self.path_length.unwrap_or_default();
            return Err(Failure::refused(match allowed {
                0 => format!(
                    "\"{}\" may have no CA below it (pathLenConstraint 0)\n  help: make the root with \
                     `mqgate pki ca --path-length 1`",
                    self.facts.subject.display
                ),
                _ => format!(
                    "--path-length {path_length} is too much below \"{}\", whose own is {allowed}",
                    self.facts.subject.display
                ),
            })
            .into());
        }
        self.set_validity(&mut params, template)?;
        params.use_authority_key_identifier_extension = true;
        let signed =
            params.signed_by(public_key, &self.issuer).context("the certificate cannot be signed")?;
        let facts = CertificateFacts::parse(signed.der())?;
        // Names are written anew, and a name of a rare form may not come out the same.
        if facts.issuer.raw != self.facts.subject.raw {
            return Err(anyhow!(
                "the name of the CA, \"{}\", has a form that cannot be written into certificates here",
                self.facts.subject.display
            ));
        }
        let mut pem = to_pem(&facts.der);
        self.chain.iter().for_each(|der| pem.push_str(&to_pem(der)));
        Ok(Issued { facts, pem })
    }

    /// From an hour ago, for clocks that are behind, and never outside of the CA's own validity.
    fn set_validity(&self, params: &mut CertificateParams, template: &Template) -> Result<()> {
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        let now = SystemTime::now();
        let (first, last) = (at(self.facts.not_before.0), at(self.facts.not_after.0));
        if now > last {
            return Err(Failure::refused(format!(
                "the CA \"{}\" expired at {}",
                self.facts.subject.display, self.facts.not_after
            ))
            .into());
        }
        let wanted = now + DAY * template.days.unwrap_or(template.role.usual_days());
        if template.days.is_some() && wanted > last {
            let left = last.duration_since(now).map_or(0, |left| left.as_secs() / DAY.as_secs());
            return Err(Failure::refused(format!(
                "it would outlive its CA, which ends {}: at most --days {left}, or renew the CA",
                self.facts.not_after
            ))
            .into());
        }
        params.not_before = (now - HOUR).max(first).into();
        params.not_after = wanted.min(last).into();
        Ok(())
    }

    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Value of its subject key identifier, which revocation lists name.
    pub fn key_identifier(&self) -> Option<Vec<u8>> {
        let raw = extension(&self.facts, SUBJECT_KEY_IDENTIFIER)?;
        x509_parser::extensions::KeyIdentifier::from_der(raw).ok().map(|(_, id)| id.0.to_vec())
    }
}

fn extension<'a>(facts: &'a CertificateFacts, oid: &str) -> Option<&'a [u8]> {
    facts.extensions.iter().find(|extension| extension.oid == oid).map(|extension| &*extension.raw)
}

fn params(template: &Template) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = template.subject.clone();
    params.subject_alt_names.clone_from(&template.alternative_names);
    params.serial_number = Some(random_serial()?);
    params.crl_distribution_points =
        template.crl_urls.iter().map(|url| CrlDistributionPoint { uris: vec![url.clone()] }).collect();
    match template.role {
        Role::Ca { path_length } => {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        Role::Server | Role::Device => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![match template.role {
                Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
                Role::Device | Role::Ca { .. } => ExtendedKeyUsagePurpose::ClientAuth,
            }];
        }
    }
    Ok(params)
}

/// 20 bytes, as many as RFC 5280 allows (4.1.2.2): positive, and the first byte not zero.
pub fn random_serial() -> Result<SerialNumber> {
    let mut serial = [0; 20];
    getrandom::fill(&mut serial).map_err(|error| anyhow!("no random numbers: {error}"))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}
