//! Brokers as processes: each with a plain, a TLS and a mutual-TLS listener, configured alike as far as they
//! can be.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};

use super::loads::Transport;
use super::pinned;
use crate::process::{cargo, run, say};
use crate::tools;

const RUMQTTD: &str = "0.20.0";

pub struct Kind {
    pub name: &'static str,
    binary: PathBuf,
    /// Libraries of its own.
    libraries: Option<PathBuf>,
    /// Its TLS listeners all want a certificate; one-way TLS handshakes cannot be compared with it.
    pub wants_certificate: bool,
    make: Make,
}

/// Writes a configuration into a folder; gives the arguments.
type Make = fn(&Path, &Places<'_>) -> anyhow::Result<Vec<String>>;

pub struct Places<'a> {
    plain: u16,
    tls: u16,
    mutual: u16,
    pki: &'a Path,
    /// The one that is measured.
    transport: Transport,
}

impl Kind {
    pub fn mqgate(binary: PathBuf) -> Self {
        Self { name: "mqgate", binary, libraries: None, wants_certificate: false, make: mqgate }
    }

    /// `NAME` or `NAME=PATH`.
    pub fn peer(text: &str) -> anyhow::Result<Self> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, Some(PathBuf::from(path))),
            None => (text, None),
        };
        let given = path.is_some();
        let (name, make, binary): (_, Make, _) = match (name, path) {
            ("mosquitto", Some(path)) => ("mosquitto", mosquitto, path),
            ("mosquitto", None) => ("mosquitto", mosquitto, tools::mosquitto(&say)?),
            ("rumqttd", Some(path)) => ("rumqttd", rumqttd, path),
            ("rumqttd", None) => ("rumqttd", rumqttd, install_rumqttd()?),
            ("flashmq", Some(path)) => ("flashmq", flashmq, path),
            ("flashmq", None) => {
                bail!("no registry has flashmq; give the path of its binary: flashmq=/path/to/flashmq")
            }
            _ => bail!("no such peer: {name:?}; there are mosquitto, rumqttd and flashmq=PATH"),
        };
        let libraries = (!given).then(tools::debian_libraries);
        Ok(Self { name, binary, libraries, wants_certificate: name == "rumqttd", make })
    }
}

fn install_rumqttd() -> anyhow::Result<PathBuf> {
    let root = crate::root().join("target/tools/rumqttd");
    let binary = root.join("bin/rumqttd");
    if !binary.exists() {
        // Not --locked: what it was locked to does not build with this compiler.
        let mut install = cargo();
        install.args([
            "install",
            "rumqttd",
            "--version",
            RUMQTTD,
            "--features",
            "verify-client-cert",
            "--root",
        ]);
        run(install.arg(&root).env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(binary)
}

pub struct Broker {
    process: Child,
    plain: u16,
    tls: u16,
    mutual: u16,
}

impl Broker {
    pub fn start(kind: &Kind, transport: Transport, folder: &Path, pki: &Path) -> anyhow::Result<Self> {
        let folder = folder.join(kind.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let [plain, tls, mutual] = free_ports()?;
        let arguments = (kind.make)(&folder, &Places { plain, tls, mutual, pki, transport })?;
        let log = fs::File::create(folder.join("broker.log"))?;
        let mut command = Command::new(&kind.binary);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        if let Some(libraries) = &kind.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let process = pinned::on_brokers_core(|| command.spawn())?
            .with_context(|| format!("cannot start {}", kind.binary.display()))?;
        let mut broker = Self { process, plain, tls, mutual };
        broker.wait(&folder)?;
        Ok(broker)
    }

    fn wait(&mut self, folder: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let open = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        while ![self.plain, self.tls, self.mutual].into_iter().all(open) {
            let ended = self.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(folder.join("broker.log")).unwrap_or_default();
                bail!("it does not listen; its log says:\n{log}");
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn port(&self, transport: Transport) -> u16 {
        match transport {
            Transport::Plain => self.plain,
            Transport::Tls => self.tls,
            Transport::Mutual => self.mutual,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Below the range from which the system takes ports for outgoing connections: while a broker starts, one of those could
/// take the place that a listener is about to have.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// Three that nobody listens on.
pub fn free_ports() -> anyhow::Result<[u16; 3]> {
    // Elsewhere each time: connections to the broker before this one linger in TIME-WAIT.
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_micros() as usize % PORTS.len();
    let mut candidates = PORTS.cycle().skip(first).take(PORTS.len());
    // All are held until all are known, so that they differ.
    let mut one = || {
        candidates
            .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .context("no free port on 127.0.0.1")
    };
    let (first, second, third) = (one()?, one()?, one()?);
    Ok([first.local_addr()?.port(), second.local_addr()?.port(), third.local_addr()?.port()])
}

/// With client certificates: registry, a component that decides, audit. Without: everybody may come in, which is
/// audited too.
fn mqgate(folder: &Path, places: &Places<'_>) -> anyhow::Result<Vec<String>> {
    let Places { plain, tls, mutual, pki, .. } = places;
    let pki = pki.display();
    let plugins = if places.transport == Transport::Mutual { DEVICES } else { ANYBODY };
    let text = format!(
        r#"
[node]
data_dir = "data"

[listeners.plain]
type = "tcp"
bind = "127.0.0.1:{plain}"

[listeners.tls]
type = "tls"
bind = "127.0.0.1:{tls}"
auth_mode = "one-way"
certfile = "{pki}/server.pem"
keyfile = "{pki}/server.key"

[listeners.mutual]
type = "tls"
bind = "127.0.0.1:{mutual}"
auth_mode = "per-device"
registration = "auto"
certfile = "{pki}/server.pem"
keyfile = "{pki}/server.key"
cacertfile = "{pki}/ca.pem"

[admin]
bind = "127.0.0.1:0"

[audit]
path = "audit.jsonl"

[limits]
max_inflight = 100
max_queued_messages = 20000

{plugins}
"#
    );
    let path = folder.join("mqgate.toml");
    fs::write(&path, text)?;
    Ok(vec!["run".into(), "--config".into(), path.display().to_string()])
}

const ANYBODY: &str = "
[[plugins]]
name = \"anonymous\"
native = \"anonymous\"
";

const DEVICES: &str = "
[[plugins]]
name = \"auto-register\"
source = \"bundled:auto-register\"
grant = { capabilities = [\"key-value\", \"registry\"] }

[[plugins]]
name = \"cert-acl\"
source = \"bundled:cert-acl\"
";

fn mosquitto(folder: &Path, places: &Places<'_>) -> anyhow::Result<Vec<String>> {
    let Places { plain, tls, mutual, pki, .. } = places;
    let pki = pki.display();
    let text = format!(
        "per_listener_settings false
allow_anonymous true
persistence false
user root
set_tcp_nodelay true
max_inflight_messages 100
max_queued_messages 20000
listener {plain} 127.0.0.1
listener {tls} 127.0.0.1
certfile {pki}/server.pem
keyfile {pki}/server.key
listener {mutual} 127.0.0.1
certfile {pki}/server.pem
keyfile {pki}/server.key
cafile {pki}/ca.pem
require_certificate true
"
    );
    let path = folder.join("mosquitto.conf");
    fs::write(&path, text)?;
    Ok(vec!["-c".into(), path.display().to_string()])
}

fn rumqttd(folder: &Path, places: &Places<'_>) -> anyhow::Result<Vec<String>> {
    let Places { plain, tls, mutual, pki, .. } = places;
    let pki = pki.display();
    let mut text = String::from(
        "id = 0
[router]
id = 0
max_connections = 20000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
",
    );
    for (number, port, with) in [(1, plain, None), (2, tls, Some("tls")), (3, mutual, Some("tls"))] {
        let files = format!(
            "certpath = \"{pki}/server.pem\"\nkeypath = \"{pki}/server.key\"\ncapath = \"{pki}/ca.pem\"\n"
        );
        let tls = with.map(|table| format!("[v4.{number}.{table}]\n{files}")).unwrap_or_default();
        text.push_str(&format!(
            "[v4.{number}]
name = \"v4-{number}\"
listen = \"127.0.0.1:{port}\"
next_connection_delay_ms = 0
{tls}[v4.{number}.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 200
dynamic_filters = true
"
        ));
    }
    let path = folder.join("rumqttd.toml");
    fs::write(&path, text)?;
    Ok(vec!["-q".into(), "-c".into(), path.display().to_string()])
}

fn flashmq(folder: &Path, places: &Places<'_>) -> anyhow::Result<Vec<String>> {
    let Places { plain, tls, mutual, pki, .. } = places;
    let pki = pki.display();
    let storage = folder.display();
    let text = format!(
        "allow_anonymous true
thread_count 1
storage_dir {storage}
max_qos_msg_pending_per_client 10000
listen {{
  protocol mqtt
  port {plain}
  tcp_nodelay true
}}
listen {{
  protocol mqtt
  port {tls}
  tcp_nodelay true
  fullchain {pki}/server.pem
  privkey {pki}/server.key
}}
listen {{
  protocol mqtt
  port {mutual}
  tcp_nodelay true
  fullchain {pki}/server.pem
  privkey {pki}/server.key
  client_verification_ca_file {pki}/ca.pem
}}
"
    );
    let path = folder.join("flashmq.conf");
    fs::write(&path, text)?;
    Ok(vec!["--config-file".into(), path.display().to_string()])
}
