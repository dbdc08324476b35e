//! `mqgate cert`: device certificates.

mod change;
mod filter;
mod resolve;
mod show;
mod transfer;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use self::change::Doing;
pub use self::change::would;
use self::filter::Filter;
use self::resolve::resolve;
use super::output::{self, say};
use super::remote::{Remote, RemoteArgs, read_file, segment};
use crate::exit::Failure;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate cert list --expires-within 30d
  mqgate cert register device-7.pem --client-id meter-7
  mqgate cert pending approve device-7
  mqgate cert revoke device-7 --reason key-compromise
  mqgate cert batch revoke --ca factory-2 --tag lot-17 --dry-run
  mqgate cert import fleet.ndjson

A certificate is named by its SHA-256 or a beginning of it, by its file, or by its device if that has one only.")]
pub enum Command {
    /// List certificates
    #[command(after_help = "\
Examples:
  mqgate cert list --expires-within 30d
  mqgate cert list --ca factory-2 --state INACTIVE --not-seen-for 90d")]
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show one certificate
    #[command(after_help = "Example:\n  mqgate cert show device-7")]
    Show(One),
    /// What happened to a certificate, and who did it
    #[command(after_help = "Example:\n  mqgate cert history device-7")]
    History(One),
    /// What was decided about who came with a certificate, the latest first: from the audit log
    #[command(after_help = "Example:\n  mqgate cert decisions device-7 --most 5")]
    Decisions {
        #[command(flatten)]
        one: One,
        /// So many
        #[arg(long, default_value_t = 50)]
        most: usize,
    },
    /// Who is connected with a certificate
    #[command(after_help = "Example:\n  mqgate cert sessions device-7")]
    Sessions(One),
    /// Register a certificate before its first connection
    #[command(after_help = "\
Examples:
  mqgate cert register device-7.pem
  mqgate cert register device-7.pem --client-id meter-7 --tag lot-17 --attribute site=north")]
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
        /// NAME=VALUE, for plugins; may be repeated
        #[arg(long, value_name = "NAME=VALUE")]
        attribute: Vec<String>,
        /// Register it, but do not let it in before `mqgate cert activate`
        #[arg(long)]
        inactive: bool,
        /// Bring back a certificate that was deleted
        #[arg(long)]
        restore: bool,
        /// Check everything, and write nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Change tags, attributes, tenant or client id of a certificate
    #[command(after_help = "\
Examples:
  mqgate cert set device-7 --tag lot-17 --tag north
  mqgate cert set device-7 --attribute site=north --tenant acme")]
    Set {
        #[command(flatten)]
        one: One,
        /// The tags it has from now on; may be repeated
        #[arg(long)]
        tag: Vec<String>,
        /// It has no tags any more
        #[arg(long, conflicts_with = "tag")]
        no_tags: bool,
        /// NAME=VALUE: the attributes it has from now on; may be repeated
        #[arg(long, value_name = "NAME=VALUE")]
        attribute: Vec<String>,
        /// Its tenant; empty: none
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Let an inactive certificate in
    #[command(after_help = "Example:\n  mqgate cert activate device-7")]
    Activate {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
    /// Keep a certificate out for now; its connections are closed
    #[command(after_help = "Example:\n  mqgate cert deactivate device-7")]
    Deactivate {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
    /// Keep a certificate out for good; its connections are closed within a second
    #[command(after_help = "Example:\n  mqgate cert revoke device-7 --reason key-compromise")]
    Revoke {
        #[command(flatten)]
        one: One,
        /// Why: unspecified, key-compromise, superseded, cessation-of-operation, privilege-withdrawn, …
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Say no to a certificate that waits to be let in
    #[command(after_help = "Example:\n  mqgate cert reject device-7")]
    Reject {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
    /// Let a certificate in again that a newer one took the place of
    #[command(after_help = "Example:\n  mqgate cert reinstate 3f9a12")]
    Reinstate {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
    /// Bind a certificate to the only client id that it may use
    #[command(after_help = "\
Examples:
  mqgate cert bind device-7 meter-7
  mqgate cert bind device-7 --none")]
    Bind {
        #[command(flatten)]
        one: One,
        /// The client id
        #[arg(required_unless_present = "none")]
        client_id: Option<String>,
        /// Unbind it
        #[arg(long, conflicts_with = "client_id")]
        none: bool,
        #[command(flatten)]
        how: How,
    },
    /// Keep a certificate out until somebody has looked at it
    #[command(after_help = "\
Examples:
  mqgate cert quarantine device-7 --why \"seen from two places\"
  mqgate cert quarantine device-7 --release")]
    Quarantine {
        #[command(flatten)]
        one: One,
        /// For who looks at it
        #[arg(long, value_name = "TEXT", default_value = "by an operator")]
        why: String,
        /// Let it in again
        #[arg(long)]
        release: bool,
        #[command(flatten)]
        how: How,
    },
    /// Remove a certificate from the registry; a tombstone keeps it from registering itself again
    #[command(visible_alias = "delete", after_help = "Example:\n  mqgate cert remove device-7 --force")]
    Remove {
        #[command(flatten)]
        one: One,
        /// Also if it is active
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        how: How,
    },
    /// One thing to all that filters are for
    #[command(subcommand)]
    Batch(Batch),
    /// Certificates that wait for an operator
    #[command(subcommand)]
    Pending(Pending),
    /// What was deleted, and is remembered so that it does not register itself again
    #[command(subcommand)]
    Tombstones(Tombstones),
    /// Devices, each with its certificates
    #[command(after_help = "\
Examples:
  mqgate cert devices
  mqgate cert devices device-7 --json")]
    Devices {
        /// One device
        device: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Register many certificates from a file
    Import(transfer::ImportArgs),
    /// Write certificates to a file that `mqgate cert import` reads
    Export(transfer::ExportArgs),
}

#[derive(clap::Args)]
pub struct One {
    /// SHA-256 of the certificate or a beginning of it; its PEM file; or its device
    id: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// How a change is made.
#[derive(clap::Args)]
pub struct How {
    /// Say what would change and whom it would concern, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate cert batch revoke --ca factory-2 --tag lot-17 --reason key-compromise --dry-run
  mqgate cert batch deactivate --not-seen-for 365d
  mqgate cert batch remove --state REVOKED")]
pub enum Batch {
    /// Let all of them in
    Activate(Many),
    /// Keep all of them out for now
    Deactivate(Many),
    /// Keep all of them out for good
    Revoke {
        #[command(flatten)]
        many: Many,
        /// Why: unspecified, key-compromise, superseded, …
        #[arg(long)]
        reason: Option<String>,
    },
    /// Say no to all of those that wait
    Reject(Many),
    /// Keep all of them out until somebody has looked at them
    Quarantine(Many),
    /// End their quarantine
    Release(Many),
    /// Remove all of them; tombstones stay
    #[command(visible_alias = "delete")]
    Remove {
        #[command(flatten)]
        many: Many,
        /// Those that are active too
        #[arg(long)]
        force: bool,
    },
}

#[derive(clap::Args)]
pub struct Many {
    #[command(flatten)]
    filter: Filter,
    /// All certificates: without filters nothing else says which
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate cert pending list
  mqgate cert pending approve device-7
  mqgate cert pending reject device-8")]
pub enum Pending {
    /// Those that wait
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Those that were refused at their first connection, the latest of them
    Refused {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Let one in; where its device waits at the door, it goes on at once
    Approve {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
    /// Say no to one
    Reject {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
}

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate cert tombstones list
  mqgate cert tombstones purge 3f9a12…     it may register itself again")]
pub enum Tombstones {
    /// Those that are remembered
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Forget one: its certificate may be registered again
    Purge {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { filter, remote } => list(&filter, &remote, config),
        Command::Show(one) => show(&one, config),
        Command::History(one) => about(&one, config, "history", show::history),
        Command::Decisions { one, most } => {
            let remote = Remote::new(&one.remote, config)?;
            let id = resolve(&remote, &one.id, &[])?;
            let path = format!("/device-certs/{id}/decisions?limit={}", most.clamp(1, 1_000));
            show::decisions(remote.first(&path, most)?, one.remote.json)
        }
        Command::Sessions(one) => about(&one, config, "sessions", show::sessions),
        Command::Register {
            file,
            device_id,
            client_id,
            tenant,
            tag,
            attribute,
            inactive,
            restore,
            dry_run,
            remote,
        } => {
            let pem = String::from_utf8(read_file(&file)?)
                .map_err(|_| Failure::refused(format!("{} is no PEM file", file.display())))?;
            let body = json!({
                "pem": certificates_only(&pem),
                "device_id": device_id,
                "client_id": client_id,
                "tenant": tenant,
                "tags": tag,
                "attributes": attributes(&attribute)?,
                "inactive": inactive,
                "restore": restore,
            });
            let path = format!("/device-certs?dry_run={dry_run}");
            change::done(&remote, "registered", &Remote::new(&remote, config)?.post(&path, &body)?)
        }
        Command::Set { one, tag, no_tags, attribute, tenant, how } => {
            let mut patch = json!({});
            if no_tags || !tag.is_empty() {
                patch["tags"] = json!(tag);
            }
            if !attribute.is_empty() {
                patch["attributes"] = attributes(&attribute)?;
            }
            if let Some(tenant) = tenant {
                patch["tenant"] = if tenant.is_empty() { Value::Null } else { json!(tenant) };
            }
            if patch == json!({}) {
                let what = "say what is to change: --tag, --no-tags, --attribute, --tenant; `mqgate cert bind` binds it";
                return Err(Failure::refused(what).into());
            }
            change::patch(&one, config, &how, &patch)
        }
        Command::Activate { one, how } => change::verb(&one, config, &how, Doing::Activate, &json!({})),
        Command::Deactivate { one, how } => change::verb(&one, config, &how, Doing::Deactivate, &json!({})),
        Command::Revoke { one, reason, how } => {
            change::verb(&one, config, &how, Doing::Revoke, &json!({ "reason": reason }))
        }
        Command::Reject { one, how } => change::verb(&one, config, &how, Doing::Reject, &json!({})),
        Command::Reinstate { one, how } => change::verb(&one, config, &how, Doing::Reinstate, &json!({})),
        Command::Bind { one, client_id, none: _, how } => {
            change::verb(&one, config, &how, Doing::Bind, &json!({ "client_id": client_id }))
        }
        Command::Quarantine { one, release: true, how, .. } => {
            change::verb(&one, config, &how, Doing::Release, &json!({}))
        }
        Command::Quarantine { one, why, how, .. } => {
            change::verb(&one, config, &how, Doing::Quarantine, &json!({ "why": why }))
        }
        Command::Remove { one, force, how } => change::remove(&one, config, &how, force),
        Command::Batch(batch) => run_batch(&batch, config),
        Command::Pending(pending) => run_pending(&pending, config),
        Command::Tombstones(tombstones) => run_tombstones(&tombstones, config),
        Command::Devices { device, remote } => devices(device.as_deref(), &remote, config),
        Command::Import(args) => transfer::import(&args, config),
        Command::Export(args) => transfer::export(&args, config),
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

fn attributes(given: &[String]) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for pair in given {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::refused(format!("--attribute `{pair}`: write it as NAME=VALUE")).into());
        };
        all.insert(name.to_owned(), json!(value));
    }
    Ok(Value::Object(all))
}

fn list(filter: &Filter, args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all(&format!("/device-certs?limit=1000{}", filter.query()))?;
    let nothing = match filter.is_empty() {
        true => "no certificates: register one with `mqgate cert register FILE`, or let a device connect",
        false => "no certificates that these filters are for",
    };
    show::list(items, args.json, nothing)
}

fn show(one: &One, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let record = remote.get(&format!("/device-certs/{}", resolve(&remote, &one.id, &[])?))?;
    if one.remote.json { output::json(&record) } else { show::one(&record) }
}

fn about(
    one: &One,
    config: Option<&Path>,
    what: &str,
    shown: fn(Vec<Value>, bool) -> Result<()>,
) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let id = resolve(&remote, &one.id, &[])?;
    shown(remote.all(&format!("/device-certs/{id}/{what}"))?, one.remote.json)
}

fn run_batch(batch: &Batch, config: Option<&Path>) -> Result<()> {
    let (many, action, more) = match batch {
        Batch::Activate(many) => (many, "activate", json!({})),
        Batch::Deactivate(many) => (many, "deactivate", json!({})),
        Batch::Revoke { many, reason } => (many, "revoke", json!({ "reason": reason })),
        Batch::Reject(many) => (many, "reject", json!({})),
        Batch::Quarantine(many) => (many, "quarantine", json!({})),
        Batch::Release(many) => (many, "release", json!({})),
        Batch::Remove { many, force } => (many, "delete", json!({ "force": force })),
    };
    if many.filter.is_empty() && !many.all {
        let what = "no filter says which certificates are meant\n  help: give one, such as --ca or --tag, or --all for \
                    every certificate; --dry-run shows whom it would concern";
        return Err(Failure::refused(what).into());
    }
    let mut body = json!({ "action": action, "filter": many.filter.json(), "all": many.all });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    let path = format!("/device-certs:batch?dry_run={}", many.how.dry_run);
    let answer = Remote::new(&many.remote, config)?.post(&path, &body)?;
    change::batch_done(&many.remote, action, &answer)
}

fn run_pending(pending: &Pending, config: Option<&Path>) -> Result<()> {
    match pending {
        Pending::List { remote } => {
            let items = Remote::new(remote, config)?.all("/provisioning/pending?limit=1000")?;
            show::list(items, remote.json, "nobody waits")
        }
        Pending::Refused { remote } => {
            let items = Remote::new(remote, config)?.all("/provisioning/rejected")?;
            show::rejected(items, remote.json)
        }
        Pending::Approve { one, how } => change::pending(one, config, how, Doing::Approve),
        Pending::Reject { one, how } => change::pending(one, config, how, Doing::Reject),
    }
}

fn run_tombstones(tombstones: &Tombstones, config: Option<&Path>) -> Result<()> {
    match tombstones {
        Tombstones::List { remote } => {
            let items = Remote::new(remote, config)?.all("/tombstones?limit=1000")?;
            show::tombstones(items, remote.json)
        }
        Tombstones::Purge { one, how } => {
            let remote = Remote::new(&one.remote, config)?;
            let id = resolve(&remote, &one.id, &["TOMBSTONE"])?;
            let answer = remote.delete(&format!("/tombstones/{id}?dry_run={}", how.dry_run))?;
            change::done(&one.remote, "forgotten", &answer)
        }
    }
}

fn devices(device: Option<&str>, args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(args, config)?;
    match device {
        None => show::devices(remote.all("/devices?limit=1000")?, args.json),
        Some(device) => {
            let found = remote.get(&format!("/devices/{}", segment(device)))?;
            if args.json {
                return output::json(&found);
            }
            say(format!("device  {}", output::printable(&output::text(&found, "device_id"))))?;
            let certificates = found["certificates"].as_array().cloned().unwrap_or_default();
            show::list(certificates, false, "it has no certificates")
        }
    }
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
