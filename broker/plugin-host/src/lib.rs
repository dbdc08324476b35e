//! WebAssembly components behind the hooks: loading, running and replacing them.
//!
//! The only crate that names wasmtime. Owns the plugins' threads, their budgets and what they may import;
//! knows no sockets, no configuration file and no database beyond the `Storage` trait.

mod answer;
mod artifact;
mod bindings;
mod cache;
mod calls;
mod capability;
mod decisions;
mod engine;
mod error;
mod hook;
mod hook_exports;
mod host;
mod inspect;
mod instance;
mod loading;
mod metrics;
mod plugin;
mod poison;
mod question;
mod settings;

pub use error::{HostError, LoadError, Stage, UnloadError};
pub use host::{Description, PluginHost, PluginInfo, PluginState};
pub use settings::{
    Capability, Grants, HostSettings, KvSettings, Limits, MetricsSettings, PluginSettings, Position, Source,
    UnknownCapability,
};
