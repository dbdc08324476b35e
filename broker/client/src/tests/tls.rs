//! TLS: trust, client certificates, resumption, and what is said when something is wrong.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{TlsError, TlsOptions, TlsVersion};

struct Pki {
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are right names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("the CA signs").pem();
        Self { ca, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, PEM.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a right name");
        let certificate = params.signed_by(&key, &self.issuer).expect("the CA signs");
        (certificate.pem(), key.serialize_pem())
    }

    /// Trusts this CA and shows a certificate of it.
    fn client(&self) -> TlsOptions {
        let (certificate, key) = self.leaf("device");
        let mut tls = TlsOptions::new();
        tls.ca_pem = Some(self.ca.clone().into());
        tls.cert_pem = Some(certificate.into());
        tls.key_pem = Some(key.into());
        tls
    }

    /// Accepts, over mutual TLS, every client that comes, and every CONNECT.
    async fn serve(&self) -> ConnectOptions {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("PEM")).expect("a CA");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let (certificate, key) = self.leaf("localhost");
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("both versions")
            .with_client_cert_verifier(verifier.build().expect("there is a CA"))
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
            )
            .expect("key and certificate match");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let mut server = FakeServer::new(stream);
                    if server.next().await.is_some() {
                        server.send(accepted(server.decoder.version(), ConnAckProperties::default())).await;
                        while server.next().await.is_some() {}
                    }
                });
            }
        });
        ConnectOptions::new("localhost", port)
    }
}

async fn error(mut options: ConnectOptions, tls: TlsOptions) -> ConnectError {
    options.tls = Some(tls);
    Client::connect(options).await.err().expect("this must not work")
}

#[tokio::test]
async fn mutual_tls_in_both_versions_and_resumption_when_asked_for() {
    let pki = Pki::new();
    let mut options = pki.serve().await;
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        for share in [false, true] {
            let mut tls = pki.client();
            tls.only_version(version);
            if share {
                tls.share_sessions();
            }
            options.tls = Some(tls);
            let (client, _) = Client::connect(options.clone()).await.unwrap();
            assert!(!client.tls_resumed());
            // The ticket of TLS 1.3 came at the latest with CONNACK.
            client.disconnect().await.unwrap();
            let (client, _) = Client::connect(options.clone_with_client_id("again")).await.unwrap();
            assert_eq!(client.tls_resumed(), share, "TLS {version}, shared: {share}");
        }
    }
}

#[tokio::test]
async fn a_stranger_among_servers_is_not_trusted() {
    let pki = Pki::new();
    let options = pki.serve().await;
    let mut tls = pki.client();
    tls.ca_pem = Some(Pki::new().ca.into());
    let said = error(options.clone(), tls.clone()).await.to_string();
    assert!(said.contains("the CA file does not hold the CA"), "{said}");
    tls.ca_pem = Some(pki.ca.clone().into());
    tls.server_name = Some("elsewhere".into());
    let said = error(options.clone(), tls.clone()).await.to_string();
    assert!(said.contains("is for another name"), "{said}");
    // Whoever asks for it trusts everyone.
    (tls.ca_pem, tls.insecure) = (None, true);
    let mut options = options;
    options.tls = Some(tls);
    Client::connect(options).await.unwrap();
}

#[tokio::test]
async fn a_server_that_misses_our_certificate_says_so() {
    let pki = Pki::new();
    let options = pki.serve().await;
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let mut tls = pki.client();
        tls.only_version(version);
        (tls.cert_pem, tls.key_pem) = (None, None);
        let error = error(options.clone(), tls).await;
        // TLS 1.2 has no alert of its own for this.
        assert!(error.tls_alert().is_some(), "TLS {version}: {error:?}");
    }
    let mut tls = pki.client();
    (tls.cert_pem, tls.key_pem) = (None, None);
    let said = error(options, tls).await.to_string();
    assert!(said.contains("wants a client certificate"), "{said}");
}

#[tokio::test]
async fn wrong_files_are_named_with_what_is_wrong() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let options = ConnectOptions::new("localhost", 1);
    let (certificate, key) = pki.leaf("device");
    let good = |name: &str| {
        let mut tls = TlsOptions::new();
        tls.ca_file = file(&format!("{name}-ca.pem"), &pki.ca);
        tls.cert_file = file(&format!("{name}.pem"), &certificate);
        tls.key_file = file(&format!("{name}.key"), &key);
        tls
    };
    let mut missing = good("missing");
    missing.cert_file = Some(folder.path().join("absent.pem"));
    let mut swapped = good("swapped");
    std::mem::swap(&mut swapped.cert_file, &mut swapped.key_file);
    let mut half = good("half");
    half.key_file = None;
    let mut other = good("other");
    other.key_file = file("other.key", &pki.leaf("x").1);
    let mut garbage = good("garbage");
    garbage.ca_file = file("garbage.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let mut no_ca = good("no-ca");
    no_ca.ca_file = None;
    for (tls, words) in [
        (missing, &["the client certificate", "absent.pem", "No such file"][..]),
        (swapped, &["the client certificate", "swapped.key", "no CERTIFICATE"]),
        (half, &["needs its private key"]),
        (other, &["does not belong"]),
        (garbage, &["the CA file", "garbage.pem", "not PEM"]),
        (no_ca, &["no CA is given"]),
    ] {
        let said = error(options.clone(), tls).await.to_string();
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
    let mut tls = good("name");
    tls.server_name = Some("not a name".into());
    let error = error(options, tls).await;
    assert!(matches!(error, ConnectError::Tls(TlsError::ServerName(_))), "{error}");
}
