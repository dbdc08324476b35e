//! `mqgate pki`: certificates to try things with.

use std::path::PathBuf;

use anyhow::Result;

use super::output::say;
use crate::exit::{Exit, Failure};
use crate::pki::{Outcome, Purpose, Request, demo, issue};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate pki demo --dir pki
  mqgate pki issue --dir pki --cn device-7
  mqgate pki issue --dir pki --cn broker.example --server --san broker.example --san 192.0.2.1")]
pub enum Command {
    /// Make a CA, a server certificate for this machine, and device-1 and device-2. What is good is kept
    Demo {
        /// The folder
        #[arg(long, default_value = "pki")]
        dir: PathBuf,
    },
    /// Make one more certificate with that CA
    Issue {
        /// The folder with ca.pem and ca.key
        #[arg(long, default_value = "pki")]
        dir: PathBuf,
        /// Common name
        #[arg(long)]
        cn: String,
        /// Name of the files; without it, the common name
        #[arg(long)]
        name: Option<String>,
        /// Organizational unit
        #[arg(long)]
        ou: Option<String>,
        /// DNS name, IP address, URI or e-mail address; may be repeated
        #[arg(long, value_name = "NAME")]
        san: Vec<String>,
        /// For a server instead of a device
        #[arg(long)]
        server: bool,
        /// How long it is valid
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo { dir } => demo(&dir)?.iter().try_for_each(|outcome| {
            say(match outcome {
                Outcome::Created(path) => format!("created {}", path.display()),
                Outcome::Kept(path) => format!("kept    {}", path.display()),
            })
        }),
        Command::Issue { dir, cn, name, ou, san, server, days } => {
            if days == 0 || days > 36_500 {
                return Err(Failure::new(Exit::Usage, "--days is 1 to 36500").into());
            }
            if server && san.is_empty() {
                return Err(Failure::new(
                    Exit::Usage,
                    "a server certificate needs at least one --san: clients look for the host there",
                )
                .into());
            }
            let request = Request {
                name: name.unwrap_or_else(|| cn.clone()),
                common_name: cn,
                organizational_unit: ou,
                alternative_names: san,
                purpose: if server { Purpose::Server } else { Purpose::Client },
                days,
            };
            let (certificate, key) = issue(&dir, &request)?;
            say(format!("created {} and {}", certificate.display(), key.display()))
        }
    }
}
