//! WebAssembly components behind the hooks: loading, running and replacing them.
//!
//! The only crate that names wasmtime. Owns the plugins' threads, their budgets and what they may import;
//! knows no sockets but those that plugins are granted, no configuration file and no database beyond the `Storage`
//! trait.

mod abi;
mod answer;
mod artifact;
mod bindings;
mod breaker;
mod cache;
mod calls;
mod capability;
pub mod case;
mod changes;
mod comparing;
mod compile;
mod decisions;
mod dialogue;
mod engine;
mod error;
mod hook;
mod hook_exports;
mod host;
mod huge_pages;
mod inspect;
mod instance;
mod loading;
mod member;
mod metrics;
pub mod offline;
mod outside;
mod plugin;
mod poison;
mod pool;
mod probation;
mod question;
mod record;
mod recording;
mod rehearsal;
pub mod scheduling;
mod settings;
mod shadow;
mod start;
mod store;
mod taking_back;
mod tap;
mod trust;
#[cfg(test)]
mod unverified;

pub use capability::http::{AllowedDestination, BadDestination, Resolver, SystemResolver};
pub use changes::Change;
pub use compile::{ChildTerms, CompileLimits, CompilerProgram, compile_as_child};
pub use error::{HostError, LoadError, Stage, UnloadError};
pub use host::{Description, PluginHost};
pub use inspect::grant_line;
pub use member::{PluginInfo, PluginState};
pub use record::{How, Version, Wanted};
pub use recording::{RecordingPage, RecordingReport, RecordingTerms};
pub use rehearsal::Rehearsed;
pub use settings::{
    Capability, Grants, HostSettings, HttpSettings, Isolation, KvSettings, Limits, MOST_AUTH_STEPS,
    MOST_HTTP_BYTES, MOST_HTTP_CONNECTIONS, MetricsSettings, PluginSettings, Position, Probation, Provenance,
    Source, UnknownCapability, WALL_WITH_HTTP,
};
pub use shadow::{Difference, Report, Sample};
pub use start::{Configured, StartOutcome, Started};
pub use taking_back::TakenBack;
pub use trust::{PublicKey, Signature, SignatureError, Signer, Trust, TrustedKey, statement};
