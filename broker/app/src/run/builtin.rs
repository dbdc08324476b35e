//! The built-in server certificate while the broker runs: there at the start, renewed before it expires.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use mqgate_server::bundles::Bundles;
use mqgate_server::clock;
use mqgate_server::tls::{ServerCertificate, server_name};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::check::bind_address;
use crate::pki;

/// How often is looked whether it is time.
const LOOK: Duration = Duration::from_secs(6 * 3_600);

/// Whether a listener has it, or could be given it.
pub fn is_wanted(config: &Config) -> bool {
    let of_admin = config.admin.tls.as_ref().is_some_and(|tls| tls.as_listener().has_builtin());
    of_admin || config.listeners.values().any(crate::config::model::Listener::has_builtin)
}

/// Where it is, and whom it is for.
pub struct Builtin {
    folder: PathBuf,
    /// Those of the configuration by which it was asked for last.
    names: Mutex<Vec<String>>,
}

fn load(folder: &Path, names: &[String]) -> Result<ServerCertificate> {
    let pair = pki::builtin(folder, names)?;
    Ok(ServerCertificate::load(&pair.certificate, &pair.key, None, clock::now().seconds())?)
}

/// This machine's names and addresses, as far as the configuration shows them.
fn names(config: &Config) -> Vec<String> {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.and_then(|name| server_name(&name));
    let mut names = vec![String::from("localhost")];
    names.extend(host);
    names.extend(["127.0.0.1", "::1"].map(String::from));
    let binds = config.listeners.values().map(|listener| &listener.bind);
    for bind in binds.chain(config.admin.tls.is_some().then_some(&config.admin.bind)) {
        if let Ok(address) = bind_address(bind)
            && !address.ip().is_unspecified()
        {
            names.push(address.ip().to_string());
        }
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

impl Builtin {
    pub fn new(config: &Config) -> Self {
        let folder = config.node.data_dir.join("builtin");
        Self { folder, names: Mutex::new(names(config)) }
    }

    /// Makes or reads it.
    pub fn provide(&self, config: &Config) -> Result<ServerCertificate> {
        let names = names(config);
        let certificate = load(&self.folder, &names)?;
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        Ok(certificate)
    }

    /// Renews it in time, until the end, once a listener has it.
    pub async fn renew(self: Arc<Self>, bundles: Arc<Bundles>, end: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Ok(known) = bundles.builtin().map(|info| info.fingerprint) else { continue };
            let folder = self.folder.clone();
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let loaded = tokio::task::spawn_blocking(move || load(&folder, &names)).await;
            match loaded {
                Ok(Ok(certificate)) if certificate.facts().certificate_fingerprint.to_hex() != known => {
                    match bundles.set_builtin(certificate) {
                        Ok(()) => tracing::info!("the built-in server certificate was renewed"),
                        Err(error) => {
                            tracing::error!(%error, "the renewed built-in certificate cannot be served");
                        }
                    }
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the built-in server certificate cannot be renewed");
                }
                Err(error) => tracing::error!(%error, "renewing the built-in certificate broke down"),
            }
        }
    }
}
