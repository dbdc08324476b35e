//! TLS on the client's side: which CA to trust, which certificate to show, which sessions to resume.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::TlsError;

/// Files or PEM bytes; where both are given, the bytes count.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// PEM with one CA certificate or more. Without it nothing is trusted.
    pub ca_file: Option<PathBuf>,
    pub ca_pem: Option<Vec<u8>>,
    /// PEM with the client certificate and, after it, intermediate ones.
    pub cert_file: Option<PathBuf>,
    pub cert_pem: Option<Vec<u8>>,
    /// PEM with an unencrypted private key: PKCS#8, PKCS#1 or SEC1.
    pub key_file: Option<PathBuf>,
    pub key_pem: Option<Vec<u8>>,
    /// The name to ask for and to find in the server's certificate, if not the host.
    pub server_name: Option<String>,
    /// Trust every server. For tests: whoever stands in between reads along.
    pub insecure: bool,
    /// `None` offers both.
    pub version: Option<TlsVersion>,
    /// Protocols to offer, in order.
    pub alpn: Vec<Vec<u8>>,
    sessions: Sessions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

/// Whether a connection may resume what an earlier one negotiated.
#[derive(Clone, Default)]
enum Sessions {
    /// Every connection makes a full handshake.
    #[default]
    Own,
    /// Kept with the configuration that they belong to: sessions of another CA or another client
    /// certificate are never resumed.
    Shared(Arc<OnceLock<Arc<ClientConfig>>>),
    /// As [`Sessions::Own`], but the configuration is made once.
    OwnReadOnce(Arc<OnceLock<Arc<ClientConfig>>>),
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Shared(_) => "Shared",
            Self::OwnReadOnce(_) => "OwnReadOnce",
        })
    }
}

impl TlsOptions {
    pub fn new() -> Self {
        Self::default()
    }

    /// Speak this version and no other.
    pub fn only_version(&mut self, version: TlsVersion) {
        self.version = Some(version);
    }

    /// All clones made from now on resume each other's sessions. Files are read once, at the first
    /// connection, and options must not be changed any more.
    pub fn share_sessions(&mut self) {
        self.sessions = Sessions::Shared(Arc::default());
    }

    /// All clones made from now on read files once, at the first connection, and make full handshakes; options
    /// must not be changed any more.
    pub fn read_once(&mut self) {
        self.sessions = Sessions::OwnReadOnce(Arc::default());
    }

    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let shared = match &self.sessions {
            Sessions::Own => return self.build().map(Arc::new),
            Sessions::Shared(shared) | Sessions::OwnReadOnce(shared) => shared,
        };
        if let Some(config) = shared.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(self.build()?);
        Ok(shared.get_or_init(|| config).clone())
    }

    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
    }

    fn build(&self) -> Result<ClientConfig, TlsError> {
        // Explicit: nothing is installed for the whole process.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.versions())
            .map_err(TlsError::Config)?;
        let builder = if self.insecure {
            let algorithms = provider.signature_verification_algorithms;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustEveryone(algorithms)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match self.identity(&provider)? {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        if let Sessions::Own | Sessions::OwnReadOnce(_) = self.sessions {
            config.resumption = rustls::client::Resumption::disabled();
        }
        Ok(config)
    }

    /// For a client of HTTP that makes its own configuration of the same files: says what is wrong with them, and gives
    /// the process the cryptography that such a client uses.
    pub fn prepare_https(&self) -> Result<(), TlsError> {
        let provider = aws_lc_rs::default_provider();
        self.build()?;
        if let Some(identity) = self.identity(&provider)? {
            // Stricter than MQTT: such a client reads the certificate, too.
            identity.keys_match().map_err(TlsError::Config)?;
        }
        // Somebody was first: it is the same.
        let _ = provider.install_default();
        Ok(())
    }

    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
        static ONLY_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self.version {
            None => rustls::ALL_VERSIONS,
            Some(TlsVersion::V1_2) => ONLY_1_2,
            Some(TlsVersion::V1_3) => ONLY_1_3,
        }
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let pem = Pem::load("the CA file", self.ca_pem.as_deref(), self.ca_file.as_deref())?
            .ok_or(TlsError::NoCa)?;
        let mut roots = RootCertStore::empty();
        for certificate in pem.certificates()? {
            roots.add(certificate).map_err(|source| TlsError::Ca { from: pem.from.clone(), source })?;
        }
        Ok(roots)
    }

    fn identity(&self, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, TlsError> {
        let what = "the client certificate";
        let certificate = Pem::load(what, self.cert_pem.as_deref(), self.cert_file.as_deref())?;
        let key = Pem::load("the private key", self.key_pem.as_deref(), self.key_file.as_deref())?;
        let (certificate, key) = match (certificate, key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err(TlsError::HalfIdentity { given: "the certificate" }),
            (None, Some(_)) => return Err(TlsError::HalfIdentity { given: "the key" }),
        };
        let certificates = certificate.certificates()?;
        let key = provider.key_provider.load_private_key(key.private_key()?).map_err(TlsError::Key)?;
        let identity = CertifiedKey::new(certificates, key);
        match identity.keys_match() {
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(TlsError::KeyMismatch),
            // Other errors mean that the certificate cannot be read here: X.509 v1, for one, which a broker
            // may well accept. It is the broker's judgement that counts.
            Ok(()) | Err(_) => Ok(Some(identity)),
        }
    }
}

/// PEM text, and where it is from.
struct Pem {
    what: &'static str,
    from: String,
    text: Vec<u8>,
}

impl Pem {
    fn load(what: &'static str, bytes: Option<&[u8]>, file: Option<&Path>) -> Result<Option<Self>, TlsError> {
        if let Some(bytes) = bytes {
            return Ok(Some(Self { what, from: "given in memory".into(), text: bytes.to_vec() }));
        }
        let Some(path) = file else { return Ok(None) };
        let failed = |source| TlsError::File { what, path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(failed)?;
        Ok(Some(Self { what, from: path.display().to_string(), text }))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates = CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.wrong(&error, "CERTIFICATE"))?;
        if certificates.is_empty() {
            return Err(self.wrong(&pem::Error::NoItemsFound, "CERTIFICATE"));
        }
        Ok(certificates)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| self.wrong(&error, "PRIVATE KEY"))
    }

    fn wrong(&self, error: &pem::Error, wanted: &'static str) -> TlsError {
        let (what, from) = (self.what, self.from.clone());
        match error {
            pem::Error::NoItemsFound => TlsError::Nothing { what, from, wanted },
            error => TlsError::Pem { what, from, message: error.to_string() },
        }
    }
}

/// Believes any certificate, but still wants the handshake signed with its key.
#[derive(Debug)]
struct TrustEveryone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustEveryone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
