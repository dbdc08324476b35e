//! What a process of this machine has used, as the kernel tells it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mqgate_client::bench::{Probe, Usage};

use crate::exit::{Exit, Failure};

/// `/proc` counts CPU time in these, whatever the kernel's own tick is.
const TICKS_PER_SECOND: u64 = 100;

pub struct Process {
    /// `None`: no process is looked at.
    pid: Option<i32>,
}

impl Process {
    pub const NONE: Self = Self { pid: None };

    /// Fails if there is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        Self::read(pid).map_err(|error| Failure::new(Exit::Usage, format!("--pid {pid}: {error:#}")))?;
        Ok(Self { pid: Some(pid) })
    }

    fn read(pid: i32) -> Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let cpu = cpu(&read("stat")?).context("/proc/PID/stat has another form than expected")?;
        let resident = resident(&read("status")?).context("/proc/PID/status does not tell VmRSS")?;
        Ok(Usage { cpu, resident_bytes: resident })
    }
}

impl Probe for Process {
    fn usage(&self) -> Option<Usage> {
        Self::read(self.pid?).ok()
    }
}

/// User and system time of all threads, fields 14 and 15. The second field is the name, in parentheses, and may hold
/// anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read_past_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 7 7 20 0 5 0 1000 1 2";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("42 (a"), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_is_seen_and_another_is_not() {
        let own = Process::of(std::process::id() as i32).unwrap();
        assert!(own.usage().unwrap().resident_bytes > 0);
        assert!(Process::of(-1).is_err());
        assert_eq!(Process::NONE.usage(), None);
    }
}
