//! Certificates as the openssl command line makes them: most of all the version 1 client certificate that
//! `openssl x509 -req` gives without `-extfile`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::evaluation::{
    AnchorLint, PathDepth, PathLint, PathPolicy, Rejection, V1Leaf, ValidatedPath, evaluate,
    subject_public_key_info, verify_signature,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use tempfile::TempDir;

use crate::pki::anchors;

/// The well-known recipe for mutual TLS with a self-made CA, word by word: a subject is typed at the CA's
/// prompt, the broker's address is filled in, and one of its two lines kept.
const RECIPE: &[(&str, &str)] = &[
    ("openssl genrsa -out ca.key 2048", ""),
    (
        "openssl req -x509 -new -nodes -key ca.key -sha256 -days 3650 -out ca.pem",
        "CN\nZhejiang\nHangzhou\nEMQX\n\nSelfMadeCA\n\n",
    ),
    ("openssl genrsa -out emqx.key 2048", ""),
    ("openssl req -new -key ./emqx.key -config openssl.cnf -out emqx.csr", ""),
    (
        "openssl x509 -req -in ./emqx.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out emqx.pem -days 3650 \
         -sha256 -extensions v3_req -extfile openssl.cnf",
        "",
    ),
    ("openssl genrsa -out client.key 2048", ""),
    (
        "openssl req -new -key client.key -out client.csr -subj /C=CN/ST=Zhejiang/L=Hangzhou/O=EMQX/CN=client",
        "",
    ),
    (
        "openssl x509 -req -days 3650 -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem",
        "",
    ),
];

const CONFIGURATION: &str = "[req]
default_bits  = 2048
distinguished_name = req_distinguished_name
req_extensions = req_ext
x509_extensions = v3_req
prompt = no
[req_distinguished_name]
countryName = CN
stateOrProvinceName = Zhejiang
localityName = Hangzhou
organizationName = EMQX
commonName = CA
[req_ext]
subjectAltName = @alt_names
[v3_req]
subjectAltName = @alt_names
[alt_names]
IP.1 = 127.0.0.1
";

struct Bench {
    directory: TempDir,
}

impl Bench {
    /// `None`, with a message, where there is no openssl.
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("skipped: the openssl command is not installed");
            return None;
        }
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::write(bench.path().join("openssl.cnf"), CONFIGURATION).unwrap();
        Some(bench)
    }

    fn with_recipe() -> Option<Self> {
        let bench = Self::new()?;
        for (line, typed) in RECIPE {
            bench.run_typing(line, typed);
        }
        Some(bench)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, line: &str) {
        self.run_typing(line, "");
    }

    fn run_typing(&self, line: &str, typed: &str) {
        let mut words = line.split_whitespace();
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A CA of its own; `extra` are options of `openssl req`.
    fn ca(&self, name: &str, subject: &str, extra: &str) {
        self.run(&format!("openssl req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -subj {subject} {extra}"));
    }

    /// A certificate signed by `ca`; `extra` are options of `openssl x509 -req`.
    fn sign(&self, ca: &str, name: &str, key: &str, extra: &str) -> Vec<u8> {
        self.run(&format!(
            "openssl req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.run(&format!(
            "openssl x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -out {name}.pem {extra}"
        ));
        self.der(name)
    }

    fn der(&self, name: &str) -> Vec<u8> {
        let text = std::fs::read(self.path().join(format!("{name}.pem"))).unwrap();
        certificates_from_pem(&text).unwrap().remove(0)
    }
}

/// Shortly after a certificate was made.
fn then(der: &[u8]) -> UnixSeconds {
    UnixSeconds(CertificateFacts::parse(der).unwrap().not_before.0 + 60)
}

fn judge(leaf: &[u8], chain: &[Vec<u8>], trusted: &[&[u8]]) -> Result<ValidatedPath, Rejection> {
    let names = ["first", "second", "third"];
    let trusted: Vec<_> = names.into_iter().zip(trusted.iter().copied()).collect();
    evaluate(leaf, chain, &anchors(&trusted), &PathPolicy::default(), then(leaf))
}

fn reason(leaf: &[u8], chain: &[Vec<u8>], trusted: &[&[u8]]) -> Reason {
    judge(leaf, chain, trusted).map_or_else(|rejection| rejection.reason, |_| Reason::Ok)
}

#[test]
fn the_recipe_word_by_word() {
    let Some(bench) = Bench::with_recipe() else { return };
    let (ca, server, client) = (bench.der("ca"), bench.der("emqx"), bench.der("client"));
    let facts = CertificateFacts::parse(&client).unwrap();
    assert_eq!((facts.version, facts.public_key.bits, facts.is_ca), (1, 2048, false));
    assert_eq!(facts.subject.display, "CN=client,O=EMQX,L=Hangzhou,ST=Zhejiang,C=CN");
    assert_eq!(CertificateFacts::parse(&server).unwrap().version, 3);

    let path = judge(&client, &[], &[&ca]).unwrap();
    assert_eq!((&*path.anchor.name, path.depth), ("first", 0));
    assert_eq!(path.lints, [PathLint::V1Leaf]);
    assert_eq!(path.not_after, facts.not_after.min(CertificateFacts::parse(&ca).unwrap().not_after));
    assert_eq!(reason(&server, &[], &[&ca]), Reason::Ok);
    // A client may send its CA along.
    assert_eq!(reason(&client, std::slice::from_ref(&ca), &[&ca]), Reason::Ok);

    let trusted = anchors(&[("ca", &ca)]);
    let deny = PathPolicy { v1_leaf: V1Leaf::Deny, ..PathPolicy::default() };
    let refused = evaluate::<Vec<u8>>(&client, &[], &trusted, &deny, then(&client)).unwrap_err();
    assert_eq!(refused.reason, Reason::CertV1);
    assert!(refused.detail.contains("-extfile"), "{}", refused.detail);
    for (now, expected) in [
        (UnixSeconds(facts.not_before.0 - 300), Reason::Ok),
        (UnixSeconds(facts.not_before.0 - 301), Reason::CertNotYetValid),
        (UnixSeconds(facts.not_after.0 + 1), Reason::CertExpired),
    ] {
        let verdict = evaluate::<Vec<u8>>(&client, &[], &trusted, &PathPolicy::default(), now);
        assert_eq!(verdict.map_or_else(|rejection| rejection.reason, |_| Reason::Ok), expected);
    }
    assert_eq!(reason(&ca, &[], &[&ca]), Reason::CertCaAsLeaf);

    for at in (0..client.len()).step_by(3) {
        let mut changed = client.clone();
        changed[at] ^= 1 << (at % 8);
        let verdict = evaluate::<Vec<u8>>(&changed, &[], &trusted, &PathPolicy::default(), then(&client));
        assert!(verdict.is_err(), "byte {at}");
    }
}

#[test]
fn a_version_1_leaf_of_another_ca() {
    let Some(bench) = Bench::new() else { return };
    bench.ca("a", "/CN=Factory", "");
    bench.ca("b", "/CN=Factory", "");
    bench.ca("c", "/CN=Other", "");
    let (a, b, c) = (bench.der("a"), bench.der("b"), bench.der("c"));
    let (of_a, of_b) = (bench.sign("a", "of-a", "rsa:2048", ""), bench.sign("b", "of-b", "rsa:2048", ""));
    assert_eq!(CertificateFacts::parse(&of_a).unwrap().version, 1);
    assert_eq!(reason(&of_a, &[], &[&b]), Reason::CertBadSignature);
    let rejection = judge(&of_a, &[], &[&c]).unwrap_err();
    assert_eq!(rejection.reason, Reason::CertUnknownCa);
    assert!(rejection.detail.contains("missing_intermediate"), "{}", rejection.detail);
    // Two CAs of one name, in both orders.
    for (leaf, trusted, name) in [
        (&of_a, [&*a, &*b], "first"),
        (&of_a, [&*b, &*a], "second"),
        (&of_b, [&*a, &*b], "second"),
        (&of_b, [&*b, &*a], "first"),
    ] {
        assert_eq!(&*judge(leaf, &[], &trusted).unwrap().anchor.name, name);
    }
}

#[test]
fn weak_keys_and_signatures() {
    let Some(bench) = Bench::new() else { return };
    bench.ca("ca", "/CN=CA", "");
    let ca = bench.der("ca");
    std::fs::write(bench.path().join("v3"), "basicConstraints=CA:FALSE\n").unwrap();
    for (name, key, extra, expected) in [
        ("v1-weak", "rsa:1024", "", Reason::CertSigAlg),
        ("v3-weak", "rsa:1024", "-extfile v3", Reason::CertSigAlg),
        ("v1-sha1", "rsa:2048", "-sha1", Reason::CertSigAlg),
        ("v3-sha1", "rsa:2048", "-sha1 -extfile v3", Reason::CertSigAlg),
        ("v1-ec", "ec -pkeyopt ec_paramgen_curve:P-256", "-sha384", Reason::Ok),
        ("v1-ed25519", "ed25519", "", Reason::Ok),
        ("v3", "rsa:3072", "-sha512 -extfile v3", Reason::Ok),
    ] {
        let leaf = bench.sign("ca", name, key, extra);
        assert_eq!(reason(&leaf, &[], &[&ca]), expected, "{name}");
    }
}

#[test]
fn version_1_leaves_below_intermediates() {
    let Some(bench) = Bench::new() else { return };
    bench.ca("root", "/CN=Root", "");
    let extensions = |name: &str, text: &str| {
        std::fs::write(bench.path().join(name), text).unwrap();
        format!("-extfile {name}")
    };
    let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n";
    let with_ca = extensions("ca.ext", ca);
    let sub = bench.sign("root", "sub", "rsa:2048", &with_ca);
    let subsub = bench.sign("sub", "subsub", "rsa:2048", &with_ca);
    let leaf = bench.sign("sub", "leaf", "rsa:2048", "");
    let deep = bench.sign("subsub", "deep", "rsa:2048", "");
    let root = bench.der("root");
    assert_eq!(judge(&leaf, std::slice::from_ref(&sub), &[&root]).unwrap().depth, 1);
    assert_eq!(judge(&deep, &[sub.clone(), subsub.clone()], &[&root]).unwrap().depth, 2);
    assert_eq!(reason(&leaf, &[], &[&sub]), Reason::Ok);
    assert_eq!(reason(&leaf, &[], &[&root]), Reason::CertUnknownCa);
    assert_eq!(reason(&deep, std::slice::from_ref(&subsub), &[&root]), Reason::CertUnknownCa);
    let shallow = PathPolicy { max_depth: PathDepth::new(1).unwrap(), ..PathPolicy::default() };
    let trusted = anchors(&[("root", &root)]);
    let refused = evaluate(&deep, &[sub.clone(), subsub], &trusted, &shallow, then(&deep)).unwrap_err();
    assert_eq!(refused.reason, Reason::CertDepth);

    // What must not be able to issue: a version 1 certificate, a leaf, and CAs that say so.
    for (name, text, expected) in [
        ("v1-ca", "", Reason::CertV1),
        ("no-ca", "basicConstraints=CA:FALSE\n", Reason::CertPurpose),
        ("no-sign", "basicConstraints=CA:TRUE\nkeyUsage=cRLSign\n", Reason::CertPurpose),
        ("server-ca", "basicConstraints=CA:TRUE\nextendedKeyUsage=serverAuth\n", Reason::CertPurpose),
        (
            "constrained",
            "basicConstraints=CA:TRUE\nnameConstraints=permitted;dirName:names\n[names]\nO=Acme\n",
            Reason::CertNameConstraint,
        ),
        // It has no name of that kind.
        ("other-names", "basicConstraints=CA:TRUE\nnameConstraints=permitted;DNS:example.org\n", Reason::Ok),
        ("unknown", "basicConstraints=CA:TRUE\n1.2.3.4=critical,DER:0500\n", Reason::CertMalformed),
    ] {
        let extra = if text.is_empty() { String::new() } else { extensions(&format!("{name}.ext"), text) };
        let issuer = bench.sign("root", name, "rsa:2048", &extra);
        let below = bench.sign(name, &format!("below-{name}"), "rsa:2048", "");
        assert_eq!(reason(&below, &[issuer], &[&root]), expected, "{name}");
    }
    let narrow = extensions("narrow.ext", "basicConstraints=CA:TRUE,pathlen:0\n");
    let narrow = bench.sign("root", "narrow", "rsa:2048", &narrow);
    let below = bench.sign("narrow", "below", "rsa:2048", &with_ca);
    let leaf = bench.sign("below", "narrow-leaf", "rsa:2048", "");
    assert_eq!(reason(&leaf, &[narrow, below], &[&root]), Reason::CertDepth);
}

#[test]
fn a_version_1_root() {
    let Some(bench) = Bench::new() else { return };
    bench.run("openssl req -newkey rsa:2048 -nodes -keyout old.key -out old.csr -subj /CN=Old");
    bench.run("openssl x509 -req -in old.csr -signkey old.key -out old.pem");
    let root = bench.der("old");
    let leaf = bench.sign("old", "leaf", "rsa:2048", "");
    assert_eq!(reason(&leaf, &[], &[&root]), Reason::Ok);
    assert_eq!(reason(&root, &[], &[&root]), Reason::CertCaAsLeaf);
    let warnings = anchors(&[("old", &root)]).warnings(&PathPolicy::default(), then(&root));
    assert_eq!(warnings.iter().map(|warning| warning.lint).collect::<Vec<_>>(), [AnchorLint::Version1]);
}

/// What a TLS handshake with a version 1 certificate needs.
#[test]
fn a_signature_by_the_key_of_a_version_1_leaf() {
    let Some(bench) = Bench::with_recipe() else { return };
    let key = subject_public_key_info(&bench.der("client")).unwrap();
    let other = subject_public_key_info(&bench.der("emqx")).unwrap();
    std::fs::write(bench.path().join("message"), b"transcript").unwrap();
    bench.run("openssl dgst -sha256 -sign client.key -out signature message");
    let signature = std::fs::read(bench.path().join("signature")).unwrap();
    use webpki::aws_lc_rs as algorithms;
    let fitting = [algorithms::ECDSA_P256_SHA256, algorithms::RSA_PKCS1_2048_8192_SHA256];
    assert_eq!(verify_signature(&key, &fitting, b"transcript", &signature), Ok(()));
    let check = |key, list: &[_], message: &[u8]| {
        verify_signature(key, list, message, &signature).unwrap_err().reason
    };
    assert_eq!(check(&key, &fitting, b"Transcript"), Reason::CertBadSignature);
    assert_eq!(check(&other, &fitting, b"transcript"), Reason::CertBadSignature);
    assert_eq!(check(&key, &fitting[..1], b"transcript"), Reason::CertSigAlg);
    assert_eq!(check(&key, &[], b"transcript"), Reason::CertSigAlg);
}
