//! The openssl commands of a widely read tutorial on mutual TLS for MQTT, typed word by word. They give an
//! X.509 v1 client certificate, and it must work.

use std::fs;
use std::path::Path;

use mqgate_e2e::{Broker, Pki, tools};

/// The tutorial's configuration with BROKER_ADDRESS filled in and one of its two lines kept.
const OPENSSL_CNF: &str = "\
[req]
default_bits  = 2048
distinguished_name = req_distinguished_name
req_extensions = req_ext
x509_extensions = v3_req
prompt = no
[req_distinguished_name]
countryName = CN
stateOrProvinceName = Zhejiang
localityName = Hangzhou
organizationName = EMQX
commonName = CA
[req_ext]
subjectAltName = @alt_names
[v3_req]
subjectAltName = @alt_names
[alt_names]
IP.1 = 127.0.0.1
";

const COMMANDS: &[&str] = &[
    "genrsa -out ca.key 2048",
    // The prompt's answer is given as -subj.
    "req -x509 -new -nodes -key ca.key -sha256 -days 3650 -out ca.pem -subj /C=CN/O=EMQX/CN=RootCA",
    "genrsa -out emqx.key 2048",
    "req -new -key ./emqx.key -config openssl.cnf -out emqx.csr",
    "x509 -req -in ./emqx.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out emqx.pem -days 3650 -sha256 -extensions v3_req -extfile openssl.cnf",
    "genrsa -out client.key 2048",
    "req -new -key client.key -out client.csr -subj /C=CN/ST=Zhejiang/L=Hangzhou/O=EMQX/CN=client",
    "x509 -req -days 3650 -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem",
];

/// Runs the commands in `folder`; false when this machine has no openssl.
fn run_commands(folder: &Path) -> bool {
    fs::create_dir_all(folder).expect("the test's folder can be made");
    fs::write(folder.join("openssl.cnf"), OPENSSL_CNF).expect("the test's folder is writable");
    for line in COMMANDS {
        let Some(mut openssl) = tools::openssl() else { return false };
        tools::succeed(openssl.current_dir(folder).args(line.split_whitespace()));
    }
    true
}

async fn publish_with(tls_version: &str) {
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = temporary.path().to_path_buf();
    let pki_folder = folder.join("pki");
    if !run_commands(&pki_folder) {
        return;
    }
    let Some(mut openssl) = tools::openssl() else { return };
    let text =
        tools::succeed(openssl.args(["x509", "-noout", "-text", "-in"]).arg(pki_folder.join("client.pem")));
    assert!(String::from_utf8_lossy(&text.stdout).contains("Version: 1 (0x0)"), "the tutorial's point");
    let pki = Pki::create(&folder.join("unused"), "unused");
    let broker = Broker::builder()
        .with_bundled_plugins()
        .files("emqx.pem", "emqx.key")
        .start_in(folder.clone(), pki, Some(temporary))
        .await;
    let Some(mut publish) = tools::mosquitto("mosquitto_pub") else { return };
    if tls_version == "1.2" {
        tools::at_most_tls_1_2(&mut publish, &folder);
    }
    tools::succeed(publish.args(["-h", "127.0.0.1", "-p", &broker.port().to_string()]).args([
        "--cafile",
        &pki_folder.join("ca.pem").display().to_string(),
        "--cert",
        &pki_folder.join("client.pem").display().to_string(),
        "--key",
        &pki_folder.join("client.key").display().to_string(),
        "-q",
        "1",
        "-t",
        "devices/client/t",
        "-m",
        "from a v1 certificate",
    ]));
    let line = broker.audited("the v1 certificate is in", |line| line["name"] == "connection.accepted").await;
    assert_eq!(line["device_id"], "client");
    let (_, metrics) = broker.admin().page("/metrics");
    let used = metrics.lines().find(|line| line.starts_with("mqgate_tls_live_connections{"));
    let label = format!("version=\"{tls_version}\"");
    assert!(used.is_some_and(|line| line.contains(&label)), "not TLS {tls_version}: {used:?}");
}

#[tokio::test]
async fn the_tutorials_certificates_publish_on_tls_1_2() {
    publish_with("1.2").await;
}

#[tokio::test]
async fn the_tutorials_certificates_publish_on_tls_1_3() {
    publish_with("1.3").await;
}
