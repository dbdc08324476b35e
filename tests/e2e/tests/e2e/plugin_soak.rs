//! Components swapped every second under load, for as long as one has patience: `MQGATE_SOAK_SECONDS`, half an hour without it.
//!
//! Of three versions one is faulty: it traps on clients that a correct one refuses. So whoever a correct version would
//! admit is admitted at every moment, and each decision that is written down is the one that its version comes to.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mqgate_client::{Client, ConnectOptions};
use mqgate_codec::ReasonCode;
use mqgate_e2e::{Admin, Broker};
use serde_json::Value;

use crate::plugin_lifecycle::test_guest;
use crate::plugin_restart::{digest, numbered};

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
const WORKERS: u64 = 8;
/// One connection in so many is of a client that is to be refused. So few that the faulty version's breaker, which would
/// refuse everybody for a while, stays closed until it is taken back.
const ONE_IN: u64 = 16;
/// Of what the broker can do.
const LOAD: f64 = 0.8;
const MIB: u64 = 1 << 20;

/// What each version says of clients whose names begin with `odd-`; of others none has an opinion.
const VERSIONS: [&str; 3] = ["deny", "deny", "trap"];
const FAULTY: usize = 2;

/// What the clients know.
#[derive(Default)]
struct Score {
    over: AtomicBool,
    connects: AtomicU64,
    /// Answers that no correct version gives.
    wrong: Mutex<Vec<String>>,
}

/// Comes and goes, `pace` from one beginning to the next, or as fast as it can.
async fn come_and_go(
    number: u64,
    good: ConnectOptions,
    odd: ConnectOptions,
    pace: Option<Duration>,
    score: Arc<Score>,
) {
    let mut pace = pace.map(tokio::time::interval);
    if let Some(pace) = &mut pace {
        // What was late is not made up for: that would be more than the load.
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    // Not all at the same time.
    for turn in number * 2.. {
        if score.over.load(Ordering::Relaxed) {
            return;
        }
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let is_odd = turn.is_multiple_of(ONE_IN);
        let options = if is_odd { &odd } else { &good };
        let wrong = match (Client::connect(options.clone()).await, is_odd) {
            (Ok((client, _)), false) => {
                let _ = client.disconnect().await;
                None
            }
            (Ok(_), true) => Some(String::from("a client that every version refuses was let in")),
            (Err(error), false) => Some(format!("a client that no version refuses was refused: {error}")),
            (Err(error), true) => match error.reason_code() {
                Some(ReasonCode::NOT_AUTHORIZED | ReasonCode::SERVER_UNAVAILABLE) => None,
                other => Some(format!("a refusal of another kind: {other:?}, {error}")),
            },
        };
        score.connects.fetch_add(1, Ordering::Relaxed);
        if let Some(wrong) = wrong {
            score.wrong.lock().unwrap().push(wrong);
        }
    }
}

/// The clients, while they come and go.
struct Crowd {
    clients: tokio::task::JoinSet<()>,
    score: Arc<Score>,
}

impl Crowd {
    fn gather(people: &[(ConnectOptions, ConnectOptions)], pace: Option<Duration>) -> Self {
        let mut crowd = Self { clients: tokio::task::JoinSet::new(), score: Arc::default() };
        for (number, (good, odd)) in (0..).zip(people) {
            crowd.clients.spawn(come_and_go(
                number,
                good.clone(),
                odd.clone(),
                pace,
                Arc::clone(&crowd.score),
            ));
        }
        crowd
    }

    async fn go_home(mut self) -> u64 {
        self.score.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client panics");
        }
        let wrong = self.score.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} wrong answers: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
        self.score.connects.load(Ordering::Relaxed)
    }
}

/// The audit log as it grows, also when a new segment begins.
struct Follower {
    path: PathBuf,
    file: BufReader<File>,
    inode: u64,
    partial: String,
}

impl Follower {
    fn new(path: PathBuf) -> Self {
        let file = File::open(&path).expect("the broker writes it");
        let inode = file.metadata().expect("it is open").ino();
        Self { path, file: BufReader::new(file), inode, partial: String::new() }
    }

    /// What has come since.
    fn each_new(&mut self, mut seen: impl FnMut(&Value)) {
        loop {
            // Asked before the rest is read: a segment that is not the newest grows no more.
            let newest = std::fs::metadata(&self.path).map(|known| known.ino());
            while self.file.read_line(&mut self.partial).expect("lines are UTF-8") > 0 {
                if !self.partial.ends_with('\n') {
                    break;
                }
                seen(&serde_json::from_str(&self.partial).expect("each line is one JSON object"));
                self.partial.clear();
            }
            match newest {
                Ok(newest) if newest != self.inode => *self = Self::new(self.path.clone()),
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Recorded decisions of each version, all of them what that version has to say.
#[derive(Default)]
struct Decisions {
    counted: [u64; 3],
    wrong: Vec<String>,
}

impl Decisions {
    fn check(&mut self, line: &Value, digests: &[String; 3]) {
        let verdicts = line["plugins"].as_array().into_iter().flatten();
        let mut own = verdicts.filter(|verdict| verdict["name"] == "gate");
        let Some(verdict) = own.next() else { return };
        let Some(version) = digests.iter().position(|digest| verdict["digest"] == **digest) else {
            return self.wrong.push(format!("a version that was never loaded: {line}"));
        };
        self.counted[version] += 1;
        let is_odd = line["client_id"].as_str().is_some_and(|name| name.starts_with("odd-"));
        let (result, outcome) = (&verdict["result"], &line["outcome"]);
        let is_right = match (is_odd, version == FAULTY) {
            (false, _) => result == "abstain" && outcome == "success",
            (true, false) => result == "deny" && outcome == "failure",
            // It traps, or is not asked about one on whom it trapped just now.
            (true, true) => result != "deny" && result != "abstain" && outcome == "error",
        };
        // Two versions never have a say about one connection.
        if !is_right || own.next().is_some() {
            self.wrong.push(format!("not what version {version} says: {line}"));
        }
    }
}

fn taken_back(admin: &Admin) -> f64 {
    admin.metric("mqgate_plugin_swaps_total{plugin=\"gate\",result=\"rolled_back\"}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "full: half an hour of swaps under load"]
async fn swaps_every_second_under_load_refuse_nobody_and_leave_nothing_behind() {
    let patience = std::env::var("MQGATE_SOAK_SECONDS").ok().map(|text| text.parse().expect("seconds"));
    let patience = patience.map_or(HALF_AN_HOUR, Duration::from_secs);
    // A breaker that refuses everybody would be right, and not what this test is about.
    let limits = r#"limits = { cpu = "10s", wall = "30s", queue_wait = "60s", breaker_percent = 50 }"#;
    let broker = Broker::builder()
        .config("[plugin_host.probation]\nfailed_clients = 3\nfailed_percent = 1")
        .with_plugin("gate", &test_guest(), &format!("{limits}\n{}", settings("deny")))
        .with_bundled_plugins()
        .start()
        .await;
    let component = std::fs::read(test_guest()).expect("it was built");
    let versions: [Vec<u8>; 3] = [0, 1, 2].map(|number| numbered(&component, number));
    let digests = versions.each_ref().map(|bytes| digest(bytes));
    let files =
        [0, 1, 2].map(|number| broker.folder.join(format!("gate-{number}.wasm")).display().to_string());
    for (file, bytes) in files.iter().zip(&versions) {
        std::fs::write(file, bytes).expect("the test's folder is writable");
    }
    let people: Vec<_> = (0..WORKERS)
        .map(|number| {
            let person = |name: String| {
                let mut options = broker.options(&name, &broker.pki.device(&name));
                options.connect_timeout = Duration::from_secs(60);
                options
            };
            (person(format!("good-{number}")), person(format!("odd-{number}")))
        })
        .collect();
    let admin = broker.admin();
    let swap = |version: usize| {
        let config = format!(r#"{{"authenticate":"{}","only-prefix":"odd-"}}"#, VERSIONS[version]);
        admin.run(&["plugin", "swap", "gate", &files[version], "--config-json", &config]);
    };
    // Everything is compiled, and every good device registered, before anything is counted.
    (0..2).for_each(swap);
    let crowd = Crowd::gather(&people, None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = crowd.score.connects.load(Ordering::Relaxed);
    let measured = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let done = crowd.score.connects.load(Ordering::Relaxed) - before;
    let capacity = done as f64 / measured.elapsed().as_secs_f64();
    crowd.go_home().await;
    assert!(capacity > 0.0, "nobody connects");

    let mut log = Follower::new(broker.folder.join("audit.jsonl"));
    log.each_new(|_| {});
    let pace = Duration::from_secs_f64(WORKERS as f64 / (capacity * LOAD));
    let crowd = Crowd::gather(&people, Some(pace));
    let begun = Instant::now();
    let (mut decisions, mut swaps, mut faulty) = (Decisions::default(), 0_usize, 0_u32);
    let mut memory: Vec<(Duration, u64)> = Vec::new();
    let rolled_back = taken_back(&admin);
    let mut each_second = tokio::time::interval(Duration::from_secs(1));
    while begun.elapsed() < patience {
        each_second.tick().await;
        let version = (swaps + 2) % 3;
        tokio::task::block_in_place(|| swap(version));
        swaps += 1;
        if version == FAULTY {
            faulty += 1;
            let since = Instant::now();
            while taken_back(&admin) < rolled_back + f64::from(faulty) {
                assert!(since.elapsed() < Duration::from_secs(60), "the faulty version stays");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        memory.push((begun.elapsed(), broker.memory()));
        log.each_new(|line| decisions.check(line, &digests));
        assert!(decisions.wrong.is_empty(), "{:#?}", decisions.wrong);
    }
    let connects = crowd.go_home().await;
    log.each_new(|line| decisions.check(line, &digests));
    assert!(decisions.wrong.is_empty(), "{:#?}", decisions.wrong);
    assert!(decisions.counted.iter().all(|count| *count > 0), "{:?}", decisions.counted);
    assert!((taken_back(&admin) - rolled_back - f64::from(faulty)).abs() < f64::EPSILON);
    let (first, last) = (at(&memory, patience.mul_f64(0.25)), at(&memory, patience));
    eprintln!(
        "{connects} connections at 80 % of {capacity:.0} a second, {swaps} swaps, {faulty} taken back; decisions written \
         down: {:?}; memory {} MiB, then {} MiB",
        decisions.counted,
        first / MIB,
        last / MIB
    );
    assert!(last <= first + first / 10 + 32 * MIB, "memory grows from {first} to {last} bytes");
}

/// The configuration that a version has from the file.
fn settings(authenticate: &str) -> String {
    format!(r#"config = {{ authenticate = "{authenticate}", only-prefix = "odd-" }}"#)
}

/// The median of the five samples up to a moment.
fn at(memory: &[(Duration, u64)], moment: Duration) -> u64 {
    let until = memory.iter().filter(|(time, _)| *time <= moment).count().max(1);
    let mut last: Vec<u64> =
        memory[until.saturating_sub(5)..until.min(memory.len())].iter().map(|(_, bytes)| *bytes).collect();
    last.sort_unstable();
    last[last.len() / 2]
}

#[test]
fn the_end_of_a_quarter_is_its_last_samples() {
    let memory: Vec<_> = (1..=20).map(|second| (Duration::from_secs(second), second)).collect();
    assert_eq!(at(&memory, Duration::from_secs(10)), 8);
    assert_eq!(at(&memory, Duration::from_secs(99)), 18);
    assert_eq!(at(&memory, Duration::ZERO), 1);
}
