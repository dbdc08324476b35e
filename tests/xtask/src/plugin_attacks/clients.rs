//! Those who behave, at a fixed rate, each connection timed from when it was due; and those on whom the plugin attacks, each
//! from an address of its own.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::ensure;
use socket2::{Domain, Socket, Type};
use xtask::attack::wire;

/// Threads of either kind: more connections than this at the same time there are not.
const THREADS: u32 = 8;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Latency of connections that were accepted, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Felt {
    pub p50: f64,
    pub p99: f64,
    pub connects: u64,
    pub refused: u64,
}

impl fmt::Display for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, connects, refused } = self;
        write!(f, "p50 {p50:.0} µs, p99 {p99:.0} µs ({refused} of {connects} refused)")
    }
}

/// Connects so often in a second; what that was like.
pub fn behave(port: u16, rate: u32, time: Duration) -> anyhow::Result<Felt> {
    let begun = Instant::now();
    let threads: Vec<JoinHandle<(Vec<Duration>, u64)>> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || {
                let (mut took, mut refused) = (Vec::new(), 0);
                for turn in 0_u32.. {
                    let due = begun + due(turn, thread, rate);
                    if due >= begun + time {
                        break;
                    }
                    wait_until(due);
                    let id = format!("honest-{thread}-{turn}");
                    match come_and_go(Ipv4Addr::LOCALHOST, port, &id) {
                        // Late from its first moment on, also when the one before it was slow.
                        Ok(true) => took.push(due.elapsed()),
                        Ok(false) | Err(_) => refused += 1,
                    }
                }
                (took, refused)
            })
        })
        .collect();
    let (mut took, mut refused) = (Vec::new(), 0);
    for thread in threads {
        let (own, own_refused) = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        took.extend(own);
        refused += own_refused;
    }
    ensure!(!took.is_empty(), "nobody who behaves gets in");
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    Ok(Felt { p50: at(0.5), p99: at(0.99), connects: took.len() as u64 + refused, refused })
}

/// Clients on whom the plugin attacks, until they are told to stop.
pub struct Attackers {
    stop: Arc<AtomicBool>,
    attacks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Attackers {
    pub fn start(port: u16, prefixes: &'static [&'static str], rate: u32) -> Self {
        let (stop, attacks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begun = Instant::now();
        let threads = (0..THREADS)
            .map(|thread| {
                let (stop, attacks) = (Arc::clone(&stop), Arc::clone(&attacks));
                std::thread::spawn(move || {
                    for turn in 0_u32.. {
                        wait_until(begun + due(turn, thread, rate));
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let number = turn * THREADS + thread;
                        let prefix = prefixes[number as usize % prefixes.len()];
                        // However the broker takes it.
                        let _ = come_and_go(address(number), port, &format!("{prefix}{number}"));
                        attacks.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, attacks, threads }
    }

    /// How many there were.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        self.attacks.load(Ordering::Relaxed)
    }
}

/// When a thread's turn is, so that all together are evenly spread.
fn due(turn: u32, thread: u32, rate: u32) -> Duration {
    let number = u64::from(turn) * u64::from(THREADS) + u64::from(thread);
    Duration::from_secs_f64(number as f64 / f64::from(rate.max(1)))
}

fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// Of this machine, and another for each attack, far from the one that everybody else has.
fn address(number: u32) -> Ipv4Addr {
    let [_, high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low)
}

/// Whether it was let in.
fn come_and_go(from: Ipv4Addr, port: u16, client_id: &str) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if from != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((from, 0)).into())?;
    }
    socket.connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&wire::connect(client_id, None))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    if connack[3] == 0 {
        stream.write_all(&wire::DISCONNECT)?;
    }
    Ok(connack[3] == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_and_addresses_differ() {
        assert_eq!(due(0, 0, 200), Duration::ZERO);
        assert_eq!(due(0, 1, 200), Duration::from_millis(5));
        assert_eq!(due(25, 0, 200), Duration::from_secs(1));
        assert_eq!(address(0), Ipv4Addr::new(127, 64, 0, 0));
        assert_eq!(address(0x0001_0203), Ipv4Addr::new(127, 65, 2, 3));
        assert_ne!(address(1), address(257));
    }
}
