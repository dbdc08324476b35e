//! What is replaced or taken away and stays valid for a while, as those see it who replace it: they say what is
//! old, and somebody else writes down until when, and ends it.
//!
//! Who keeps the ledger is not known here.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use serde::Serialize;

use crate::trust::{BoundAnchor, TrustError};

/// What is old now.
#[derive(Debug)]
pub struct Old<'a> {
    pub what: OldMaterial<'a>,
    /// As people know it.
    pub name: &'a str,
    pub fingerprint: CertificateFingerprint,
    pub subject: &'a str,
    pub not_after: UnixSeconds,
    /// The certificate, or the chain.
    pub pem: &'a str,
    /// Where it was in force; empty: on every listener.
    pub listeners: &'a [String],
}

#[derive(Debug)]
pub enum OldMaterial<'a> {
    Ca,
    /// A certificate that the broker shows, with the key to it.
    Server {
        key: &'a str,
        password: Option<&'a str>,
        /// Names that it was for, if it was not for those in the certificate.
        server_names: &'a [String],
    },
}

/// Something old that is still valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Retiring {
    /// Of the transition.
    pub id: String,
    pub ends_at: UnixMillis,
}

/// What was written down, to be finished or taken back.
pub struct Begun {
    /// `None`: it is valid no longer.
    pub retiring: Option<Retiring>,
    /// For who wrote it.
    pub note: u64,
}

/// It could not be written down; nothing may be replaced then.
#[derive(Debug, thiserror::Error)]
pub enum RetirementError {
    #[error("{0}")]
    TooMany(String),
    #[error("{0}")]
    Unavailable(String),
}

/// Changes the trust set, given the CAs that are in transition.
pub type Swap<'a> = dyn FnMut(Vec<BoundAnchor>) -> Result<(), TrustError> + 'a;

/// Keeps old material valid.
pub trait Retirement: Send + Sync {
    /// Writes down, for good, that `old` stays valid for `grace` (`None`: as long as configured). With no grace
    /// at all, an earlier transition of the same material ends, too: somebody has it who should not.
    fn begin(&self, old: &Old<'_>, grace: Option<Duration>, actor: &str) -> Result<Begun, RetirementError>;
    /// It was not replaced after all.
    fn take_back(&self, begun: Begun);
    /// Has the trust set changed while nobody else changes which CAs are in transition.
    fn swap(&self, change: &mut Swap<'_>) -> Result<(), TrustError>;
    /// It is replaced: from now on the transition runs.
    fn finish(&self, begun: Begun);
}

/// Where somebody finds who keeps old material valid; nobody does at first.
#[derive(Default)]
pub struct RetirementSlot(OnceLock<Weak<dyn Retirement>>);

impl RetirementSlot {
    /// The first one stays.
    pub fn fill(&self, retirement: &Arc<dyn Retirement>) {
        let _ = self.0.set(Arc::downgrade(retirement));
    }

    /// Without anybody what is replaced is valid no longer.
    pub fn get(&self) -> Option<Arc<dyn Retirement>> {
        self.0.get()?.upgrade()
    }
}
