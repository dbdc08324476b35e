//! `mqgate cert`: device certificates.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::output;
use super::output::{date, say, table, text};
use super::remote::{Remote, RemoteArgs, read_file, segment};
use crate::exit::Failure;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate cert list --state PENDING_ACTIVATION
  mqgate cert register device-7.pem --client-id meter-7
  mqgate cert revoke 3f9a… --reason key-compromise")]
pub enum Command {
    /// List certificates
    List {
        /// Only those in this state: PENDING_ACTIVATION, ACTIVE, INACTIVE, REVOKED, TOMBSTONE
        #[arg(long)]
        state: Option<String>,
        /// Only those of this device
        #[arg(long)]
        device: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show one certificate
    Show(One),
    /// Register a certificate before its first connection
    Register {
        /// PEM file with the certificate, and intermediates after it
        file: PathBuf,
        /// Name of the device; without it, the certificate's common name
        #[arg(long, value_name = "NAME")]
        device_id: Option<String>,
        /// The only client id that it may use
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
        /// A tag; may be repeated
        #[arg(long)]
        tag: Vec<String>,
        /// Register it, but do not let it in before `mqgate cert activate`
        #[arg(long)]
        inactive: bool,
        /// Bring back a certificate that was deleted
        #[arg(long)]
        restore: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Let a pending or inactive certificate in
    Activate(One),
    /// Keep a certificate out for now; its connections are closed
    Deactivate(One),
    /// Keep a certificate out for good; its connections are closed within a second
    Revoke {
        #[command(flatten)]
        one: One,
        /// Why: unspecified, key-compromise, superseded, cessation-of-operation, privilege-withdrawn, …
        #[arg(long)]
        reason: Option<String>,
    },
    /// Remove a certificate from the registry; a tombstone keeps it from registering itself again
    Delete {
        #[command(flatten)]
        one: One,
        /// Also if it is active
        #[arg(long)]
        force: bool,
    },
}

#[derive(clap::Args)]
pub struct One {
    /// SHA-256 of the certificate, or a beginning of it that is unique; or the certificate's PEM file
    id: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { state, device, remote } => list(&remote, config, state, device),
        Command::Show(one) => show(&one, config),
        Command::Register { file, device_id, client_id, tenant, tag, inactive, restore, remote } => {
            let pem = String::from_utf8(read_file(&file)?)
                .map_err(|_| Failure::refused(format!("{} is no PEM file", file.display())))?;
            let body = json!({
                "pem": certificates_only(&pem),
                "device_id": device_id,
                "client_id": client_id,
                "tenant": tenant,
                "tags": tag,
                "inactive": inactive,
                "restore": restore,
            });
            done(&remote, "registered", &Remote::new(&remote, config)?.post("/device-certs", &body)?)
        }
        Command::Activate(one) => change(&one, config, "activate", "activated", &json!({})),
        Command::Deactivate(one) => change(&one, config, "deactivate", "deactivated", &json!({})),
        Command::Revoke { one, reason } => {
            change(&one, config, "revoke", "revoked", &json!({ "reason": reason }))
        }
        Command::Delete { one, force } => {
            let remote = Remote::new(&one.remote, config)?;
            let id = resolve(&remote, &one.id)?;
            done(&one.remote, "deleted", &remote.delete(&format!("/device-certs/{id}?force={force}"))?)
        }
    }
}

/// A private key in the file has no business on the wire.
fn certificates_only(pem: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in pem.lines() {
        inside |= line.starts_with("-----BEGIN CERTIFICATE-----");
        if inside {
            kept.push_str(line);
            kept.push('\n');
        }
        inside &= !line.starts_with("-----END CERTIFICATE-----");
    }
    kept
}

fn list(
    args: &RemoteArgs,
    config: Option<&Path>,
    state: Option<String>,
    device: Option<String>,
) -> Result<()> {
    let mut path = String::from("/device-certs?limit=1000");
    if let Some(state) = state {
        path.push_str(&format!("&state={}", segment(&state.to_uppercase().replace('-', "_"))));
    }
    if let Some(device) = device {
        path.push_str(&format!("&device_id={}", segment(&device)));
    }
    let items = Remote::new(args, config)?.all(&path)?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no certificates");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "id").chars().take(16).collect(),
                text(item, "state"),
                text(item, "effective"),
                text(item, "device_id"),
                text(item, "client_id"),
                text(item, "source"),
                date(item["not_after"].as_i64().unwrap_or_default()),
                text(item, "subject"),
            ]
        })
        .collect();
    table(&["ID", "STATE", "EFFECTIVE", "DEVICE", "CLIENT ID", "SOURCE", "EXPIRES", "SUBJECT"], &rows)
}

/// The full id of what the user named.
fn resolve(remote: &Remote, id: &str) -> Result<String> {
    use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, certificates_from_pem};
    if let Some(fingerprint) = CertificateFingerprint::from_hex(id) {
        return Ok(fingerprint.to_hex());
    }
    let file = Path::new(id);
    if file.is_file() {
        let pem = read_file(file)?;
        let facts = certificates_from_pem(&pem).and_then(|ders| CertificateFacts::parse(&ders[0]));
        let facts = facts.map_err(|error| Failure::refused(format!("{id}: {error}")))?;
        return Ok(facts.certificate_fingerprint.to_hex());
    }
    let start = id.replace(':', "").to_ascii_lowercase();
    if start.len() < 6 || !start.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::refused(format!(
            "`{id}` is no SHA-256 (64 hex digits, or at least 6 of them), and no file"
        ))
        .into());
    }
    let items = remote.all("/device-certs?limit=1000")?;
    let mut found = items.iter().filter_map(|item| item["id"].as_str()).filter(|id| id.starts_with(&start));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (None, _) => Err(Failure::refused(format!("no certificate begins with {start}")).into()),
        (Some(_), Some(_)) => {
            Err(Failure::refused(format!("several certificates begin with {start}")).into())
        }
    }
}

fn show(one: &One, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let record = remote.get(&format!("/device-certs/{}", resolve(&remote, &one.id)?))?;
    if one.remote.json {
        return output::json(&record);
    }
    let members = record.as_object().into_iter().flatten();
    members.filter(|(name, _)| *name != "pem").try_for_each(|(name, value)| {
        let shown = match name.as_str() {
            "not_before" | "not_after" => date(value.as_i64().unwrap_or_default()),
            "registered_at" | "updated_at" | "last_seen" => date(value.as_i64().unwrap_or_default() / 1000),
            _ => text(&record, name),
        };
        say(format!("{name:18} {}", output::printable(&shown)))
    })
}

fn change(one: &One, config: Option<&Path>, verb: &str, past: &str, body: &Value) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let id = resolve(&remote, &one.id)?;
    done(&one.remote, past, &remote.post(&format!("/device-certs/{id}/{verb}"), body)?)
}

fn done(args: &RemoteArgs, past: &str, record: &Value) -> Result<()> {
    if args.json {
        return output::json(record);
    }
    let (id, device) = (text(record, "id"), text(record, "device_id"));
    say(format!("{past}: {id} (device {}, {})", output::printable(&device), text(record, "state")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_private_key_is_not_sent() {
        let pem = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\njunk\n";
        let sent = super::certificates_only(pem);
        assert_eq!(sent, "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n");
    }
}
