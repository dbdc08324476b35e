//! The clients people have: Mosquitto's and paho's, every QoS, both protocol versions, over mutual TLS.

use std::process::{Command, Stdio};

use mqgate_e2e::{Broker, Identity, tools};

/// Subscribes with `mosquitto_sub`, publishes with `mosquitto_pub`, and compares what came out.
async fn mosquitto_roundtrip(version: &str, qos: &str) {
    let (Some(mut sub), Some(mut publish)) =
        (tools::mosquitto("mosquitto_sub"), tools::mosquitto("mosquitto_pub"))
    else {
        return;
    };
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let topic = "devices/device-1/temperature";
    let flags = broker.mosquitto_flags(&device);
    // A retained message says when the subscription stands: what is published after it must arrive as well.
    let mut retained = tools::mosquitto("mosquitto_pub").expect("found above");
    tools::succeed(retained.args(&flags).args(["-V", version, "-q", qos, "-t", topic, "-m", "kept", "-r"]));
    let subscriber = sub
        .args(&flags)
        .args([
            "-V",
            version,
            "-q",
            qos,
            "-t",
            "devices/device-1/#",
            "-F",
            "%q %r %t %p",
            "-C",
            "2",
            "-W",
            "20",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it ran a moment ago");
    broker
        .audited("the subscriber is in", |line| {
            line["name"] == "connection.accepted" && line["seq"].as_u64() > Some(1)
        })
        .await;
    mqgate_e2e::eventually("the subscription", async || {
        (broker.admin().metric("mqgate_subscriptions{kind=\"normal\"}") >= 1.0).then_some(())
    })
    .await;
    tools::succeed(publish.args(&flags).args(["-V", version, "-q", qos, "-t", topic, "-m", "21.5"]));
    let output = subscriber.wait_with_output().expect("it is our child");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, format!("{qos} 1 {topic} kept\n{qos} 0 {topic} 21.5\n"));
}

macro_rules! mosquitto {
    ($($name:ident: $version:literal, $qos:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            mosquitto_roundtrip($version, $qos).await;
        }
    )*};
}

mosquitto! {
    mosquitto_3_1_1_qos_0: "mqttv311", "0";
    mosquitto_3_1_1_qos_1: "mqttv311", "1";
    mosquitto_3_1_1_qos_2: "mqttv311", "2";
    mosquitto_5_qos_0: "mqttv5", "0";
    mosquitto_5_qos_1: "mqttv5", "1";
    mosquitto_5_qos_2: "mqttv5", "2";
}

const PAHO: &str = r#"
import ssl, sys, threading
import paho.mqtt.client as mqtt
port, ca, cert, key, version = int(sys.argv[1]), *sys.argv[2:6]
protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=protocol)
client.tls_set(ca, cert, key, cert_reqs=ssl.CERT_REQUIRED)
seen, ready, done = [], threading.Event(), threading.Event()
def connected(client, userdata, flags, reason, properties):
    if reason.is_failure:
        sys.exit(f"refused: {reason}")
    client.subscribe([("devices/paho/#", 2)])
def message(client, userdata, message):
    seen.append((message.qos, message.payload.decode()))
    if len(seen) == 3:
        done.set()
client.on_connect = connected
client.on_subscribe = lambda *a: ready.set()
client.on_message = message
client.connect("localhost", port)
client.loop_start()
assert ready.wait(10), "no SUBACK"
for qos in (0, 1, 2):
    client.publish("devices/paho/t", f"m{qos}", qos=qos).wait_for_publish(10)
assert done.wait(10), f"only {seen} came back"
client.disconnect()
print(sorted(seen))
"#;

async fn paho_roundtrip(version: &str) {
    let Some(mut python) = tools::python_with_paho() else { return };
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("paho");
    let output = paho(&mut python, &broker, &device, version);
    assert_eq!(output.trim(), "[(0, 'm0'), (1, 'm1'), (2, 'm2')]");
}

fn paho(python: &mut Command, broker: &Broker, device: &Identity, version: &str) -> String {
    python.args(["-c", PAHO, &broker.port().to_string()]);
    python.arg(broker.pki.ca()).arg(&device.certificate).arg(&device.key).arg(version);
    String::from_utf8_lossy(&tools::succeed(python).stdout).into_owned()
}

#[tokio::test]
async fn paho_3_1_1_over_mutual_tls() {
    paho_roundtrip("3.1.1").await;
}

#[tokio::test]
async fn paho_5_over_mutual_tls() {
    paho_roundtrip("5").await;
}

/// What the demo prints is typed word by word: `mqgate sub` in one terminal, `mqgate pub` in another.
#[tokio::test]
async fn our_own_command_line_client() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let flags = broker.mosquitto_flags(&device);
    let subscriber = Command::new(mqgate_e2e::broker::mqgate())
        .arg("sub")
        .args(&flags)
        .args(["-t", "devices/device-1/#", "-C", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mqgate was built");
    mqgate_e2e::eventually("the subscription", async || {
        (broker.admin().metric("mqgate_subscriptions{kind=\"normal\"}") >= 1.0).then_some(())
    })
    .await;
    tools::succeed(Command::new(mqgate_e2e::broker::mqgate()).arg("pub").args(&flags).args([
        "-t",
        "devices/device-1/temperature",
        "-m",
        "21.5",
        "-q",
        "1",
    ]));
    let output = subscriber.wait_with_output().expect("it is our child");
    assert!(String::from_utf8_lossy(&output.stdout).contains("21.5"), "{output:?}");
}
