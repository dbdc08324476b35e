//! How the program ends: exit codes, and which error gets which.

use std::fmt;

/// Exit codes, as `sysexits.h` names them where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command was understood, and refused by the broker or by a check.
    Refused = 1,
    /// The command line is wrong. (clap exits with this one itself.)
    Usage = 2,
    /// Something that is needed is not there: the broker is not running, an address is taken, storage is locked.
    Unavailable = 69,
    /// A fault of the program.
    Internal = 70,
    /// The admin token is missing or wrong.
    Forbidden = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// An error that knows how the program ends.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error.
pub fn code_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if cause.is::<crate::config::ConfigError>() || cause.is::<crate::config::problem::Problems>() {
            return Exit::Config;
        }
    }
    Exit::Internal
}
