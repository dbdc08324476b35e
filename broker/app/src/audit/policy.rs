//! The rules of `[[audit.rules]]` as the log asks them.

use mqgate_identity::audit::Outcome;
use mqgate_identity::audit::policy::{Level, Match, Mode, Policy, PolicyError, Rule};

use crate::config::Config;
use crate::config::model::{AuditLevel, AuditMode, AuditOutcome, AuditRule};

pub fn rule(rule: &AuditRule) -> Result<Rule, PolicyError> {
    let when = Match {
        category: rule.when.category.clone(),
        action: rule.when.action.clone(),
        outcome: rule
            .when
            .outcome
            .iter()
            .map(|outcome| match outcome {
                AuditOutcome::Success => Outcome::Success,
                AuditOutcome::Failure => Outcome::Failure,
                AuditOutcome::Error => Outcome::Error,
            })
            .collect(),
        listener: rule.when.listener.clone(),
        ca: rule.when.ca.clone(),
    };
    let level = match rule.level {
        AuditLevel::None => Level::None,
        AuditLevel::Metadata => Level::Metadata,
        AuditLevel::Request => Level::Request,
        AuditLevel::Full => Level::Full,
    };
    let mode = rule.mode.map(|mode| match mode {
        AuditMode::Durable => Mode::Durable,
        AuditMode::Batched => Mode::Batched,
        AuditMode::BestEffort => Mode::BestEffort,
    });
    Rule::new(when, level, rule.sample, rule.sinks.clone(), mode)
}

/// All of them, in order.
pub fn policy(config: &Config) -> Result<Policy, PolicyError> {
    Ok(Policy::new(config.audit.rules.iter().map(rule).collect::<Result<_, _>>()?))
}
