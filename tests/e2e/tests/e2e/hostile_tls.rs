//! Clients that are up to no good before they say a word of MQTT: who stalls, who sends rubbish, who sends too
//! much. Each is cut off in time, with a reason; memory stays bounded; nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_client::Client;
use mqgate_codec::QoS;
use mqgate_e2e::{Broker, Identity, Pki, tools};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// More than any of these attacks may cost the broker.
const MOST_MEMORY: u64 = 64 << 20;
/// A promised deadline is tested with this much on top, for a loaded machine.
const SLACK: Duration = Duration::from_secs(10);

fn config(
    pki: &Pki,
    version: &'static rustls::SupportedProtocolVersion,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
            builder.with_client_cert_resolver(Arc::new(Insistent(Arc::new(CertifiedKey::new(chain, key)))))
        }
    })
}

/// Sends what it has, whether or not it makes sense.
#[derive(Debug)]
struct Insistent(Arc<CertifiedKey>);

impl ResolvesClientCert for Insistent {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The first message of a handshake, as a client sends it.
fn hello(pki: &Pki, version: &'static rustls::SupportedProtocolVersion) -> Vec<u8> {
    let mut client =
        ClientConnection::new(config(pki, version, None), "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A ClientHello that claims `claimed` bytes, in records of 16 KiB, of which `sent` follow.
fn large_hello(claimed: usize, sent: usize) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(claimed).unwrap().to_be_bytes();
    let mut message = vec![1, a, b, c, 3, 3];
    message.resize(sent, 0);
    message
        .chunks(1 << 14)
        .flat_map(|part| {
            let [high, low] = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[0x16, 3, 1, high, low], part].concat()
        })
        .collect()
}

fn connect(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Reads until the broker ends the connection.
fn wait_for_end(stream: &mut TcpStream) {
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it was not cut off"),
            Err(_) => return,
        }
    }
}

/// How often each reason stands in the audit log, those that were counted together included.
fn reasons(broker: &Broker) -> std::collections::BTreeMap<String, u64> {
    let mut reasons = std::collections::BTreeMap::new();
    for line in broker.audit() {
        if line["name"] == "tls.handshake_failed" {
            assert_eq!(line["listener"], "main");
            assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1")), "{line}");
            let count = line["fields"]["count"].as_str().map_or(1, |count| count.parse().unwrap());
            *reasons.entry(line["reason"].as_str().unwrap().to_owned()).or_default() += count;
        }
    }
    reasons
}

/// A client that has done nothing wrong: connects anew, and is answered.
async fn neighbour_is_served(broker: &Broker, identity: &Identity) {
    let connected = tokio::time::timeout(SLACK, Client::connect(broker.options("neighbour", identity))).await;
    let (client, _) = connected.expect("others keep it out").expect("it may connect");
    let published = client.publish("devices/neighbour/t", "t", QoS::AtLeastOnce, false);
    assert!(!tokio::time::timeout(SLACK, published).await.expect("it waits").unwrap().is_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stalls_is_cut_off_in_time_and_costs_little() {
    const EACH: usize = 40;
    let mut broker =
        Broker::builder().with_bundled_plugins().listener("handshake_timeout = \"4s\"").start().await;
    let identity = broker.pki.device("neighbour");
    neighbour_is_served(&broker, &identity).await;
    let (new, old) =
        (hello(&broker.pki, &rustls::version::TLS13), hello(&broker.pki, &rustls::version::TLS12));
    let stalls: [&[u8]; 6] = [
        &[],
        // The beginning of a record's head; half a hello; both versions' whole hello, and then no answer to the
        // server's flight; nearly all of a hello of 60 KB.
        &[0x16, 3],
        &new[..new.len() / 2],
        &new,
        &old,
        &large_hello(60_000, 59_000),
    ];
    let before = broker.memory();
    let began = Instant::now();
    let mut stalled: Vec<TcpStream> = (0..EACH)
        .flat_map(|_| stalls)
        .map(|bytes| {
            let mut stream = connect(&broker);
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    // Slow-loris: a byte now and then, so that something always moves.
    let mut trickle = connect(&broker);
    let drops = new.clone();
    let trickling = std::thread::spawn(move || {
        let gone = drops.iter().any(|byte| {
            std::thread::sleep(Duration::from_millis(100));
            trickle.write_all(&[*byte]).is_err()
        });
        assert!(gone, "a byte every 100 ms kept it open for {:?}", began.elapsed());
    });
    neighbour_is_served(&broker, &identity).await;
    let grown = broker.memory().saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{} connections cost {grown} bytes", stalled.len());
    stalled.iter_mut().for_each(wait_for_end);
    assert!(began.elapsed() < Duration::from_secs(4) + SLACK, "cut off after {:?}", began.elapsed());
    trickling.join().unwrap();
    neighbour_is_served(&broker, &identity).await;
    let count = (EACH * stalls.len() + 1) as u64;
    let admin = broker.admin();
    assert_eq!(
        admin.metric("mqgate_tls_handshakes_total{listener=\"main\",result=\"timeout\"}"),
        count as f64
    );
    // What is counted together is written down at the end.
    broker.stop();
    assert_eq!(reasons(&broker).get("tls_handshake_timeout"), Some(&count), "{:?}", reasons(&broker));
}

/// The only place for a handshake is not held by whoever says hello and then nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_stalls_after_its_hello_gives_up_its_place() {
    let broker = Broker::builder()
        .with_bundled_plugins()
        .listener("handshake_timeout = \"60s\"\nmax_handshakes = 1")
        .start()
        .await;
    let identity = broker.pki.device("neighbour");
    let mut stalled = connect(&broker);
    stalled.write_all(&hello(&broker.pki, &rustls::version::TLS13)).unwrap();
    // The server's flight says that it has the place.
    stalled.read_exact(&mut [0; 5]).unwrap();
    neighbour_is_served(&broker, &identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_refused_with_a_reason() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let identity = broker.pki.device("neighbour");
    let hello = hello(&broker.pki, &rustls::version::TLS13);
    let before = broker.memory();
    let mut wrong_length = hello.clone();
    wrong_length[8] ^= 0x7f;
    let mut pieces = hello.clone();
    pieces.truncate(hello.len() - 7);
    let rubbish: Vec<(&str, Vec<u8>)> = vec![
        ("plain MQTT", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n".to_vec()),
        ("noise", (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("an old hello", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80".to_vec()),
        ("a record of an unknown kind", b"\x63\x03\x03\x00\x01\x00".to_vec()),
        ("a record that is too long", b"\x16\x03\x01\xff\xff\x01".to_vec()),
        ("application data first", b"\x17\x03\x03\x00\x05hello".to_vec()),
        ("a hello of 16 MB", large_hello(0xff_ffff, 1 << 15)),
        ("a hello of 200 KB", large_hello(200_000, 200_000)),
        ("a hello whose length is wrong", wrong_length),
        ("a truncated hello", pieces),
        ("the hello twice", [hello.clone(), hello.clone()].concat()),
        ("empty records without end", b"\x16\x03\x03\x00\x00".repeat(10_000)),
        ("a fatal alert", b"\x15\x03\x03\x00\x02\x02\x28".to_vec()),
    ];
    for (what, bytes) in &rubbish {
        let mut stream = connect(&broker);
        let began = Instant::now();
        // It may be cut off while it still sends.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        wait_for_end(&mut stream);
        assert!(began.elapsed() < SLACK, "{what}: {:?}", began.elapsed());
    }
    neighbour_is_served(&broker, &identity).await;
    let grown = broker.memory().saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{grown} bytes");
    let failed = broker.admin().metric("mqgate_tls_handshakes_total{listener=\"main\",result=\"failed\"}");
    assert_eq!(failed, rubbish.len() as f64);
    broker.stop();
    let reasons = reasons(&broker);
    assert_eq!(reasons.values().sum::<u64>(), rubbish.len() as u64, "{reasons:?}");
    assert!(reasons.keys().all(|reason| reason.starts_with("tls_")), "{reasons:?}");
}

/// Sends a chain of its own, and waits for the end of it.
fn send_chain(
    broker: &Broker,
    version: &'static rustls::SupportedProtocolVersion,
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) {
    let config = config(&broker.pki, version, Some((chain, key.clone_key())));
    let mut client = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut stream = connect(broker);
    let mut tls = rustls::Stream::new(&mut client, &mut stream);
    // Too early for CONNECT, in TLS 1.3 even before the server has judged: it only has to be refused.
    let _ = tls.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00");
    let mut answer = Vec::new();
    let ended = tls.read_to_end(&mut answer);
    assert!(answer.is_empty(), "it was answered: {answer:?}, {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_and_certificates_beyond_measure_are_refused() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let identity = broker.pki.device("neighbour");
    let leaf = CertificateDer::from_pem_file(&identity.certificate).unwrap();
    let ca = CertificateDer::from_pem_file(broker.pki.ca()).unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let before = broker.memory();
    let hundred: Vec<_> = std::iter::once(leaf.clone()).chain(vec![ca; 99]).collect();
    // Its names alone are longer than everything that is accepted.
    let large = |names: usize| {
        let names: Vec<String> = (0..names).map(|n| format!("name-{n}.example.org")).collect();
        let own = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&own).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(own.serialize_der()).unwrap())
    };
    let (medium, medium_key) = large(2_000);
    let (huge, huge_key) = large(8_000);
    assert!(medium.len() < 0xffff && huge.len() > 0xffff);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        send_chain(&broker, version, hundred.clone(), &key);
        send_chain(&broker, version, vec![medium.clone()], &medium_key);
        send_chain(&broker, version, vec![huge.clone()], &huge_key);
    }
    neighbour_is_served(&broker, &identity).await;
    let grown = broker.memory().saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{grown} bytes");
    broker.stop();
    let reasons = reasons(&broker);
    assert_eq!(reasons.get("cert_too_large"), Some(&4), "{reasons:?}");
    // What does not fit into a handshake message is refused before it is a certificate.
    assert_eq!(reasons.get("tls_protocol"), Some(&2), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_renegotiates() {
    let Some(mut openssl) = tools::openssl() else { return };
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let identity = broker.pki.device("neighbour");
    let mut child = openssl
        .args(["s_client", "-tls1_2", "-connect", &format!("127.0.0.1:{}", broker.port())])
        .arg("-CAfile")
        .arg(broker.pki.ca())
        .arg("-cert")
        .arg(&identity.certificate)
        .arg("-key")
        .arg(&identity.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    broker.audited("nothing yet", |_| true).await;
    for _ in 0..20 {
        // R at the beginning of a line asks for a new handshake.
        if input.write_all(b"R\n").is_err() {
            break;
        }
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
    neighbour_is_served(&broker, &identity).await;
}
