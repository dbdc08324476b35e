//! The policies, read and checked: they parse, they ask for what there is, and what they name is there. A policy that forbids
//! and has a slip of the pen in it would otherwise forbid nothing, and nobody would notice.

use std::collections::BTreeSet;

use cedar_policy::{
    EntityUid, ParseErrors, PolicyId, PolicySet, Schema, ValidationMode, ValidationWarning, Validator,
};
use miette::Diagnostic;

use crate::config::chain;

/// The problems that are told at once.
const MOST_PROBLEMS: usize = 8;
const LONGEST_NAME: usize = 64;

/// The policies of `text`, each under its name: its annotation `@id("…")`, or `policy0` and so on.
pub fn read(text: &str) -> Result<PolicySet, String> {
    let parsed: PolicySet = text.parse().map_err(|errors: ParseErrors| {
        told(errors.iter().map(|error| (place(error), format!("{}: {error}", position(text, error)))))
    })?;
    if parsed.templates().next().is_some() {
        return Err("a template (?principal, ?resource), which nothing here fills in".into());
    }
    let mut named = PolicySet::new();
    for policy in parsed.policies() {
        let name = policy.annotation("id").map_or_else(|| policy.id().to_string(), str::to_owned);
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(format!("@id({name:?}): a name is plain text of 1 to {LONGEST_NAME} bytes"));
        }
        named
            .add(policy.new_id(PolicyId::new(&name)))
            .map_err(|_| format!("two policies have the name {name:?}"))?;
    }
    Ok(named)
}

/// Whether they ask for what the schema has, and name what is `known`.
pub fn check(
    policies: &PolicySet,
    text: &str,
    schema: Schema,
    known: impl Fn(&EntityUid) -> bool,
) -> Result<(), String> {
    let found = Validator::new(schema).validate(policies, ValidationMode::Strict);
    let mut problems = Vec::new();
    let mut note = |of: &dyn Diagnostic, policy: &PolicyId, message: String| {
        // Some say the name, some do not.
        let said = message.strip_prefix(&format!("for policy `{policy}`, ")).unwrap_or(&message);
        problems.push((place(of), format!("{}, policy `{policy}`: {said}", position(text, of))));
    };
    for error in found.validation_errors() {
        note(error, error.policy_id(), chain(error));
    }
    for warning in found.validation_warnings() {
        // Names of organizations may well be of two scripts.
        if !matches!(warning, ValidationWarning::MixedScriptString(_)) {
            note(warning, warning.policy_id(), chain(warning));
        }
    }
    for policy in policies.policies() {
        let unknown: BTreeSet<EntityUid> =
            policy.entity_literals().into_iter().filter(|literal| !known(literal)).collect();
        for literal in unknown {
            problems.push((usize::MAX, format!("policy `{}`: there is no {literal}", policy.id())));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(told(problems)) }
}

/// In the order of the text.
fn told(problems: impl IntoIterator<Item = (usize, String)>) -> String {
    let mut problems: Vec<_> = problems.into_iter().collect();
    problems.sort();
    problems.dedup();
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    problems.truncate(MOST_PROBLEMS);
    let mut told = problems.into_iter().map(|(_, problem)| problem).collect::<Vec<_>>().join("; ");
    if more > 0 {
        told.push_str(&format!("; and {more} more"));
    }
    told
}

/// Where it is about, in bytes.
fn place(of: &dyn Diagnostic) -> usize {
    of.labels().into_iter().flatten().map(|label| label.offset()).next().unwrap_or(usize::MAX)
}

fn position(text: &str, of: &dyn Diagnostic) -> String {
    // Of what stands nowhere, the end is as good as any other place.
    let before = text.get(..place(of)).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}
