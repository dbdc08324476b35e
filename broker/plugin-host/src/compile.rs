//! Components into machine code: by a child of this program that can be ended at any moment, or in this process where
//! there is no program to be a child of.
//!
//! A compiler fed with what strangers wrote may compute and grow without end. The child has nothing of the broker's but
//! three pipes; what it hands back is looked at by whoever asked.

mod child;

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wasmtime::Engine;

pub use self::child::{ChildTerms, compile_as_child};
use crate::capability::log::one_line;
use crate::error::{LoadError, Stage};
use crate::instance::shorten;

/// Components that are compiled at the same time; more wait.
pub(crate) const COMPILERS: usize = 2;
/// Threads of one child: its address space is bounded, and each of them takes some.
const THREADS: &str = "4";
/// Machine code is a few times as large as what it was made from. What comes to more says much of the same in few words, and
/// would be the broker's to keep.
const MOST_CODE_PER_BYTE: u64 = 16;
/// What small components come to all the same.
const LEAST_CODE: u64 = 8 << 20;
/// What a child says of itself.
const MOST_SAID: u64 = 4 << 10;
/// How long a child that has said everything may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How a child ends that refuses the component.
const REFUSED: i32 = 1;

/// What compiling one component may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of address space.
    pub memory: u64,
    /// Time it may compute, all its threads together; counted in whole seconds.
    pub cpu: Duration,
    /// Time from its start.
    pub time: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory: 4 << 30, cpu: Duration::from_secs(120), time: Duration::from_secs(300) }
    }
}

impl CompileLimits {
    /// At least one: the kernel knows no parts of a second.
    fn cpu_seconds(&self) -> u64 {
        (self.cpu.as_secs() + u64::from(self.cpu.subsec_nanos() > 0)).max(1)
    }
}

/// A program whose main function ends in [`compile_as_child`] when it is run with these arguments and [`ChildTerms`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompilerProgram {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// Compiles for one engine; blocks.
pub(crate) trait Compile: Send + Sync {
    fn compile(&self, component: &[u8], job: Job) -> Result<Vec<u8>, LoadError>;
}

/// Somebody waits for a compiled component. Dropped, nobody does.
pub(crate) struct Wanted(Sender<Event>);

impl Drop for Wanted {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Unwanted);
    }
}

/// One component to be compiled.
pub(crate) struct Job {
    tell: Sender<Event>,
    events: Receiver<Event>,
}

/// What happens while a child compiles.
enum Event {
    /// It has closed its output. `None`: it wrote too much, or it could not be read.
    Output(Option<Vec<u8>>),
    Unwanted,
}

pub(crate) fn job() -> (Wanted, Job) {
    let (tell, events) = channel();
    (Wanted(tell.clone()), Job { tell, events })
}

/// In this process, without limits.
pub(crate) struct InProcess(pub(crate) Engine);

impl Compile for InProcess {
    fn compile(&self, component: &[u8], _job: Job) -> Result<Vec<u8>, LoadError> {
        self.0.precompile_component(component).map_err(|error| failed(one_line(&format!("{error:#}"))))
    }
}

/// By a child that is confined.
pub(crate) struct ByChild {
    pub(crate) program: CompilerProgram,
    pub(crate) limits: CompileLimits,
    /// What the engine reserves for each memory: part of what machine code is made for.
    pub(crate) reservation: usize,
}

/// How a child came to its end.
enum End {
    ByItself { status: ExitStatus, code: Vec<u8> },
    TooMuch,
    TooLong,
    Unwanted,
}

impl Compile for ByChild {
    fn compile(&self, component: &[u8], job: Job) -> Result<Vec<u8>, LoadError> {
        let deadline = Instant::now() + self.limits.time;
        let mut child = self.spawn()?;
        let (Some(mut input), Some(output), Some(said)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            end(&mut child);
            return Err(failed("the child that compiles has no pipes"));
        };
        let Job { tell, events } = job;
        let most = LEAST_CODE + MOST_CODE_PER_BYTE * component.len() as u64;
        let (ended, said) = std::thread::scope(|scope| {
            // A child that ends early reads no further; that is seen by how it ends.
            scope.spawn(move || drop(input.write_all(component)));
            let said = scope.spawn(move || listen(said));
            scope.spawn(move || drop(tell.send(Event::Output(read_most(output, most)))));
            let ended = watch(&mut child, &events, deadline);
            (ended, said.join().unwrap_or_default())
        });
        match ended.map_err(|error| failed(format!("the child that compiles was lost: {error}")))? {
            End::ByItself { status, code } => self.judge(status, code, &said, component.len()),
            End::TooMuch => Err(failed(format!(
                "its machine code is over {most} bytes, and it has {}.\n\
                 Build it so that what is in it several times is in it once.",
                component.len()
            ))),
            End::TooLong => {
                let took = format!("longer than {:?}", self.limits.time);
                Err(over(&took, "time", component.len()))
            }
            End::Unwanted => Err(failed("nobody waits for it any more")),
        }
    }
}

impl ByChild {
    fn spawn(&self) -> Result<Child, LoadError> {
        let CompilerProgram { program, arguments } = &self.program;
        let terms = ChildTerms {
            memory: self.limits.memory,
            cpu: self.limits.cpu_seconds(),
            reservation: self.reservation,
            parent: std::process::id(),
        };
        let spawned = Command::new(program)
            .args(arguments)
            .args(terms.arguments())
            .env_clear()
            .env("RAYON_NUM_THREADS", THREADS)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        spawned.map_err(|error| {
            failed(format!("no child could be started to compile it ({}): {error}", program.display()))
        })
    }

    fn judge(
        &self,
        status: ExitStatus,
        code: Vec<u8>,
        said: &str,
        size: usize,
    ) -> Result<Vec<u8>, LoadError> {
        if status.success() {
            return Ok(code);
        }
        if status.signal() == Some(Signal::SIGXCPU as i32) {
            return Err(over(
                &format!("more than {} s of computing", self.limits.cpu_seconds()),
                "cpu",
                size,
            ));
        }
        if is_out_of_memory(said) {
            let took = format!("more than {} bytes of address space", self.limits.memory);
            return Err(over(&took, "memory", size));
        }
        let said = one_line(&shorten(said.trim().to_owned(), 1024));
        match (status.code(), said.is_empty()) {
            (Some(REFUSED), false) => Err(failed(said)),
            (_, true) => Err(failed(format!("the child that compiles ended with {status}"))),
            (_, false) => Err(failed(format!("the child that compiles ended with {status}: {said}"))),
        }
    }
}

/// Waits until the child has ended, and sees to it that it does.
fn watch(child: &mut Child, events: &Receiver<Event>, deadline: Instant) -> std::io::Result<End> {
    let code = match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Event::Output(Some(code))) => code,
        Ok(Event::Output(None)) => {
            end(child);
            return Ok(End::TooMuch);
        }
        Ok(Event::Unwanted) | Err(RecvTimeoutError::Disconnected) => {
            end(child);
            return Ok(End::Unwanted);
        }
        Err(RecvTimeoutError::Timeout) => {
            end(child);
            return Ok(End::TooLong);
        }
    };
    // It has nothing more to say, so it ends at once or not at all.
    let last = deadline.min(Instant::now() + GRACE);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::ByItself { status, code });
        }
        if Instant::now() >= last {
            end(child);
            return Ok(End::TooLong);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn read_most(output: impl Read, most: u64) -> Option<Vec<u8>> {
    let mut code = Vec::new();
    output.take(most + 1).read_to_end(&mut code).ok()?;
    (code.len() as u64 <= most).then_some(code)
}

/// The beginning of what a child says; the rest is read and forgotten, so that it does not wait for a reader.
fn listen(mut said: impl Read) -> String {
    let mut text = Vec::new();
    let _ = (&mut said).take(MOST_SAID).read_to_end(&mut text);
    let _ = std::io::copy(&mut said, &mut std::io::sink());
    String::from_utf8_lossy(&text).into_owned()
}

/// What Rust and the C library say when there is no memory: for values, for mappings, for threads.
fn is_out_of_memory(said: &str) -> bool {
    ["out of memory", "memory allocation of", "(os error 12)", "(os error 11)", "code: 11,", "code: 12,"]
        .iter()
        .any(|sign| said.contains(sign))
}

fn over(took: &str, limit: &str, size: usize) -> LoadError {
    failed(format!(
        "compiling it takes {took}.\n\
         It has {size} bytes, and plugin_host.compile.{limit} allows no more.\n\
         Raise that limit in the configuration, or build a smaller component."
    ))
}

fn failed(message: impl Into<String>) -> LoadError {
    LoadError::new(Stage::Compile, message)
}

#[cfg(test)]
mod tests;
