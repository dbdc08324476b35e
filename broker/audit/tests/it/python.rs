//! The program for strangers, tools/mqgate_audit_proof.py, against true and forged proofs.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mqgate_audit::proof::prove;
use serde_json::Value;

use super::*;

/// Runs the program with the Python of the tests, or with the one on the path.
fn check(proof: &str, key: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/mqgate_audit_proof.py");
    let python = std::env::var_os("MQGATE_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg("-B").arg(script).args(["-", "--key", key]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("Python, which `cargo xtask test` names in MQGATE_TEST_PYTHON");
    // One that refuses early does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(proof.as_bytes());
    child.wait_with_output().unwrap()
}

/// Turns the character at `at` into another one.
fn other(text: &str, at: usize) -> String {
    let new = if text[at..].starts_with('0') { "1" } else { "0" };
    format!("{}{new}{}", &text[..at], &text[at + 1..])
}

#[test]
fn the_python_checker_accepts_true_proofs_and_refuses_forged_ones() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 50);
    let checkpoint = log.view().checkpoint().unwrap();
    let key = world.key().to_string();
    for sequence in [1, 2, 23, checkpoint.size] {
        let proof = serde_json::to_string(&prove(log.view(), sequence, &checkpoint).unwrap()).unwrap();
        let output = check(&proof, &key);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["seq"], sequence);
    }

    let as_value =
        |sequence| serde_json::to_value(prove(log.view(), sequence, &checkpoint).unwrap()).unwrap();
    let (proof, another) = (as_value(23), as_value(24));
    let text = |name: &str| proof[name].as_str().unwrap().to_owned();
    let (record, note) = (text("record"), text("checkpoint"));
    let path: Vec<String> = serde_json::from_value(proof["path"].clone()).unwrap();
    let lines: Vec<&str> = note.split('\n').collect();
    let size = checkpoint.size;
    let with = |name: &str, value: Value| {
        let mut forged = proof.clone();
        forged[name] = value;
        forged
    };
    let with_path = |change: &dyn Fn(&mut Vec<String>)| {
        let mut changed = path.clone();
        change(&mut changed);
        with("path", changed.into())
    };
    let with_line = |number: usize, line: String| {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        changed[number] = line;
        with("checkpoint", changed.join("\n").into())
    };
    let mut without = proof.clone();
    without.as_object_mut().unwrap().remove("path");
    let signature = lines.iter().position(|line| line.starts_with('\u{2014}')).unwrap();
    let forged = [
        ("another record", with("record", another["record"].clone())),
        ("a changed record", with("record", record.replacen("success", "failure", 1).into())),
        ("a record with a space more", with("record", record.replacen(':', ": ", 1).into())),
        ("a record of another number", with("record", record.replacen("\"seq\":23", "\"seq\":22", 1).into())),
        ("a record of another log", with("record", record.replacen("\"log\":\"", "\"log\":\"0", 1).into())),
        ("a record that is none", with("record", "[]".into())),
        ("another place", with("leaf_index", 23.into())),
        ("a place before the log", with("leaf_index", (-1).into())),
        ("a place behind the log", with("leaf_index", (size + 2).into())),
        ("a place that is no number", with("leaf_index", "22".into())),
        ("a place that is true", with("leaf_index", true.into())),
        ("a larger tree", with("tree_size", (size + 1).into())),
        ("a path of another record", with("path", another["path"].clone())),
        ("a path without its end", with_path(&|path| drop(path.pop()))),
        ("a longer path", with_path(&|path| path.push("00".repeat(32)))),
        ("a path in another order", with_path(&|path| path.swap(0, 1))),
        ("a path with another beginning", with_path(&|path| path[0] = other(&path[0], 0))),
        (
            "a path with another end",
            with_path(&|path| *path.last_mut().unwrap() = other(&path[path.len() - 1], 63)),
        ),
        ("a path that is spelt differently", with_path(&|path| path[0] = format!("{} ", path[0]))),
        ("no path", without),
        ("one member more", with("valid", true.into())),
        ("another format", with("format", "mqgate-audit-proof-v2".into())),
        ("a checkpoint of another log", with_line(0, "mqgate.audit/0000000000000000".into())),
        ("a checkpoint of another size", with_line(1, (size + 1).to_string())),
        ("a checkpoint with another root", with_line(2, other(lines[2], 5))),
        ("a checkpoint of another time", with_line(3, lines[3].replacen("20", "21", 1))),
        ("a checkpoint with another signature", with_line(signature, other(lines[signature], 60))),
        ("a checkpoint without a signature", with("checkpoint", lines[..4].join("\n").into())),
        ("no checkpoint", with("checkpoint", "".into())),
    ];
    assert!(forged.len() >= 20);
    let refused = |what: &str, proof: &str, key: &str| {
        let output = check(proof, key);
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {why}");
        assert!(why.starts_with("refused: "), "{what}: {why}");
    };
    for (what, forged) in &forged {
        assert_ne!(*forged, proof, "{what}");
        refused(what, &forged.to_string(), &key);
    }
    let stranger = World::new();
    drop(stranger.open());
    for key in [&*stranger.key().to_string(), "", "a+b+c", &key.replacen('+', "0+", 1)] {
        refused("another key", &proof.to_string(), key);
    }
    refused("no JSON", "[", &key);
}
