//! `mqgate pki lint` and `mqgate pki show`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use mqgate_identity::certificate::{CertificateFacts, GeneralName, certificates_from_pem};
use mqgate_identity::time::UnixSeconds;
use serde_json::{Value, json};

use super::super::output::{self, printable, say};
use super::super::remote::read_file;
use crate::exit::Failure;
use crate::pki::lint::{Kind, Severity, lint as look};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki lint device-7.pem
  mqgate pki lint server.pem --as server --strict
  mqgate pki lint *.pem --json

Exit code 1: an error was found, or with --strict a warning.")]
pub struct LintArgs {
    /// Certificates, PEM (a whole chain, its leaf first) or DER
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What the first certificate is meant as; without it, what it says of itself
    #[arg(long = "as", value_enum)]
    kind: Option<Kind>,
    /// Warnings are failures, too
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  mqgate pki show pki/device-1.pem")]
pub struct ShowArgs {
    /// A certificate, PEM (or several) or DER
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The certificates of a file, PEM or DER.
pub fn certificates(file: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = read_file(file)?;
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes]);
    }
    certificates_from_pem(&bytes)
        .map_err(|error| Failure::refused(format!("{}: {error}", file.display())).into())
}

pub fn now() -> UnixSeconds {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixSeconds(now.map_or(0, |now| now.as_secs().cast_signed()))
}

pub fn lint(args: &LintArgs) -> Result<()> {
    let now = now();
    let mut failures = 0;
    let mut files = Vec::new();
    for file in &args.files {
        let findings = look(&certificates(file)?, args.kind, now);
        let limit = if args.strict { Severity::Warning } else { Severity::Error };
        failures += findings.iter().filter(|finding| finding.severity >= limit).count();
        if args.json {
            files.push(json!({ "file": file, "findings": findings }));
            continue;
        }
        if findings.is_empty() {
            say(format!("{}: nothing to say", file.display()))?;
        }
        for finding in findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Notice => "notice",
            };
            say(format!(
                "{}: certificate {}: {severity}: {} ({})\n  help: {}",
                file.display(),
                finding.certificate,
                printable(&finding.what),
                finding.rule,
                finding.remedy
            ))?;
        }
    }
    if args.json {
        output::json(&Value::Array(files))?;
    }
    match failures {
        0 => Ok(()),
        1 => Err(Failure::refused("1 finding is a failure").into()),
        count => Err(Failure::refused(format!("{count} findings are failures")).into()),
    }
}

pub fn show(args: &ShowArgs) -> Result<()> {
    let mut shown = Vec::new();
    for (index, der) in certificates(&args.file)?.iter().enumerate() {
        let facts = CertificateFacts::parse(der).map_err(|error| {
            Failure::refused(format!("{}: certificate {}: {error}", args.file.display(), index + 1))
        })?;
        shown.push(describe(&facts));
    }
    if args.json {
        return output::json(&Value::Array(shown));
    }
    for (index, certificate) in shown.iter().enumerate() {
        if index > 0 {
            say("")?;
        }
        for (name, value) in certificate.as_object().into_iter().flatten() {
            let text = output::text(certificate, name);
            if !value.is_null() && !text.is_empty() {
                say(format!("{name:20} {}", printable(&text)))?;
            }
        }
    }
    Ok(())
}

fn describe(facts: &CertificateFacts) -> Value {
    let usages: Option<Vec<&str>> = facts.key_usage.map(|usage| {
        [
            (usage.digital_signature, "digitalSignature"),
            (usage.content_commitment, "nonRepudiation"),
            (usage.key_encipherment, "keyEncipherment"),
            (usage.data_encipherment, "dataEncipherment"),
            (usage.key_agreement, "keyAgreement"),
            (usage.key_cert_sign, "keyCertSign"),
            (usage.crl_sign, "cRLSign"),
            (usage.encipher_only, "encipherOnly"),
            (usage.decipher_only, "decipherOnly"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect()
    });
    let key = match facts.public_key.algorithm_oid.as_str() {
        "1.2.840.113549.1.1.1" => String::from("RSA"),
        "1.2.840.10045.2.1" => String::from("ECDSA"),
        "1.3.101.112" => String::from("Ed25519"),
        other => other.to_owned(),
    };
    let extended: Vec<&str> = facts
        .extended_key_usage
        .iter()
        .map(|usage| match usage.as_str() {
            "1.3.6.1.5.5.7.3.1" => "serverAuth",
            "1.3.6.1.5.5.7.3.2" => "clientAuth",
            other => other,
        })
        .collect();
    json!({
        "subject": facts.subject.display,
        "issuer": facts.issuer.display,
        "version": facts.version,
        "serial": hex::encode(&facts.serial),
        "not_before": facts.not_before.to_string(),
        "not_after": facts.not_after.to_string(),
        "alternative_names": facts.subject_alt_names.iter().map(general_name).collect::<Vec<_>>(),
        "is_ca": facts.is_ca,
        "key": key,
        "key_bits": facts.public_key.bits,
        "key_usage": usages,
        "extended_key_usage": extended,
        "extensions": facts.extensions.iter().map(|extension| match extension.critical {
            true => format!("{} (critical)", extension.oid),
            false => extension.oid.clone(),
        }).collect::<Vec<_>>(),
        "sha256": facts.certificate_fingerprint.to_hex(),
        "spki_sha256": hex::encode(facts.public_key.spki_sha256),
    })
}

fn general_name(name: &GeneralName) -> String {
    match name {
        GeneralName::Dns(text) => format!("dns:{text}"),
        GeneralName::Email(text) => format!("email:{text}"),
        GeneralName::Uri(text) => format!("uri:{text}"),
        GeneralName::Ip(bytes) => match (<[u8; 4]>::try_from(&**bytes), <[u8; 16]>::try_from(&**bytes)) {
            (Ok(bytes), _) => format!("ip:{}", std::net::Ipv4Addr::from(bytes)),
            (_, Ok(bytes)) => format!("ip:{}", std::net::Ipv6Addr::from(bytes)),
            _ => format!("ip:{}", hex::encode(bytes)),
        },
        GeneralName::RegisteredId(oid) => format!("id:{oid}"),
        GeneralName::Directory(der) => format!("directory:{}", hex::encode(der)),
        GeneralName::Other(oid, der) => format!("other:{oid}:{}", hex::encode(der)),
        GeneralName::Malformed(tag, bytes) => format!("unreadable:{tag:02x}:{}", hex::encode(bytes)),
    }
}
