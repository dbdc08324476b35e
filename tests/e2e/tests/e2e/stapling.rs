//! OCSP stapling as `openssl s_client -status` sees it; what is stapled was answered by `openssl ocsp`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use mqgate_e2e::{Broker, Pki, eventually, tools};

fn openssl(folder: &Path, line: &str) -> bool {
    let Some(mut openssl) = tools::openssl() else { return false };
    tools::succeed(openssl.current_dir(folder).args(line.split_whitespace()));
    true
}

/// What the CA says of certificates, asked over HTTP on this machine: each answer is made by openssl.
struct Responder {
    folder: PathBuf,
    url: String,
    away: Arc<AtomicBool>,
}

impl Responder {
    fn start(folder: &Path) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", socket.local_addr().unwrap());
        let away = Arc::new(AtomicBool::new(false));
        let (place, is_away) = (folder.to_owned(), Arc::clone(&away));
        // Ends with the process: nobody waits for it.
        std::thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let _ = answer(&place, stream, is_away.load(Ordering::SeqCst));
            }
        });
        Self { folder: folder.to_owned(), url, away }
    }

    /// `V`alid or `R`evoked, by serial number.
    fn say(&self, states: &[(&str, char)]) {
        let line = |(serial, state): &(&str, char)| {
            let since = if *state == 'R' { "250101000000Z" } else { "" };
            format!("{state}\t490101000000Z\t{since}\t{serial}\tunknown\t/CN={serial}\n")
        };
        let text: String = states.iter().map(line).collect();
        std::fs::write(self.folder.join("index.new"), text).unwrap();
        std::fs::rename(self.folder.join("index.new"), self.folder.join("index.txt")).unwrap();
    }
}

fn answer(folder: &Path, stream: TcpStream, is_away: bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut request = vec![0; length];
    reader.read_exact(&mut request)?;
    let mut stream = reader.into_inner();
    if is_away {
        return stream.write_all(b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n");
    }
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    if first.starts_with("GET") {
        let text = path.trim_start_matches('/').replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
        request = base64::engine::general_purpose::STANDARD.decode(text).expect("RFC 6960, A.1");
    }
    std::fs::write(folder.join("request"), request)?;
    openssl(
        folder,
        "ocsp -index index.txt -CA own-ca.pem -rsigner responder.pem -rkey responder.key -resp_key_id -reqin request \
         -respout answer -ndays 1",
    );
    let body = std::fs::read(folder.join("answer"))?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}

/// `{name}.pem` and `{name}.key`, signed by `own-ca.pem`.
fn issue(folder: &Path, name: &str, serial: u32, extensions: &str) {
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    for line in [
        format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"),
        format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"),
        format!(
            "x509 -req -in {name}.csr -CA own-ca.pem -CAkey own-ca.key -set_serial {serial} -days 30 -extfile extensions -out {name}.pem"
        ),
    ] {
        openssl(folder, &line);
    }
}

/// What a client is told about the certificate that it gets for `name`: `good`, or nothing.
fn status(port: u16, name: &str, ca: &Path, version: &str) -> Option<String> {
    let mut openssl = tools::openssl().expect("found before");
    openssl.args(["s_client", "-status", "-verify_return_error", version, "-servername", name]);
    openssl.args(["-verify_hostname", name, "-connect", &format!("127.0.0.1:{port}"), "-CAfile"]).arg(ca);
    let output = tools::succeed(openssl.stdin(Stdio::null()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("OCSP response: no response sent") {
        return None;
    }
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Cert Status: "));
    Some(line.unwrap_or_else(|| panic!("no status in\n{text}")).to_owned())
}

#[tokio::test]
async fn openssl_sees_the_staple_of_every_certificate_over_an_outage_a_restart_and_a_revocation() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    let files = folder.join("pki");
    if !openssl(&files, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out own-ca.key") {
        return;
    }
    openssl(&files, "req -x509 -new -key own-ca.key -subj /CN=Own-CA -days 30 -out own-ca.pem");
    let responder = Responder::start(&files);
    issue(&files, "responder", 16, "extendedKeyUsage=OCSPSigning\nnoCheck=yes\n");
    for (name, serial) in [("first.example", 17), ("second.example", 18)] {
        let url = &responder.url;
        let extensions = format!("subjectAltName=DNS:{name}\nauthorityInfoAccess=OCSP;URI:{url}\n");
        issue(&files, name, serial, &extensions);
        let chain = [format!("{name}.pem"), "own-ca.pem".to_owned()]
            .map(|file| std::fs::read(files.join(file)).unwrap());
        std::fs::write(files.join(format!("{name}.chain")), chain.concat()).unwrap();
    }
    // As EMQX has it: the certificate alone, the issuer elsewhere, and the responder named.
    issue(&files, "third.example", 19, "subjectAltName=DNS:third.example\n");
    responder.say(&[("11", 'V'), ("12", 'V'), ("13", 'V')]);
    let pair = |name: &str| format!("{{ certfile = \"pki/{name}.chain\", keyfile = \"pki/{name}.key\" }}");
    let pairs = format!("certificates = [{}, {}]\n", pair("first.example"), pair("second.example"));
    let stapling =
        "ocsp = { enable = true, allow_networks = [\"127.0.0.0/8\"], refresh_interval = \"1s\" }\n";
    let pasted = format!(
        "[listeners.ssl.pasted]\nbind = \"127.0.0.1:0\"\n[listeners.ssl.pasted.ssl_options]\nverify = \"verify_none\"\n\
         certfile = \"pki/third.example.pem\"\nkeyfile = \"pki/third.example.key\"\n\
         [listeners.ssl.pasted.ssl_options.ocsp]\nenable_ocsp_stapling = true\nresponder_url = \"{}\"\n\
         issuer_pem = \"pki/own-ca.pem\"\nrefresh_interval = \"1s\"\nrefresh_http_timeout = \"5s\"\n\
         [listeners.without]\nbind = \"127.0.0.1:0\"\nauth_mode = \"one-way\"\n{pairs}",
        responder.url
    );
    let mut broker = Broker::builder()
        .auth_mode("one-way")
        .without_files()
        .listener(&format!("{pairs}{stapling}"))
        .config(&pasted)
        .start_in(folder.clone(), pki, Some(temporary))
        .await;
    let ca = files.join("own-ca.pem");
    let good = Some(String::from("good"));
    for version in ["-tls1_2", "-tls1_3"] {
        for name in ["first.example", "second.example"] {
            eventually(&format!("the staple of {name}"), async || {
                (status(broker.port(), name, &ca, version) == good).then_some(())
            })
            .await;
        }
    }
    let port = broker.port_of("pasted").await;
    eventually("the staple of what was pasted", async || {
        (status(port, "third.example", &ca, "-tls1_3") == good).then_some(())
    })
    .await;
    // The same certificates where it is not wanted.
    let without = broker.port_of("without").await;
    assert_eq!(status(without, "first.example", &ca, "-tls1_3"), None);
    let admin = broker.admin();
    assert!(admin.metric("mqgate_ocsp_fetches_total{bundle=\"main\",result=\"ok\"}") >= 1.0);
    assert!(admin.metric("mqgate_ocsp_staple_valid_until_timestamp_seconds{bundle=\"main-2\"}") > 1e9);
    assert_eq!(admin.json(&["listener", "show", "main"])["certificates"][1]["stapled"], true);

    // The responder is away, and the broker starts again.
    responder.away.store(true, Ordering::SeqCst);
    broker.kill_and_restart();
    for name in ["first.example", "second.example"] {
        assert_eq!(status(broker.port(), name, &ca, "-tls1_3"), good, "{name}");
    }

    // It is back, and has bad news of one of them.
    responder.say(&[("11", 'V'), ("12", 'R'), ("13", 'V')]);
    responder.away.store(false, Ordering::SeqCst);
    eventually("the end of the revoked one's staple", async || {
        status(broker.port(), "second.example", &ca, "-tls1_3").is_none().then_some(())
    })
    .await;
    assert_eq!(status(broker.port(), "first.example", &ca, "-tls1_3"), good);
    let line = broker.audited("who is revoked", |line| line["name"] == "server_cert.revoked").await;
    assert_eq!((&line["fields"]["bundle"], &line["fields"]["serial"]), (&"main-2".into(), &"12".into()));
    assert!(broker.admin().metric("mqgate_ocsp_fetches_total{bundle=\"main-2\",result=\"revoked\"}") >= 1.0);
}
