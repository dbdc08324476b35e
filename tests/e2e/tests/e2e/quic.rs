//! MQTT over QUIC, spoken to with a QUIC library and packets by hand: no common client does it.

use std::net::SocketAddr;
use std::sync::Arc;

use mqgate_e2e::{Broker, Identity};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const LISTENER: &str = r#"
[listeners.quic]
type = "quic"
bind = "127.0.0.1:0"
auth_mode = "per-device"
certfile = "pki/server.pem"
keyfile = "pki/server.key"
cacertfile = "pki/ca.pem"
"#;

const CONNECT: &[u8] = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04quic";

fn endpoint(broker: &Broker, identity: Option<&Identity>) -> Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(broker.pki.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let certificate = CertificateDer::from_pem_file(&identity.certificate).unwrap();
            let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = QuicClientConfig::try_from(config).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(config)));
    endpoint
}

async fn connect(endpoint: &Endpoint, port: u16) -> Result<Connection, ConnectionError> {
    endpoint.connect(SocketAddr::from(([127, 0, 0, 1], port)), "localhost").unwrap().await
}

async fn hear(receive: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    receive.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn admitted(connection: &Connection) -> (SendStream, RecvStream) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(CONNECT).await.unwrap();
    assert_eq!(hear(&mut receive, 4).await, [0x20, 2, 0, 0]);
    (send, receive)
}

/// A client that is let in, and all that keeps it there.
pub async fn connected(
    broker: &Broker,
    port: u16,
    device: &Identity,
) -> (Connection, Endpoint, SendStream, RecvStream) {
    let endpoint = endpoint(broker, Some(device));
    let connection = connect(&endpoint, port).await.unwrap();
    let (send, receive) = admitted(&connection).await;
    (connection, endpoint, send, receive)
}

#[tokio::test]
async fn one_stream_carries_mqtt() {
    let broker = Broker::builder().with_bundled_plugins().config(LISTENER).start().await;
    let port = broker.port_of("quic").await;
    let device = broker.pki.device("quic");
    let endpoint = endpoint(&broker, Some(&device));
    let connection = connect(&endpoint, port).await.unwrap();
    let (mut send, mut receive) = admitted(&connection).await;
    let line = broker
        .audited("it was let in", |line| line["name"] == "connection.accepted" && line["listener"] == "quic")
        .await;
    assert_eq!(line["fingerprint"], device.fingerprint.as_str());
    assert_eq!((&line["sni"], &line["fields"]["tls.version"]), (&"localhost".into(), &"1.3".into()));

    // SUBSCRIBE devices/quic/# with QoS 1, then a message of 100,000 bytes to it.
    send.write_all(b"\x82\x13\x00\x01\x00\x0edevices/quic/#\x01").await.unwrap();
    assert_eq!(hear(&mut receive, 5).await, [0x90, 3, 0, 1, 1]);
    let mut publish = b"\x32\xb2\x8d\x06\x00\x0edevices/quic/t\x00\x07".to_vec();
    publish.resize(4 + 100_018, b'x');
    send.write_all(&publish).await.unwrap();
    let mut heard = hear(&mut receive, 4 + publish.len()).await;
    let puback = heard.windows(4).position(|bytes| bytes == [0x40, 2, 0, 7]).unwrap();
    heard.drain(puback..puback + 4);
    assert!(heard.ends_with(&[b'x'; 100_000]));

    // A second stream is not granted, nor one without a way back.
    let second = tokio::time::timeout(std::time::Duration::from_millis(300), connection.open_bi()).await;
    assert!(second.is_err(), "a second stream was granted");
    // The client moves to another address, as phones do; the session goes on.
    let elsewhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    endpoint.rebind(elsewhere).unwrap();
    send.write_all(b"\xc0\x00").await.unwrap();
    assert_eq!(hear(&mut receive, 2).await, [0xd0, 0]);
    send.write_all(b"\xe0\x00").await.unwrap();
    connection.closed().await;
}

#[tokio::test]
async fn a_refusal_is_heard_although_the_connection_ends_with_it() {
    let listener = format!("{LISTENER}registration = \"manual\"\n");
    let broker = Broker::builder().with_bundled_plugins().config(&listener).start().await;
    let port = broker.port_of("quic").await;
    let device = broker.pki.device("quic");
    let endpoint = endpoint(&broker, Some(&device));
    for _ in 0..10 {
        let connection = connect(&endpoint, port).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(CONNECT).await.unwrap();
        assert_eq!(receive.read_to_end(64).await.unwrap(), [0x20, 2, 0, 5]);
    }
}

#[tokio::test]
async fn who_has_no_certificate_of_ours_is_refused_with_the_reason() {
    let broker = Broker::builder().with_bundled_plugins().config(LISTENER).start().await;
    let port = broker.port_of("quic").await;
    let refused = async |endpoint: Endpoint, reason: &str| {
        // In TLS 1.3 the client may think for a moment that it is in.
        if let Ok(connection) = connect(&endpoint, port).await {
            connection.closed().await;
        }
        let line = broker
            .audited(reason, |line| line["name"] == "tls.handshake_failed" && line["listener"] == "quic")
            .await;
        assert_eq!(line["reason"], reason, "{line}");
    };
    refused(endpoint(&broker, None), "tls_no_peer_cert").await;
    let folder = tempfile::tempdir().unwrap();
    let stranger = mqgate_e2e::Pki::create(folder.path(), "other").device("quic");
    if let Ok(connection) = connect(&endpoint(&broker, Some(&stranger)), port).await {
        connection.closed().await;
    }
    broker
        .audited("an unknown CA", |line| line["reason"] == "cert_unknown_ca" && line["listener"] == "quic")
        .await;
}
