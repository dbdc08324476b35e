//! What operators see of listeners, and what CAs in a file mean to them.

use std::path::Path;
use std::process::{Command, Stdio};

use mqgate_client::{Client, ConnectOptions};
use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, Identity, Pki, eventually, tools};

async fn gets_in(options: ConnectOptions) -> bool {
    Client::connect(options).await.is_ok()
}

#[tokio::test]
async fn listeners_are_shown_with_their_connections() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let admin = broker.admin();
    let connections = || {
        let list = admin.json(&["listener", "list"]);
        let main = list.as_array().unwrap().iter().find(|item| item["name"] == "main").unwrap().clone();
        (main["connections"].as_i64().unwrap(), main["accepted"].as_u64().unwrap(), main)
    };
    let first = Client::connect(broker.options("first", &device)).await.unwrap();
    let second = Client::connect(broker.options("second", &device)).await.unwrap();
    let (now, accepted, main) = connections();
    assert_eq!((now, accepted), (2, 2));
    assert_eq!((&main["type"], &main["state"]), (&"tls".into(), &"open".into()));
    assert_eq!(main["address"], format!("127.0.0.1:{}", broker.port()));
    assert_eq!((&main["trusted_cas"], &main["max_connections"]), (&1.into(), &100_000.into()));
    drop(second);
    eventually("one of them has gone", async || (connections().0 == 1).then_some(())).await;
    let shown = admin.json(&["listener", "show", "main"]);
    assert_eq!((&shown["connections"], &shown["accepted"]), (&1.into(), &2.into()));
    assert_eq!(shown["settings"]["auth_mode"], "per-device");
    assert_eq!(shown["certificates"][0]["server_names"][0], "localhost");
    let table = admin.run(&["listener", "list"]);
    assert!(
        table.contains("CONNECTIONS") && table.contains("main") && table.contains("per-device"),
        "{table}"
    );
    drop(first);
}

/// `{name}.pem` below the CA `{ca}.pem`.
fn issue(folder: &Path, ca: &str, name: &str, extensions: &str) {
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    for line in [
        format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"),
        format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"),
        format!(
            "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 30 -extfile extensions -out {name}.pem"
        ),
    ] {
        tools::succeed(tools::openssl().unwrap().current_dir(folder).args(line.split_whitespace()));
    }
}

/// The CAs that a client is told are welcome.
fn hints(broker: &Broker) -> Vec<String> {
    let mut openssl = tools::openssl().unwrap();
    openssl.args(["s_client", "-connect", &format!("127.0.0.1:{}", broker.port())]);
    // Without a certificate it is refused after it was told.
    let output = openssl.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("No client certificate CA names sent") {
        return Vec::new();
    }
    let names =
        text.split("Acceptable client certificate CA names\n").nth(1).unwrap_or_else(|| panic!("{text}"));
    names.lines().take_while(|line| line.contains('=')).map(str::to_owned).collect()
}

#[tokio::test]
async fn one_file_holds_roots_intermediates_and_more_cas_and_clients_are_told_of_them() {
    if tools::openssl().is_none() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    let other = Pki::create(&folder.join("other"), "other");
    // A root that is not in the file, an intermediate of it that is, and one that is not.
    let files = folder.join("chain");
    std::fs::create_dir(&files).unwrap();
    let make = [
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key",
        "req -x509 -new -key root.key -subj /CN=Root -days 30 -out root.pem",
    ];
    for line in make {
        tools::succeed(tools::openssl().unwrap().current_dir(&files).args(line.split_whitespace()));
    }
    let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
    issue(&files, "root", "trusted", ca);
    issue(&files, "root", "untrusted", ca);
    let device = |ca: &str, name: &str| {
        issue(&files, ca, name, "extendedKeyUsage=clientAuth\n");
        let file = |ending: &str| files.join(format!("{name}.{ending}"));
        Identity {
            certificate: file("pem"),
            key: file("key"),
            fingerprint: String::new(),
            serial: Vec::new(),
        }
    };
    let (below, beside) = (device("trusted", "below"), device("untrusted", "beside"));
    let mut text = std::fs::read(pki.ca()).unwrap();
    for file in [other.ca(), files.join("trusted.pem")] {
        text.extend(b"# one more\n");
        text.extend(std::fs::read(file).unwrap());
    }
    std::fs::write(pki.ca(), text).unwrap();

    let mut broker =
        Broker::builder().with_bundled_plugins().start_in(folder.clone(), pki, Some(temporary)).await;
    let first = broker.pki.device("device-1");
    for (identity, expected) in [
        (first.clone(), true),
        (other.device("device-2"), true),
        (below, true),
        (beside, false),
        (Pki::create(&folder.join("strange"), "strange").device("device-3"), false),
    ] {
        let who = identity.certificate.display().to_string();
        assert_eq!(gets_in(broker.options("client", &identity)).await, expected, "{who}");
    }
    let told = hints(&broker);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().any(|name| name.contains("trusted")), "{told:?}");
    // At the limit all of them are named, beyond it none: which means any.
    for (limit, expected) in [(3, 3), (2, 0)] {
        broker.rewrite(|text| {
            let text = text.split("[limits]").next().unwrap().to_owned();
            format!("{text}[limits]\nca_hints = {limit}\n")
        });
        broker.kill_and_restart();
        assert_eq!(hints(&broker).len(), expected, "{limit}");
        assert!(gets_in(broker.options("client", &first)).await);
    }
}

#[tokio::test]
async fn a_listener_that_asks_for_certificates_without_a_ca_is_noticed_and_lets_nobody_in() {
    let lonely = "[listeners.lonely]\nbind = \"127.0.0.1:0\"\nauth_mode = \"mutual\"\n\
                  certfile = \"pki/server.pem\"\nkeyfile = \"pki/server.key\"\n";
    let broker = Broker::builder().with_bundled_plugins().config(lonely).start().await;
    let file = broker.folder.join("mqgate.toml");
    let checked = Command::new(mqgate()).args(["config", "check", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("listeners.lonely.cacertfile") && said.contains("mqgate ca add"), "{said}");
    let log = std::fs::read_to_string(broker.folder.join("broker.log")).unwrap();
    assert!(log.contains("no CA is trusted yet"), "{log}");

    let admin = broker.admin();
    let trusted = || {
        let list = admin.json(&["listener", "list"]);
        list.as_array().unwrap().iter().find(|item| item["name"] == "lonely").unwrap()["trusted_cas"].clone()
    };
    assert_eq!(trusted(), 0);
    let other = Pki::create(&broker.folder.join("other"), "other");
    let options = {
        let mut options = broker.options("client", &other.device("device-1"));
        options.port = broker.port_of("lonely").await;
        options
    };
    assert!(!gets_in(options.clone()).await);
    admin.run(&["ca", "add", "--name", "other", other.ca().to_str().unwrap()]);
    assert_eq!(trusted(), 1);
    assert!(gets_in(options).await);
}

#[tokio::test]
async fn files_are_named_over_the_api_only_where_that_is_allowed() {
    let broker = Broker::builder().start().await;
    let admin = broker.admin();
    let more = Pki::create(&broker.folder.join("allowed"), "more");
    let setting = format!("cacertfile={}", more.ca().display());
    let refused = admin.try_run(&["listener", "set", "main", &setting]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("path_not_allowed") && text.contains("admin.allow_paths"), "{text}");
    broker.audited("the refusal", |line| line["fields"]["code"] == "path_not_allowed").await;

    let mut broker = broker;
    broker.rewrite(|text| text.replace("[admin]\n", "[admin]\nallow_paths = [\"allowed\"]\n"));
    broker.kill_and_restart();
    let admin = broker.admin();
    admin.run(&["listener", "set", "main", &setting]);
    let hidden = broker.pki.ca();
    let refused = admin.try_run(&["listener", "set", "main", &format!("cacertfile={}", hidden.display())]);
    assert_eq!(refused.status.code(), Some(1));
    let file = &admin.json(&["listener", "show", "main"])["settings"]["cacertfile"];
    assert_eq!(file.as_str(), more.ca().to_str());
}
