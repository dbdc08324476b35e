//! The audit log from outside: read, verified in a copy, proved to a stranger, and whole after the broker was killed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mqgate_client::Client;
use mqgate_e2e::{Broker, eventually, tools};
use serde_json::Value;

/// Signs often, so that no test has to wait for it.
const SEALED: &str =
    "[audit]\npath = \"audit.jsonl\"\ncheckpoint_interval = \"100ms\"\npublish_folder = \"witness\"\n";

async fn sealed() -> Broker {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    fs::create_dir(broker.folder.join("witness")).unwrap();
    broker.rewrite(|text| text.replace("[audit]\npath = \"audit.jsonl\"\n", SEALED));
    broker
}

/// A broker that signs and publishes, with some records.
async fn witnessed() -> Broker {
    let mut broker = sealed().await;
    broker.kill_and_restart();
    for number in 0..5 {
        let device = broker.pki.device(&format!("device-{number}"));
        Client::connect(broker.options(&format!("client-{number}"), &device)).await.unwrap();
    }
    let known = broker.audit().len() as u64;
    eventually("a checkpoint over the records", async || {
        let newest = newest(&broker.folder.join("witness"))?;
        (newest >= known).then_some(())
    })
    .await;
    broker
}

/// How many records the newest published checkpoint is about.
fn newest(witness: &Path) -> Option<u64> {
    let text = fs::read_to_string(published(witness)?).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let origin = lines.iter().rposition(|line| line.starts_with("mqgate.audit/"))?;
    lines.get(origin + 1)?.parse().ok()
}

fn published(witness: &Path) -> Option<PathBuf> {
    fs::read_dir(witness).ok()?.next()?.ok().map(|entry| entry.path())
}

fn copy_of_log(broker: &Broker, to: &Path) -> PathBuf {
    let copy = to.join("copy.d");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(broker.folder.join("audit.jsonl.d")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

pub fn verify(broker: &Broker, arguments: &[&str]) -> (bool, Value) {
    let output = broker.admin().try_run(&[&["audit", "verify", "--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.success(), report)
}

#[tokio::test]
async fn a_copy_is_verified_and_what_was_done_to_it_is_named() {
    let broker = witnessed().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = copy_of_log(&broker, elsewhere.path());
    let copy_path = copy.to_str().unwrap();
    let key = broker.admin().run(&["audit", "keys", "--log", copy_path]);
    let published = published(&broker.folder.join("witness")).unwrap();
    let with = [copy_path, "--key", key.trim(), "--published", published.to_str().unwrap()];
    let (holds, report) = verify(&broker, &with);
    assert!(holds, "{report}");
    assert!(report["published"].as_u64().unwrap() > 5, "{report}");

    let records = copy.join("00000000000000000001.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    fs::write(&records, text.replacen("client-1", "client-9", 1)).unwrap();
    let (holds, report) = verify(&broker, &with);
    let changed = text.lines().position(|line| line.contains("client-1")).unwrap() as u64 + 1;
    assert!(!holds);
    assert!(
        report["findings"].as_array().unwrap().iter().any(|finding| finding["seq"] == changed),
        "{report}"
    );

    let half: String = text.split_inclusive('\n').take(4).collect();
    fs::write(&records, half).unwrap();
    let (holds, report) = verify(&broker, &with);
    assert!(!holds, "{report}");

    let output = broker.admin().try_run(&["audit", "verify", "/nowhere"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no audit log"), "{output:?}");
}

#[tokio::test]
async fn records_are_read_from_the_broker_and_from_files() {
    let broker = witnessed().await;
    let path = broker.folder.join("audit.jsonl");
    let files = ["--log", path.to_str().unwrap()];
    for source in [&[][..], &files] {
        let run = |arguments: &[&str]| broker.admin().run(&[arguments, source].concat());
        let accepted = run(&["audit", "query", "--name", "connection.accepted"]);
        assert_eq!(accepted.lines().count(), 1 + 5, "{accepted}");
        let one = run(&["audit", "export", "--client", "client-3", "--name", "connection.accepted"]);
        let one: Value = serde_json::from_str(&one).unwrap();
        assert_eq!((&one["device_id"], &one["v"]), (&"device-3".into(), &1.into()));
        let newest = run(&["audit", "tail", "-n", "2", "--json"]);
        assert_eq!(newest.lines().count(), 2, "{newest}");
        assert!(run(&["audit", "query", "--client", "nobody"]).contains("no records"));
        assert!(run(&["audit", "keys"]).starts_with("mqgate.audit/"));
    }
    let output = broker.admin().try_run(&["audit", "query", "--since", "yesterday"]);
    assert_eq!(output.status.code(), Some(2));
}

/// The program that a stranger checks a proof with.
fn check(proof: &[u8], key: &str) -> Option<Output> {
    let script = mqgate_e2e::broker::root().join("tools/mqgate_audit_proof.py");
    let mut python = tools::python()?;
    python
        .arg(script)
        .args(["-", "--key", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = python.spawn().unwrap();
    // One that refuses early does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(proof);
    Some(child.wait_with_output().unwrap())
}

/// Turns a hexadecimal digit or a letter into another one.
fn other(text: &str, at: usize) -> String {
    let new = if text[at..].starts_with('0') { "1" } else { "0" };
    format!("{}{new}{}", &text[..at], &text[at + 1..])
}

#[tokio::test]
async fn the_python_checker_accepts_a_true_proof_and_refuses_forged_ones() {
    let broker = witnessed().await;
    let key = broker.admin().run(&["audit", "keys"]);
    let key = key.trim();
    let proof = broker.admin().run(&["audit", "prove", "3"]);
    let Some(output) = check(proof.as_bytes(), key) else { return };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["seq"], 3);

    let proof: Value = serde_json::from_str(&proof).unwrap();
    let another: Value = serde_json::from_str(&broker.admin().run(&["audit", "prove", "4"])).unwrap();
    let text = |name: &str| proof[name].as_str().unwrap().to_owned();
    let (record, checkpoint) = (text("record"), text("checkpoint"));
    let path: Vec<String> =
        proof["path"].as_array().unwrap().iter().map(|step| step.as_str().unwrap().to_owned()).collect();
    let size = proof["tree_size"].as_u64().unwrap();
    let lines: Vec<&str> = checkpoint.split('\n').collect();
    let with = |name: &str, value: Value| {
        let mut forged = proof.clone();
        forged[name] = value;
        forged
    };
    let with_line = |number: usize, line: String| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines[number] = line;
        with("checkpoint", lines.join("\n").into())
    };
    let mut longer = path.clone();
    longer.push("00".repeat(32));
    let mut swapped = path.clone();
    swapped.swap(0, 1);
    let mut first_changed = path.clone();
    first_changed[0] = other(&path[0], 0);
    let mut last_changed = path.clone();
    *last_changed.last_mut().unwrap() = other(path.last().unwrap(), 63);
    let mut upper = path.clone();
    upper[0] = path[0].to_uppercase();
    let mut without = proof.clone();
    without.as_object_mut().unwrap().remove("path");
    let mut more = proof.clone();
    more["valid"] = true.into();
    let signature = lines.iter().position(|line| line.starts_with('\u{2014}')).unwrap();
    let of_another_log = key.replace("mqgate.audit/", "mqgate.audit/0");
    let forged = [
        ("another record", with("record", another["record"].clone())),
        ("a changed record", with("record", record.replacen("outcome", "0utcome", 1).into())),
        ("a record with a space more", with("record", record.replacen(':', ": ", 1).into())),
        ("a record of another number", with("record", record.replacen("\"seq\":3", "\"seq\":2", 1).into())),
        ("another place", with("leaf_index", 3.into())),
        ("a place before the log", with("leaf_index", (-1).into())),
        ("a place behind the log", with("leaf_index", (size + 2).into())),
        ("a place that is no number", with("leaf_index", "2".into())),
        ("a larger tree", with("tree_size", (size + 1).into())),
        ("a path of another record", with("path", another["path"].clone())),
        ("a path without its end", with("path", path[..path.len() - 1].to_vec().into())),
        ("a longer path", with("path", longer.into())),
        ("a path in another order", with("path", swapped.into())),
        ("a path with another beginning", with("path", first_changed.into())),
        ("a path with another end", with("path", last_changed.into())),
        ("a path that is spelt differently", with("path", upper.into())),
        ("no path", without),
        ("one member more", more),
        ("another format", with("format", "mqgate-audit-proof-v2".into())),
        ("a checkpoint of another log", with_line(0, "mqgate.audit/0000000000000000".into())),
        ("a checkpoint of another size", with_line(1, (size + 1).to_string())),
        ("a checkpoint with another root", with_line(2, other(lines[2], 5))),
        ("a checkpoint of another time", with_line(3, lines[3].replace("20", "21"))),
        ("a checkpoint with another signature", with_line(signature, other(lines[signature], 60))),
        ("a checkpoint without a signature", with("checkpoint", lines[..4].join("\n").into())),
        ("no checkpoint", with("checkpoint", "".into())),
    ];
    for (what, forged) in &forged {
        let output = check(forged.to_string().as_bytes(), key).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.starts_with("refused: ") && !why.contains("Traceback"), "{what}: {why}");
    }
    assert!(forged.len() >= 20);
    for key in [&*of_another_log, "", "a+b+c"] {
        assert_eq!(check(proof.to_string().as_bytes(), key).unwrap().status.code(), Some(1), "{key}");
    }
    assert_eq!(check(b"[", key).unwrap().status.code(), Some(1));
}

#[tokio::test]
async fn keys_are_handed_over_and_subjects_erased() {
    let mut broker = sealed().await;
    broker.rewrite(|text| format!("{text}\n[audit.personal]\nmembers = [\"client_id\", \"peer\"]\n"));
    broker.kill_and_restart();
    let device = broker.pki.device("device-7");
    Client::connect(broker.options("secret-client", &device)).await.unwrap();
    let line = broker.audited("the admission", |line| line["name"] == "connection.accepted").await;
    let hidden = line["client_id"].as_str().unwrap().to_owned();
    assert!(hidden.starts_with("enc:1:"), "{line}");
    let shown = broker.admin().run(&["audit", "export", "--client", "secret-client"]);
    assert!(shown.contains("secret-client"), "{shown}");

    let output = broker.admin().try_run(&["audit", "rotate-key"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("stop the broker"), "{output:?}");
    broker.stop();
    let before = broker.admin().run(&["audit", "keys"]);
    broker.admin().run(&["audit", "rotate-key"]);
    let after = broker.admin().run(&["audit", "keys"]);
    assert_eq!((before.lines().count(), after.lines().count()), (1, 2));
    assert!(broker.admin().run(&["audit", "erase", "device:device-7"]).contains("destroyed"));
    assert!(!broker.admin().try_run(&["audit", "erase", "device:device-7"]).status.success());
    assert!(!broker.admin().run(&["audit", "export"]).contains("secret-client"));
    let folder = broker.folder.join("audit.jsonl.d");
    for key in after.lines() {
        let (holds, report) = verify(&broker, &[folder.to_str().unwrap(), "--key", key]);
        assert!(holds, "{report}");
    }
}

#[tokio::test]
async fn a_log_that_was_cut_is_not_gone_on_with() {
    let mut broker = witnessed().await;
    broker.stop();
    let records = broker.folder.join("audit.jsonl.d/00000000000000000001.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    let half: String = text.split_inclusive('\n').take(4).collect();
    fs::write(&records, half).unwrap();
    let output = Command::new(mqgate_e2e::broker::mqgate())
        .args(["run", "--config"])
        .arg(broker.folder.join("mqgate.toml"))
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{why}");
    assert!(why.contains("record 5 is missing") && why.contains("mqgate audit verify"), "{why}");
}
