//! Proxies in front of the broker: the PROXY protocol with a client's certificate, and nginx before WebSocket.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use mqgate_e2e::{Broker, Identity, tools};
use serde_json::Value;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const CONNECT: &[u8] = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05proxy";

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend(value);
    bytes
}

/// What HAProxy sends with `send-proxy-v2-ssl-cn` and more, for a client at 192.0.2.7:4242.
fn header(name: &str, tlvs: &[Vec<u8>]) -> Vec<u8> {
    let mut ssl = vec![0x07, 0, 0, 0, 0];
    ssl.extend(tlv(0x21, b"TLSv1.3"));
    ssl.extend(tlv(0x22, name.as_bytes()));
    ssl.extend(tlv(0x23, b"TLS_AES_128_GCM_SHA256"));
    let mut body = vec![192, 0, 2, 7, 198, 51, 100, 1];
    body.extend(4242_u16.to_be_bytes());
    body.extend(8883_u16.to_be_bytes());
    body.extend(tlv(0x02, b"mqtt.example.com"));
    body.extend(tlv(0x20, &ssl));
    body.extend(tlvs.concat());
    let mut bytes = [SIGNATURE, &[0x21, 0x11]].concat();
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn der(identity: &Identity) -> Vec<u8> {
    fs::read(identity.certificate.with_extension("der")).unwrap()
}

/// Sends bytes; the first four of the answer, or fewer if it is closed.
fn say(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // It may be closed before it has heard all.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.take(4).read_to_end(&mut answer);
    answer
}

const ADMITTED: &[u8] = &[0x20, 2, 0, 0];

async fn accepted(broker: &Broker, listener: &str) -> Value {
    broker
        .audited("it was let in", |line| {
            line["name"] == "connection.accepted" && line["listener"] == listener
        })
        .await
}

const PROXIED: &str = r#"
[listeners.proxied]
type = "tcp"
bind = "127.0.0.1:0"
auth_mode = "per-device"
cacertfile = "pki/ca.pem"
proxy_protocol = { from = ["127.0.0.0/8"], identity = "certificate" }
"#;

#[tokio::test]
async fn proxy_terminated_mtls_with_a_certificate_in_the_header() {
    let broker = Broker::builder().with_teller().with_bundled_plugins().config(PROXIED).start().await;
    let port = broker.port_of("proxied").await;
    let device = broker.pki.device("proxy");
    let with_certificate = [header("proxy", &[tlv(0xE0, &der(&device))]), CONNECT.to_vec()].concat();
    assert_eq!(say(port, &with_certificate), ADMITTED);
    let proxied = accepted(&broker, "proxied").await;
    assert_eq!(proxied["peer"], "192.0.2.7:4242");
    assert_eq!(proxied["fingerprint"], device.fingerprint.as_str());
    assert_eq!(proxied["subject"], "CN=proxy");
    assert_eq!(proxied["sni"], "mqtt.example.com");
    let fields = &proxied["fields"];
    assert_eq!((&fields["tls.version"], &fields["proxy"]), (&"1.3".into(), &"127.0.0.1".into()));
    assert_eq!(fields["proxy.certificate"], true);
    // The plugin saw a certificate that it could register, and registered it.
    let registered = broker.audited("it was registered", |line| line["name"] == "device.registered").await;
    assert_eq!(registered["fingerprint"], device.fingerprint.as_str());

    // A direct connection with the same certificate is the same device, with the same facts.
    let mut options = broker.options("proxy", &device);
    options.clean_start = true;
    let (client, _) = mqgate_client::Client::connect(options).await.unwrap();
    let direct = accepted(&broker, "main").await;
    for member in ["fingerprint", "subject", "device_id", "client_id"] {
        assert_eq!(direct[member], proxied[member], "{member}");
    }
    assert_eq!(direct["fields"]["ca"], fields["ca"]);
    assert!(direct["fields"]["proxy"].is_null());
    // Nor does a component hear anything else about the certificate and its path.
    let of_certificate = |line: &String| {
        let facts = &line[line.find(" cn=").expect("it was told of a certificate")..];
        facts.split(' ').take_while(|fact| !fact.starts_with("proxy.")).map(str::to_owned).collect::<Vec<_>>()
    };
    let told: Vec<_> = broker.logged("told: client-id=proxy").iter().map(of_certificate).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0][..4], told[1][..4]);
    assert_eq!(told[0][..3], ["", "cn=proxy", &format!("fingerprint={}", device.fingerprint)]);
    assert_eq!(told[0][3], "anchor=ca");
    drop(client);
}

#[tokio::test]
async fn proxy_terminated_mtls_with_a_header_that_proves_nothing() {
    let broker = Broker::builder().with_bundled_plugins().config(PROXIED).start().await;
    let port = broker.port_of("proxied").await;
    let refusals = async |reason: &str| {
        broker.audited(reason, |line| line["reason"] == reason && line["listener"] == "proxied").await
    };
    assert_eq!(say(port, CONNECT), b"");
    assert_eq!(refusals("proxy_header").await["name"], "connection.refused");
    assert_eq!(say(port, &[header("proxy", &[]), CONNECT.to_vec()].concat()), b"");
    let none = refusals("tls_no_peer_cert").await;
    assert_eq!((&none["name"], &none["peer"]), (&"tls.handshake_failed".into(), &"192.0.2.7:4242".into()));

    let stranger_folder = tempfile::tempdir().unwrap();
    let stranger = mqgate_e2e::Pki::create(stranger_folder.path(), "other").device("proxy");
    let strange = header("proxy", &[tlv(0xE0, &der(&stranger))]);
    assert_eq!(say(port, &[strange, CONNECT.to_vec()].concat()), b"");
    assert_eq!(refusals("cert_unknown_ca").await["fingerprint"], stranger.fingerprint.as_str());
    let rejected =
        broker.admin().metric("mqgate_listener_rejected_total{listener=\"proxied\",reason=\"proxy_header\"}");
    assert!((rejected - 1.0).abs() < 0.1, "{rejected}");
}

#[tokio::test]
async fn proxy_terminated_mtls_with_a_common_name_only() {
    let policy =
        "\n[[plugins.config.rules]]\nmatch = { cn = \"meter-*\" }\npublish = [\"t\"]\nsubscribe = [\"t\"]\n";
    let listener = r#"
[listeners.proxied]
type = "tcp"
bind = "127.0.0.1:0"
proxy_protocol = { from = ["127.0.0.1"], identity = "cn" }
[listeners.anonymous]
type = "tcp"
bind = "127.0.0.1:0"
proxy_protocol = { from = ["127.0.0.1"] }
[listeners.elsewhere]
type = "tcp"
bind = "127.0.0.1:0"
proxy_protocol = { from = ["192.0.2.0/24"], direct = "allow" }
"#;
    let broker = Broker::builder().with_native("static-policy", policy).config(listener).start().await;
    let port = broker.port_of("proxied").await;
    let from = |name: &str| [header(name, &[]), CONNECT.to_vec()].concat();
    assert_eq!(say(port, &from("meter-7")), ADMITTED);
    let line = accepted(&broker, "proxied").await;
    assert_eq!((&line["device_id"], &line["fields"]["proxy.cn"]), (&"meter-7".into(), &"meter-7".into()));
    let refused: &[u8] = &[0x20, 2, 0, 5];
    assert_eq!(say(port, &from("pump-1")), refused);
    // The proxy was not content with the certificate.
    let mut bytes = from("meter-7");
    let at = bytes.windows(6).position(|part| part == [0x07, 0, 0, 0, 0, 0x21]).unwrap();
    bytes[at + 4] = 10;
    assert_eq!(say(port, &bytes), refused);
    // A listener that believes no name gets none.
    assert_eq!(say(broker.port_of("anonymous").await, &from("meter-7")), refused);

    let elsewhere = broker.port_of("elsewhere").await;
    assert_eq!(say(elsewhere, &from("meter-7")), b"");
    let line = broker.audited("nobody's header", |line| line["listener"] == "elsewhere").await;
    assert_eq!(
        (&line["reason"], &line["fields"]["detail"]),
        (&"proxy_header".into(), &"a header from an address that is no proxy's".into())
    );
    assert_eq!(say(elsewhere, CONNECT), refused, "directly it is heard");
}

/// Version 1 in front of TLS that ends here: what HAProxy does in TCP mode.
#[tokio::test]
async fn tls_behind_a_header() {
    let Some(mut openssl) = tools::openssl() else { return };
    let broker = Broker::builder()
        .with_bundled_plugins()
        .listener("proxy_protocol = { from = [\"127.0.0.1\"] }")
        .start()
        .await;
    let device = broker.pki.device("proxy");
    // openssl cannot say the header itself: a relay does.
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = relay.local_addr().unwrap().port();
    let to = broker.port();
    let relaying = std::thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        server.write_all(b"PROXY TCP4 192.0.2.9 192.0.2.8 1234 8883\r\n").unwrap();
        let (mut one, mut other) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let back = std::thread::spawn(move || std::io::copy(&mut other, &mut one));
        let _ = std::io::copy(&mut &client, &mut &server);
        let _ = server.shutdown(std::net::Shutdown::Write);
        let _ = back.join();
    });
    let mut client = openssl
        .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}"), "-CAfile"])
        .arg(broker.pki.ca())
        .arg("-cert")
        .arg(&device.certificate)
        .arg("-key")
        .arg(&device.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(CONNECT).unwrap();
    let mut answer = [0; 4];
    client.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    assert_eq!(answer, ADMITTED);
    let line = accepted(&broker, "main").await;
    assert_eq!(
        (&line["peer"], &line["fingerprint"]),
        (&"192.0.2.9:1234".into(), &device.fingerprint.clone().into())
    );
    drop(client.stdin.take());
    let _ = client.kill();
    let _ = client.wait();
    relaying.join().unwrap();
}

/// A process that is stopped when the test ends.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PAHO: &str = r#"
import sys, threading
import paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="behind", protocol=mqtt.MQTTv5, transport="websockets")
client.ws_set_options(path="/devices/mqtt")
client.username_pw_set("ann", "correct horse")
done = threading.Event()
def connected(client, userdata, flags, reason, properties):
    if reason.is_failure:
        sys.exit(f"refused: {reason}")
    client.subscribe("t/#", 1)
client.on_connect = connected
client.on_subscribe = lambda c, *a: c.publish("t/a", "x" * 100000, qos=1)
client.on_message = lambda *a: done.set()
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_start()
assert done.wait(10), "nothing came back"
client.disconnect()
"#;

/// nginx ends HTTP, changes the path, and says whose the connection is.
#[tokio::test]
async fn nginx_before_websocket() {
    let (Some(mut nginx), Some(mut python)) = (tools::nginx(), tools::python_with_paho()) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let users = temporary.path().join("users.txt");
    let mut passwd = Command::new(mqgate_e2e::broker::mqgate());
    passwd.args(["passwd", "add"]).arg(&users).arg("ann").stdin(Stdio::piped()).stderr(Stdio::null());
    let mut passwd = passwd.spawn().unwrap();
    passwd.stdin.take().unwrap().write_all(b"correct horse").unwrap();
    assert!(passwd.wait().unwrap().success());
    let member = format!("config = {{ file = {:?}, acl = \"all\" }}", users.display().to_string());
    let listener = r#"
[listeners.ws]
type = "ws"
bind = "127.0.0.1:0"
websocket = { path = "/mqtt", trusted_proxies = ["127.0.0.1"] }
[[policy.acls.all.rules]]
topic = "t/#"
"#;
    let broker = Broker::builder().config(listener).with_native("password-file", &member).start().await;
    let behind = broker.port_of("ws").await;

    // A port that was free a moment ago: nginx cannot be asked which one it took.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = temporary.path().display();
    let config = format!(
        r#"
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /devices/ {{
            proxy_pass http://127.0.0.1:{behind}/;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-For 192.0.2.33;
        }}
    }}
}}
"#
    );
    let file = temporary.path().join("nginx.conf");
    fs::write(&file, config).unwrap();
    let error_log = temporary.path().join("error.log");
    let process = nginx.arg("-p").arg(temporary.path()).arg("-e").arg(&error_log).arg("-c").arg(&file);
    let _nginx = Stopped(process.spawn().unwrap());
    mqgate_e2e::eventually("nginx", async || TcpStream::connect(("127.0.0.1", port)).ok()).await;
    tools::succeed(python.args(["-c", PAHO, &port.to_string()]));
    let line = accepted(&broker, "ws").await;
    assert_eq!((&line["peer"], &line["fields"]["proxy"]), (&"192.0.2.33:0".into(), &"127.0.0.1".into()));
}
