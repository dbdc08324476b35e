//! `cargo xtask audit-cost`: what writing down every connection costs, in instructions of the broker, counted by callgrind
//! with the records and without them. Instructions, because they are the same on every machine and every run, nearly.

use std::path::PathBuf;

use anyhow::bail;

use crate::callgrind;
use crate::process::{say, step};

#[derive(clap::Args)]
pub struct Options {
    /// The broker; without it, the optimised one is built
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Connections: each a full mutual-TLS handshake, CONNECT, and a goodbye
    #[arg(long, default_value_t = 500)]
    connections: u64,
}

/// Nothing about connections is written down.
const OFF: &str = "
[[audit.rules]]
match = { category = [\"authn\", \"session\", \"tls\"] }
level = \"none\"
";

pub fn run_it(options: &Options) -> anyhow::Result<()> {
    callgrind::is_there()?;
    let binary = callgrind::broker(options.binary.as_deref())?;
    let folder = callgrind::field(&binary, "audit-cost")?;
    let mut costs = Vec::new();
    for (name, rules) in [("without records", OFF), ("with records", "")] {
        step(name);
        let each = callgrind::each_connection(&binary, &folder, rules, options.connections)?;
        say(&format!("{each} instructions for each connection"));
        costs.push(each);
    }
    let [off, on] = costs[..] else { bail!("two figures were to be measured") };
    let share = (on as f64 - off as f64) / off as f64 * 100.0;
    say(&format!(
        "\nA mutual-TLS connection costs {off} instructions; its two audit records, batched, {} more: {share:.2} %",
        on.saturating_sub(off)
    ));
    Ok(())
}
