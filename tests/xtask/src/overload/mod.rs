//! `cargo xtask overload`: what well-behaved clients notice of a broker that is asked for far more than it can do, and
//! whether its memory stays within what its configuration promises.
//!
//! The broker has one core. On the other there are the clients that behave, whose messages are timed from end to end
//! (`mqgate bench pairs` with a fixed rate, at QoS 0 and QoS 1), and the attackers, who come after them in everything:
//! it is the broker that is to be late, not the clock.

mod attack;
mod broker;
mod scenarios;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

pub use self::attack::{Options as AttackOptions, run as attack};
pub use self::broker::Broker;
use self::scenarios::{Attackers, Scenario};
use crate::bench::{built, pinned};
use crate::process::{say, step};

#[derive(clap::Args)]
pub struct Options {
    /// Only these; all without.
    scenarios: Vec<String>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How often each scenario is measured, each time with a new broker; medians count.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
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

/// Well-behaved clients lose nothing, and wait no more than so many times as long as when it is quiet.
const MOST_SLOWER: f64 = 3.0;
/// Messages a second of the clients that behave, for each QoS.
const RATE: &str = "500";

/// Latency of the clients that behave, in microseconds, and what they lost.
#[derive(Debug, Clone, Copy, Default)]
struct Felt {
    p50: f64,
    p99: f64,
    lost: u64,
}

/// One run of one scenario.
struct Round {
    /// By QoS: without an attack, and under it.
    quiet: [Felt; 2],
    attacked: [Felt; 2],
    peak: u64,
    bound: u64,
    /// What the broker counted.
    counted: Vec<(String, f64)>,
    attackers: Value,
}

pub struct Outcome {
    scenario: &'static Scenario,
    quiet: [Felt; 2],
    attacked: [Felt; 2],
    peak: u64,
    bound: u64,
    counted: Vec<(String, f64)>,
    attackers: Value,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let chosen: Vec<&'static Scenario> = scenarios::ALL
        .iter()
        .filter(|scenario| {
            options.scenarios.is_empty() || options.scenarios.iter().any(|name| scenario.name == name)
        })
        .collect();
    let names: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
    if let Some(unknown) = options.scenarios.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no scenario {unknown}; there are: {}", names.join(", "));
    }
    let mqgate = built(options.binary.as_deref())?;
    let folder = crate::target_directory().join("overload");
    fs::create_dir_all(&folder)?;
    let mut outcomes = Vec::new();
    for scenario in chosen {
        step(&format!("{}: {}", scenario.name, scenario.what));
        let mut rounds = Vec::new();
        for round in 1..=options.rounds.max(1) {
            let found = measure(&mqgate, scenario, &folder, options.seconds)
                .with_context(|| format!("{}, round {round}", scenario.name))?;
            say(&format!("round {round}: {}", found.summary()));
            rounds.push(found);
        }
        let outcome = Outcome::of(scenario, rounds);
        say(&table::line(&outcome));
        outcomes.push(outcome);
    }
    if options.json {
        let all: Vec<Value> = outcomes.iter().map(table::json).collect();
        let text = serde_json::to_string_pretty(&all)?;
        use std::io::Write as _;
        writeln!(std::io::stdout(), "{text}")?;
    } else {
        say(&format!("\n{}", table::markdown(&outcomes)));
    }
    if options.write {
        let path = crate::root().join("docs/performance.md");
        let text = format!(
            "Made by `cargo xtask overload --rounds {} --seconds {} --write`.\n\n{}",
            options.rounds,
            options.seconds,
            table::markdown(&outcomes)
        );
        crate::bench::write_between(&path, "overload", &text)?;
    }
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| !outcome.passes()).map(|outcome| outcome.scenario.name).collect();
    ensure!(failed.is_empty(), "not held: {}", failed.join(", "));
    Ok(())
}

/// A new broker, the clients that behave alone with it, then the attack, and the clients again.
fn measure(mqgate: &Path, scenario: &Scenario, folder: &Path, seconds: f64) -> anyhow::Result<Round> {
    let broker = Broker::start(mqgate, scenario.configuration, &folder.join(scenario.name))?;
    let capacity = if scenario.wants_capacity { capacity(mqgate, &broker)? } else { 0.0 };
    let quiet = behaving(mqgate, &broker, seconds)?;
    let before = broker.memory()?.now;
    let mut attack = Attack::start(mqgate, scenario, &broker, capacity)?;
    let attacked = behaving(mqgate, &broker, seconds)?;
    let peak = broker.memory()?.peak;
    let metrics = broker.metrics()?;
    let attackers = attack.stop(scenario)?;
    let counted = scenario.counters.iter().map(|series| ((*series).to_owned(), metrics.value(series)));
    Ok(Round {
        quiet,
        attacked,
        peak,
        bound: before + (scenario.bound)(),
        counted: counted.collect(),
        attackers,
    })
}

/// Messages a second that the broker delivers when it is given as many as it takes.
fn capacity(mqgate: &Path, broker: &Broker) -> anyhow::Result<f64> {
    let mut bench = bench(mqgate, broker, "capacity");
    bench.args(["-q", "0", "-d", "2", "--warm-up", "0.5"]);
    let report = finished(pinned::on_generators_core(|| bench.spawn())??)?;
    report["per_second"].as_f64().context("mqgate bench reports no rate")
}

/// Both kinds of clients that behave, at the same time.
fn behaving(mqgate: &Path, broker: &Broker, seconds: f64) -> anyhow::Result<[Felt; 2]> {
    let mut running = Vec::new();
    for qos in ["0", "1"] {
        let mut bench = bench(mqgate, broker, &format!("honest-{qos}"));
        bench.args(["-q", qos, "--rate", RATE, "--warm-up", "1", "-d", &seconds.to_string()]);
        running.push(pinned::on_generators_core(|| bench.spawn())??);
    }
    let mut felt = [Felt::default(); 2];
    for (felt, child) in felt.iter_mut().zip(running) {
        let report = finished(child)?;
        let latency = |name: &str| report["latency_microseconds"][name].as_f64().unwrap_or_default();
        let lost =
            report["lost"].as_u64().unwrap_or_default() + report["out_of_order"].as_u64().unwrap_or_default();
        *felt = Felt { p50: latency("p50"), p99: latency("p99"), lost };
    }
    Ok(felt)
}

/// Ten pairs whose names nobody else has.
fn bench(mqgate: &Path, broker: &Broker, name: &str) -> Command {
    let mut command = Command::new(mqgate);
    command.args(["bench", "pairs", "--pairs", "10", "--json", "-h", "127.0.0.1", "-V", "311"]);
    command.args(["-p", &broker.port.to_string(), "-t", name, "-i", &format!("{name}-")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finished(child: Child) -> anyhow::Result<Value> {
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the clients that behave: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("what mqgate bench printed is no JSON")
}

/// The attackers: this program as another process, which comes after the clients that behave.
struct Attack {
    process: Child,
}

impl Attack {
    /// Returns when it is under way.
    fn start(mqgate: &Path, scenario: &Scenario, broker: &Broker, capacity: f64) -> anyhow::Result<Self> {
        // As many files as may be open; and whoever behaves is served first: of one who is only nicer, Linux lets others wait
        // for the end of a slice.
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec chrt -i 0 "$0" "$@""#]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Attackers::Handshakes { at_once } = scenario.attack {
            command.arg(mqgate).args(["bench", "connect", "--insecure", "-h", "localhost", "-d", "600"]);
            command.args(["--at-once", &at_once.to_string(), "-p", &broker.tls.to_string()]);
            command.stderr(Stdio::null());
        } else {
            let own = std::env::current_exe().context("where is this program?")?;
            command.arg(own).args(["attack", scenario.name, "--port", &broker.port.to_string()]);
            command.args(["--capacity", &capacity.to_string()]);
        }
        let process =
            pinned::on_generators_core(|| command.spawn())?.context("cannot start the attackers")?;
        let mut attack = Self { process };
        if matches!(scenario.attack, Attackers::Handshakes { .. }) {
            let deadline = Instant::now() + PATIENCE;
            while broker.metrics()?.value("mqgate_tls_handshakes_total") < 10.0 {
                ensure!(Instant::now() < deadline, "nobody makes a handshake");
                std::thread::park_timeout(Duration::from_millis(50));
            }
            return Ok(attack);
        }
        let said = attack.line()?;
        ensure!(said.trim() == "ready", "the attackers said {said:?}");
        Ok(attack)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        use std::io::Read as _;
        let output = self.process.stdout.as_mut().context("it was piped")?;
        let mut line = Vec::new();
        let mut byte = [0];
        while output.read(&mut byte)? == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Ends it; what it has to say of itself.
    fn stop(&mut self, scenario: &Scenario) -> anyhow::Result<Value> {
        drop(self.process.stdin.take());
        if let Attackers::Handshakes { .. } = scenario.attack {
            return Ok(json!({}));
        }
        let said = self.line()?;
        let _ = self.process.wait();
        serde_json::from_str(&said).with_context(|| format!("the attackers said {said:?}"))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Round {
    fn summary(&self) -> String {
        let felt = |qos: usize| {
            format!(
                "QoS {qos} p99 {:.0} µs, then {:.0} µs ({} lost)",
                self.quiet[qos].p99, self.attacked[qos].p99, self.attacked[qos].lost
            )
        };
        format!("{}; {}; {} of {} KiB", felt(0), felt(1), self.peak / 1024, self.bound / 1024)
    }
}

impl Outcome {
    fn of(scenario: &'static Scenario, rounds: Vec<Round>) -> Self {
        let felt = |of: fn(&Round) -> &[Felt; 2]| {
            [0, 1].map(|qos| Felt {
                p50: median(rounds.iter().map(|round| of(round)[qos].p50).collect()),
                p99: median(rounds.iter().map(|round| of(round)[qos].p99).collect()),
                lost: rounds.iter().map(|round| of(round)[qos].lost).sum(),
            })
        };
        let (quiet, attacked) = (felt(|round| &round.quiet), felt(|round| &round.attacked));
        // The worst round counts for memory.
        let worst = |round: &Round| (round.peak as f64 / round.bound.max(1) as f64 * 1e6) as u64;
        let last = rounds.into_iter().max_by_key(worst);
        let (peak, bound, counted, attackers) = last.map_or_else(
            || (0, 0, Vec::new(), json!(null)),
            |round| (round.peak, round.bound, round.counted, round.attackers),
        );
        Self { scenario, quiet, attacked, peak, bound, counted, attackers }
    }

    fn ratio(&self, qos: usize) -> f64 {
        self.attacked[qos].p99 / self.quiet[qos].p99.max(1.0)
    }

    fn passes(&self) -> bool {
        let felt = (0..2).all(|qos| self.ratio(qos) <= MOST_SLOWER && self.attacked[qos].lost == 0);
        felt && self.peak <= self.bound
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// How long anybody may take to do what is at once done.
const PATIENCE: Duration = Duration::from_secs(60);
