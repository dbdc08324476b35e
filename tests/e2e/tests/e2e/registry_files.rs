//! Many certificates from a file, and into one.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use mqgate_e2e::{Broker, Pki};
use serde_json::{Value, json};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Three rows of which nothing can come: no JSON, an expired certificate, one of a stranger's CA.
fn bad_rows(pki: &Pki, stranger: &Pki) -> [String; 3] {
    [
        String::from("{\"pem\": \"-----BEGIN CERT"),
        json!({ "pem": pki.expired_certificate("late") }).to_string(),
        json!({ "pem": stranger.certificate("stranger") }).to_string(),
    ]
}

/// A file of `rows` rows, the bad ones at the lines given.
fn ndjson(file: &Path, pki: &Pki, rows: usize, bad: &[(usize, String)]) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    for line in 1..=rows {
        match bad.iter().find(|(at, _)| *at == line) {
            Some((_, row)) => writeln!(out, "{row}").unwrap(),
            None => {
                let name = format!("meter-{line}");
                let row = json!({ "pem": pki.certificate(&name), "tags": ["lot-17"] });
                writeln!(out, "{row}").unwrap();
            }
        }
    }
    out.into_inner().unwrap().sync_all().unwrap();
}

/// What is registered, whatever its state.
fn registered(broker: &Broker) -> usize {
    let listed = broker.admin().json(&["cert", "list"]);
    listed.as_array().unwrap().len()
}

async fn import_and_again(rows: usize, lines: [usize; 3]) {
    let broker = Broker::builder().start().await;
    let stranger = Pki::create(&broker.folder.join("stranger"), "stranger");
    let file = broker.folder.join("fleet.ndjson");
    let bad: Vec<_> = lines.into_iter().zip(bad_rows(&broker.pki, &stranger)).collect();
    ndjson(&file, &broker.pki, rows, &bad);
    let admin = broker.admin();
    let file = file.to_str().unwrap();

    let dry = said(&admin.try_run(&["cert", "import", file, "--dry-run"]));
    assert!(
        dry.contains(&format!("would be registered: {}, known already: 0, not taken: 3", rows - 3)),
        "{dry}"
    );
    assert_eq!(registered(&broker), 0, "a try writes nothing");

    let output = admin.try_run(&["cert", "import", file]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("registered: {}, known already: 0, not taken: 3", rows - 3)), "{text}");
    for (line, code) in lines.into_iter().zip(["bad_row", "cert_expired", "cert_unknown_ca"]) {
        assert!(text.contains(&format!("line {line}: {code}")), "{text}");
    }
    assert_eq!(registered(&broker), rows - 3);

    // Run again it changes nothing.
    let before = admin.json(&["cert", "show", "meter-1"]);
    let text = said(&admin.try_run(&["cert", "import", file]));
    assert!(text.contains(&format!("registered: 0, known already: {}, not taken: 3", rows - 3)), "{text}");
    assert_eq!(admin.json(&["cert", "show", "meter-1"]), before);
    assert_eq!(registered(&broker), rows - 3);
}

#[tokio::test]
async fn import_with_partial_failure_three_bad_rows_are_named() {
    // More than one part of the command's, and more than one group of the broker's.
    import_and_again(1_203, [2, 600, 1_202]).await;
}

#[tokio::test]
#[ignore = "full: 100,000 certificates"]
async fn a_hundred_thousand_certificates_with_three_bad_rows() {
    import_and_again(100_000, [17, 50_000, 99_999]).await;
}

#[tokio::test]
async fn every_format_says_the_same() {
    let broker = Broker::builder().start().await;
    let admin = broker.admin();
    let names = ["red", "green", "blue"];
    let pems = names.map(|name| broker.pki.certificate(name));
    let mut csv = String::from("device_id,client_id,tags,attribute.site,state,pem\n");
    for (name, pem) in names.iter().zip(&pems) {
        writeln!(csv, "dev-{name},cl-{name},a;b,north,inactive,\"{pem}\"").unwrap();
    }
    let write = |name: &str, text: &str| -> PathBuf {
        let file = broker.folder.join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let file = write("three.csv", &csv);
    let text = admin.run(&["cert", "import", file.to_str().unwrap()]);
    assert!(text.contains("registered: 3, known already: 0, not taken: 0"), "{text}");
    let green = admin.json(&["cert", "show", "dev-green"]);
    assert_eq!((&green["state"], &green["client_id"]), (&json!("INACTIVE"), &json!("cl-green")));
    assert_eq!((&green["tags"], &green["source"]), (&json!(["a", "b"]), &json!("import")));
    assert_eq!(green["attributes"], json!({ "site": "north" }));

    // What an export wrote is what an import reads.
    for format in ["ndjson", "csv"] {
        let exported = broker.folder.join(format!("out.{format}"));
        let to = exported.to_str().unwrap();
        admin.run(&["cert", "export", "--format", format, "--tag", "a", "--output", to]);
        let text = admin.run(&["cert", "import", to]);
        assert!(text.contains("registered: 0, known already: 3, not taken: 0"), "{format}: {text}");
    }
    // A bundle is certificates and nothing else: the devices are named by their common names.
    let bundle = write("bundle.pem", &pems.concat());
    let text = said(&admin.try_run(&["cert", "import", bundle.to_str().unwrap()]));
    assert!(text.contains("not taken: 3") && text.contains("cert_registered"), "{text}");

    // Into another broker with the same CA.
    let other = Broker::builder().start_shut().await;
    let ca = broker.pki.ca();
    other.admin().run(&["ca", "add", "--name", "factory", ca.to_str().unwrap()]);
    let exported = broker.folder.join("out.ndjson");
    let text = other.admin().run(&["cert", "import", exported.to_str().unwrap()]);
    assert!(text.contains("registered: 3"), "{text}");
    assert_eq!(other.admin().json(&["cert", "show", "dev-green"])["tags"], json!(["a", "b"]));
}

#[tokio::test]
async fn import_that_was_cut_short_goes_on_where_it_was() {
    let broker = Broker::builder().start().await;
    let file = broker.folder.join("fleet.ndjson");
    ndjson(&file, &broker.pki, 40, &[]);
    let admin = broker.admin();
    // The first part of it, as a run that was cut short has left it: the key names the file.
    let digest = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(std::fs::read(&file).unwrap()))
    };
    let text = std::fs::read_to_string(&file).unwrap();
    let first: String = text.lines().take(15).map(|line| format!("{line}\n")).collect();
    let path = format!("/imports?format=ndjson&line=1&key={digest}-ndjson&last=false");
    let mut answer = ureq::post(format!("{}/api/v1{path}", admin.url()))
        .header("Authorization", format!("Bearer {}", admin.token()))
        .send(first.as_bytes())
        .unwrap();
    let answer: Value = answer.body_mut().read_json().unwrap();
    assert_eq!(answer["created"], json!(15), "{answer}");
    let progress = || admin.ask("GET", &format!("/imports/{digest}-ndjson"), &[], &Value::Null).2;
    let known = progress();
    assert_eq!((&known["next_line"], &known["complete"]), (&json!(16), &json!(false)), "{known}");

    let report = admin.json(&["cert", "import", file.to_str().unwrap()]);
    // Rows of before are counted, and were not sent again: then they would be known already.
    assert_eq!((&report["created"], &report["unchanged"]), (&json!(40), &json!(0)), "{report}");
    assert_eq!(progress()["complete"], json!(true));
    assert_eq!(registered(&broker), 40);
}

#[tokio::test]
async fn what_an_import_refuses_as_a_whole() {
    let broker = Broker::builder().start().await;
    let admin = broker.admin();
    let keys = broker.pki.device("device-1");
    // A bundle with keys in it: they are not sent, and the certificates are.
    let both =
        std::fs::read_to_string(&keys.key).unwrap() + &std::fs::read_to_string(&keys.certificate).unwrap();
    let file = broker.folder.join("both.pem");
    std::fs::write(&file, both).unwrap();
    assert!(admin.run(&["cert", "import", file.to_str().unwrap()]).contains("registered: 1"));
    for (name, text, said_of_it) in [
        ("head.csv", "colour,pem\nred,x\n", "there is no column `colour`"),
        ("none.csv", "device_id\nd\n", "no column `pem`"),
    ] {
        let file = broker.folder.join(name);
        std::fs::write(&file, text).unwrap();
        let output = admin.try_run(&["cert", "import", file.to_str().unwrap()]);
        assert!(!output.status.success() && said(&output).contains(said_of_it), "{}", said(&output));
    }
    let output = admin.try_run(&["cert", "import", "no-such-file.pem"]);
    assert!(said(&output).contains("no-such-file.pem cannot be read"), "{}", said(&output));
}
