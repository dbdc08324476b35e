//! Instructions, counted by callgrind: the same on every machine and every run, nearly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{cargo, output, run};

/// What clears and copies memory does so with vectors, whatever its size: callgrind counts what is one instruction for any number
/// of bytes, `rep stosb`, as one for each byte.
const NO_REP: &str =
    "glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000";

/// callgrind is about fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that counts has to be there.
pub fn is_there() -> anyhow::Result<()> {
    if output(Command::new("valgrind").arg("--version")).is_none() {
        bail!("there is no valgrind; install it (Debian: valgrind), and try again");
    }
    Ok(())
}

/// The broker that is given, or the optimised one, built.
pub fn broker(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(binary) => fs::canonicalize(binary).with_context(|| format!("{}", binary.display())),
        None => {
            run(cargo().args(["build", "--release", "--bin", "mqgate"]))?;
            Ok(crate::root().join("target/release/mqgate"))
        }
    }
}

/// An empty folder below `target`, with the certificates of a server and a device in `pki`.
pub fn field(binary: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = crate::root().join("target").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    run(Command::new(binary).args(["pki", "demo", "--dir"]).arg(folder.join("pki")))?;
    Ok(folder)
}

/// Of a broker for each of so many mutual-TLS connections: full handshake, CONNECT, and a goodbye. `tables` are further
/// tables of its configuration.
pub fn each_connection(binary: &Path, folder: &Path, tables: &str, connections: u64) -> anyhow::Result<u64> {
    let idle = of_broker(binary, folder, tables, 0)?;
    let busy = of_broker(binary, folder, tables, connections)?;
    Ok(busy.saturating_sub(idle) / connections.max(1))
}

/// Of a program from its start to its end.
pub fn of_program(program: &Path, arguments: &[&str], folder: &Path) -> anyhow::Result<u64> {
    let counts = folder.join("callgrind.out");
    let _ = fs::remove_file(&counts);
    run(counted(program).args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()))?;
    totals(&counts)
}

/// A program whose instructions are counted into the folder that it runs in.
fn counted(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.env("GLIBC_TUNABLES", NO_REP);
    command.args(["--tool=callgrind", "--callgrind-out-file=callgrind.out"]).arg(program);
    command
}

fn totals(counts: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(counts).with_context(|| format!("{}", counts.display()))?;
    let totals =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    let totals = totals.and_then(|number| number.trim().parse().ok());
    totals.with_context(|| format!("{} has no totals", counts.display()))
}

/// Instructions of a broker from its start to its end.
fn of_broker(binary: &Path, folder: &Path, tables: &str, connections: u64) -> anyhow::Result<u64> {
    let data = folder.join("data");
    let _ = fs::remove_dir_all(&data);
    let config = format!(
        r##"
[node]
data_dir = "data"
workers = 1
[listeners.devices]
bind = "127.0.0.1:0"
auth_mode = "mutual"
certfile = "pki/server.pem"
keyfile = "pki/server.key"
cacertfile = "pki/ca.pem"
handshake_timeout = "60s"
[admin]
enable = false
[metrics]
enable = false
[audit]
checkpoint_interval = "1h"
[[plugins]]
name = "policy"
native = "static-policy"
config = {{ rules = [{{ match = {{ cn = "*" }}, publish = ["${{device-id}}/#"] }}] }}
{tables}
"##
    );
    fs::write(folder.join("mqgate.toml"), config)?;
    let counts = folder.join("callgrind.out");
    let _ = fs::remove_file(&counts);
    let log = fs::File::create(folder.join("broker.log"))?;
    let mut broker = counted(binary)
        .args(["--config", "mqgate.toml", "run"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let measured = load(binary, folder, &data, &mut broker, connections);
    // It writes its counts when it ends.
    let pid = Pid::from_raw(i32::try_from(broker.id()).context("a process id")?);
    let _ = kill(pid, Signal::SIGTERM);
    let status = broker.wait()?;
    measured?;
    if !status.success() {
        bail!("the broker ended with {status}; see {}", folder.join("broker.log").display());
    }
    totals(&counts)
}

fn load(
    binary: &Path,
    folder: &Path,
    data: &Path,
    broker: &mut Child,
    connections: u64,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let port = loop {
        let text = fs::read_to_string(data.join("endpoints.json")).unwrap_or_default();
        let known: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let address = known["listeners"]["devices"]["address"].as_str().unwrap_or_default().to_owned();
        if let Some((_, port)) = address.rsplit_once(':') {
            break port.to_owned();
        }
        if broker.try_wait()?.is_some() || Instant::now() > deadline {
            bail!("it does not listen; see {}", folder.join("broker.log").display());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    };
    if connections == 0 {
        return Ok(());
    }
    let pki = folder.join("pki");
    let count = connections.to_string();
    let mut bench = Command::new(binary);
    bench.args([
        "bench",
        "connect",
        "-h",
        "localhost",
        "-p",
        &port,
        "-n",
        &count,
        // callgrind makes the broker slow: few at once, so that none waits too long.
        "--at-once",
        "2",
        "--warm-up",
        "0",
        "--json",
    ]);
    bench.arg("--cafile").arg(pki.join("ca.pem")).arg("--cert").arg(pki.join("device-1.pem"));
    bench.arg("--key").arg(pki.join("device-1.key"));
    run(bench.stdout(Stdio::null()))
}
