//! The admin API on TLS: its own certificate, certificates of the operators, and the command line that speaks it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, Identity, Pki, eventually, tools};

/// `mqgate {arguments}` with the broker's configuration and nothing else.
fn run(broker: &Broker, arguments: &[&str]) -> Output {
    let mut command = Command::new(mqgate());
    for name in ["MQGATE_URL", "MQGATE_TOKEN", "MQGATE_CACERT", "MQGATE_CLIENT_CERT", "MQGATE_CLIENT_KEY"] {
        command.env_remove(name);
    }
    command.args(arguments).env("MQGATE_CONFIG", broker.folder.join("mqgate.toml")).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn admin_port(broker: &Broker) -> u16 {
    let text = std::fs::read_to_string(broker.folder.join("data/endpoints.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(known["admin_tls"], true);
    known["admin"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// What `GET /health` brings, asked by openssl; and what openssl says.
fn health(port: u16, ca: &Path, identity: Option<&Identity>) -> (String, String) {
    let mut openssl = tools::openssl().expect("found before");
    openssl.args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"]);
    openssl.args(["-servername", "localhost", "-connect", &format!("127.0.0.1:{port}"), "-CAfile"]).arg(ca);
    if let Some(identity) = identity {
        openssl.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
    }
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = openssl.spawn().unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // A server that refuses may be gone already.
    let _ = client.stdin.as_mut().unwrap().write_all(request);
    let output = client.wait_with_output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), said(&output))
}

#[tokio::test]
async fn with_the_builtin_certificate_the_command_line_needs_no_flags() {
    let broker = Broker::builder().tcp().config("[admin.tls]\n").start().await;
    let output = run(&broker, &["listener", "list"]);
    assert!(output.status.success(), "{}", said(&output));
    let port = admin_port(&broker);
    // Nothing is said without TLS.
    let plain = run(&broker, &["listener", "list", "--url", &format!("http://127.0.0.1:{port}")]);
    assert_eq!(plain.status.code(), Some(69), "{}", said(&plain));
    // A CA that it is not of.
    let ca = broker.pki.ca();
    let strange = run(&broker, &["listener", "list", "--cacert", ca.to_str().unwrap()]);
    assert_eq!(strange.status.code(), Some(69), "{}", said(&strange));
    assert!(said(&strange).contains("certificate"), "{}", said(&strange));
}

#[tokio::test]
async fn operators_show_a_certificate_and_have_the_token_as_well() {
    if tools::openssl().is_none() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    let operators = Pki::create(&folder.join("operators"), "operators");
    let tls = "[admin.tls]\ncertfile = \"pki/server.pem\"\nkeyfile = \"pki/server.key\"\n\
               cacertfile = \"operators/ca.pem\"\nversions = [\"tlsv1.3\"]\n";
    let broker = Broker::builder().tcp().config(tls).start_in(folder.clone(), pki, Some(temporary)).await;
    let (operator, stranger) = (operators.device("operator"), broker.pki.device("stranger"));
    let ca = broker.pki.ca();
    let port = admin_port(&broker);
    let url = format!("https://localhost:{port}");
    let with = |identity: Option<&Identity>, more: &[&str]| {
        let mut arguments = vec!["listener", "list", "--api", &url, "--cacert", ca.to_str().unwrap()];
        if let Some(identity) = identity {
            arguments.extend(["--client-cert", identity.certificate.to_str().unwrap()]);
            arguments.extend(["--client-key", identity.key.to_str().unwrap()]);
        }
        arguments.extend(more);
        run(&broker, &arguments)
    };
    let good = with(Some(&operator), &[]);
    assert!(good.status.success(), "{}", said(&good));
    for (identity, reason) in [(None, "tls_no_peer_cert"), (Some(&stranger), "cert_unknown_ca")] {
        let refused = with(identity, &[]);
        assert_eq!(refused.status.code(), Some(69), "{reason}: {}", said(&refused));
        broker
            .audited(reason, |line| {
                line["name"] == "tls.handshake_failed"
                    && line["listener"] == "admin.tls"
                    && line["reason"] == reason
            })
            .await;
    }
    let without_token = with(Some(&operator), &["--token", "not-the-token-at-all"]);
    assert_eq!(without_token.status.code(), Some(77), "{}", said(&without_token));
    // A certificate with somebody else's key is named before anything is sent.
    let mixed = Identity { key: stranger.key.clone(), ..operator.clone() };
    let mixed = with(Some(&mixed), &[]);
    assert_eq!(mixed.status.code(), Some(2), "{}", said(&mixed));

    // Who changed something, by token and certificate.
    let changed = run(
        &broker,
        &[
            "listener",
            "set",
            "main",
            "max_connections=7",
            "--api",
            &url,
            "--cacert",
            ca.to_str().unwrap(),
            "--client-cert",
            operator.certificate.to_str().unwrap(),
            "--client-key",
            operator.key.to_str().unwrap(),
        ],
    );
    assert!(changed.status.success(), "{}", said(&changed));
    let line = broker.audited("who changed it", |line| line["name"] == "config.reloaded").await;
    assert_eq!(line["actor"], "admin:default (CN=operator)");

    let (answer, _) = health(port, &ca, Some(&operator));
    assert!(answer.contains("200 OK") && answer.contains("\"ok\""), "{answer}");
    let (answer, words) = health(port, &ca, None);
    assert!(!answer.contains("200 OK"), "{answer}");
    assert!(words.to_lowercase().contains("alert"), "{words}");

    // Another certificate in the same files is shown without a restart, another CA of operators counts as well.
    let renewed = Pki::create(&folder.join("pki"), "renewed");
    let others = Pki::create(&folder.join("operators"), "others");
    let other = others.device("other");
    broker.hang_up();
    eventually("the new certificate", async || {
        health(port, &renewed.ca(), Some(&other)).0.contains("200 OK").then_some(())
    })
    .await;
    let (answer, _) = health(port, &renewed.ca(), Some(&operator));
    assert!(!answer.contains("200 OK"), "{answer}");
}
