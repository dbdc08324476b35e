//! Certificates to try things with: a CA, a server certificate, device certificates. Not a CA product: no
//! revocation lists, no policies; keys lie in files.

mod files;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};

pub use self::files::{check_folder, create_folder, write_private};
use crate::exit::Failure;

const DAY: Duration = Duration::from_secs(86_400);
/// A certificate with less life than this is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 86_400);
const CA_DAYS: u32 = 3_650;
const LEAF_DAYS: u32 = 365;
const CA: &str = "ca";

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Server,
    Client,
}

/// What to issue.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the files: `{name}.pem` and `{name}.key`.
    pub name: String,
    pub common_name: String,
    pub organizational_unit: Option<String>,
    /// DNS names, IP addresses, URIs and e-mail addresses.
    pub alternative_names: Vec<String>,
    pub purpose: Purpose,
    pub days: u32,
}

/// What [`demo`] did with each pair of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Created(PathBuf),
    Kept(PathBuf),
}

/// A CA in `dir`, a certificate for this machine, two for devices. What is there and good is kept.
pub fn demo(dir: &Path) -> Result<Vec<Outcome>> {
    create_folder(dir)?;
    let mut done = Vec::new();
    let new_ca = !is_good(dir, CA, None);
    if new_ca {
        create_ca(dir, "mqgate demo CA")?;
    }
    done.push(outcome(dir, CA, new_ca));
    let requests = [
        Request {
            name: String::from("server"),
            common_name: String::from("localhost"),
            organizational_unit: None,
            alternative_names: ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec(),
            purpose: Purpose::Server,
            days: LEAF_DAYS,
        },
        device("device-1"),
        device("device-2"),
    ];
    for request in requests {
        let new = new_ca || !is_good(dir, &request.name, Some(CA));
        if new {
            issue(dir, &request)?;
        }
        done.push(outcome(dir, &request.name, new));
    }
    Ok(done)
}

fn device(name: &str) -> Request {
    Request {
        name: name.to_owned(),
        common_name: name.to_owned(),
        organizational_unit: None,
        alternative_names: Vec::new(),
        purpose: Purpose::Client,
        days: LEAF_DAYS,
    }
}

fn outcome(dir: &Path, name: &str, new: bool) -> Outcome {
    let path = dir.join(format!("{name}.pem"));
    if new { Outcome::Created(path) } else { Outcome::Kept(path) }
}

/// A certificate from the CA in `dir`; answers the paths of certificate and key.
pub fn issue(dir: &Path, request: &Request) -> Result<(PathBuf, PathBuf)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if request.name.is_empty() || request.name.starts_with('.') || !request.name.chars().all(fits) {
        return Err(Failure::refused(format!("`{}` cannot be the name of a file here", request.name)).into());
    }
    if request.name == CA {
        return Err(Failure::refused("`ca` is the CA itself: choose another name").into());
    }
    let ca_file = dir.join("ca.pem");
    let ca = std::fs::read_to_string(&ca_file)
        .with_context(|| format!("{} cannot be read: make a CA with `mqgate pki demo`", ca_file.display()))?;
    let ca_key = read_key(&dir.join("ca.key"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).context("ca.pem is no CA certificate")?;

    let mut params = params(&request.common_name, request.days)?;
    if let Some(unit) = &request.organizational_unit {
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit.as_str());
    }
    params.subject_alt_names =
        request.alternative_names.iter().map(|name| alternative_name(name)).collect::<Result<_>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match request.purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    let key = KeyPair::generate().context("no key can be generated")?;
    let certificate = params.signed_by(&key, &issuer).context("the certificate cannot be signed")?;
    write_pair(dir, &request.name, &certificate.pem(), &key)
}

fn create_ca(dir: &Path, name: &str) -> Result<()> {
    let mut params = params(name, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("no key can be generated")?;
    let certificate = params.self_signed(&key).context("the CA cannot sign itself")?;
    write_pair(dir, CA, &certificate.pem(), &key).map(drop)
}

fn params(common_name: &str, days: u32) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // An hour of yesterday for clocks that are behind.
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3_600)).into();
    params.not_after = (now + DAY * days).into();
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    // Positive, and with its first byte not zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn alternative_name(text: &str) -> Result<SanType> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let text_of = |text: &str| text.try_into().with_context(|| format!("`{text}` is no alternative name"));
    Ok(if text.contains("://") || text.starts_with("urn:") {
        SanType::URI(text_of(text)?)
    } else if text.contains('@') {
        SanType::Rfc822Name(text_of(text)?)
    } else {
        SanType::DnsName(text_of(text)?)
    })
}

/// Whether both files are there, belong together, live long enough, and come from the CA.
fn is_good(dir: &Path, name: &str, ca: Option<&str>) -> bool {
    let facts = |name: &str| {
        let pem = std::fs::read(dir.join(format!("{name}.pem"))).ok()?;
        CertificateFacts::parse(certificates_from_pem(&pem).ok()?.first()?).ok()
    };
    let Some(own) = facts(name) else { return false };
    let Ok(key) = read_key(&dir.join(format!("{name}.key"))) else { return false };
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let matches = own.der.windows(spki.len()).any(|part| part == spki);
    let end = SystemTime::now() + RENEW_BEFORE;
    let end =
        end.duration_since(SystemTime::UNIX_EPOCH).map_or(i64::MAX, |time| time.as_secs().cast_signed());
    let issued = ca.is_none_or(|ca| facts(ca).is_some_and(|ca| ca.subject.raw == own.issuer.raw));
    matches && own.not_after.0 > end && issued
}

fn read_key(path: &Path) -> Result<KeyPair> {
    let pem = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    KeyPair::from_pem(&pem).with_context(|| format!("{} holds no usable key", path.display()))
}

fn write_pair(dir: &Path, name: &str, pem: &str, key: &KeyPair) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key_file) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    write_private(&key_file, key.serialize_pem().as_bytes())?;
    std::fs::write(&certificate, pem)
        .with_context(|| format!("{} cannot be written", certificate.display()))?;
    Ok((certificate, key_file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_run_keeps_what_is_good_and_repairs_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("pki");
        let created = |outcomes: &[Outcome]| {
            outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Created(_))).count()
        };
        assert_eq!(created(&demo(&dir).expect("a PKI")), 4);
        assert_eq!(created(&demo(&dir).expect("the same PKI")), 0);
        std::fs::copy(dir.join("device-1.key"), dir.join("device-2.key")).expect("a wrong key");
        assert_eq!(created(&demo(&dir).expect("device-2 anew")), 1);
        std::fs::remove_file(dir.join("ca.key")).expect("removed");
        assert_eq!(created(&demo(&dir).expect("all anew")), 4);
        let mode = |name: &str| std::fs::metadata(dir.join(name)).expect(name).permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("device-1.key")), (0o600, 0o600));
    }

    #[test]
    fn an_issued_certificate_says_what_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        demo(folder.path()).expect("a PKI");
        let request = Request {
            organizational_unit: Some(String::from("meters")),
            alternative_names: ["urn:dev:7", "a@b.example", "c.example", "::1"].map(String::from).to_vec(),
            days: 1,
            ..device("meter-7")
        };
        let (pem, _) = issue(folder.path(), &request).expect("a certificate");
        let ders = certificates_from_pem(&std::fs::read(pem).expect("a file")).expect("PEM");
        let facts = CertificateFacts::parse(&ders[0]).expect("a certificate");
        assert_eq!((facts.version, facts.is_ca, facts.subject_alt_names.len()), (3, false, 4));
        assert!(facts.subject.display.contains("OU=meters") && facts.subject.display.contains("CN=meter-7"));
        for name in ["ca", "../x", "", ".x"] {
            assert!(
                issue(folder.path(), &Request { name: name.to_owned(), ..device("x") }).is_err(),
                "{name}"
            );
        }
    }
}
