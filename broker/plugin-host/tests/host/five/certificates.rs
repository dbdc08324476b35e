//! Certificates as ugly as they are wanted: written by hand, signed by nobody who counts, read by the broker's own parser.

use std::sync::{Arc, LazyLock};

use mqgate_identity::certificate::{
    CertificateError, CertificateFacts, CertificateFingerprint, ClientCertificate, MatchedAnchor,
};
use rcgen::KeyPair;

use super::der::{Draft, boolean, extension, integer, name as name_der, oid, sequence, tlv};

pub const CN: &str = "2.5.4.3";
pub const SERIAL_NUMBER: &str = "2.5.4.5";
pub const O: &str = "2.5.4.10";
pub const OU: &str = "2.5.4.11";

pub const UTF8: u8 = 0x0c;
pub const NUMERIC: u8 = 0x12;
pub const PRINTABLE: u8 = 0x13;
pub const TELETEX: u8 = 0x14;
pub const IA5: u8 = 0x16;
pub const VISIBLE: u8 = 0x1a;
pub const UNIVERSAL: u8 = 0x1c;
pub const BMP: u8 = 0x1e;

/// What changes a certificate after it was read: values that the parser lets nobody have, and that a plugin must hold all
/// the same.
type Altered = Box<dyn Fn(&mut CertificateFacts)>;

/// The certificate of a device, until [`Leaf::judged`] makes it one.
pub struct Leaf {
    /// DER of each RDN.
    rdns: Vec<Vec<u8>>,
    /// DER of each alternative name.
    alt_names: Vec<Vec<u8>>,
    serial: Vec<u8>,
    /// 1, 2 or 3.
    version: u32,
    extensions: Vec<(&'static str, bool, Vec<u8>)>,
    anchor: String,
    altered: Vec<Altered>,
}

/// With this common name, and nothing else.
pub fn device(common_name: &str) -> Leaf {
    nameless().subject(CN, common_name)
}

/// With a serial number, and no name at all.
pub fn nameless() -> Leaf {
    Leaf {
        rdns: Vec::new(),
        alt_names: Vec::new(),
        serial: vec![0x0a, 0xff],
        version: 3,
        extensions: Vec::new(),
        anchor: String::from("fleet-ca"),
        altered: Vec::new(),
    }
}

impl Leaf {
    pub fn subject(self, kind: &str, text: &str) -> Self {
        self.subject_of(kind, UTF8, text.as_bytes())
    }

    /// An attribute of any string type, or none.
    pub fn subject_of(mut self, kind: &str, string: u8, content: &[u8]) -> Self {
        self.rdns.push(tlv(0x31, &attribute(kind, string, content)));
        self
    }

    /// One RDN of several attributes.
    pub fn multi_valued(mut self, pairs: &[(&str, &str)]) -> Self {
        let pairs: Vec<u8> =
            pairs.iter().flat_map(|(kind, text)| attribute(kind, UTF8, text.as_bytes())).collect();
        self.rdns.push(tlv(0x31, &pairs));
        self
    }

    pub fn alt_name(mut self, der: Vec<u8>) -> Self {
        self.alt_names.push(der);
        self
    }

    pub fn dns(self, text: &str) -> Self {
        self.alt_name(tlv(0x82, text.as_bytes()))
    }

    pub fn uri(self, text: &str) -> Self {
        self.alt_name(tlv(0x86, text.as_bytes()))
    }

    pub fn serial(mut self, content: &[u8]) -> Self {
        self.serial = content.to_vec();
        self
    }

    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    pub fn extension(mut self, oid: &'static str, critical: bool, value: Vec<u8>) -> Self {
        self.extensions.push((oid, critical, value));
        self
    }

    pub fn ca(self) -> Self {
        self.extension("2.5.29.19", true, sequence(&[&boolean(true)]))
    }

    pub fn anchor(mut self, name: &str) -> Self {
        self.anchor = name.to_owned();
        self
    }

    pub fn altered(mut self, change: impl Fn(&mut CertificateFacts) + 'static) -> Self {
        self.altered.push(Box::new(change));
        self
    }

    /// What the broker's parser makes of it.
    pub fn read(&self) -> Result<CertificateFacts, CertificateError> {
        static KEYS: LazyLock<Vec<KeyPair>> =
            LazyLock::new(|| (0..2).map(|_| KeyPair::generate().expect("a key")).collect());
        let issuer = name_der(&[("2.5.4.3", "Fleet CA 1")]);
        let subject = tlv(0x30, &self.rdns.concat());
        let mut draft = Draft::new(subject, 0, issuer, 1, (1_700_000_000, 1_800_000_000));
        draft.serial = tlv(0x02, &self.serial);
        draft.version = (self.version > 1).then(|| tlv(0xa0, &integer(self.version - 1)));
        if !self.alt_names.is_empty() {
            let names = tlv(0x30, &self.alt_names.concat());
            draft = draft.with(extension("2.5.29.17", false, names));
        }
        for (oid, critical, value) in &self.extensions {
            draft = draft.with(extension(oid, *critical, value.clone()));
        }
        CertificateFacts::parse(&draft.sign(&KEYS))
    }

    /// As it comes to the hooks: verified to its anchor.
    pub fn judged(self) -> Result<Arc<ClientCertificate>, CertificateError> {
        let mut leaf = self.read()?;
        for change in &self.altered {
            change(&mut leaf);
        }
        Ok(Arc::new(ClientCertificate {
            not_after: leaf.not_after,
            leaf,
            intermediates: Vec::new(),
            anchor: MatchedAnchor {
                name: self.anchor.as_str().into(),
                certificate_fingerprint: CertificateFingerprint([7; 32]),
            },
            issuer_key: [8; 32],
            judged_by: 1,
        }))
    }
}

fn attribute(kind: &str, string: u8, content: &[u8]) -> Vec<u8> {
    sequence(&[&oid(kind), &tlv(string, content)])
}

/// `text` as the content of a string type.
pub fn encoded(string: u8, text: &str) -> Vec<u8> {
    match string {
        BMP => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        UNIVERSAL => text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
        _ => text.as_bytes().to_vec(),
    }
}
