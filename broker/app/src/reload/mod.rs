//! Change while the broker runs: the configuration is read and checked whole, what differs is prepared beside what is
//! in force, and everything is taken over in one go or not at all.
//!
//! [`plan`] says what differs, [`impact`] whom it concerns, `apply` takes it over; the triggers are in `triggers`.

mod apply;
pub mod files;
pub mod impact;
pub mod ledger;
pub mod material;
pub mod overrides;
pub mod plan;
mod settings;
pub mod transitions;
pub mod triggers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_plugin_host::PluginHost;
use mqgate_server::audit::{AuditLog, request};
use mqgate_server::broker::Broker;
use mqgate_server::bundles::Bundles;
use mqgate_server::clock::{self, sanity::ClockWatch};
use mqgate_server::crl::RevocationService;
use mqgate_server::gate::Gate;
use mqgate_server::live::Live;
use mqgate_server::posture::Posture;
use mqgate_server::registry::Registry;
use mqgate_server::sharing::Sharing;
use mqgate_server::tls::TlsServer;
use mqgate_server::trust::{BoundAnchor, TrustStore};
use prometheus::{Gauge, IntCounterVec, Opts};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::files::Contents;
use self::impact::Impact;
use self::material::Pair;
use self::overrides::Overrides;
use self::plan::{Change, Effect, Plan};
use self::transitions::Transitions;
use crate::audit::Sinks;
use crate::config::problem::Problems;
use crate::config::{Config, ConfigError, Inputs};
use crate::run::builtin::Builtin;
use crate::run::first_start;
use crate::run::listeners::Listeners;
use crate::run::logging::LogFilter;
use crate::run::posture::Known;

/// What happens to live clients that could not connect again after a change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum, schemars::JsonSchema,
)]
#[schemars(rename = "Disconnect")]
#[serde(rename_all = "kebab-case")]
pub enum Disconnect {
    /// They stay.
    #[default]
    None,
    /// They are sent away, those that a transition still lets in excepted.
    Affected,
}

/// How a change is to be made.
#[derive(Debug, Clone)]
pub struct Request {
    /// As audit records name it.
    pub actor: String,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
    /// Instead of `reload.grace`.
    pub grace: Option<Duration>,
    pub disconnect: Disconnect,
    /// To be laid over the settings of a listener that the API has changed; `None`: those that hold.
    pub patch: Option<Patch>,
}

impl Request {
    pub fn by(actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), dry_run: false, grace: None, disconnect: Disconnect::None, patch: None }
    }
}

/// Settings of one listener, as RFC 7396 has it.
#[derive(Debug, Clone)]
pub struct Patch {
    pub listener: String,
    pub settings: Value,
}

/// What a change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ReloadResult")]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    Applied,
    /// There was nothing to do.
    Unchanged,
    /// Nothing was done: it was only asked.
    DryRun,
}

#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ReloadReport")]
pub struct Report {
    pub result: Done,
    pub changes: Vec<Change>,
    /// Files that hold something else than when they were read before.
    pub files: Vec<PathBuf>,
    /// Keys whose new value waits for a restart.
    pub restart_required: Vec<String>,
    /// What stays valid beside its successor, and until when.
    pub transitions: Vec<Begun>,
    /// Live clients that could not connect again, were it not for a transition.
    pub affected: Impact,
    /// How many of them were sent away.
    pub disconnected: usize,
}

/// A transition that begins with the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "BegunTransition")]
pub struct Begun {
    pub id: String,
    pub material: ledger::Material,
    pub name: String,
    pub fingerprint: String,
    pub ends_at: u64,
}

/// Why a change was not made; what was in force still is.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0:#}")]
    Refused(anyhow::Error),
    /// It was begun, and taken back.
    #[error("{0:#}\n  what was in force before still is")]
    RolledBack(anyhow::Error),
    /// A mistake of ours: nobody knows how far it came.
    #[error("the change was interrupted and may be in force in parts: start the broker again ({0})")]
    Interrupted(String),
}

impl From<Problems> for ReloadError {
    fn from(problems: Problems) -> Self {
        Self::Config(problems.into())
    }
}

/// The parts of the broker that a change reaches.
pub struct ReloadParts {
    pub broker: Arc<Broker>,
    pub gate: Arc<Gate>,
    pub clock_watch: Arc<ClockWatch>,
    pub sharing: Arc<Sharing>,
    pub live: Arc<Live>,
    pub trust: Arc<TrustStore>,
    pub registry: Arc<Registry>,
    pub bundles: Arc<Bundles>,
    pub builtin: Arc<Builtin>,
    pub host: Arc<PluginHost>,
    pub audit: Arc<AuditLog>,
    pub listeners: Arc<Listeners>,
    pub transitions: Arc<Transitions>,
    /// The admin API's, if it has any.
    pub admin_tls: Option<Arc<TlsServer>>,
    pub revocations: Arc<RevocationService>,
    pub posture: Arc<Posture>,
    pub sinks: Arc<Sinks>,
    pub known: Arc<Known>,
    pub log: LogFilter,
}

/// Takes changes over, one at a time.
pub struct Reloader {
    /// `--config`.
    explicit: Option<PathBuf>,
    parts: ReloadParts,
    reloads: IntCounterVec,
    last_success: Gauge,
    state: tokio::sync::Mutex<State>,
}

/// What is in force.
struct State {
    config: Config,
    overrides: Overrides,
    /// Of the files that listeners name.
    contents: Contents,
    /// The CAs of the configuration.
    anchors: Vec<BoundAnchor>,
    /// The server certificates of listeners, for who replaces them.
    pairs: BTreeMap<String, Vec<Pair>>,
    /// Keys that wait for a restart, with the values they would have.
    waiting: BTreeMap<String, Value>,
}

impl Reloader {
    /// `config` and `anchors` are what the broker was started with.
    pub fn new(
        explicit: Option<PathBuf>,
        parts: ReloadParts,
        config: Config,
        overrides: Overrides,
        anchors: Vec<BoundAnchor>,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let reloads = IntCounterVec::new(
            Opts::new(
                "mqgate_config_reloads_total",
                "Times the configuration was read anew, by the outcome.",
            ),
            &["result"],
        )?;
        let last_success = Gauge::new(
            "mqgate_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, Unix time.",
        )?;
        metrics.register(Box::new(reloads.clone()))?;
        metrics.register(Box::new(last_success.clone()))?;
        for result in ["applied", "unchanged", "refused", "rolled_back"] {
            reloads.with_label_values(&[result]);
        }
        last_success.set(clock::now().seconds().0 as f64);
        let contents = Contents::read(&files::of_listeners(&config));
        let (pairs, waiting) = (material::read(&config), BTreeMap::new());
        let state = tokio::sync::Mutex::new(State { config, overrides, contents, anchors, pairs, waiting });
        Ok(Arc::new(Self { explicit, parts, reloads, last_success, state }))
    }

    pub fn transitions(&self) -> &Arc<Transitions> {
        &self.parts.transitions
    }

    pub fn listeners(&self) -> &Arc<Listeners> {
        &self.parts.listeners
    }

    pub fn gate(&self) -> &Gate {
        &self.parts.gate
    }

    pub fn live(&self) -> &Live {
        &self.parts.live
    }

    pub fn audit(&self) -> &AuditLog {
        &self.parts.audit
    }

    /// The configuration in force, and what waits for a restart.
    pub async fn in_force(&self) -> (Config, Overrides, BTreeMap<String, Value>) {
        let state = self.state.lock().await;
        (state.config.clone(), state.overrides.clone(), state.waiting.clone())
    }

    /// Files whose change is a reason to look again.
    pub async fn watched(&self) -> (Vec<PathBuf>, Duration) {
        let state = self.state.lock().await;
        let mut files = files::of_listeners(&state.config);
        files.extend(self.explicit.clone().or_else(|| Inputs::locate(None)));
        (files, state.config.reload.watch.0)
    }

    /// Reads everything anew and takes over what differs. Once begun it is finished, whether or not the caller
    /// still waits.
    pub async fn reload(self: &Arc<Self>, request: Request) -> Result<Report, ReloadError> {
        let this = Arc::clone(self);
        let task = request::spawn(async move {
            let mut state = this.state.lock().await;
            let result = this.attempt(&mut state, &request).await;
            this.note(&request, &result).await;
            result
        });
        task.await.unwrap_or_else(|error| Err(ReloadError::Interrupted(error.to_string())))
    }

    async fn attempt(&self, state: &mut State, request: &Request) -> Result<Report, ReloadError> {
        // Two changes of one moment are laid over each other, and neither is lost.
        let overrides = match &request.patch {
            Some(patch) => state.overrides.patched(&["listeners", &patch.listener], patch.settings.clone()),
            None => state.overrides.clone(),
        };
        let (explicit, overrides_to_read) = (self.explicit.clone(), overrides.clone());
        let read = move || -> Result<(Config, Contents), ReloadError> {
            let mut inputs = Inputs::gather(explicit.as_deref())?;
            inputs.overrides = overrides_to_read.variables();
            let loaded = inputs.load_with_files()?;
            let config = first_start::complete(&inputs, loaded.config);
            let contents = Contents::read(&files::of_listeners(&config));
            Ok((config, contents))
        };
        let (next, contents) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| ReloadError::Refused(anyhow::anyhow!("reading broke down: {error}")))??;
        if next.listeners.is_empty() {
            return Err(ReloadError::Refused(anyhow::anyhow!(
                "no listener is left: nobody could connect; stop the broker if that is meant"
            )));
        }
        let plan = Plan::new(&state.config, &next).map_err(ReloadError::Refused)?;
        let files: Vec<PathBuf> = state.contents.changed(&contents).cloned().collect();
        let mut report = Report {
            result: Done::Unchanged,
            restart_required: plan.waiting().map(str::to_owned).collect(),
            changes: plan.changes.clone(),
            files: files.clone(),
            transitions: Vec::new(),
            affected: Impact::default(),
            disconnected: 0,
        };
        let nothing = plan.changes.iter().all(|change| change.effect == Effect::Restart) && files.is_empty();
        let waiting: BTreeMap<String, Value> = plan
            .changes
            .iter()
            .filter(|change| change.effect == Effect::Restart)
            .map(|change| (change.key.clone(), change.after.clone()))
            .collect();
        if nothing && (request.dry_run || (waiting == state.waiting && overrides == state.overrides)) {
            if request.dry_run {
                report.result = Done::DryRun;
            }
            return Ok(report);
        }
        let next = apply::Next { config: plan.effective, changes: plan.changes, files, contents, overrides };
        apply::run(&self.parts, state, next, request, &mut report).await?;
        if !request.dry_run {
            state.waiting = waiting;
        }
        Ok(report)
    }

    /// Counts, logs and writes down how it ended.
    async fn note(&self, request: &Request, result: &Result<Report, ReloadError>) {
        let count = |outcome| self.reloads.with_label_values(&[outcome]).inc();
        let actor = request.actor.as_str();
        match result {
            Ok(report) if report.result == Done::DryRun => {}
            Ok(report) if report.result == Done::Unchanged => {
                count("unchanged");
                self.last_success.set(clock::now().seconds().0 as f64);
                tracing::info!(actor, "the configuration is as it was");
            }
            Ok(report) => {
                count("applied");
                self.last_success.set(clock::now().seconds().0 as f64);
                tracing::info!(
                    actor,
                    changes = report.changes.len(),
                    files = report.files.len(),
                    disconnected = report.disconnected,
                    "the configuration was taken over"
                );
                if !report.restart_required.is_empty() {
                    tracing::warn!(keys = ?report.restart_required, "these wait for a restart");
                }
                let event = event(names::CONFIG_RELOADED, report).actor(actor);
                if let Err(refused) = self.parts.audit.record_durable(event).await {
                    tracing::error!(%refused, "the configuration was taken over, which is not in the audit log");
                }
            }
            Err(error) => {
                count(if matches!(error, ReloadError::RolledBack(_)) { "rolled_back" } else { "refused" });
                tracing::error!(actor, %error, "the configuration was not taken over: the one before goes on");
                let event = AuditEvent::new(names::CONFIG_REFUSED, Outcome::Failure, Reason::Other)
                    .actor(actor)
                    .field("detail", shortened(&error.to_string()));
                self.parts.audit.record(event);
            }
        }
    }
}

/// Changes that one record names.
const MOST_FIELDS: usize = 200;

fn event(name: &'static str, report: &Report) -> AuditEvent {
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok)
        .field("changes", report.changes.len().to_string())
        .field("affected", report.affected.clients.to_string())
        .field("disconnected", report.disconnected.to_string());
    for change in report.changes.iter().take(MOST_FIELDS) {
        let waits = if change.effect == Effect::Restart { " (after a restart)" } else { "" };
        let text = format!("{} -> {}{waits}", change.before, change.after);
        event = event.field(&format!("key.{}", change.key), shortened(&text));
    }
    for file in &report.files {
        event = event.field(&format!("file.{}", file.display()), "changed");
    }
    for begun in &report.transitions {
        event = event.field(&format!("transition.{}", begun.id), begun.name.as_str());
    }
    event
}

/// Short enough for a record.
fn shortened(text: &str) -> String {
    text.chars().take(1024).collect()
}
