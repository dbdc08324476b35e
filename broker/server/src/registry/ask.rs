//! Who asks for a change, under which condition, and what came of it.

use std::ops::Deref;
use std::sync::Arc;

use mqgate_identity::registry::rules::Transition;
use mqgate_identity::registry::{CaCertificate, DeviceCertificate, StorageError};

use super::RegistryError;

/// Whether a change is made, or only tried against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DryRun {
    #[default]
    No,
    Yes,
}

/// Who asks, and under which condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    /// As in the audit log: `admin:{token name}` and the like.
    pub actor: &'a str,
    /// The revision that the record must have.
    pub expected: Option<u64>,
    pub dry_run: DryRun,
}

impl<'a> Ask<'a> {
    pub const fn by(actor: &'a str) -> Self {
        Self { actor, expected: None, dry_run: DryRun::No }
    }

    /// Only if the record is at this revision.
    #[must_use]
    pub const fn expecting(mut self, revision: Option<u64>) -> Self {
        self.expected = revision;
        self
    }

    #[must_use]
    pub const fn dry_run(mut self, dry_run: DryRun) -> Self {
        self.dry_run = dry_run;
        self
    }

    pub(super) fn is_dry(&self) -> bool {
        self.dry_run == DryRun::Yes
    }

    pub(super) fn check(&self, current: u64) -> Result<(), RegistryError> {
        match self.expected {
            Some(expected) if expected != current => {
                Err(StorageError::Conflict { current: Some(current) }.into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl<'a> From<&'a str> for Ask<'a> {
    fn from(actor: &'a str) -> Self {
        Self::by(actor)
    }
}

impl<'a> From<&'a Arc<str>> for Ask<'a> {
    fn from(actor: &'a Arc<str>) -> Self {
        Self::by(actor)
    }
}

/// A record before and after a change; both are the same if nothing had to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed<R> {
    /// `None`: there was no record.
    pub before: Option<R>,
    pub after: R,
}

pub type ChangedDevice = Changed<Arc<DeviceCertificate>>;
pub type ChangedCa = Changed<CaCertificate>;

impl<R> Changed<R> {
    pub const fn is_new(&self) -> bool {
        self.before.is_none()
    }

    pub(super) fn tried<T>(before: Option<R>, transition: Transition<T>) -> Self
    where
        R: From<T>,
    {
        let after = match transition {
            Transition::Unchanged(record) => record,
            Transition::Write(write) => write.record,
        };
        Self { before, after: after.into() }
    }
}

impl<R> Deref for Changed<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.after
    }
}
