//! Ten thousand calls are recorded, the policy is changed in a known way, and `mqgate plugin replay` lists that and
//! nothing else. Skipped, with a word, where the bundled components were not built.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::certificate::{
    CertificateFacts, CertificateFingerprint, ClientCertificate, MatchedAnchor,
};
use mqgate_identity::hooks::{
    Authentication, ConnectFacts, Connection, Identity, Occasion, Peer, Secret, TlsSession,
};
use mqgate_identity::registry::Storage;
use mqgate_identity::time::UnixMillis;
use mqgate_plugin_host::{HostSettings, PluginHost, PluginSettings, Position, RecordingTerms, Source};
use mqgate_storage::{FjallStorage, StorageOptions};
use serde_json::{Value, json};

const CLIENTS: usize = 5_000;

fn component() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/components/cert-acl.wasm"));
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: cert-acl was not built; `cargo xtask components` builds it");
    None
}

/// One client in ten is a gateway, one in a hundred a visitor, whom no rule knows.
fn unit(number: usize) -> &'static str {
    match number {
        _ if number.is_multiple_of(100) => "visitors",
        _ if number.is_multiple_of(10) => "gateways",
        _ => "meters",
    }
}

fn name(number: usize) -> String {
    format!("device-{number:04}")
}

fn policy(blocked: &[usize], more: Value) -> Value {
    let names: Vec<String> = blocked.iter().map(|number| name(*number)).collect();
    let mut rules = vec![json!({ "name": "blocked", "match": { "cn": names }, "refuse": true })];
    rules.extend(more.as_array().unwrap().clone());
    rules.push(json!({ "name": "meters", "match": { "ou": "meters" },
        "allow-publish": ["meters/${device-id}/#"], "allow-subscribe": ["commands/${device-id}/+"] }));
    rules.push(json!({ "name": "gateways", "match": { "ou": "gateways" }, "allow-subscribe": ["meters/#"] }));
    json!({ "rules": rules })
}

fn connections() -> Vec<Arc<Connection>> {
    let key = rcgen::KeyPair::generate().unwrap();
    let client = |number: usize| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name(number));
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, unit(number));
        let der = params.self_signed(&key).unwrap();
        let leaf = CertificateFacts::parse(der.der()).unwrap();
        let certificate = ClientCertificate {
            not_after: leaf.not_after,
            leaf,
            intermediates: Vec::new(),
            anchor: MatchedAnchor {
                name: "fleet".into(),
                certificate_fingerprint: CertificateFingerprint([7; 32]),
            },
            issuer_key: [0; 32],
            judged_by: 0,
        };
        Arc::new(Connection {
            id: number as u64,
            trace_id: format!("{number:032x}"),
            listener: "mqtts".into(),
            accepted_at: UnixMillis(1_767_225_600_000 + number as u64),
            peer: Peer { address: [10, 0, 0, 1].into(), port: 1, via_proxy: None },
            tls: Some(TlsSession {
                version: 0x0304,
                cipher_suite: 0x1301,
                server_name: Some(String::from("broker.example")),
                alpn: None,
                resumed: false,
            }),
            certificate: Some(Arc::new(certificate)),
            connect: ConnectFacts {
                protocol_level: 5,
                client_id: name(number),
                clean_start: true,
                keep_alive: 60,
                user_name: Some(name(number)),
                password: Some(Secret(b"hunter2".to_vec())),
                will: None,
                session_expiry: None,
                receive_maximum: None,
                maximum_packet_size: None,
                authentication_method: None,
                user_properties: vec![(String::from("firmware"), String::from("1.2"))],
            },
            attributes: Vec::new(),
            occasion: Occasion::Admission,
        })
    };
    (0..CLIENTS).map(client).collect()
}

/// Has every client judged, and writes down what was recorded of it.
async fn record(component: &Path, config: Value, folder: &Path) -> PathBuf {
    let storage: Arc<dyn Storage> =
        Arc::new(FjallStorage::open(&folder.join("registry"), StorageOptions::default()).unwrap());
    let settings = HostSettings { instances: 32, ..HostSettings::default() };
    let host = PluginHost::new(settings, Vec::new(), storage, &prometheus::Registry::new()).unwrap();
    let mut plugin = PluginSettings::new("policy", Source::File(component.to_owned()));
    plugin.config = config;
    // A loaded machine is no failure.
    plugin.limits.wall = Duration::from_secs(20);
    plugin.limits.init = Duration::from_secs(20);
    plugin.limits.queue_wait = Duration::from_secs(20);
    host.load(plugin, Position::Last, "test").await.unwrap();
    let terms =
        RecordingTerms { count: 1_000_000, time: Duration::from_secs(3_600), every: 1, listener: None };
    host.record("policy", terms).unwrap();

    let hooks = host.hooks().load_full();
    let member = &hooks.members[0];
    let (authenticator, authorizer) =
        (member.authenticator.clone().unwrap(), member.authorizer.clone().unwrap());
    let (mut text, mut after) = (String::new(), 0);
    for (number, on) in connections().iter().enumerate() {
        let who = match authenticator.authenticate(on).await.unwrap() {
            Authentication::Accept { identity, .. } => identity,
            // It is asked what it would grant whoever it is.
            Authentication::Deny(_) | Authentication::Abstain => {
                Identity { device_id: name(number), tenant: None, tags: Vec::new(), attributes: Vec::new() }
            }
        };
        authorizer.authorize(on, &who).await.unwrap();
        if number % 200 == 199 {
            let page = host.recorded("policy", after).unwrap();
            after = page.next;
            page.lines.iter().for_each(|line| writeln!(text, "{line}").unwrap());
        }
    }
    let report = host.end_recording("policy").unwrap();
    assert_eq!((report.taken, report.dropped), (2 * CLIENTS as u64, 0));
    assert!(!text.contains("hunter2"), "a password was recorded");
    assert_eq!(text.lines().count(), 1 + 2 * CLIENTS, "what they have in common, and each call");
    let file = folder.join("captures.ndjson");
    std::fs::write(&file, text).unwrap();
    file
}

fn replay(captures: &Path, component: &Path, config: &Value, folder: &Path) -> (Output, Value) {
    let settings = folder.join("config.json");
    std::fs::write(&settings, config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mqgate"))
        .args(["plugin", "replay"])
        .arg(captures)
        .arg("--against")
        .arg(component)
        .arg("--config-file")
        .arg(&settings)
        .arg("--json")
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .output()
        .unwrap();
    let told = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output, told)
}

#[tokio::test]
async fn a_replay_lists_what_was_planted_and_nothing_else() {
    let Some(component) = component() else { return };
    let folder = tempfile::tempdir().unwrap();
    let captures = record(&component, policy(&[7, 8], json!([])), folder.path()).await;
    let after = policy(
        &[8, 42, 1_234],
        json!([
            { "name": "meters", "match": { "cn": [name(101), name(2_003)] },
              "allow-publish": ["pilot/${device-id}/#"], "allow-subscribe": ["commands/${device-id}/+"] },
            { "name": "guest", "match": { "cn": [name(500)] }, "allow-publish": ["guests/${device-id}"] },
        ]),
    );
    let (output, told) = replay(&captures, &component, &after, folder.path());
    assert_eq!(output.status.code(), Some(1), "{told}");
    let found: BTreeSet<(String, String, String)> = told["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = |field: &str| one[field].as_str().unwrap().to_owned();
            (text("kind"), text("client_id"), text("hook"))
        })
        .collect();
    let planted = [
        ("newly_admitted", 7),
        ("newly_admitted", 500),
        ("newly_refused", 42),
        ("newly_refused", 1_234),
        ("topics", 101),
        ("topics", 2_003),
    ];
    let planted: BTreeSet<_> = planted
        .into_iter()
        .map(|(kind, number)| (kind.to_owned(), name(number), String::from("authorizer")))
        .collect();
    assert_eq!(found, planted);
    assert_eq!(told["differences"].as_array().unwrap().len(), planted.len());
    assert_eq!((&told["asked"], &told["same"]), (&json!(10_000), &json!(10_000 - planted.len())));
    eprintln!("10,000 calls replayed in {} s", told["seconds"]);
}
