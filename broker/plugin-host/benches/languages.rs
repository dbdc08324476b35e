//! What one decision costs in each language: `plugins/cert-core` in the host, asked who the client of one and the same
//! certificate is.
//!
//! `cargo xtask languages` builds the components, runs this and writes the table of docs/plugins/languages.md. By hand:
//! `cargo bench --workspace --bench languages -- rust=FILE python=FILE`. Prints a line of JSON for each component.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it measures, and says what it found")]

#[allow(dead_code, reason = "what tests need beyond this")]
#[path = "../tests/host/fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "what tests need beyond this")]
#[path = "../tests/host/storage.rs"]
mod storage;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::certificate::{CertificateFacts, ClientCertificate, MatchedAnchor};
use mqgate_identity::hooks::{Authentication, Connection};
use mqgate_plugin_host::{HostSettings, Isolation, PluginSettings, Position, Source};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use crate::fixture::Fixture;

/// Calls of each kind. The dearest takes about a millisecond.
const CALLS: usize = 2_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    // cargo adds words of its own, which name no file.
    for (language, path) in std::env::args().skip(1).filter_map(|word| {
        word.split_once('=').map(|(language, path)| (language.to_owned(), path.to_owned()))
    }) {
        let line = runtime.block_on(measured(&language, Path::new(&path)));
        println!("{line}");
    }
}

async fn measured(language: &str, path: &Path) -> serde_json::Value {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = || HostSettings {
        worker_threads: 1,
        cache_dir: Some(folder.path().join("compiled")),
        ..HostSettings::default()
    };
    let begun = Instant::now();
    let fixture = Fixture::with(settings(), Vec::new());
    let info = fixture.host.load(plugin(path, Isolation::PerCall), Position::Last, "bench").await;
    let info = info.unwrap_or_else(|error| panic!("{language}: {error}"));
    let compiled = begun.elapsed();
    let fresh = asked(&fixture).await;
    let peak = fixture.metric("mqgate_plugin_memory_peak_bytes{plugin=\"p\"}").expect("the series");

    let fixture = Fixture::with(settings(), Vec::new());
    let begun = Instant::now();
    fixture.host.load(plugin(path, Isolation::Pooled), Position::Last, "bench").await.expect("it loads");
    let loaded = begun.elapsed();
    let reused = asked(&fixture).await;
    serde_json::json!({
        "language": language,
        "bytes": info.size,
        "compiled_ms": compiled.as_secs_f64() * 1e3,
        "loaded_ms": loaded.as_secs_f64() * 1e3,
        "fresh_us": fresh,
        "reused_us": reused,
        "memory_bytes": peak,
    })
}

/// The median of what a call takes whoever waits for it, in microseconds.
async fn asked(fixture: &Fixture) -> f64 {
    let set = fixture.host.hooks().load_full();
    let authenticator = set.members[0].authenticator.clone().expect("it has the hook");
    let on = device();
    let mut took = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        let answer = authenticator.authenticate(&on).await.expect("an answer");
        took.push(begun.elapsed());
        assert!(matches!(answer, Authentication::Accept { .. }), "{answer:?}");
    }
    took.sort_unstable();
    took[CALLS / 2].as_secs_f64() * 1e6
}

/// With settings as an operator has them, who waits for nothing on a machine that does much else.
fn plugin(path: &Path, isolation: Isolation) -> PluginSettings {
    let mut plugin = PluginSettings::new("p", Source::File(path.to_owned()));
    plugin.limits.wall = Duration::from_secs(20);
    plugin.limits.cpu = Duration::from_secs(10);
    plugin.limits.queue_wait = Duration::from_secs(20);
    plugin.isolation = isolation;
    plugin
}

/// A certificate as devices have them: four attributes, six alternative names.
fn device() -> Arc<Connection> {
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
        SanType::URI(name("urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66")),
        SanType::URI(name("urn:device:meter-00017")),
        SanType::DnsName(name("meter-00017.devices.example.com")),
        SanType::DnsName(name("meter-00017.plant-7.example.com")),
        SanType::Rfc822Name(name("meter-00017@devices.example.com")),
        SanType::IpAddress([192, 0, 2, 17].into()),
    ];
    let leaf = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
    let leaf = CertificateFacts::parse(leaf.der()).expect("a certificate");
    let mut on = (*fixture::connection("devices")).clone();
    on.connect.client_id = String::from("meter-00017");
    on.certificate = Some(Arc::new(ClientCertificate {
        intermediates: Vec::new(),
        anchor: MatchedAnchor { name: "fleet".into(), certificate_fingerprint: leaf.certificate_fingerprint },
        issuer_key: leaf.public_key.spki_sha256,
        not_after: leaf.not_after,
        judged_by: 1,
        leaf,
    }));
    Arc::new(on)
}
