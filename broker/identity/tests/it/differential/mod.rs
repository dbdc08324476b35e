//! Generated chains, judged by us and by `openssl verify`. Where the two differ, the class of the difference and
//! the clause that decides it stand in `docs/path-validation.md`; a difference that does not is a failure.

pub mod cases;
pub mod der;
mod known;
mod policies;
mod webs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::certificate::to_pem;
use mqgate_identity::evaluation::{Anchor, AnchorError, PathPolicy, TrustAnchors, explain};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rcgen::KeyPair;

use self::cases::{CLASSES, Case, NOW, Random};
use self::known::KNOWN;

/// A difference that is meant: by class, our answer, and what OpenSSL says (`ok`, or its error number).
pub struct Difference {
    class: &'static str,
    ours: &'static str,
    theirs: &'static str,
    /// A part of what is particular about the case.
    about: &'static str,
    /// Heads the line in the document.
    label: &'static str,
}

fn ours(case: &Case) -> Reason {
    let anchors = case
        .anchors
        .iter()
        .enumerate()
        .map(|(at, der)| Anchor { name: format!("anchor-{at}").into(), der: Arc::from(&**der) });
    let anchors = match TrustAnchors::new(anchors.collect()) {
        Ok(anchors) => anchors,
        // What cannot be loaded leads nowhere.
        Err(AnchorError::Malformed { error, .. }) => return error.reason(),
        Err(AnchorError::Unusable { problem, .. }) => return problem.reason,
        Err(AnchorError::NotACa { .. }) => return Reason::CertPurpose,
    };
    let chain: Vec<_> = std::iter::once(&case.leaf).chain(&case.sent).collect();
    // OpenSSL has no tolerance of clocks.
    let policy = PathPolicy { clock_skew: Duration::ZERO, ..PathPolicy::default() };
    let explanation = explain(&chain, &anchors, &policy, UnixSeconds(NOW));
    assert_eq!(explanation.refused_at.is_none(), explanation.is_accepted());
    explanation.verdict.map_or_else(|rejection| rejection.reason, |_| Reason::Ok)
}

/// `ok`, the number of the first error, or `unreadable`.
fn theirs(case: &Case, folder: &Path) -> String {
    let pem = |ders: &[Vec<u8>]| ders.iter().map(|der| to_pem(der)).collect::<String>();
    std::fs::write(folder.join("leaf.pem"), to_pem(&case.leaf)).unwrap();
    std::fs::write(folder.join("sent.pem"), pem(&case.sent)).unwrap();
    std::fs::write(folder.join("anchors.pem"), pem(&case.anchors)).unwrap();
    let mut command = Command::new("openssl");
    command.current_dir(folder).args([
        "verify",
        "-purpose",
        "sslclient",
        "-partial_chain",
        "-policy_check",
        "-policy",
        "2.5.29.32.0",
        "-no-CApath",
        "-no-CAstore",
        "-verify_depth",
        "6",
        "-auth_level",
        "2",
        "-CAfile",
        "anchors.pem",
    ]);
    command.args(["-attime", &NOW.to_string()]);
    if !case.sent.is_empty() {
        command.args(["-untrusted", "sent.pem"]);
    }
    let output = command.arg("leaf.pem").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.contains("leaf.pem: OK") {
        return "ok".into();
    }
    let number = said.split("error ").nth(1).and_then(|rest| rest.split_whitespace().next());
    number
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or_else(|| "unreadable".into(), str::to_owned)
}

fn compare(cases: usize, seed: u64) {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: the openssl command is not installed");
        return;
    }
    let keys: Vec<_> = (0..10).map(|_| KeyPair::generate().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(seed);
    let mut differences: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut agreed = [0_usize; 2];
    for number in 0..cases {
        let (_, make) = CLASSES[number % CLASSES.len()];
        let case = make(&mut random, &keys);
        let (ours, theirs) = (ours(&case), theirs(&case, folder.path()));
        if (ours == Reason::Ok) == (theirs == "ok") {
            agreed[usize::from(ours == Reason::Ok)] += 1;
            continue;
        }
        let known = KNOWN.iter().any(|known| {
            known.class == case.class
                && known.ours == ours.as_str()
                && (known.theirs == theirs || known.theirs == "*")
                && case.about.contains(known.about)
        });
        if !known {
            let key = format!("{}: ours {ours}, OpenSSL {theirs}", case.class);
            let entry = differences.entry(key).or_default();
            entry.0 += 1;
            if entry.0 <= 8 {
                let _ = writeln!(entry.1, "    case {number}: {}", case.about);
            }
        }
    }
    println!("{cases} chains: {} accepted by both, {} refused by both", agreed[1], agreed[0]);
    assert!(agreed.iter().all(|&count| count * 20 > cases), "the cases are one-sided: {agreed:?}");
    let report: String =
        differences.iter().map(|(key, (count, examples))| format!("{count} x {key}\n{examples}")).collect();
    assert!(report.is_empty(), "differences that are not in docs/path-validation.md:\n{report}");
}

#[test]
fn openssl_agrees_on_some_chains() {
    compare(CLASSES.len() * 6, 7);
}

#[test]
#[ignore = "full: 2,550 chains, each judged by the openssl command"]
fn openssl_agrees_on_many_chains_differential() {
    compare(CLASSES.len() * 150, 2026);
}

#[test]
fn every_difference_is_documented() {
    let page = include_str!("../../../../../docs/path-validation.md");
    for known in KNOWN {
        assert!(
            page.contains(&format!("| {} |", known.label)),
            "docs/path-validation.md lacks {}",
            known.label
        );
    }
}
