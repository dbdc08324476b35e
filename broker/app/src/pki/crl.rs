//! Revocation lists of a CA: made, and continued. What is revoked stays revoked.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::Authority;
use crate::exit::Failure;

/// One certificate that is not to be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub reason: Option<RevocationReason>,
    pub since: SystemTime,
}

/// What was revoked, by serial number, and which list comes next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// Number of the list, big-endian.
    pub number: Vec<u8>,
}

fn refused(message: impl Into<String>) -> anyhow::Error {
    Failure::refused(message).into()
}

/// Words of RFC 5280, 5.3.1, with dashes.
pub fn reason(text: &str) -> Result<RevocationReason> {
    use RevocationReason as Reason;
    Ok(match text {
        "unspecified" => Reason::Unspecified,
        "key-compromise" => Reason::KeyCompromise,
        "ca-compromise" => Reason::CaCompromise,
        "affiliation-changed" => Reason::AffiliationChanged,
        "superseded" => Reason::Superseded,
        "cessation-of-operation" => Reason::CessationOfOperation,
        "certificate-hold" => Reason::CertificateHold,
        "privilege-withdrawn" => Reason::PrivilegeWithdrawn,
        _ => {
            return Err(refused(format!(
                "`{text}` is no reason: unspecified, key-compromise, ca-compromise, affiliation-changed, superseded, \
                 cessation-of-operation, certificate-hold, privilege-withdrawn"
            )));
        }
    })
}

/// Hex digits, with or without colons, as OpenSSL prints them.
pub fn serial(text: &str) -> Result<Vec<u8>> {
    let digits = text.replace(':', "");
    let digits = digits.strip_prefix("0x").unwrap_or(&digits);
    let padded = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
    let bytes =
        hex::decode(&padded).map_err(|_| refused(format!("`{text}` is no serial number in hex digits")))?;
    let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    if bytes.is_empty() || bytes.len() > 64 {
        return Err(refused(format!("`{text}` is no serial number: 1 to 64 bytes, not all of them zero")));
    }
    Ok(bytes)
}

impl Contents {
    /// Adds `what`: a serial number, or a certificate's file, which must be of `ca`.
    pub fn revoke(
        &mut self,
        ca: &Authority,
        what: &str,
        reason: Option<RevocationReason>,
        now: SystemTime,
    ) -> Result<()> {
        let file = Path::new(what);
        let serial = if file.is_file() {
            let text = super::read(file)?;
            let facts = certificates_from_pem(&text)
                .and_then(|ders| CertificateFacts::parse(ders.first().map_or(&[][..], |der| der)))
                .map_err(|error| refused(format!("{what}: {error}")))?;
            if facts.issuer.raw != ca.facts.subject.raw {
                return Err(refused(format!(
                    "{what} was issued by \"{}\", and this is the list of \"{}\"",
                    facts.issuer.display, ca.facts.subject.display
                )));
            }
            facts.serial
        } else {
            serial(what).map_err(|_| {
                refused(format!("`{what}` is neither a file nor a serial number in hex digits"))
            })?
        };
        // The first time counts; a reason may be told later.
        let entry = self.entries.entry(serial).or_insert(Entry { reason: None, since: now });
        entry.reason = reason.or(entry.reason);
        Ok(())
    }

    /// Adds every line of `text`: a serial number or file, and then perhaps a reason. `#` begins a comment.
    pub fn revoke_lines(&mut self, ca: &Authority, text: &str, now: SystemTime) -> Result<()> {
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
            let Some(what) = words.next() else { continue };
            let at = |error: anyhow::Error| refused(format!("line {}: {error}", index + 1));
            let reason = words.next().map(reason).transpose().map_err(at)?;
            if let Some(more) = words.next() {
                return Err(refused(format!(
                    "line {}: what is `{more}`? Serial number or file, and reason",
                    index + 1
                )));
            }
            self.revoke(ca, what, reason, now).map_err(at)?;
        }
        Ok(())
    }

    /// Reads a list that `ca` signed.
    pub fn read(file: &[u8], ca: &Authority) -> Result<Self> {
        let der = match CertificateRevocationListDer::from_pem_slice(file) {
            Ok(der) => der.to_vec(),
            Err(_) => file.to_vec(),
        };
        let (rest, list) = CertificateRevocationList::from_der(&der)
            .map_err(|_| refused("it is no readable revocation list"))?;
        let (_, signer) = x509_parser::parse_x509_certificate(&ca.facts.der)
            .map_err(|_| anyhow!("the CA's own certificate cannot be read again"))?;
        if !rest.is_empty() || list.verify_signature(signer.public_key()).is_err() {
            return Err(refused(format!("it is no revocation list of \"{}\"", ca.facts.subject.display)));
        }
        let mut entries = BTreeMap::new();
        for revoked in list.iter_revoked_certificates() {
            let reason = revoked.reason_code().and_then(|(_, code)| {
                use RevocationReason as Reason;
                Some(match code.0 {
                    1 => Reason::KeyCompromise,
                    2 => Reason::CaCompromise,
                    3 => Reason::AffiliationChanged,
                    4 => Reason::Superseded,
                    5 => Reason::CessationOfOperation,
                    6 => Reason::CertificateHold,
                    9 => Reason::PrivilegeWithdrawn,
                    10 => Reason::AaCompromise,
                    _ => return None,
                })
            });
            let since = u64::try_from(revoked.revocation_date.timestamp()).unwrap_or_default();
            let since = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
            entries.insert(revoked.serial().to_bytes_be(), Entry { reason, since });
        }
        let number = list.crl_number().map(BigUint::to_bytes_be).unwrap_or_default();
        Ok(Self { entries, number })
    }

    /// Signs the next list; answers its DER.
    pub fn sign(&mut self, ca: &Authority, now: SystemTime, lifetime: Duration) -> Result<Vec<u8>> {
        if !ca.issuer().key_usages().is_empty()
            && !ca.issuer().key_usages().contains(&rcgen::KeyUsagePurpose::CrlSign)
        {
            return Err(refused(format!(
                "\"{}\" may not sign revocation lists: its key usage lacks cRLSign",
                ca.facts.subject.display
            )));
        }
        self.number = next(&self.number);
        let revoked_certs = self.entries.iter().map(|(serial, entry)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: entry.since.into(),
            reason_code: entry.reason,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + lifetime).into(),
            crl_number: SerialNumber::from_slice(&self.number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: ca.key_identifier().map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified),
        };
        let signed = list.signed_by(ca.issuer()).context("the revocation list cannot be signed")?;
        Ok(signed.der().to_vec())
    }
}

/// One more than a big-endian number.
fn next(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    for digit in number.iter_mut().rev() {
        *digit = digit.wrapping_add(1);
        if *digit != 0 {
            return number;
        }
    }
    number.insert(0, 1);
    number
}

/// PEM text of a list.
pub fn to_pem(der: &[u8]) -> Result<String> {
    use pkcs8::der::pem::{LineEnding, encode_string};

    encode_string("X509 CRL", LineEnding::LF, der)
        .map_err(|error| anyhow!("the list cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{KeyKind, Subject, root};

    #[test]
    fn numbers_go_up() {
        for (from, to) in [(&[][..], &[1][..]), (&[1], &[2]), (&[255], &[1, 0]), (&[1, 255], &[2, 0])] {
            assert_eq!(next(from), to);
        }
    }

    #[test]
    fn serial_numbers_are_read_as_openssl_prints_them() {
        assert_eq!(serial("0A:1b").expect("a number"), [0x0a, 0x1b]);
        assert_eq!(serial("0x00abc").expect("a number"), [0x0a, 0xbc]);
        for wrong in ["", "0", "xyz", "-1"] {
            assert!(serial(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_is_continued_and_forgets_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = |name: &str| {
            let key = KeyKind::EcP256.generate().expect("a key");
            let made = root(Subject::common(name).to_name().expect("a name"), None, 0, &key).expect("a CA");
            crate::pki::Pair::new(folder.path(), name)
                .write(&made, &key, None, crate::pki::Existing::Kept)
                .expect("written");
            Authority::open(folder.path(), name, None).expect("a CA")
        };
        let (own, other) = (ca("own"), ca("other"));
        let day = Duration::from_secs(86_400);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut contents = Contents::default();
        contents.revoke_lines(&own, "# a comment\n0a01 key-compromise\n\n0a02\n", now).expect("two");
        let der = contents.sign(&own, now, day).expect("a list");

        let mut again = Contents::read(&der, &own).expect("our list");
        assert_eq!((again.number.as_slice(), again.entries.len()), (&[1][..], 2));
        let later = now + day;
        again.revoke(&own, "0a02", Some(RevocationReason::Superseded), later).expect("known");
        again.revoke(&own, "0a03", None, later).expect("new");
        let pem = to_pem(&again.sign(&own, later, day).expect("a list")).expect("PEM");
        let last = Contents::read(pem.as_bytes(), &own).expect("our list");
        assert_eq!((last.number.as_slice(), last.entries.len()), (&[2][..], 3));
        let second = &last.entries[&vec![0x0a, 0x02]];
        assert_eq!(*second, Entry { reason: Some(RevocationReason::Superseded), since: now });
        assert!(Contents::read(&der, &other).is_err(), "it is not the other CA's");
        let error = contents.revoke_lines(&own, "0a\nzz\n", now).expect_err("wrong");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
