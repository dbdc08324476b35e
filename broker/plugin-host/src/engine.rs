//! The wasmtime engine: what it accepts, how instances get memory, and the clock that ends calls.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::HostError;
use crate::settings::HostSettings;
use crate::{huge_pages, scheduling};

/// One step of the CPU budget. Whoever the kernel puts behind a guest that computes may wait for so long, and be put there more
/// than once on the way to an answer; each step costs some 3 µs.
pub(crate) const TICK: Duration = Duration::from_micros(500);

/// Core instances one component may need; what bundles an interpreter and its libraries needs almost forty.
const CORE_INSTANCES_PER_COMPONENT: u32 = 48;
/// One for each component that a plugin is made of. An interpreter comes with what stands in for WASI, and with more.
const MEMORIES_PER_COMPONENT: u32 = 4;
const TABLES_PER_COMPONENT: u32 = 8;
const TABLE_ELEMENTS: usize = 20_000;
const GUARD: u64 = 64 << 20;
/// Memory an instance leaves behind that is cleared instead of given back.
const KEEP_RESIDENT: usize = 512 << 10;
/// Of each table likewise. A page that was given back is a page fault, and one that all processors have to hear of.
const KEEP_RESIDENT_TABLE: usize = 64 << 10;
/// Pieces of memory that are cleared together. Of more than one, Linux locks all memory of the process until it has taken every page:
/// two milliseconds for 16 MiB, in which no other instance can begin or grow.
const DECOMMIT_BATCH: usize = 1;

/// All that a guest can address. What its memory does not have of it faults, so no access needs a check, and none can be
/// mispredicted; a fifth less machine code, and a fifth fewer instructions.
const WHOLE: usize = 4 << 30;

/// An engine and the thread that advances its epoch.
pub(crate) struct PluginEngine {
    engine: Engine,
    reservation: usize,
    ticker: Arc<Ticker>,
    thread: Option<JoinHandle<()>>,
}

/// Advances the epoch every [`TICK`] while a guest runs, and rests while none does.
struct Ticker {
    running: AtomicUsize,
    stop: AtomicBool,
}

/// A guest runs: while one of these lives, the epoch advances.
pub(crate) struct Ticking {
    ticker: Arc<Ticker>,
}

impl PluginEngine {
    pub(crate) fn new(settings: &HostSettings) -> Result<Self, HostError> {
        let (engine, reservation) = engine(settings)?;
        huge_pages::ask_for(memories(settings) as usize * settings.memory_ceiling);
        let ticker = Arc::new(Ticker { running: AtomicUsize::new(0), stop: AtomicBool::new(false) });
        let thread = std::thread::Builder::new().name(String::from("plugin-ticker")).spawn({
            let engine = engine.clone();
            let ticker = Arc::clone(&ticker);
            move || {
                // Or a guest that computes on its core keeps the very step from being counted that makes it give way.
                scheduling::ask_for(scheduling::SHORTEST);
                ticker.run(&engine);
            }
        })?;
        Ok(Self { engine, reservation, ticker, thread: Some(thread) })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Bytes that are reserved for each memory: part of what machine code is made for.
    pub(crate) fn reservation(&self) -> usize {
        self.reservation
    }

    pub(crate) fn ticking(&self) -> Ticking {
        if self.ticker.running.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Ticking { ticker: Arc::clone(&self.ticker) }
    }
}

impl Drop for PluginEngine {
    fn drop(&mut self) {
        self.ticker.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.ticker.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    fn run(&self, engine: &Engine) {
        while !self.stop.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) == 0 {
                // `unpark` before `park` is remembered, so no call begins unnoticed.
                std::thread::park();
            } else {
                std::thread::sleep(TICK);
                engine.increment_epoch();
            }
        }
    }
}

/// The fastest that there is address space for, and what it reserves for each memory. The default settings want 4 TiB: some
/// kernels have half of one, and an operator may allow less.
fn engine(settings: &HostSettings) -> Result<(Engine, usize), HostError> {
    let ceiling = settings.memory_ceiling;
    let made = |config: &Config, reservation| Engine::new(config).map(|engine| (engine, reservation));
    made(&pooling(settings, WHOLE), WHOLE)
        .or_else(|error| {
            // Nothing that an operator has to do something about.
            tracing::info!(
                error = format!("{error:#}"),
                "no address space for 4 GiB per memory of a plugin; each access to them is checked, at a higher cost per call"
            );
            made(&pooling(settings, ceiling), ceiling)
        })
        .or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "no address space for a pool of instances; plugins run without one, at a higher cost per call"
            );
            made(&base(ceiling), ceiling)
        })
        .map_err(|error| HostError::Engine(format!("{error:#}")))
}

/// What every engine of this host has in common, that of a child that compiles for it included.
pub(crate) fn base(reservation: usize) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Hooks are plain functions: one call at a time per instance, and a smaller engine.
        .concurrency_support(false)
        .epoch_interruption(true)
        .wasm_memory64(false)
        // Of a component that is made of several, the code between them copies from one memory into another.
        .wasm_multi_memory(true)
        // The same bytes give the same answer on every machine.
        .wasm_relaxed_simd(false)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        // For other stack walkers than wasmtime's own, which needs none. Each load would register it with the
        // system's unwinder, a list that all threads share and that every panic searches.
        .native_unwind_info(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .memory_init_cow(true)
        .memory_reservation(reservation as u64)
        .memory_guard_size(GUARD);
    config
}

fn instances(settings: &HostSettings) -> u32 {
    // What each thread is just clearing is nobody's: neither in use nor to be had.
    let cleared = u32::try_from(2 * DECOMMIT_BATCH * settings.worker_threads.max(1)).unwrap_or(u32::MAX);
    settings.instances.saturating_add(cleared)
}

fn memories(settings: &HostSettings) -> u32 {
    instances(settings).saturating_mul(MEMORIES_PER_COMPONENT)
}

fn pooling(settings: &HostSettings, reservation: usize) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    let instances = instances(settings);
    // Of everything so much that no plugin can take what another one's instances need.
    pool.total_component_instances(instances)
        .total_memories(memories(settings))
        .total_stacks(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_tables(instances.saturating_mul(TABLES_PER_COMPONENT))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_memories_per_module(1)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(settings.memory_ceiling)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT_TABLE)
        .decommit_batch_size(DECOMMIT_BATCH)
        // The cheapest way to clear an instance; wants Linux 6.7.
        .pagemap_scan(Enabled::Auto);
    let mut config = base(reservation);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_make_an_engine_with_a_pool() {
        let settings = HostSettings::default();
        let (_, reservation) = engine(&settings).expect("an engine");
        assert_eq!(reservation, WHOLE);
    }

    #[test]
    fn where_there_are_too_few_addresses_there_is_an_engine_too() {
        // Forty times what the default reserves: more than a process may have on any machine of today.
        let settings = HostSettings { instances: 10_000, ..HostSettings::default() };
        let (_, reservation) = engine(&settings).expect("an engine");
        assert_eq!(reservation, settings.memory_ceiling);
        Engine::new(&base(settings.memory_ceiling)).expect("no pool");
    }

    #[test]
    fn the_ticker_rests_and_wakes() {
        let engine =
            PluginEngine::new(&HostSettings { instances: 4, ..HostSettings::default() }).expect("an engine");
        for _ in 0..3 {
            let ticking = engine.ticking();
            assert_eq!(engine.ticker.running.load(Ordering::SeqCst), 1);
            drop(ticking);
        }
        assert_eq!(engine.ticker.running.load(Ordering::SeqCst), 0);
    }
}
