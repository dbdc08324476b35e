//! Whom a change would concern: live clients that could not connect any more if they came after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use mqgate_server::broker::Broker;
use mqgate_server::directory::ConnectionHandle;
use mqgate_server::live::PathRules;
use serde::Serialize;

/// Clients that are named; the others are counted.
const NAMED: usize = 20;
/// Clients judged before the others of the broker get a turn.
const TURN: usize = 256;

/// What a listener would ask of a client.
pub struct Rules {
    /// TLS versions, as TLS counts them, lowest and highest; `None` without TLS.
    pub versions: Option<(u16, u16)>,
    pub certificate_required: bool,
    /// `None`: it takes no certificates.
    pub paths: Option<PathRules>,
}

/// Why a client could not connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    ListenerRemoved,
    /// It uses a TLS version outside the new range.
    TlsVersion,
    /// It has no certificate, and needs one.
    CertificateRequired,
    /// Its certificate leads to no CA that is trusted then.
    CaRemoved,
    /// Its certificate would not pass any more.
    CertificateRefused,
}

/// A client that is concerned.
pub struct Concerned {
    pub handle: Arc<ConnectionHandle>,
    pub obstacle: Obstacle,
    /// Audited, if it is sent away.
    pub reason: Reason,
    detail: String,
}

/// What an operator is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ReloadImpact")]
pub struct Impact {
    /// Live clients that could not connect again after the change.
    pub clients: usize,
    pub by_reason: BTreeMap<Obstacle, usize>,
    /// The first of them.
    pub first: Vec<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "AffectedClient")]
pub struct Named {
    pub client_id: Option<String>,
    pub device_id: Option<String>,
    pub connection_id: u64,
    pub listener: String,
    pub peer_address: String,
    pub reason: Obstacle,
    pub detail: String,
}

/// Looks at every live client by the rules that listeners would have; one without rules is removed.
pub async fn concerned(broker: &Broker, rules: &BTreeMap<String, Rules>, now: UnixSeconds) -> Vec<Concerned> {
    let mut handles = broker.connections().list();
    handles.sort_unstable_by_key(|handle| handle.connection_id);
    let mut concerned = Vec::new();
    for (number, handle) in handles.into_iter().enumerate() {
        if number % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        if let Some((obstacle, reason, detail)) = obstacle(&handle, rules.get(&*handle.listener), now) {
            concerned.push(Concerned { handle, obstacle, reason, detail });
        }
    }
    concerned
}

fn obstacle(
    handle: &ConnectionHandle,
    rules: Option<&Rules>,
    now: UnixSeconds,
) -> Option<(Obstacle, Reason, String)> {
    let Some(rules) = rules else {
        return Some((
            Obstacle::ListenerRemoved,
            Reason::AdminAction,
            String::from("the listener is removed"),
        ));
    };
    match (rules.versions, handle.tls_version) {
        (Some((lowest, highest)), Some(version)) if !(lowest..=highest).contains(&version) => {
            let detail = format!("it speaks TLS {}", if version == 0x0303 { "1.2" } else { "1.3" });
            return Some((Obstacle::TlsVersion, Reason::AdminAction, detail));
        }
        (Some(_), None) => {
            let detail = String::from("it speaks no TLS");
            return Some((Obstacle::TlsVersion, Reason::AdminAction, detail));
        }
        _ => {}
    }
    let Some(certificate) = handle.certificate() else {
        return rules.certificate_required.then(|| {
            let detail = String::from("it has no certificate");
            (Obstacle::CertificateRequired, Reason::TlsNoPeerCert, detail)
        });
    };
    // Where no certificate is asked for, one that was shown does not matter any more.
    let paths = rules.paths.as_ref()?;
    let trust = paths.trust.current();
    match trust.judge(&certificate.leaf, &certificate.intermediates, &paths.policy, now) {
        Ok(_) => None,
        Err(rejection) if rejection.reason == Reason::CertUnknownCa => {
            Some((Obstacle::CaRemoved, Reason::CaInactive, rejection.detail))
        }
        Err(rejection) => Some((Obstacle::CertificateRefused, rejection.reason, rejection.detail)),
    }
}

impl Impact {
    pub fn of(concerned: &[Concerned]) -> Self {
        let mut impact = Self { clients: concerned.len(), ..Self::default() };
        for client in concerned {
            *impact.by_reason.entry(client.obstacle).or_default() += 1;
        }
        impact.first = concerned
            .iter()
            .take(NAMED)
            .map(|client| Named {
                client_id: client.handle.client_id().map(str::to_owned),
                device_id: client.handle.device_id().map(str::to_owned),
                connection_id: client.handle.connection_id,
                listener: client.handle.listener.to_string(),
                peer_address: client.handle.peer_address.to_string(),
                reason: client.obstacle,
                detail: client.detail.clone(),
            })
            .collect();
        impact
    }
}
