//! A responder made on the spot: what it answers, and how it is asked.

use std::sync::{Arc, Mutex};

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::time::UnixSeconds;
use rcgen::SigningKey as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::clock;
use crate::testing::{TestCa, TestCertificate, sequence, tlv};

/// Signs answers.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    Ca(&'a TestCa),
    /// Its certificate goes along.
    Delegate(&'a TestCertificate),
}

#[derive(Clone, Copy)]
pub(super) enum State {
    Good,
    Revoked,
    Unknown,
}

/// What is said about the certificate that a request names; times are seconds from now.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) signer: Signer<'a>,
    pub(super) state: State,
    pub(super) this_update: i64,
    pub(super) next_update: Option<i64>,
    pub(super) critical: bool,
}

impl<'a> Answer<'a> {
    pub(super) fn good(signer: Signer<'a>) -> Self {
        Self { signer, state: State::Good, this_update: -60, next_update: Some(3_600), critical: false }
    }

    /// To the question in `request`, which is echoed.
    pub(super) fn to(self, request: &[u8]) -> Vec<u8> {
        self.about(cert_id(request))
    }

    pub(super) fn about(self, cert_id: &[u8]) -> Vec<u8> {
        let now = clock::now().seconds().0;
        let time = |from_now: i64| {
            let text = UnixSeconds(now + from_now).to_string().replace(['-', ':', 'T'], "");
            tlv(0x18, text.as_bytes())
        };
        let state = match self.state {
            State::Good => tlv(0x80, &[]),
            State::Revoked => tlv(0xa1, &time(-120)),
            State::Unknown => tlv(0x82, &[]),
        };
        let next_update = self.next_update.map(|from_now| tlv(0xa0, &time(from_now))).unwrap_or_default();
        // 2.999.1, critical.
        let extension =
            sequence(&[&[0x06, 0x03, 0x88, 0x37, 0x01], &[0x01, 0x01, 0xff], &tlv(0x04, &[5, 0])]);
        let extensions = if self.critical { tlv(0xa1, &sequence(&[&extension])) } else { Vec::new() };
        let single = sequence(&[cert_id, &state, &time(self.this_update), &next_update, &extensions]);
        let name = match self.signer {
            Signer::Ca(ca) => CertificateFacts::parse(&ca.der()).unwrap().subject.raw,
            Signer::Delegate(certificate) => certificate.facts().subject.raw,
        };
        let data = sequence(&[&tlv(0xa1, &name), &time(0), &sequence(&[&single])]);
        let mut signature = vec![0];
        let mut certificates = Vec::new();
        match self.signer {
            Signer::Ca(ca) => signature.extend(ca.sign(&data)),
            Signer::Delegate(certificate) => {
                signature.extend(certificate.key.sign(&data).unwrap());
                certificates = tlv(0xa0, &sequence(&[&certificate.der]));
            }
        }
        // ecdsa-with-SHA256
        let algorithm = sequence(&[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]]);
        let basic = sequence(&[&data, &algorithm, &tlv(0x03, &signature), &certificates]);
        let kind = [0x06, 0x09, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
        let bytes = sequence(&[&kind, &tlv(0x04, &basic)]);
        sequence(&[&[0x0a, 1, 0], &tlv(0xa0, &bytes)])
    }
}

/// The CertID in a request: four sequences further in.
pub(super) fn cert_id(request: &[u8]) -> &[u8] {
    (0..4).fold(request, |der, _| if der[1] < 0x80 { &der[2..] } else { &der[3..] })
}

/// One that says what `says` makes of a request, by HTTP, until the test ends. Empty: it is away.
pub(super) struct Responder {
    pub(super) url: String,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
}

impl Responder {
    /// `says` is given the method and the request.
    pub(super) async fn start(says: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ocsp", socket.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let methods = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = socket.accept().await {
                let Some((method, request)) = read(&mut stream).await else { continue };
                methods.lock().unwrap().push(method.clone());
                let body = says(&method, &request);
                let status = if body.is_empty() { "503 Away" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            }
        });
        Self { url, asked }
    }

    pub(super) fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    use base64::Engine as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let (method, path) = head.split_once(' ')?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    if method == "GET" {
        let text = path.split_whitespace().next()?.strip_prefix("/ocsp/")?;
        let text = text.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
        body = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    }
    Some((method.to_owned(), body))
}
