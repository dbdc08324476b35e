//! A server's certificate chain and key, from PEM, with errors that say which file and what to do.
//!
//! What cannot work is refused; what works and should be better is a warning. Does not know listeners.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mqgate_identity::certificate::{CertificateFacts, GeneralName};
use mqgate_identity::evaluation::{check_signed_by, subject_public_key_info};
use mqgate_identity::time::UnixSeconds;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::CertifiedKey;

use super::key::{self, KeyError};

const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const ANY_USAGE: &str = "2.5.29.37.0";
const COMMON_NAME: &str = "2.5.4.3";
/// Certificates in one file.
const MOST_CERTIFICATES: usize = 10;

/// Certificate chain and private key, known to belong together. Cheap to clone; clones share the staple.
#[derive(Clone)]
pub struct ServerCertificate {
    /// Replaced when there is a new OCSP response: the one thing that changes without a new certificate.
    certified: Arc<ArcSwap<CertifiedKey>>,
    plain: Arc<CertifiedKey>,
    facts: Arc<CertificateFacts>,
    names: Arc<[String]>,
    warnings: Arc<[String]>,
}

/// Why a certificate cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("{file}: {problem}")]
    Unreadable { file: String, problem: std::io::Error },
    #[error("{file}: no certificate in it: it must hold \"-----BEGIN CERTIFICATE-----\", the server's first")]
    NoCertificate { file: String },
    #[error("{file}: certificate {number} cannot be read: {problem}")]
    BadCertificate { file: String, number: usize, problem: String },
    #[error("{file}: there are more than {MOST_CERTIFICATES} certificates in it: a chain is shorter")]
    TooMany { file: String },
    #[error(
        "{file}: the certificates are in the wrong order: the server's own must come first, then the CAs that \
         signed it; the key belongs to certificate {number}"
    )]
    Order { file: String, number: usize },
    #[error(
        "{file}: the first certificate (\"{subject}\") is that of a CA: the server's own must come first; a CA's \
         certificate cannot stand for a server"
    )]
    Ca { file: String, subject: String },
    #[error("{key_file}: this key does not belong to the certificate in {certificate_file} (\"{subject}\")")]
    KeyMismatch { key_file: String, certificate_file: String, subject: String },
    #[error("{file}: {problem}")]
    Key { file: String, problem: KeyError },
}

/// PEM texts, and what to call them in errors.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    pub chain: &'a [u8],
    pub key: &'a [u8],
    pub password: Option<&'a str>,
    pub chain_name: &'a str,
    pub key_name: &'a str,
}

impl ServerCertificate {
    /// Reads both files.
    pub fn load(
        certificate_file: &Path,
        key_file: &Path,
        password: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Self, MaterialError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|problem| MaterialError::Unreadable { file: path.display().to_string(), problem })
        };
        let (chain, key) = (read(certificate_file)?, read(key_file)?);
        let pem = Pem {
            chain: &chain,
            key: &key,
            password,
            chain_name: &certificate_file.display().to_string(),
            key_name: &key_file.display().to_string(),
        };
        Self::from_pem(pem, now)
    }

    /// Takes PEM text. `now` is for warnings only: a certificate that has expired can be served.
    pub fn from_pem(pem: Pem<'_>, now: UnixSeconds) -> Result<Self, MaterialError> {
        let mut chain = read_chain(pem)?;
        let key = key::read(pem.key, pem.password)
            .map_err(|problem| MaterialError::Key { file: pem.key_name.to_owned(), problem })?;
        let mut warnings = Vec::new();
        if pem.password.is_some() && !key.encrypted {
            warnings.push(format!("{}: the key is not encrypted, the password is not used", pem.key_name));
        }
        // Compared here and not by the library, which does not read X.509 version 1.
        if let Some(public) = key.signing.public_key() {
            check_key(&chain, &public, pem)?;
        }
        check_leaf(&chain[0].facts, pem, now, &mut warnings)?;
        order(&mut chain, pem.chain_name, now, &mut warnings);
        let names = server_names(&chain[0].facts);
        let facts = Arc::new(chain[0].facts.clone());
        let ders = chain.into_iter().map(|link| link.der).collect();
        let plain = Arc::new(CertifiedKey::new(ders, key.signing));
        Ok(Self {
            certified: Arc::new(ArcSwap::new(Arc::clone(&plain))),
            plain,
            facts,
            names: names.into(),
            warnings: warnings.into(),
        })
    }

    /// The same, with what `cas` have of its chain where its file ends too early: OpenSSL and Erlang do so with the CAs
    /// of clients. A CA that signed itself is not sent: who trusts it has it.
    #[must_use]
    pub fn completed_from(self, cas: &[Vec<u8>]) -> Self {
        let read = |der: &CertificateDer<'static>| Link::read(der.clone()).ok();
        let Some(mut chain) = self.chain().iter().map(read).collect::<Option<Vec<_>>>() else { return self };
        let cas: Vec<_> = cas.iter().filter_map(|der| read(&CertificateDer::from(der.clone()))).collect();
        let mut end = 0;
        while chain.get(end + 1).is_some_and(|next| chain[end].is_signed_by(next)) {
            end += 1;
        }
        let before = chain.len();
        while chain.len() < MOST_CERTIFICATES
            && let Some(at) = cas.iter().position(|ca| chain[end].is_signed_by(ca) && !ca.is_self_signed())
            && !chain.iter().any(|link| link.der == cas[at].der)
        {
            end += 1;
            chain.insert(end, cas[at].clone());
        }
        if chain.len() == before {
            return self;
        }
        let ders = chain.into_iter().map(|link| link.der).collect();
        let plain = Arc::new(CertifiedKey::new(ders, Arc::clone(&self.plain.key)));
        Self { certified: Arc::new(ArcSwap::new(Arc::clone(&plain))), plain, ..self }
    }

    /// Of the server's own certificate.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Server names in the certificate, in lower case, wildcards as `*.`: its DNS alternative names, else a common
    /// name that could be one.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What works and should be mended, for the operator.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// DER, the server's own first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.plain.cert.clone()
    }

    /// What is sent to a client that asks for the state of the certificate; `None` sends nothing. Counts at once,
    /// in every listener that has this certificate.
    pub fn staple(&self, response: Option<Vec<u8>>) {
        let mut next = CertifiedKey::clone(&self.plain);
        next.ocsp = response;
        self.certified.store(Arc::new(next));
    }

    /// Whether a state of the certificate is sent.
    pub fn is_stapled(&self) -> bool {
        self.certified.load().ocsp.is_some()
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.load_full()
    }

    pub(super) fn without_staple(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.plain)
    }
}

/// One certificate of the file.
#[derive(Clone)]
struct Link {
    der: CertificateDer<'static>,
    facts: CertificateFacts,
    key: SubjectPublicKeyInfoDer<'static>,
}

impl Link {
    /// Says what cannot be read.
    fn read(der: CertificateDer<'static>) -> Result<Self, String> {
        let facts = CertificateFacts::parse(&der).map_err(|error| error.to_string())?;
        let key = subject_public_key_info(&der).map_err(|error| error.to_string())?;
        Ok(Self { der, facts, key })
    }

    fn is_signed_by(&self, issuer: &Self) -> bool {
        self.facts.issuer.raw == issuer.facts.subject.raw && check_signed_by(&self.der, &issuer.key).is_ok()
    }

    fn is_self_signed(&self) -> bool {
        self.is_signed_by(self)
    }
}

/// At least one, all readable.
fn read_chain(pem: Pem<'_>) -> Result<Vec<Link>, MaterialError> {
    let file = || pem.chain_name.to_owned();
    let bad = |number, problem: String| MaterialError::BadCertificate { file: file(), number, problem };
    let mut chain = Vec::new();
    for (index, section) in CertificateDer::pem_slice_iter(pem.chain).enumerate() {
        let number = index + 1;
        if number > MOST_CERTIFICATES {
            return Err(MaterialError::TooMany { file: file() });
        }
        let der = section.map_err(|error| bad(number, error.to_string()))?;
        chain.push(Link::read(der).map_err(|problem| bad(number, problem))?);
    }
    if chain.is_empty() { Err(MaterialError::NoCertificate { file: file() }) } else { Ok(chain) }
}

fn check_key(
    chain: &[Link],
    public: &SubjectPublicKeyInfoDer<'_>,
    pem: Pem<'_>,
) -> Result<(), MaterialError> {
    match chain.iter().position(|link| link.key.as_ref() == public.as_ref()) {
        Some(0) => Ok(()),
        Some(index) => Err(MaterialError::Order { file: pem.chain_name.to_owned(), number: index + 1 }),
        None => Err(MaterialError::KeyMismatch {
            key_file: pem.key_name.to_owned(),
            certificate_file: pem.chain_name.to_owned(),
            subject: chain[0].facts.subject.display.clone(),
        }),
    }
}

fn check_leaf(
    leaf: &CertificateFacts,
    pem: Pem<'_>,
    now: UnixSeconds,
    warnings: &mut Vec<String>,
) -> Result<(), MaterialError> {
    let mut warn = |what: String| warnings.push(format!("{}: {what}", pem.chain_name));
    let has_names = !leaf.subject_alt_names.is_empty();
    if leaf.is_ca {
        // `openssl req -x509` makes its certificates CAs, those for a server as well: alternative names tell them.
        if leaf.subject.raw != leaf.issuer.raw || !has_names {
            let subject = leaf.subject.display.clone();
            return Err(MaterialError::Ca { file: pem.chain_name.to_owned(), subject });
        }
        warn(
            "the server's certificate says that it is a CA (basicConstraints), some clients refuse it".into(),
        );
    }
    if !has_names {
        warn("the certificate has no subject alternative name: clients that check the name refuse it".into());
    }
    let usages = &leaf.extended_key_usage;
    if !usages.is_empty() && !usages.iter().any(|usage| usage == SERVER_AUTH || usage == ANY_USAGE) {
        warn("the certificate is not for servers (extended key usage): clients refuse it".into());
    }
    if let Some(what) = validity_problem(leaf, now) {
        warn(format!("the certificate {what}"));
    }
    Ok(())
}

fn validity_problem(facts: &CertificateFacts, now: UnixSeconds) -> Option<String> {
    if facts.not_after < now {
        return Some(format!("has expired: it was valid until {}", facts.not_after));
    }
    (facts.not_before > now).then(|| format!("is not valid before {}", facts.not_before))
}

/// Puts each certificate after the one that it signed. What signed none of them stays, at the end.
fn order(chain: &mut Vec<Link>, file: &str, now: UnixSeconds, warnings: &mut Vec<String>) {
    let mut rest = chain.split_off(1);
    let before = rest.len();
    rest.retain({
        let mut seen = vec![chain[0].der.clone()];
        move |link| {
            !seen.contains(&link.der) && {
                seen.push(link.der.clone());
                true
            }
        }
    });
    if rest.len() < before {
        warnings.push(format!("{file}: a certificate is there twice, and sent once"));
    }
    let mut moved = false;
    while let Some(last) = chain.last()
        && !last.is_self_signed()
        && let Some(at) = rest.iter().position(|link| last.is_signed_by(link))
    {
        moved |= at > 0;
        let link = rest.remove(at);
        if let Some(what) = validity_problem(&link.facts, now) {
            warnings.push(format!("{file}: the CA certificate \"{}\" {what}", link.facts.subject.display));
        }
        chain.push(link);
    }
    if moved {
        warnings.push(format!(
            "{file}: the certificates were not in order, each must be followed by its issuer's: sent in order"
        ));
    }
    for link in &rest {
        let subject = &link.facts.subject.display;
        warnings.push(format!("{file}: the certificate \"{subject}\" signed none of the others"));
    }
    chain.append(&mut rest);
}

fn server_names(leaf: &CertificateFacts) -> Vec<String> {
    let dns = leaf.subject_alt_names.iter().filter_map(|name| match name {
        GeneralName::Dns(name) => server_name(name),
        _ => None,
    });
    let mut names: Vec<String> = dns.collect();
    if leaf.subject_alt_names.is_empty() {
        let common = leaf.subject.attributes.iter().rev().find(|attribute| attribute.oid == COMMON_NAME);
        names.extend(common.and_then(|attribute| server_name(attribute.text.as_deref()?)));
    }
    names.dedup();
    names
}

/// A server name as it is compared: lower case, no dot at the end, a wildcard only as the whole first label. `None`
/// if it cannot be one.
pub fn server_name(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let host = name.strip_prefix("*.").unwrap_or(&name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let fits = name.len() <= 253 && host.split('.').all(label);
    fits.then_some(name)
}
