//! A PKI to try things with: a CA, a server certificate for this machine, two devices.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};

use super::{
    Authority, Existing, KeyKind, Pair, Role, Subject, Template, alternative_name, create_folder, key, root,
};

/// A certificate with less life than this is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 86_400);
const CA: &str = "ca";

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
    let new_ca = !is_good(dir, CA, None, RENEW_BEFORE);
    if new_ca {
        let key = KeyKind::default().generate()?;
        let ca = root(Subject::common("mqgate demo CA").to_name()?, None, 0, &key)?;
        Pair::new(dir, CA).write(&ca, &key, None, Existing::Replaced)?;
    }
    done.push(outcome(dir, CA, new_ca));
    let ca = Authority::open(dir, CA, None)?;
    let leaves = [
        ("server", "localhost", &["localhost", "127.0.0.1", "::1"][..], Role::Server),
        ("device-1", "device-1", &[], Role::Device),
        ("device-2", "device-2", &[], Role::Device),
    ];
    for (name, common_name, alternative_names, role) in leaves {
        let new = new_ca || !is_good(dir, name, Some(CA), RENEW_BEFORE);
        if new {
            let template = Template {
                subject: Subject::common(common_name).to_name()?,
                alternative_names: alternative_names
                    .iter()
                    .map(|name| alternative_name(name))
                    .collect::<Result<_>>()?,
                role,
                days: None,
                crl_urls: Vec::new(),
            };
            let key = KeyKind::default().generate()?;
            Pair::new(dir, name).write(&ca.issue(&template, &key)?, &key, None, Existing::Replaced)?;
        }
        done.push(outcome(dir, name, new));
    }
    Ok(done)
}

fn outcome(dir: &Path, name: &str, new: bool) -> Outcome {
    let path = Pair::new(dir, name).certificate;
    if new { Outcome::Created(path) } else { Outcome::Kept(path) }
}

/// Whether both files are there, belong together, live long enough, and come from the CA.
pub(super) fn is_good(dir: &Path, name: &str, ca: Option<&str>, renew_before: Duration) -> bool {
    let facts = |name: &str| {
        let pem = std::fs::read(Pair::new(dir, name).certificate).ok()?;
        CertificateFacts::parse(certificates_from_pem(&pem).ok()?.first()?).ok()
    };
    let Some(own) = facts(name) else { return false };
    let Ok(key) = key::read(&Pair::new(dir, name).key, None) else { return false };
    let matches =
        <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())) == own.public_key.spki_sha256;
    let end = SystemTime::now() + renew_before;
    let end =
        end.duration_since(SystemTime::UNIX_EPOCH).map_or(i64::MAX, |time| time.as_secs().cast_signed());
    let issued = ca.is_none_or(|ca| facts(ca).is_some_and(|ca| ca.subject.raw == own.issuer.raw));
    matches && own.not_after.0 > end && issued
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
}
