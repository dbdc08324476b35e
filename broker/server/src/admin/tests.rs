mod api;
mod audit;

use mqgate_identity::reason::Reason;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::audit::AuditSettings;
use crate::broker::{Admitter, BrokerParts};
use crate::gate::{Admission, Refusal};
use crate::metrics::mqtt::MqttMetrics;
use crate::registry::RegistrySettings;
use crate::testing::{MemoryStorage, TestCa, hooks, metrics};
use crate::trust::TrustStore;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct World {
    address: SocketAddr,
    audit: Arc<AuditLog>,
    folder: tempfile::TempDir,
    listener: watch::Sender<Option<ListenAddress>>,
    _end: tokio_util::sync::DropGuard,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl World {
    async fn new(need_token_for_metrics: bool) -> (Self, TestCa) {
        let ca = TestCa::new("devices");
        let folder = tempfile::tempdir().unwrap();
        let metrics = metrics();
        let settings =
            AuditSettings { path: Some(folder.path().join("audit.jsonl")), ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics.gate)).unwrap());
        let trust = Arc::new(TrustStore::new(4));
        trust.configure(vec![ca.anchor()]).unwrap();
        let registry = Registry::open(
            Arc::new(MemoryStorage::default()),
            trust,
            Arc::clone(&audit),
            Arc::clone(&metrics.gate),
            RegistrySettings::default(),
        );
        let registry = registry.await.unwrap();
        let refuse = |_: &_, _: &_| {
            Admission::Refused(Refusal {
                reason: Reason::Other,
                code: mqgate_codec::ReasonCode::NOT_AUTHORIZED,
                reason_string: None,
                server_reference: None,
                retry_after: None,
            })
        };
        let broker = Broker::new(BrokerParts {
            admitter: Admitter::Rule(Box::new(refuse)),
            audit: Arc::clone(&audit),
            metrics: Arc::new(MqttMetrics::register(&prometheus::Registry::new()).unwrap()),
            limits: mqgate_protocol::limits::Limits::default(),
            listener_limits: Default::default(),
        });
        let (listener, address) = watch::channel(None);
        let readiness = Readiness::new(hooks(Vec::new()), Arc::clone(&audit), Some(Arc::clone(&registry)));
        let about = About {
            version: "1.2.3".into(),
            started_at: UnixMillis(0),
            listeners: Box::new(move || {
                let address = address.clone();
                vec![AboutListener { name: "main".into(), kind: "tls", auth_mode: "mutual", address }]
            }),
        };
        let parts = AdminParts {
            broker,
            registry,
            audit: Arc::clone(&audit),
            metrics,
            readiness: Arc::new(readiness),
            about: Arc::new(about),
            tokens: tokens::Tokens::open(Arc::new(MemoryStorage::default()), 8).unwrap(),
            numbers: Arc::new(AdminMetrics::register(&prometheus::Registry::new()).unwrap()),
            imports: Arc::default(),
        };
        let hosts = HostRule::Known(vec![String::from("broker.example")]);
        let door = Door::new(TokenHash::of(TOKEN), hosts, Arc::clone(&audit))
            .tokens(Arc::clone(&parts.tokens))
            .metrics(true, need_token_for_metrics);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let end = CancellationToken::new();
        tokio::spawn(serve(socket, None, router(parts, Arc::new(door), Api::new("none")), end.clone()));
        (Self { address, audit, folder, listener, _end: end.drop_guard() }, ca)
    }

    /// One request, written out; `headers` without the last line break.
    async fn raw(&self, request: &str, headers: &str, body: &str) -> Answer {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // The peer may close while a refused body is still on its way: what was read counts.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a response");
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())),
        }
    }

    /// With the right token and host.
    async fn ask(&self, request: &str, body: &Value) -> Answer {
        self.ask_with(TOKEN, "", request, body).await
    }

    /// With some token, and more headers, each with its line break.
    async fn ask_with(&self, token: &str, more: &str, request: &str, body: &Value) -> Answer {
        // A request without a body has no type of one.
        let json = if body.is_null() { "" } else { "Content-Type: application/json\r\n" };
        let headers = format!("Host: {}\r\nAuthorization: Bearer {token}\r\n{json}{more}", self.address);
        self.raw(request, &headers, &if body.is_null() { String::new() } else { body.to_string() }).await
    }

    /// Names, outcomes and details of what was written down.
    fn audited(&self) -> Vec<String> {
        self.audit.close();
        let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        text.lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let part = |value: &Value| value.as_str().unwrap_or("-").to_owned();
                let (name, actor) = (part(&line["name"]), part(&line["actor"]));
                format!("{name} {actor} {} {}", part(&line["fields"]["code"]), part(&line["fields"]["path"]))
            })
            .collect()
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_told_and_the_attempt_is_written_down() {
    let (world, _) = World::new(false).await;
    let host = format!("Host: {}\r\n", world.address);
    for (headers, code) in [
        (String::new(), "token_missing"),
        (format!("Authorization: Bearer {TOKEN}x\r\n"), "token_wrong"),
        (String::from("Authorization: Bearer \r\n"), "token_missing"),
        (format!("Authorization: Basic {TOKEN}\r\n"), "token_missing"),
        (format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer x\r\n"), "token_missing"),
    ] {
        for path in ["/api/v1/status", "/api/v1/device-certs", "/api/v1/nothing"] {
            let answer = world.raw(&format!("GET {path}"), &format!("{host}{headers}"), "").await;
            assert_eq!((answer.status, answer.body["code"].as_str()), (401, Some(code)), "{path} {headers}");
            assert!(
                answer.head.contains("application/problem+json") && answer.head.contains("www-authenticate")
            );
        }
    }
    // Equal attempts within ten seconds are one record.
    assert_eq!(
        world.audited(),
        [
            "admin.refused admin:unknown token_missing /api/v1/status",
            "admin.refused admin:unknown token_wrong /api/v1/status"
        ]
    );
}

#[tokio::test]
async fn a_page_from_elsewhere_is_refused_even_with_the_token() {
    let (world, _) = World::new(false).await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for (headers, status) in [
        (format!("Host: {}\r\n", world.address), 200),
        (String::from("Host: localhost:1\r\n"), 200),
        (String::from("Host: broker.example\r\n"), 200),
        (String::from("Host: evil.example\r\n"), 403),
        (String::from("Host: localhost\r\nHost: evil.example\r\n"), 403),
        (String::from("Host: localhost\r\nOrigin: http://localhost:3000\r\n"), 200),
        (String::from("Host: localhost\r\nOrigin: https://evil.example\r\n"), 403),
        (String::from("Host: localhost\r\nOrigin: null\r\n"), 403),
    ] {
        for path in ["/api/v1/status", "/health", "/metrics"] {
            let answer = world.raw(&format!("GET {path}"), &format!("{headers}{token}"), "").await;
            // Whether hyper itself refuses two Host headers does not matter.
            let refused = answer.status == 403 || (status == 403 && answer.status == 400);
            assert!(
                answer.status == status || refused && status == 403,
                "{path} {headers} {}",
                answer.status
            );
        }
    }
}

#[tokio::test]
async fn pages_for_machines_need_no_token_unless_configured() {
    let (world, _) = World::new(false).await;
    let host = format!("Host: {}\r\n", world.address);
    assert_eq!(world.raw("GET /health", &host, "").await.status, 200);
    let metrics = world.raw("GET /metrics", &host, "").await;
    assert!(metrics.status == 200 && metrics.head.contains("text/plain"));
    let answer = world.raw("GET /ready", &host, "").await;
    assert_eq!((answer.status, &answer.body["reasons"][0]), (503, &json!("listener \"main\" is not open")));
    world.listener.send_replace(Some(world.address.into()));
    assert_eq!(world.raw("GET /ready", &host, "").await.status, 200);

    let (guarded, _) = World::new(true).await;
    let host = format!("Host: {}\r\n", guarded.address);
    assert_eq!(guarded.raw("GET /metrics", &host, "").await.status, 401);
    assert_eq!(guarded.ask("GET /metrics", &Value::Null).await.status, 200);
    assert_eq!(guarded.raw("GET /health", &host, "").await.status, 200);
}

#[tokio::test]
async fn a_certificate_is_registered_shown_and_revoked() {
    let (world, ca) = World::new(false).await;
    let device = ca.device("device-7");
    let body = json!({ "pem": device.pem(), "client_id": "seven" });
    let answer = world.ask("POST /api/v1/device-certs", &body).await;
    assert_eq!((answer.status, answer.body["state"].as_str()), (201, Some("ACTIVE")), "{}", answer.body);
    let id = answer.body["id"].as_str().unwrap().to_owned();
    let listed = world.ask("GET /api/v1/device-certs?state=ACTIVE", &Value::Null).await;
    assert_eq!(listed.body["items"][0]["device_id"], "device-7");
    let revoke = format!("POST /api/v1/device-certs/{id}/revoke");
    let answer = world.ask(&revoke, &json!({ "reason": "nonsense" })).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("bad_reason")));
    let answer = world.ask(&revoke, &json!({ "reason": "key-compromise" })).await;
    assert_eq!((answer.status, answer.body["effective"].as_str()), (200, Some("cert_revoked")));
    let answer = world.ask(&format!("POST /api/v1/device-certs/{id}/activate"), &Value::Null).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (409, Some("cert_revoked")));
    assert_eq!(
        world.audited(),
        [
            "device.registered admin:default - -",
            "admin.action admin:default bad_reason -",
            "device.revoked admin:default - -",
            "admin.action admin:default cert_revoked -",
        ]
    );
}

#[tokio::test]
async fn mistakes_have_stable_codes() {
    let (world, _) = World::new(false).await;
    let stranger = TestCa::new("stranger");
    let wide = "x".repeat(300 * 1024);
    for (request, body, status, code) in [
        ("GET /api/v1/device-certs/zz", Value::Null, 400, "bad_id"),
        (&*format!("GET /api/v1/device-certs/{}", "0".repeat(64)), Value::Null, 404, "not_found"),
        ("POST /api/v1/device-certs", json!({ "pem": "x" }), 422, "bad_certificate"),
        (
            "POST /api/v1/device-certs",
            json!({ "pem": stranger.device("d").pem() }),
            422,
            "certificate_refused",
        ),
        ("POST /api/v1/device-certs", json!({ "colour": "red" }), 422, "bad_body"),
        ("POST /api/v1/device-certs", json!({ "pem": wide }), 413, "too_large"),
        ("POST /api/v1/device-certs", Value::Null, 415, "media_type"),
        ("GET /api/v1/clients?limit=0", Value::Null, 400, "bad_parameter"),
        ("GET /api/v1/clients?address=x", Value::Null, 400, "bad_parameter"),
        ("GET /api/v1/clients?colour=red", Value::Null, 400, "unknown_parameter"),
        ("GET /api/v1/clients?after=x", Value::Null, 400, "bad_cursor"),
        ("GET /api/v1/status?limit=1", Value::Null, 400, "unknown_parameter"),
        ("DELETE /api/v1/delayed/x", Value::Null, 400, "bad_path"),
        ("DELETE /api/v1/delayed/%ff", Value::Null, 400, "bad_path"),
        ("POST /api/v1/clients/nobody/kick?dry_run=yes", Value::Null, 400, "bad_parameter"),
        ("POST /api/v1/publish", json!({ "topic": "$SYS/x" }), 403, "reserved_topic"),
        ("POST /api/v1/cas", json!({ "name": "devices", "pem": stranger.pem() }), 409, "name_taken"),
        ("POST /api/v1/cas", json!({ "name": "a b", "pem": stranger.pem() }), 422, "bad_name"),
        ("DELETE /api/v1/cas/devices", Value::Null, 409, "ca_configured"),
        ("POST /api/v1/clients/nobody/kick", Value::Null, 404, "not_connected"),
        ("GET /api/v1/nothing", Value::Null, 404, "no_such_path"),
        ("PUT /api/v1/cas", Value::Null, 405, "method_not_allowed"),
    ] {
        let answer = world.ask(request, &body).await;
        assert_eq!(
            (answer.status, answer.body["code"].as_str()),
            (status, Some(code)),
            "{request} {}",
            answer.body
        );
    }
    let answer = world.ask("POST /api/v1/cas", &json!({ "name": "other", "pem": stranger.pem() })).await;
    assert_eq!((answer.status, answer.body["source"].as_str()), (201, Some("registry")), "{}", answer.body);
    assert_eq!(world.ask("DELETE /api/v1/cas/other", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn every_change_that_was_refused_is_written_down_once() {
    let (world, _) = World::new(false).await;
    let nobody = "0".repeat(64);
    for (request, body) in [
        ("POST /api/v1/device-certs", json!({ "colour": "red" })),
        ("POST /api/v1/device-certs", json!({ "pem": "x" })),
        (&*format!("POST /api/v1/device-certs/{nobody}/revoke"), json!({ "colour": "red" })),
        (&*format!("POST /api/v1/device-certs/{nobody}/praise"), Value::Null),
        ("DELETE /api/v1/device-certs/zz", Value::Null),
        (&*format!("DELETE /api/v1/device-certs/{nobody}?force=perhaps"), Value::Null),
        ("DELETE /api/v1/cas/nobody", Value::Null),
        ("POST /api/v1/clients/nobody/kick", Value::Null),
        ("PATCH /api/v1/cas", Value::Null),
        ("POST /api/v1/nothing", Value::Null),
        // Reading changes nothing.
        ("GET /api/v1/nothing", Value::Null),
        ("GET /api/v1/device-certs/zz", Value::Null),
    ] {
        let answer = world.ask(request, &body).await;
        assert!((400..500).contains(&answer.status), "{request} {}", answer.status);
    }
    world.audit.close();
    let text = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let records: Vec<String> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| line["fields"][name].as_str().unwrap_or("-").to_owned();
            let target: String = field("target").chars().take(6).collect();
            assert_eq!(line["actor"], "admin:default");
            format!("{} {} {target} {}", line["name"].as_str().unwrap(), field("action"), field("code"))
        })
        .collect();
    assert_eq!(
        records,
        [
            "admin.action device.register  bad_body",
            "admin.action device.register  bad_certificate",
            "admin.action device.revoke 000000 bad_body",
            "admin.action unknown  no_such_path",
            "admin.action device.delete zz bad_id",
            "admin.action device.delete 000000 bad_parameter",
            "admin.action ca.remove nobody not_found",
            "admin.action client.kick nobody not_connected",
            "admin.action unknown  method_not_allowed",
            "admin.action unknown  no_such_path",
        ]
    );
}

/// What an operator publishes is held to what clients may be sent.
#[tokio::test]
async fn what_no_client_can_be_sent_is_not_published() {
    let (world, _) = World::new(false).await;
    let deep = "/".repeat(128);
    for (body, code) in [
        (json!({ "topic": "t", "content_type": "text/plain", "user_properties": [["a", "b"]] }), None),
        (json!({ "topic": &deep[1..] }), None),
        (json!({ "topic": deep }), Some("too_many_levels")),
        (json!({ "topic": format!("$delayed/1/{deep}") }), Some("too_many_levels")),
        (json!({ "topic": "t", "content_type": "a\0b" }), Some("bad_text")),
        (json!({ "topic": "t", "content_type": "x".repeat(65_536) }), Some("bad_text")),
        (json!({ "topic": "t", "user_properties": [["a", "b"], ["\0", "b"]] }), Some("bad_text")),
        (json!({ "topic": "t", "user_properties": [["a", "b\0"]] }), Some("bad_text")),
        (json!({ "topic": "t", "response_topic": "a\0" }), Some("bad_topic")),
    ] {
        let answer = world.ask("POST /api/v1/publish", &body).await;
        let status = if code.is_some() { 400 } else { 200 };
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, code), "{body:.100}");
    }
    let filter = json!({ "client_id": "c", "filter": format!("$share/g/{deep}") });
    let answer = world.ask("POST /api/v1/subscriptions", &filter).await;
    assert_eq!(answer.body["code"], "too_many_levels");
}
