//! Every transition, allowed and forbidden, and every code that the rules refuse with.

pub mod table;

use std::collections::{BTreeMap, BTreeSet};

use mqgate_identity::registry::rules::RULE_CODES;

use self::table::{Outcome, ca_cells, codes, codes_markdown, device_cells, markdown};
pub use self::table::{ca, device};

#[test]
fn the_tables_of_the_documentation_are_those_of_the_rules() {
    let page = include_str!("../../../../../docs/registry.md");
    for table in [markdown(&device_cells()), markdown(&ca_cells()), codes_markdown(&every_code())] {
        assert!(
            page.contains(&table),
            "docs/registry.md is not up to date: put in what `cargo run -p mqgate-identity --example \
             transitions` prints\n{table}"
        );
    }
}

/// Codes of the tables, and of what is refused besides.
pub fn every_code() -> BTreeMap<&'static str, String> {
    let mut all = codes(&device_cells());
    let others = crate::registry::refusals().into_iter().map(|(_, error)| (error.code(), error.to_string()));
    for (code, text) in codes(&ca_cells()).into_iter().chain(others) {
        all.entry(code).or_insert(text);
    }
    all
}

/// What the whole table says, in one sentence for each state.
#[test]
fn what_is_final_is_final() {
    for cell in device_cells() {
        let stays = match (&*cell.state, &cell.outcome) {
            ("REVOKED", Outcome::To(state)) => state == "TOMBSTONE" || state == "REVOKED, changed",
            ("TOMBSTONE", Outcome::To(_)) => false,
            ("TOMBSTONE", Outcome::Gone) => cell.event == "purge",
            (_, Outcome::Gone) => cell.event == "time to live is over" && cell.state == "PENDING_ACTIVATION",
            _ => true,
        };
        assert!(stays, "{} in {} comes to {:?}", cell.event, cell.state, cell.outcome);
    }
    for cell in ca_cells() {
        let goes = matches!(
            (&*cell.state, &cell.outcome),
            ("REVOKED", Outcome::To(_)) | ("ACTIVE" | "RETIRING", Outcome::Gone)
        );
        assert!(!goes, "{} in {} comes to {:?}", cell.event, cell.state, cell.outcome);
    }
}

/// Together with what [`crate::registry`] refuses, these are all the codes.
#[test]
fn every_code_is_walked() {
    let walked: BTreeSet<&str> = every_code().into_keys().collect();
    let known: BTreeSet<&str> = RULE_CODES.into_iter().collect();
    assert_eq!(known.len(), RULE_CODES.len(), "a code is there twice");
    let missing: Vec<_> = known.difference(&walked).collect();
    let unknown: Vec<_> = walked.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not walked: {missing:?}; not known: {unknown:?}");
}
