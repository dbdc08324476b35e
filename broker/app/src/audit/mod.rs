//! What is audited and where it goes, from the configuration: the rules, and the sinks that run.
//!
//! How a sink keeps its place in the log is `mqgate_server::audit::sinks`; here is where its records go.

mod file;
mod http;
mod mqtt;
pub mod policy;
mod syslog;
pub mod target;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use mqgate_server::audit::AuditLog;
use mqgate_server::audit::sinks::{
    Format, Item, OnFull, Outlet, OutletError, OutletFuture, Running, SinkSettings, SinkStatus,
};
use mqgate_server::broker::Broker;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::file::{FileOutlet, JournalOutlet, StdoutOutlet};
use self::http::{OtlpOutlet, WebhookOutlet};
use self::mqtt::MqttOutlet;
use self::syslog::SyslogOutlet;
use self::target::Target;
use crate::bridge::settings::tls as tls_options;
use crate::config::Config;
use crate::config::model::{AuditFormat, AuditOnFull, AuditSink};

/// How long sinks get to say goodbye.
const GOODBYE: Duration = Duration::from_secs(4);

/// Places that a checkpoint did not reach are asked again this often.
const PUBLISH_AGAIN: Duration = Duration::from_secs(10);

/// The sinks that run, by name.
pub struct Sinks {
    audit: Arc<AuditLog>,
    broker: Arc<Broker>,
    running: Mutex<BTreeMap<String, Entry>>,
    tasks: TaskTracker,
}

struct Entry {
    settings: AuditSink,
    running: Running,
    lazy: Arc<Lazy>,
    /// It has handed over what it could, and kept its cursor.
    ended: CancellationToken,
}

impl Sinks {
    /// Starts those that are configured.
    pub fn new(config: &Config, audit: &Arc<AuditLog>, broker: &Arc<Broker>) -> Arc<Self> {
        let sinks = Arc::new(Self {
            audit: Arc::clone(audit),
            broker: Arc::clone(broker),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        sinks.configure(config);
        let auditor = |name: &str| config.plugins.iter().any(|plugin| plugin.name == name);
        audit.keep_for(|name| match name.strip_prefix("auditor-") {
            Some(plugin) => auditor(plugin),
            None => config.audit.sinks.get(name).is_some_and(|sink| sink.enable),
        });
        sinks
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the rules and sinks of a configuration over. One that did not change goes on; one that did keeps its cursor.
    pub fn configure(&self, config: &Config) {
        match policy::policy(config) {
            Ok(policy) => self.audit.set_policy(policy),
            // They were checked with the configuration.
            Err(error) => tracing::error!(%error, "the audit rules before hold on"),
        }
        let wanted = |name: &str| config.audit.sinks.get(name).filter(|sink| sink.enable);
        let mut running = self.running();
        let mut ending = BTreeMap::new();
        running.retain(|name, entry| {
            let stays = wanted(name) == Some(&entry.settings);
            if !stays {
                entry.running.stop();
                ending.insert(name.clone(), entry.ended.clone());
            }
            stays
        });
        for (name, settings) in &config.audit.sinks {
            if settings.enable && !running.contains_key(name) {
                let before = ending.remove(name);
                running.extend(self.start(name, settings, before).map(|entry| (name.clone(), entry)));
            }
        }
        // Nothing is kept any more for what is gone.
        for (name, ended) in ending {
            let audit = Arc::clone(&self.audit);
            self.tasks.spawn(async move {
                ended.cancelled().await;
                audit.forget_sink(&name);
            });
        }
    }

    /// Two of one name share a cursor: the one before has to end first.
    fn start(&self, name: &str, settings: &AuditSink, before: Option<CancellationToken>) -> Option<Entry> {
        let target = match Target::new(settings) {
            Ok(target) => target,
            Err((key, problem)) => {
                tracing::error!(sink = name, key, problem, "the audit sink does not start");
                return None;
            }
        };
        let lazy = Arc::new(Lazy {
            name: name.to_owned(),
            settings: settings.clone(),
            target: target.clone(),
            broker: Arc::clone(&self.broker),
            log: self.audit.log_id(),
            made: Mutex::default(),
        });
        let outlet: Arc<dyn Outlet> = Arc::clone(&lazy) as _;
        let started = self.audit.sink(
            name,
            settings.kind.as_str(),
            &target.to_string(),
            sink_settings(settings),
            outlet,
            CancellationToken::new(),
        );
        match started {
            Some((running, task)) => {
                let ended = CancellationToken::new();
                let ending = ended.clone().drop_guard();
                self.tasks.spawn(async move {
                    let _ending = ending;
                    if let Some(before) = before {
                        before.cancelled().await;
                    }
                    task.await;
                });
                Some(Entry { settings: settings.clone(), running, lazy, ended })
            }
            None => {
                tracing::error!(sink = name, "there is no log that the audit sink could read");
                None
            }
        }
    }

    /// Stops all and waits until they have handed over what is left, for a while.
    pub async fn end(&self) {
        self.running().values().for_each(|entry| entry.running.stop());
        self.tasks.close();
        let _ = tokio::time::timeout(GOODBYE, self.tasks.wait()).await;
    }

    /// Publishes the log's newest checkpoint wherever that is wanted, until `shutdown`; places that fail are asked again
    /// after a while, with the newest one then.
    pub async fn publish_checkpoints(self: Arc<Self>, shutdown: CancellationToken) {
        let mut checkpoints = self.audit.checkpoints();
        // By place, the size of the checkpoint that is there.
        let mut there: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let newest = checkpoints.borrow_and_update().clone();
            let places: Vec<_> = self
                .running()
                .values()
                .filter(|entry| entry.settings.checkpoints)
                .map(|entry| Arc::clone(&entry.lazy))
                .collect();
            there.retain(|name, _| places.iter().any(|place| place.name == *name));
            for place in places {
                let Some(checkpoint) = &newest else { break };
                if there.get(&place.name) == Some(&checkpoint.size) {
                    continue;
                }
                let published = place.publish(&checkpoint.note).await;
                if published.is_ok() {
                    there.insert(place.name.clone(), checkpoint.size);
                }
                // A topic of this broker is no place outside: who can rewrite the log has it, too.
                if place.is_outside() {
                    self.audit.checkpoint_published(&place.name, checkpoint.size, published.err());
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A place that failed, or is new.
                () = tokio::time::sleep(PUBLISH_AGAIN) => {}
                changed = checkpoints.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    pub fn status(&self) -> Vec<SinkStatus> {
        self.audit.sinks()
    }

    /// Whether checkpoints are to go anywhere that this broker cannot rewrite.
    pub fn publishes(&self) -> bool {
        self.running().values().any(|entry| entry.settings.checkpoints && entry.lazy.is_outside())
    }
}

fn sink_settings(sink: &AuditSink) -> SinkSettings {
    SinkSettings {
        records: sink.batch as usize,
        bytes: usize::try_from(sink.batch_bytes.0).unwrap_or(usize::MAX),
        timeout: sink.timeout.0,
        min_backoff: sink.min_backoff.0,
        max_backoff: sink.max_backoff.0,
        max_backlog: sink.max_backlog.0,
        on_full: match sink.on_full {
            AuditOnFull::Refuse => OnFull::Refuse,
            AuditOnFull::DropOldestCounted => OnFull::DropOldestCounted,
        },
    }
}

/// A place that is made with the first batch: a file that is missing then is a sink that is down, and is looked for again.
struct Lazy {
    name: String,
    settings: AuditSink,
    target: Target,
    broker: Arc<Broker>,
    log: String,
    made: Mutex<Option<Made>>,
}

#[derive(Clone)]
struct Made {
    outlet: Arc<dyn Outlet>,
    webhook: Option<Arc<WebhookOutlet>>,
    mqtt: Option<Arc<MqttOutlet>>,
}

impl Lazy {
    fn made(&self) -> Result<Made, OutletError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(made.clone());
        }
        let new = self.make().map_err(|error| OutletError::new(format!("{error:#}")))?;
        *made = Some(new.clone());
        Ok(new)
    }

    fn make(&self) -> Result<Made> {
        let sink = &self.settings;
        let format = match sink.format {
            AuditFormat::Json => Format::Json,
            AuditFormat::Cef => Format::Cef,
            AuditFormat::Ecs => Format::Ecs,
        };
        let plain = |outlet: Arc<dyn Outlet>| Made { outlet, webhook: None, mqtt: None };
        Ok(match &self.target {
            Target::File(path) => {
                plain(Arc::new(FileOutlet::new(path, format, sink.rotate_size.0, sink.rotate_keep)))
            }
            Target::Stdout => plain(Arc::new(StdoutOutlet::new(format))),
            Target::Journald(socket) => plain(Arc::new(JournalOutlet::new(socket.clone(), format))),
            Target::Syslog(address) => plain(Arc::new(SyslogOutlet::new(address, sink, format)?)),
            Target::Otlp(url) => plain(Arc::new(OtlpOutlet::new(url, sink, &self.log)?)),
            Target::Webhook(url) => {
                let webhook = Arc::new(WebhookOutlet::new(url, sink, format, &self.log)?);
                Made { outlet: Arc::clone(&webhook) as _, webhook: Some(webhook), mqtt: None }
            }
            Target::Mqtt(address) => {
                let mqtt = MqttOutlet::new(&self.name, address.as_ref(), sink, format, &self.broker)?;
                let mqtt = Arc::new(mqtt);
                Made { outlet: Arc::clone(&mqtt) as _, webhook: None, mqtt: Some(mqtt) }
            }
        })
    }

    fn is_outside(&self) -> bool {
        self.target != Target::Mqtt(None)
    }

    async fn publish(&self, note: &str) -> Result<(), OutletError> {
        let made = self.made()?;
        if let Some(mqtt) = made.mqtt {
            return tokio::time::timeout(self.settings.timeout.0, mqtt.publish_checkpoint(note))
                .await
                .unwrap_or_else(|_| Err(OutletError::new("no answer in time")));
        }
        let Some(webhook) = made.webhook else { return Ok(()) };
        let note = note.to_owned();
        tokio::task::spawn_blocking(move || webhook.publish(&note))
            .await
            .unwrap_or_else(|error| Err(OutletError::new(error)))
    }
}

impl Outlet for Lazy {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        Box::pin(async move { self.made()?.outlet.take(items).await })
    }
}
