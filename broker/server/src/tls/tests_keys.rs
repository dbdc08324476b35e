//! Private keys as the openssl command line writes them, encrypted and not.

use std::path::Path;
use std::process::Command;

use super::tests::read;
use super::*;

fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What reading `{name}.key` with a password comes to.
fn opened(folder: &Path, name: &str, password: Option<&str>) -> Result<(), KeyError> {
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    match read(&text("leaf.pem"), &text(name), password) {
        Ok(_) => Ok(()),
        Err(MaterialError::Key { problem, .. }) => Err(problem),
        Err(other) => panic!("{name}: {other}"),
    }
}

#[test]
fn every_kind_of_key_in_every_encryption() {
    for (kind, make) in [
        ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
        ("p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
        ("p384", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
        ("p521", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
        ("ed25519", "genpkey -algorithm ED25519"),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        openssl(folder, &format!("{make} -out plain"));
        openssl(
            folder,
            "req -x509 -new -key plain -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 30 -out leaf.pem",
        );
        opened(folder, "plain", None).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let mut files = Vec::new();
        for (name, how) in [
            ("aes128", "-v2 aes-128-cbc"),
            ("aes192", "-v2 aes-192-cbc"),
            ("aes256", "-v2 aes-256-cbc"),
            ("des3", "-v2 des3"),
            ("sha1", "-v2 aes-256-cbc -v2prf hmacWithSHA1"),
            ("sha512", "-v2 aes-256-cbc -v2prf hmacWithSHA512"),
            ("scrypt", "-scrypt"),
        ] {
            openssl(folder, &format!("pkcs8 -topk8 -in plain -passout pass:geheim {how} -out {name}"));
            files.push(name);
        }
        // The form of before has RSA and EC keys only.
        if kind != "ed25519" {
            for (name, how) in [
                ("old-des3", "-des3"),
                ("old-128", "-aes128"),
                ("old-192", "-aes192"),
                ("old-256", "-aes256"),
            ] {
                openssl(
                    folder,
                    &format!("pkey -in plain -traditional {how} -passout pass:geheim -out {name}"),
                );
                let text = std::fs::read_to_string(folder.join(name)).unwrap();
                assert!(text.contains("Proc-Type: 4,ENCRYPTED"), "{kind} {name}: {text}");
                files.push(name);
            }
        }
        for name in files {
            assert_eq!(opened(folder, name, Some("geheim")), Ok(()), "{kind} {name}");
            assert_eq!(opened(folder, name, Some("falsch")), Err(KeyError::WrongPassword), "{kind} {name}");
            assert_eq!(opened(folder, name, None), Err(KeyError::NoPassword), "{kind} {name}");
        }
    }
}

#[test]
fn what_cannot_be_read_says_what_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    openssl(folder, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain");
    openssl(
        folder,
        "req -x509 -new -key plain -subj /CN=x -addext subjectAltName=DNS:x -days 30 -out leaf.pem",
    );
    openssl(folder, "pkcs8 -topk8 -in plain -passout pass:geheim -v1 PBE-SHA1-3DES -out pbes1");
    let error = opened(folder, "pbes1", Some("geheim")).unwrap_err();
    assert!(matches!(&error, KeyError::Encryption(_)), "{error}");
    let text = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: BF-CBC,0011223344556677\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    std::fs::write(folder.join("blowfish"), text).unwrap();
    assert_eq!(opened(folder, "blowfish", Some("x")), Err(KeyError::Encryption("BF-CBC".into())));
    // No byte of a damaged file is a reason to fall over.
    openssl(folder, "pkey -in plain -traditional -aes128 -passout pass:geheim -out old");
    let whole = std::fs::read(folder.join("old")).unwrap();
    // The line break at the end is missed by nobody.
    for cut in 0..whole.len() - 1 {
        std::fs::write(folder.join("cut"), &whole[..cut]).unwrap();
        assert!(opened(folder, "cut", Some("geheim")).is_err(), "{cut} bytes");
    }
}
