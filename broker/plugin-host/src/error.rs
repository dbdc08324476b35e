//! Why a component did not become a plugin.

use crate::capability::log::escape;

/// The steps between bytes and a live plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Name, settings, source, size.
    Verify,
    /// What the component exports and imports.
    Inspect,
    Compile,
    /// Types of hooks and imports.
    Link,
    /// `init`, the self-test, and what the plugin says of itself.
    Trial,
    /// The disk: what is not kept does not go live.
    Store,
}

impl Stage {
    pub const ALL: [Self; 6] =
        [Self::Verify, Self::Inspect, Self::Compile, Self::Link, Self::Trial, Self::Store];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Inspect => "inspect",
            Self::Compile => "compile",
            Self::Link => "link",
            Self::Trial => "trial",
            Self::Store => "store",
        }
    }
}

/// A component was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (stage {})", .stage.as_str())]
pub struct LoadError {
    pub stage: Stage,
    /// Up to three lines: what the component has, what this broker supports, the shortest way out.
    pub message: String,
}

impl LoadError {
    /// Names that the component chose may stand in it: whatever shows it, a terminal does not obey them.
    pub(crate) fn new(stage: Stage, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { stage, message: message.split('\n').map(escape).collect::<Vec<_>>().join("\n") }
    }
}

/// A plugin stays. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnloadError {
    #[error("no plugin has this name")]
    NoSuchPlugin,
    #[error("the plugin is required")]
    Required,
    #[error("{0}")]
    Store(String),
}

/// The host itself could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("the WebAssembly engine could not start: {0}")]
    Engine(String),
    #[error("the folder for compiled components, {path}, cannot be used: {why}")]
    Cache { path: String, why: String },
    #[error("the folder of plugins, {path}, cannot be used: {why}")]
    Store { path: String, why: String },
    #[error("threads for plugins could not start: {0}")]
    Threads(#[from] std::io::Error),
    #[error("two members of the chains are called {0:?}")]
    DuplicateName(String),
    #[error(
        "the members {first:?} and {second:?} of the chains both serve the authentication method {method}; remove one of \
         them"
    )]
    DuplicateMethod { method: String, first: String, second: String },
    #[error("metrics of plugins could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}
