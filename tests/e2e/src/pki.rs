//! Certificates made for one test; never committed, never shared.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
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
    pub serial: Vec<u8>,
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

    /// The CA's revocation list, as PEM: valid from `number` days after a day in the past to the end of `until`.
    pub fn revocation_list(&self, number: u8, until: i32, revoked: &[&Identity]) -> String {
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&identity.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1 + number),
            next_update: date_time_ymd(until, 12, 31),
            crl_number: SerialNumber::from(u64::from(number)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("the CA may sign lists");
        list.pem().expect("a list is text as well")
    }

    /// A device certificate that expires.
    pub fn device_valid_for(&self, name: &str, time: std::time::Duration) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = (std::time::SystemTime::now() + time).into();
        self.write(name, params)
    }

    /// The certificate of a device as PEM, without its key and without files: for fleets. The files of `device` are
    /// what a test connects with.
    pub fn certificate(&self, name: &str) -> String {
        self.sign(&mut Self::device_params(name), &KeyPair::generate().expect("a key can be made")).pem()
    }

    /// One that expired long ago.
    pub fn expired_certificate(&self, name: &str) -> String {
        let mut params = Self::device_params(name);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(&mut params, &KeyPair::generate().expect("a key can be made")).pem()
    }

    fn device_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    fn sign(&self, params: &mut CertificateParams, key: &KeyPair) -> rcgen::Certificate {
        let mut serial = Sha256::digest(key.public_key_raw())[..16].to_vec();
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.signed_by(key, &self.issuer).expect("the parameters are complete")
    }

    fn write(&self, file: &str, mut params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = self.sign(&mut params, &key);
        let serial = params.serial_number.take().map(|serial| serial.to_bytes()).unwrap_or_default();
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
            serial,
        }
    }

    fn existing(&self, file: &str) -> Identity {
        Identity {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
            fingerprint: String::new(),
            serial: Vec::new(),
        }
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
