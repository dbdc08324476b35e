//! The audit log on disk: canonical records in append-only segments, chained by hash, under a Merkle tree whose head is
//! signed; reading, verifying and proving.
//!
//! Owns files and formats. Does not know who records what, nor threads, sockets and clocks.

pub mod cursor;
pub mod files;
pub mod hash;
pub mod keys;
pub mod log;
pub mod note;
pub mod page;
pub mod proof;
pub mod publish;
pub mod query;
pub mod read;
pub mod record;
pub mod segment;
pub mod subjects;
pub mod tree;
pub mod verify;
pub mod view;

pub use hash::Hash;
pub use log::{Log, LogError, Opened, Outdated, Settings};
pub use note::{Checkpoint, VerifyingKey};
pub use read::{Batch, ReadError, Reader};
pub use record::{Record, Stored};
pub use view::{End, View};
