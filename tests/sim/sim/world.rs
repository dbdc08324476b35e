//! The broker of a story: real connection code, a fixed rule instead of the gate.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqgate_codec::{Connect, ReasonCode};
use mqgate_identity::hooks::{AclRule, Effect, GrantLimits, Peer, RetainMatch};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::limits::Limits;
use mqgate_protocol::permit::{Granted, Permit};
use mqgate_protocol::persistent::Seed;
use mqgate_server::audit::{AuditLog, AuditSettings};
use mqgate_server::broker::{Admitter, Broker, BrokerParts, serve};
use mqgate_server::gate::{Accepted, Admission, Refusal};
use mqgate_server::metrics::mqtt::{MqttMetrics, Transport};
use mqgate_server::metrics::{BuildInfo, Metrics};
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;

pub struct World {
    broker: Arc<Broker>,
    shutdown: CancellationToken,
    rules: Arc<Mutex<Rules>>,
}

#[derive(Default)]
struct Rules {
    barred: HashSet<String>,
    /// Topics, by client id, that it may neither publish nor subscribe to.
    denied: HashMap<String, HashSet<String>>,
}

impl World {
    pub fn new() -> Self {
        let metrics = Metrics::new(&BuildInfo::default()).unwrap();
        let settings = AuditSettings { path: None, ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics.gate)).unwrap());
        let rules = Arc::new(Mutex::new(Rules::default()));
        let known = Arc::clone(&rules);
        let rule = move |_: &Accepted, connect: &Connect| {
            let rules = known.lock().unwrap();
            match rules.barred.contains(&*connect.client_id) {
                true => Admission::Refused(Refusal {
                    reason: Reason::PluginDenied,
                    code: ReasonCode::NOT_AUTHORIZED,
                    reason_string: None,
                    server_reference: None,
                    retry_after: None,
                }),
                false => Admission::Admitted(Box::new(permit(connect, &rules))),
            }
        };
        // Clients that do not read stay: what happens to those is not this story.
        let limits = Limits { write_stall_timeout: Duration::from_secs(24 * 3600), ..Limits::default() };
        let parts = BrokerParts {
            admitter: Admitter::Rule(Box::new(rule)),
            audit,
            metrics: Arc::new(MqttMetrics::register(metrics.registry()).unwrap()),
            limits,
            listener_limits: HashMap::new(),
        };
        let broker = Broker::with_seed(parts, Seed(1));
        let shutdown = CancellationToken::new();
        tokio::spawn(Arc::clone(&broker).housekeeping(shutdown.clone()));
        Self { broker, shutdown, rules }
    }

    /// `room` is what the transport holds unread, each way.
    pub fn dial(&self, room: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(room);
        let accepted = Accepted {
            id: self.broker.next_connection_id(),
            listener: "sim".into(),
            accepted_at: UnixMillis(0),
            transport: Transport::Tcp,
            peer: Peer { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
            tls: None,
            certificate: None,
            attributes: Vec::new(),
            server_certificate: None,
        };
        tokio::spawn(serve(theirs, accepted, Arc::clone(&self.broker), self.shutdown.clone()));
        ours
    }

    /// From now on the client is refused, and the gate is asked again about its connection.
    pub fn bar(&self, client_id: &str) {
        self.rules.lock().unwrap().barred.insert(client_id.to_owned());
        self.ask_again(client_id);
    }

    pub fn unbar(&self, client_id: &str) {
        self.rules.lock().unwrap().barred.remove(client_id);
    }

    pub fn deny(&self, client_id: &str, topic: &str) {
        self.rules.lock().unwrap().denied.entry(client_id.to_owned()).or_default().insert(topic.to_owned());
        self.ask_again(client_id);
    }

    fn ask_again(&self, client_id: &str) {
        self.broker.connections().reauthorize_where(|handle| {
            handle.admitted().is_some_and(|admitted| &*admitted.client_id == client_id)
        });
    }

    /// Everything that can happen without time passing has happened afterwards: the paused clock only moves
    /// when nobody has anything to do.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pub async fn end(self) {
        self.shutdown.cancel();
        self.settle().await;
    }
}

fn permit(connect: &Connect, rules: &Rules) -> Permit {
    let rule = |effect, filter: &str| AclRule {
        effect,
        publish: true,
        subscribe: true,
        filter: filter.to_owned(),
        qos: 0b111,
        retain: RetainMatch::Any,
    };
    let mut denied: Vec<_> = rules.denied.get(&*connect.client_id).into_iter().flatten().collect();
    denied.sort();
    let mut acl: Vec<_> = denied.into_iter().map(|topic| rule(Effect::Deny, topic)).collect();
    acl.push(rule(Effect::Allow, "#"));
    Permit::granted_by(&Granted {
        client_id: connect.client_id.clone(),
        assigned: false,
        device_id: &connect.client_id,
        tenant: None,
        certificate_fingerprint: None,
        rules: &acl,
        otherwise: Effect::Deny,
        limits: GrantLimits::default(),
        valid_for: None,
        generation: 1,
    })
    .unwrap()
}
