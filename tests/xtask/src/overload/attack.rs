//! The attackers: a process of its own that does one scenario's worst until its standard input ends. It says `ready` when
//! that is under way, and at the end what was done, as JSON.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use xtask::attack::Field;

use super::scenarios::{self, Attackers};

#[derive(clap::Args)]
pub struct Options {
    scenario: String,
    #[arg(long)]
    port: u16,
    /// Messages a second that the broker can do.
    #[arg(long, default_value_t = 0.0)]
    capacity: f64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let Some(scenario) = scenarios::ALL.iter().find(|scenario| scenario.name == options.scenario) else {
        bail!("there is no scenario {}", options.scenario);
    };
    let Attackers::Plain(attack) = scenario.attack else {
        bail!("{} is done by another program", options.scenario);
    };
    let field = Field::new(options.port, 1.0, options.capacity);
    attack(&field).context("the attack did not get under way")?;
    let mut output = std::io::stdout();
    writeln!(output, "ready")?;
    output.flush()?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    writeln!(output, "{}", serde_json::to_string(&field.done())?)?;
    output.flush()?;
    // Threads that write and read go with the process.
    std::process::exit(0)
}
