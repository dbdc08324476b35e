//! What can be done to a broker over plain TCP: floods, and clients that are slow on purpose. For `cargo xtask overload`,
//! and smaller for the end-to-end tests.

pub mod wire;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Where an attack takes place.
#[derive(Clone)]
pub struct Field {
    port: u16,
    /// Attackers, as a part of the full number.
    scale: f64,
    /// Messages a second that the broker can do.
    capacity: f64,
    done: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    over: Arc<AtomicBool>,
}

/// Returns when the attack is under way; threads go on with it.
pub type Attack = fn(&Field) -> io::Result<()>;

impl Field {
    pub fn new(port: u16, scale: f64, capacity: f64) -> Self {
        Self { port, scale, capacity, done: Arc::default(), over: Arc::default() }
    }

    /// What the attackers did so far.
    pub fn done(&self) -> BTreeMap<&'static str, u64> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The attack comes to an end, as far as it is not waiting for the broker.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// So many of `all` as there are to be.
    fn of(&self, all: usize) -> usize {
        ((all as f64 * self.scale) as usize).max(1)
    }

    fn count(&self, what: &'static str, more: u64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += more;
    }

    /// `work` in so many threads, as a part of them; each is told its number.
    fn each(&self, threads: usize, work: impl Fn(&Self, usize) -> io::Result<()> + Clone + Send + 'static) {
        for number in 0..self.of(threads) {
            let (field, work) = (self.clone(), work.clone());
            thread::spawn(move || {
                if work(&field, number).is_err() && field.goes_on() {
                    field.count("thrown out", 1);
                }
            });
        }
    }

    /// Connections that are made again and again; one that fails is tried again a little later.
    fn again_and_again(
        &self,
        threads: usize,
        work: impl Fn(&Self, usize) -> io::Result<()> + Clone + Send + 'static,
    ) {
        self.each(threads, move |field, number| {
            while field.goes_on() {
                match work(field, number) {
                    Ok(()) => field.count("connections", 1),
                    Err(_) => {
                        field.count("failed", 1);
                        thread::sleep(Duration::from_millis(10));
                    }
                }
            }
            Ok(())
        });
    }
}

/// Reads what comes, in a thread of its own.
fn drained(stream: &TcpStream) -> io::Result<()> {
    let reader = stream.try_clone()?;
    thread::spawn(move || wire::drain(reader));
    Ok(())
}

const PAIRS: usize = 10;
/// What is offered, as a part of what the broker can do.
const TIMES: f64 = 10.0;

pub fn flood(field: &Field) -> io::Result<()> {
    for number in 0..field.of(PAIRS) {
        drained(&wire::subscribed(field.port, &format!("sink-{number}"), &format!("attack/{number}"), 0)?)?;
    }
    field.each(PAIRS, |field, number| {
        const AT_ONCE: u64 = 100;
        let mut stream = wire::open(field.port, &wire::connect(&format!("flood-{number}"), None))?;
        let messages = wire::publish(&format!("attack/{number}"), &[0; 64], false).repeat(AT_ONCE as usize);
        let (rate, started) = (field.capacity * TIMES / field.of(PAIRS) as f64, Instant::now());
        let (mut offered, mut taken) = (0, 0);
        while field.goes_on() {
            let due = (started.elapsed().as_secs_f64() * rate) as u64;
            field.count("offered", due - offered);
            offered = due;
            if taken < offered {
                stream.write_all(&messages)?;
                taken += AT_ONCE;
                field.count("taken", AT_ONCE);
            } else {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    });
    Ok(())
}

pub fn slow_readers(field: &Field) -> io::Result<()> {
    let mut readers = Vec::new();
    for number in 0..field.of(1000) {
        readers.push(wire::subscribed(
            field.port,
            &format!("slow-{number}"),
            "attack/#",
            (number % 2) as u8,
        )?);
    }
    let readers = Arc::new(readers);
    field.each(1, move |field, _| {
        const EVERY: Duration = Duration::from_millis(20);
        let _open = &readers;
        let mut stream = wire::open(field.port, &wire::connect("busy", None))?;
        let mut acknowledgement = [0; 4];
        let (started, mut rounds) = (Instant::now(), 0);
        while field.goes_on() {
            for _ in 0..5 {
                stream.write_all(&wire::publish("attack/slow", &[0; 1024], false))?;
                stream.write_all(&wire::publish_to_be_acknowledged("attack/slow", &[0; 1024]))?;
                stream.read_exact(&mut acknowledgement)?;
            }
            field.count("published", 10);
            rounds += 1;
            thread::sleep((EVERY * rounds).saturating_sub(started.elapsed()));
        }
        Ok(())
    });
    Ok(())
}

pub fn half_open(field: &Field) -> io::Result<()> {
    let mut streams = Vec::new();
    for number in 0..field.of(10_000) {
        streams.push(half(field, number)?);
    }
    let streams = Arc::new(Mutex::new(streams));
    field.each(1, move |field, _| {
        let mut streams = std::mem::take(&mut *streams.lock().unwrap_or_else(PoisonError::into_inner));
        for round in (0_u64..).take_while(|_| field.goes_on()) {
            for (number, stream) in streams.iter_mut().enumerate() {
                let waits = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
                if !stream.read(&mut [0]).as_ref().is_err_and(waits) {
                    *stream = half(field, number)?;
                } else if number % 3 == 2 && round.is_multiple_of(10) {
                    let _ = stream.write(b"x"); // As slowly as can be.
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    });
    Ok(())
}

/// A connection that says nothing, or the beginning of something.
fn half(field: &Field, number: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", field.port))?;
    match number % 3 {
        0 => {}
        1 => stream.write_all(&[0x10])?,
        _ => stream.write_all(&wire::connect(&"x".repeat(3000), None)[..1500])?,
    }
    stream.set_nonblocking(true)?;
    field.count("connections", 1);
    Ok(stream)
}

pub fn subscribe_flood(field: &Field) -> io::Result<()> {
    field.each(50, |field, number| {
        let mut stream = wire::open(field.port, &wire::connect(&format!("subscriber-{number}"), None))?;
        drained(&stream)?;
        let filters = |round: usize| -> Vec<String> {
            let own = format!("{number}/{round}");
            let levels = ["", "a/", "+/"].into_iter();
            let kinds =
                levels.flat_map(|level| ["b", "+", "#"].map(|last| format!("attack/{own}/{level}{last}")));
            kinds.chain([format!("+/{own}")]).collect()
        };
        let mut packets = Vec::new();
        for round in 0..20 {
            packets.extend(wire::subscribe(&filters(round), 1));
            packets.extend(wire::unsubscribe(&filters((round + 10) % 20)));
        }
        while field.goes_on() {
            stream.write_all(&packets)?;
            field.count("packets", 40);
        }
        Ok(())
    });
    Ok(())
}

/// Leaves retained messages, each on a topic of its own.
fn retain(stream: &mut TcpStream, prefix: &str, numbers: std::ops::Range<u64>) -> io::Result<()> {
    let packets: Vec<u8> =
        numbers.flat_map(|number| wire::publish(&format!("{prefix}/{number}"), &[b'x'; 200], true)).collect();
    stream.write_all(&packets)
}

pub fn retained_sweep(field: &Field) -> io::Result<()> {
    let mut keeper = wire::open(field.port, &wire::connect("keeper", None))?;
    for thousand in 0..field.of(50) {
        retain(&mut keeper, &format!("attack/{thousand}"), 0..1000)?;
    }
    keeper.write_all(&[0xC0, 0])?;
    keeper.read_exact(&mut [0; 2])?; // All of them are there.
    field.each(20, |field, number| {
        let mut stream = wire::open(field.port, &wire::connect(&format!("sweeper-{number}"), None))?;
        drained(&stream)?;
        let packets =
            [wire::subscribe(&["attack/#".into()], 0), wire::unsubscribe(&["attack/#".into()])].concat();
        while field.goes_on() {
            stream.write_all(&packets)?;
            field.count("packets", 2);
        }
        Ok(())
    });
    Ok(())
}

pub fn retained_flood(field: &Field) -> io::Result<()> {
    field.each(20, |field, number| {
        const AT_ONCE: u64 = 100;
        let mut stream = wire::open(field.port, &wire::connect(&format!("keeper-{number}"), None))?;
        for round in (0_u64..).take_while(|_| field.goes_on()) {
            retain(&mut stream, &format!("attack/{number}"), round * AT_ONCE..(round + 1) * AT_ONCE)?;
            field.count("published", AT_ONCE);
        }
        Ok(())
    });
    Ok(())
}

pub fn will_flood(field: &Field) -> io::Result<()> {
    drained(&wire::subscribed(field.port, "heir", "attack/#", 0)?)?;
    field.again_and_again(50, |field, number| {
        let topic = format!("attack/{number}");
        let connect = wire::connect(&format!("mortal-{number}"), Some((&topic, &[0; 1024])));
        wire::open(field.port, &connect).map(drop)
    });
    Ok(())
}

pub fn reconnect_flood(field: &Field) -> io::Result<()> {
    field.again_and_again(50, |field, number| {
        if number % 2 == 0 {
            // Who has this name is sent away by the next one.
            return wire::open(field.port, &wire::connect("one-of-many", None)).map(drop);
        }
        let mut stream = wire::open(field.port, &wire::connect(&format!("restless-{number}"), None))?;
        stream.write_all(&wire::DISCONNECT)
    });
    Ok(())
}
