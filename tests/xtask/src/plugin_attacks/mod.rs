//! `cargo xtask plugin-attacks`: what well-behaved clients of one listener notice while a hostile plugin attacks the broker
//! on clients of another one, side by side with what they notice when it is quiet.
//!
//! The plugin is asked about everybody, and does its worst where the client id says so. All of its limits are the
//! defaults: the guards of docs/plugins/security.md are what is measured.

mod clients;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use self::clients::{Attackers, Felt, behave};
use crate::bench::{built, free_ports, write_between};
use crate::overload::Broker;
use crate::process::{say, step};

#[derive(clap::Args)]
pub struct Options {
    /// Only these; all without.
    attacks: Vec<String>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How often each attack is measured, each time with a new broker; medians count.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections a second of the clients that behave.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Connections a second of the clients on which the plugin attacks.
    #[arg(long, default_value_t = 20)]
    attack_rate: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Put the table into docs/performance.md.
    #[arg(long)]
    write: bool,
    /// A built mqgate, instead of building it for release.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

struct Attack {
    name: &'static str,
    what: &'static str,
    /// How the ids of its clients begin, by turns.
    prefixes: &'static [&'static str],
}

const ATTACKS: &[Attack] = &[
    Attack { name: "endless-loop", what: "a call that never returns", prefixes: &["loop-"] },
    Attack { name: "recursion", what: "a call that calls itself without end", prefixes: &["recurse-"] },
    Attack { name: "memory-bomb", what: "a call that takes memory without end", prefixes: &["memory-"] },
    Attack { name: "huge-answer", what: "an answer of 16 MiB", prefixes: &["answer-"] },
    Attack {
        name: "slow-host-call",
        what: "a call that waits for the storage again and again, 64 KiB each time",
        prefixes: &["store-"],
    },
    Attack { name: "log-flood", what: "lines of a kilobyte without end", prefixes: &["log-"] },
    Attack {
        name: "traps",
        what: "a trap in authenticator and authorizer by turns, and in the auditor",
        prefixes: &["trap-", "grant-"],
    },
];

/// The slowest hundredth of the clients that behave waits no more than so many times as long as when it is quiet.
const MOST_SLOWER: f64 = 2.0;

struct Round {
    quiet: Felt,
    attacked: Felt,
    /// Calls of the plugin that came to nothing.
    failures: f64,
    attacks: u64,
}

struct Outcome {
    attack: &'static Attack,
    quiet: Felt,
    attacked: Felt,
    failures: f64,
    attacks: u64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let names: Vec<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
    if let Some(unknown) = options.attacks.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no attack {unknown}; there are: {}", names.join(", "));
    }
    let is_chosen = |attack: &&Attack| {
        options.attacks.is_empty() || options.attacks.iter().any(|name| attack.name == name)
    };
    let mqgate = built(options.binary.as_deref())?;
    let guest = xtask::components::path("hostile-guest")?;
    let folder = crate::target_directory().join("plugin-attacks");
    fs::create_dir_all(&folder)?;
    let mut outcomes = Vec::new();
    for attack in ATTACKS.iter().filter(is_chosen) {
        step(&format!("{}: {}", attack.name, attack.what));
        let mut rounds = Vec::new();
        for round in 1..=options.rounds.max(1) {
            let found = measure(&mqgate, &guest, attack, &folder.join(attack.name), options)
                .with_context(|| format!("{}, round {round}", attack.name))?;
            say(&format!("round {round}: quiet {}; attacked {}", found.quiet, found.attacked));
            rounds.push(found);
        }
        outcomes.push(Outcome::of(attack, &rounds));
    }
    let text = markdown(&outcomes);
    if options.json {
        use std::io::Write as _;
        let all: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        say(&format!("\n{text}"));
    }
    if options.write {
        let path = crate::root().join("docs/performance.md");
        let made = format!(
            "Made by `cargo xtask plugin-attacks --rounds {} --seconds {} --rate {} --attack-rate {} --write`.\n\n{text}",
            options.rounds, options.seconds, options.rate, options.attack_rate
        );
        write_between(&path, "plugin-attacks", &made)?;
    }
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| !outcome.passes()).map(|outcome| outcome.attack.name).collect();
    ensure!(failed.is_empty(), "not held: {}", failed.join(", "));
    Ok(())
}

/// A new broker, the clients that behave alone with it, then the attack, and the clients again.
fn measure(
    mqgate: &Path,
    guest: &Path,
    attack: &Attack,
    folder: &Path,
    options: &Options,
) -> anyhow::Result<Round> {
    let ports @ [honest, attacked, admin] = free_ports()?;
    let text = format!(
        r#"
[node]
data_dir = "data"

[listeners.honest]
type = "tcp"
bind = "127.0.0.1:{honest}"

[listeners.attacked]
type = "tcp"
bind = "127.0.0.1:{attacked}"

[admin]
bind = "127.0.0.1:{admin}"

[audit]
path = "audit.jsonl"

[[plugins]]
name = "hostile"
source = "{}"
grant = ["kv"]

[[plugins]]
name = "anonymous"
native = "anonymous"
"#,
        guest.display()
    );
    // It has all cores: plugins have threads of their own, and where they run is the kernel's business.
    let broker = Broker::launch(mqgate, &text, ports, folder, |start| Ok(start()))?;
    let time = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    // What is slow once, at the beginning, is not what is asked here.
    behave(honest, options.rate, Duration::from_secs(1))?;
    let quiet = behave(honest, options.rate, time)?;
    let series = "mqgate_plugin_failures_total";
    let before = broker.metrics()?.value(series);
    let attackers = Attackers::start(attacked, attack.prefixes, options.attack_rate);
    let felt = behave(honest, options.rate, time);
    let attacks = attackers.stop();
    let failures = broker.metrics()?.value(series) - before;
    Ok(Round { quiet, attacked: felt?, failures, attacks })
}

impl Outcome {
    fn of(attack: &'static Attack, rounds: &[Round]) -> Self {
        let felt = |of: fn(&Round) -> &Felt| Felt {
            p50: median(rounds.iter().map(|round| of(round).p50).collect()),
            p99: median(rounds.iter().map(|round| of(round).p99).collect()),
            connects: rounds.iter().map(|round| of(round).connects).sum(),
            refused: rounds.iter().map(|round| of(round).refused).sum(),
        };
        Self {
            attack,
            quiet: felt(|round| &round.quiet),
            attacked: felt(|round| &round.attacked),
            failures: rounds.iter().map(|round| round.failures).sum(),
            attacks: rounds.iter().map(|round| round.attacks).sum(),
        }
    }

    fn ratio(&self) -> f64 {
        self.attacked.p99 / self.quiet.p99.max(1.0)
    }

    fn passes(&self) -> bool {
        self.ratio() <= MOST_SLOWER && self.attacked.refused == 0 && self.failures > 0.0
    }

    fn json(&self) -> Value {
        let felt = |felt: &Felt| json!({ "p50": felt.p50, "p99": felt.p99, "connects": felt.connects, "refused": felt.refused });
        json!({
            "attack": self.attack.name,
            "what": self.attack.what,
            "quiet_microseconds": felt(&self.quiet),
            "attacked_microseconds": felt(&self.attacked),
            "ratio": self.ratio(),
            "attacks": self.attacks,
            "calls_that_failed": self.failures,
            "pass": self.passes(),
        })
    }
}

fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| attack | quiet: p50, p99 µs | attacked: p50, p99 µs | p99, times | refused | attacks; calls that failed | held |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        let Outcome { attack, quiet, attacked, failures, attacks } = outcome;
        let held = if outcome.passes() { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| `{}`: {} | {:.0}, {:.0} | {:.0}, {:.0} | {:.2} | {} of {} | {attacks}; {failures} | {held} |",
            attack.name,
            attack.what,
            quiet.p50,
            quiet.p99,
            attacked.p50,
            attacked.p99,
            outcome.ratio(),
            attacked.refused,
            attacked.connects
        );
    }
    text
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slower_or_refused_or_no_attack_is_not_held() {
        let felt = |p99: f64, refused| Felt { p50: 1.0, p99, connects: 10, refused };
        let outcome = |quiet: f64, attacked: f64, refused, failures| {
            let round =
                Round { quiet: felt(quiet, 0), attacked: felt(attacked, refused), failures, attacks: 3 };
            Outcome::of(&ATTACKS[0], &[round])
        };
        assert!(outcome(100.0, 200.0, 0, 3.0).passes());
        assert!(!outcome(100.0, 201.0, 0, 3.0).passes());
        assert!(!outcome(100.0, 100.0, 1, 3.0).passes());
        assert!(!outcome(100.0, 100.0, 0, 0.0).passes(), "nothing was attacked");
        let text = markdown(&[outcome(100.0, 150.0, 0, 3.0)]);
        assert!(text.contains("| 1, 100 | 1, 150 | 1.50 | 0 of 10 | 3; 3 | yes |"), "{text}");
    }
}
