//! Changes of one certificate, and of many by filter.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::super::output::{self, printable, say, text};
use super::super::remote::{Remote, RemoteArgs};
use super::resolve::resolve;
use super::{How, One};
use crate::exit::Failure;

/// What is done to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Activate,
    Approve,
    Deactivate,
    Revoke,
    Reject,
    Reinstate,
    Bind,
    Quarantine,
    Release,
}

impl Doing {
    /// As the path of the API has it.
    const fn verb(self) -> &'static str {
        match self {
            Self::Activate => "activate",
            Self::Approve => "approve",
            Self::Deactivate => "deactivate",
            Self::Revoke => "revoke",
            Self::Reject => "reject",
            Self::Reinstate => "reinstate",
            Self::Bind => "bind",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
        }
    }

    /// When it is done.
    const fn past(self) -> &'static str {
        match self {
            Self::Activate => "activated",
            Self::Approve => "approved",
            Self::Deactivate => "deactivated",
            Self::Revoke => "revoked",
            Self::Reject => "rejected",
            Self::Reinstate => "reinstated",
            Self::Bind => "bound",
            Self::Quarantine => "in quarantine",
            Self::Release => "released",
        }
    }

    /// States of the certificate that is meant where a device is named.
    const fn wanted(self) -> &'static [&'static str] {
        match self {
            Self::Approve | Self::Reject => &["PENDING_ACTIVATION"],
            Self::Activate => &["PENDING_ACTIVATION", "INACTIVE"],
            Self::Deactivate => &["ACTIVE"],
            Self::Reinstate => &["ACTIVE", "INACTIVE"],
            Self::Revoke | Self::Bind | Self::Quarantine | Self::Release => {
                &["PENDING_ACTIVATION", "ACTIVE", "INACTIVE"]
            }
        }
    }
}

pub fn verb(one: &One, config: Option<&Path>, how: &How, doing: Doing, body: &Value) -> Result<()> {
    at(one, config, how, doing, "/device-certs", body)
}

/// Of the queue of those that wait.
pub fn pending(one: &One, config: Option<&Path>, how: &How, doing: Doing) -> Result<()> {
    at(one, config, how, doing, "/provisioning/pending", &serde_json::json!({}))
}

fn at(one: &One, config: Option<&Path>, how: &How, doing: Doing, resource: &str, body: &Value) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let id = resolve(&remote, &one.id, doing.wanted())?;
    let path = format!("{resource}/{id}/{}?dry_run={}", doing.verb(), how.dry_run);
    done(&one.remote, doing.past(), &remote.post(&path, body)?)
}

pub fn patch(one: &One, config: Option<&Path>, how: &How, patch: &Value) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let id = resolve(&remote, &one.id, &["PENDING_ACTIVATION", "ACTIVE", "INACTIVE"])?;
    let path = format!("/device-certs/{id}?dry_run={}", how.dry_run);
    done(&one.remote, "changed", &remote.patch(&path, patch)?)
}

pub fn remove(one: &One, config: Option<&Path>, how: &How, force: bool) -> Result<()> {
    let remote = Remote::new(&one.remote, config)?;
    let id = resolve(&remote, &one.id, &["PENDING_ACTIVATION", "ACTIVE", "INACTIVE", "REVOKED"])?;
    let path = format!("/device-certs/{id}?force={force}&dry_run={}", how.dry_run);
    done(&one.remote, "removed", &remote.delete(&path)?)
}

/// A record after the change; or what the change would do.
pub fn done(args: &RemoteArgs, past: &str, answer: &Value) -> Result<()> {
    if args.json {
        return output::json(answer);
    }
    if answer["dry_run"] == true {
        return would(answer);
    }
    let (id, device) = (text(answer, "id"), text(answer, "device_id"));
    let bound = match text(answer, "client_id") {
        id if id.is_empty() => String::new(),
        id => format!(", client id {}", printable(&id)),
    };
    say(format!("{past}: {id} (device {}{bound}, {})", printable(&device), text(answer, "state")))
}

/// What a change that was only tried would do.
pub fn would(impact: &Value) -> Result<()> {
    say(format!("nothing is changed; {} of {} would", text(impact, "action"), text(impact, "target")))?;
    let state = |value: &Value| text(value, "state");
    let (before, after) = (state(&impact["before"]), state(&impact["after"]));
    if !after.is_empty() {
        let from = if before.is_empty() { String::from("no record") } else { before };
        say(format!("  state                  {from} -> {after}"))?;
    }
    for (what, count) in impact["affects"].as_object().into_iter().flatten() {
        say(format!("  {:22} {count}", what.replace('_', " ")))?;
    }
    let warnings = impact["warnings"].as_array().into_iter().flatten();
    warnings.filter_map(Value::as_str).try_for_each(|warning| say(format!("  note: {}", printable(warning))))
}

/// What was done to many.
pub fn batch_done(args: &RemoteArgs, action: &str, answer: &Value) -> Result<()> {
    if args.json {
        output::json(answer)?;
    } else if answer["dry_run"] == true {
        would(answer)?;
    } else {
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        say(format!(
            "{action}: {} of {} changed, {} as wanted already, {} refused",
            number("changed"),
            number("matched"),
            number("unchanged"),
            number("failed")
        ))?;
        for problem in answer["problems"].as_array().into_iter().flatten() {
            let (id, code) = (text(problem, "id"), text(problem, "code"));
            say(format!("  {id}  {code}: {}", printable(&text(problem, "detail"))))?;
        }
    }
    match answer["failed"].as_u64() {
        None | Some(0) => Ok(()),
        Some(failed) => Err(Failure::refused(format!("{failed} certificates were left as they are")).into()),
    }
}
