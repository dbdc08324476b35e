//! `mqgate pki`: certificates, made and looked at. What each flag means is here; the work is `crate::pki`'s.

mod explain;
mod inspect;
mod make;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use self::inspect::certificates;
pub use self::make::password;
use super::output::say;
use crate::pki::{Outcome, demo};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate pki demo --dir pki                          all that a first try needs
  mqgate pki ca --cn \"Factory CA\"                    pki/ca.pem and pki/ca.key
  mqgate pki server --san broker.example             pki/broker.example.pem and .key
  mqgate pki device --cn device-7                    pki/device-7.pem and .key
  mqgate pki lint device-7.pem
  mqgate pki explain device-7.pem --listener devices

Nothing is overwritten without --force. Keys are readable by their owner alone.")]
pub enum Command {
    /// Make a CA, a server certificate for this machine, and device-1 and device-2. What is good is kept
    Demo {
        /// The folder
        #[arg(long, default_value = "pki")]
        dir: PathBuf,
    },
    /// Make a CA: a root, or with --signed-by an intermediate
    Ca(make::CaArgs),
    /// Make a certificate for a server, and its key
    Server(make::ServerArgs),
    /// Make a certificate for a device, and its key
    Device(make::DeviceArgs),
    /// Sign a certificate request (CSR): the key stays with its holder
    Sign(make::SignArgs),
    /// Make a certificate and a key for every line of a CSV file
    Bulk(make::BulkArgs),
    /// Make a CA's revocation list, or continue it
    Crl(make::CrlArgs),
    /// Say what is wrong with certificates, or will be
    Lint(inspect::LintArgs),
    /// Say whether a listener would let a certificate in, and if not, at which step it fails
    Explain(explain::ExplainArgs),
    /// Show what a certificate says
    Show(inspect::ShowArgs),
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Demo { dir } => demo(&dir)?.iter().try_for_each(|outcome| {
            say(match outcome {
                Outcome::Created(path) => format!("created {}", path.display()),
                Outcome::Kept(path) => format!("kept    {}", path.display()),
            })
        }),
        Command::Ca(args) => make::ca(&args),
        Command::Server(args) => make::server(&args),
        Command::Device(args) => make::device(&args),
        Command::Sign(args) => make::sign(&args),
        Command::Bulk(args) => make::bulk(&args),
        Command::Crl(args) => make::crl(&args),
        Command::Lint(args) => inspect::lint(&args),
        Command::Explain(args) => explain::explain(&args, config),
        Command::Show(args) => inspect::show(&args),
    }
}
