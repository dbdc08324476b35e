//! The fuzzer's command line, for `cargo xtask fuzz`, which builds it with coverage counters.
//!
//! ```text
//! drive list
//! drive fuzz TARGET RUNS SEED FOLDER [keep]
//! drive replay TARGET FILE
//! ```

#![allow(clippy::print_stdout, reason = "it is a program for a terminal")]
#![allow(clippy::unwrap_used, reason = "this is a test; clippy sees that only inside test functions")]

mod engine;
mod targets;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::coverage::Coverage;
use engine::search::Search;
use engine::{Target, corpus, outcome_of};

/// As much as the smallest stack that a connection of ours runs on, and less: who recurses is found out.
const STACK: usize = 512 * 1024;
const LONGEST_RUN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["list"] => {
            targets::ALL.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["fuzz", name, runs, seed, folder, rest @ ..] => target(name).and_then(|target| {
            let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
            let keep = rest == ["keep"];
            let (runs, seed, folder) = (number(runs)?, number(seed)?, Path::new(folder).to_owned());
            on_small_stack(move || fuzz(target, runs, seed, &folder, keep))
        }),
        ["replay", name, file] => target(name).and_then(|target| {
            let data = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
            on_small_stack(move || outcome_of(&target, &data)).map(|()| println!("it holds"))
        }),
        _ => Err("usage: drive list | fuzz TARGET RUNS SEED FOLDER [keep] | replay TARGET FILE".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn target(name: &str) -> Result<Target, String> {
    let names = || targets::ALL.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let found = targets::ALL.iter().find(|target| target.name == name);
    found.copied().ok_or_else(|| format!("there is no target {name}; there are {}", names()))
}

fn on_small_stack<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(STACK).spawn(code).unwrap().join().unwrap()
}

fn fuzz(target: Target, runs: u64, seed: u64, folder: &Path, keep: bool) -> Result<(), String> {
    let counters =
        Coverage::of_this_process().ok_or("built without counters; `cargo xtask fuzz` builds it")?;
    let wrong = |error: std::io::Error| error.to_string();
    let current = folder.join(format!("{}.current", target.name));
    let mut search = Search::new(target, counters, seed, &current).map_err(wrong)?;
    let mut first = corpus::read(&corpus::path(target.name)).map_err(wrong)?;
    first.extend((target.seeds)());

    // A panic is an outcome here, not something for the terminal.
    std::panic::set_hook(Box::new(|_| {}));
    let (progress, began) = (Arc::clone(&search.progress), Instant::now());
    std::thread::spawn(move || progress.watch(target.name, runs, LONGEST_RUN, |line| println!("{line}")));
    let outcome = search.run(first, runs);
    println!("{}", search.progress.line(target.name, runs, began.elapsed()));
    if let Err((data, said)) = outcome {
        let failure = search.keep_failure(data, said, folder).map_err(wrong)?;
        let _ = std::fs::remove_file(&current);
        let (path, said, length) = (failure.path.display(), failure.said, failure.length);
        return Err(format!(
            "{}: failed on {length} bytes: {said}\n  the input lies in {path}\n  again: cargo xtask fuzz {} --replay {path}",
            target.name, target.name
        ));
    }
    if keep {
        let inputs = search.minimised();
        corpus::write(&corpus::path(target.name), &inputs).map_err(wrong)?;
        println!(
            "{}: {} inputs are kept in {}",
            target.name,
            inputs.len(),
            corpus::path(target.name).display()
        );
    }
    std::fs::remove_file(&current).map_err(wrong)
}
