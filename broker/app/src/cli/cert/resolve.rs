//! Which certificate an operator means: by SHA-256, by a beginning of it, by its file, or by its device.

use std::path::Path;

use anyhow::Result;
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint};
use serde_json::Value;

use super::super::output::{printable, text};
use super::super::pki::certificates;
use super::super::remote::{Remote, segment};
use crate::exit::Failure;

/// Digits that a beginning of a SHA-256 must have.
const FEWEST_DIGITS: usize = 6;

/// The full id of what the user named. `wanted`: states that it may be in, where a device is named that has several.
pub fn resolve(remote: &Remote, id: &str, wanted: &[&str]) -> Result<String> {
    if let Some(fingerprint) = CertificateFingerprint::from_hex(id) {
        return Ok(fingerprint.to_hex());
    }
    let file = Path::new(id);
    if file.is_file() {
        let facts = CertificateFacts::parse(&certificates(file)?[0]);
        let facts = facts.map_err(|error| Failure::refused(format!("{id}: {error}")))?;
        return Ok(facts.certificate_fingerprint.to_hex());
    }
    let start = id.replace(':', "").to_ascii_lowercase();
    if start.len() >= FEWEST_DIGITS && start.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let page = remote.get(&format!("/device-certs?limit=2&id={start}"))?;
        let mut found = page["items"].as_array().into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(one), None) => return Ok(text(one, "id")),
            (Some(_), Some(_)) => {
                return Err(Failure::refused(format!(
                    "several certificates begin with {start}: give more of it"
                ))
                .into());
            }
            (None, _) => {}
        }
    }
    of_device(remote, id, wanted)
}

/// The only certificate of a device that is in one of these states.
fn of_device(remote: &Remote, device: &str, wanted: &[&str]) -> Result<String> {
    let states = if wanted.is_empty() { String::new() } else { format!("&state={}", wanted.join(",")) };
    let found = remote.all(&format!("/device-certs?limit=100&device_id={}{states}", segment(device)))?;
    match found.as_slice() {
        [one] => Ok(text(one, "id")),
        [] => Err(Failure::refused(unknown(remote, device, wanted)?).into()),
        several => {
            let list: Vec<String> = several
                .iter()
                .map(|item| format!("\n  {}  {}", text(item, "id"), printable(&text(item, "state"))))
                .collect();
            Err(Failure::refused(format!(
                "device \"{device}\" has several certificates: say which{}",
                list.concat()
            ))
            .into())
        }
    }
}

/// What there is instead.
fn unknown(remote: &Remote, device: &str, wanted: &[&str]) -> Result<String> {
    let others = match wanted {
        [] => Vec::new(),
        _ => remote.all(&format!("/device-certs?limit=100&device_id={}", segment(device)))?,
    };
    if others.is_empty() {
        return Ok(format!(
            "`{}` is no file, no device that has a certificate, and no certificate's SHA-256 (64 hex digits, or at \
             least {FEWEST_DIGITS} of them)\n  help: `mqgate cert list` shows what is registered, `mqgate cert pending \
             list` what waits",
            printable(device)
        ));
    }
    let states: Vec<String> = others.iter().map(|item: &Value| text(item, "state")).collect();
    Ok(format!(
        "no certificate of device \"{}\" is {}: its certificates are {}\n  help: `mqgate cert list --device {}`",
        printable(device),
        wanted.join(" or "),
        states.join(", "),
        segment(device)
    ))
}
