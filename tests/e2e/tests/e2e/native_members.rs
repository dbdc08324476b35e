//! A broker without any component: the native members of the chain, alone and beside components.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mqgate_client::{Client, ConnectOptions};
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, PATIENT};
use serde_json::Value;

/// What a client with these options is told when it publishes to `topic`.
async fn publish(options: ConnectOptions, topic: &str) -> ReasonCode {
    let (client, _) = Client::connect(options).await.expect("it is let in");
    client.publish(topic, "x", QoS::AtLeastOnce, false).await.expect("it is answered")
}

fn is_allowed(reason: ReasonCode) -> bool {
    !reason.is_error()
}

#[tokio::test]
async fn a_static_policy_maps_certificates_to_topics() {
    let policy = r#"
[[plugins.config.rules]]
match = { cn = "meter-*" }
device_id = "${cn}"
client_id = "${cn}"
publish = ["meters/${device-id}/#"]
subscribe = ["orders/${device-id}"]
"#;
    let broker = Broker::builder().auth_mode("mutual").with_native("static-policy", policy).start().await;
    let meter = broker.pki.device("meter-7");
    assert!(is_allowed(publish(broker.options("meter-7", &meter), "meters/meter-7/kwh").await));
    let elsewhere = publish(broker.options("meter-7", &meter), "meters/meter-8/kwh").await;
    assert_eq!(elsewhere, ReasonCode::NOT_AUTHORIZED);
    let error = Client::connect(broker.options("another-id", &meter)).await.err().expect("its id is another");
    assert_eq!(error.reason_code(), Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID), "{error}");
    let error =
        Client::connect(broker.options("x", &broker.pki.device("pump"))).await.err().expect("no rule");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
}

#[tokio::test]
async fn user_name_and_password_from_a_file() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("users.txt");
    let mut passwd = Command::new(mqgate())
        .args(["passwd", "add"])
        .arg(&file)
        .arg("ann")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    passwd.stdin.take().unwrap().write_all(b"correct horse").unwrap();
    assert!(passwd.wait().unwrap().success());
    assert!(std::fs::read_to_string(&file).unwrap().contains("$argon2id$"));

    let member = format!("config = {{ file = {:?}, acl = \"users\" }}", file.display().to_string());
    let acl = "[[policy.acls.users.rules]]\ntopic = \"users/${device-id}/#\"\n";
    let broker = Broker::builder().tcp().config(acl).with_native("password-file", &member).start().await;
    let login = |user: &str, password: &'static str| {
        let mut options = broker.plain_options("x");
        options.user_name = Some(user.into());
        options.password = Some(password.into());
        options
    };
    assert!(is_allowed(publish(login("ann", "correct horse"), "users/ann/x").await));
    assert_eq!(publish(login("ann", "correct horse"), "users/bob/x").await, ReasonCode::NOT_AUTHORIZED);
    for (user, password) in [("ann", "wrong"), ("bob", "correct horse"), ("ann", "")] {
        let error = Client::connect(login(user, password)).await.err().expect("a wrong password");
        assert_eq!(error.reason_code(), Some(ReasonCode::BAD_USER_NAME_OR_PASSWORD), "{user}: {error}");
    }
    assert!(Client::connect(broker.plain_options("x")).await.is_err(), "nobody without a name");
    assert!(!std::fs::read_to_string(broker.folder.join("broker.log")).unwrap().contains("correct horse"));
}

#[tokio::test]
async fn anonymous_is_for_loopback_alone() {
    let broker = Broker::builder().tcp().with_native("anonymous", "").start().await;
    assert!(is_allowed(publish(broker.plain_options("x"), "any/topic").await));
    assert_eq!(publish(broker.plain_options("x"), "$SYS/x").await, ReasonCode::NOT_AUTHORIZED);

    let folder = tempfile::tempdir().unwrap();
    let open = "[listeners.main]\ntype = \"tcp\"\nbind = \"0.0.0.0:0\"\n[[plugins]]\nname = \"anonymous\"\nnative = \"anonymous\"\n";
    std::fs::write(folder.path().join("mqgate.toml"), open).unwrap();
    let output =
        Command::new(mqgate()).args(["config", "check"]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("listener `main` can be reached by others"), "{said}");
}

/// As test suites and examples of other brokers have it: names that nobody checks, at a listener that others can reach.
#[tokio::test]
async fn anonymous_is_for_the_networks_that_are_named() {
    let anybody = r#"config = { from = ["127.0.0.0/8"], ignore_user_name = true }"#;
    let broker = Broker::builder().tcp().with_native("anonymous", anybody).start().await;
    let mut named = broker.plain_options("x");
    named.user_name = Some("testuser".into());
    named.password = Some("testpassword".into());
    assert!(is_allowed(publish(named.clone(), "any/topic").await));
    assert!(is_allowed(publish(broker.plain_options("y"), "any/topic").await));

    let others = r#"config = { from = ["192.0.2.0/24"], ignore_user_name = true }"#;
    let broker = Broker::builder().tcp().with_native("anonymous", others).start().await;
    let error = Client::connect(broker.plain_options("x")).await.err().expect("from elsewhere");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let check = |from: &str| {
        let open = format!(
            "[listeners.main]\ntype = \"tcp\"\nbind = \"0.0.0.0:0\"\n[[plugins]]\nname = \"anonymous\"\n\
             native = \"anonymous\"\nconfig = {{ from = [\"{from}\"] }}\n"
        );
        std::fs::write(folder.path().join("mqgate.toml"), open).unwrap();
        let output =
            Command::new(mqgate()).args(["config", "check"]).current_dir(folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = check("10.1.0.0/16");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check("10.1.0.1/16");
    assert!(code == Some(78) && said.contains("it would be `10.1.0.0/16`"), "{said}");
}

/// On one listener the first member that grants decides, on the other what both grant; a change holds for who connects next.
#[tokio::test]
async fn of_several_grants_every_one_has_to_allow() {
    let policy = r#"config = { rules = [{ match = { cn = "*" }, publish = ["devices/+/up", "other/#"] }] }"#;
    let second = "[listeners.second]\nbind = \"127.0.0.1:0\"\nauth_mode = \"mutual\"\n\
                  certfile = \"pki/server.pem\"\nkeyfile = \"pki/server.key\"\ncacertfile = \"pki/ca.pem\"\n\
                  chain = { authorizer = \"first\" }\n[policy.chain]\nauthorizer = \"all\"\n";
    let broker = Broker::builder()
        .auth_mode("mutual")
        .config(second)
        .with_cert_acl(PATIENT)
        .with_native("static-policy", policy)
        .start()
        .await;
    let device = broker.pki.device("device-7");
    let on_main = broker.options("x", &device);
    let mut on_second = on_main.clone();
    on_second.port = broker.port_of("second").await;
    let all = [("devices/device-7/up", true), ("devices/device-7/down", false), ("other/x", false)];
    for (topic, allowed) in all {
        assert_eq!(is_allowed(publish(on_main.clone(), topic).await), allowed, "{topic}");
    }
    let first = [("devices/device-7/up", true), ("devices/device-7/down", true), ("other/x", false)];
    for (topic, allowed) in first {
        assert_eq!(is_allowed(publish(on_second.clone(), topic).await), allowed, "{topic}");
    }
    let admin = broker.admin();
    let certificate = device.certificate.display().to_string();
    let ask = |listener: &str| {
        let question =
            ["explain", "--listener", listener, "--cert", &certificate, "--topic", "devices/device-7/down"];
        admin.json(&question)
    };
    let (main, second) = (ask("main"), ask("second"));
    assert_eq!(main["grant"]["all"].as_array().map(Vec::len), Some(2), "{main}");
    assert_eq!(
        (&main["topics"][0]["publish"], &main["grant"]["all"][1]["by"]),
        (&Value::Null, &"static-policy".into())
    );
    let asked: Vec<_> =
        main["plugins"].as_array().unwrap().iter().map(|plugin| plugin["hook"].to_string()).collect();
    assert_eq!(asked, ["\"authenticator\"", "\"authorizer\"", "\"authorizer\""]);
    assert!(second["grant"]["rules"].is_array() && second["topics"][0]["publish"] == 2, "{second}");

    broker.rewrite(|text| {
        text.replace("[policy.chain]\nauthorizer = \"all\"", "[policy.chain]\nauthorizer = \"first\"")
    });
    admin.run(&["reload"]);
    assert!(is_allowed(publish(on_main, "devices/device-7/down").await));
}
