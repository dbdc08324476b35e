//! The commands of CAs and device certificates, and what would happen to a client.

use std::process::Output;

use mqgate_client::Client;
use mqgate_e2e::{Admin, Broker, Pki};
use serde_json::{Value, json};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command that is refused says.
fn refused(admin: &Admin, arguments: &[&str]) -> String {
    let output = admin.try_run(arguments);
    let text = said(&output);
    assert!(!output.status.success(), "mqgate {arguments:?} should be refused: {text}");
    text
}

/// A CA that somebody else runs, with its key as a file.
fn factory(broker: &Broker, admin: &Admin, name: &str) {
    let dir = broker.folder.join("pki");
    let dir = dir.to_str().unwrap();
    admin.run(&["pki", "ca", "--cn", &format!("{name} CA"), "--name", name, "--dir", dir]);
}

fn file(broker: &Broker, name: &str) -> String {
    broker.folder.join("pki").join(name).display().to_string()
}

#[tokio::test]
async fn a_ca_is_registered_with_a_proof_and_without_one_it_verifies_nothing() {
    let broker = Broker::builder().with_auto_register("").with_cert_acl("").start().await;
    let admin = broker.admin();
    factory(&broker, &admin, "factory");
    let (ca, key) = (file(&broker, "factory.pem"), file(&broker, "factory.key"));
    let text = admin.run(&["ca", "register", &ca, "--name", "factory"]);
    assert!(text.contains("PENDING_ACTIVATION") && text.contains("mqgate ca verify"), "{text}");
    assert_eq!(admin.json(&["ca", "show", "factory"])["state"], "PENDING_ACTIVATION");

    // Somebody else's key proves nothing, and a code is good once.
    factory(&broker, &admin, "other");
    let other = file(&broker, "other.key");
    assert!(
        refused(&admin, &["ca", "verify", "factory", "--ca-key", &other])
            .contains("does not belong to the key")
    );
    let text = refused(&admin, &["ca", "verify", "factory"]);
    assert!(text.contains("--ca-key FILE"), "{text}");
    let text = admin.run(&["ca", "verify", "factory", "--ca-key", &key]);
    assert!(text.starts_with("verified: factory") && text.contains("ACTIVE"), "{text}");
    let codes = admin.json(&["ca", "code", "list"]);
    let used: Vec<_> = codes.as_array().unwrap().iter().filter(|code| code["used"].is_object()).collect();
    assert_eq!(used.len(), 1, "{codes}");
    assert_eq!(admin.json(&["ca", "show", "factory"])["verified_by"], "registration_code");
    broker
        .audited("the verification", |line| line["name"] == "ca.verified" && line["actor"] == "admin:default")
        .await;

    // Registered again: no change.
    let before = admin.json(&["ca", "show", "factory"])["revision"].clone();
    admin.run(&["ca", "register", &ca, "--name", "factory"]);
    assert_eq!(admin.json(&["ca", "show", "factory"])["revision"], before);
    // A code that was deleted is none.
    let code = admin.json(&["ca", "code", "new"])["code"].as_str().unwrap().to_owned();
    admin.run(&["ca", "code", "delete", &code]);
    assert!(refused(&admin, &["ca", "code", "delete", &code]).contains("not_found"));
}

#[tokio::test]
async fn settings_of_a_ca_and_its_states() {
    let broker = Broker::builder().with_auto_register("").with_cert_acl("").start().await;
    let admin = broker.admin();
    factory(&broker, &admin, "factory");
    let (ca, key) = (file(&broker, "factory.pem"), file(&broker, "factory.key"));
    admin.run(&["ca", "register", &ca, "--name", "factory", "--ca-key", &key, "--max-device-certs", "5"]);
    let set = ["ca", "set", "factory", "--auto-registration", "pending", "--subject-pattern", "CN=meter-*"];
    assert!(admin.run(&[&set[..], &["--dry-run"]].concat()).contains("nothing is changed"));
    assert_eq!(admin.json(&["ca", "show", "factory"])["settings"]["auto_registration"], "active");
    admin.run(&set);
    let settings = admin.json(&["ca", "show", "factory"])["settings"].clone();
    assert_eq!(settings["auto_registration"], "pending");
    assert_eq!(
        (&settings["max_device_certs"], &settings["subject_patterns"]),
        (&json!(5), &json!(["CN=meter-*"]))
    );
    admin.run(&["ca", "set", "factory", "--max-device-certs", "none", "--subject-pattern", "none"]);
    let settings = admin.json(&["ca", "show", "factory"])["settings"].clone();
    assert!(settings["max_device_certs"].is_null() && settings["subject_patterns"].is_null(), "{settings}");
    assert!(refused(&admin, &["ca", "set", "factory"]).contains("mqgate ca set --help"));
    assert!(
        refused(&admin, &["ca", "set", "factory", "--subject-pattern", "meter-*"]).contains("bad_pattern")
    );

    let device = file(&broker, "meter-1.pem");
    let dir = file(&broker, "");
    admin.run(&["pki", "device", "--cn", "meter-1", "--ca", "factory", "--dir", &dir]);
    admin.run(&["cert", "register", &device]);
    let impact = admin.json(&["ca", "impact", "factory"]);
    assert_eq!(
        (&impact["certificates"], &impact["connections"]),
        (&json!({ "ACTIVE": 1 }), &json!(0)),
        "{impact}"
    );
    assert!(admin.run(&["ca", "impact", "factory"]).contains("revoke"));

    admin.run(&["ca", "deactivate", "factory"]);
    assert_eq!(admin.json(&["cert", "show", "meter-1"])["effective"], "ca_inactive");
    let listed = admin.json(&["cert", "list", "--effective", "ca_inactive"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    admin.run(&["ca", "activate", "factory"]);
    assert_eq!(admin.json(&["cert", "show", "meter-1"])["effective"], "ok");
    let text = refused(&admin, &["ca", "remove", "factory"]);
    assert!(text.contains("related_device_certificates_exist"), "{text}");
    assert!(refused(&admin, &["ca", "remove", "factory", "--cascade", "revoke"]).contains("ca_in_use"));

    admin.run(&["ca", "revoke", "factory"]);
    assert_eq!(admin.json(&["ca", "show", "factory"])["state"], "REVOKED");
    assert!(refused(&admin, &["ca", "activate", "factory"]).contains("ca_revoked"));
    admin.run(&["ca", "remove", "factory", "--cascade", "revoke"]);
    assert_eq!(admin.json(&["cert", "show", &device])["state"], "REVOKED");
    assert!(
        refused(&admin, &["ca", "register", &ca, "--name", "again", "--ca-key", &key]).contains("ca_revoked")
    );
    assert!(refused(&admin, &["ca", "show", "factory"]).contains("mqgate ca list"));
}

#[tokio::test]
async fn the_life_of_a_certificate_command_by_command() {
    let broker = Broker::builder().with_auto_register("").with_cert_acl("").start().await;
    let admin = broker.admin();
    let device = broker.pki.device("device-7");
    let pem = device.certificate.to_str().unwrap();
    let tried = admin.run(&["cert", "register", pem, "--client-id", "meter-7", "--dry-run"]);
    assert!(tried.contains("nothing is changed") && tried.contains("no record -> ACTIVE"), "{tried}");
    assert_eq!(admin.json(&["cert", "list"]), json!([]));
    let text = admin.run(&["cert", "register", pem, "--client-id", "meter-7", "--attribute", "site=north"]);
    assert!(text.contains("device device-7, client id meter-7, ACTIVE"), "{text}");
    // By file, by device, by a beginning of its SHA-256.
    for id in [pem, "device-7", &device.fingerprint[..8], &device.fingerprint] {
        assert_eq!(admin.json(&["cert", "show", id])["id"], device.fingerprint.as_str(), "{id}");
    }
    assert!(refused(&admin, &["cert", "show", "device-8"]).contains("mqgate cert list"));

    let (_, _) = Client::connect(broker.options("meter-7", &device)).await.expect("it is registered");
    let (live, _) = Client::connect(broker.options("meter-7", &device)).await.unwrap();
    let sessions = admin.json(&["cert", "sessions", "device-7"]);
    assert_eq!(sessions[0]["client_id"], "meter-7", "{sessions}");
    assert!(Client::connect(broker.options("other", &device)).await.is_err(), "it is bound");
    admin.run(&["cert", "bind", "device-7", "--none"]);
    Client::connect(broker.options("other", &device)).await.expect("bound no more");
    admin.run(&["cert", "set", "device-7", "--tag", "lot-17", "--tenant", "acme"]);
    let record = admin.json(&["cert", "show", "device-7"]);
    assert_eq!((&record["tags"], &record["tenant"]), (&json!(["lot-17"]), &json!("acme")));
    assert_eq!(record["attributes"], json!({ "site": "north" }), "what is not named stays");
    assert!(refused(&admin, &["cert", "set", "device-7"]).contains("mqgate cert bind"));

    let tried = admin.json(&["cert", "quarantine", "device-7", "--why", "odd", "--dry-run"]);
    assert!(tried["affects"]["connections_closed"].as_u64() > Some(0), "{tried}");
    admin.run(&["cert", "quarantine", "device-7", "--why", "odd"]);
    assert_eq!(admin.json(&["cert", "show", "device-7"])["effective"], "cert_quarantined");
    assert!(Client::connect(broker.options("other", &device)).await.is_err());
    admin.run(&["cert", "quarantine", "device-7", "--release"]);
    admin.run(&["cert", "deactivate", "device-7"]);
    assert!(refused(&admin, &["cert", "pending", "approve", "device-7"]).contains("INACTIVE"));
    admin.run(&["cert", "activate", "device-7"]);
    assert!(refused(&admin, &["cert", "remove", "device-7"]).contains("cert_active"));
    admin.run(&["cert", "remove", "device-7", "--force"]);
    let tombstones = admin.json(&["cert", "tombstones", "list"]);
    assert_eq!(tombstones[0]["device_id"], "device-7", "{tombstones}");
    assert!(refused(&admin, &["cert", "register", pem]).contains("cert_tombstoned"));
    admin.run(&["cert", "tombstones", "purge", pem]);
    assert_eq!(admin.json(&["cert", "tombstones", "list"]), json!([]));
    admin.run(&["cert", "register", pem]);

    let history = admin.json(&["cert", "history", pem]);
    // What was found besides, and what was done.
    let (findings, done): (Vec<_>, Vec<_>) = history.as_array().unwrap().iter().partition(|event| {
        ["certs.binding_violation", "certs.shared_detected"].contains(&event["event"].as_str().unwrap())
    });
    assert!(!findings.is_empty(), "{history}");
    let happened: Vec<_> = done.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let expected = [
        "certs.registered",
        "certs.changed",
        "certs.changed",
        "certs.quarantined",
        "certs.released",
        "certs.deactivated",
        "certs.activated",
        "certs.deleted",
        "certs.purged",
        "certs.registered",
    ];
    assert_eq!(happened, expected);
    assert!(done.iter().all(|event| event["actor"] == "admin:default"), "{history}");
    let devices = admin.json(&["cert", "devices"]);
    assert_eq!((&devices[0]["device_id"], &devices[0]["state"]), (&json!("device-7"), &json!("ACTIVE")));
    drop(live);
}

#[tokio::test]
async fn filters_and_one_thing_to_many() {
    let broker = Broker::builder().start().await;
    let admin = broker.admin();
    for (name, tag) in [("a-1", "red"), ("a-2", "red"), ("b-1", "blue")] {
        let device = broker.pki.device(name);
        admin.run(&["cert", "register", device.certificate.to_str().unwrap(), "--tag", tag]);
    }
    let soon = broker.pki.device_valid_for("soon", std::time::Duration::from_secs(20 * 86_400));
    admin.run(&["cert", "register", soon.certificate.to_str().unwrap()]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let listed = admin.json(&[&["cert", "list"], arguments].concat());
        let mut names: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["device_id"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&["--expires-within", "30d"]), ["soon"]);
    assert_eq!(names(&["--tag", "red"]), ["a-1", "a-2"]);
    assert!(refused(&admin, &["cert", "list", "--ca", "nobody"]).contains("mqgate ca list"));
    assert_eq!(names(&["--cn", "b-1", "--source", "api"]), ["b-1"]);
    assert!(refused(&admin, &["cert", "list", "--state", "SLEEPING"]).contains("the states are"));
    assert!(refused(&admin, &["cert", "list", "--expires-within", "soon"]).contains("30d"));

    let tried = admin.json(&["cert", "batch", "deactivate", "--tag", "red", "--dry-run"]);
    assert_eq!(tried["affects"]["changed"], 2, "{tried}");
    assert_eq!(names(&["--state", "INACTIVE"]), Vec::<String>::new());
    let text = admin.run(&["cert", "batch", "deactivate", "--tag", "red"]);
    assert!(text.contains("2 of 2 changed"), "{text}");
    assert_eq!(names(&["--state", "INACTIVE"]), ["a-1", "a-2"]);
    let text = refused(&admin, &["cert", "batch", "remove", "--all"]);
    assert!(text.contains("2 of 4 changed") && text.contains("cert_active"), "{text}");
    assert!(refused(&admin, &["cert", "batch", "revoke"]).contains("--all"));
    admin.run(&["cert", "batch", "revoke", "--tag", "blue", "--reason", "key-compromise"]);
    assert_eq!(admin.json(&["cert", "show", "b-1"])["revocation_reason"], "keyCompromise");
}

fn step<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let steps = answer["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name}: {answer}"))
}

/// The command ends with 1 where the client would not get in: what it printed counts all the same.
fn explained(admin: &Admin, arguments: &[&str]) -> Value {
    let output = admin.try_run(&[&["explain"], arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

#[tokio::test]
async fn an_explanation_tells_every_step_and_changes_nothing() {
    let broker = Broker::builder().with_auto_register("").with_cert_acl("").start().await;
    let admin = broker.admin();
    let device = broker.pki.device("device-7");
    let pem = device.certificate.to_str().unwrap();
    let calls = "mqgate_plugin_calls_total{hook=\"registrar\",plugin=\"auto-register\",result=\"allow\"}";
    let (before, counted) = (broker.audit().len(), admin.metric(calls));

    let answer = explained(&admin, &["--cert", pem, "--client-id", "seven", "--topic", "devices/device-7/x"]);
    assert_eq!((&answer["admitted"], &answer["client_id"]), (&json!(true), &json!("seven")), "{answer}");
    for name in [
        "asked",
        "signature",
        "anchor",
        "validity",
        "bans",
        "registry",
        "registration",
        "authorizers",
        "permit",
    ] {
        assert_eq!(step(&answer, name)["outcome"], "passed", "{name}: {answer}");
    }
    let plugin = |name: &str| {
        let all = answer["plugins"].as_array().unwrap();
        all.iter().find(|verdict| verdict["name"] == name && verdict["result"] != "abstain").cloned().unwrap()
    };
    for name in ["auto-register", "cert-acl"] {
        let verdict = plugin(name);
        assert!(verdict["digest"].as_str().unwrap().starts_with("sha256:"), "{verdict}");
        assert!(verdict["microseconds"].as_u64() > Some(0), "{verdict}");
    }
    assert_eq!(answer["topics"][0], json!({ "topic": "devices/device-7/x", "publish": 2, "subscribe": 2 }));
    // No side effect: nothing is registered, counted or written down.
    assert_eq!(admin.json(&["cert", "list"]), json!([]));
    assert_eq!(admin.metric(calls), counted);
    let added: Vec<Value> = broker.audit().split_off(before);
    assert!(added.iter().all(|line| line["actor"] != "client"), "{added:?}");

    // And what it said is what happens.
    Client::connect(broker.options("seven", &device)).await.expect("as explained");
    admin.run(&["cert", "revoke", "device-7"]);
    let answer = explained(&admin, &["--cert", pem]);
    assert_eq!((&answer["admitted"], &answer["reason"]), (&json!(false), &json!("cert_revoked")));
    assert_eq!(step(&answer, "registry")["outcome"], "failed");
    assert_eq!((&answer["answer"]["v5"], &answer["answer"]["v3_1_1"]), (&json!(0x87), &json!(5)));
    assert!(Client::connect(broker.options("seven", &device)).await.is_err());

    let other = Pki::create(&broker.folder.join("other"), "other");
    let stranger = other.device("stranger");
    let text = refused(&admin, &["explain", "--cert", stranger.certificate.to_str().unwrap()]);
    assert!(text.contains("FAILED  anchor") && text.contains("the handshake fails"), "{text}");
    let text = refused(&admin, &["explain", "--cert", pem, "--listener", "nowhere"]);
    assert!(text.contains("there are: main"), "{text}");
    let text = refused(&admin, &["explain"]);
    assert!(text.contains("tls_no_peer_cert"), "{text}");
}
