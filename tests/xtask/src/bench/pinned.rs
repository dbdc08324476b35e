//! One core for the broker, another for the load generator. A process inherits the cores of the thread that
//! starts it.

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const THIS_THREAD: Pid = Pid::from_raw(0);

pub fn on_brokers_core<T>(start: impl FnOnce() -> T) -> anyhow::Result<T> {
    on(Which::First, start)
}

pub fn on_generators_core<T>(start: impl FnOnce() -> T) -> anyhow::Result<T> {
    on(Which::Last, start)
}

#[derive(Clone, Copy)]
enum Which {
    First,
    Last,
}

fn on<T>(which: Which, start: impl FnOnce() -> T) -> anyhow::Result<T> {
    let all = sched_getaffinity(THIS_THREAD).context("cannot ask for this machine's cores")?;
    let mut usable = (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false));
    let core = match which {
        Which::First => usable.next(),
        Which::Last => usable.next_back(),
    };
    let mut one = CpuSet::new();
    one.set(core.context("this process has no core")?)?;
    sched_setaffinity(THIS_THREAD, &one).context("cannot choose a core")?;
    let started = start();
    sched_setaffinity(THIS_THREAD, &all).context("cannot go back to all cores")?;
    Ok(started)
}
