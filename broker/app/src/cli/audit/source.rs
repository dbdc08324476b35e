//! Where records come from: the running broker, or files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use mqgate_audit::View;
use mqgate_audit::query::{self, Filter, moment};
use serde_json::Value;

use super::super::remote::{Remote, RemoteArgs, with_query};
use super::folder_of;
use crate::exit::{Exit, Failure};

/// Records that are looked at in one go.
const PAGE: usize = 1000;

#[derive(clap::Args)]
pub struct SourceArgs {
    /// Read these files instead of asking the broker: the link (audit.jsonl), its folder (audit.jsonl.d), or a copy of it
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteArgs,
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

/// The running broker, or files.
pub enum Source {
    Broker(Box<Remote>),
    Files { folder: PathBuf, view: View },
}

impl Source {
    pub fn open(args: &SourceArgs, config: Option<&Path>) -> Result<Self> {
        let Some(path) = &args.log else {
            return Ok(Self::Broker(Box::new(Remote::new(&args.remote, config)?)));
        };
        let folder = folder_of(path)?;
        let view = View::of_copy(&folder).map_err(|error| Failure::refused(error.to_string()))?;
        Ok(Self::Files { folder, view })
    }

    /// Looks at files again: they may have grown.
    pub fn refresh(&mut self) -> Result<()> {
        if let Self::Files { folder, view } = self {
            *view = View::of_copy(folder)?;
        }
        Ok(())
    }

    /// The sequence number of the newest record.
    pub fn newest(&self) -> Result<u64> {
        match self {
            Self::Broker(remote) => {
                let answer = remote.get("/audit/checkpoints?limit=1")?;
                answer["written"]
                    .as_u64()
                    .ok_or_else(|| anyhow!("the broker does not say how far its log is"))
            }
            Self::Files { view, .. } => Ok(view.end().written),
        }
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
            let (records, reached, is_end) = match self {
                Self::Broker(remote) => page_of_broker(remote, filter, after, page)?,
                Self::Files { view, .. } => {
                    let found = query::find(view, filter, after, (page, PAGE), &mut |_, _| None)
                        .map_err(|error| Failure::refused(error.to_string()))?;
                    let records = found.records.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
                    (records, found.after, found.is_end)
                }
            };
            left -= records.len() as u64;
            records.iter().try_for_each(&mut *each)?;
            after = reached;
            if is_end || left == 0 {
                return Ok(after);
            }
        }
    }

    pub fn prove(&self, seq: u64) -> Result<Value> {
        match self {
            Self::Broker(remote) => remote.get(&format!("/audit/proofs/{seq}")),
            Self::Files { view, .. } => {
                let checkpoint = view.checkpoint().context("the log has no checkpoint")?;
                let proof = mqgate_audit::proof::prove(view, seq, &checkpoint);
                Ok(serde_json::to_value(proof.map_err(|error| Failure::refused(error.to_string()))?)?)
            }
        }
    }

    /// The public keys.
    pub fn keys(&self) -> Result<Vec<String>> {
        match self {
            Self::Broker(remote) => {
                let keys = remote.all("/audit/keys")?;
                Ok(keys.iter().filter_map(|key| key["key"].as_str().map(str::to_owned)).collect())
            }
            Self::Files { view, .. } => {
                let ring = view.keys().map_err(|error| Failure::refused(error.to_string()))?;
                Ok(ring.terms().iter().map(|term| term.key.to_string()).collect())
            }
        }
    }
}

fn page_of_broker(
    remote: &Remote,
    filter: &Filter,
    after: u64,
    limit: usize,
) -> Result<(Vec<Value>, u64, bool)> {
    let numbers = [after.to_string(), limit.to_string()];
    let connection = filter.connection_id.map(|id| id.to_string());
    let path = with_query(
        "/audit/records",
        &[
            ("from", Some(&numbers[0])),
            ("limit", Some(&numbers[1])),
            ("name", filter.name.as_deref()),
            ("category", filter.category.as_deref()),
            ("outcome", filter.outcome.as_deref()),
            ("reason", filter.reason.as_deref()),
            ("actor", filter.actor.as_deref()),
            ("client_id", filter.client_id.as_deref()),
            ("device_id", filter.device_id.as_deref()),
            ("fingerprint", filter.fingerprint.as_deref()),
            ("listener", filter.listener.as_deref()),
            ("peer", filter.peer.as_deref()),
            ("connection_id", connection.as_deref()),
            ("request_id", filter.request_id.as_deref()),
            ("since", filter.since.as_deref()),
            ("until", filter.until.as_deref()),
        ],
    );
    let answer = remote.get(&path)?;
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    let reached = answer["reached"].as_u64().context("the broker does not say how far it looked")?;
    Ok((items, reached, answer["next"].is_null()))
}
