//! Every mode of a listener, reached by the clients people have: with a certificate, without, and with one of
//! a stranger; in TLS 1.2 and 1.3; with ECDSA, RSA and Ed25519 on both sides.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, Pki, tools};

/// Whoever brings a certificate that is good gets in as its common name, whoever brings none as nobody.
const POLICY: &str = r#"
[[plugins.config.rules]]
match = { cn = "*" }
device_id = "${cn}"
publish = ["matrix/#"]
"#;

const KINDS: [&str; 3] = ["ec-p256", "rsa-2048", "ed25519"];
const VERSIONS: [&str; 2] = ["1.2", "1.3"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneWay,
    Mutual,
    /// Mutual, with `fail_if_no_peer_cert = false`.
    Optional,
    /// With registration by hand.
    PerDevice,
}

const MODES: [Mode; 4] = [Mode::OneWay, Mode::Mutual, Mode::Optional, Mode::PerDevice];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Known,
    None,
    /// Its CA is not trusted.
    Stranger,
}

impl Mode {
    fn admits(self, identity: Identity) -> bool {
        match self {
            Self::OneWay => true,
            Self::Mutual | Self::PerDevice => identity == Identity::Known,
            Self::Optional => identity != Identity::Stranger,
        }
    }
}

/// Where a client finds what it needs.
struct Target {
    port: u16,
    ca: PathBuf,
    /// Certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
    version: &'static str,
}

fn pki(folder: &Path, line: &str) {
    tools::succeed(Command::new(mqgate()).current_dir(folder).arg("pki").args(line.split_whitespace()));
}

/// A broker in `mode`; its certificate and that of the devices have keys of `kind`.
async fn broker(mode: Mode, kind: &str) -> Broker {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    pki(&folder, &format!("ca --cn Matrix --key {kind}"));
    pki(&folder, &format!("server --name server --san localhost --san 127.0.0.1 --key {kind}"));
    pki(&folder, &format!("device --cn known --key {kind}"));
    pki(&folder, "ca --dir other --cn Other");
    pki(&folder, &format!("device --dir other --cn stranger --key {kind}"));
    let (auth_mode, lines) = match mode {
        Mode::OneWay => ("one-way", ""),
        Mode::Mutual => ("mutual", ""),
        Mode::Optional => ("mutual", "fail_if_no_peer_cert = false"),
        Mode::PerDevice => ("per-device", ""),
    };
    let mut builder = Broker::builder().auth_mode(auth_mode).listener(lines);
    if mode == Mode::PerDevice {
        builder = builder.registration("manual");
    }
    let unused = Pki::create(&folder.join("unused"), "unused");
    let broker = builder
        .with_native("static-policy", POLICY)
        .with_native("anonymous", "")
        .start_in(folder.clone(), unused, Some(temporary))
        .await;
    if mode == Mode::PerDevice {
        broker.admin().run(&["cert", "register", folder.join("pki/known.pem").to_str().unwrap()]);
    }
    broker
}

/// Tries every mode with each key, version and identity; panics with what came out differently.
async fn reach(kinds: &[&str], client: impl Fn(&Target) -> Command, answered: impl Fn(&[u8]) -> bool) {
    let mut wrong = Vec::new();
    for kind in kinds {
        for mode in MODES {
            let broker = broker(mode, kind).await;
            let pair = |name: &str| {
                let file = |ending: &str| broker.folder.join(format!("{name}.{ending}"));
                Some((file("pem"), file("key")))
            };
            for version in VERSIONS {
                for identity in [Identity::Known, Identity::None, Identity::Stranger] {
                    // The fast tier has one kind of key, and leaves out what differs least.
                    if kinds.len() == 1 && version == "1.2" && identity != Identity::Known {
                        continue;
                    }
                    let target = Target {
                        port: broker.port(),
                        ca: broker.folder.join("pki/ca.pem"),
                        identity: match identity {
                            Identity::Known => pair("pki/known"),
                            Identity::None => None,
                            Identity::Stranger => pair("other/stranger"),
                        },
                        version,
                    };
                    let (connected, said) = run(client(&target), &answered);
                    if connected != mode.admits(identity) {
                        wrong
                            .push(format!("{kind} {mode:?} TLS {version} {identity:?}: {connected}\n{said}"));
                    }
                }
            }
            let (_, metrics) = broker.admin().page("/metrics");
            for version in VERSIONS {
                let label = format!("version=\"{version}\"");
                let mut series =
                    metrics.lines().filter(|line| line.starts_with("mqgate_tls_live_connections{"));
                assert!(series.any(|line| line.contains(&label)), "TLS {version} was not used");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Gives the client CONNECT and DISCONNECT on its input, for those that want them, and waits for its end.
fn run(mut command: Command, answered: &impl Fn(&[u8]) -> bool) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it ran before");
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04open\xe0\x00");
    }
    let ended = end(&mut child);
    let output = child.wait_with_output().expect("it is our child");
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let connected = ended && answered(&output.stdout) && (output.status.success() || output.stdout.len() > 3);
    (connected, said)
}

/// Whether it ended by itself.
fn end(child: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if child.try_wait().expect("it is our child").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    false
}

/// What the others print when they are in.
fn says_done(output: &[u8]) -> bool {
    String::from_utf8_lossy(output).contains("done")
}

fn openssl(target: &Target) -> Command {
    let mut command = tools::openssl().expect("found before");
    command.args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"]);
    command.args(["-servername", "localhost", "-connect", &format!("127.0.0.1:{}", target.port)]);
    command.arg(if target.version == "1.2" { "-tls1_2" } else { "-tls1_3" });
    command.arg("-CAfile").arg(&target.ca);
    if let Some((certificate, key)) = &target.identity {
        command.arg("-cert").arg(certificate).arg("-key").arg(key);
    }
    command
}

#[tokio::test]
async fn openssl_reaches_every_mode_with_every_key() {
    if tools::openssl().is_none() {
        return;
    }
    // CONNACK, and nothing that refuses in it.
    reach(&KINDS, openssl, |output| output.windows(4).any(|part| part == [0x20, 2, 0, 0])).await;
}

fn mosquitto(target: &Target) -> Command {
    let mut command = tools::mosquitto("mosquitto_pub").expect("found before");
    command.args([
        "-h",
        "localhost",
        "-p",
        &target.port.to_string(),
        "-d",
        "-q",
        "1",
        "-t",
        "matrix/t",
        "-m",
        "x",
    ]);
    if target.version == "1.2" {
        tools::at_most_tls_1_2(&mut command, target.ca.parent().expect("a file has a folder"));
    }
    command.arg("--cafile").arg(&target.ca);
    if let Some((certificate, key)) = &target.identity {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    command
}

/// It prints what it sends and receives.
fn has_puback(output: &[u8]) -> bool {
    String::from_utf8_lossy(output).contains("received PUBACK")
}

#[tokio::test]
async fn mosquitto_reaches_every_mode() {
    if tools::mosquitto("mosquitto_pub").is_none() {
        return;
    }
    reach(&KINDS[..1], mosquitto, has_puback).await;
}

#[tokio::test]
#[ignore = "full: two more kinds of key"]
async fn mosquitto_reaches_every_mode_with_rsa_and_ed25519() {
    if tools::mosquitto("mosquitto_pub").is_none() {
        return;
    }
    reach(&KINDS[1..], mosquitto, has_puback).await;
}

const PAHO: &str = r#"
import ssl, sys, threading
import paho.mqtt.client as mqtt
port, version, ca, *identity = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, "TLSv" + version.replace(".", "_"))
if identity:
    context.load_cert_chain(*identity)
client.tls_set_context(context)
over = threading.Event()
def connected(client, userdata, flags, reason, properties):
    if reason.is_failure:
        over.set()
    else:
        client.publish("matrix/t", "x", qos=1)
def published(client, userdata, mid, reason, properties):
    if not reason.is_failure:
        print("done", flush=True)
    over.set()
client.on_connect, client.on_publish = connected, published
client.on_disconnect = lambda *a: over.set()
client.connect("localhost", int(port))
client.loop_start()
over.wait(20)
"#;

fn paho(target: &Target) -> Command {
    let mut command = tools::python_with_paho().expect("found before");
    command.args(["-c", PAHO, &target.port.to_string(), target.version]).arg(&target.ca);
    if let Some((certificate, key)) = &target.identity {
        command.arg(certificate).arg(key);
    }
    command
}

#[tokio::test]
async fn paho_reaches_every_mode() {
    if tools::python_with_paho().is_none() {
        return;
    }
    reach(&KINDS[..1], paho, says_done).await;
}

#[tokio::test]
#[ignore = "full: two more kinds of key"]
async fn paho_reaches_every_mode_with_rsa_and_ed25519() {
    if tools::python_with_paho().is_none() {
        return;
    }
    reach(&KINDS[1..], paho, says_done).await;
}

const MQTT_JS: &str = r#"
const fs = require("fs"), mqtt = require("mqtt");
const [port, version, ca, cert, key] = process.argv.slice(1);
const options = { ca: fs.readFileSync(ca), reconnectPeriod: 0, connectTimeout: 20000, protocolVersion: 5,
    minVersion: "TLSv" + version, maxVersion: "TLSv" + version };
if (cert) Object.assign(options, { cert: fs.readFileSync(cert), key: fs.readFileSync(key) });
const client = mqtt.connect("mqtts://localhost:" + port, options);
client.on("connect", () => client.publish("matrix/t", "x", { qos: 1 }, (error) => {
    if (!error) console.log("done");
    process.exit(error ? 1 : 0);
}));
client.on("error", (error) => { console.error(error.message); process.exit(1); });
client.on("close", () => process.exit(1));
"#;

fn mqtt_js(target: &Target) -> Command {
    let mut command = tools::node_with_mqtt().expect("found before");
    command.args(["-e", MQTT_JS, "--", &target.port.to_string(), target.version]).arg(&target.ca);
    if let Some((certificate, key)) = &target.identity {
        command.arg(certificate).arg(key);
    }
    command
}

#[tokio::test]
async fn mqtt_js_reaches_every_mode() {
    if tools::node_with_mqtt().is_none() {
        return;
    }
    reach(&KINDS[..1], mqtt_js, says_done).await;
}

#[tokio::test]
#[ignore = "full: two more kinds of key"]
async fn mqtt_js_reaches_every_mode_with_rsa_and_ed25519() {
    if tools::node_with_mqtt().is_none() {
        return;
    }
    reach(&KINDS[1..], mqtt_js, says_done).await;
}
