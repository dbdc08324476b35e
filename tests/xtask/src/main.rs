//! `cargo xtask …`: the commands that a person who works on mqgate, or tries it, types.

mod audit_cost;
mod bench;
mod callgrind;
mod curves;
mod demo;
mod fuzz;
mod languages;
mod overload;
mod planted;
mod plugin_attacks;
mod plugin_cost;
mod process;
mod spec;
mod test;
mod tidy;
mod tools;
mod wit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::components::Which;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development commands of mqgate", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, make a demo PKI, run a mutual-TLS broker and print what to type next.
    ///
    /// Example: cargo xtask demo --port 18883
    Demo(demo::Options),
    /// Run every test of the fast tier, end-to-end tests with real clients included.
    ///
    /// Example: cargo xtask test plugin_swap
    Test(test::Options),
    /// Measure mqgate beside other brokers, and write the table of docs/performance.md.
    ///
    /// Example: cargo xtask bench --against mosquitto,rumqttd --loads pairs,fan-in
    Bench(bench::Options),
    /// Ask mqgate for far more than it can do: what well-behaved clients notice, and what memory it takes.
    ///
    /// Example: cargo xtask overload slow-readers half-open
    Overload(overload::Options),
    /// The attackers of `overload`, which starts them.
    #[command(hide = true)]
    Attack(overload::AttackOptions),

    /// Let a hostile plugin attack the broker from within: what well-behaved clients of another listener notice.
    ///
    /// Example: cargo xtask plugin-attacks endless-loop traps
    PluginAttacks(plugin_attacks::Options),
    /// Count what writing down every connection costs: instructions of the broker, by callgrind.
    ///
    /// Example: cargo xtask audit-cost --connections 500
    AuditCost(audit_cost::Options),
    /// Count what the hooks of a plugin add to a connection: instructions, by callgrind.
    ///
    /// Example: cargo xtask plugin-cost --connections 500
    PluginCost(plugin_cost::Options),
    /// Build one plugin in five languages and measure what it costs in each; writes the table of docs/plugins/languages.md.
    ///
    /// Example: cargo xtask languages --write
    Languages(languages::Options),
    /// Draw how cost grows with subscriptions, subscribers, levels and retained messages: docs/curves.
    Curves(curves::Options),
    /// Build the plugins of this repository into target/components: those in Rust and C, or of all languages.
    ///
    /// Example: cargo xtask components --all
    #[command(alias = "plugins")]
    Components(ComponentOptions),
    /// Fetch the clients and tools of the end-to-end tests into target/tools, as `test` does before it runs any.
    Tools,
    /// Check which normative statements of MQTT are proved by which tests.
    ///
    /// Example: cargo xtask spec --draw 20 --seed 7
    Spec(spec::Options),
    /// Feed everything that takes bytes from outside with millions of inputs, led by the code that they reach.
    ///
    /// Example: cargo xtask fuzz codec connection --runs 1000000
    Fuzz(fuzz::Options),
    /// Plant mistakes in a copy of the tree and see that the simulation finds each; part of `test --full`.
    Planted,
    /// Check that wit/ keeps what its releases promised, and that its reference is up to date.
    ///
    /// Example: cargo xtask wit --write
    Wit(wit::Options),
    /// Check what no compiler checks: layering, file sizes, stray markers, machine paths.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Overload(options) => overload::run(&options),
        Command::Attack(options) => overload::attack(&options),
        Command::PluginAttacks(options) => plugin_attacks::run(&options),
        Command::AuditCost(options) => audit_cost::run_it(&options),
        Command::PluginCost(options) => plugin_cost::run_it(&options),
        Command::Languages(options) => languages::run(&options),
        Command::Curves(options) => curves::run(&options),
        Command::Components(options) => components(&options),
        Command::Tools => tools::prepare(&process::say).map(|tools| tools.report_missing(&process::say)),
        Command::Spec(options) => spec::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Planted => planted::run(),
        Command::Wit(options) => wit::run_it(&options),
        Command::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[derive(clap::Args)]
struct ComponentOptions {
    /// JavaScript, Python and Go, too: their tools are some 200 MB, fetched once.
    #[arg(long)]
    all: bool,
}

fn components(options: &ComponentOptions) -> anyhow::Result<()> {
    let which = if options.all { Which::All } else { Which::Fast };
    for component in xtask::components::build(which, &process::say)? {
        let path = component.path.strip_prefix(root()).unwrap_or(&component.path).display();
        process::say(&format!("{path}  {} KiB  {}", component.size / 1024, component.language));
    }
    Ok(())
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/xtask lies two folders below the root")
        .to_path_buf()
}

/// Where cargo puts what it builds.
fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
