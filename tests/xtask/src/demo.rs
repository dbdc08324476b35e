//! The README's first command: from a clone to a running gate, with the lines to paste.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{cargo, run as run_to_end, say, step};

#[derive(clap::Args)]
pub struct Options {
    /// Folder for the demo's certificates, configuration and data.
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
    /// Port of the mutual-TLS listener; a free one is taken when it is in use.
    #[arg(long, default_value_t = 8883)]
    port: u16,
    /// Port of the admin API and the metrics; a free one is taken when it is in use.
    #[arg(long, default_value_t = 18083)]
    admin_port: u16,
    /// Build with optimisation, as for measurements; takes a few minutes more the first time.
    #[arg(long)]
    release: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    step("1/4  the bundled WebAssembly components");
    xtask::components::build(xtask::components::Which::Bundled, &say)?;

    step("2/4  the broker (the first build takes some minutes, later ones seconds)");
    let mut build = cargo();
    // All of the workspace is named so that the tests find what they share already built.
    build.args(["build", "--locked", "--workspace", "--bin", "mqgate"]);
    if options.release {
        build.arg("--release");
    }
    run_to_end(&mut build)?;
    let profile = if options.release { "release" } else { "debug" };
    let mqgate =
        crate::target_directory().join(profile).join(format!("mqgate{}", std::env::consts::EXE_SUFFIX));

    let folder = crate::root().join(&options.dir);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    step(&format!("3/4  demo certificates in {}", shown(&folder)));
    run_to_end(Command::new(&mqgate).args(["pki", "demo", "--dir"]).arg(folder.join("pki")))?;

    step("4/4  the broker starts");
    let port = free_port(options.port)?;
    let admin_port = free_port(options.admin_port)?;
    let config = folder.join("mqgate.toml");
    fs::write(&config, configuration(port, admin_port))?;
    let mut broker = Command::new(&mqgate)
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", mqgate.display()))?;
    hand_signals_to(&broker)?;
    wait_until_ready(&mut broker, admin_port)?;
    print_what_to_type(&folder, &mqgate, port, admin_port, started.elapsed());

    let status = broker.wait()?;
    if !status.success() {
        bail!("the broker ended with {status}");
    }
    say("The broker has stopped. The demo's files stay for the next run.");
    Ok(())
}

fn configuration(port: u16, admin_port: u16) -> String {
    format!(
        r#"# Written by `cargo xtask demo`; see docs/configuration.md for every key.
[node]
data_dir = "data"

[listeners.demo]
type = "tls"
bind = "127.0.0.1:{port}"
auth_mode = "per-device"
registration = "auto"
certfile = "pki/server.pem"
keyfile = "pki/server.key"
cacertfile = "pki/ca.pem"

[admin]
bind = "127.0.0.1:{admin_port}"

[audit]
path = "audit.jsonl"

# A new certificate of the demo CA registers itself at its first connection.
[[plugins]]
name = "auto-register"
source = "bundled:auto-register"
grant = {{ capabilities = ["key-value", "registry"] }}

# A device may use devices/<its common name>/… and nothing else.
[[plugins]]
name = "cert-acl"
source = "bundled:cert-acl"

[[plugins]]
name = "audit-log"
source = "bundled:audit-log"
"#
    )
}

fn print_what_to_type(folder: &Path, mqgate: &Path, port: u16, admin_port: u16, took: Duration) {
    let pki = shown(&folder.join("pki"));
    let mqgate = shown(mqgate);
    let config = shown(&folder.join("mqgate.toml"));
    let data = shown(&folder.join("data"));
    let audit = shown(&folder.join("audit.jsonl"));
    say(&format!(
        "
The gate is open ({took} s). Ctrl-C closes it.

  MQTT over mutual TLS   127.0.0.1:{port}     certificates in {pki}
  admin API, metrics     127.0.0.1:{admin_port}    token in {data}/admin.token
  audit log              {audit}

In another terminal, in this folder. Subscribe and publish with mqgate's own client:

  {mqgate} sub -h localhost -p {port} --cafile {pki}/ca.pem --cert {pki}/device-1.pem --key {pki}/device-1.key -t 'devices/device-1/#'
  {mqgate} pub -h localhost -p {port} --cafile {pki}/ca.pem --cert {pki}/device-1.pem --key {pki}/device-1.key -t devices/device-1/temperature -m 21.5 -q 1

The same with Mosquitto's (Debian: mosquitto-clients):

  mosquitto_sub -h localhost -p {port} --cafile {pki}/ca.pem --cert {pki}/device-1.pem --key {pki}/device-1.key -t 'devices/device-1/#'
  mosquitto_pub -h localhost -p {port} --cafile {pki}/ca.pem --cert {pki}/device-1.pem --key {pki}/device-1.key -t devices/device-1/temperature -m 21.5 -q 1

Metrics, the registry, and a plugin replaced while clients stay connected:

  curl -s http://127.0.0.1:{admin_port}/metrics
  {mqgate} cert list --config {config}
  {mqgate} plugin swap cert-acl target/components/cert-acl.wasm --config {config}
",
        took = took.as_secs(),
    ));
}

/// A path as short as it can be typed from where the command was given.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn free_port(wanted: u16) -> anyhow::Result<u16> {
    if TcpListener::bind(("127.0.0.1", wanted)).is_ok() {
        return Ok(wanted);
    }
    let free = TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?.local_addr()?.port();
    say(&format!("Port {wanted} is in use; taking {free} instead."));
    Ok(free)
}

/// Asks `/ready` until it says yes, for at most a minute.
fn wait_until_ready(broker: &mut Child, admin_port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = broker.try_wait()? {
            bail!("the broker ended with {status} before it was ready; its last lines above say why");
        }
        if answers_ready(admin_port) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let _ = broker.kill();
            bail!("the broker is not ready after a minute; http://127.0.0.1:{admin_port}/ready says why");
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

fn answers_ready(admin_port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", admin_port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let request = format!("GET /ready HTTP/1.1\r\nHost: 127.0.0.1:{admin_port}\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"HTTP/1.1 200"
}

/// Hands Ctrl-C (and a polite kill) on to the broker once, so that it says goodbye to its clients; we stay
/// to see how it ends.
fn hand_signals_to(broker: &Child) -> anyhow::Result<()> {
    let broker = Pid::from_raw(broker.id().try_into().context("a process id that is no pid")?);
    ctrlc::set_handler(move || {
        let _ = kill(broker, Signal::SIGTERM);
    })
    .context("cannot take over Ctrl-C")
}
