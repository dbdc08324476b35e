//! Components replaced, removed and misbehaving in a running broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mqgate_client::Client;
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::{Broker, Identity, PATIENT};
use serde_json::Value;

/// The component that misbehaves as its configuration says; see `plugins/test-guest`.
pub fn test_guest() -> String {
    xtask::components::path("test-guest").expect("it is built with the bundled ones").display().to_string()
}

/// `count` clients that publish without pause until told to stop; each counts what was acknowledged.
struct Crowd {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Crowd {
    async fn gather(broker: &Broker, device: &Identity, count: usize) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for number in 0..count {
            let (client, _) =
                Client::connect(broker.options(&format!("crowd-{number}"), device)).await.unwrap();
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reason = client.publish("devices/crowd/t", "x", QoS::AtLeastOnce, false).await;
                    assert!(!reason.expect("no client drops").is_error());
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { tasks, stop, acknowledged }
    }

    /// Each client has published again since this was called.
    async fn goes_on(&self) {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + 2 * self.tasks.len() as u64;
        mqgate_e2e::eventually("the crowd goes on publishing", async || {
            (self.acknowledged.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    async fn go_home(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no client dropped");
        }
    }
}

#[tokio::test]
async fn a_swap_under_two_hundred_publishing_clients() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("crowd");
    let crowd = Crowd::gather(&broker, &device, 200).await;
    crowd.goes_on().await;
    let admin = broker.admin();
    let before = digest(&admin.json(&["plugin", "list"]), "cert-acl");

    // One that loops in `init` is refused; the old one goes on.
    let output =
        admin.try_run(&["plugin", "swap", "cert-acl", &test_guest(), "--config-json", r#"{"init":"loop"}"#]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("init") && said.contains("trial"), "{said}");
    assert_eq!(digest(&admin.json(&["plugin", "list"]), "cert-acl"), before);
    Client::connect(broker.options("still-welcome", &device)).await.expect("the old version goes on");
    broker.audited("the refused swap", |line| line["name"] == "plugin.refused").await;

    // A stricter one takes over: nobody drops, the next connection is judged by it.
    let strict = r#"{"authenticate":"deny"}"#;
    admin.run(&["plugin", "swap", "cert-acl", &test_guest(), "--config-json", strict]);
    let after = digest(&admin.json(&["plugin", "list"]), "cert-acl");
    assert_ne!(after, before);
    let error =
        Client::connect(broker.options("too-late", &device)).await.err().expect("the new version denies");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
    crowd.goes_on().await;
    crowd.go_home().await;
    let line = broker.audited("the swap", |line| line["name"] == "plugin.swapped").await;
    assert!(line.to_string().contains(&after), "{line}");
    let line = broker.audited("the refusal", |line| line["reason"] == "plugin_denied").await;
    assert!(line.to_string().contains(&after), "the refusal names the digest that decided: {line}");
}

fn digest(list: &Value, name: &str) -> String {
    let plugins = list.as_array().expect("a list");
    let plugin = plugins.iter().find(|plugin| plugin["name"] == name).expect("it is loaded");
    plugin["digest"].as_str().expect("a component has a digest").to_owned()
}

#[tokio::test]
async fn a_plugin_that_loops_on_one_client_harms_no_other() {
    let broker = Broker::builder()
        // Its computing time ends a loop; how long the others have to wait on a loaded machine does not matter.
        .with_plugin(
            "looper",
            &test_guest(),
            r#"limits = { wall = "30s", queue_wait = "30s" }
config = { loop-on-client-id = "endless" }"#,
        )
        .with_bundled_plugins()
        .start()
        .await;
    let device = broker.pki.device("device-1");
    // The first connection registers the certificate and warms what is to be warmed.
    Client::connect(broker.options("first", &device)).await.unwrap();
    let series = "mqgate_plugin_failures_total{hook=\"authenticator\",kind=\"deadline\",plugin=\"looper\"}";
    assert!(broker.admin().metric(series).abs() < f64::EPSILON);

    let alone = connects_in(&broker, &device, Duration::from_secs(2)).await;
    let endless = tokio::spawn({
        let options = broker.options("endless", &device);
        async move {
            let mut refused = 0_u32;
            let until = Instant::now() + Duration::from_secs(2);
            // Its handshakes cost the others their share of two cores, plugin or not: it comes 20 times a second.
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            while Instant::now() < until {
                pace.tick().await;
                let started = Instant::now();
                let error = Client::connect(options.clone()).await.err().expect("the plugin never answers");
                assert_eq!(error.reason_code(), Some(ReasonCode::SERVER_UNAVAILABLE), "{error}");
                // The deadline is 20 ms of computing; a loaded test machine gets much more than that.
                assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
                refused += 1;
            }
            refused
        }
    });
    let meanwhile = connects_in(&broker, &device, Duration::from_secs(2)).await;
    let refused = endless.await.expect("it was refused each time");
    assert!(refused > 0);
    assert!(broker.admin().metric(series) >= f64::from(refused));
    // «The same rate», measured on a machine that runs other tests beside this one.
    assert!(meanwhile * 2 > alone, "{meanwhile} connections while a plugin looped, {alone} without");
    let line = broker.audited("the deadline", |line| line["reason"] == "plugin_timeout").await;
    assert_eq!(line["client_id"], "endless");
}

async fn connects_in(broker: &Broker, device: &Identity, time: Duration) -> u32 {
    let until = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < until {
        Client::connect(broker.options(&format!("other-{count}"), device))
            .await
            .expect("others connect meanwhile");
        count += 1;
    }
    count
}

#[tokio::test]
async fn traps_and_garbage_are_refusals() {
    for (config, kind) in [
        ("trap", "trap"),
        ("garbage", "invalid"),
        // It has enough time to come to the limit of memory before that of time.
        ("eat-memory", "memory"),
    ] {
        let config = format!("{PATIENT}\nconfig = {{ authenticate = \"{config}\" }}");
        let broker =
            Broker::builder().with_plugin("bad", &test_guest(), &config).with_bundled_plugins().start().await;
        let device = broker.pki.device("device-1");
        let error = Client::connect(broker.options("x", &device))
            .await
            .err()
            .expect("a failing plugin lets nobody in");
        assert_eq!(error.reason_code(), Some(ReasonCode::SERVER_UNAVAILABLE), "{kind}: {error}");
        let series =
            format!("mqgate_plugin_failures_total{{hook=\"authenticator\",kind=\"{kind}\",plugin=\"bad\"}}");
        assert!(broker.admin().metric(&series) >= 1.0, "{series}\n{}", broker.admin().page("/metrics").1);
        // Without it everything works again, and nothing was restarted.
        broker.admin().run(&["plugin", "unload", "bad", "--force"]);
        Client::connect(broker.options("x", &device)).await.expect("the others decide now");
        broker.audited("the unloading", |line| line["name"] == "plugin.unloaded").await;
    }
}

#[tokio::test]
async fn a_component_is_loaded_into_a_running_broker() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    Client::connect(broker.options("x", &device)).await.unwrap();
    let admin = broker.admin();
    let deny = r#"{"authenticate":"deny"}"#;
    let patient = ["--limit", "cpu=10s", "--limit", "wall=30s", "--isolation", "per-call"];
    let load = ["plugin", "load", &test_guest(), "--name", "closed", "--first", "--config-json", deny];
    admin.run(&[&load[..], &patient].concat());
    let error = Client::connect(broker.options("x", &device)).await.err().expect("the new plugin denies");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
    admin.run(&["plugin", "unload", "closed"]);
    Client::connect(broker.options("x", &device)).await.expect("the gate is as before");
    broker.audited("the loading", |line| line["name"] == "plugin.loaded").await;
}

#[tokio::test]
async fn a_component_sends_requests_where_it_may_and_nowhere_else() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let caller = xtask::components::path("test-caller").expect("it is built with the bundled ones");
    let caller = caller.display().to_string();
    let admin = broker.admin();
    let looked_at = admin.json(&["plugin", "inspect", &caller]);
    let line =
        r#"grant = { capabilities = ["http", "clock", "random"], http = { allow = ["https://HOST:443"] } }"#;
    assert_eq!(looked_at["configuration"], line);

    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("http://127.0.0.1:{}", server.local_addr().unwrap().port());
    let config = format!(r#"{{"steps": [{{"send": {{"url": "{place}/"}}}}]}}"#);
    let load = ["plugin", "load", &caller, "--name", "caller", "--first", "--config-json", &config];
    let granted = ["--grant", "http,clock,random"];
    for (more, said) in [(&[][..], "is not granted"), (&granted[..], "no destination is allowed")] {
        let output = admin.try_run(&[&load[..], more].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(said), "{told}");
    }
    let patient = ["--limit", "cpu=10s", "--limit", "wall=30s", "--isolation", "per-call"];
    admin.run(&[&load[..], &granted, &["--http-allow", &place], &patient].concat());
    let device = broker.pki.device("device-1");
    Client::connect(broker.options("x", &device)).await.err().expect("it denies, and says what it was told");
    // An address of this machine is not public, also where a rule names it.
    let told = |line: &Value| line.to_string().contains("DestinationIpProhibited");
    broker.audited("what the plugin was told", told).await;
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "somebody connected");
}

#[tokio::test]
async fn what_is_no_component_is_refused_with_words() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let admin = broker.admin();
    let file = broker.folder.join("not.wasm");
    for (bytes, word) in [(&b""[..], "component"), (b"\0asm\x01\0\0\0", "component"), (b"hello", "component")]
    {
        std::fs::write(&file, bytes).unwrap();
        let output = admin.try_run(&["plugin", "load", file.to_str().unwrap(), "--name", "bad"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(word), "{said}");
    }
    // An import that was not granted: the message says which, and the line that would grant it.
    let needs = xtask::components::path("auto-register").unwrap();
    let output = admin.try_run(&["plugin", "load", needs.to_str().unwrap(), "--name", "ungranted"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("key-value") && said.contains("grant"), "{said}");
}

/// After a swap, live sessions keep their grant, are asked again at their next packet, or are asked at once.
#[tokio::test]
async fn live_sessions_are_asked_again_as_configured() {
    for (mode, at_once) in [("eager", true), ("lazy", false)] {
        let policy = format!("[policy]\nreauthorize = \"{mode}\"");
        let broker = Broker::builder().config(&policy).with_bundled_plugins().start().await;
        let device = broker.pki.device("device-1");
        let (mut client, _) = Client::connect(broker.options("x", &device)).await.unwrap();
        let deny = r#"{"authenticate":"deny"}"#;
        broker.admin().run(&["plugin", "swap", "cert-acl", &test_guest(), "--config-json", deny]);
        if !at_once {
            // Nothing is asked, so nothing happens until it does something.
            let quiet = tokio::time::timeout(Duration::from_millis(300), client.recv()).await;
            assert!(quiet.is_err(), "{quiet:?}");
            let _ = client.publish("devices/device-1/x", "x", QoS::AtMostOnce, false).await;
        }
        assert_eq!(client.disconnected().await, Some(ReasonCode::NOT_AUTHORIZED), "{mode}");
    }
}

#[tokio::test]
async fn a_shadow_is_compared_and_promoted() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let admin = broker.admin();
    let deny = r#"{"authenticate":"deny"}"#;
    admin.run(&["plugin", "shadow", "begin", "cert-acl", &test_guest(), "--config-json", deny]);
    Client::connect(broker.options("x", &device)).await.expect("the live version decides");
    let report = mqgate_e2e::eventually("the comparison", async || {
        let report = admin.json(&["plugin", "shadow", "show", "cert-acl"]);
        (report["different"].as_u64() > Some(0)).then_some(report)
    })
    .await;
    let sample = &report["samples"][0];
    assert_eq!((sample["kind"].as_str(), sample["client_id"].as_str()), (Some("new_deny"), Some("x")));
    assert!(sample["shadow"].as_str().unwrap().contains("it was told to deny"), "{sample}");
    assert!(admin.run(&["plugin", "shadow", "show", "cert-acl"]).contains("new_deny"));
    let series = "mqgate_plugin_shadow_disagreements_total{hook=\"authenticator\",kind=\"new_deny\",plugin=\"cert-acl\"}";
    assert!(admin.metric(series) >= 1.0);
    admin.run(&["plugin", "shadow", "promote", "cert-acl"]);
    let error = Client::connect(broker.options("x", &device)).await.err().expect("now it decides");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
    let output = admin.try_run(&["plugin", "shadow", "drop", "cert-acl"]);
    assert!(!output.status.success(), "there is none any more");
    broker.audited("the shadow", |line| line["name"] == "plugin.shadowed").await;
}
