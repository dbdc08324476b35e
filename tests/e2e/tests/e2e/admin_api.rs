//! The admin API from outside: its description under a fuzzer, tokens, operators' certificates, revisions, tries.

use std::process::Command;

use mqgate_client::Client;
use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, Pki, tools};
use serde_json::{Value, json};

use crate::operating::anybody;

/// Reads the description that the broker serves, and sends what fits it and what does not, to every route: first as
/// it comes, then about things that are there.
#[tokio::test]
#[ignore = "full: minutes of requests"]
async fn schemathesis_finds_no_server_error() {
    if tools::schemathesis().is_none() {
        return;
    }
    let broker = anybody().start().await;
    let admin = broker.admin();
    let (_client, _) = Client::connect(broker.plain_options("seven")).await.unwrap();
    let device = broker.pki.device("device-7");
    admin.run(&["ca", "add", "--name", "factory", broker.pki.ca().to_str().unwrap()]);
    admin.run(&["cert", "register", device.certificate.to_str().unwrap()]);
    admin.run(&["bans", "add", "--address", "192.0.2.0/24"]);
    admin.run(&["admin", "token", "create", "night-shift", "--role", "viewer"]);
    let kept = json!({ "topic": "kept", "payload": "text", "retain": true });
    assert_eq!(admin.ask("POST", "/publish", &[], &kept).0, 200);
    let (_, _, description) = admin.ask("GET", "/openapi.json", &[], &Value::Null);
    let ran = |name: &str, phases: &str| {
        let mut schemathesis = tools::schemathesis().unwrap();
        schemathesis
            .args(["run", &format!("{}/api/v1/openapi.json", admin.url())])
            .args(["-H", &format!("Authorization: Bearer {}", admin.token())])
            .args(["--phases", phases, "--max-examples", "15", "--seed", "7", "--no-color"])
            .args(["--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"])
            .args(["--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off"])
            .args(["--report-json-path", broker.folder.join(name).to_str().unwrap()])
            .current_dir(&broker.folder);
        for stream in streams(&description) {
            schemathesis.args(["--exclude-operation-id", &stream]);
        }
        let output = schemathesis.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let said = ran("anything.json", "examples,coverage,fuzzing");
    let things = [
        ("/device-certs/{id}", "id", &*device.fingerprint),
        ("/provisioning/pending/{id}", "id", &device.fingerprint),
        ("/tombstones/{id}", "id", &device.fingerprint),
        ("/cas/{id}", "id", "factory"),
        ("/tokens/{id}", "id", "night-shift"),
        ("/bans/{id}", "id", "1"),
        ("/listeners/{name}", "name", "main"),
        ("/clients/{client_id}", "client_id", "seven"),
        ("/sessions/{client_id}", "client_id", "seven"),
    ];
    let mut config = String::new();
    for (path, parameter, value) in things {
        let path = format!("^/api/v1{}(/|$)", path.replace('{', "\\{").replace('}', "\\}"));
        config += &format!("[[operations]]\ninclude-path-regex = '{path}'\n");
        config += &format!("parameters = {{ \"path.{parameter}\" = \"{value}\" }}\n");
    }
    std::fs::write(broker.folder.join("schemathesis.toml"), config).unwrap();
    let more = ran("things.json", "coverage,fuzzing");
    // It has really asked, and the broker is as well as before.
    let (status, _, answer) = admin.ask("GET", "/status", &[], &Value::Null);
    assert_eq!((status, &answer["ready"]), (200, &json!(true)), "{answer}");
    for (method, route) in [("GET", "/bans"), ("GET", "/cas/{id}"), ("GET", "/device-certs/{id}/history")] {
        let series =
            format!("mqgate_admin_requests_total{{code=\"200\",method=\"{method}\",route=\"{route}\"}}");
        assert!(admin.metric(&series) > 0.0, "{route}: {said}{more}");
    }
    for said in [said, more] {
        tools::note(said.lines().rev().take(12).collect::<Vec<_>>().join("\n").as_str());
    }
}

/// Operations whose answer does not end by itself; tests of their own read them.
fn streams(description: &Value) -> Vec<String> {
    let paths = description["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let endless = operations
        .filter(|operation| operation["responses"]["200"]["content"].get("text/event-stream").is_some());
    endless.map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_description_is_the_same_with_and_without_a_broker() {
    let broker = anybody().start().await;
    let admin = broker.admin();
    let (status, head, served) = admin.ask("GET", "/openapi.json", &[], &Value::Null);
    assert_eq!((status, head["content-type"].to_str().unwrap()), (200, "application/json"));
    let offline = Command::new(mqgate()).args(["admin", "openapi"]).output().unwrap();
    let offline: Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert!(served == offline, "`mqgate admin openapi` and the broker differ");
    // Every route that a command uses is in it.
    for path in
        ["/cas", "/device-certs", "/plugins", "/listeners/{name}", "/certs/bundles", "/crls", "/bridges"]
    {
        assert!(served["paths"].get(format!("/api/v1{path}")).is_some(), "{path}");
    }
}

#[tokio::test]
async fn a_token_of_a_role_works_until_it_is_revoked() {
    let mut broker = anybody().start().await;
    let admin = broker.admin();
    let secret = admin.run(&["admin", "token", "create", "night-shift", "--role", "viewer", "--for", "1h"]);
    let secret = secret.trim().to_owned();
    let with = |broker: &Broker, arguments: &[&str]| {
        let mut command = Command::new(mqgate());
        command.args(arguments).env("MQGATE_URL", broker.admin().url()).env("MQGATE_TOKEN", &secret);
        command.output().unwrap()
    };
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(with(&broker, &["clients", "list"]).status.success());
    let refused = with(&broker, &["bans", "add", "--client", "x"]);
    assert!(!refused.status.success() && said(&refused).contains("bans:write"), "{}", said(&refused));
    let line = broker.audited("the attempt", |line| line["fields"]["code"] == "scope_missing").await;
    assert_eq!(line["actor"], "admin:night-shift");
    // Kept over a restart.
    broker.kill_and_restart();
    broker.open();
    assert!(with(&broker, &["clients", "list"]).status.success());
    let listed = broker.admin().json(&["admin", "token", "list"]);
    assert_eq!(listed[0]["name"], "night-shift");
    assert!(!listed.to_string().contains(&secret));
    broker.admin().run(&["admin", "token", "revoke", "night-shift"]);
    let refused = with(&broker, &["clients", "list"]);
    assert!(said(&refused).contains("token_wrong"), "{}", said(&refused));
    let files = std::fs::read(broker.folder.join("audit.jsonl")).unwrap();
    let (_, random) = secret.rsplit_once('_').unwrap();
    assert!(!String::from_utf8_lossy(&files).contains(random), "the secret is in the audit log");
}

#[tokio::test]
async fn an_operators_certificate_has_the_rights_that_the_configuration_gives_it() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    let operators = Pki::create(&folder.join("operators"), "operators");
    let (alice, bob) = (operators.device("alice"), operators.device("bob"));
    let config = format!(
        "[admin.tls]\ncertfile = \"pki/server.pem\"\nkeyfile = \"pki/server.key\"\ncacertfile = \"operators/ca.pem\"\n\
         [[admin.operators]]\nname = \"alice\"\nfingerprint = \"{}\"\nroles = [\"viewer\"]\n",
        alice.fingerprint
    );
    let broker = Broker::builder().tcp().config(&config).start_in(folder, pki, Some(temporary)).await;
    let text = std::fs::read_to_string(broker.folder.join("data/endpoints.json")).unwrap();
    let known: Value = serde_json::from_str(&text).unwrap();
    let port = known["admin"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let ca = broker.pki.ca();
    let with = |who: &mqgate_e2e::Identity, token: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(mqgate());
        command.args(arguments).env("MQGATE_URL", format!("https://localhost:{port}"));
        command.env("MQGATE_CACERT", &ca).env("MQGATE_CLIENT_CERT", &who.certificate);
        command.env("MQGATE_CLIENT_KEY", &who.key).env("MQGATE_TOKEN", token.unwrap_or_default());
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(with(&alice, None, &["clients", "list"]), (true, String::new()), "no token is needed");
    let (done, said) = with(&alice, None, &["bans", "add", "--client", "x"]);
    assert!(!done && said.contains("scope_missing"), "{said}");
    let (done, said) = with(&bob, None, &["clients", "list"]);
    assert!(!done && said.contains("token_missing"), "{said}");
    // A token counts where there is one.
    let token = std::fs::read_to_string(broker.folder.join("data/admin.token")).unwrap();
    let (done, said) = with(&bob, Some(token.trim()), &["bans", "add", "--client", "x"]);
    assert!(done, "{said}");
    let (done, said) = with(&alice, Some("0123456789abcdef"), &["clients", "list"]);
    assert!(!done && said.contains("token_wrong"), "{said}");
    let line = broker.audited("alice's attempt", |line| line["fields"]["code"] == "scope_missing").await;
    assert!(line["actor"].as_str().unwrap().starts_with("admin:alice ("), "{line}");
}

#[tokio::test]
async fn a_change_for_another_revision_is_refused() {
    let broker = Broker::builder().start().await;
    let admin = broker.admin();
    let read = |name: &str| std::fs::read_to_string(broker.folder.join("pki").join(name)).unwrap();
    let material = json!({ "chain": read("server.pem"), "key": read("server.key") });
    let mut first = material.clone();
    first["name"] = "shop".into();
    let tried = admin.ask("POST", "/certs/bundles?dry_run=true", &[], &first);
    assert_eq!((tried.0, &tried.2["dry_run"]), (200, &json!(true)), "{}", tried.2);
    let path = "/certs/bundles/global/shop";
    assert_eq!(admin.ask("GET", path, &[], &Value::Null).0, 404, "a try keeps nothing");
    assert_eq!(admin.ask("POST", "/certs/bundles", &[], &first).0, 201);
    let (_, head, _) = admin.ask("GET", path, &[], &Value::Null);
    let tag = head["etag"].to_str().unwrap().to_owned();
    assert_eq!(tag, "\"1\"");
    assert_eq!(admin.ask("GET", path, &[("If-None-Match", &tag)], &Value::Null).0, 304);
    let (status, _, answer) = admin.ask("PUT", path, &[("If-Match", "\"7\"")], &material);
    assert_eq!((status, &answer["code"]), (412, &json!("revision_mismatch")), "{answer}");
    assert_eq!(admin.ask("PUT", path, &[("If-Match", &tag)], &material).0, 200);
    let (status, _, answer) = admin.ask("PUT", path, &[("If-Match", &tag)], &material);
    assert_eq!((status, &answer["revision"]), (412, &json!(2)), "{answer}");
    // Settings of a listener have no number; their tag is made from them.
    let (_, head, _) = admin.ask("GET", "/listeners/main", &[], &Value::Null);
    let tag = head["etag"].to_str().unwrap().to_owned();
    let patch = json!({ "max_connections": 77 });
    let (status, _, answer) = admin.ask("PATCH", "/listeners/main", &[("If-Match", &tag)], &patch);
    assert_eq!(status, 200, "{answer}");
    let (status, _, answer) = admin.ask("PATCH", "/listeners/main", &[("If-Match", &tag)], &patch);
    assert_eq!((status, &answer["code"]), (412, &json!("revision_mismatch")), "{answer}");
}
