//! `mqgate ca`: CAs that are trusted.

mod register;
mod show;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::output::{self, date, printable, say, table, text, time};
use super::remote::{Remote, RemoteArgs, read_file, segment, with_query};
use crate::exit::Failure;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate ca register factory-2.pem --name factory-2 --ca-key factory-2.key
  mqgate ca set factory-2 --auto-registration pending --max-device-certs 10000
  mqgate ca impact factory-2
  mqgate ca replace factory-2 factory-3.pem --grace 30d
  mqgate ca deactivate factory-2
  mqgate ca remove factory-2
  mqgate ca revoke factory-2                 its key is in the wrong hands")]
pub enum Command {
    /// List CAs, those of the configuration included
    #[command(after_help = "Example:\n  mqgate ca list")]
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show one CA with its settings
    #[command(after_help = "Example:\n  mqgate ca show factory-2")]
    Show(One),
    /// Registration codes: what the holder of a CA's key signs to prove it
    #[command(subcommand)]
    Code(Code),
    /// Register a CA and prove that its key is yours
    Register(Box<register::Args>),
    /// Trust another CA from now on, without a proof that its key is yours
    #[command(after_help = "Example:\n  mqgate ca add --name factory-2 factory-2.pem")]
    Add {
        /// PEM file with one CA certificate
        file: PathBuf,
        /// Its name: letters, digits, `-`, `_`, `.`; a label of metrics
        #[arg(long)]
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Prove that the key of a CA is yours that was registered without that
    Verify(register::VerifyArgs),
    /// Change settings of a CA
    Set(Box<SetArgs>),
    /// Trust a CA again that was deactivated
    #[command(after_help = "Example:\n  mqgate ca activate factory-2")]
    Activate {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        how: How,
    },
    /// Trust a CA no longer, for now
    #[command(after_help = "\
Examples:
  mqgate ca deactivate factory-2
  mqgate ca deactivate factory-2 --mode disconnect --dry-run")]
    Deactivate {
        #[command(flatten)]
        one: One,
        /// What ends: block_new_registrations, block_new_connections, disconnect (live ones as well). Without it, what
        /// its settings say
        #[arg(long, value_name = "MODE")]
        mode: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Trust another CA in the place of one, which stays valid beside it for a while
    #[command(after_help = "Example:\n  mqgate ca replace factory-2 factory-3.pem --grace 30d")]
    Replace {
        #[command(flatten)]
        one: One,
        /// PEM file with the new one
        file: PathBuf,
        /// Name of the new one; without it, that of the old one
        #[arg(long)]
        name: Option<String>,
        /// How long the old one stays valid; 0s after a compromise. The default is `reload.grace`
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Trust a CA never again: its key is in the wrong hands. Whoever came with its certificates is sent away
    #[command(after_help = "Example:\n  mqgate ca revoke factory-2 --reason ca-compromise")]
    Revoke {
        #[command(flatten)]
        one: One,
        /// Why: ca-compromise, key-compromise, cessation-of-operation, …
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Remove a CA from the registry: after its grace connections under it are refused, and closed
    #[command(
        visible_alias = "delete",
        after_help = "\
Examples:
  mqgate ca remove factory-2 --dry-run
  mqgate ca remove factory-2 --cascade revoke
  mqgate ca remove factory-2 --grace 0s      at once: its key is in the wrong hands"
    )]
    Remove {
        #[command(flatten)]
        one: One,
        /// Also if certificates are registered under it: they stay, and let nobody in until another CA carries them
        #[arg(long, conflicts_with = "cascade")]
        force: bool,
        /// What becomes of certificates under it, if it is out of use: revoke, or orphan (they stay)
        #[arg(long, value_name = "HOW")]
        cascade: Option<String>,
        /// How long it stays valid; 0s after a compromise. The default is `reload.grace`
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// What depends on a CA: certificates by state, connections, and who has another path
    #[command(after_help = "Example:\n  mqgate ca impact factory-2")]
    Impact(One),
}

#[derive(clap::Args)]
pub struct One {
    /// Name or SHA-256 of the CA
    id: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl One {
    fn path(&self, verb: &str, parameters: &[(&str, Option<&str>)]) -> String {
        with_query(&format!("/cas/{}{verb}", segment(&self.id)), parameters)
    }
}

/// How a change is made.
#[derive(clap::Args)]
pub struct How {
    /// Say what would change and whom it would concern, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl How {
    const fn text(&self) -> Option<&'static str> {
        if self.dry_run { Some("true") } else { None }
    }
}

#[derive(clap::Subcommand)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mqgate ca code new
  mqgate ca code list
  mqgate ca code delete 9c1f…"
)]
pub enum Code {
    /// Make a code; it is good for one CA, for a day
    New {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Codes that there are
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Delete a code that is not needed
    #[command(visible_alias = "remove")]
    Delete {
        code: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

/// Settings of a CA; those that are not given stay as they are.
#[derive(Default, clap::Args)]
pub struct Settings {
    /// Whether its certificates are registered at their first connection: off, pending (an operator approves), active
    #[arg(long, value_name = "HOW")]
    auto_registration: Option<String>,
    /// What `deactivate` ends: block_new_registrations, block_new_connections, disconnect
    #[arg(long, value_name = "MODE")]
    on_deactivate: Option<String>,
    /// Certificates that may be registered under it; `none`: as many as there are
    #[arg(long, value_name = "NUMBER")]
    max_device_certs: Option<String>,
    /// Registrations per minute and at once, PER_MINUTE[/BURST]; `none`: the broker's own rate alone
    #[arg(long, value_name = "RATE")]
    registration_rate: Option<String>,
    /// One must fit the subject for an automatic registration: `CN=meter-*`; may be repeated; `none`: all do
    #[arg(long, value_name = "PATTERN")]
    subject_pattern: Vec<String>,
    /// Each alternative name must fit one: `dns:*.meters.example`; may be repeated; `none`: all do
    #[arg(long, value_name = "PATTERN")]
    san_pattern: Vec<String>,
    /// Longest validity of a certificate that is registered: 400d; `none`: any
    #[arg(long, value_name = "TIME")]
    max_leaf_lifetime: Option<String>,
    /// Address of a revocation list of it; may be repeated; `none`: those of the configuration alone
    #[arg(long, value_name = "URL")]
    crl_source: Vec<String>,
    /// Name of the plugin that decides about its certificates; `none`: all are asked
    #[arg(long, value_name = "PLUGIN")]
    registrar: Option<String>,
    /// Devices of the same name under CAs of one trust domain are the same device
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// A tag; may be repeated; `none`: no tags
    #[arg(long)]
    tag: Vec<String>,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate ca set factory-2 --auto-registration pending
  mqgate ca set factory-2 --subject-pattern 'CN=meter-*' --max-leaf-lifetime 400d --max-device-certs 10000
  mqgate ca set factory-2 --max-device-certs none")]
pub struct SetArgs {
    #[command(flatten)]
    one: One,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    how: How,
}

const NONE: &str = "none";

impl Settings {
    /// As the API takes them: `null` lets a setting go.
    fn json(&self) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        let word = |text: &String| json!(text.to_lowercase().replace('-', "_"));
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                all.insert(name.to_owned(), value);
            }
        };
        set("auto_registration", self.auto_registration.as_ref().map(word));
        set("on_deactivate", self.on_deactivate.as_ref().map(word));
        set("max_device_certs", self.max_device_certs.as_deref().map(number).transpose()?);
        set("registration_rate", self.registration_rate.as_deref().map(rate).transpose()?);
        set("subject_patterns", list(&self.subject_pattern));
        set("san_patterns", list(&self.san_pattern));
        set("max_leaf_lifetime_seconds", self.max_leaf_lifetime.as_deref().map(seconds).transpose()?);
        set("crl_sources", list(&self.crl_source));
        set(
            "registrar",
            self.registrar.as_deref().map(|name| if name == NONE { Value::Null } else { json!(name) }),
        );
        set("trust_domain", self.trust_domain.as_ref().map(|name| json!(name)));
        set("tags", list(&self.tag));
        Ok(all)
    }
}

fn list(given: &[String]) -> Option<Value> {
    match given {
        [] => None,
        [only] if only == NONE => Some(json!([])),
        all => Some(json!(all)),
    }
}

fn number(text: &str) -> Result<Value> {
    match text {
        NONE => Ok(Value::Null),
        text => {
            Ok(json!(text.parse::<u64>().map_err(|_| Failure::refused(format!("`{text}` is no number")))?))
        }
    }
}

fn rate(text: &str) -> Result<Value> {
    if text == NONE {
        return Ok(Value::Null);
    }
    let wrong = || Failure::refused(format!("`{text}`: write a rate as PER_MINUTE or PER_MINUTE/BURST"));
    let (per_minute, burst) = text.split_once('/').unwrap_or((text, text));
    let parse = |number: &str| number.trim().parse::<u32>().map_err(|_| wrong());
    Ok(json!({ "per_minute": parse(per_minute)?, "burst": parse(burst)? }))
}

fn seconds(text: &str) -> Result<Value> {
    match text {
        NONE => Ok(Value::Null),
        text => {
            let time = mqgate_server::units::duration(text)
                .ok_or_else(|| Failure::refused(format!("`{text}` is no time: write for example 400d")))?;
            Ok(json!(time.as_secs()))
        }
    }
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => show::list(Remote::new(&remote, config)?.all("/cas")?, remote.json),
        Command::Show(one) => {
            let ca = Remote::new(&one.remote, config)?.get(&one.path("", &[]))?;
            if one.remote.json { output::json(&ca) } else { show::one(&ca) }
        }
        Command::Code(code) => run_code(code, config),
        Command::Register(args) => register::register(&args, config),
        Command::Add { file, name, remote } => {
            let body = json!({ "name": name, "pem": pem(&file)?, "skip_verification": true });
            let ca = Remote::new(&remote, config)?.post("/cas", &body)?;
            done(&remote, "added", &ca)
        }
        Command::Verify(args) => register::verify(&args, config),
        Command::Set(args) => set(&args, config),
        Command::Activate { one, how } => {
            change(&one, config, &one.path("/activate", &[("dry_run", how.text())]), "activated", &json!({}))
        }
        Command::Deactivate { one, mode, how } => {
            let path = one.path("/deactivate", &[("dry_run", how.text())]);
            let mode = mode.map(|mode| mode.to_lowercase().replace('-', "_"));
            change(&one, config, &path, "deactivated", &json!({ "mode": mode }))
        }
        Command::Replace { one, file, name, grace, how } => {
            let path = one.path("/replace", &[("grace", grace.as_deref()), ("dry_run", how.text())]);
            let body = json!({ "pem": pem(&file)?, "name": name });
            change(&one, config, &path, "trusted from now on", &body)
        }
        Command::Revoke { one, reason, how } => {
            let path = one.path("/revoke", &[("dry_run", how.text())]);
            change(&one, config, &path, "revoked", &json!({ "reason": reason }))
        }
        Command::Remove { one, force, cascade, grace, how } => {
            let force = force.then_some("true");
            let query = [
                ("force", force),
                ("cascade", cascade.as_deref()),
                ("grace", grace.as_deref()),
                ("dry_run", how.text()),
            ];
            let removed = Remote::new(&one.remote, config)?.delete(&one.path("", &query))?;
            done(&one.remote, "removed", &removed)
        }
        Command::Impact(one) => {
            let impact = Remote::new(&one.remote, config)?.get(&one.path("/impact", &[]))?;
            if one.remote.json { output::json(&impact) } else { show::impact(&impact) }
        }
    }
}

fn pem(file: &Path) -> Result<String> {
    Ok(String::from_utf8(read_file(file)?)
        .map_err(|_| Failure::refused(format!("{} is no PEM file", file.display())))?)
}

fn set(args: &SetArgs, config: Option<&Path>) -> Result<()> {
    let mut patch = args.settings.json()?;
    if let Some(name) = &args.name {
        patch.insert(String::from("name"), json!(name));
    }
    if patch.is_empty() {
        let what = "say what is to change: `mqgate ca set --help` lists the settings, `mqgate ca show` those in force";
        return Err(Failure::refused(what).into());
    }
    let path = args.one.path("", &[("dry_run", args.how.text())]);
    let ca = Remote::new(&args.one.remote, config)?.patch(&path, &Value::Object(patch))?;
    done(&args.one.remote, "changed", &ca)
}

fn change(one: &One, config: Option<&Path>, path: &str, past: &str, body: &Value) -> Result<()> {
    done(&one.remote, past, &Remote::new(&one.remote, config)?.post(path, body)?)
}

fn run_code(code: Code, config: Option<&Path>) -> Result<()> {
    match code {
        Code::New { remote } => {
            let code = Remote::new(&remote, config)?.post("/ca-registration-codes", &json!({}))?;
            if remote.json {
                return output::json(&code);
            }
            let (word, until) =
                (text(&code, "code"), code["expires_at"].as_i64().map(time).unwrap_or_default());
            say(format!("code     {word}"))?;
            say(format!("expires  {until}"))?;
            say("next: have the CA sign a certificate with this code as its common name, and")?;
            say("  mqgate ca register ca.pem --name NAME --verification verification.pem")?;
            say(
                "or, where the CA's key is a file here, all in one: mqgate ca register ca.pem --name NAME --ca-key ca.key",
            )
        }
        Code::List { remote } => {
            let items = Remote::new(&remote, config)?.all("/ca-registration-codes")?;
            if remote.json {
                return output::json(&Value::Array(items));
            }
            if items.is_empty() {
                return say("no codes: `mqgate ca code new` makes one");
            }
            let at = |item: &Value, name: &str| item[name].as_i64().map(time).unwrap_or_default();
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    vec![
                        text(item, "code"),
                        at(item, "created_at"),
                        at(item, "expires_at"),
                        text(item, "created_by"),
                        text(&item["used"], "ca").chars().take(16).collect(),
                    ]
                })
                .collect();
            table(&["CODE", "CREATED", "EXPIRES", "BY", "USED FOR"], &rows)
        }
        Code::Delete { code, remote } => {
            let path = format!("/ca-registration-codes/{}", segment(&code));
            let deleted = Remote::new(&remote, config)?.delete(&path)?;
            if remote.json { output::json(&deleted) } else { say(format!("deleted: {}", printable(&code))) }
        }
    }
}

/// A CA after the change; or what the change would do.
fn done(args: &RemoteArgs, past: &str, ca: &Value) -> Result<()> {
    if args.json {
        return output::json(ca);
    }
    if ca["dry_run"] == true {
        return super::cert::would(ca);
    }
    say(format!("{past}: {} ({}, {})", text(ca, "name"), text(ca, "id"), text(ca, "state")))?;
    super::reload::say_transition(ca)?;
    show::lints(ca).try_for_each(|(lint, detail)| say(format!("  warning: {lint}: {}", printable(&detail))))
}

/// When a CA ends.
fn ends(ca: &Value) -> String {
    date(ca["not_after"].as_i64().unwrap_or_default())
}
