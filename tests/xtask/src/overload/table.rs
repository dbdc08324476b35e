//! What was found, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Felt, Outcome};

const MIB: f64 = 1024.0 * 1024.0;

pub fn line(outcome: &Outcome) -> String {
    let (peak, bound) = (outcome.peak as f64 / MIB, outcome.bound as f64 / MIB);
    let verdict = if outcome.passes() { "PASS" } else { "FAIL" };
    format!(
        "{verdict} {}: p99 x {:.2} (QoS 0), x {:.2} (QoS 1); {peak:.0} of {bound:.0} MiB",
        outcome.scenario.name,
        outcome.ratio(0),
        outcome.ratio(1)
    )
}

pub fn json(outcome: &Outcome) -> Value {
    let felt = |felt: &Felt| json!({ "p50": felt.p50, "p99": felt.p99, "lost": felt.lost });
    let by_qos = |qos: usize| {
        json!({
            "quiet_microseconds": felt(&outcome.quiet[qos]),
            "attacked_microseconds": felt(&outcome.attacked[qos]),
            "ratio": outcome.ratio(qos),
        })
    };
    json!({
        "scenario": outcome.scenario.name,
        "what": outcome.scenario.what,
        "qos0": by_qos(0),
        "qos1": by_qos(1),
        "peak_bytes": outcome.peak,
        "bound_bytes": outcome.bound,
        "bound_by": outcome.scenario.because,
        "counted": outcome.counted.iter().cloned().map(|(name, value)| (name, value.into())).collect::<serde_json::Map<_, _>>(),
        "attackers": outcome.attackers,
        "pass": outcome.passes(),
    })
}

pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| | QoS 0: quiet p50, p99; attacked p99; ratio | QoS 1: the same | peak MiB, and the bound | held |\n|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        let felt = |qos: usize| {
            let (quiet, attacked) = (&outcome.quiet[qos], &outcome.attacked[qos]);
            format!("{:.0}, {:.0}; {:.0}; {:.2}", quiet.p50, quiet.p99, attacked.p99, outcome.ratio(qos))
        };
        let (peak, bound) = (outcome.peak as f64 / MIB, outcome.bound as f64 / MIB);
        let held = if outcome.passes() { "yes" } else { "**no**" };
        let (name, what) = (outcome.scenario.name, outcome.scenario.what);
        let _ = writeln!(
            text,
            "| `{name}`: {what} | {} | {} | {peak:.0} of {bound:.0} ({}) | {held} |",
            felt(0),
            felt(1),
            outcome.scenario.because
        );
    }
    text.push_str("\nWhat the broker counted, and what the attackers did:\n\n");
    for outcome in outcomes {
        let counted: Vec<String> =
            outcome.counted.iter().map(|(name, value)| format!("`{name}` {value}")).collect();
        let _ = writeln!(
            text,
            "- `{}`: {}; attackers: {}",
            outcome.scenario.name,
            counted.join(", "),
            outcome.attackers
        );
    }
    text
}
