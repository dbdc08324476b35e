//! Requests of plugins over HTTP: what gets out, what comes back, and what is left when a call has ended. The guest is
//! `plugins/test-caller`. Skipped, with a word, where it was not built.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::hooks::{Authentication, FailureKind, HookFailure};
use mqgate_plugin_host::{
    Capability, Grants, HostSettings, HttpSettings, Isolation, PluginSettings, Position, Stage,
};
use serde_json::{Value, json};

use crate::built::component;
use crate::fixture::{Fixture, settings};
use crate::server::{FakeResolver, Server};

struct Caller {
    fixture: Fixture,
    resolver: Arc<FakeResolver>,
    server: Server,
}

impl Caller {
    /// A server that `policy.test` leads to, and a host that asks nobody else where names lead.
    async fn new() -> Option<Self> {
        component("test-caller.wasm")?;
        let server = Server::start().await;
        let resolver = Arc::new(FakeResolver::default());
        resolver.says("policy.test", &[&["127.0.0.1"]]);
        let host = HostSettings { resolver: resolver.clone(), ..HostSettings::default() };
        Some(Self { fixture: Fixture::with(host, Vec::new()), resolver, server })
    }

    fn url(&self, path: &str) -> String {
        self.server.url("policy.test", path)
    }

    /// May send requests to `policy.test`, and near addresses.
    fn settings(&self, steps: &Value) -> PluginSettings {
        let mut plugin = settings("p", std::fs::read(component("test-caller.wasm").unwrap()).unwrap());
        plugin.config = json!({ "steps": steps });
        plugin.limits.cpu = Duration::from_secs(10);
        plugin.grants = Grants::of([Capability::Http, Capability::Clock, Capability::Random]);
        plugin.grants.http = HttpSettings {
            allow: vec!["http://policy.test:*".parse().unwrap()],
            private_networks: true,
            ..HttpSettings::default()
        };
        plugin
    }

    async fn load(&self, plugin: PluginSettings) {
        if self.fixture.host.find("p").is_some() {
            self.fixture.host.unload("p", true).await.expect("gone");
        }
        self.fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    }

    async fn called(&self) -> Result<String, HookFailure> {
        told(self.fixture.authenticate("p", "l").await)
    }

    /// Loads with these steps, and says what the first call told.
    async fn tells(&self, steps: &Value, change: impl FnOnce(&mut PluginSettings)) -> String {
        let mut plugin = self.settings(steps);
        change(&mut plugin);
        self.load(plugin).await;
        self.called().await.expect("an answer")
    }

    fn counted(&self, result: &str) -> f64 {
        let series =
            format!("mqgate_plugin_host_calls_total{{interface=\"http\",plugin=\"p\",result=\"{result}\"}}");
        self.fixture.metric(&series).expect("it is counted")
    }

    async fn nothing_is_left(&self) {
        self.fixture.no_instance_left().await;
        self.server.is_left().await;
        let open = || self.fixture.metric("mqgate_plugin_http_connections{plugin=\"p\"}");
        let closed = async {
            while open() != Some(0.0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), closed).await.is_ok(), "{:?}", open());
    }
}

fn told(answer: Result<Authentication, HookFailure>) -> Result<String, HookFailure> {
    match answer? {
        Authentication::Deny(denial) => Ok(denial.audit_detail.unwrap_or_default()),
        other => panic!("not denied: {other:?}"),
    }
}

fn send(url: &str) -> Value {
    json!([{ "send": { "url": url } }])
}

#[tokio::test]
async fn a_request_that_is_allowed_has_an_answer() {
    let Some(caller) = Caller::new().await else { return };
    assert_eq!(caller.tells(&send(&caller.url("/hello")), |_| {}).await, "200 5 hello");
    let request = &caller.server.requests()[0];
    let host = format!("host: policy.test:{}\r\n", caller.server.address.port());
    assert!(request.starts_with("GET /hello HTTP/1.1\r\n") && request.contains(&host), "{request}");
    let post = json!([{ "send": { "url": caller.url("/length"), "method": "POST", "body": 65_536 } }]);
    assert_eq!(caller.tells(&post, |_| {}).await, "200 5 65536", "as large as it may be");
    assert_eq!((caller.counted("ok"), caller.counted("refused"), caller.counted("error")), (1.0, 0.0, 0.0));
    let missing = caller.tells(&send(&caller.url("/nothing")), |_| {}).await;
    assert_eq!(missing, "404 0 ", "any status is an answer");
    assert!(caller.tells(&send(&caller.url("/nonsense")), |_| {}).await.contains("HttpProtocolError"));
    caller.nothing_is_left().await;
}

#[tokio::test]
async fn a_host_that_is_not_allowed_is_not_even_looked_up() {
    let Some(caller) = Caller::new().await else { return };
    caller.resolver.says("other.test", &[&["127.0.0.1"]]);
    let port = caller.server.address.port();
    for url in [
        format!("http://other.test:{port}/hello"),
        format!("http://127.0.0.1:{port}/hello"),
        format!("http://[::ffff:127.0.0.1]:{port}/hello"),
        format!("http://policy.test.other.test:{port}/hello"),
        format!("https://policy.test:{port}/hello"),
    ] {
        let said = caller.tells(&send(&url), |_| {}).await;
        assert!(said.contains("Refused") && said.contains("HttpRequestDenied"), "{url}: {said}");
        assert_eq!(caller.counted("refused"), 1.0);
    }
    let user = caller.tells(&send(&format!("http://policy.test@other.test:{port}/")), |_| {}).await;
    assert!(user.contains("Invalid"), "{user}");
    assert_eq!((caller.server.accepted(), caller.resolver.asked()), (0, 0));
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_or_to_a_metadata_service_is_refused() {
    let Some(caller) = Caller::new().await else { return };
    let near =
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "192.168.0.1", "fd12::1", "64:ff9b::7f00:1"];
    for address in near {
        caller.resolver.says("policy.test", &[&[address]]);
        let public_only = |plugin: &mut PluginSettings| plugin.grants.http.private_networks = false;
        let said = caller.tells(&send(&caller.url("/hello")), public_only).await;
        assert!(said.contains("DestinationIpProhibited"), "{address}: {said}");
    }
    let never =
        ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.0", "224.0.0.1"];
    for address in never {
        caller.resolver.says("policy.test", &[&[address]]);
        let said = caller.tells(&send(&caller.url("/hello")), |_| {}).await;
        assert!(said.contains("DestinationIpProhibited"), "{address}: {said}");
    }
    // A rule that names an address is no way around either.
    let literal = caller.server.url("127.0.0.1", "/hello");
    let by_address = |plugin: &mut PluginSettings| {
        plugin.grants.http.allow = vec!["http://127.0.0.1:*".parse().unwrap()];
        plugin.grants.http.private_networks = false;
    };
    let said = caller.tells(&send(&literal), by_address).await;
    assert!(said.contains("DestinationIpProhibited"), "{said}");
    assert_eq!((caller.server.accepted(), caller.counted("refused")), (0, 1.0));
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let Some(caller) = Caller::new().await else { return };
    // Whoever asked a second time would be led elsewhere.
    caller.resolver.says("policy.test", &[&["127.0.0.1"], &["169.254.169.254"]]);
    assert_eq!(caller.tells(&send(&caller.url("/hello")), |_| {}).await, "200 5 hello");
    assert_eq!(caller.resolver.asked(), 1);
    // Of several addresses those that may be reached are tried.
    caller.resolver.says("policy.test", &[&["169.254.169.254", "::ffff:127.0.0.1"]]);
    assert_eq!(caller.called().await.expect("an answer"), "200 5 hello");
    assert_eq!(caller.resolver.asked(), 2);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let Some(caller) = Caller::new().await else { return };
    assert_eq!(caller.tells(&send(&caller.url("/redirect")), |_| {}).await, "302 0 ");
    assert_eq!((caller.server.accepted(), caller.resolver.asked()), (1, 1));
}

#[tokio::test]
async fn a_slow_server_costs_what_is_left_of_the_call_and_no_more() {
    let Some(caller) = Caller::new().await else { return };
    let in_time = |plugin: &mut PluginSettings| plugin.limits.wall = Duration::from_secs(3);
    for path in ["/slow", "/drip"] {
        let begun = Instant::now();
        let said = caller.tells(&send(&caller.url(path)), in_time).await;
        assert!(said.contains("Timeout"), "{path}: the plugin hears of it in time: {said}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // Twice as much as there is: the second request has what the first one left.
        let twice = json!([
            { "send": { "url": caller.url(path), "timeout": 500 } },
            { "send": { "url": caller.url("/slow"), "timeout": 60_000 } },
        ]);
        let said = caller.tells(&twice, in_time).await;
        assert_eq!(said.matches("HttpResponseTimeout").count(), 2, "{path}: {said}");
    }
    caller.nothing_is_left().await;
}

#[tokio::test]
async fn what_a_call_began_ends_with_it() {
    let Some(caller) = Caller::new().await else { return };
    // It does not wait for what it began.
    let begin = json!([{ "begin": { "url": caller.url("/slow"), "times": 3 } }, "forget"]);
    for isolation in [Isolation::PerCall, Isolation::Pooled, Isolation::Single] {
        let mut plugin = caller.settings(&begin);
        plugin.isolation = isolation;
        plugin.grants.http.connections = 3;
        caller.load(plugin).await;
        for round in 0..50 {
            // Each call finds all connections free, because none of an earlier one is left.
            let said = caller.called().await.expect("an answer");
            assert_eq!(said, "", "{isolation:?}, round {round}");
            let is_free = async {
                while caller.fixture.metric("mqgate_plugin_http_connections{plugin=\"p\"}") != Some(0.0) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let freed = tokio::time::timeout(Duration::from_secs(20), is_free).await;
            assert!(freed.is_ok(), "{isolation:?}, round {round}: connections stay");
        }
    }
    caller.nothing_is_left().await;
}

#[tokio::test]
async fn a_body_or_fields_without_end_are_cut_off() {
    let Some(caller) = Caller::new().await else { return };
    for path in ["/endless", "/announced"] {
        let said = caller.tells(&send(&caller.url(path)), |_| {}).await;
        assert!(said.contains("TooLarge") && said.contains("HttpResponseBodySize"), "{path}: {said}");
        assert_eq!(caller.counted("refused"), 1.0, "{path}");
    }
    let said = caller.tells(&send(&caller.url("/fields")), |_| {}).await;
    assert!(said.contains("HttpResponseHeaderSectionSize"), "{said}");
    let few = |plugin: &mut PluginSettings| plugin.grants.http.header_bytes = 1000;
    let said = caller.tells(&send(&caller.url("/some-fields")), few).await;
    assert!(said.contains("HttpResponseHeaderSectionSize"), "{said}");
    assert_eq!(caller.tells(&send(&caller.url("/some-fields")), |_| {}).await, "200 0 ");
    caller.nothing_is_left().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let Some(caller) = Caller::new().await else { return };
    let post = json!([{ "send": { "url": caller.url("/length"), "method": "POST", "body": 65_537 } }]);
    let said = caller.tells(&post, |_| {}).await;
    assert!(said.contains("TooLarge"), "{said}");
    assert_eq!(caller.server.requests().len(), 0);
    caller.nothing_is_left().await;
}

#[tokio::test]
async fn nobody_waits_for_a_connection_that_it_may_hold_itself() {
    let Some(caller) = Caller::new().await else { return };
    let two = |plugin: &mut PluginSettings| plugin.grants.http.connections = 2;
    let hello = caller.url("/hello");
    let begin = |times: usize| json!({ "begin": { "url": hello.clone(), "times": times } });
    // The third is refused at once, and while the answers are held, so is every other.
    let greedy = json!([begin(3), "collect", begin(1), "drop", begin(2), "collect"]);
    let begun = Instant::now();
    let said = caller.tells(&greedy, two).await;
    let expected = ["ConnectionLimitReached", "200", "200", "ConnectionLimitReached", "200", "200"];
    let said: Vec<&str> = said.lines().map(|line| line.trim_start_matches("ErrorCode::")).collect();
    assert_eq!(said, expected);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(caller.counted("refused"), 2.0);
    caller.nothing_is_left().await;
}

#[tokio::test]
async fn handles_without_end_end_the_call() {
    let Some(caller) = Caller::new().await else { return };
    assert_eq!(caller.tells(&json!([{ "handles": 200 }]), |_| {}).await, "");
    caller.load(caller.settings(&json!([{ "handles": 300 }]))).await;
    for _ in 0..2 {
        let failure = caller.called().await.expect_err("no answer");
        assert_eq!(failure.kind, FailureKind::Capability, "{}", failure.detail);
    }
    caller.fixture.no_instance_left().await;
}

#[tokio::test]
async fn a_trial_or_a_question_changes_nothing_elsewhere() {
    let Some(caller) = Caller::new().await else { return };
    let post = json!([{ "send": { "url": caller.url("/length"), "method": "POST", "body": 1 } }]);
    let mut plugin = caller.settings(&post);
    plugin.config["init"] = post.clone();
    caller.load(plugin).await;
    assert_eq!(caller.server.requests().len(), 0, "the trial asked for it");
    let said = told(caller.fixture.explain("p", "l").await).expect("an answer");
    assert!(said.contains("HttpRequestDenied"), "{said}");
    assert_eq!(caller.server.requests().len(), 0);
    assert_eq!(caller.called().await.expect("an answer"), "200 1 1");
    // Asking is another matter.
    caller.load(caller.settings(&send(&caller.url("/hello")))).await;
    assert_eq!(told(caller.fixture.explain("p", "l").await).expect("an answer"), "200 5 hello");
}

#[tokio::test]
async fn an_answer_that_came_from_elsewhere_is_not_given_again() {
    let Some(caller) = Caller::new().await else { return };
    for (steps, expected) in [
        (json!([]), (1.0, 1.0, 0.0)),
        (send(&caller.url("/hello")), (2.0, 0.0, 2.0)),
        (send("http://other.test/"), (2.0, 0.0, 2.0)),
        (json!(["clock"]), (2.0, 0.0, 2.0)),
        (json!([{ "random": 1 }]), (2.0, 0.0, 2.0)),
    ] {
        let Some(caller) = Caller::new().await else { return };
        let mut plugin = caller.settings(&steps);
        plugin.config["cached"] = json!(true);
        caller.load(plugin).await;
        crate::again::asked(&caller.fixture, "a").await;
        crate::again::asked(&caller.fixture, "a").await;
        assert_eq!(crate::again::counts(&caller.fixture), expected, "{steps}");
    }
}

#[tokio::test]
async fn http_without_a_destination_is_refused() {
    let Some(caller) = Caller::new().await else { return };
    let mut plugin = caller.settings(&json!([]));
    plugin.grants.http.allow.clear();
    let error = caller.fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
    assert_eq!(error.stage, Stage::Verify);
    assert!(error.message.contains("no destination is allowed"), "{error}");
    for change in [
        |http: &mut HttpSettings| http.connections = 0,
        |http: &mut HttpSettings| http.connections = 257,
        |http: &mut HttpSettings| http.response_bytes = (16 << 20) + 1,
    ] {
        let mut plugin = caller.settings(&json!([]));
        change(&mut plugin.grants.http);
        let error = caller.fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
        assert_eq!(error.stage, Stage::Verify, "{error}");
    }
}

mod tls {
    use super::*;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    /// A server for one name, and the certificate of who says so.
    fn server_for(name: &str) -> (TlsAcceptor, String) {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        (TlsAcceptor::from(Arc::new(config)), ca.pem())
    }

    #[tokio::test]
    async fn a_server_proves_that_it_has_the_name() {
        let Some(caller) = Caller::new().await else { return };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        for (name, trusted, expected) in [
            ("policy.test", true, "200 5 hello"),
            ("other.test", true, "TlsCertificateError"),
            ("policy.test", false, "TlsCertificateError"),
        ] {
            let (acceptor, ca) = server_for(name);
            let (_, another) = server_for(name);
            std::fs::write(&file, if trusted { ca } else { another }).unwrap();
            let server = Server::with(Some(acceptor)).await;
            let url = format!("https://policy.test:{}/hello", server.address.port());
            let trusting = |plugin: &mut PluginSettings| {
                plugin.grants.http.allow = vec!["https://policy.test:*".parse().unwrap()];
                plugin.grants.http.ca_file = Some(file.clone());
            };
            let said = caller.tells(&send(&url), trusting).await;
            assert!(said.contains(expected), "{name} {trusted}: {said}");
        }
        std::fs::write(&file, "no certificate").unwrap();
        let mut plugin = caller.settings(&json!([]));
        plugin.name = String::from("q");
        plugin.grants.http.allow = vec!["https://policy.test".parse().unwrap()];
        plugin.grants.http.ca_file = Some(file.clone());
        let error = caller.fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
        assert!(error.message.contains("there is no certificate in it"), "{error}");
    }
}
