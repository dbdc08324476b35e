//! MQTT.js in a browser: Chromium without a window loads a page, and the page speaks MQTT over secure WebSocket.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, tools};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Subscribes, publishes with each QoS and a large one, and says what came back, or what went wrong.
const PAGE: &str = r#"<!doctype html>
<title>mqgate</title>
<script src="/mqtt.js"></script>
<script>
const tell = (text) => fetch("/result", { method: "POST", body: text });
addEventListener("error", (event) => tell(`error: ${event.message}`));
const client = mqtt.connect("wss://localhost:PORT/mqtt", {
  protocolVersion: VERSION, clientId: "browser", username: "ann", password: "correct horse",
  reconnectPeriod: 0, connectTimeout: 10000,
});
const seen = [];
client.on("message", (topic, payload, packet) => {
  seen.push(`${packet.qos}:${payload.length}`);
  if (seen.length === 4) client.end(false, {}, () => tell(seen.sort().join(" ")));
});
client.on("connect", () => client.subscribe("t/browser/#", { qos: 2 }, (error) => {
  if (error) return tell(`error: ${error.message}`);
  for (const qos of [0, 1, 2]) client.publish("t/browser/a", "x".repeat(qos + 1), { qos });
  client.publish("t/browser/large", "x".repeat(300000), { qos: 1 });
}));
client.on("error", (error) => tell(`error: ${error.message}`));
client.on("close", () => seen.length < 4 && tell("closed"));
</script>
"#;

/// Serves the page, and hears what it tells.
struct Site {
    port: u16,
    told: mpsc::Receiver<String>,
}

impl Site {
    /// The page is asked for as `/{MQTT version}/{the broker's port}`. Its thread ends with the process.
    fn open(mqtt_js: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (tell, mqtt_js) = (tell.clone(), mqtt_js.clone());
                // A browser opens connections ahead of their use: each has its own thread.
                std::thread::spawn(move || drop(answer(&stream, &mqtt_js, &tell)));
            }
        });
        Self { port, told }
    }
}

fn answer(stream: &TcpStream, mqtt_js: &Path, tell: &mpsc::Sender<String>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let (kind, body) = match path.split('/').collect::<Vec<_>>()[..] {
        ["", "result"] => {
            let mut text = vec![0; length];
            reader.read_exact(&mut text)?;
            let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
            ("text/plain", Vec::new())
        }
        ["", "mqtt.js"] => ("text/javascript", fs::read(mqtt_js)?),
        ["", version, port] => {
            ("text/html", PAGE.replace("PORT", port).replace("VERSION", version).into_bytes())
        }
        _ => ("text/plain", Vec::new()),
    };
    let mut stream = stream;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

/// Chromium and the processes that it starts, ended with the test.
struct Browser(Child);

impl Browser {
    /// Opens `url`. It has a home of its own in `home`, and trusts the CAs that are there.
    fn open(mut chromium: Command, home: &Path, url: &str) -> Self {
        let log = fs::File::create(home.join("chromium.log")).unwrap();
        // As root, and in a container with little shared memory, too.
        chromium.args([
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--remote-debugging-port=0",
        ]);
        chromium.arg(format!("--user-data-dir={}", home.join("profile").display())).arg(url);
        chromium.env("HOME", home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(chromium.process_group(0).spawn().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.id().try_into().expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The bundle for browsers of the package that the tests in Node.js use.
fn bundle() -> Option<PathBuf> {
    let mut node = tools::node_with_mqtt()?;
    let output = tools::succeed(node.args(["-p", "require.resolve('mqtt/package.json')"]));
    let package = String::from_utf8(output.stdout).expect("a path");
    Some(Path::new(package.trim()).with_file_name("dist").join("mqtt.min.js"))
}

/// A home in which NSS, whose certificates Chromium takes, trusts `ca`.
fn home_that_trusts(mut certutil: Command, home: &Path, ca: &Path) {
    let store = home.join(".pki/nssdb");
    fs::create_dir_all(&store).unwrap();
    certutil.args(["-A", "-n", "test", "-t", "C,,", "--empty-password", "-d"]);
    certutil.arg(format!("sql:{}", store.display())).arg("-i").arg(ca);
    tools::succeed(certutil.env("HOME", home));
}

/// The site of the test is the only one whose pages may connect.
struct Stage {
    site: Site,
    broker: Broker,
    chromium: Command,
    port: u16,
}

async fn stage() -> Option<Stage> {
    let (chromium, certutil) = tools::chromium_and_certutil()?;
    let site = Site::open(bundle()?);
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let mut passwd = Command::new(mqgate());
    passwd.args(["passwd", "add"]).arg(folder.join("users.txt")).arg("ann");
    let mut passwd = passwd.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    passwd.stdin.take().unwrap().write_all(b"correct horse").unwrap();
    assert!(passwd.wait().unwrap().success());
    // What Chromium says of certificates of our own making is worth hearing: not the test's, but `mqgate pki`'s.
    for line in ["ca --cn Browser", "server --name server --san localhost"] {
        let mut pki = Command::new(mqgate());
        tools::succeed(pki.current_dir(&folder).arg("pki").args(line.split_whitespace()));
    }
    home_that_trusts(certutil, &folder, &folder.join("pki/ca.pem"));
    let listener = format!(
        r#"
[listeners.wss]
type = "wss"
bind = "127.0.0.1:0"
auth_mode = "one-way"
certfile = "pki/server.pem"
keyfile = "pki/server.key"
websocket = {{ origins = ["http://localhost:{}"] }}
[policy.acls.all]
rules = [{{ topic = "t/#" }}]
"#,
        site.port
    );
    let unused = mqgate_e2e::Pki::create(&folder.join("unused"), "unused");
    let broker = Broker::builder()
        .tcp()
        .config(&listener)
        .with_native("password-file", r#"config = { file = "users.txt", acl = "all" }"#)
        .start_in(folder, unused, Some(temporary))
        .await;
    let port = broker.port_of("wss").await;
    Some(Stage { site, broker, chromium, port })
}

impl Stage {
    /// The first thing that the page, asked for under this name of the site, tells.
    fn visit(self, host: &str, version: &str) -> (Broker, String) {
        let Self { site, broker, chromium, port } = self;
        let url = format!("http://{host}:{}/{version}/{port}", site.port);
        let _browser = Browser::open(chromium, &broker.folder, &url);
        let told = site.told.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| {
            panic!(
                "the page told nothing\n{}",
                fs::read_to_string(broker.folder.join("chromium.log")).unwrap()
            )
        });
        (broker, told)
    }
}

async fn a_page_talks(version: &str) {
    let Some(stage) = stage().await else { return };
    let (broker, told) = stage.visit("localhost", version);
    assert_eq!(told, "0:1 1:2 1:300000 2:3");
    let line = broker.audited("it was let in", |line| line["name"] == "connection.accepted").await;
    assert_eq!((&line["listener"], &line["device_id"]), (&"wss".into(), &"ann".into()), "{line}");
    assert_eq!(line["sni"], "localhost", "{line}");
}

#[tokio::test]
async fn a_page_subscribes_and_publishes_with_mqtt_5() {
    a_page_talks("5").await;
}

#[tokio::test]
async fn a_page_subscribes_and_publishes_with_mqtt_3_1_1() {
    a_page_talks("4").await;
}

/// The same page under another name of the same site is of another origin, which is not in the list.
#[tokio::test]
async fn a_page_of_another_origin_is_refused() {
    let Some(stage) = stage().await else { return };
    let origin = format!("http://127.0.0.1:{}", stage.site.port);
    let (broker, told) = stage.visit("127.0.0.1", "5");
    assert!(told.starts_with("error") || told == "closed", "{told}");
    let line = broker.audited("it was refused", |line| line["listener"] == "wss").await;
    assert_eq!(line["name"], "connection.refused", "{line}");
    assert!(line["fields"]["detail"].as_str().is_some_and(|detail| detail.contains(&origin)), "{line}");
    let rejected = "mqgate_listener_rejected_total{listener=\"wss\",reason=\"websocket\"}";
    assert!(broker.admin().metric(rejected) >= 1.0);
}
