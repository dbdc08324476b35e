//! What `ocsp` of a listener must not say: responders that cannot be asked, files without an issuer.

use std::path::Path;

use mqgate_identity::certificate::certificates_from_pem;
use mqgate_server::fetch::check_url;

use super::{Checker, network};
use crate::config::model::Ocsp;

pub(super) fn check(checker: &mut Checker<'_, '_>, key: &dyn Fn(&str) -> String, ocsp: &Ocsp) {
    if let Some(url) = &ocsp.responder_url
        && let Err(error) = check_url(url)
    {
        checker.add(
            &key("ocsp.responder_url"),
            error.to_string(),
            Some("write the address of the responder, for example \"http://ocsp.example.org/\""),
        );
    }
    for (index, text) in ocsp.allow_networks.iter().enumerate() {
        if let Err(error) = network(text) {
            checker.add(&key(&format!("ocsp.allow_networks[{index}]")), error, None);
        }
    }
    for (field, time) in
        [("refresh_interval", ocsp.refresh_interval), ("refresh_http_timeout", ocsp.refresh_http_timeout)]
    {
        if time.0.is_zero() {
            checker.add(&key(&format!("ocsp.{field}")), "more than zero is needed", None);
        }
    }
    if !ocsp.enable {
        for field in
            ["responder_url", "issuer_pem", "refresh_interval", "refresh_http_timeout", "allow_networks"]
        {
            let field = key(&format!("ocsp.{field}"));
            if checker.source.sets(&super::path(&field)).is_some() {
                let what = "without effect: `ocsp.enable` is false";
                checker.warn(&field, what, Some("set `ocsp.enable = true`, or remove this key"));
            }
        }
    }
}

/// A file that is there and holds no certificate.
pub(super) fn check_file(checker: &mut Checker<'_, '_>, key: &str, file: &Path) {
    let Ok(pem) = std::fs::read(file) else { return };
    let problem = match certificates_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => return,
        Ok(_) => String::from("there is no certificate in it"),
        Err(error) => error.to_string(),
    };
    let remedy = "name the PEM file of the CA that issued the server's certificate";
    checker.add(key, format!("{}: {problem}", file.display()), Some(remedy));
}
