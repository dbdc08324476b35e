//! Bridges: topics shared with other brokers. Each is a client of this broker, with a permit of its own, and a client
//! of another one; what goes between them, and how it does not go round in circles, is in `task`.

mod metrics;
mod queue;
pub mod rules;
pub mod settings;
mod task;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use mqgate_codec::QoS;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_server::audit::AuditLog;
use mqgate_server::broker::Broker;
use mqgate_server::clock;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::metrics::{BridgeMetrics, Fate, Way};
use self::queue::Queue;
use self::settings::{Address, Settings};
use crate::config::Config;

/// How long a bridge gets to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// All that are configured.
pub struct Bridges {
    by_name: BTreeMap<String, Entry>,
}

struct Entry {
    enabled: bool,
    bridge: Arc<Bridge>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Stopped,
    Connecting,
    Connected,
    /// For the next attempt.
    Waiting,
}

struct Bridge {
    name: String,
    /// Who this broker is to bridges.
    id: Arc<str>,
    settings: Settings,
    broker: Arc<Broker>,
    audit: Arc<AuditLog>,
    metrics: BridgeMetrics,
    queue: Queue,
    up: watch::Sender<bool>,
    reconnect: Arc<Notify>,
    state: Mutex<State>,
}

struct State {
    status: Status,
    since: UnixMillis,
    address: Option<String>,
    remote_id: Option<String>,
    maximum_qos: QoS,
    retain: bool,
    connects: u64,
    problem: Option<String>,
}

/// There is no such bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

/// Who this broker is to bridges: drawn once, and kept in `data_dir`.
pub fn broker_id(data_dir: &Path) -> Result<Arc<str>> {
    let file = data_dir.join("bridge-id");
    let fits = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match std::fs::read_to_string(&file) {
        Ok(text) if fits(text.trim()) => return Ok(text.trim().into()),
        Ok(_) => tracing::warn!(file = %file.display(), "it holds no broker id: another one is drawn"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("no randomness for a broker id")?;
    let id = hex::encode(bytes);
    std::fs::write(&file, &id).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(id.into())
}

impl Bridges {
    /// Reads secrets and files; starts nothing.
    pub fn new(
        config: &Config,
        id: &Arc<str>,
        broker: &Arc<Broker>,
        audit: &Arc<AuditLog>,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>> {
        let metrics = BridgeMetrics::register(registry)?;
        let mut by_name = BTreeMap::new();
        for (name, configured) in &config.bridges {
            let settings = Settings::new(name, id, configured)?;
            metrics.know(name);
            let bridge = Arc::new(Bridge {
                name: name.clone(),
                id: Arc::clone(id),
                queue: Queue::new(
                    settings.max_queued_messages,
                    settings.max_queued_bytes,
                    settings.when_full,
                ),
                settings,
                broker: Arc::clone(broker),
                audit: Arc::clone(audit),
                metrics: metrics.clone(),
                up: watch::Sender::new(false),
                reconnect: Arc::default(),
                state: Mutex::new(State {
                    status: Status::Stopped,
                    since: clock::now(),
                    address: None,
                    remote_id: None,
                    maximum_qos: QoS::ExactlyOnce,
                    retain: true,
                    connects: 0,
                    problem: None,
                }),
            });
            let entry = Entry { enabled: configured.enable, bridge, running: Mutex::default() };
            by_name.insert(name.clone(), entry);
        }
        Ok(Arc::new(Self { by_name }))
    }

    /// Runs those that are enabled until `end`, and stops all of them then.
    pub async fn run(self: Arc<Self>, end: CancellationToken) {
        for entry in self.by_name.values().filter(|entry| entry.enabled) {
            entry.start();
        }
        end.cancelled().await;
        let stopping: Vec<_> = self.by_name.values().filter_map(Entry::take).collect();
        stopping.iter().for_each(|running| running.stop.cancel());
        for running in stopping {
            // One that hangs is not waited for.
            let _ = tokio::time::timeout(GOODBYE, running.task).await;
        }
    }

    pub fn list(&self) -> Vec<Value> {
        self.by_name.values().map(|entry| entry.bridge.shown()).collect()
    }

    pub fn show(&self, name: &str) -> Result<Value, Unknown> {
        self.by_name.get(name).map(|entry| entry.bridge.shown()).ok_or(Unknown)
    }

    /// Says whether it did not run before.
    pub fn start(&self, name: &str) -> Result<bool, Unknown> {
        self.by_name.get(name).map(Entry::start).ok_or(Unknown)
    }

    /// Waits until it has stopped; says whether it ran.
    pub async fn stop(&self, name: &str) -> Result<bool, Unknown> {
        let entry = self.by_name.get(name).ok_or(Unknown)?;
        let Some(running) = entry.take() else { return Ok(false) };
        running.stop.cancel();
        let _ = tokio::time::timeout(GOODBYE, running.task).await;
        Ok(true)
    }

    /// Ends the connection, or the pause before the next one; says whether the bridge runs.
    pub fn reconnect(&self, name: &str) -> Result<bool, Unknown> {
        let entry = self.by_name.get(name).ok_or(Unknown)?;
        let runs = entry.running().is_some();
        if runs {
            entry.bridge.reconnect.notify_waiters();
        }
        Ok(runs)
    }
}

impl Entry {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Running> {
        self.running().take()
    }

    fn start(&self) -> bool {
        let mut running = self.running();
        if running.as_ref().is_some_and(|running| !running.task.is_finished()) {
            return false;
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&self.bridge).run(stop.clone()));
        *running = Some(Running { stop, task });
        true
    }
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
        }
    }
}

impl Bridge {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_status(&self, status: Status, address: Option<&Address>) {
        let mut state = self.state();
        if state.status != status {
            state.since = clock::now();
        }
        state.status = status;
        if let Some(address) = address {
            state.address = Some(address.to_string());
        }
        drop(state);
        let up = status == Status::Connected;
        self.metrics.up.with_label_values(&[&self.name]).set(i64::from(up));
        self.up.send_replace(up);
    }

    fn reached(&self, address: &Address, remote_id: Option<String>, maximum_qos: QoS, retain: bool) {
        {
            let mut state = self.state();
            state.remote_id = remote_id;
            state.maximum_qos = maximum_qos;
            state.retain = retain;
            state.connects += 1;
            state.problem = None;
        }
        self.set_status(Status::Connected, Some(address));
        self.metrics.connects.with_label_values(&[&self.name, "ok"]).inc();
        tracing::info!(bridge = self.name, %address, "the bridge is up");
        self.record(names::BRIDGE_UP, Outcome::Success, address, None);
    }

    fn lost(&self, address: &Address, cause: &str) {
        self.state().problem = Some(cause.to_owned());
        self.set_status(Status::Waiting, None);
        tracing::warn!(bridge = self.name, %address, cause, "the bridge is down");
        self.record(names::BRIDGE_DOWN, Outcome::Failure, address, Some(cause));
    }

    fn failed(&self, address: &Address, error: &mqgate_client::ConnectError) {
        let error = error.to_string();
        self.metrics.connects.with_label_values(&[&self.name, "failed"]).inc();
        let news = self.state().problem.replace(error.clone()).as_ref() != Some(&error);
        if news {
            tracing::warn!(bridge = self.name, %address, error, "the bridge cannot connect");
        }
    }

    fn warn(&self, why: &str) {
        tracing::warn!(bridge = self.name, why, "the bridge does not do all that it should");
        self.state().problem = Some(why.to_owned());
    }

    fn record(&self, name: &'static str, outcome: Outcome, address: &Address, cause: Option<&str>) {
        let reason = if outcome == Outcome::Success { Reason::Ok } else { Reason::Other };
        let mut event = AuditEvent::new(name, outcome, reason)
            .field("bridge", self.name.as_str())
            .field("address", address.to_string());
        if let Some(cause) = cause {
            event = event.field("detail", cause.chars().take(256).collect::<String>());
        }
        self.audit.record(event);
    }

    fn remote_id(&self) -> Option<String> {
        self.state().remote_id.clone()
    }

    /// Highest QoS, and whether retained messages are welcome.
    fn remote_takes(&self) -> (QoS, bool) {
        let state = self.state();
        (state.maximum_qos, state.retain)
    }

    fn count(&self, way: Way, fate: Fate, messages: u64) {
        if messages > 0 {
            self.metrics.messages(&self.name, way, fate).inc_by(messages);
        }
    }

    fn count_queue(&self) {
        let (messages, bytes) = self.queue.size();
        self.metrics.queued_messages.with_label_values(&[&self.name]).set(messages as i64);
        self.metrics.queued_bytes.with_label_values(&[&self.name]).set(bytes as i64);
    }

    fn shown(&self) -> Value {
        let (queued_messages, queued_bytes) = self.queue.size();
        let state = self.state();
        let addresses: Vec<String> = self.settings.addresses.iter().map(ToString::to_string).collect();
        json!({
            "name": self.name,
            "status": state.status.as_str(),
            "since": state.since,
            "address": state.address,
            "addresses": addresses,
            "client_id": self.settings.client_id(),
            "broker_id": &*self.id,
            "remote_id": state.remote_id,
            "connects": state.connects,
            "problem": state.problem,
            "queued_messages": queued_messages,
            "queued_bytes": queued_bytes,
            "out": self.metrics.counts(&self.name, Way::Out),
            "in": self.metrics.counts(&self.name, Way::In),
        })
    }
}
