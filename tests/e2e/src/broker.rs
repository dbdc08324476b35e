//! A broker as a process: its own folder, its own ports, stopped when dropped.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use mqgate_client::{ConnectOptions, TlsOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Admin, Identity, Pki};

/// How the broker of a test differs from the usual one: a mutual-TLS listener in mode `per-device` on a port
/// that the system chooses, admin API likewise.
pub struct BrokerBuilder {
    tls: bool,
    auth_mode: &'static str,
    registration: &'static str,
    listener: String,
    certificate: &'static str,
    key: &'static str,
    plugins: String,
    more: String,
}

/// For [`BrokerBuilder::with_auto_register`] and the like, where a crowd of clients shares the machine with the
/// broker: how fast it is is not what the test asks.
pub const PATIENT: &str = r#"limits = { cpu = "10s", wall = "30s", queue_wait = "60s" }"#;

pub struct Broker {
    pub pki: Pki,
    pub folder: PathBuf,
    process: Process,
    /// Keeps the folder; removed after the process has ended.
    _temporary: Option<tempfile::TempDir>,
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            tls: true,
            auth_mode: "per-device",
            registration: "auto",
            listener: String::new(),
            certificate: "server.pem",
            key: "server.key",
            plugins: String::new(),
            more: String::new(),
        }
    }
}

impl BrokerBuilder {
    /// A listener without TLS.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tls = false;
        self
    }

    /// The three bundled components, as the demo has them, with time for a machine that does much else.
    #[must_use]
    pub fn with_bundled_plugins(self) -> Self {
        self.with_auto_register(PATIENT).with_cert_acl(PATIENT).with_plugin(
            "audit-log",
            "bundled:audit-log",
            PATIENT,
        )
    }

    #[must_use]
    pub fn with_cert_acl(self, config: &str) -> Self {
        self.with_plugin("cert-acl", "bundled:cert-acl", config)
    }

    #[must_use]
    pub fn with_auto_register(self, config: &str) -> Self {
        let grant = "grant = { capabilities = [\"key-value\", \"registry\"] }\n";
        self.with_plugin("auto-register", "bundled:auto-register", &format!("{grant}{config}"))
    }

    /// A component that logs what it is told of each connection (`told: …`), and decides nothing.
    #[must_use]
    pub fn with_teller(self) -> Self {
        let guest = xtask::components::path("test-guest").expect("it is built with the bundled ones");
        self.with_plugin("teller", &guest.display().to_string(), r#"config = { authenticate = "tell" }"#)
    }

    /// One more member at the end of the chain; `more` are further lines of its table.
    #[must_use]
    pub fn with_plugin(mut self, name: &str, source: &str, more: &str) -> Self {
        let _ = write!(self.plugins, "\n[[plugins]]\nname = \"{name}\"\nsource = \"{source}\"\n{more}\n");
        self
    }

    /// A native member; `more` are further lines of its table.
    #[must_use]
    pub fn with_native(mut self, name: &str, more: &str) -> Self {
        let _ = write!(self.plugins, "\n[[plugins]]\nname = \"{name}\"\nnative = \"{name}\"\n{more}\n");
        self
    }

    #[must_use]
    pub fn auth_mode(mut self, mode: &'static str) -> Self {
        self.auth_mode = mode;
        self
    }

    #[must_use]
    pub fn registration(mut self, registration: &'static str) -> Self {
        self.registration = registration;
        self
    }

    /// Names of the server's certificate and key in the folder `pki`.
    #[must_use]
    pub fn files(mut self, certificate: &'static str, key: &'static str) -> Self {
        (self.certificate, self.key) = (certificate, key);
        self
    }

    /// No certificate of the server is configured: the built-in one, or those in [`Self::listener`].
    #[must_use]
    pub fn without_files(self) -> Self {
        self.files("", "")
    }

    /// Further lines of the listener's table.
    #[must_use]
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener.push_str(lines);
        self.listener.push('\n');
        self
    }

    /// Further tables.
    #[must_use]
    pub fn config(mut self, tables: &str) -> Self {
        self.more.push_str(tables);
        self.more.push('\n');
        self
    }

    /// Starts it with a PKI of its own, and returns when it is ready.
    pub async fn start(self) -> Broker {
        let mut broker = self.start_shut().await;
        broker.open();
        broker
    }

    /// Starts it, and returns when the admin API answers, whether or not clients may connect.
    pub async fn start_shut(self) -> Broker {
        let temporary = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = temporary.path().to_path_buf();
        let pki = Pki::create(&folder.join("pki"), "test");
        self.launch(folder, pki, Some(temporary))
    }

    /// Starts it in a folder that holds `pki/ca.pem`, `pki/server.pem` and `pki/server.key` already.
    pub async fn start_in(self, folder: PathBuf, pki: Pki, temporary: Option<tempfile::TempDir>) -> Broker {
        let mut broker = self.launch(folder, pki, temporary);
        broker.open();
        broker
    }

    fn launch(self, folder: PathBuf, pki: Pki, temporary: Option<tempfile::TempDir>) -> Broker {
        fs::write(folder.join("mqgate.toml"), self.text()).expect("the test's folder is writable");
        let process = Process::start(&folder);
        Broker { pki, folder, process, _temporary: temporary }
    }

    fn text(&self) -> String {
        let Self { tls, auth_mode, registration, listener, certificate, key, plugins, more } = self;
        let files = match certificate.is_empty() {
            true => String::new(),
            false => format!("certfile = \"pki/{certificate}\"\nkeyfile = \"pki/{key}\""),
        };
        let trusted = if *auth_mode == "one-way" { "" } else { "cacertfile = \"pki/ca.pem\"" };
        let transport = if *tls {
            format!(
                r#"
type = "tls"
auth_mode = "{auth_mode}"
registration = "{registration}"
{files}
{trusted}"#
            )
        } else {
            "type = \"tcp\"".to_owned()
        };
        format!(
            r#"
[node]
data_dir = "data"

[listeners.main]
bind = "127.0.0.1:0"
{transport}
{listener}
[admin]
bind = "127.0.0.1:0"

[audit]
path = "audit.jsonl"
{more}
{plugins}
"#
        )
    }
}

impl Broker {
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.process.port.expect("the listener is open")
    }

    /// The port of another listener than `main`; waits until it is open.
    pub async fn port_of(&self, listener: &str) -> u16 {
        crate::eventually(&format!("the listener {listener}"), async || {
            let text = fs::read_to_string(self.folder.join("data/endpoints.json")).ok()?;
            let known: Value = serde_json::from_str(&text).ok()?;
            known["listeners"][listener]["address"].as_str()?.rsplit(':').next()?.parse().ok()
        })
        .await
    }

    /// Waits until the listener is open.
    pub fn open(&mut self) {
        self.process.wait_for_listener(&self.folder);
    }

    pub fn admin(&self) -> Admin {
        Admin::new(
            self.process.admin_port,
            self.folder.join("mqgate.toml"),
            self.folder.join("data/admin.token"),
        )
    }

    /// How our own client connects with a certificate of this broker's PKI.
    pub fn options(&self, client_id: &str, identity: &Identity) -> ConnectOptions {
        let mut tls = TlsOptions::new();
        tls.ca_file = Some(self.pki.ca());
        tls.cert_file = Some(identity.certificate.clone());
        tls.key_file = Some(identity.key.clone());
        let mut options = ConnectOptions::new("localhost", self.port());
        options.tls = Some(tls);
        options.client_id = client_id.into();
        options
    }

    /// How our own client connects to a listener without TLS.
    pub fn plain_options(&self, client_id: &str) -> ConnectOptions {
        let mut options = ConnectOptions::new("127.0.0.1", self.port());
        options.client_id = client_id.into();
        options
    }

    /// `-h … --cafile …` for clients with Mosquitto's flags.
    pub fn mosquitto_flags(&self, identity: &Identity) -> Vec<String> {
        vec![
            "-h".into(),
            "localhost".into(),
            "-p".into(),
            self.port().to_string(),
            "--cafile".into(),
            self.pki.ca().display().to_string(),
            "--cert".into(),
            identity.certificate.display().to_string(),
            "--key".into(),
            identity.key.display().to_string(),
        ]
    }

    /// The lines of the audit file so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("audit.jsonl")).unwrap_or_default();
        // The last line may be on its way to the disk.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("each line is one JSON object")).collect()
    }

    /// The lines of its log that hold `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Waits for an audit line that `wanted` accepts.
    pub async fn audited(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        crate::eventually(&format!("an audit line: {what}"), async || self.audit().into_iter().find(&wanted))
            .await
    }

    /// Changes the configuration file.
    pub fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder.join("mqgate.toml");
        let text = fs::read_to_string(&file).expect("the test wrote it");
        fs::write(&file, change(text)).expect("the test's folder is writable");
    }

    /// Sends `SIGHUP`.
    pub fn hang_up(&self) {
        let pid = Pid::from_raw(self.process.child.id().try_into().expect("a process id"));
        kill(pid, Signal::SIGHUP).expect("the broker runs");
    }

    /// Where the listener of this name is open now.
    pub async fn listener_port(&self, name: &str) -> u16 {
        let file = self.folder.join("data/endpoints.json");
        crate::eventually(&format!("the listener {name}"), async || {
            let known: Value = serde_json::from_str(&fs::read_to_string(&file).ok()?).ok()?;
            known["listeners"][name]["address"].as_str()?.rsplit(':').next()?.parse().ok()
        })
        .await
    }

    /// Ends the process without a chance to tidy up.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends the process without a chance to tidy up, and starts it again on the same folder.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = Process::start(&self.folder);
        self.open();
    }

    /// Starts it again on the same folder; returns when the admin API answers, whether or not clients may connect.
    pub fn restart_shut(&mut self) {
        self.process.kill();
        self.process = Process::start(&self.folder);
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Bytes of memory that it uses now.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024
    }

    /// Asks it to stop; how it ended.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let pid = Pid::from_raw(self.process.child.id().try_into().expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        self.process.child.wait().expect("it is our child")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
            eprintln!("--- the broker's log\n{log}");
            let audit = fs::read_to_string(self.folder.join("audit.jsonl")).unwrap_or_default();
            eprintln!("--- the first refusals and losses in its audit log");
            let losses = audit.lines().filter(|line| !line.contains(r#""outcome":"success""#));
            losses.take(20).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A running `mqgate`, and what it says of where it listens.
struct Process {
    child: Child,
    admin_port: u16,
    port: Option<u16>,
    listening: mpsc::Receiver<(Role, u16)>,
}

impl Process {
    /// Starts it in `folder` and waits for its admin API.
    fn start(folder: &Path) -> Self {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("broker.log"))
            .expect("the test's folder is writable");
        let mut child = Command::new(mqgate())
            .arg("run")
            .arg("--config")
            .arg(folder.join("mqgate.toml"))
            .env("MQGATE_COMPONENTS", components())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("mqgate was built");
        let output = child.stdout.take().expect("it was piped");
        let mut said = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("stdout.log"))
            .expect("the test's folder is writable");
        let (found, listening) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = writeln!(said, "{line}");
                if let Some(place) = listening_at(&line) {
                    let _ = found.send(place);
                }
            }
        });
        let mut process = Self { child, admin_port: 0, port: None, listening };
        while process.admin_port == 0 {
            process.next_place(folder);
        }
        process
    }

    fn wait_for_listener(&mut self, folder: &Path) {
        while self.port.is_none() {
            self.next_place(folder);
        }
    }

    fn next_place(&mut self, folder: &Path) {
        match self.listening.recv_timeout(Duration::from_secs(180)) {
            Ok((Role::Admin, port)) => self.admin_port = port,
            Ok((Role::Main, port)) => self.port = Some(port),
            Ok((Role::Other, _)) => {}
            Err(_) => {
                self.kill();
                let log = fs::read_to_string(folder.join("broker.log")).unwrap_or_default();
                panic!("the broker did not say where it listens\n{log}");
            }
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is behind an address.
enum Role {
    Admin,
    /// The listener that tests have in any case.
    Main,
    Other,
}

/// Reads `listening: tls main 127.0.0.1:40001` and `listening: admin api 127.0.0.1:40002`.
fn listening_at(line: &str) -> Option<(Role, u16)> {
    let mut words = line.strip_prefix("listening: ")?.split_whitespace();
    let role = match (words.next()?, words.next()?) {
        ("admin", _) => Role::Admin,
        ("metrics", _) => Role::Other,
        (_, "main") => Role::Main,
        _ => Role::Other,
    };
    Some((role, words.next_back()?.rsplit(':').next()?.parse().ok()?))
}

/// The broker's binary: what `cargo xtask test` has built, else built here when it is older than its sources.
pub fn mqgate() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(built) = std::env::var_os("MQGATE_TEST_BINARY") {
                return built.into();
            }
            let ours = std::env::current_exe().expect("a process knows its program");
            let profile = ours.ancestors().nth(2).expect("target/{profile}/deps/{test}").to_path_buf();
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            // The whole workspace is named so that its crates are built with the features they have elsewhere.
            build.args(["build", "--quiet", "--locked", "--workspace", "--bin", "mqgate"]);
            build.current_dir(root());
            if profile.ends_with("release") {
                build.arg("--release");
            }
            crate::tools::succeed(&mut build);
            profile.join("mqgate")
        })
        .clone()
}

/// The folder of the bundled components, built when they are older than their sources.
pub fn components() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let one = xtask::components::path("cert-acl").expect("the components can be built");
            one.parent().expect("a file has a folder").to_path_buf()
        })
        .clone()
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/e2e lies two below").to_path_buf()
}
