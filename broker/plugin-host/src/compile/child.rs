//! The other side: a process that gives up what it does not need, compiles one component, and ends.

use std::io::{Read, Write};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use wasmtime::Engine;

use crate::artifact::MAX_COMPONENT_BYTES;
use crate::{engine, scheduling};

/// How much is added to the niceness: those who run the broker's connections come first.
const NICENESS: i32 = 10;

/// What a child is told on its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildTerms {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of computing.
    pub cpu: u64,
    /// What the parent's engine reserves for each memory.
    pub reservation: usize,
    /// Process id of the parent, with which the child ends.
    pub parent: u32,
}

impl ChildTerms {
    pub(super) fn arguments(&self) -> [String; 8] {
        let Self { memory, cpu, reservation, parent } = self;
        [
            "--memory".into(),
            memory.to_string(),
            "--cpu".into(),
            cpu.to_string(),
            "--reservation".into(),
            reservation.to_string(),
            "--parent".into(),
            parent.to_string(),
        ]
    }
}

/// Compiles the component on standard input, and writes what it came to on standard output. The process is of no use for
/// anything else after that: it has given up what it could.
pub fn compile_as_child(terms: &ChildTerms) -> Result<(), String> {
    confine(terms)?;
    let mut component = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_COMPONENT_BYTES + 1);
    input.read_to_end(&mut component).map_err(|error| error.to_string())?;
    if component.len() as u64 > MAX_COMPONENT_BYTES {
        return Err(format!("a component has at most {MAX_COMPONENT_BYTES} bytes"));
    }
    let engine = Engine::new(&engine::base(terms.reservation)).map_err(|error| format!("{error:#}"))?;
    let code = engine.precompile_component(&component).map_err(|error| format!("{error:#}"))?;
    let mut output = std::io::stdout().lock();
    output.write_all(&code).and_then(|()| output.flush()).map_err(|error| error.to_string())
}

fn confine(terms: &ChildTerms) -> Result<(), String> {
    close_the_rest().map_err(|error| format!("what it inherited cannot be closed: {error}"))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| error.to_string())?;
    // The parent may have ended before that.
    if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(terms.parent) {
        return Err(String::from("its parent is gone"));
    }
    be_nice();
    scheduling::go_last();
    for (resource, soft, hard) in [
        (Resource::RLIMIT_CORE, 0, 0),
        // Pipes are no files.
        (Resource::RLIMIT_FSIZE, 0, 0),
        (Resource::RLIMIT_AS, terms.memory, terms.memory),
        // The signal of the first ends it; the second is for the case that it does not.
        (Resource::RLIMIT_CPU, terms.cpu, terms.cpu.saturating_add(1)),
    ] {
        let failed = |error: Errno| format!("{resource:?} cannot be set: {error}");
        // What the process may not have anyway stays as it is.
        let (_, most) = getrlimit(resource).map_err(failed)?;
        setrlimit(resource, soft.min(most), hard.min(most)).map_err(failed)?;
    }
    Ok(())
}

/// Closes every descriptor but the three of a process: what the broker itself was started with may be open here.
fn close_the_rest() -> std::io::Result<()> {
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The one that the folder was read with is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

#[allow(unsafe_code, reason = "the C library has no other way, and no crate in use wraps it")]
fn be_nice() {
    // SAFETY: it takes and returns numbers. Failing, the child is no nicer than its parent.
    let _ = unsafe { libc::nice(NICENESS) };
}
