//! The search: which input is changed next, which is kept, and what is done with one that fails.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::coverage::Coverage;
use super::mutate::Mutator;
use super::{Target, outcome_of};

pub struct Search {
    target: Target,
    coverage: Coverage,
    rng: Rng,
    /// For each edge, the bits of how often it was taken in one run.
    seen: Vec<u8>,
    inputs: Vec<Input>,
    pub progress: Arc<Progress>,
    /// The input that is being run, for whoever finds this process dead.
    current: File,
}

struct Input {
    data: Vec<u8>,
    compared: Vec<(u64, u64, u8)>,
}

/// For whoever watches from another thread.
#[derive(Default)]
pub struct Progress {
    pub runs: AtomicU64,
    pub edges: AtomicU64,
    pub inputs: AtomicU64,
}

/// A run that failed.
pub struct Failure {
    pub path: PathBuf,
    pub said: String,
    pub length: usize,
}

/// Runs that may go into making a failing input smaller.
const SHRINKING: usize = 20_000;

impl Search {
    pub fn new(target: Target, coverage: Coverage, seed: u64, current: &Path) -> io::Result<Self> {
        let seen = vec![0; coverage.len()];
        let current = File::create(current)?;
        let rng = Rng::with_seed(seed);
        Ok(Self { target, coverage, rng, seen, inputs: Vec::new(), progress: Arc::default(), current })
    }

    /// Runs `first`, then changed inputs until `runs` are done; stops at the first failure.
    pub fn run(&mut self, first: Vec<Vec<u8>>, runs: u64) -> Result<(), (Vec<u8>, String)> {
        for data in first {
            self.one(data)?;
        }
        while self.progress.runs.load(Ordering::Relaxed) < runs {
            let data = self.next();
            self.one(data)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Vec<u8> {
        if self.inputs.is_empty() {
            return vec![self.rng.u8(..)];
        }
        // Half of them from what was found last; of two, the shorter.
        let count = self.inputs.len();
        let from = if self.rng.bool() { count - 1 - (count - 1) / 5 } else { 0 };
        let (one, two) = (self.rng.usize(from..count), self.rng.usize(from..count));
        let chosen = if self.inputs[one].data.len() <= self.inputs[two].data.len() { one } else { two };
        let other = self.rng.usize(0..count);
        let mut data = self.inputs[chosen].data.clone();
        let mut mutator = Mutator {
            rng: &mut self.rng,
            dictionary: self.target.dictionary,
            compared: &self.inputs[chosen].compared,
            longest: self.target.longest,
        };
        mutator.mutate(&mut data, &self.inputs[other].data);
        data
    }

    fn one(&mut self, data: Vec<u8>) -> Result<(), (Vec<u8>, String)> {
        self.note(&data);
        let target = self.target;
        let outcome = self.coverage.watch(|| outcome_of(&target, &data));
        self.progress.runs.fetch_add(1, Ordering::Relaxed);
        if let Err(said) = outcome {
            return Err((data, said));
        }
        let (mut new, mut edges) = (false, 0);
        for (at, bit) in self.coverage.taken() {
            if self.seen[at] & bit == 0 {
                edges += u64::from(self.seen[at] == 0);
                self.seen[at] |= bit;
                new = true;
            }
        }
        if new {
            let compared = self.coverage.compared();
            self.inputs.push(Input { data, compared });
            self.progress.edges.fetch_add(edges, Ordering::Relaxed);
            self.progress.inputs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Leaves the input where it is found when the process does not outlive it.
    fn note(&self, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let _ = self.current.write_all_at(&[&length.to_le_bytes(), data].concat(), 0);
    }

    /// As few of the inputs as reach all edges, the shortest first.
    pub fn minimised(&mut self) -> Vec<Vec<u8>> {
        let mut inputs: Vec<_> = self.inputs.iter().map(|input| input.data.clone()).collect();
        inputs.sort_by_key(Vec::len);
        let mut reached = vec![false; self.seen.len()];
        let (target, coverage) = (self.target, &mut self.coverage);
        inputs.retain(|data| {
            let outcome = coverage.watch(|| outcome_of(&target, data));
            let mut new = false;
            for (at, _) in coverage.taken() {
                new |= !std::mem::replace(&mut reached[at], true);
            }
            new && outcome.is_ok()
        });
        inputs
    }

    /// Makes a failing input smaller while it fails in the same words, and writes it to `folder`.
    pub fn keep_failure(&self, mut data: Vec<u8>, said: String, folder: &Path) -> io::Result<Failure> {
        let beginning = |text: &str| text.chars().take(40).collect::<String>();
        let expected = beginning(&said);
        let mut tries = 0;
        let mut piece = data.len().div_ceil(2);
        while piece > 0 && tries < SHRINKING {
            let mut at = 0;
            while at < data.len() && tries < SHRINKING {
                let mut shorter = data.clone();
                shorter.drain(at..(at + piece).min(data.len()));
                tries += 1;
                self.note(&shorter);
                match outcome_of(&self.target, &shorter) {
                    Err(text) if beginning(&text) == expected => data = shorter,
                    Err(_) | Ok(()) => at += piece,
                }
            }
            piece /= 2;
        }
        let said = outcome_of(&self.target, &data).err().unwrap_or(said);
        fs::create_dir_all(folder)?;
        let sum = data.iter().fold(0xCBF2_9CE4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3) // FNV-1a: a name, no more.
        });
        let path = folder.join(format!("{}-{sum:016x}", self.target.name));
        fs::write(&path, &data)?;
        Ok(Failure { path, said, length: data.len() })
    }
}

impl Progress {
    /// Every few seconds a line; ends the process when one run takes longer than `longest`.
    pub fn watch(&self, name: &str, runs: u64, longest: Duration, say: impl Fn(&str)) {
        let began = Instant::now();
        let (mut before, mut since, mut told) = (0, Instant::now(), Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let done = self.runs.load(Ordering::Relaxed);
            if done != before {
                (before, since) = (done, Instant::now());
            } else if since.elapsed() > longest {
                say(&format!("{name}: one run takes more than {longest:?}"));
                std::process::abort();
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                say(&self.line(name, runs, began.elapsed()));
            }
        }
    }

    pub fn line(&self, name: &str, runs: u64, took: Duration) -> String {
        let done = self.runs.load(Ordering::Relaxed);
        let rate = done as f64 / took.as_secs_f64().max(0.001);
        let (edges, inputs) = (self.edges.load(Ordering::Relaxed), self.inputs.load(Ordering::Relaxed));
        format!("{name}: {done} of {runs} runs, {rate:.0} a second, {edges} edges, {inputs} inputs")
    }
}
