//! From the configuration to the settings of the parts.

pub mod registry;
mod transport;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mqgate_audit::log::PersonalSettings;
use mqgate_codec::QoS;
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::evaluation::{Anchor, PathPolicy, must_staple};
use mqgate_identity::hooks::Reauthorize;
use mqgate_protocol::limits::{DeniedPublish, Limits, OutboxLimits, RetainedLimits, WhenFull};
use mqgate_protocol::subscriptions::ShareStrategy;
use mqgate_server::audit::AuditSettings;
use mqgate_server::bundles::Bundles;
use mqgate_server::clock;
use mqgate_server::gate::{
    AuthMode, ChainMode, ChainModes, GateSettings, ListenerChain, ListenerPolicy, RegistrationMode,
};
use mqgate_server::listener::{ListenerSettings, SocketSettings};
use mqgate_server::live::{LiveSettings, OnExpiry, PathRules};
use mqgate_server::ocsp::OcspSettings;
use mqgate_server::quic::QuicSettings;
use mqgate_server::registry::RegistrySettings;
use mqgate_server::tls::material::Pem;
use mqgate_server::tls::{
    BoundCertificate, CertificateSet, CertificateSource, CipherSuites, ClientAuth, KeyExchangeGroups,
    Resumption, ServerCertificate, TlsServer, TlsSet, TlsSettings, TlsVersion, Verify, server_name,
};
use mqgate_server::trust::{BoundAnchor, HintLimits, TrustStore};

use super::paths::path_policy;
use crate::config::check::{listen_address, network, version};
use crate::config::{Config, model};
use crate::exit::{Exit, Failure};
use crate::native::acl_rule;
use crate::reload::ledger::Transition;
use crate::run::extras;
use crate::secret;

fn wrong(key: &str, what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Config, format!("`{key}`: {what}"))
}

pub fn kind(listener: &model::Listener) -> &'static str {
    listener.kind.as_str()
}

fn auth_mode(listener: &model::Listener) -> AuthMode {
    match listener.mode() {
        _ if !listener.has_certificates() => AuthMode::OneWay,
        model::AuthMode::OneWay => AuthMode::OneWay,
        model::AuthMode::Mutual => AuthMode::Mutual,
        model::AuthMode::PerDevice => AuthMode::PerDevice,
    }
}

pub fn auth_mode_name(listener: &model::Listener) -> &'static str {
    match auth_mode(listener) {
        AuthMode::OneWay => "one-way",
        AuthMode::Mutual => "mutual",
        AuthMode::PerDevice => "per-device",
    }
}

pub fn live(config: &Config) -> LiveSettings {
    LiveSettings {
        on_expiry: match config.reload.on_expiry {
            model::OnExpiry::Disconnect => OnExpiry::Disconnect,
            model::OnExpiry::Warn => OnExpiry::Warn,
            model::OnExpiry::Ignore => OnExpiry::Ignore,
        },
        drain_rate: config.reload.drain_rate,
    }
}

/// The lowest and the highest TLS version of a listener, as TLS counts them.
pub fn tls_versions(listener: &model::Listener) -> Option<(u16, u16)> {
    let number = |version: model::TlsVersion| match version {
        model::TlsVersion::Tls12 => 0x0303,
        model::TlsVersion::Tls13 => 0x0304,
    };
    if !listener.kind.has_tls() {
        return None;
    }
    let lowest = match listener.kind {
        model::Transport::Quic => model::TlsVersion::Tls13,
        _ => listener.versions.lowest,
    };
    Some((number(lowest), number(listener.versions.highest)))
}

/// How a listener judges clients' certificates; `None` if it asks for none.
pub fn path_rules(
    config: &Config,
    name: &str,
    listener: &model::Listener,
    trust: &TrustStore,
) -> Option<PathRules> {
    let asks = listener.has_certificates() && listener.mode() != model::AuthMode::OneWay;
    asks.then(|| PathRules { trust: trust.listener(name), policy: path_policy(config, listener) })
}

pub fn reauthorize(configured: model::Reauthorize) -> Reauthorize {
    match configured {
        model::Reauthorize::None => Reauthorize::None,
        model::Reauthorize::Lazy => Reauthorize::Lazy,
        model::Reauthorize::Eager => Reauthorize::Eager,
    }
}

pub fn listener(
    name: &str,
    listener: &model::Listener,
    policy: PathPolicy,
    trust: &Arc<TrustStore>,
    bundles: &Bundles,
    retired: &[Transition],
    drain: Duration,
) -> Result<ListenerSettings> {
    let key = |field: &str| format!("listeners.{name}.{field}");
    let address = listen_address(&listener.bind).map_err(|error| wrong(&key("bind"), error))?;
    let tls = match listener.kind.has_tls() {
        true => {
            let at = format!("listeners.{name}");
            let set = tls(&at, name, listener, policy.clone(), trust, bundles, retired)?;
            Some(Arc::new(TlsServer::new(set)))
        }
        false => None,
    };
    let mut settings = ListenerSettings::new(name, address, tls);
    settings.ocsp = ocsp(name, listener)?;
    settings.max_connections = listener.max_connections as usize;
    settings.max_handshakes = listener.max_handshakes as usize;
    settings.max_unfinished_per_source = listener.max_handshakes_per_source as usize;
    settings.drain = drain;
    settings.socket = SocketSettings {
        backlog: i32::from(listener.backlog),
        nodelay: listener.nodelay,
        send_buffer: usize::try_from(listener.send_buffer.0).ok().filter(|size| *size > 0),
        reuse_port: listener.reuse_port,
        dual_stack: listener.dual_stack,
        unix_mode: listener.unix_mode.0,
    };
    if let Some(proxy) = &listener.proxy_protocol {
        settings.proxy = Some(Arc::new(transport::proxy(name, listener, proxy, policy.clone(), trust)?));
    }
    if listener.kind == model::Transport::Quic {
        settings.quic = Some(QuicSettings {
            idle_timeout: listener.quic.idle_timeout.0,
            migration: listener.quic.migration,
        });
    }
    if listener.kind.is_websocket() {
        settings.websocket = Some(Arc::new(transport::websocket(name, listener)?));
    }
    Ok(settings)
}

/// How the certificates of a listener are stapled, if they are.
fn ocsp(name: &str, listener: &model::Listener) -> Result<Option<OcspSettings>> {
    let ocsp = &listener.ocsp;
    if !ocsp.enable || !listener.kind.has_tls() {
        return Ok(None);
    }
    let key = format!("listeners.{name}.ocsp.issuer_pem");
    let issuers = match &ocsp.issuer_pem {
        None => Vec::new(),
        Some(file) => {
            let unusable =
                |error: &dyn std::fmt::Display| wrong(&key, format!("{}: {error}", file.display()));
            let pem = std::fs::read(file).map_err(|error| unusable(&error))?;
            certificates_from_pem(&pem).map_err(|error| unusable(&error))?
        }
    };
    Ok(Some(OcspSettings {
        responder: ocsp.responder_url.clone(),
        issuers,
        refresh: ocsp.refresh_interval.0,
        timeout: ocsp.refresh_http_timeout.0,
        networks: ocsp.allow_networks.iter().filter_map(|text| network(text).ok()).collect(),
    }))
}

fn client_auth(at: &str, listener: &model::Listener) -> Result<ClientAuth> {
    let verify = listener.verify.map(|verify| match verify {
        model::Verify::VerifyNone => Verify::None,
        model::Verify::VerifyPeer => Verify::Peer,
    });
    let resolved = ClientAuth::resolve(auth_mode(listener), verify, listener.fail_if_no_peer_cert);
    Ok(resolved.map_err(|error| wrong(&format!("{at}.auth_mode"), error))?)
}

/// What a listener speaks TLS with: complete and checked, or an error that names the key.
///
/// `at` is where its keys stand, `name` what it is called.
pub fn tls(
    at: &str,
    name: &str,
    listener: &model::Listener,
    policy: PathPolicy,
    trust: &Arc<TrustStore>,
    bundles: &Bundles,
    retired: &[Transition],
) -> Result<TlsSet> {
    let key = |field: &str| format!("{at}.{field}");
    let certificates = certificates(at, name, listener, bundles, retired)?;
    let client_auth = client_auth(at, listener)?;
    let is_quic = listener.kind == model::Transport::Quic;
    let words = |names: &model::Names| names.0.clone();
    let (suites, groups) = (words(&listener.ciphers), words(&listener.groups));
    let defaults = TlsSettings::default();
    let settings = TlsSettings {
        min_version: if is_quic { TlsVersion::V1_3 } else { version(listener.versions.lowest) },
        max_version: version(listener.versions.highest),
        client_auth,
        handshake_timeout: listener.handshake_timeout.0,
        resumption: match listener.session_resumption {
            _ if is_quic => Resumption::Off,
            None => Resumption::default_for(client_auth),
            Some(model::SessionResumption::Off) => Resumption::Off,
            Some(model::SessionResumption::Tickets) => Resumption::Tickets,
            Some(model::SessionResumption::Cache) => {
                Resumption::Cache { sessions: listener.session_cache_size as usize }
            }
        },
        cipher_suites: match suites.is_empty() {
            true => defaults.cipher_suites,
            false => CipherSuites::parse(suites.iter().map(String::as_str))
                .map_err(|error| wrong(&key("ciphers"), error))?,
        },
        groups: match groups.is_empty() {
            true => defaults.groups,
            false => KeyExchangeGroups::parse(groups.iter().map(String::as_str))
                .map_err(|error| wrong(&key("groups"), error))?,
        },
        honor_cipher_order: listener.honor_cipher_order,
        strict_sni: listener.strict_sni,
        staple: listener.ocsp.enable,
        policy,
        // Browsers and other clients of WebSocket ask for HTTP.
        alpn: match listener.kind.is_websocket() {
            true => vec![String::from("http/1.1"), String::from("mqtt")],
            false => vec![String::from("mqtt")],
        },
    };
    if client_auth != ClientAuth::None && trust.listener(name).current().anchors.is_empty() {
        tracing::warn!(listener = name, "no CA is trusted yet: nobody can connect before `mqgate ca add`");
    }
    Ok(TlsSet::new(settings, certificates, trust.listener(name)).map_err(|error| wrong(at, error))?)
}

/// The list of a listener, in its order: files, bundles, the built-in one; then those that were replaced.
fn certificates(
    at: &str,
    name: &str,
    listener: &model::Listener,
    bundles: &Bundles,
    retired: &[Transition],
) -> Result<CertificateSet> {
    let mut bound = Vec::new();
    // What cannot be read is an error of `anchors`.
    let cas = listener.ca_files().filter_map(|file| certificates_from_pem(&std::fs::read(file).ok()?).ok());
    let cas: Vec<Vec<u8>> = cas.flatten().collect();
    let names =
        |sni: &Option<String>| -> Vec<String> { sni.iter().filter_map(|name| server_name(name)).collect() };
    for (index, files) in listener.files().into_iter().enumerate() {
        let key = format!("{at}.{}", listener.file_key(index));
        let password = files.password.as_deref().map(secret::resolve).transpose();
        let password = password.map_err(|error| wrong(&key.replace("certfile", "password"), error))?;
        let now = clock::now().seconds();
        let certificate = ServerCertificate::load(&files.certfile, &files.keyfile, password.as_deref(), now)
            .map_err(|error| wrong(&key, error))?
            .completed_from(&cas);
        for warning in certificate.warnings() {
            tracing::warn!(listener = name, "{warning}");
        }
        let source = CertificateSource::Files {
            certificate: files.certfile.display().to_string(),
            key: files.keyfile.display().to_string(),
            // The label of metrics: that of the first is the listener's name.
            label: (index > 0).then(|| format!("{name}-{}", index + 1)),
        };
        bound.push(BoundCertificate {
            names: names(&files.sni),
            ..BoundCertificate::new(source, certificate)
        });
    }
    for (index, managed) in listener.managed_certs.iter().enumerate() {
        let key = format!("{at}.managed_certs[{index}].bundle_name");
        let mut bundle =
            bundles.bind(&managed.namespace, &managed.bundle_name).map_err(|error| wrong(&key, error))?;
        bundle.names = names(&managed.sni);
        bound.push(bundle);
    }
    if listener.has_builtin() {
        bound.extend(bundles.bind_builtin());
    }
    if bound.iter().all(|bound| !bound.enabled) {
        let what = "no certificate is enabled here: enable one (`mqgate server-cert enable builtin`), or name one \
                    with `certfile` and `keyfile`";
        return Err(wrong(&format!("{at}.certfile"), what).into());
    }
    if !listener.ocsp.enable {
        for demanding in bound.iter().filter(|bound| must_staple(bound.certificate.facts())) {
            tracing::warn!(
                listener = name,
                certificate = %demanding.source,
                "the certificate demands an OCSP response with it (must-staple), and none is sent: set `ocsp.enable = true`"
            );
        }
    }
    // Behind all others: each is shown to who asks for a name that only it has.
    bound.extend(retired.iter().filter_map(retired_certificate));
    Ok(CertificateSet::new(bound))
}

/// What was replaced and is in transition. One that cannot be used any more is left out.
fn retired_certificate(transition: &Transition) -> Option<BoundCertificate> {
    let key = transition.key.as_deref()?;
    let pem = Pem {
        chain: transition.pem.as_bytes(),
        key: key.as_bytes(),
        password: transition.password.as_deref(),
        chain_name: &transition.name,
        key_name: &transition.name,
    };
    let source = CertificateSource::Retired { transition: transition.id.clone() };
    match ServerCertificate::from_pem(pem, clock::now().seconds()) {
        Ok(certificate) => Some(BoundCertificate {
            names: transition.server_names.clone(),
            ..BoundCertificate::new(source, certificate)
        }),
        Err(error) => {
            tracing::warn!(transition = transition.id, %error, "the old certificate cannot be used any more");
            None
        }
    }
}

/// Every CA of the configuration, once, named after its file, for the listeners that name it.
pub fn anchors(config: &Config) -> Result<Vec<BoundAnchor>> {
    let mut anchors: Vec<BoundAnchor> = Vec::new();
    for (name, listener) in &config.listeners {
        let listener_name: Arc<str> = name.as_str().into();
        for file in listener.ca_files() {
            let key = format!("listeners.{name}.cacertfile");
            let pem =
                std::fs::read(file).map_err(|error| wrong(&key, format!("{}: {error}", file.display())))?;
            let ders = certificates_from_pem(&pem)
                .map_err(|error| wrong(&key, format!("{}: {error}", file.display())))?;
            for der in ders {
                let der: Arc<[u8]> = der.into();
                let Some(known) = anchors.iter_mut().find(|bound| bound.anchor.der == der) else {
                    let anchor = Anchor { name: anchor_name(file, &anchors).into(), der };
                    let listeners = Some(vec![Arc::clone(&listener_name)]);
                    anchors.push(BoundAnchor { anchor, listeners });
                    continue;
                };
                if let Some(listeners) = &mut known.listeners
                    && !listeners.contains(&listener_name)
                {
                    listeners.push(Arc::clone(&listener_name));
                }
            }
        }
    }
    Ok(anchors)
}

/// Pairs of files that the listeners have, each counted once.
pub fn files_of_certificates(config: &Config) -> usize {
    let pairs = config.listeners.values().filter(|listener| listener.kind.has_tls());
    let pairs = pairs.flat_map(model::Listener::files).map(|files| (files.certfile, files.keyfile));
    pairs.collect::<BTreeSet<_>>().len()
}

/// The certificates that the listeners show; what cannot be read is the listener's problem.
pub fn own_chain(config: &Config) -> Vec<CertificateFacts> {
    let files: BTreeSet<_> =
        config.listeners.values().filter_map(|listener| listener.certfile.as_ref()).collect();
    let read = |file: &Path| certificates_from_pem(&std::fs::read(file).ok()?).ok();
    let ders = files.into_iter().filter_map(|file| read(file)).flatten();
    ders.filter_map(|der| CertificateFacts::parse(&der).ok()).collect()
}

/// `factory` for `factory.pem`, `factory-2` for the next one.
fn anchor_name(file: &Path, taken: &[BoundAnchor]) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let stem: String = stem.chars().map(fits).take(56).collect();
    let stem = if stem.is_empty() { String::from("ca") } else { stem };
    let is_free = |name: &str| !taken.iter().any(|bound| &*bound.anchor.name == name);
    if is_free(&stem) {
        return stem;
    }
    (2_u32..).map(|number| format!("{stem}-{number}")).find(|name| is_free(name)).unwrap_or(stem)
}

/// How many CAs clients are told of.
pub fn hint_limits(config: &Config) -> HintLimits {
    HintLimits {
        count: config.limits.ca_hints as usize,
        bytes: usize::try_from(config.limits.ca_hint_bytes.0).unwrap_or(usize::MAX),
    }
}

pub fn audit_settings(config: &Config) -> AuditSettings {
    AuditSettings {
        path: Some(config.audit_file()),
        key_file: Some(config.audit_key_file()),
        max_bytes: config.audit.rotate_size.0,
        keep: config.audit.rotate_keep as usize,
        checkpoint_records: config.audit.checkpoint_records.max(1).into(),
        checkpoint_interval: config.audit.checkpoint_interval.0,
        publish_folder: config.audit.publish_folder.clone(),
        personal: (!config.audit.personal.members.is_empty()).then(|| PersonalSettings {
            folder: config.audit_subjects(),
            members: config.audit.personal.members.clone(),
        }),
        queue: config.audit.queue as usize,
        sync_interval: config.audit.sync_interval.0,
        ..AuditSettings::default()
    }
}

/// By hand, certificates are judged as the first listener does that needs them registered.
pub fn registry_settings(config: &Config) -> RegistrySettings {
    let listener = config.listeners.values().find(|listener| auth_mode(listener) == AuthMode::PerDevice);
    let policy = listener.map(|listener| path_policy(config, listener)).unwrap_or_default();
    RegistrySettings {
        policy,
        expiry_warnings: registry::expiry_warnings(config),
        ..RegistrySettings::default()
    }
}

/// The listener's own word, or that of all.
fn listener_chain(config: &Config, listener: &model::Listener) -> ListenerChain {
    let (of_all, own) = (&config.policy.chain, &listener.chain);
    let mode = |own: Option<model::ChainMode>, of_all: model::ChainMode| match own.unwrap_or(of_all) {
        model::ChainMode::First => ChainMode::First,
        model::ChainMode::All => ChainMode::All,
    };
    let without = own.without.iter().map(|name| name.as_str().into()).collect();
    ListenerChain {
        modes: ChainModes {
            authenticator: mode(own.authenticator, of_all.authenticator),
            registrar: mode(own.registrar, of_all.registrar),
            authorizer: mode(own.authorizer, of_all.authorizer),
        },
        without: (!own.without.is_empty()).then(|| Arc::new(without)),
    }
}

pub fn gate_settings(config: &Config) -> GateSettings {
    let listeners: HashMap<Arc<str>, ListenerPolicy> = config
        .listeners
        .iter()
        .map(|(name, listener)| {
            let policy = ListenerPolicy {
                auth_mode: auth_mode(listener),
                registration: match listener.registration {
                    model::Registration::Auto => RegistrationMode::Auto,
                    model::Registration::Manual => RegistrationMode::Manual,
                },
                needs_certificate: listener.has_certificates() && listener.certificate_required(),
                send_reason_strings: listener.send_reason_string,
            };
            (Arc::from(name.as_str()), policy)
        })
        .collect();
    let acls = config.policy.acls.iter();
    let chains = config.listeners.iter();
    GateSettings {
        listeners,
        other_listeners: None,
        chains: chains
            .map(|(name, listener)| (Arc::from(name.as_str()), listener_chain(config, listener)))
            .collect(),
        named_acls: acls
            .map(|(name, acl)| (name.clone(), acl.rules.iter().map(acl_rule).collect()))
            .collect(),
        pending_retry_after: u32::try_from(config.policy.pending_retry_after.0.as_secs()).unwrap_or(u32::MAX),
        provision: registry::provision(config),
        pending_ttl: config.provisioning.pending_ttl.0,
        bind_client_id: registry::bind_client_id(config),
        on_client_id_mismatch: registry::on_client_id_mismatch(config),
        rotation: registry::rotation(config),
    }
}

pub fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    let defaults = Limits::default();
    Limits {
        connect_timeout: limits.connect_timeout.0,
        maximum_packet_size: u32::try_from(limits.max_packet_size.0).unwrap_or(u32::MAX),
        connect_packet_size: u32::try_from(limits.max_connect_size.0).unwrap_or(u32::MAX),
        client_id_length: limits.max_client_id_bytes as usize,
        topic_levels: limits.max_topic_levels as usize,
        maximum_qos: QoS::from_bits(limits.max_qos).unwrap_or(defaults.maximum_qos),
        retain_available: limits.retain_available,
        subscriptions_per_session: limits.max_subscriptions as usize,
        filters_per_subscribe: limits.max_filters_per_subscribe as usize,
        receive_maximum: limits.receive_maximum.try_into().unwrap_or(defaults.receive_maximum),
        inflight_maximum: limits.max_inflight.try_into().unwrap_or(defaults.inflight_maximum),
        topic_alias_maximum: limits.topic_alias_maximum,
        keep_alive_maximum: u16::try_from(limits.max_keep_alive.0.as_secs()).unwrap_or(u16::MAX),
        session_expiry_maximum: limits.max_session_expiry.0,
        will_delay_maximum: limits.max_will_delay.0,
        sessions: limits.max_sessions as usize,
        sessions_per_device: limits.max_sessions_per_device as usize,
        filter_bytes_per_session: usize::try_from(limits.max_filter_bytes.0).unwrap_or(usize::MAX),
        write_stall_timeout: limits.write_stall_timeout.0,
        retained_per_subscription: limits.max_retained_per_subscription as usize,
        retained_backlog: limits.max_retained_backlog as usize,
        retained_visits_per_subscribe: limits.max_retained_visits as usize,
        queued_bytes: usize::try_from(limits.max_total_queued_bytes.0).unwrap_or(usize::MAX),
        outbox: OutboxLimits {
            messages: limits.max_queued_messages as usize,
            qos0_messages: limits.max_queued_qos0_messages as usize,
            bytes: usize::try_from(limits.max_queued_bytes.0).unwrap_or(usize::MAX),
            when_full: match limits.when_full {
                model::WhenFull::DropNewest => WhenFull::DropNewest,
                model::WhenFull::DropOldest => WhenFull::DropOldest,
            },
        },
        retained: RetainedLimits {
            messages: limits.max_retained_messages as usize,
            bytes: usize::try_from(limits.max_retained_bytes.0).unwrap_or(usize::MAX),
            expiry: Some(limits.retained_expiry.0).filter(|expiry| !expiry.is_zero()),
        },
        denied_publish: match limits.denied_publish {
            model::DeniedPublish::Drop => DeniedPublish::Drop,
            model::DeniedPublish::Disconnect => DeniedPublish::Disconnect,
        },
        topic_aliases_to_client: config.mqtt.topic_aliases_to_client,
        share_strategy: match config.mqtt.share_strategy {
            model::ShareStrategy::RoundRobin => ShareStrategy::RoundRobin,
            model::ShareStrategy::Random => ShareStrategy::Random,
            model::ShareStrategy::Sticky => ShareStrategy::Sticky,
            model::ShareStrategy::HashClient => ShareStrategy::HashClient,
            model::ShareStrategy::HashTopic => ShareStrategy::HashTopic,
            model::ShareStrategy::LeastOutstanding => ShareStrategy::LeastOutstanding,
        },
        payload_format_check: config.mqtt.payload_format_check,
        response_information: config.mqtt.response_information.as_deref().map(Into::into),
        server_reference: config.mqtt.server_reference.as_deref().map(Into::into),
        topics: Arc::new(extras::topics(config)),
        ..defaults
    }
}

/// What differs from [`limits`] by listener.
pub fn listener_limits(config: &Config) -> HashMap<Arc<str>, Limits> {
    let common = limits(config);
    let own = |listener: &model::Listener| Limits {
        mqtt_3_1: listener.mqtt_3_1,
        reason_strings: listener.send_reason_string,
        ..common.clone()
    };
    config.listeners.iter().map(|(name, listener)| (name.as_str().into(), own(listener))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_one_name_are_two_cas() {
        let der: Arc<[u8]> = Arc::from([]);
        let taken = |names: &[&str]| -> Vec<BoundAnchor> {
            let anchors = names.iter().map(|name| Anchor { name: (*name).into(), der: Arc::clone(&der) });
            anchors.map(BoundAnchor::from).collect()
        };
        assert_eq!(anchor_name(Path::new("/x/factory A.pem"), &[]), "factory-A");
        assert_eq!(anchor_name(Path::new("/y/ca.pem"), &taken(&["ca", "ca-2"])), "ca-3");
    }

    #[test]
    fn the_documented_limits_are_those_of_the_data_path() {
        let built = format!("{:?}", limits(&Config::default()));
        let own = Limits { client_id_length: 256, ..Limits::default() };
        assert_eq!(built, format!("{own:?}"));
    }
}
