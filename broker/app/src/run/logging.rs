//! The operator's log, on standard error.

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::config::model::{Log, LogFormat};
use crate::exit::{Exit, Failure};

/// To be called once. `RUST_LOG` wins over the configuration.
pub fn start(log: &Log) -> Result<()> {
    let (text, name) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => (text, "RUST_LOG"),
        _ => (log.filter.clone(), "`log.filter`"),
    };
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| Failure::new(Exit::Config, format!("{name}: `{text}` is no log filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
