//! What plugins notice of the world beside the storage: time, chance, servers, the registry. The broker's own, unless a
//! plugin is run apart from it.

use std::fmt;
use std::time::Duration;

use mqgate_identity::time::UnixMillis;
use tokio::time::Instant;

use crate::capability::http::{Failure, Outgoing, Whole};
use crate::capability::now;
use crate::tap::KnownDevice;

/// There is no randomness.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("there is no randomness")]
pub(crate) struct NoRandomness;

pub(crate) trait Outside: fmt::Debug + Send + Sync {
    fn now(&self) -> UnixMillis;

    /// Time since an instance began.
    fn passed(&self, began: Instant) -> Duration;

    /// A plugin has waited until that much had [passed](Self::passed).
    fn waited(&self, _until: Duration) {}

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness>;

    /// Requests may go to the network.
    fn has_network(&self) -> bool {
        true
    }

    /// The answer to a request. `None`: it is the network's to give.
    fn fetch(&self, _request: &Outgoing) -> Option<Result<Whole, Failure>> {
        None
    }

    /// A device, or that there is none. `None`: it is the storage's to say.
    fn device(&self, _by: DeviceBy<'_>) -> Option<Option<KnownDevice>> {
        None
    }

    /// How many certificates are registered. `None`: it is the storage's to say.
    fn count(&self, _tenant: Option<&str>, _tag: Option<&str>) -> Option<u64> {
        None
    }
}

/// How a plugin asks for a device.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DeviceBy<'a> {
    Id(&'a str),
    Fingerprint(&'a [u8]),
}

impl fmt::Display for DeviceBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Fingerprint(bytes) => f.write_str(&hex::encode(bytes)),
        }
    }
}

/// The clock of this machine, its randomness, its network, the broker's registry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TheWorld;

impl Outside for TheWorld {
    fn now(&self) -> UnixMillis {
        now()
    }

    fn passed(&self, began: Instant) -> Duration {
        began.elapsed()
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        aws_lc_rs::rand::fill(bytes).map_err(|_| NoRandomness)
    }
}
