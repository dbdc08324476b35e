//! The files that records are read from: those of the broker here, or others. A broker that runs is not asked.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mqgate_audit::View;
use mqgate_audit::query::{self, Filter, moment};
use mqgate_audit::subjects::Personal;
use serde_json::Value;

use super::folder_of;
use crate::config::{Config, Inputs};
use crate::exit::{Exit, Failure};

/// Records that are looked at in one go.
const PAGE: usize = 1000;

#[derive(clap::Args)]
pub struct SourceArgs {
    /// The log: the link (audit.jsonl), its folder (audit.jsonl.d), or a copy of it; without it, that of the configuration
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What records must be like.
#[derive(clap::Args)]
pub struct Wanted {
    /// What happened: connection.refused, or connection for all that begin so
    #[arg(long)]
    name: Option<String>,
    /// authn, authz, registry, ca, plugin, admin, tls, session or system
    #[arg(long)]
    category: Option<String>,
    /// success, failure or error
    #[arg(long)]
    outcome: Option<String>,
    /// The reason code
    #[arg(long)]
    reason: Option<String>,
    /// Who wanted it: client, admin:NAME, plugin, system
    #[arg(long)]
    actor: Option<String>,
    /// The client id
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// The device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// SHA-256 of the certificate, 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// The listener
    #[arg(long)]
    listener: Option<String>,
    /// The client's address, with or without its port
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<String>,
    /// The connection's number
    #[arg(long, value_name = "NUMBER")]
    connection: Option<u64>,
    /// The request to the admin API
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// From this moment on: RFC 3339, for example 2026-11-22T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Behind the record with this sequence number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
}

impl Wanted {
    pub fn after(&self) -> u64 {
        self.after
    }

    pub fn filter(&self) -> Result<Filter> {
        let moment = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => moment(text).map(Some).ok_or_else(|| {
                let what = format!("--{name}: `{text}` is no time; write it as 2026-11-22T00:00:00Z");
                Failure::new(Exit::Usage, what)
            }),
        };
        Ok(Filter {
            name: self.name.clone(),
            category: self.category.clone(),
            outcome: self.outcome.clone(),
            reason: self.reason.clone(),
            actor: self.actor.clone(),
            client_id: self.client.clone(),
            device_id: self.device.clone(),
            fingerprint: self.fingerprint.clone(),
            listener: self.listener.clone(),
            peer: self.peer.clone(),
            connection_id: self.connection,
            request_id: self.request.clone(),
            since: moment("since", &self.since)?,
            until: moment("until", &self.until)?,
        })
    }
}

/// A log that is read.
pub struct Source {
    folder: PathBuf,
    view: View,
    /// What is encrypted can be shown where its keys are.
    personal: Option<Personal>,
}

impl Source {
    pub fn open(args: &SourceArgs, config: Option<&Path>) -> Result<Self> {
        let config = match args.log {
            Some(_) => None,
            None => Some(crate::run::effective(&Inputs::gather(config)?)?),
        };
        let path = args.log.clone().or_else(|| config.as_ref().map(Config::audit_file)).unwrap_or_default();
        let folder = folder_of(&path)?;
        let wrong = |error: std::io::Error| Failure::refused(error.to_string());
        let view = View::of_copy(&folder).map_err(wrong)?;
        let keys = config.as_ref().filter(|config| !config.audit.personal.members.is_empty());
        let personal = keys
            .map(|config| Personal::open(&config.audit_subjects(), view.id(), &config.audit.personal.members))
            .transpose()
            .map_err(wrong)?;
        Ok(Self { folder, view, personal })
    }

    /// Looks at files again: they may have grown.
    pub fn refresh(&mut self) -> Result<()> {
        self.view = View::of_copy(&self.folder)?;
        Ok(())
    }

    /// The sequence number of the newest record.
    pub fn newest(&self) -> u64 {
        self.view.end().written
    }

    /// Gives `each` every record behind `after` that matches, at most `limit`; returns how far it got.
    pub fn each(
        &mut self,
        filter: &Filter,
        mut after: u64,
        limit: Option<u64>,
        each: &mut dyn FnMut(&Value) -> Result<()>,
    ) -> Result<u64> {
        let mut left = limit.unwrap_or(u64::MAX);
        loop {
            let page = usize::try_from(left).unwrap_or(PAGE).min(PAGE);
            let mut reveal = |member: &str, value: &str| self.personal.as_mut()?.reveal(member, value);
            let found = query::find(&self.view, filter, after, (page, PAGE), &mut reveal)
                .map_err(|error| Failure::refused(error.to_string()))?;
            left -= found.records.len() as u64;
            for record in &found.records {
                each(&serde_json::to_value(record)?)?;
            }
            after = found.after;
            if found.is_end || left == 0 {
                return Ok(after);
            }
        }
    }

    pub fn prove(&self, seq: u64) -> Result<Value> {
        let checkpoint =
            self.view.checkpoint().ok_or_else(|| Failure::refused("the log has no checkpoint"))?;
        let proof = mqgate_audit::proof::prove(&self.view, seq, &checkpoint);
        Ok(serde_json::to_value(proof.map_err(|error| Failure::refused(error.to_string()))?)?)
    }

    /// The public keys.
    pub fn keys(&self) -> Result<Vec<String>> {
        let ring = self.view.keys().map_err(|error| Failure::refused(error.to_string()))?;
        Ok(ring.terms().iter().map(|term| term.key.to_string()).collect())
    }
}
