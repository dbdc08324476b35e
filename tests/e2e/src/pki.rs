//! Certificates made for one test; never committed, never shared.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest as _, Sha256};

/// A CA, a server certificate for localhost, and as many device certificates as a test asks for.
pub struct Pki {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// SHA-256 of the DER, hexadecimal.
    pub fingerprint: String,
}

impl Pki {
    /// Makes `{name}-ca.pem`, `{name}-server.pem` and its key in `folder`.
    pub fn create(folder: &Path, name: &str) -> Self {
        fs::create_dir_all(folder).expect("the test's folder can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{name} CA"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("the parameters are complete");
        fs::write(folder.join("ca.pem"), certificate.pem()).expect("the test's folder is writable");
        let pki = Self { folder: folder.to_path_buf(), issuer: Issuer::new(params, key) };
        let mut server = CertificateParams::new(vec!["localhost".to_owned()]).expect("localhost is a name");
        server.distinguished_name = common_name("localhost");
        for address in ["127.0.0.1", "::1"] {
            server.subject_alt_names.push(SanType::IpAddress(address.parse().expect("a literal address")));
        }
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        pki.write("server", server);
        pki
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub fn server(&self) -> Identity {
        self.existing("server")
    }

    /// A device certificate with `name` as common name; the files are named by it, too.
    pub fn device(&self, name: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.write(&name.replace(['/', '+', '#', '\0'], "_"), params)
    }

    fn write(&self, file: &str, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are complete");
        fs::write(self.folder.join(format!("{file}.pem")), certificate.pem())
            .expect("the folder is writable");
        fs::write(self.folder.join(format!("{file}.der")), certificate.der())
            .expect("the folder is writable");
        fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem())
            .expect("the folder is writable");
        Identity {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
            fingerprint: hex::encode(Sha256::digest(certificate.der())),
        }
    }

    fn existing(&self, file: &str) -> Identity {
        Identity {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
            fingerprint: String::new(),
        }
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
