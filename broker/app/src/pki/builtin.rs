//! The certificate that the broker makes for itself, so that a TLS listener works before anybody has given it one: a
//! CA of its own, which clients can be told to trust, and below it the server's, renewed in time.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::demo::is_good;
use super::{
    Authority, Existing, KeyKind, Pair, Role, Subject, Template, alternative_name, create_folder, root,
};

const CA: &str = "ca";
const SERVER: &str = "server";
const DAY: Duration = Duration::from_secs(86_400);
/// A year is what it lives.
const RENEW_BEFORE: Duration = DAY.saturating_mul(30);
/// Longer than what is below it lives.
const RENEW_CA_BEFORE: Duration = DAY.saturating_mul(400);

/// Sees to it that `dir` holds a good certificate for `names`. A renewed one keeps the CA that clients know.
pub fn builtin(dir: &Path, names: &[String]) -> Result<Pair> {
    create_folder(dir)?;
    if !is_good(dir, CA, None, RENEW_CA_BEFORE) {
        let key = KeyKind::default().generate()?;
        let ca = root(Subject::common("mqgate built-in CA").to_name()?, None, 0, &key)?;
        Pair::new(dir, CA).write(&ca, &key, None, Existing::Replaced)?;
        // What is below the CA before is of no use.
        let _ = std::fs::remove_file(Pair::new(dir, SERVER).certificate);
    }
    let pair = Pair::new(dir, SERVER);
    if !is_good(dir, SERVER, Some(CA), RENEW_BEFORE) {
        let template = Template {
            subject: Subject::common(names.first().map_or("mqgate", String::as_str)).to_name()?,
            alternative_names: names.iter().map(|name| alternative_name(name)).collect::<Result<_>>()?,
            role: Role::Server,
            days: None,
            crl_urls: Vec::new(),
        };
        let key = KeyKind::default().generate()?;
        let ca = Authority::open(dir, CA, None)?;
        pair.write(&ca.issue(&template, &key)?, &key, None, Existing::Replaced)?;
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_is_kept_and_what_is_renewed_keeps_its_ca() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["localhost", "127.0.0.1"].map(String::from);
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
        let pair = builtin(folder.path(), &names).expect("a certificate");
        let (ca, server) = (read("ca.pem"), read("server.pem"));
        builtin(folder.path(), &names).expect("the same");
        assert_eq!((read("ca.pem"), read("server.pem")), (ca.clone(), server.clone()));
        std::fs::remove_file(&pair.key).expect("removed");
        builtin(folder.path(), &names).expect("another");
        assert_eq!(read("ca.pem"), ca);
        assert_ne!(read("server.pem"), server);
    }
}
