//! The command line: one thin module per command.

mod admin;
mod audit;
mod bans;
mod bench;
mod bridge;
mod ca;
mod cert;
mod clients;
mod config;
mod crl;
mod events;
mod explain;
mod message;
mod output;
mod passwd;
mod pki;
mod plugin;
pub mod plugin_compile;
mod posture;
mod publish;
mod registry;
mod reload;
mod remote;
mod retained;
mod server_cert;
mod sessions;
mod sinks;
mod subscribe;
mod subscriptions;
mod trace;
mod transport;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::code_of;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   refused: by the broker, or by a check
  2   the command line is wrong
  69  unavailable: the broker is not running, an address is taken, storage is locked
  70  a fault of the program
  77  the admin token is missing or wrong
  78  the configuration is wrong";

/// An MQTT broker whose gate is programmed with WebAssembly components.
#[derive(Parser)]
#[command(name = "mqgate", version, after_help = EXIT_CODES, subcommand_required = false)]
struct Cli {
    /// The configuration file. Without it: ./mqgate.toml, /etc/mqgate/mqgate.toml, or a secure default
    #[arg(long, global = true, value_name = "FILE", env = "MQGATE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker (what `mqgate` alone does)
    Run,
    /// Publish messages
    Pub(Box<publish::Args>),
    /// Subscribe, and print what arrives
    Sub(Box<subscribe::Args>),
    /// Put load on a broker and measure
    #[command(subcommand)]
    Bench(bench::Command),
    /// Who is connected to the running broker
    #[command(subcommand)]
    Clients(clients::Command),
    /// Sessions, their clients connected or not
    #[command(subcommand)]
    Sessions(sessions::Command),
    /// Subscriptions of clients, or to a topic
    #[command(subcommand)]
    Subscriptions(subscriptions::Command),
    /// Retained messages
    #[command(subcommand)]
    Retained(retained::Command),
    /// Messages in the operator's name, through the admin API (`mqgate pub` is an MQTT client)
    #[command(subcommand)]
    Message(message::Command),
    /// Who is kept out: client ids, devices, certificates, addresses
    #[command(subcommand)]
    Bans(bans::Command),
    /// Other brokers that topics are shared with
    #[command(subcommand)]
    Bridge(bridge::Command),
    /// What is said with chosen clients, into a file
    #[command(subcommand)]
    Trace(trace::Command),
    /// Components in the running broker
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Device certificates in the registry of the running broker
    #[command(subcommand)]
    Cert(Box<cert::Command>),
    /// CAs that the running broker trusts
    #[command(subcommand)]
    Ca(ca::Command),
    /// The registry's files, while the broker is stopped
    #[command(subcommand)]
    Registry(registry::Command),
    /// Certificates of the server that the running broker keeps
    #[command(subcommand)]
    ServerCert(server_cert::Command),
    /// Say what would happen to a client: the whole way in, and its topics
    Explain(Box<explain::Args>),
    /// The audit log: read it, verify it, prove what is in it
    #[command(subcommand)]
    Audit(audit::Command),
    /// Revocation lists of the running broker
    #[command(subcommand)]
    Crl(crl::Command),
    /// What happens in the running broker, as it happens
    Events(events::Args),
    /// The admin API: tokens, description, reference
    #[command(subcommand)]
    Admin(admin::Command),
    /// The configuration: check it, show it, start one
    #[command(subcommand)]
    Config(config::Command),
    /// Users of a password file
    #[command(subcommand)]
    Passwd(passwd::Command),
    /// Read the configuration of the running broker anew, and take over what differs
    Reload(reload::Args),
    /// Settings of a listener of the running broker
    #[command(subcommand)]
    Listener(reload::Listener),
    /// What was replaced and is still valid for a while
    #[command(subcommand)]
    Transition(reload::Transition),
    /// Certificates: make CAs and certificates, sign requests, look at what others made
    #[command(subcommand)]
    Pki(pki::Command),
    /// What the broker runs to compile a component, within limits
    #[command(name = plugin_compile::NAME, hide = true)]
    PluginCompile(plugin_compile::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let explicit = cli.config.as_deref();
    let result = match cli.command.unwrap_or(Command::Run) {
        Command::Run => crate::run::command(explicit),
        Command::Pub(args) => publish::run(*args),
        Command::Sub(args) => subscribe::run(*args),
        Command::Bench(command) => bench::run(command),
        Command::Clients(command) => clients::run(command, explicit),
        Command::Sessions(command) => sessions::run(command, explicit),
        Command::Subscriptions(command) => subscriptions::run(command, explicit),
        Command::Retained(command) => retained::run(command, explicit),
        Command::Message(command) => message::run(command, explicit),
        Command::Audit(command) => audit::run(command, explicit),
        Command::Bans(command) => bans::run(command, explicit),
        Command::Bridge(command) => bridge::run(command, explicit),
        Command::Trace(command) => trace::run(command, explicit),
        Command::Plugin(command) => plugin::run(command, explicit),
        Command::Cert(command) => cert::run(*command, explicit),
        Command::Ca(command) => ca::run(command, explicit),
        Command::Registry(command) => registry::run(command, explicit),
        Command::ServerCert(command) => server_cert::run(command, explicit),
        Command::Explain(args) => explain::run(&args, explicit),
        Command::Crl(command) => crl::run(command, explicit),
        Command::Events(args) => events::run(args, explicit),
        Command::Admin(command) => admin::run(command, explicit),
        Command::Config(command) => config::run(command, explicit),
        Command::Reload(args) => reload::reload(&args, explicit),
        Command::Listener(command) => reload::listener(command, explicit),
        Command::Transition(command) => reload::transition(command, explicit),
        Command::Passwd(command) => passwd::run(command),
        Command::Pki(command) => pki::run(command, explicit),
        Command::PluginCompile(args) => return plugin_compile::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::from(code_of(&error) as u8)
        }
    }
}

/// A line for people and programs that wait for it.
pub(crate) fn announce(line: &str) -> anyhow::Result<()> {
    output::say(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
