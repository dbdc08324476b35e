//! Personal members of records, encrypted with a key of the subject they are about. Whoever destroys that key makes them
//! unreadable for ever, while every hash, chain, checkpoint and proof stays valid, because they are over the bytes as
//! stored.
//!
//! A value is written as `enc:1:ID:BASE64`: the subject's pseudonym, and a nonce and the text under AES-256-GCM with the
//! log's name and the member's as additional data. A key is a file of its own, outside of the log's folder: whoever
//! copies the log does not copy the keys.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::CertificateFingerprint;

use crate::files;

/// What an encrypted value begins with.
const PREFIX: &str = "enc:1:";
/// Keys kept in memory.
const CACHED: usize = 4096;
/// What a key is overwritten with: never a key.
const NO_KEY: [u8; 32] = [0; 32];
/// Names the secret that pseudonyms are made with.
const SECRET: &str = "pseudonyms.secret";

/// Who a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// `device:NAME`, `certificate:FINGERPRINT`, `client:ID` or `address:IP`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        if name.is_empty() {
            return None;
        }
        // As records have them, however somebody writes them: a subject that is not recognised is not forgotten.
        let name = match kind {
            "device" | "client" => name.to_owned(),
            "certificate" => name.replace(':', "").to_ascii_lowercase(),
            "address" => {
                let bare = name.trim_matches(['[', ']']);
                bare.parse().map_or_else(|_| bare.to_owned(), |address: IpAddr| address.to_string())
            }
            _ => return None,
        };
        Some(Self(format!("{kind}:{name}")))
    }

    /// The best known of those it could be: device, certificate, client, address.
    pub fn of(event: &AuditEvent) -> Option<Self> {
        if let Some(device) = &event.device_id {
            return Some(Self(format!("device:{device}")));
        }
        if let Some(fingerprint) = event.certificate_fingerprint.map(CertificateFingerprint::to_hex) {
            return Some(Self(format!("certificate:{fingerprint}")));
        }
        if let Some(client) = &event.client_id {
            return Some(Self(format!("client:{client}")));
        }
        let address = event.peer_address.as_deref()?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Some(Self(format!("address:{}", host.trim_matches(['[', ']']))))
    }
}

/// The key of one subject.
pub struct SubjectKey {
    id: String,
    log: String,
    members: Arc<[String]>,
    key: LessSafeKey,
}

impl SubjectKey {
    /// The form in which a personal member is written; `None` for one that is not personal. What cannot be encrypted is
    /// left out rather than shown.
    pub(crate) fn hide(&self, member: &str, value: &str) -> Option<String> {
        if !self.members.iter().any(|personal| personal == member) {
            return None;
        }
        let mut nonce = [0; NONCE_LEN];
        let mut text = value.as_bytes().to_vec();
        let sealed = rand::fill(&mut nonce).and_then(|()| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.key.seal_in_place_append_tag(nonce, self.bound_to(member), &mut text)
        });
        let mut blob = nonce.to_vec();
        if sealed.is_ok() {
            blob.extend_from_slice(&text);
        }
        Some(format!("{PREFIX}{}:{}", self.id, BASE64.encode(blob)))
    }

    fn reveal(&self, member: &str, blob: &str) -> Option<String> {
        let blob = BASE64.decode(blob).ok()?;
        let (nonce, text) = blob.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key.open_in_place(nonce, self.bound_to(member), &mut text).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }

    fn bound_to(&self, member: &str) -> Aad<Vec<u8>> {
        Aad::from(format!("{}\n{member}", self.log).into_bytes())
    }
}

/// The keys of all subjects, and what of records is personal.
pub struct Personal {
    folder: PathBuf,
    log: String,
    members: Arc<[String]>,
    pseudonyms: hmac::Key,
    cache: HashMap<String, Arc<SubjectKey>>,
    order: VecDeque<String>,
}

impl Personal {
    /// `members` are the names of personal members, and of fields; `folder` is where the keys are.
    pub fn open(folder: &Path, log: &str, members: &[String]) -> io::Result<Self> {
        files::create_folder(folder).map_err(files::at(folder))?;
        let secret = read_or_make(&folder.join(SECRET))?;
        Ok(Self {
            folder: folder.to_owned(),
            log: log.to_owned(),
            members: members.into(),
            pseudonyms: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            cache: HashMap::new(),
            order: VecDeque::new(),
        })
    }

    /// The key of whoever `event` is about, made now if there is none; `None` if it is about nobody.
    pub(crate) fn key_for(&mut self, event: &AuditEvent) -> io::Result<Option<Arc<SubjectKey>>> {
        let Some(subject) = Subject::of(event) else { return Ok(None) };
        let id = self.pseudonym(&subject);
        if let Some(key) = self.cache.get(&id) {
            return Ok(Some(Arc::clone(key)));
        }
        let key = read_or_make(&self.path(&id))?;
        self.keep(&id, &key).map(Some)
    }

    /// Whether anything was encrypted for `subject` that can still be read.
    pub fn has_key(&self, subject: &Subject) -> io::Result<bool> {
        let path = self.path(&self.pseudonym(subject));
        Ok(read_key(&path)?.is_some())
    }

    /// What stands for a subject in encrypted values.
    pub fn pseudonym(&self, subject: &Subject) -> String {
        hex::encode(&hmac::sign(&self.pseudonyms, subject.0.as_bytes()).as_ref()[..16])
    }

    /// The text of an encrypted value; `None` for what is not one, or whose key is gone.
    pub fn reveal(&mut self, member: &str, value: &str) -> Option<String> {
        let (id, blob) = value.strip_prefix(PREFIX)?.split_once(':')?;
        let fits = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !fits {
            return None;
        }
        let key = match self.cache.get(id) {
            Some(key) => Arc::clone(key),
            None => {
                let key = read_key(&self.path(id)).ok()??;
                self.keep(id, &key).ok()?
            }
        };
        key.reveal(member, blob)
    }

    /// Destroys the key of `subject`; false if it has none. What was encrypted with it can be read no longer.
    pub fn erase(&mut self, subject: &Subject) -> io::Result<bool> {
        let id = self.pseudonym(subject);
        self.cache.remove(&id);
        self.order.retain(|cached| *cached != id);
        let path = self.path(&id);
        let mut file = match std::fs::OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(files::at(&path)(error)),
        };
        // Overwritten first, for file systems that write in place.
        file.write_all(&NO_KEY)?;
        file.sync_all()?;
        std::fs::remove_file(&path)?;
        files::sync_folder(files::parent(&path))?;
        Ok(true)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(&id[..2]).join(format!("{id}.key"))
    }

    fn keep(&mut self, id: &str, key: &[u8]) -> io::Result<Arc<SubjectKey>> {
        let path = self.path(id);
        let key = UnboundKey::new(&AES_256_GCM, key)
            .map_err(|_| io::Error::other(format!("{}: not a key of 32 bytes", path.display())))?;
        let key = Arc::new(SubjectKey {
            id: id.to_owned(),
            log: self.log.clone(),
            members: Arc::clone(&self.members),
            key: LessSafeKey::new(key),
        });
        if self.order.len() >= CACHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.cache.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.cache.insert(id.to_owned(), Arc::clone(&key));
        Ok(key)
    }
}

/// The key in a file; `None` if there is none, or one that was being destroyed when the broker ended.
fn read_key(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) if bytes == NO_KEY => Ok(None),
        Ok(bytes) if bytes.len() == NO_KEY.len() => Ok(Some(bytes)),
        Ok(_) => Err(io::Error::other(format!("{}: not a key of 32 bytes", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::at(path)(error)),
    }
}

/// 32 bytes that nobody else has, in a file that is on the disk before they are used.
fn read_or_make(path: &Path) -> io::Result<Vec<u8>> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness for a key"))?;
    files::create_folder(files::parent(path))?;
    // In one step: a crash leaves no half of a key behind.
    files::replace(path, &bytes).map_err(files::at(path))?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use mqgate_identity::audit::{Outcome, names};
    use mqgate_identity::reason::Reason;

    use super::*;

    fn about(device: &str) -> AuditEvent {
        let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok);
        event.device_id = Some(device.into());
        event
    }

    #[test]
    fn a_subject_is_the_best_that_is_known() {
        let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok);
        assert_eq!(Subject::of(&event), None);
        event.peer_address = Some("[2001:db8::1]:40000".into());
        assert_eq!(Subject::of(&event), Subject::parse("address:2001:db8::1"));
        event.client_id = Some("c".into());
        assert_eq!(Subject::of(&event), Subject::parse("client:c"));
        event.certificate_fingerprint = Some(CertificateFingerprint([0xab; 32]));
        assert_eq!(Subject::of(&event), Subject::parse(&format!("certificate:{}", "ab".repeat(32))));
        event.device_id = Some("d".into());
        assert_eq!(Subject::of(&event), Subject::parse("device:d"));
        assert_eq!(Subject::parse("person:d"), None);
    }

    #[test]
    fn what_is_encrypted_can_be_read_until_the_key_is_erased() {
        let folder = tempfile::tempdir().unwrap();
        let members = ["client_id".to_owned(), "user_name".to_owned()];
        let open = || Personal::open(folder.path(), "0011223344556677", &members).unwrap();
        let mut personal = open();
        let key = personal.key_for(&about("d")).unwrap().unwrap();
        let hidden = key.hide("client_id", "meter 7").unwrap();
        assert!(hidden.starts_with("enc:1:") && !hidden.contains("meter"), "{hidden}");
        assert_ne!(
            key.hide("client_id", "meter 7").unwrap(),
            hidden,
            "the same text looks different each time"
        );
        assert_eq!(key.hide("listener", "mqtts"), None);
        let mut personal = open();
        assert_eq!(personal.reveal("client_id", &hidden).as_deref(), Some("meter 7"));
        assert_eq!(personal.reveal("user_name", &hidden), None, "it is bound to its member");
        assert_eq!(personal.reveal("client_id", "enc:1:../../etc/passwd:AA"), None);
        let subject = Subject::parse("device:d").unwrap();
        assert!(personal.erase(&subject).unwrap());
        assert!(!personal.erase(&subject).unwrap());
        assert_eq!(personal.reveal("client_id", &hidden), None);
        // A key that is made later opens nothing that was written before.
        personal.key_for(&about("d")).unwrap().unwrap();
        assert_eq!(personal.reveal("client_id", &hidden), None);
    }

    /// A crash can come between the two steps of an erasure: what is left of the key is no key.
    #[test]
    fn an_erasure_that_was_cut_short_leaves_no_key_that_everybody_knows() {
        let folder = tempfile::tempdir().unwrap();
        let members = ["client_id".to_owned()];
        let open = || Personal::open(folder.path(), "0011223344556677", &members).unwrap();
        let mut personal = open();
        let subject = Subject::parse("device:d").unwrap();
        let before = personal.key_for(&about("d")).unwrap().unwrap().hide("client_id", "x").unwrap();
        let path = personal.path(&personal.pseudonym(&subject));
        std::fs::write(&path, [0; 32]).unwrap();
        let mut personal = open();
        assert_eq!(personal.reveal("client_id", &before), None);
        assert!(!personal.has_key(&subject).unwrap());
        let after = personal.key_for(&about("d")).unwrap().unwrap().hide("client_id", "y").unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), [0; 32]);
        assert_eq!(personal.reveal("client_id", &after).as_deref(), Some("y"));
        assert!(personal.has_key(&subject).unwrap());
    }

    #[test]
    fn a_subject_has_one_spelling() {
        for (given, meant) in [
            ("certificate:ABCD", "certificate:abcd"),
            ("certificate:AB:CD", "certificate:abcd"),
            ("address:2001:DB8:0::1", "address:2001:db8::1"),
            ("address:[2001:db8::1]", "address:2001:db8::1"),
            ("address:unix", "address:unix"),
            ("device:A:b", "device:A:b"),
            ("client:Ab", "client:Ab"),
        ] {
            assert_eq!(Subject::parse(given), Some(Subject(meant.into())), "{given}");
        }
    }

    #[test]
    fn so_many_keys_are_in_memory_and_the_others_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let members = ["client_id".to_owned()];
        let mut personal = Personal::open(folder.path(), "0011223344556677", &members).unwrap();
        let first = personal.key_for(&about("0")).unwrap().unwrap().hide("client_id", "x").unwrap();
        for number in 0..CACHED + 10 {
            personal.keep(&format!("{number:032x}"), &[7; 32]).unwrap();
        }
        assert_eq!((personal.cache.len(), personal.order.len()), (CACHED, CACHED));
        assert_eq!(personal.reveal("client_id", &first).as_deref(), Some("x"));
    }
}
