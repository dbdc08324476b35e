//! What the checks look at. Whoever gathers this knows the parts of the broker; the checks know only this.

use std::collections::{BTreeSet, HashMap};

use crate::certificate::{CertificateFacts, CertificateFingerprint};
use crate::evaluation::AnchorLint;
use crate::registry::DeviceCertificate;
use crate::time::UnixSeconds;

/// Everything but the records of the registry, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub cas: Vec<CaFacts>,
    pub crls: Vec<CrlFacts>,
    pub listeners: Vec<ListenerFacts>,
    pub registrars: Vec<RegistrarFacts>,
    pub rules: Vec<RuleFacts>,
    pub plugins: Vec<PluginFacts>,
    pub audit: AuditFacts,
    pub admin: Option<AdminFacts>,
    pub connections: ConnectionsSeen,
}

/// Where a CA is from, which is where it can be taken out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaSource {
    Configuration,
    Registry,
    /// Replaced or removed, and valid for a while.
    Transition,
}

/// A CA that lets clients in.
#[derive(Debug, Clone)]
pub struct CaFacts {
    pub name: String,
    pub source: CaSource,
    pub facts: CertificateFacts,
    pub lints: Vec<(AnchorLint, String)>,
    /// Active device certificates registered under it.
    pub active_devices: u64,
    /// Live connections that lead to it.
    pub connections: u64,
    /// There is a revocation list that it made.
    pub has_list: bool,
    /// Who has revoked it.
    pub revoked_by: Option<String>,
}

#[derive(Debug, Clone)]
pub struct CrlFacts {
    /// Where it is from.
    pub source: String,
    pub issuer: String,
    /// Of a CA that is trusted.
    pub ca: Option<String>,
    pub next_update: Option<UnixSeconds>,
    pub is_stale: bool,
}

#[derive(Debug, Clone, Default)]
pub struct ListenerFacts {
    pub name: String,
    pub has_tls: bool,
    /// Only this machine can reach it.
    pub is_local: bool,
    pub asks_for_certificate: bool,
    pub requires_certificate: bool,
    pub checks_revocation: bool,
    /// It shows the certificate that the broker made for itself.
    pub shows_builtin: bool,
    /// Certificates that the registry does not know are put before the registrars.
    pub registers: bool,
}

/// A member of the chain that registers unknown certificates.
#[derive(Debug, Clone, Default)]
pub struct RegistrarFacts {
    pub name: String,
    /// Something other than the CA says which certificates: a pattern, a condition.
    pub has_pattern: bool,
    /// What it registers waits for an operator.
    pub holds: bool,
}

/// One line of an access list.
#[derive(Debug, Clone, Default)]
pub struct RuleFacts {
    /// Where it stands.
    pub origin: String,
    pub filter: String,
    pub publish: bool,
    pub subscribe: bool,
}

#[derive(Debug, Clone, Default)]
pub struct PluginFacts {
    pub name: String,
    /// `None`: nobody knows, or it is no component.
    pub is_signed: Option<bool>,
    /// What it may use now.
    pub capabilities: BTreeSet<String>,
    /// What it might use when it was first seen.
    pub accepted: BTreeSet<String>,
}

#[derive(Debug, Clone, Default)]
pub struct AuditFacts {
    pub sinks: Vec<SinkFacts>,
    /// Whether checkpoints go to a place of others, and why not.
    pub publishes: Option<Result<(), String>>,
}

#[derive(Debug, Clone, Default)]
pub struct SinkFacts {
    pub name: String,
    /// Why it takes nothing.
    pub problem: Option<String>,
    /// Records that it has not taken yet.
    pub lag: u64,
}

#[derive(Debug, Clone, Default)]
pub struct AdminFacts {
    pub bind: String,
    pub is_local: bool,
    pub has_tls: bool,
    pub asks_for_certificate: bool,
}

/// One live connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    pub certificate: Option<CertificateFingerprint>,
    pub address: std::net::IpAddr,
    pub client_id: Option<&'a str>,
    pub device_id: Option<&'a str>,
}

/// Addresses and devices remembered of one certificate or client id: more are not named.
const MOST_NAMED: usize = 8;
/// Certificates and client ids that are told apart; those of further connections are not looked at.
pub(super) const MOST_COMPARED: usize = 1_000_000;

/// What live connections have in common. Taken up one after the other.
#[derive(Debug, Clone, Default)]
pub struct ConnectionsSeen {
    by_certificate: HashMap<CertificateFingerprint, Users>,
    by_client_id: HashMap<String, Users>,
}

/// Who has something: nearly always one.
#[derive(Debug, Clone)]
pub(super) enum Users {
    One(String),
    Several(BTreeSet<String>),
}

impl Users {
    fn add(&mut self, user: String) {
        match self {
            Self::One(known) if *known == user => {}
            Self::One(known) => *self = Self::Several(BTreeSet::from([std::mem::take(known), user])),
            Self::Several(known) if known.len() < MOST_NAMED => drop(known.insert(user)),
            Self::Several(_) => {}
        }
    }

    pub(super) fn several(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::One(_) => None,
            Self::Several(users) => Some(users),
        }
    }
}

fn add<K: std::hash::Hash + Eq>(to: &mut HashMap<K, Users>, key: K, user: String) {
    let is_full = to.len() >= MOST_COMPARED;
    match to.get_mut(&key) {
        Some(users) => users.add(user),
        None if is_full => {}
        None => drop(to.insert(key, Users::One(user))),
    }
}

impl ConnectionsSeen {
    pub fn add(&mut self, connection: ConnectionFacts<'_>) {
        if let Some(certificate) = connection.certificate {
            add(&mut self.by_certificate, certificate, connection.address.to_string());
        }
        if let (Some(client_id), Some(device_id)) = (connection.client_id, connection.device_id) {
            add(&mut self.by_client_id, client_id.to_owned(), device_id.to_owned());
        }
    }

    pub(super) fn certificates(&self) -> impl Iterator<Item = (CertificateFingerprint, &BTreeSet<String>)> {
        self.by_certificate.iter().filter_map(|(id, users)| Some((*id, users.several()?)))
    }

    pub(super) fn client_ids(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.by_client_id.iter().filter_map(|(id, users)| Some((id.as_str(), users.several()?)))
    }
}

/// One record of the registry, and what others know of its certificate.
#[derive(Debug, Clone, Copy)]
pub struct DeviceFacts<'a> {
    pub record: &'a DeviceCertificate,
    /// Live connections with it.
    pub connections: usize,
    /// The revocation list that names it.
    pub revoked_by: Option<&'a str>,
}
