//! What is done to the log while no broker writes it: another key, a subject that is forgotten.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mqgate_audit::subjects::Subject;
use mqgate_server::audit::AuditLog;
use mqgate_server::metrics::{BuildInfo, Metrics};

use super::super::output::say;
use crate::config::Inputs;
use crate::exit::{Exit, Failure};
use crate::run::build;

/// Who the records name.
const ACTOR: &str = "command line";

/// The log of the configuration, opened for writing: refused while a broker runs.
fn open(config: Option<&Path>) -> Result<AuditLog> {
    let config = crate::run::effective(&Inputs::gather(config)?)?;
    let metrics = Metrics::new(&BuildInfo::default())?;
    AuditLog::open(build::audit_settings(&config), Arc::clone(&metrics.gate))
        .map_err(|error| Failure::unavailable(format!("{error}; stop the broker if it runs")).into())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}

pub fn rotate_key(config: Option<&Path>) -> Result<()> {
    let log = open(config)?;
    runtime()?.block_on(log.rotate_key(ACTOR)).map_err(|error| Failure::refused(error.to_string()))?;
    log.close();
    let keys = log
        .view()
        .map(mqgate_audit::View::keys)
        .transpose()
        .map_err(|error| Failure::refused(error.to_string()))?;
    keys.map_or(Ok(()), |keys| say(keys.current().to_string()))
}

pub fn erase(subject: &str, config: Option<&Path>) -> Result<()> {
    let what = "write device:NAME, certificate:FINGERPRINT, client:ID or address:IP";
    let parsed = Subject::parse(subject)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("`{subject}` is nobody: {what}")))?;
    let log = open(config)?;
    let erased = runtime()?.block_on(log.erase(parsed, ACTOR));
    log.close();
    match erased.map_err(|error| Failure::refused(error.to_string()))? {
        Some(true) => say(format!("the key of {subject} is destroyed")),
        Some(false) => Err(Failure::refused(format!("there is no key of {subject}")).into()),
        None => Err(Failure::refused("nothing is encrypted: `audit.personal.members` is empty").into()),
    }
}
