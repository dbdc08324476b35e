//! The operator's log, on standard error.

use std::sync::Arc;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::config::model::{Log, LogFormat};
use crate::exit::{Exit, Failure};

/// What the log writes, to be changed while the broker runs.
#[derive(Clone)]
pub struct LogFilter {
    set: Arc<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>,
    /// `RUST_LOG` says it, and the configuration nothing.
    from_environment: bool,
}

impl LogFilter {
    /// Whether this is a filter.
    pub fn check(&self, text: &str) -> Result<()> {
        read(text, "`log.filter`").map(drop)
    }

    /// Writes what this says from now on; it was checked.
    pub fn set(&self, text: &str) {
        if self.from_environment {
            return;
        }
        if let Err(error) = read(text, "`log.filter`").and_then(|filter| (self.set)(filter)) {
            tracing::error!(%error, "the log writes what it wrote before");
        }
    }
}

fn read(text: &str, name: &str) -> Result<EnvFilter> {
    let filter = EnvFilter::try_new(text);
    Ok(filter
        .map_err(|error| Failure::new(Exit::Config, format!("{name}: `{text}` is no log filter: {error}")))?)
}

/// To be called once. `RUST_LOG` wins over the configuration.
pub fn start(log: &Log) -> Result<LogFilter> {
    let environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = match &environment {
        Some(text) => read(text, "RUST_LOG")?,
        None => read(&log.filter, "`log.filter`")?,
    };
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let set: Arc<dyn Fn(EnvFilter) -> Result<()> + Send + Sync> = match log.format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            let builder = builder.with_ansi(std::io::stderr().is_terminal());
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Arc::new(move |filter| Ok(handle.reload(filter)?))
        }
        LogFormat::Json => {
            let builder = builder.json().with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Arc::new(move |filter| Ok(handle.reload(filter)?))
        }
    };
    Ok(LogFilter { set, from_environment: environment.is_some() })
}
