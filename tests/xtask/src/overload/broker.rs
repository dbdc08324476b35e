//! The broker that is attacked: a process on a core of its own, with the limits of a scenario.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::PATIENCE;
use crate::bench::{free_ports, pinned};

pub struct Broker {
    process: Child,
    pub port: u16,
    /// With TLS.
    pub tls: u16,
    admin: u16,
}

/// Resident bytes.
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

/// A page of `/metrics`.
pub struct Metrics(String);

impl Broker {
    /// `limits` are the lines of `[limits]`, and further tables.
    pub fn start(mqgate: &Path, limits: &str, folder: &Path) -> anyhow::Result<Self> {
        let [port, tls, admin] = free_ports()?;
        let text = format!(
            r#"
[node]
data_dir = "data"

[listeners.plain]
type = "tcp"
bind = "127.0.0.1:{port}"
max_connections = 15000
send_buffer = "64 KiB"

[listeners.tls]
type = "tls"
bind = "127.0.0.1:{tls}"
auth_mode = "one-way"
builtin_certificate = true

[admin]
bind = "127.0.0.1:{admin}"

[audit]
path = "audit.jsonl"

[[plugins]]
name = "anonymous"
native = "anonymous"

[limits]
{limits}
"#
        );
        Self::launch(mqgate, &text, [port, tls, admin], folder, |start| pinned::on_brokers_core(start))
    }

    /// With a configuration that opens these ports, the last of them for the admin API. `on` says on which cores.
    pub fn launch(
        mqgate: &Path,
        text: &str,
        [port, tls, admin]: [u16; 3],
        folder: &Path,
        on: impl FnOnce(&mut dyn FnMut() -> std::io::Result<Child>) -> anyhow::Result<std::io::Result<Child>>,
    ) -> anyhow::Result<Self> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let path = folder.join("mqgate.toml");
        fs::write(&path, text)?;
        let log = fs::File::create(folder.join("broker.log"))?;
        let mut command = Command::new(mqgate);
        command.arg("run").arg("--config").arg(&path).current_dir(folder).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let process =
            on(&mut || command.spawn())?.with_context(|| format!("cannot start {}", mqgate.display()))?;
        let mut broker = Self { process, port, tls, admin };
        broker.wait(&folder.join("broker.log"))?;
        Ok(broker)
    }

    fn wait(&mut self, log: &PathBuf) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while [self.port, self.tls, self.admin]
            .into_iter()
            .any(|port| TcpStream::connect(("127.0.0.1", port)).is_err())
        {
            if self.process.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("it does not listen; its log says:\n{}", fs::read_to_string(log).unwrap_or_default());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .context("the broker is gone")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("Linux tells it")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Memory { now: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("no metrics")?;
        Ok(Metrics(text))
    }
}

impl Metrics {
    /// Of all series that begin so, together: `mqgate_x_total{reason="a"}` is one, `mqgate_x_total` all of them.
    pub fn value(&self, series: &str) -> f64 {
        let found = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(series)?;
            let is_whole = rest.starts_with(' ') || rest.starts_with('{');
            is_whole.then(|| line.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        found.sum()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_and_added_up() {
        let text = "# HELP a b\na_total{reason=\"x\"} 2\na_total{reason=\"y\"} 3\na_total_more 7\nb 1.5\n";
        let metrics = Metrics(text.into());
        let series = ["a_total", "a_total{reason=\"y\"}", "b", "c"];
        assert_eq!(series.map(|series| metrics.value(series)), [5.0, 3.0, 1.5, 0.0]);
    }
}
