//! The clients people have over every transport they speak: TCP, TLS, WebSocket, secure WebSocket, Unix sockets.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use mqgate_e2e::{Broker, Identity, tools};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};

const EVERYTHING: &str = r#"
[[policy.acls.all.rules]]
topic = "t/#"
"#;

/// A broker that listens on everything. `main` is mutual TLS, `wss` too; the plain ones take anybody of this machine.
async fn everywhere() -> Broker {
    let policy =
        "\n[[plugins.config.rules]]\nmatch = { cn = \"*\" }\npublish = [\"t/#\"]\nsubscribe = [\"t/#\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let more = format!(
        r#"
[listeners.tcp]
type = "tcp"
bind = "127.0.0.1:0"
[listeners.ws]
type = "ws"
bind = "127.0.0.1:0"
[listeners.wss]
type = "wss"
auth_mode = "mutual"
bind = "127.0.0.1:0"
certfile = "pki/server.pem"
keyfile = "pki/server.key"
cacertfile = "pki/ca.pem"
[listeners.unix]
type = "tcp"
bind = "unix:{}/mqtt.sock"
{EVERYTHING}"#,
        folder.path().display()
    );
    let pki = mqgate_e2e::Pki::create(&folder.path().join("pki"), "test");
    let path = folder.path().to_path_buf();
    Broker::builder()
        .auth_mode("mutual")
        .with_native("static-policy", policy)
        .with_native("anonymous", "config = { acl = \"all\" }")
        .config(&more)
        .start_in(path, pki, Some(folder))
        .await
}

/// Where a scheme is spoken.
async fn port(broker: &Broker, scheme: &str) -> u16 {
    match scheme {
        "tls" => broker.port(),
        name => broker.port_of(name).await,
    }
}

const PAHO: &str = r#"
import ssl, sys, threading
import paho.mqtt.client as mqtt
scheme, port, ca, cert, key, version = sys.argv[1], int(sys.argv[2]), *sys.argv[3:7]
protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
transport = "websockets" if scheme in ("ws", "wss") else "unix" if scheme == "unix" else "tcp"
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=protocol, transport=transport)
if scheme in ("tls", "wss"):
    client.tls_set(ca, cert, key, cert_reqs=ssl.CERT_REQUIRED)
seen, ready, done = [], threading.Event(), threading.Event()
def connected(client, userdata, flags, reason, properties):
    if reason.is_failure:
        sys.exit(f"refused: {reason}")
    client.subscribe([("t/paho/#", 2)])
def message(client, userdata, message):
    seen.append((message.qos, len(message.payload)))
    if len(seen) == 4:
        done.set()
client.on_connect = connected
client.on_subscribe = lambda *a: ready.set()
client.on_message = message
client.connect("localhost", port)
client.loop_start()
assert ready.wait(10), "no SUBACK"
for qos in (0, 1, 2):
    client.publish("t/paho/a", "x" * (qos + 1), qos=qos).wait_for_publish(10)
client.publish("t/paho/large", "x" * 300000, qos=1).wait_for_publish(10)
assert done.wait(10), f"only {seen} came back"
client.disconnect()
print(sorted(seen))
"#;

async fn paho(scheme: &str, version: &str) {
    let Some(mut python) = tools::python_with_paho() else { return };
    let broker = everywhere().await;
    let device = broker.pki.device("paho");
    python.args(["-c", PAHO, scheme, &port(&broker, scheme).await.to_string()]);
    python.arg(broker.pki.ca()).arg(&device.certificate).arg(&device.key).arg(version);
    let output = tools::succeed(&mut python);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "[(0, 1), (1, 2), (1, 300000), (2, 3)]");
    assert_listener(&broker, scheme).await;
}

/// The listener counted the client, and nobody else did.
async fn assert_listener(broker: &Broker, scheme: &str) {
    let name = if scheme == "tls" { "main" } else { scheme };
    let line = broker
        .audited("the client was let in", |line| {
            line["name"] == "connection.accepted" && line["listener"] == name
        })
        .await;
    let has_certificate = line["fingerprint"].is_string();
    assert_eq!(has_certificate, matches!(scheme, "tls" | "wss"), "{line}");
}

const MQTT_JS: &str = r#"
const fs = require("fs"), mqtt = require("mqtt");
const [scheme, port, ca, cert, key, version] = process.argv.slice(1);
const path = scheme.startsWith("ws") ? "/mqtt" : "";
const name = scheme === "tls" ? "mqtts" : scheme === "tcp" ? "mqtt" : scheme;
const options = { protocolVersion: Number(version), clientId: "js", reconnectPeriod: 0, connectTimeout: 10000 };
if (scheme === "tls" || scheme === "wss")
  Object.assign(options, { ca: fs.readFileSync(ca), cert: fs.readFileSync(cert), key: fs.readFileSync(key) });
const fail = (error) => { console.error(error); process.exit(1); };
setTimeout(() => fail("nothing for 20 s"), 20000).unref();
const client = mqtt.connect(`${name}://localhost:${port}${path}`, options);
client.on("error", fail);
const seen = [];
client.on("message", (topic, payload, packet) => {
  seen.push(`${packet.qos}:${payload.length}`);
  if (seen.length === 4) client.end(false, {}, () => console.log(seen.sort().join(" ")));
});
client.on("connect", () => client.subscribe("t/js/#", { qos: 2 }, (error) => {
  if (error) fail(error);
  for (const qos of [0, 1, 2]) client.publish("t/js/a", "x".repeat(qos + 1), { qos });
  client.publish("t/js/large", "x".repeat(300000), { qos: 1 });
}));
"#;

async fn mqtt_js(scheme: &str, version: &str) {
    let Some(mut node) = tools::node_with_mqtt() else { return };
    let broker = everywhere().await;
    let device = broker.pki.device("js");
    node.args(["-e", MQTT_JS, scheme, &port(&broker, scheme).await.to_string()]);
    node.arg(broker.pki.ca()).arg(&device.certificate).arg(&device.key).arg(version);
    let output = tools::succeed(&mut node);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0:1 1:2 1:300000 2:3");
    assert_listener(&broker, scheme).await;
}

const AIOMQTT: &str = r#"
import asyncio, ssl, sys, aiomqtt
scheme, port, ca, cert, key = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
async def main():
    tls = None
    if scheme in ("tls", "wss"):
        tls = ssl.create_default_context(cafile=ca)
        tls.load_cert_chain(cert, key)
    transport = "websockets" if scheme in ("ws", "wss") else "tcp"
    options = dict(port=port, identifier="aio", tls_context=tls, transport=transport, protocol=aiomqtt.ProtocolVersion.V5)
    if transport == "websockets":
        options["websocket_path"] = "/mqtt"
    async with aiomqtt.Client("localhost", **options) as client:
        await client.subscribe("t/aio/#", qos=2)
        for qos in (0, 1, 2):
            await client.publish("t/aio/a", f"m{qos}", qos=qos)
        seen = []
        async for message in client.messages:
            seen.append((message.qos, message.payload.decode()))
            if len(seen) == 3:
                break
        print(sorted(seen))
asyncio.run(asyncio.wait_for(main(), 20))
"#;

async fn aiomqtt(scheme: &str) {
    let Some(mut python) = tools::python_with_paho() else { return };
    let broker = everywhere().await;
    let device = broker.pki.device("aio");
    python.args(["-c", AIOMQTT, scheme, &port(&broker, scheme).await.to_string()]);
    python.arg(broker.pki.ca()).arg(&device.certificate).arg(&device.key);
    let output = tools::succeed(&mut python);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[(0, 'm0'), (1, 'm1'), (2, 'm2')]");
    assert_listener(&broker, scheme).await;
}

async fn rumqttc(scheme: &str) {
    let broker = everywhere().await;
    let device = broker.pki.device("rum");
    let port = port(&broker, scheme).await;
    let mut options = match scheme {
        "ws" | "wss" => MqttOptions::new("rum", format!("{scheme}://localhost:{port}/mqtt"), port),
        _ => MqttOptions::new("rum", "localhost", port),
    };
    options.set_max_packet_size(1 << 20, 1 << 20);
    let tls = || {
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let client = Some((read(&device.certificate), read(&device.key)));
        TlsConfiguration::Simple { ca: read(&broker.pki.ca()), alpn: None, client_auth: client }
    };
    options.set_transport(match scheme {
        "tls" => Transport::tls_with_config(tls()),
        "ws" => Transport::Ws,
        "wss" => Transport::wss_with_config(tls()),
        _ => Transport::Tcp,
    });
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("t/rum/#", QoS::ExactlyOnce).await.unwrap();
    let mut seen = Vec::new();
    let talking = async {
        while seen.len() < 4 {
            match events.poll().await.expect("the connection holds") {
                Event::Incoming(Packet::SubAck(_)) => {
                    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                        client.try_publish("t/rum/a", qos, false, vec![b'x'; qos as usize + 1]).unwrap();
                    }
                    client.try_publish("t/rum/large", QoS::AtLeastOnce, false, vec![b'x'; 300_000]).unwrap();
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    seen.push((publish.qos as u8, publish.payload.len()));
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), talking).await.expect("four messages");
    seen.sort_unstable();
    assert_eq!(seen, [(0, 1), (1, 2), (1, 300_000), (2, 3)]);
    assert_listener(&broker, scheme).await;
}

macro_rules! stories {
    ($($name:ident: $client:ident($($argument:literal),*);)*) => {$(
        #[tokio::test]
        async fn $name() {
            $client($($argument),*).await;
        }
    )*};
}

stories! {
    paho_over_tcp: paho("tcp", "5");
    paho_over_tls: paho("tls", "3.1.1");
    paho_over_websocket: paho("ws", "5");
    paho_over_websocket_3_1_1: paho("ws", "3.1.1");
    paho_over_secure_websocket_with_a_certificate: paho("wss", "5");
    mqtt_js_over_tcp: mqtt_js("tcp", "5");
    mqtt_js_over_tls: mqtt_js("tls", "4");
    mqtt_js_over_websocket: mqtt_js("ws", "5");
    mqtt_js_over_websocket_3_1_1: mqtt_js("ws", "4");
    mqtt_js_over_secure_websocket_with_a_certificate: mqtt_js("wss", "5");
    aiomqtt_over_tcp: aiomqtt("tcp");
    aiomqtt_over_tls: aiomqtt("tls");
    aiomqtt_over_websocket: aiomqtt("ws");
    aiomqtt_over_secure_websocket: aiomqtt("wss");
    rumqttc_over_tcp: rumqttc("tcp");
    rumqttc_over_tls: rumqttc("tls");
    rumqttc_over_websocket: rumqttc("ws");
    rumqttc_over_secure_websocket: rumqttc("wss");
}

/// The command line that comes with MQTT.js.
#[tokio::test]
async fn mqtt_js_command_line_over_secure_websocket() {
    let Some(node) = tools::node_with_mqtt() else { return };
    let broker = everywhere().await;
    let device = broker.pki.device("cli");
    let port = port(&broker, "wss").await;
    let command = |what: &str, identity: &Identity| {
        let program = "const path = require('path'); require(path.join(path.dirname(require.resolve('mqtt/package.json')), 'build/bin/mqtt.js'))";
        let mut command = Command::new(node.get_program());
        command.envs(node.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["-e", program, "mqtt", what, "-h", "localhost", "-p", &port.to_string(), "-C", "wss"]);
        command.args(["--path", "/mqtt", "-i", &format!("cli-{what}")]);
        command.arg("--ca").arg(broker.pki.ca()).arg("--cert").arg(&identity.certificate);
        command.arg("--key").arg(&identity.key);
        command
    };
    tools::succeed(command("publish", &device).args(["-t", "t/cli", "-m", "kept", "-r", "-q", "1"]));
    let line = broker
        .audited("it was let in", |line| {
            line["name"] == "connection.accepted" && line["client_id"] == "cli-publish"
        })
        .await;
    assert_eq!(
        (&line["listener"], &line["fingerprint"]),
        (&"wss".into(), &device.fingerprint.clone().into())
    );
    assert!((broker.admin().metric("mqgate_messages_retained") - 1.0).abs() < 0.1);
}

/// By hand: nobody's library speaks MQTT over a Unix socket everywhere.
#[tokio::test]
async fn a_unix_socket_knows_its_caller() {
    let broker = everywhere().await;
    let path = broker.folder.join("mqtt.sock");
    mqgate_e2e::eventually("the socket", async || path.exists().then_some(())).await;
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01u").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    let line = broker
        .audited("it was let in", |line| line["name"] == "connection.accepted" && line["listener"] == "unix")
        .await;
    assert_eq!(line["peer"], "unix");
    assert_eq!(line["fields"]["unix.pid"].as_i64(), Some(i64::from(std::process::id())), "{line}");
    assert!(broker.admin().metric("mqgate_bytes_received_total{transport=\"unix\"}") >= 15.0);
}
