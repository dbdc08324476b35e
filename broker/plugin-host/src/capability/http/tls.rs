//! TLS towards the servers that plugins ask: whom it trusts, and nothing that weakens it.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::destination::Host;
use super::failure::Failure;

/// `None`: nothing that is allowed is encrypted.
pub(crate) struct Tls(Option<TlsConnector>);

impl Tls {
    /// Trusts the authorities of `ca_file` and no others; without it, those of the system.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        let config = match ca_file {
            Some(file) => Arc::new(config(authorities_of(file)?)?),
            None => of_the_system()?,
        };
        Ok(Self(Some(TlsConnector::from(config))))
    }

    pub(crate) const fn none() -> Self {
        Self(None)
    }

    pub(crate) async fn connect(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = self.0.as_ref().ok_or(Failure::Tls)?;
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| Failure::Invalid)?,
            Host::Address(address) => ServerName::from(*address),
        };
        connector.connect(name, stream).await.map_err(|error: io::Error| Failure::of_tls(&error))
    }
}

/// Read once for all plugins.
fn of_the_system() -> Result<Arc<ClientConfig>, String> {
    static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        // Some systems carry one that nobody can read; the others count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(String::from("this system has no certificate authorities; name a `ca_file`"));
        }
        config(roots).map(Arc::new)
    };
    SYSTEM.get_or_init(read).clone()
}

fn authorities_of(file: &Path) -> Result<RootCertStore, String> {
    let bad = |what: String| format!("the CA file {}: {what}", file.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| bad(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad(String::from("there is no certificate in it"))) } else { Ok(roots) }
}

fn config(roots: RootCertStore) -> Result<ClientConfig, String> {
    // Explicit: nothing is installed for the whole process.
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
