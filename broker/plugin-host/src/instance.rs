//! One instance: its store with limits and budget, how it is started, and how what ended it is named.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mqgate_identity::hooks::{Connection, FailureKind, HookFailure, Occasion};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{Instance, InstancePre, ResourceTableError};
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline};

use crate::bindings::exports::mqgate::plugin::lifecycle;
use crate::bindings::mqgate::plugin::types::HookError;
use crate::capability::Services;
use crate::capability::log::{Voice, one_line};
use crate::capability::wasi::Wasi;
use crate::engine::{PluginEngine, TICK, Ticking};
use crate::hook_exports::HookExports;
use crate::metrics::PluginMetrics;
use crate::scheduling;
use crate::settings::Limits;
use crate::tap::Ear;

const MAX_TABLE_ELEMENTS: usize = 20_000;
const MAX_CORE_INSTANCES: usize = 64;
const MAX_TABLES: usize = 64;
const MAX_MEMORIES: usize = 4;
/// Calls after which an instance that is used again is replaced, a quarter more or less.
const CALLS_PER_INSTANCE: u32 = 5_000;
/// Time after which it is, likewise.
const LONGEST_LIFE: Duration = Duration::from_secs(300);
/// Longest text about a failure that is passed on.
const MAX_DETAIL: usize = 2048;

/// What an instance is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Before the plugin goes live; nothing it does is kept.
    Trial,
    Calls,
    /// Asked as in a call, for an operator who wants to know the answer; nothing it does is kept.
    Explanation,
    /// It is asked, and its answers are only compared; nothing it does is kept.
    Shadow,
}

impl Purpose {
    pub(crate) const fn of(on: &Connection) -> Self {
        match on.occasion {
            Occasion::Admission => Self::Calls,
            Occasion::Explanation => Self::Explanation,
        }
    }
}

/// A component with everything decided that can be decided before a call.
pub(crate) struct Runnable {
    pub(crate) engine: Arc<PluginEngine>,
    pub(crate) pre: InstancePre<StoreState>,
    pub(crate) exports: HookExports,
    pub(crate) context: Contexts,
    pub(crate) services: Arc<Services>,
    /// The same for trials and explanations, in which nothing is kept.
    pub(crate) trial_services: Arc<Services>,
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) limits: Limits,
    /// What instances for calls are started for.
    pub(crate) purpose: Purpose,
    /// Places among all instances of the host that instances which wait for calls leave to others.
    pub(crate) spare: usize,
    /// Instances alive, over all plugins of the host.
    pub(crate) alive: Arc<AtomicUsize>,
}

/// What an instance is told at its `init`.
pub(crate) struct Contexts {
    of_calls: lifecycle::PluginContext,
    of_trials: lifecycle::PluginContext,
}

impl Contexts {
    pub(crate) fn new(context: lifecycle::PluginContext) -> Self {
        Self { of_trials: lifecycle::PluginContext { trial: true, ..context.clone() }, of_calls: context }
    }

    fn of(&self, purpose: Purpose) -> &lifecycle::PluginContext {
        match purpose {
            Purpose::Trial => &self.of_trials,
            Purpose::Calls | Purpose::Explanation | Purpose::Shadow => &self.of_calls,
        }
    }

    /// The name that the operator gave the plugin.
    pub(crate) fn name(&self) -> &str {
        &self.of_calls.name
    }

    pub(crate) fn digest(&self) -> &str {
        &self.of_calls.digest
    }
}

/// A live instance after its `init`.
pub(crate) struct Running {
    pub(crate) store: Store<StoreState>,
    pub(crate) instance: Instance,
    /// Calls since it was started.
    pub(crate) calls: u32,
    /// It takes no more calls than that, and none after this moment.
    retires: (u32, Instant),
    /// Its place among all instances of the host.
    place: OwnedSemaphorePermit,
}

/// Why a call gave no answer.
pub(crate) enum CallError {
    Wasm(wasmtime::Error),
    /// The plugin said that it could not decide.
    Hook(HookError),
    /// The answer breaks a rule of the ABI.
    Invalid(String),
}

impl From<wasmtime::Error> for CallError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Wasm(error)
    }
}

/// What an instance's host functions and limits work on.
pub(crate) struct StoreState {
    pub(crate) services: Arc<Services>,
    pub(crate) purpose: Purpose,
    /// `init` runs: metrics may be defined.
    pub(crate) initializing: bool,
    /// It asked for something that may be otherwise the next time.
    pub(crate) consulted: bool,
    pub(crate) voice: Voice,
    pub(crate) wasi: Wasi,
    /// Whoever listens to the call.
    pub(crate) ear: Option<Ear>,
    memory: MemoryLimit,
    budget: Budget,
    _alive: Alive,
}

/// Steps of computing time left.
struct Budget {
    ticks: u64,
    exhausted: bool,
}

/// Refuses growth over the limit, and remembers that it did.
struct MemoryLimit {
    most: usize,
    used: usize,
    refused: bool,
    metrics: Arc<PluginMetrics>,
}

/// Counts living instances.
struct Alive(Arc<AtomicUsize>);

impl Runnable {
    /// Instantiates, without running anything of the component but its start functions.
    pub(crate) async fn instantiate(
        &self,
        purpose: Purpose,
        cpu: Duration,
        place: OwnedSemaphorePermit,
        ear: Option<Ear>,
    ) -> Result<Running, HookFailure> {
        if let Some(ear) = &ear {
            ear.reached(true);
        }
        let services = match purpose {
            Purpose::Trial | Purpose::Explanation | Purpose::Shadow => &self.trial_services,
            Purpose::Calls => &self.services,
        };
        let state = StoreState {
            services: Arc::clone(services),
            purpose,
            initializing: false,
            consulted: false,
            voice: Voice::Plugin,
            wasi: Wasi::new(if purpose == Purpose::Trial { self.limits.init } else { self.limits.wall }),
            ear,
            memory: MemoryLimit {
                most: self.limits.memory,
                used: 0,
                refused: false,
                metrics: Arc::clone(&self.metrics),
            },
            budget: Budget { ticks: 0, exhausted: false },
            _alive: Alive::new(&self.alive),
        };
        let mut store = Store::new(self.engine.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(self.limits.answer_bytes);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().budget.spend()));
        store.set_budget(cpu);
        match self.pre.instantiate_async(&mut store).await {
            Ok(instance) => Ok(Running { store, instance, calls: 0, retires: retirement(), place }),
            Err(error) => Err(store.data().name_failure(CallError::Wasm(error))),
        }
    }

    /// Runs `init`, which shares the computing time `instantiate` was given.
    pub(crate) async fn init(
        &self,
        running: &mut Running,
    ) -> Result<Result<(), lifecycle::InitError>, HookFailure> {
        let context = self.context.of(running.store.data().purpose);
        running.store.data_mut().initializing = true;
        let outcome = self.exports.init.call(running, (context,)).await;
        running.store.data_mut().initializing = false;
        outcome.map(|(outcome,)| outcome).map_err(|error| running.name_failure(error.into()))
    }

    /// A fresh instance that is ready for calls.
    pub(crate) async fn start(
        &self,
        purpose: Purpose,
        place: OwnedSemaphorePermit,
        ear: Option<Ear>,
    ) -> Result<Running, HookFailure> {
        // A shadow is never asked for an answer that counts.
        let purpose = if self.purpose == Purpose::Shadow { Purpose::Shadow } else { purpose };
        let mut running = self.instantiate(purpose, self.limits.cpu, place, ear).await?;
        match self.init(&mut running).await? {
            Ok(()) => Ok(running),
            Err(error) => Err(HookFailure {
                kind: FailureKind::Unavailable,
                detail: format!("init failed: {}", describe_init_error(&error)),
            }),
        }
    }

    pub(crate) fn ticking(&self) -> Ticking {
        self.engine.ticking()
    }
}

impl Running {
    /// Gives the next call its own computing time; what the last one left behind is not its doing.
    pub(crate) fn begin_call(&mut self, limits: &Limits) {
        self.calls += 1;
        self.store.set_budget(limits.cpu);
        let state = self.store.data_mut();
        state.consulted = false;
        state.wasi.begin_call(limits.wall);
        state.memory.refused = false;
    }

    /// Another call, which somebody may listen to, on an instance that has had calls before.
    pub(crate) fn listen(&mut self, ear: Option<Ear>) {
        if let Some(ear) = &ear {
            ear.reached(false);
        }
        self.store.data_mut().ear = ear;
    }

    /// The call has ended.
    pub(crate) fn end_call(&mut self) {
        let state = self.store.data_mut();
        if let Some(ear) = state.ear.take() {
            ear.measured(state.memory.used);
        }
    }

    /// Whether it may take another call: what leaks slowly stays small, and what a call left open ends with it.
    pub(crate) fn may_go_on(&self, limits: &Limits) -> bool {
        let (calls, until) = self.retires;
        let state = self.store.data();
        let is_small = state.memory.used <= limits.memory / 2;
        self.calls < calls && Instant::now() < until && is_small && state.wasi.is_idle()
    }

    pub(crate) fn name_failure(&self, error: CallError) -> HookFailure {
        self.store.data().name_failure(error)
    }

    /// Ends the instance and hands on its place.
    pub(crate) fn into_place(self) -> OwnedSemaphorePermit {
        let Self { store, place, .. } = self;
        drop(store);
        place
    }
}

/// Instances that were started together do not all go together.
fn retirement() -> (u32, Instant) {
    let random = RandomState::new().build_hasher().finish();
    let percent = 75 + u32::try_from(random % 51).unwrap_or(0);
    (CALLS_PER_INSTANCE * percent / 100, Instant::now() + LONGEST_LIFE * percent / 100)
}

trait SetBudget {
    fn set_budget(&mut self, cpu: Duration);
}

impl SetBudget for Store<StoreState> {
    fn set_budget(&mut self, cpu: Duration) {
        let ticks = cpu.as_nanos().div_ceil(TICK.as_nanos()).max(1);
        self.data_mut().budget = Budget { ticks: u64::try_from(ticks).unwrap_or(u64::MAX), exhausted: false };
        self.set_epoch_deadline(1);
    }
}

impl Budget {
    /// Called when an epoch ends while the guest computes. However many epochs went by, one is spent: a thread
    /// that the operating system had stopped computed nothing.
    fn spend(&mut self) -> UpdateDeadline {
        match self.ticks.checked_sub(1) {
            Some(left @ 1..) => {
                self.ticks = left;
                scheduling::go_last();
                // Who waits for this core goes first. Where there are few cores and the kernel looks at the clock only
                // every four milliseconds, a guest that computes would be what all others wait for.
                std::thread::yield_now();
                // Plain `Yield` would be polled again at once, from the worker's own slot.
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            }
            Some(0) | None => {
                self.exhausted = true;
                UpdateDeadline::Interrupt
            }
        }
    }
}

impl StoreState {
    fn name_failure(&self, error: CallError) -> HookFailure {
        let (kind, detail) = match error {
            CallError::Hook(HookError::Transient(text) | HookError::Permanent(text)) => {
                (FailureKind::Unavailable, text)
            }
            CallError::Invalid(text) => (FailureKind::Invalid, text),
            CallError::Wasm(error) => (self.kind_of(&error), format!("{error:#}")),
        };
        // A guest chose part of these texts.
        HookFailure { kind, detail: one_line(&shorten(detail, MAX_DETAIL)) }
    }

    fn kind_of(&self, error: &wasmtime::Error) -> FailureKind {
        if self.budget.exhausted {
            return FailureKind::Deadline;
        }
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            return FailureKind::Overload;
        }
        // An allocator that is refused memory ends in a trap of its own making.
        if self.memory.refused || is_answer_too_large(error) {
            return FailureKind::Memory;
        }
        // Too many handles, or one that is not there.
        if error.downcast_ref::<ResourceTableError>().is_some() {
            return FailureKind::Capability;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => FailureKind::Deadline,
            Some(_) => FailureKind::Trap,
            // Not a trap: the value it returned is none of its type.
            None => FailureKind::Invalid,
        }
    }
}

/// Wasmtime names this error only by its text; a test holds it to that.
fn is_answer_too_large(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("fuel allocated for hostcalls"))
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // It comes to nothing, so it is not counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current);
        let used = self.used.saturating_add(more);
        if used > self.most {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        self.metrics.memory.add(i64::try_from(more).unwrap_or(i64::MAX));
        let used = i64::try_from(self.used).unwrap_or(i64::MAX);
        if used > self.metrics.memory_peak.get() {
            self.metrics.memory_peak.set(used);
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= MAX_TABLE_ELEMENTS;
        self.refused |= !fits;
        Ok(fits)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        self.metrics.memory.sub(i64::try_from(self.used).unwrap_or(i64::MAX));
    }
}

impl Alive {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counter))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn describe_init_error(error: &lifecycle::InitError) -> String {
    let text = match error {
        lifecycle::InitError::Failed(text) => text.clone(),
        lifecycle::InitError::InvalidConfig(problems) => {
            let problems: Vec<String> =
                problems.iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect();
            format!("the configuration is wrong: {}", problems.join("; "))
        }
    };
    one_line(&shorten(text, MAX_DETAIL))
}

/// Cuts at a character, and says so.
pub(crate) fn shorten(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::Hook;
    use crate::metrics::Metrics;

    #[test]
    fn memories_are_counted_together() {
        const MIB: usize = 1 << 20;
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let metrics = Arc::new(metrics.of("p", &[Hook::Authenticator]));
        let mut limit = MemoryLimit { most: 4 * MIB, used: 0, refused: false, metrics: Arc::clone(&metrics) };
        // Two begin with a mebibyte each; the first grows by one, the second wants two more.
        for _ in 0..2 {
            assert!(limit.memory_growing(0, MIB, None).unwrap());
        }
        assert!(limit.memory_growing(MIB, 2 * MIB, None).unwrap());
        assert!(!limit.memory_growing(MIB, 3 * MIB, None).unwrap(), "five of four");
        assert!(limit.refused);
        limit.refused = false;
        assert!(!limit.memory_growing(MIB, 2 * MIB, Some(MIB)).unwrap(), "more than it may ever have");
        assert!(!limit.refused, "its own limit, not ours");
        assert!(limit.memory_growing(MIB, 2 * MIB, None).unwrap(), "what was refused is not counted");
        assert_eq!(metrics.memory.get(), 4 << 20);
        drop(limit);
        assert_eq!(metrics.memory.get(), 0);
    }
}
