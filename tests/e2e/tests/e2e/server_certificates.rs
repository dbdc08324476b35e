//! Certificates of the server, as `openssl s_client` sees them: every kind of key on both versions of TLS, in every
//! mode of a listener, with and without a client's certificate; bundles that the broker keeps; the built-in one.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use mqgate_e2e::{Broker, BrokerBuilder, Identity, Pki, tools};

const KINDS: [(&str, &str); 5] = [
    ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ("p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
    ("p384", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
    ("p521", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
    ("ed25519", "genpkey -algorithm ED25519"),
];
const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];
/// CONNECT of MQTT 3.1.1 as `c1`, and DISCONNECT.
const CONNECT: &[u8] = &[0x10, 0x0e, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 2, b'c', b'1', 0xe0, 0x00];

/// Runs openssl in `folder`; false where there is none.
fn openssl(folder: &Path, line: &str) -> bool {
    let Some(mut openssl) = tools::openssl() else { return false };
    tools::succeed(openssl.current_dir(folder).args(line.split_whitespace()));
    true
}

/// `{name}.pem` and `{name}.key` for the server name, signed by `own-ca.pem`.
fn issue(folder: &Path, make: &str, name: &str) {
    std::fs::write(folder.join("san"), format!("subjectAltName=DNS:{name}\n")).expect("writable");
    for line in [
        format!("{make} -out {name}.key"),
        format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"),
        format!(
            "x509 -req -in {name}.csr -CA own-ca.pem -CAkey own-ca.key -CAcreateserial -days 30 -extfile san -out {name}.pem"
        ),
    ] {
        openssl(folder, &line);
    }
}

fn issuer(folder: &Path) -> bool {
    std::fs::create_dir_all(folder).expect("the test's folder can be made");
    openssl(folder, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out own-ca.key")
        && openssl(folder, "req -x509 -new -key own-ca.key -subj /CN=Own-CA -days 30 -out own-ca.pem")
}

/// What a client hears who checks the server's name: MQTT's bytes on standard output, TLS's words on the other.
fn s_client(port: u16, name: &str, ca: &Path, more: &[&str], device: Option<&Identity>) -> Output {
    let mut openssl = tools::openssl().expect("found before");
    openssl.args(["s_client", "-quiet", "-verify_return_error", "-connect", &format!("127.0.0.1:{port}")]);
    openssl.args(["-servername", name, "-verify_hostname", name, "-CAfile"]).arg(ca).args(more);
    if let Some(device) = device {
        openssl.arg("-cert").arg(&device.certificate).arg("-key").arg(&device.key);
    }
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = openssl.spawn().expect("it ran before");
    // A server that refuses may be gone already.
    let _ = client.stdin.take().expect("piped").write_all(CONNECT);
    client.wait_with_output().expect("it is our child")
}

/// Whether the TLS connection stood: whatever the gate says then, it says by CONNACK.
fn stood(output: &Output) -> bool {
    output.stdout.starts_with(&[0x20, 0x02])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One broker with a certificate of each kind; `more` are lines of its listener.
async fn with_every_kind(mode: &'static str, more: &str) -> Option<(Broker, std::path::PathBuf)> {
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    let certificates = folder.join("pki");
    if !issuer(&certificates) {
        return None;
    }
    let mut lines = String::from("certificates = [\n");
    for (kind, make) in KINDS {
        let name = format!("{kind}.example");
        issue(&certificates, make, &name);
        // Encrypted, with the password in a file.
        openssl(
            &certificates,
            &format!("pkcs8 -topk8 -v2 aes-256-cbc -passout pass:geheim -in {name}.key -out {name}.enc"),
        );
        lines.push_str(&format!(
            "  {{ certfile = \"pki/{name}.pem\", keyfile = \"pki/{name}.enc\", password = \"file://pki/password\" }},\n"
        ));
    }
    lines.push_str("]\n");
    std::fs::write(certificates.join("password"), "geheim\n").expect("writable");
    let broker = Broker::builder()
        .auth_mode(mode)
        .without_files()
        .listener(&lines)
        .listener(more)
        .config("[limits]\nserver_certs = 5")
        .start_in(folder.clone(), pki, Some(temporary))
        .await;
    Some((broker, certificates.join("own-ca.pem")))
}

async fn every_kind_on_both_versions(mode: &'static str, more: &str, without: bool, with: bool) {
    let Some((broker, ca)) = with_every_kind(mode, more).await else { return };
    let device = broker.pki.device("device-1");
    for version in VERSIONS {
        for (kind, _) in KINDS {
            let name = format!("{kind}.example");
            for (device, expected) in [(None, without), (Some(&device), with)] {
                let output = s_client(broker.port(), &name, &ca, &[version], device);
                let who = if device.is_some() { "with" } else { "without" };
                assert_eq!(stood(&output), expected, "{version} {kind} {who}: {}", said(&output));
            }
        }
        // A name that no certificate has: the first, which is not for that name.
        let output = s_client(broker.port(), "other.example", &ca, &[version], Some(&device));
        assert!(said(&output).to_lowercase().contains("mismatch"), "{}", said(&output));
    }
}

#[tokio::test]
async fn every_kind_of_key_one_way() {
    every_kind_on_both_versions("one-way", "", true, true).await;
}

#[tokio::test]
async fn every_kind_of_key_mutual() {
    every_kind_on_both_versions("mutual", "", false, true).await;
}

#[tokio::test]
async fn every_kind_of_key_mutual_and_optional() {
    every_kind_on_both_versions("mutual", "fail_if_no_peer_cert = false", true, true).await;
}

#[tokio::test]
async fn a_strict_listener_says_that_it_does_not_know_the_name() {
    let Some((broker, ca)) = with_every_kind("one-way", "strict_sni = true").await else { return };
    for version in VERSIONS {
        let known = s_client(broker.port(), "rsa.example", &ca, &[version], None);
        assert!(stood(&known), "{}", said(&known));
        let unknown = s_client(broker.port(), "other.example", &ca, &[version], None);
        assert!(said(&unknown).contains("unrecognized name"), "{}", said(&unknown));
    }
    let line = broker.audited("who asked", |line| line["name"] == "tls.handshake_failed").await;
    assert_eq!(
        (line["reason"].as_str(), line["sni"].as_str()),
        (Some("tls_sni_unknown"), Some("other.example"))
    );
}

#[tokio::test]
async fn versions_suites_and_groups_as_configured() {
    let lines =
        "versions = \"tlsv1.2\"\nciphers = \"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305\"";
    let Some((broker, ca)) = with_every_kind("one-way", lines).await else { return };
    for (name, more, good) in [
        ("rsa.example", &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"][..], true),
        ("p256.example", &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], true),
        ("rsa.example", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], false),
        ("rsa.example", &["-tls1_2", "-cipher", "AES256-SHA"], false),
        ("rsa.example", &["-tls1_3"], false),
    ] {
        let output = s_client(broker.port(), name, &ca, more, None);
        assert_eq!(stood(&output), good, "{name} {more:?}: {}", said(&output));
    }
}

/// As configurations of Mosquitto and EMQX have it: `certfile` is the server's certificate alone, and the intermediate CA
/// that signed it stands in `cacertfile`.
#[tokio::test]
async fn a_chain_is_completed_from_the_cas_of_clients() {
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    let certificates = folder.join("pki");
    if !issuer(&certificates) {
        return;
    }
    let write = |name: &str, text: &str| std::fs::write(certificates.join(name), text).expect("writable");
    write("of-ca", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n");
    write("san", "subjectAltName=DNS:leaf.example\n");
    for (name, issuer, extensions) in [("sub-ca", "own-ca", "of-ca"), ("leaf", "sub-ca", "san")] {
        openssl(&certificates, &format!("{} -out {name}.key", KINDS[1].1));
        openssl(&certificates, &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
        let sign = format!("x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial");
        openssl(&certificates, &format!("{sign} -days 30 -extfile {extensions} -out {name}.pem"));
    }
    let read = |name: &str| std::fs::read_to_string(certificates.join(name)).expect("it was made");
    write("cas.pem", &(read("ca.pem") + &read("sub-ca.pem") + &read("own-ca.pem")));
    let files = "certfile = \"pki/leaf.pem\"\nkeyfile = \"pki/leaf.key\"\ncacertfile = \"pki/cas.pem\"";
    let broker = one_way().listener(files).start_in(folder.clone(), pki, Some(temporary)).await;
    for version in VERSIONS {
        let root = certificates.join("own-ca.pem");
        let output = s_client(broker.port(), "leaf.example", &root, &[version], None);
        assert!(stood(&output), "{version}: {}", said(&output));
    }
}

/// The serial number of the certificate that a client gets who asks for `name`.
fn serial(port: u16, name: &str) -> String {
    let mut openssl = tools::openssl().expect("found before");
    openssl.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", name]);
    let shown = tools::succeed(openssl.stdin(Stdio::null()));
    let mut x509 = tools::openssl().expect("found before");
    x509.args(["x509", "-noout", "-serial"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = x509.spawn().expect("it ran before");
    reader.stdin.take().expect("piped").write_all(&shown.stdout).expect("it reads");
    let output = reader.wait_with_output().expect("it is our child");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn one_way() -> BrokerBuilder {
    Broker::builder().auth_mode("one-way").without_files()
}

#[tokio::test]
async fn a_bundle_from_the_command_line_to_the_client() {
    let mut broker = one_way().start().await;
    let folder = broker.folder.join("pki");
    if !issuer(&folder) {
        return;
    }
    for name in ["shop.example", "a.example", "b.example", "c.example"] {
        issue(&folder, KINDS[1].1, name);
    }
    let add = |broker: &Broker, name: &str| {
        let file = |kind: &str| folder.join(format!("{name}.example.{kind}")).display().to_string();
        let (chain, key) = (file("pem"), file("key"));
        broker.admin().try_run(&["server-cert", "add", name, "--chain", &chain, "--key", &key])
    };
    for name in ["shop", "a", "b"] {
        let added = add(&broker, name);
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }
    // The fourth, by the name of the limit.
    let refused = add(&broker, "c");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("limits.server_certs") && text.contains("limit_exceeded"), "{text}");
    broker.admin().run(&["server-cert", "remove", "b"]);

    // It survives a crash, and a listener serves it.
    let file = broker.folder.join("mqgate.toml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let bound = "[listeners.main]\nmanaged_certs = [{ bundle_name = \"shop\" }]\n";
    std::fs::write(&file, text.replace("[listeners.main]\n", bound)).expect("writable");
    broker.kill_and_restart();
    let ca = folder.join("own-ca.pem");
    let output = s_client(broker.port(), "shop.example", &ca, &[], None);
    assert!(stood(&output), "{}", said(&output));

    let refused = broker.admin().try_run(&["server-cert", "remove", "shop"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("bundle_in_use") && text.contains("`main`"), "{text}");
    let refused = broker.admin().try_run(&["server-cert", "disable", "shop"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("last_certificate") && text.contains("`main`"), "{text}");

    // Replaced while it runs.
    let before = serial(broker.port(), "shop.example");
    issue(&folder, KINDS[1].1, "shop.example");
    let file = |kind: &str| folder.join(format!("shop.example.{kind}")).display().to_string();
    broker.admin().run(&["server-cert", "replace", "shop", "--chain", &file("pem"), "--key", &file("key")]);
    let after = serial(broker.port(), "shop.example");
    assert_ne!(before, after);
    let shown = broker.admin().json(&["server-cert", "show", "shop"]);
    assert_eq!(shown["used_by"][0], "main");
    assert!(!shown.to_string().contains("PRIVATE KEY"));
    broker
        .audited("who replaced it", |line| {
            line["name"] == "server_cert.replaced" && line["fields"]["bundle"] == "shop"
        })
        .await;
}

#[tokio::test]
async fn a_listener_without_a_certificate_has_the_builtin() {
    use std::os::unix::fs::PermissionsExt as _;
    if tools::openssl().is_none() {
        return;
    }
    let broker = one_way().start().await;
    let folder = broker.folder.join("data/builtin");
    let output = s_client(broker.port(), "localhost", &folder.join("ca.pem"), &[], None);
    assert!(stood(&output), "{}", said(&output));
    let mode = |name: &str| folder.join(name).metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("server.key"), mode("ca.key")), (0o600, 0o600));
    let list = broker.admin().json(&["server-cert", "list"]);
    assert_eq!((&list[0]["builtin"], &list[0]["used_by"][0]), (&true.into(), &"main".into()));
    let refused = broker.admin().try_run(&["server-cert", "disable", "builtin"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("last_certificate"), "{text}");
}
