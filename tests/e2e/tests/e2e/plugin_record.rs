//! Calls of a plugin in a running broker, recorded over the admin API and replayed against another policy.

use mqgate_client::Client;
use mqgate_e2e::{Broker, PATIENT};
use serde_json::{Value, json};

/// Cert-acl with the rules of this text; the others of the chain leave it alone.
fn config(rules: &Value) -> String {
    json!({ "rules": rules }).to_string()
}

#[tokio::test]
async fn what_clients_did_is_replayed_against_another_policy() {
    let broker = Broker::builder().with_auto_register(PATIENT).with_cert_acl(PATIENT).start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("captures.ndjson").display().to_string();
    let recording = std::thread::spawn({
        let (admin, file) = (broker.admin(), file.clone());
        move || admin.json(&["plugin", "record", "cert-acl", "--out", &file, "--count", "6", "--for", "5m"])
    });
    broker.audited("the recording", |line| line["name"] == "plugin.recording").await;
    for name in ["meter-7", "meter-8", "pump-1"] {
        let mut options = broker.options(name, &broker.pki.device(name));
        (options.user_name, options.password) = (Some(name.into()), Some("hunter2".into()));
        let (client, _) = Client::connect(options).await.unwrap();
        client.disconnect().await.unwrap();
    }
    let told = recording.join().expect("it was recorded");
    assert_eq!((&told["written"], &told["dropped"]), (&json!(6), &json!(0)), "{told}");
    broker.audited("its end", |line| line["name"] == "plugin.recording_ended").await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("meter-7") && !text.contains("hunter2"), "{text}");
    assert_eq!(
        broker.admin().metric("mqgate_plugin_recorded_calls_total{plugin=\"cert-acl\",result=\"kept\"}"),
        6.0
    );

    let component = xtask::components::path("cert-acl").unwrap().display().to_string();
    let replay = |rules: &Value| {
        let admin = broker.admin();
        let config = config(rules);
        let output = admin.try_run(&[
            "plugin",
            "replay",
            &file,
            "--against",
            &component,
            "--config-json",
            &config,
            "--limit",
            "wall=20s",
            "--json",
        ]);
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), told)
    };
    let own_topics = json!({ "name": "own-topics", "allow-publish": ["devices/${device-id}/#"],
        "allow-subscribe": ["devices/${device-id}/#"] });
    let (code, told) = replay(&json!([own_topics]));
    assert_eq!((code, &told["same"]), (Some(0), &json!(6)), "{told}");
    let (code, told) =
        replay(&json!([{ "name": "no pumps", "match": { "cn": "pump-1" }, "refuse": true }, own_topics]));
    assert_eq!(
        (code, &told["kinds"]["newly_refused"], &told["same"]),
        (Some(1), &json!(1), &json!(5)),
        "{told}"
    );
    assert_eq!(told["differences"][0]["client_id"], "pump-1");
    // What cannot be run decides nothing.
    let output = broker.admin().try_run(&["plugin", "replay", &file, "--against", "no-such.wasm"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn only_who_may_write_traces_records() {
    let broker = Broker::builder().with_cert_acl(PATIENT).start().await;
    let admin = broker.admin();
    let path = "/plugins/cert-acl/recording";
    let wanted = json!({ "count": 5, "seconds": 60 });
    let (status, _, answer) = admin.ask("GET", path, &[], &Value::Null);
    assert_eq!((status, &answer["code"]), (404, &json!("no_recording")));
    for (bad, code) in [
        (json!({ "count": 0, "seconds": 60 }), "bad_size"),
        (json!({ "count": 5, "seconds": 100_000 }), "bad_time"),
    ] {
        let (status, _, answer) = admin.ask("POST", path, &[], &bad);
        assert_eq!((status, &answer["code"]), (422, &json!(code)), "{answer}");
    }
    let secret = admin.run(&[
        "admin",
        "token",
        "create",
        "reader",
        "--scope",
        "plugins:read",
        "--scope",
        "traces:read",
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("captures.ndjson");
    let shown = file.display().to_string();
    let output = admin.try_run(&["plugin", "record", "cert-acl", "--out", &shown, "--token", secret.trim()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("traces:write"), "{said}");
    assert!(!file.exists(), "nothing was recorded");
    let (status, _, answer) = admin.ask("POST", path, &[], &wanted);
    assert_eq!((status, &answer["taken"]), (201, &json!(0)), "{answer}");
    let (status, _, answer) = admin.ask("GET", path, &[], &Value::Null);
    assert_eq!((status, &answer["lines"], &answer["finished"]), (200, &json!([]), &json!(false)), "{answer}");
    let (status, ..) = admin.ask("DELETE", path, &[], &Value::Null);
    assert_eq!(status, 200);
}
