//! What a decision of a component written in Rust costs whoever waits for it, with the certificate of a device as there are
//! many (1.2 kB, six names, under an intermediate): with an instance for each call, with one that is used again, and where
//! the answer is known. What an event costs that is handed to an auditor. And what it costs to load it, and twenty of its
//! kind, when it is compiled already.
//!
//! `cargo bench --workspace --bench decision`; it needs `cargo xtask components`. Prints a line of JSON for each figure: the
//! median, and the least, to which other programs add nothing; and where many wait at once, so that no thread has to be woken, the
//! mean, and what of it the plugin's thread computed. With `-- --calls=N --mode=fresh|reused|cached` it does nothing but N
//! decisions, for those who count instructions; with `--at-once` too, N in all for many who wait at once, for those who take
//! samples; `--loads=N` does nothing but N loads, and `--events=N` nothing but to hand over N events in batches of a thousand.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it measures, and says what it found")]

#[allow(dead_code, reason = "what tests need beyond this")]
#[path = "../tests/host/fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "what tests need beyond this")]
#[path = "../tests/host/storage.rs"]
mod storage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::audit::{AuditEvent, Outcome};
use mqgate_identity::certificate::{
    CertificateFacts, CertificateFingerprint, ClientCertificate, MatchedAnchor,
};
use mqgate_identity::hooks::{Authentication, Authorization, ChainMember, Connection};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_plugin_host::{
    Configured, HostSettings, Isolation, PluginSettings, Position, Source, StartOutcome,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::fixture::Fixture;

const CALLS: usize = 20_000;
/// Who ask at once where many do.
const CALLERS: usize = 16;
const EVENTS: usize = 100_000;
const LOADS: usize = 50;
const PLUGINS: usize = 20;

/// What a call shares with those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Fresh,
    Reused,
    Cached,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Fresh, Self::Reused, Self::Cached];

    fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Reused => "reused",
            Self::Cached => "cached",
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let part = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let number = |name: &str| part(name).map(|text| text.parse::<usize>().expect("a number"));
    let (calls, only_loads, only_events) = (number("--calls="), number("--loads="), number("--events="));
    let mode = part("--mode=").map(|name| {
        let known = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        known.expect("--mode is fresh, reused or cached")
    });
    let at_once = arguments.iter().any(|argument| argument == "--at-once");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        if let Some(times) = only_loads {
            loads(times).await;
            return;
        }
        if let Some(count) = only_events {
            audit(count, &[1000]).await;
            return;
        }
        if let (Some(calls), Some(mode), true) = (calls, mode, at_once) {
            busy(mode, calls).await;
            return;
        }
        if let (Some(calls), Some(mode)) = (calls, mode) {
            // The answer that is kept, the pool and whatever else is made once.
            // So little address space that valgrind has it too; not so for an instance that waits, which leaves others a place.
            let asked = Asked::new(mode, if mode == Mode::Reused { 2 } else { 1 }).await;
            asked.decide().await;
            for _ in 0..calls {
                asked.decide().await;
            }
            return;
        }
        for mode in Mode::ALL {
            decisions(mode).await;
            busy(mode, CALLS).await;
        }
        audit(EVENTS, &[1, 100, 1000]).await;
        loads(LOADS).await;
        starts().await;
    });
}

fn point(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let micros = |at: usize| took[at].as_secs_f64() * 1e6;
    println!(
        "{{\"what\":\"{what}\",\"unit\":\"µs\",\"median\":{:.2},\"least\":{:.2}}}",
        micros(took.len() / 2),
        micros(0)
    );
}

/// A plugin that is asked about one client.
struct Asked {
    _fixture: Fixture,
    member: Arc<ChainMember>,
    on: Arc<Connection>,
}

impl Asked {
    async fn new(mode: Mode, instances: u32) -> Self {
        let settings = HostSettings { worker_threads: 1, instances, ..HostSettings::default() };
        let fixture = Fixture::with(settings, Vec::new());
        let mut plugin = cert_acl("cert-acl");
        plugin.limits.concurrency = plugin.limits.concurrency.min(instances as usize);
        plugin.isolation = if mode == Mode::Reused { Isolation::Pooled } else { Isolation::PerCall };
        if mode != Mode::Cached {
            plugin.limits.longest_cached = Duration::ZERO;
        }
        fixture.host.load(plugin, Position::Last, "bench").await.expect("it loads");
        let member = Arc::clone(&fixture.host.hooks().load().members[0]);
        Self { _fixture: fixture, member, on: device() }
    }

    /// Who it is, and what it may do: the time of each.
    async fn decide(&self) -> (Duration, Duration) {
        let authenticator = self.member.authenticator.as_ref().expect("it has the hook");
        let begun = Instant::now();
        let answer = authenticator.authenticate(&self.on).await.expect("an answer");
        let named = begun.elapsed();
        let Authentication::Accept { identity, .. } = answer else { panic!("not accepted: {answer:?}") };
        let authorizer = self.member.authorizer.as_ref().expect("it has the hook");
        let begun = Instant::now();
        let answer = authorizer.authorize(&self.on, &identity).await.expect("an answer");
        let granted = begun.elapsed();
        assert!(matches!(answer, Authorization::Allow(_)), "not allowed: {answer:?}");
        (named, granted)
    }
}

async fn decisions(mode: Mode) {
    let asked = Asked::new(mode, 2).await;
    let (mut named, mut granted) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    for _ in 0..CALLS {
        let (one, other) = asked.decide().await;
        named.push(one);
        granted.push(other);
    }
    point(&format!("authenticate-{}", mode.name()), named);
    point(&format!("authorize-{}", mode.name()), granted);
}

/// What each costs where no thread is ever out of work, that of the plugin and that of those who wait: the way there and back
/// included, and no waking up.
async fn busy(mode: Mode, calls: usize) {
    let asked = Arc::new(Asked::new(mode, 2 * CALLERS as u32).await);
    asked.decide().await;
    let other_work = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let (begun, computed) = (Instant::now(), computed_by_plugins());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                for _ in 0..calls / CALLERS {
                    asked.decide().await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("it decides");
    }
    other_work.abort();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / (2 * calls) as f64;
    println!(
        "{{\"what\":\"{CALLERS}-at-once-{}\",\"unit\":\"µs\",\"mean\":{:.2},\"thread\":{:.2}}}",
        mode.name(),
        each(begun.elapsed()),
        each(computed_by_plugins().saturating_sub(computed))
    );
}

/// Computing time of the thread that runs plugins, and of those that did something for it and wait now.
fn computed_by_plugins() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux").filter_map(Result::ok);
    let plugins = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("plugin-worker"))
    });
    let times = plugins.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    });
    times.map(Duration::from_nanos).sum()
}

/// What an event costs that is handed to an auditor in batches, which does not want it.
async fn audit(count: usize, batches: &[usize]) {
    let settings = HostSettings { worker_threads: 1, instances: 1, ..HostSettings::default() };
    let fixture = Fixture::with(settings, Vec::new());
    let mut plugin = PluginSettings::new("audit-log", Source::File(component("audit-log")));
    plugin.config = serde_json::json!({ "include": ["device.*"] });
    plugin.limits.concurrency = 1;
    (plugin.limits.wall, plugin.limits.cpu) = (Duration::from_secs(20), Duration::from_secs(10));
    fixture.host.load(plugin, Position::Last, "bench").await.expect("it loads");
    let auditor = fixture.host.hooks().load().members[0].auditor.clone().expect("it has the hook");
    let events: Vec<_> = (1..=count as u64).map(|sequence| Arc::new(accepted(sequence))).collect();
    for &batch in batches {
        let begun = Instant::now();
        for part in events.chunks(batch) {
            auditor.record_events(part).await.expect("it is taken");
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
        println!("{{\"what\":\"audit-event-in-batches-of-{batch}\",\"unit\":\"µs\",\"mean\":{each:.2}}}");
    }
}

/// What is recorded of a connection.
fn accepted(sequence: u64) -> AuditEvent {
    AuditEvent {
        sequence,
        at: UnixMillis(1_790_000_000_000),
        connection_id: Some(sequence),
        device_id: Some(String::from("meter-00017")),
        client_id: Some(String::from("meter-00017")),
        peer_address: Some(String::from("192.0.2.17:49152")),
        listener: Some("devices".into()),
        certificate_fingerprint: Some(CertificateFingerprint([7; 32])),
        subject: Some(String::from("CN=meter-00017,OU=meters,O=acme,C=DE")),
        ..AuditEvent::new("connection.accepted", Outcome::Success, Reason::Ok)
    }
}

/// From the cache of compiled components: bytes to machine code that was looked at, and the whole load with its trial.
async fn loads(times: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::with(cached(folder.path()), Vec::new());
    fixture.host.load(cert_acl("warm"), Position::Last, "bench").await.expect("it loads");
    let bytes: Arc<[u8]> = std::fs::read(component("cert-acl")).expect("the component").into();
    let (mut inspected, mut loaded) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let begun = Instant::now();
        fixture.host.inspect(Source::Bytes(Arc::clone(&bytes))).await.expect("it is a plugin");
        inspected.push(begun.elapsed());
        let begun = Instant::now();
        fixture.host.load(cert_acl("p"), Position::Last, "bench").await.expect("it loads");
        loaded.push(begun.elapsed());
        fixture.host.unload("p", true).await.expect("it is there");
    }
    point("load-from-cache", inspected);
    point("load-from-cache-with-trial", loaded);
}

/// A host, and the plugins of its configuration, of which each is compiled already.
async fn starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = || HostSettings {
        cache_dir: Some(folder.path().join("compiled")),
        store_dir: Some(folder.path().join("plugins")),
        ..HostSettings::default()
    };
    let mut took = Vec::new();
    for round in 0..=LOADS / 5 {
        let configured = (0..PLUGINS)
            .map(|number| Configured { settings: cert_acl(&format!("p{number}")), missing: None })
            .collect();
        let begun = Instant::now();
        let fixture = Fixture::with(settings(), Vec::new());
        let started = fixture.host.start(configured).await;
        let elapsed = begun.elapsed();
        let live = started.iter().filter(|one| matches!(one.outcome, StartOutcome::Live { .. })).count();
        assert_eq!(live, PLUGINS, "{started:?}");
        // The first compiles.
        if round > 0 {
            took.push(elapsed);
        }
    }
    point("start-with-20-plugins", took);
}

fn cached(folder: &Path) -> HostSettings {
    HostSettings { cache_dir: Some(folder.join("compiled")), ..HostSettings::default() }
}

fn component(name: &str) -> PathBuf {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/components"));
    let path = folder.join(name).with_extension("wasm");
    assert!(path.exists(), "{} is missing: `cargo xtask components` builds it", path.display());
    path
}

/// With settings as an operator has them, who waits for nothing on a machine that does much else.
fn cert_acl(name: &str) -> PluginSettings {
    let mut plugin = PluginSettings::new(name, Source::File(component("cert-acl")));
    plugin.limits.wall = Duration::from_secs(20);
    plugin.limits.cpu = Duration::from_secs(10);
    plugin.limits.queue_wait = Duration::from_secs(20);
    plugin.config = serde_json::json!({
        "device-id": ["cn"],
        "tenant": "o",
        "rules": [
            { "name": "blocked", "match": { "serial": ["0a41", "0a42"] }, "refuse": true },
            {
                "name": "meters",
                "match": { "ou": "meters", "issuer-cn": ["Fleet CA 1", "Fleet CA 2"] },
                "allow-publish": ["meters/${o}/${device-id}/#"],
                "allow-subscribe": ["commands/${device-id}/+"]
            }
        ]
    });
    plugin
}

/// A connection with the certificate of a device: under an intermediate under a root, with six names.
fn device() -> Arc<Connection> {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let key = || KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(ca("Fleet Root"), key()).expect("a root");
    let middle = CertifiedIssuer::signed_by(ca("Fleet CA 1"), key(), &root).expect("an intermediate");
    let mut params = CertificateParams::default();
    for (kind, value) in [
        (DnType::CommonName, "meter-00017"),
        (DnType::OrganizationalUnitName, "meters"),
        (DnType::OrganizationName, "acme"),
        (DnType::CountryName, "DE"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let name = |text: &str| text.try_into().expect("ASCII");
    params.subject_alt_names = vec![
        SanType::URI(name("urn:example:device:meter-00017")),
        SanType::URI(name("urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66")),
        SanType::DnsName(name("meter-00017.devices.example.com")),
        SanType::DnsName(name("meter-00017.plant-7.example.com")),
        SanType::Rfc822Name(name("meter-00017@devices.example.com")),
        SanType::IpAddress([192, 0, 2, 17].into()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    // Policies, locations of lists and the like, which nobody looks into.
    let padding = [&[0x04, 0x82, 0x01, 0xF4][..], &[0x5A; 500]].concat();
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], padding)];
    let leaf = params.signed_by(&key(), &middle).expect("a certificate");
    assert!((1_000..1_500).contains(&leaf.der().len()), "{} bytes", leaf.der().len());
    let facts = |der: &[u8]| CertificateFacts::parse(der).expect("a certificate");
    let (leaf, root) = (facts(leaf.der()), facts(root.der()));
    let mut on = (*fixture::connection("devices")).clone();
    on.certificate = Some(Arc::new(ClientCertificate {
        intermediates: vec![middle.der().to_vec().into()],
        anchor: MatchedAnchor { name: "fleet".into(), certificate_fingerprint: root.certificate_fingerprint },
        issuer_key: facts(middle.der()).public_key.spki_sha256,
        not_after: leaf.not_after,
        judged_by: 1,
        leaf,
    }));
    Arc::new(on)
}
