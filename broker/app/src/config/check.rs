//! What a configuration must not say although every key can be read: contradictions, dangerous combinations,
//! names and files that lead nowhere.

mod audit;
mod bridge;
mod crl;
mod ocsp;
mod plugins;
mod tls;
mod transport;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mqgate_identity::evaluation::{PathDepth, PathPolicy, UsageRule};
use mqgate_plugin_host::{HostSettings, MOST_AUTH_STEPS};
use mqgate_protocol::topics::RewriteError;

pub use self::tls::version;
pub use self::transport::{is_local, listen_address, network};
use super::model::{
    AdminTls, AuthMode, Config, Listener, Native, Registration, TopicRule, Transport, Verify,
};
use super::problem::Problem;
use super::source::{Source, path};

/// The bundled components, as far as names go.
pub const BUNDLED: [&str; 9] =
    ["cert-acl", "auto-register", "audit-log", "scram", "spiffe", "rate-guard", "jwt", "webhook", "cedar"];

/// The least that the plugin host takes; the most is in its settings.
const LEAST_MEMORY: u64 = 64 << 10;
const LEAST_TIME: Duration = Duration::from_millis(1);

/// A kilobyte each, more or less.
const MOST_EVENTS: u32 = 1_000_000;
/// Connections of the admin API.
const MOST_STREAMS: u32 = 256;

/// Keys that are about paths of clients' certificates.
const PATH_RULES: [&str; 10] = [
    "depth",
    "x509_v1_leaf",
    "clock_skew",
    "expiry_skew",
    "extended_key_usage",
    "extended_key_usage_absent",
    "ca_as_leaf",
    "x509_strict",
    "min_rsa_bits",
    "crl_check",
];

struct Checker<'a, 't> {
    source: &'a Source<'t>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// What was found.
pub struct Found {
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// What the broker can start with.
    pub warnings: Vec<Problem>,
}

/// Looks for everything that is wrong.
pub fn check(config: &Config, source: &Source<'_>) -> Found {
    let mut checker = Checker { source, problems: Vec::new(), warnings: Vec::new() };
    for (name, listener) in &config.listeners {
        checker.listener(name, listener);
    }
    checker.plugins(config);
    checker.plugin_host(config);
    checker.chain_modes(config);
    for (name, acl) in &config.policy.acls {
        checker.rules(&format!("policy.acls.{name}.rules"), &acl.rules);
    }
    checker.admin(config);
    audit::check(&mut checker, config);
    bridge::check(&mut checker, config);
    crl::check(&mut checker, config);
    checker.limits(config);
    checker.server_certificates(config);
    checker.topics(config);
    checker.events(config);
    Found { problems: checker.problems, warnings: checker.warnings }
}

/// Files that the configuration names and that are not there; relative ones start at `base`.
pub fn check_files(config: &Config, source: &Source<'_>, base: &Path) -> Vec<Problem> {
    let mut checker = Checker { source, problems: Vec::new(), warnings: Vec::new() };
    let mut file = |key: String, file: &Path| {
        if let Err(error) = std::fs::File::open(base.join(file)) {
            checker.add(&key, format!("{} cannot be opened: {error}", base.join(file).display()), None);
        }
    };
    for (name, listener) in &config.listeners {
        let key = |field: &str| format!("listeners.{name}.{field}");
        let files = [
            ("certfile", &listener.certfile),
            ("keyfile", &listener.keyfile),
            ("cacertfile", &listener.cacertfile),
        ];
        for (field, path) in files {
            if let Some(path) = path {
                file(key(field), path);
            }
        }
        if let Some(path) = &listener.ocsp.issuer_pem {
            file(key("ocsp.issuer_pem"), path);
        }
        for (index, certificate) in listener.certificates.iter().enumerate() {
            file(format!("listeners.{name}.certificates[{index}].certfile"), &certificate.certfile);
            file(format!("listeners.{name}.certificates[{index}].keyfile"), &certificate.keyfile);
        }
        for (index, path) in listener.cacertfiles.iter().enumerate() {
            file(format!("listeners.{name}.cacertfiles[{index}]"), path);
        }
    }
    for (field, path) in config.admin.tls.iter().flat_map(admin_files) {
        file(format!("admin.tls.{field}"), &path);
    }
    for (name, bridge) in &config.bridges {
        let tls = &bridge.tls;
        let files = [("cacertfile", &tls.cacertfile), ("certfile", &tls.certfile), ("keyfile", &tls.keyfile)];
        for (field, path) in files {
            if let Some(path) = path {
                file(format!("bridges.{name}.tls.{field}"), path);
            }
        }
    }
    for (index, path) in config.crl.files.iter().enumerate() {
        file(format!("crl.files[{index}]"), path);
    }
    for (index, path) in config.crl.directories.iter().enumerate() {
        file(format!("crl.directories[{index}]"), path);
    }
    if let Some(path) = &config.audit.publish_folder {
        file(String::from("audit.publish_folder"), path);
    }
    for (index, plugin) in config.plugins.iter().enumerate() {
        if let Some(serde_json::Value::String(users)) = plugin.config.get("file")
            && matches!(plugin.native, Some(Native::PasswordFile | Native::Scram))
        {
            file(format!("plugins[{index}].config.file"), Path::new(users));
        }
        if let Some(path) = &plugin.grant.http.ca_file {
            file(format!("plugins[{index}].grant.http.ca_file"), path);
        }
    }
    for (name, listener) in config.listeners.iter().filter(|(_, listener)| listener.kind.has_tls()) {
        tls::check_files(&mut checker, &format!("listeners.{name}"), listener, base);
        if let Some(path) = &listener.ocsp.issuer_pem {
            ocsp::check_file(&mut checker, &format!("listeners.{name}.ocsp.issuer_pem"), &base.join(path));
        }
    }
    if let Some(tls) = &config.admin.tls {
        tls::check_files(&mut checker, "admin.tls", &tls.as_listener(), base);
    }
    checker.problems
}

/// The files of the admin API's TLS, each with its key.
fn admin_files(tls: &AdminTls) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for (field, path) in
        [("certfile", &tls.certfile), ("keyfile", &tls.keyfile), ("cacertfile", &tls.cacertfile)]
    {
        files.extend(path.iter().map(|path| (field.to_owned(), path.clone())));
    }
    for (index, pair) in tls.certificates.iter().enumerate() {
        files.push((format!("certificates[{index}].certfile"), pair.certfile.clone()));
        files.push((format!("certificates[{index}].keyfile"), pair.keyfile.clone()));
    }
    let more = tls.cacertfiles.iter().enumerate();
    files.extend(more.map(|(index, path)| (format!("cacertfiles[{index}]"), path.clone())));
    files
}

/// Reads `ADDRESS:PORT`. A port alone is refused: it would say nothing about who can reach it.
pub fn bind_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.rsplit_once(':') {
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().unwrap_or_default()))
        }
        _ => Err(format!("`{text}` is not an address and a port")),
    }
}

const BIND_REMEDY: &str = "write an IP address and a port, for example \"127.0.0.1:8883\" for this machine only, \
    \"0.0.0.0:8883\" or \"[::]:8883\" for everybody";

impl Checker<'_, '_> {
    fn add(&mut self, key: &str, what: impl Into<String>, remedy: Option<&str>) {
        let place = self.source.place(&path(key));
        self.problems.push(Problem {
            place,
            key: key.to_owned(),
            what: what.into(),
            remedy: remedy.map(str::to_owned),
        });
    }

    fn warn(&mut self, key: &str, what: impl Into<String>, remedy: Option<&str>) {
        self.add(key, what, remedy);
        self.warnings.extend(self.problems.pop());
    }

    /// Complains of a key that has no effect where it stands, if somebody wrote it.
    fn without_effect(&mut self, key: &str, what: &str, remedy: &str) {
        if self.source.sets(&path(key)).is_some() {
            self.add(key, what, Some(remedy));
        }
    }

    fn bind(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        match bind_address(text) {
            Ok(address) => Some(address),
            Err(what) => {
                self.add(key, what, Some(BIND_REMEDY));
                None
            }
        }
    }

    fn listener(&mut self, name: &str, listener: &Listener) {
        let key = |field: &str| format!("listeners.{name}.{field}");
        if name.is_empty()
            || name.len() > 32
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            self.add(
                &format!("listeners.{name}"),
                "a listener's name has 1 to 32 letters, digits, `-` and `_`",
                None,
            );
        }
        self.transport(&key, listener);
        if let Err(error) = PathDepth::new(listener.depth) {
            self.add(&key("depth"), error.to_string(), Some("set a depth from 0 to 6"));
        }
        if let Err(error) = PathPolicy::rsa_bits(listener.min_rsa_bits) {
            self.add(&key("min_rsa_bits"), error.to_string(), None);
        }
        for (index, usage) in listener.extended_key_usage.iter().enumerate() {
            if let Err(error) = UsageRule::usage(usage) {
                self.add(&format!("{}[{index}]", key("extended_key_usage")), error.to_string(), None);
            }
        }
        let per_device = listener.has_certificates() && listener.mode() == AuthMode::PerDevice;
        if listener.registration == Registration::Manual && !per_device {
            self.add(
                &key("registration"),
                "without effect: only in mode `per-device` must a certificate be in the registry",
                Some("set `auth_mode = \"per-device\"` (`type = \"tls\"`), or remove this key"),
            );
        }
        if listener.kind.has_tls() {
            tls::check(self, &key, listener);
        } else {
            self.plain_listener(&key, listener);
        }
        if listener.has_certificates() {
            self.client_certificates(&key, listener);
        }
    }

    fn plain_listener(&mut self, key: &dyn Fn(&str) -> String, listener: &Listener) {
        let (kind, remedy) = match listener.kind {
            Transport::Ws | Transport::Wss => ("ws", "use `type = \"wss\"`, or remove this key"),
            Transport::Tcp | Transport::Tls | Transport::Quic => {
                ("tcp", "use `type = \"tls\"`, or remove this key")
            }
        };
        let no_certificates = format!("a listener of type `{kind}` has no certificates");
        let no_tls = format!("without effect: a listener of type `{kind}` has no TLS");
        let mut certificates =
            vec![("certfile", listener.certfile.is_some()), ("keyfile", listener.keyfile.is_some())];
        certificates.extend([
            ("password", listener.password.is_some()),
            ("certificates", !listener.certificates.is_empty()),
            ("managed_certs", !listener.managed_certs.is_empty()),
        ]);
        let mut fields = vec![
            "versions",
            "session_resumption",
            "session_cache_size",
            "ciphers",
            "groups",
            "honor_cipher_order",
            "strict_sni",
            "ocsp",
            "builtin_certificate",
            "max_handshakes",
        ];
        if !listener.kind.is_websocket() {
            fields.extend(["handshake_timeout", "max_handshakes_per_source"]);
        }
        // Those that are about clients' certificates mean something if a proxy hands these on.
        if !listener.has_certificates() {
            let asks = listener.auth_mode.is_some_and(|mode| mode != AuthMode::OneWay);
            certificates.extend([
                ("auth_mode", asks),
                ("cacertfile", listener.cacertfile.is_some()),
                ("cacertfiles", !listener.cacertfiles.is_empty()),
            ]);
            fields.extend(["verify", "fail_if_no_peer_cert"]);
            fields.extend(PATH_RULES);
        }
        for (field, set) in certificates {
            if set {
                self.add(&key(field), no_certificates.clone(), Some(remedy));
            }
        }
        for field in fields {
            self.without_effect(&key(field), &no_tls, remedy);
        }
    }

    fn client_certificates(&mut self, key: &dyn Fn(&str) -> String, listener: &Listener) {
        match (listener.auth_mode, listener.verify) {
            (Some(AuthMode::Mutual | AuthMode::PerDevice), Some(Verify::VerifyNone)) => self.add(
                &key("verify"),
                "`verify_none` contradicts `auth_mode`, which asks for a certificate",
                Some("remove `verify`: `auth_mode` says it all"),
            ),
            (Some(AuthMode::OneWay), Some(Verify::VerifyPeer)) => self.add(
                &key("verify"),
                "`verify_peer` contradicts `auth_mode = \"one-way\"`",
                Some("remove `verify`: `auth_mode` says it all"),
            ),
            _ => {}
        }
        let mode = listener.mode();
        match (mode, listener.fail_if_no_peer_cert) {
            (AuthMode::OneWay, Some(true)) => self.add(
                &key("fail_if_no_peer_cert"),
                "`fail_if_no_peer_cert = true` needs `verify = \"verify_peer\"`: no certificate is asked for here, so none can be missing",
                Some("for one-way TLS set it to false or remove it; to require certificates use `verify = \"verify_peer\"` (`auth_mode = \"mutual\"`)"),
            ),
            (AuthMode::PerDevice, Some(false)) => self.add(
                &key("fail_if_no_peer_cert"),
                "in mode `per-device` a certificate is always required",
                Some("use `auth_mode = \"mutual\"`, or remove this key"),
            ),
            _ => {}
        }
        if mode != AuthMode::OneWay && listener.ca_files().next().is_none() {
            self.warn(
                &key("cacertfile"),
                "this listener asks for certificates and names no CA: only those of CAs that are added with `mqgate ca \
                 add` let anybody in",
                Some("name the PEM file of the devices' CA, or add it to the running broker"),
            );
        }
        if mode == AuthMode::OneWay {
            const REMEDY: &str =
                "use `auth_mode = \"mutual\"` (`verify = \"verify_peer\"`), or remove this key";
            // `depth` is warned of elsewhere: EMQX's examples have it where no certificate is asked for.
            for field in PATH_RULES.into_iter().filter(|field| *field != "depth") {
                self.without_effect(
                    &key(field),
                    "without effect: no client certificate is asked for in mode `one-way`",
                    REMEDY,
                );
            }
            // As they stand in configurations of other brokers.
            for field in ["depth", "cacertfile", "cacertfiles"] {
                if self.source.sets(&path(&key(field))).is_some() {
                    let what = "without effect: no client certificate is asked for in mode `one-way`";
                    self.warn(&key(field), what, Some(REMEDY));
                }
            }
        }
    }

    fn admin(&mut self, config: &Config) {
        if config.admin.enable
            && let Some(address) = self.bind("admin.bind", &config.admin.bind)
            && !address.ip().is_loopback()
            && config.admin.tls.is_none()
            && !config.admin.allow_remote
        {
            self.add(
                "admin.bind",
                "the admin API speaks plain HTTP, and this address can be reached by others",
                Some(
                    "add [admin.tls], bind a loopback address, or put a TLS proxy in front and set \
                     `admin.allow_remote = true`",
                ),
            );
        }
        if let Some(tls) = &config.admin.tls {
            tls::check(self, &|field| format!("admin.tls.{field}"), &tls.as_listener());
        }
        let asks = config
            .admin
            .tls
            .as_ref()
            .is_some_and(|tls| tls.cacertfile.is_some() || !tls.cacertfiles.is_empty());
        for (index, operator) in config.admin.operators.iter().enumerate() {
            if let Err((field, what)) = operator.checked() {
                self.add(&format!("admin.operators.{index}.{field}"), what, None);
            } else if !asks {
                self.add(
                    &format!("admin.operators.{index}"),
                    "without effect: no operator is asked for a certificate",
                    Some("set `admin.tls.cacertfile`, or remove the operator and make a token"),
                );
            }
        }
        if config.metrics.tls && (config.admin.tls.is_none() || config.metrics.bind.is_none()) {
            self.add(
                "metrics.tls",
                "without effect: it is for `metrics.bind`, and by the keys of [admin.tls]",
                Some("add [admin.tls] and `metrics.bind`, or remove this key"),
            );
        }
        let metrics = &config.metrics;
        if let Some(bind) = &metrics.bind {
            self.bind("metrics.bind", bind);
        }
        if !metrics.enable {
            self.without_effect(
                "metrics.bind",
                "without effect: `metrics.enable` is false",
                "set `metrics.enable = true`, or remove this key",
            );
        } else if !config.admin.enable && metrics.bind.is_none() {
            self.without_effect(
                "metrics.enable",
                "there is no place to serve them: `admin.enable` is false",
                "give metrics an address of their own with `metrics.bind`, or set `metrics.enable = false`",
            );
        }
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        if limits.max_qos > 2 {
            self.add("limits.max_qos", "there are the QoS levels 0, 1 and 2", None);
        }
        for (key, zero) in [
            ("limits.receive_maximum", limits.receive_maximum == 0),
            ("limits.max_inflight", limits.max_inflight == 0),
            ("limits.max_packet_size", limits.max_packet_size.0 == 0),
            ("limits.max_connect_size", limits.max_connect_size.0 == 0),
            ("limits.max_total_queued_bytes", limits.max_total_queued_bytes.0 == 0),
            ("limits.connect_timeout", limits.connect_timeout.0.is_zero()),
        ] {
            if zero {
                self.add(key, "nothing would go through: at least 1 is needed", None);
            }
        }
        if limits.max_packet_size.0 > 268_435_460 {
            self.add("limits.max_packet_size", "MQTT packets have at most 256 MiB", None);
        }
        let host = HostSettings::default();
        let most_memory = host.memory_ceiling as u64;
        for (index, plugin) in config.plugins.iter().enumerate() {
            let wanted = &plugin.limits;
            for (key, bad, what) in [
                (
                    "memory",
                    !(LEAST_MEMORY..=most_memory).contains(&wanted.memory.0),
                    "64 KiB to 64 MiB are possible",
                ),
                ("wall", wanted.wall.is_some_and(|wall| wall.0 < LEAST_TIME), "at least 1ms is needed"),
                ("cpu", wanted.cpu.0 < LEAST_TIME, "at least 1ms is needed"),
                ("init", wanted.init.0 < LEAST_TIME, "at least 1ms is needed"),
                (
                    "auth_steps",
                    !(1..=MOST_AUTH_STEPS).contains(&wanted.auth_steps),
                    "1 to 16 steps are possible",
                ),
            ] {
                if bad {
                    self.add(&format!("plugins[{index}].limits.{key}"), what, None);
                }
            }
            if !(1..=host.instances).contains(&wanted.concurrency) {
                let what = format!("1 to {} calls at once are possible", host.instances);
                self.add(&format!("plugins[{index}].limits.concurrency"), what, None);
            }
        }
    }

    fn events(&mut self, config: &Config) {
        let events = &config.events;
        let is_plain = |c: char| {
            c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
        };
        if events.source.is_empty() || !events.source.chars().all(is_plain) {
            let remedy = "write \"/mqgate/plant-7\", or a whole URI";
            self.add("events.source", "CloudEvents need a URI reference here", Some(remedy));
        }
        if !(1..=MOST_EVENTS).contains(&events.buffer) {
            self.add("events.buffer", format!("1 to {MOST_EVENTS} events can be kept in memory"), None);
        }
        if events.max_streams > MOST_STREAMS {
            let what = format!("the admin API has {MOST_STREAMS} connections for everything");
            self.add("events.max_streams", what, Some("leave some to other requests"));
        }
    }

    fn topics(&mut self, config: &Config) {
        for (index, rule) in config.topics.rewrite.iter().enumerate() {
            if let Err(error) = crate::run::extras::rewrite(rule) {
                let field = if matches!(error, RewriteError::From(..) | RewriteError::Prefix) {
                    "from"
                } else {
                    "to"
                };
                self.add(&format!("topics.rewrite[{index}].{field}"), error.to_string(), None);
            }
        }
        for (index, one) in config.topics.subscribe.iter().enumerate() {
            let key = |field: &str| format!("topics.subscribe[{index}].{field}");
            let plain = one.filter.replace("${client-id}", "x").replace("${device-id}", "x");
            if let Some(at) = plain.find("${") {
                let end = plain[at..].find('}').map_or(plain.len(), |end| at + end + 1);
                let what = format!(
                    "there is no variable `{}`; there are ${{client-id}} and ${{device-id}}",
                    &plain[at..end]
                );
                self.add(&key("filter"), what, None);
            } else if let Err(error) = mqgate_codec::TopicFilter::parse(plain.into()) {
                self.add(&key("filter"), format!("`{}` is not a Topic Filter: it {error}", one.filter), None);
            }
            if one.qos > 2 {
                self.add(&key("qos"), "there are the QoS levels 0, 1 and 2", None);
            }
            if one.no_local && one.filter.starts_with("$share/") {
                self.add(
                    &key("no_local"),
                    "a shared subscription cannot leave out its own messages",
                    Some("remove this key"),
                );
            }
        }
        if config.flapping.enable && config.flapping.max_disconnects == 0 {
            self.add("flapping.max_disconnects", "every client would be banned: at least 1 is needed", None);
        }
        if config.bans.max_entries == 0 {
            self.add("bans.max_entries", "nobody could be banned: at least 1 is needed", None);
        }
    }

    fn rules(&mut self, key: &str, rules: &[TopicRule]) {
        for (index, rule) in rules.iter().enumerate() {
            if let Some(problem) = topic_problem(&rule.topic) {
                self.add(&format!("{key}[{index}].topic"), problem, None);
            }
            if rule.qos.is_empty() || rule.qos.iter().any(|qos| *qos > 2) {
                self.add(
                    &format!("{key}[{index}].qos"),
                    "a list of the levels 0, 1 and 2 is expected",
                    Some("leave it out for all levels"),
                );
            }
        }
    }
}

/// What is wrong with a Topic Filter that may hold variables.
pub fn topic_problem(filter: &str) -> Option<String> {
    const VARIABLES: [&str; 3] = ["${client-id}", "${device-id}", "${tenant}"];
    let mut plain = filter.to_owned();
    for variable in VARIABLES {
        plain = plain.replace(variable, "x");
    }
    if let Some(at) = plain.find("${") {
        let end = plain[at..].find('}').map_or(plain.len(), |end| at + end + 1);
        let known = VARIABLES.join(", ");
        return Some(format!("there is no variable `{}`; there are {known}", &plain[at..end]));
    }
    mqgate_codec::TopicFilter::parse(plain.into())
        .err()
        .map(|error| format!("`{filter}` is not a Topic Filter: {error}"))
}
