//! Where the broker listens, told to people and programs: lines on standard output, and `endpoints.json` in
//! the data directory. With port 0 nobody else knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use mqgate_server::listener::ListenAddress;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pki::write_private;

/// The file and what is in it.
pub struct Endpoints {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default, Serialize)]
struct Known {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<SocketAddr>,
    /// Whether that one is HTTPS.
    admin_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
    listeners: BTreeMap<String, ListenerEndpoint>,
}

#[derive(Serialize)]
struct ListenerEndpoint {
    #[serde(rename = "type")]
    kind: &'static str,
    address: ListenAddress,
}

impl Endpoints {
    pub fn new(file: PathBuf) -> Self {
        Self { file, known: Mutex::new(Known { pid: std::process::id(), ..Known::default() }) }
    }

    pub fn admin(&self, address: SocketAddr, tls: bool) -> Result<()> {
        self.change(|known| (known.admin, known.admin_tls) = (Some(address), tls))?;
        crate::cli::announce(&format!("listening: admin {} {address}", if tls { "https" } else { "api" }))
    }

    pub fn metrics(&self, address: SocketAddr, tls: bool) -> Result<()> {
        self.change(|known| known.metrics = Some(address))?;
        crate::cli::announce(&format!("listening: metrics {} {address}", if tls { "https" } else { "http" }))
    }

    fn listener(&self, kind: &'static str, name: &str, address: Option<ListenAddress>) -> Result<()> {
        self.change(|known| {
            match address.clone() {
                Some(address) => known.listeners.insert(name.to_owned(), ListenerEndpoint { kind, address }),
                None => known.listeners.remove(name),
            };
        })?;
        match address {
            Some(address) => crate::cli::announce(&format!("listening: {kind} {name} {address}")),
            None => Ok(()),
        }
    }

    /// A listener is there no longer.
    pub fn closed(&self, name: &str) {
        if let Err(error) = self.change(|known| drop(known.listeners.remove(name))) {
            tracing::warn!(%error, "where the broker listens is not written down");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        write_private(&self.file, &serde_json::to_vec_pretty(&*known)?)
    }

    /// Nothing listens any more.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Tells each time a listener opens or shuts.
pub async fn announce(
    kind: &'static str,
    name: String,
    mut address: watch::Receiver<Option<ListenAddress>>,
    endpoints: Arc<Endpoints>,
    end: CancellationToken,
) {
    loop {
        let now = address.borrow_and_update().clone();
        if let Err(error) = endpoints.listener(kind, &name, now) {
            tracing::warn!(%error, "where the broker listens is not written down");
        }
        tokio::select! {
            () = end.cancelled() => return,
            changed = address.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
