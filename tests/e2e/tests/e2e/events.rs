//! What happens, for who watches: `$events/…` over MQTT, and the stream of the admin API.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use mqgate_client::{Client, Event};
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::broker::{BrokerBuilder, mqgate};
use mqgate_e2e::{Broker, eventually};
use serde_json::{Value, json};

fn with_rules(topics: &[&str]) -> BrokerBuilder {
    let rules = topics.iter().map(|topic| format!("[[policy.acls.any.rules]]\ntopic = \"{topic}\"\n"));
    let rules: String = rules.collect();
    Broker::builder().tcp().with_native("anonymous", "config = { acl = \"any\" }").config(&rules)
}

/// Anybody may read anything, events included.
fn watched() -> BrokerBuilder {
    with_rules(&["#", "$events/#"])
}

async fn event(client: &mut Client) -> (String, Value) {
    match client.recv().await {
        Event::Message(message) => {
            assert!(!message.retain && message.qos == QoS::AtLeastOnce);
            (message.topic.as_str().to_owned(), serde_json::from_slice(&message.payload).unwrap())
        }
        Event::Disconnected { cause, .. } => panic!("{cause}"),
    }
}

/// `mqgate events {arguments} --json`, stopped when dropped.
struct Watching {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watching {
    /// Returns when the broker knows of it.
    async fn start(broker: &Broker, arguments: &[&str]) -> Self {
        let before = broker.admin().metric("mqgate_admin_event_streams");
        let mut command = Command::new(mqgate());
        command.arg("events").args(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("MQGATE_URL", broker.admin().url()).env("MQGATE_TOKEN", broker.admin().token());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        eventually("the stream", async || {
            (broker.admin().metric("mqgate_admin_event_streams") > before).then_some(())
        })
        .await;
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn who_is_allowed_by_name_reads_events_and_nobody_writes_them() {
    let broker = watched().start().await;
    let (mut watcher, _) = Client::connect(broker.plain_options("watcher")).await.unwrap();
    let reasons = watcher.subscribe(&[("$events/clients/+/+", QoS::AtLeastOnce)]).await.unwrap();
    assert_eq!(reasons, [ReasonCode::GRANTED_QOS_1]);
    let (_other, _) = Client::connect(broker.plain_options("a/b+#")).await.unwrap();
    let (topic, told) = event(&mut watcher).await;
    assert_eq!(topic, "$events/clients/connected/a%2Fb%2B%23");
    assert_eq!((&told["type"], &told["subject"]), (&json!("mqgate.clients.connected"), &json!("a/b+#")));
    assert_eq!((&told["specversion"], &told["datacontenttype"]), (&json!("1.0"), &json!("application/json")));
    assert!(told["id"].is_string() && told["source"] == "/mqgate" && told["time"].is_string(), "{told}");
    let said = watcher.publish("$events/clients/connected/x", "mine", QoS::AtLeastOnce, false).await.unwrap();
    assert_eq!(said, ReasonCode::NOT_AUTHORIZED, "although a rule allows all of it");
    let (status, _, answer) =
        broker.admin().ask("POST", "/publish", &[], &json!({ "topic": "$events/x", "payload": "mine" }));
    assert_eq!((status, &answer["code"]), (403, &json!("reserved_topic")));
    broker.admin().run(&["clients", "kick", "a/b+#"]);
    let (topic, told) = event(&mut watcher).await;
    assert_eq!(
        (topic.as_str(), &told["data"]["reason"]),
        ("$events/clients/kicked/a%2Fb%2B%23", &json!("admin_action"))
    );
}

#[tokio::test]
async fn without_a_rule_that_names_them_nobody_reads_events() {
    let broker = with_rules(&["#", "+/#"]).start().await;
    let (client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    for filter in ["$events/#", "$events/clients/connected/c", "$share/g/$events/#"] {
        let reasons = client.subscribe(&[(filter, QoS::AtLeastOnce)]).await.unwrap();
        assert_eq!(reasons, [ReasonCode::NOT_AUTHORIZED], "{filter}");
    }
}

#[tokio::test]
async fn a_change_of_the_registry_is_told_on_both_ways() {
    let broker = watched().start().await;
    let admin = broker.admin();
    let (mut watcher, _) = Client::connect(broker.plain_options("watcher")).await.unwrap();
    watcher.subscribe(&[("$events/certs/#", QoS::AtLeastOnce)]).await.unwrap();
    let mut stream = Watching::start(&broker, &["--type", "certs"]).await;
    let mut others = Watching::start(&broker, &["--type", "clients.kicked,certs.revoked"]).await;
    let device = broker.pki.device("device-7");
    admin.run(&["ca", "add", "--name", "factory", broker.pki.ca().to_str().unwrap()]);
    admin.run(&["cert", "register", device.certificate.to_str().unwrap()]);
    admin.run(&["cert", "revoke", &device.fingerprint]);
    for kind in ["registered", "revoked"] {
        let (topic, told) = event(&mut watcher).await;
        assert!(topic.starts_with(&format!("$events/certs/{kind}/")), "{topic}");
        assert_eq!(topic.rsplit('/').next().unwrap().len(), 16, "{topic}");
        assert_eq!(
            (&told["subject"], &told["data"]["device_id"]),
            (&json!(device.fingerprint), &json!("device-7"))
        );
        let mut streamed = stream.next();
        streamed.as_object_mut().unwrap().remove("mqgateid");
        assert_eq!(streamed, told, "the same event on both ways");
    }
    assert_eq!(others.next()["type"], "mqgate.certs.revoked", "what does not fit the filter is left out");
}

#[tokio::test]
async fn a_stream_is_taken_up_where_it_ended_also_after_a_restart() {
    let mut broker = watched().start().await;
    let device = broker.pki.device("device-7");
    let mut stream = Watching::start(&broker, &["--type", "certs"]).await;
    broker.admin().run(&["ca", "add", "--name", "factory", broker.pki.ca().to_str().unwrap()]);
    broker.admin().run(&["cert", "register", device.certificate.to_str().unwrap()]);
    let first = stream.next();
    assert_eq!(first["type"], "mqgate.certs.registered");
    drop(stream);
    let id = first["mqgateid"].as_str().unwrap().to_owned();
    broker.admin().run(&["cert", "deactivate", &device.fingerprint]);
    let mut again = Watching::start(&broker, &["--type", "certs", "--after", &id]).await;
    assert_eq!(again.next()["type"], "mqgate.certs.deactivated");
    drop(again);
    // The registry's events are on the disk.
    broker.kill_and_restart();
    broker.open();
    let mut again = Watching::start(&broker, &["--type", "certs", "--after", &id]).await;
    assert_eq!(again.next()["type"], "mqgate.certs.deactivated");
    broker.admin().run(&["cert", "activate", &device.fingerprint]);
    assert_eq!(again.next()["type"], "mqgate.certs.activated");
    let (status, _, answer) = broker.admin().ask("GET", "/events?last_event_id=x", &[], &Value::Null);
    assert_eq!((status, &answer["code"]), (400, &json!("bad_event_id")));
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_there_are_so_many_and_no_more() {
    let broker = watched().config("[events]\nmax_streams = 1\n").start().await;
    let admin = broker.admin();
    let secret = admin.run(&["admin", "token", "create", "watch", "--scope", "events:read"]);
    let secret = secret.trim().to_owned();
    let url = format!("{}/api/v1/events", admin.url());
    let answer = ureq::get(&url).header("Authorization", format!("Bearer {secret}")).call().unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut lines = BufReader::new(answer.into_body().into_reader()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with(':'), "a comment says that it is there");
    let (status, _, answer) = admin.ask("GET", "/events", &[], &Value::Null);
    assert_eq!((status, &answer["code"]), (503, &json!("too_many_watchers")));
    admin.run(&["admin", "token", "revoke", "watch"]);
    // The next event finds it revoked.
    let (_client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(!rest.iter().any(|line| line.starts_with("data:")), "{rest:?}");
}
