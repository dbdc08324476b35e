//! The keys that sign a log: the private one in a file of its own, the public ones, with who handed over to whom, in
//! `keys.jsonl`.
//!
//! The first line has the first key. Every further line has a statement, signed by the key before and by its
//! successor, so that whoever trusts one of them can find the others.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, KEYS, Line, Lines};
use crate::note::{Note, NoteError, SigningKey, VerifyingKey, sign};

/// What the names of our keys, and so the origins of our checkpoints, begin with.
const ORIGIN: &str = "mqgate.audit/";

/// The name under which the log `id` is signed.
pub fn origin(id: &str) -> String {
    format!("{ORIGIN}{id}")
}

/// The log that a key's name tells.
pub fn log_of(name: &str) -> Option<&str> {
    name.strip_prefix(ORIGIN).filter(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// One line of `keys.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyLine {
    key: String,
    /// Signed by the key before and by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement: Option<String>,
}

/// A key and the sizes of the trees it may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub key: VerifyingKey,
    /// Size of the log when it took over.
    pub from: u64,
    /// Size of the log when it handed over.
    pub to: Option<u64>,
    /// What both signed, for every key but the first.
    pub statement: Option<String>,
}

/// All keys of a log, the first one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    terms: Vec<Term>,
}

/// What is wrong with `keys.jsonl`, and where.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0}")]
    File(io::Error),
    #[error("{KEYS}, line {line}: {what}")]
    Line { line: u64, what: String },
    #[error("{KEYS}: it has no key")]
    Empty,
    #[error("{path}: {problem}")]
    Private { path: String, problem: String },
}

impl KeyRing {
    /// Reads and checks `keys.jsonl`: every hand-over is signed by both. Which of the keys is to be trusted is for the
    /// reader to know: [`KeyRing::contains`].
    pub fn read(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(KEYS);
        let file = File::open(&path).map_err(files::at(&path)).map_err(KeyError::File)?;
        let mut lines = Lines::new(file, 0);
        let mut terms: Vec<Term> = Vec::new();
        while let Some(line) = lines.next_line().map_err(KeyError::File)? {
            let Line::Whole(text) = line else { break };
            let term = term(text, terms.last());
            let term = term.map_err(|what| KeyError::Line { line: lines.number(), what })?;
            if let Some(before) = terms.last_mut() {
                before.to = Some(term.from);
            }
            terms.push(term);
        }
        if terms.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self { terms })
    }

    /// A ring of one key, which is believed to sign everything.
    pub fn of(key: VerifyingKey) -> Self {
        Self { terms: vec![Term { key, from: 0, to: None, statement: None }] }
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The key that signs now.
    pub fn current(&self) -> &VerifyingKey {
        &self.terms.last().expect("a ring is made with one key at least").key
    }

    pub fn contains(&self, key: &VerifyingKey) -> bool {
        self.terms.iter().any(|term| term.key == *key)
    }

    /// The log's name, as in its records.
    pub fn log(&self) -> &str {
        log_of(self.current().name()).unwrap_or_default()
    }

    /// Whether a note about the log of `size` records is signed by the key whose turn it was.
    pub fn verify(&self, note: &Note, size: u64) -> Result<(), NoteError> {
        let mut refused = NoteError::NotSigned(self.current().to_string());
        for term in self.terms.iter().rev() {
            if size < term.from || term.to.is_some_and(|to| size > to) {
                continue;
            }
            match note.verify(&term.key) {
                Ok(()) => return Ok(()),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

fn term(text: &[u8], before: Option<&Term>) -> Result<Term, String> {
    let line: KeyLine = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let key = VerifyingKey::parse(&line.key).map_err(|error| error.to_string())?;
    if log_of(key.name()).is_none() {
        return Err(format!("the key is of no log: its name is {}", key.name()));
    }
    let from = match (before, &line.statement) {
        (None, None) => 0,
        (Some(before), Some(statement)) => {
            let note = Note::parse(statement).map_err(|error| error.to_string())?;
            note.verify(&before.key).map_err(|error| error.to_string())?;
            note.verify(&key).map_err(|error| error.to_string())?;
            let size = statement_size(note.text(), &before.key, &key)
                .ok_or("the statement is about something else")?;
            if size < before.from {
                return Err(String::from("it takes over before its predecessor did"));
            }
            size
        }
        (None, Some(_)) => return Err(String::from("the first key has nobody to take over from")),
        (Some(_), None) => return Err(String::from("its predecessor did not hand over")),
    };
    Ok(Term { key, from, to: None, statement: line.statement })
}

fn statement_text(before: &VerifyingKey, after: &VerifyingKey, size: u64, time: &str) -> String {
    format!("{}\nkey rotation\nfrom {before}\nto {after}\nsize {size}\ntime {time}\n", after.name())
}

fn statement_size(text: &str, before: &VerifyingKey, after: &VerifyingKey) -> Option<u64> {
    let mut lines = text.lines().skip(4);
    let size: u64 = lines.next()?.strip_prefix("size ")?.parse().ok()?;
    let time = lines.next()?.strip_prefix("time ")?;
    (text == statement_text(before, after, size, time)).then_some(size)
}

/// The key a log is signed with, and where its files are.
pub struct Signer {
    folder: PathBuf,
    key_file: PathBuf,
    key: SigningKey,
    ring: KeyRing,
}

impl Signer {
    /// Loads the key of the log in `folder`; for a new log, begins its list of keys, with the key of the file or one that
    /// is made now.
    pub fn open(folder: &Path, key_file: &Path) -> Result<Self, KeyError> {
        finish_rotation(folder, key_file)?;
        let list = folder.join(KEYS);
        let is_new = std::fs::metadata(&list).map_or(true, |list| list.len() == 0);
        if is_new && files::segments(folder).map_err(KeyError::File)?.is_empty() {
            let mut id = [0; 8];
            aws_lc_rs::rand::fill(&mut id).map_err(|_| private(key_file, "no randomness for a key"))?;
            let name = origin(&hex::encode(id));
            let key = match std::fs::read_to_string(key_file) {
                Ok(text) => load(key_file, &name, &text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => make(key_file, &name)?,
                Err(error) => return Err(private(key_file, error)),
            };
            let line = KeyLine { key: key.verifying().to_string(), statement: None };
            append(folder, &line).map_err(KeyError::File)?;
        }
        let ring = KeyRing::read(folder)?;
        let text = std::fs::read_to_string(key_file).map_err(|error| private(key_file, error))?;
        let key = load(key_file, ring.current().name(), &text)?;
        if key.verifying() != ring.current() {
            let what = format!("not the key that signs this log ({})", ring.current().id());
            return Err(private(key_file, what));
        }
        Ok(Self { folder: folder.to_owned(), key_file: key_file.to_owned(), key, ring })
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// Hands over to a new key when the log has `size` records. Returns the statement that both signed.
    pub fn rotate(&mut self, size: u64, time: &str) -> Result<String, KeyError> {
        let next = beside(&self.key_file);
        // One that is left of an attempt that failed was never handed over to.
        if let Err(error) = std::fs::remove_file(&next)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(private(&next, error));
        }
        let key = make(&next, self.key.verifying().name())?;
        let text = statement_text(self.key.verifying(), key.verifying(), size, time);
        let statement = sign(&text, &[&self.key, &key]);
        let line = KeyLine { key: key.verifying().to_string(), statement: Some(statement.clone()) };
        append(&self.folder, &line).map_err(KeyError::File)?;
        // From here on the new key signs, also if the broker ends now: `finish_rotation` goes on.
        self.ring = KeyRing::read(&self.folder)?;
        self.key = key;
        finish_rotation(&self.folder, &self.key_file)?;
        Ok(statement)
    }
}

/// Puts a key that was handed over to in its place, and drops one that was not.
fn finish_rotation(folder: &Path, key_file: &Path) -> Result<(), KeyError> {
    let next = beside(key_file);
    let text = match std::fs::read_to_string(&next) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(private(&next, error)),
    };
    let ring = KeyRing::read(folder)?;
    let took_over =
        SigningKey::from_pem(ring.current().name(), &text).is_ok_and(|key| key.verifying() == ring.current());
    let done = if took_over { std::fs::rename(&next, key_file) } else { std::fs::remove_file(&next) };
    done.and_then(|()| files::sync_folder(files::parent(key_file))).map_err(|error| private(&next, error))
}

fn beside(key_file: &Path) -> PathBuf {
    let mut name = key_file.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

fn load(path: &Path, name: &str, text: &str) -> Result<SigningKey, KeyError> {
    SigningKey::from_pem(name, text).map_err(|error| private(path, error))
}

/// A new key in a new file.
fn make(path: &Path, name: &str) -> Result<SigningKey, KeyError> {
    let (key, pem) = SigningKey::generate(name).map_err(|error| private(path, error))?;
    let write = || {
        files::create_folder(files::parent(path))?;
        let mut file = files::create_private(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        files::sync_folder(files::parent(path))
    };
    write().map_err(|error: io::Error| private(path, error))?;
    Ok(key)
}

fn append(folder: &Path, line: &KeyLine) -> io::Result<()> {
    let path = folder.join(KEYS);
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut file = files::open_private(&path).map_err(files::at(&path))?;
    // A line that was torn by a crash is written over.
    let mut whole = 0;
    let mut lines = Lines::new(&file, 0);
    while let Some(Line::Whole(_)) = lines.next_line()? {
        whole = lines.offset();
    }
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    file.write_all(&text)?;
    file.sync_all()?;
    files::sync_folder(folder)
}

fn private(path: &Path, problem: impl ToString) -> KeyError {
    KeyError::Private { path: path.display().to_string(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::note::Checkpoint;

    #[test]
    fn a_key_hands_over_to_the_next_and_each_signs_in_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.key");
        let mut signer = Signer::open(folder.path(), &file).unwrap();
        let first = signer.key().verifying().clone();
        let early = Checkpoint::sign(signer.key(), 10, Hash::ZERO, "t").note;
        let forged = Checkpoint::sign(signer.key(), 30, Hash::ZERO, "t").note;
        signer.rotate(20, "2026-11-22T09:00:00.000Z").unwrap();
        let late = Checkpoint::sign(signer.key(), 30, Hash::ZERO, "t").note;
        drop(signer);
        let signer = Signer::open(folder.path(), &file).unwrap();
        assert_ne!(*signer.key().verifying(), first);
        assert!(signer.ring().contains(&first));
        let verify = |note: &str, size| signer.ring().verify(&Note::parse(note).unwrap(), size);
        assert_eq!(verify(&early, 10), Ok(()));
        assert_eq!(verify(&late, 30), Ok(()));
        assert!(verify(&forged, 30).is_err(), "a key that handed over signs nothing later");
        assert!(verify(&late, 10).is_err());
    }

    #[test]
    fn a_rotation_that_was_cut_short_is_finished_or_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.key");
        let mut signer = Signer::open(folder.path(), &file).unwrap();
        let old = std::fs::read(&file).unwrap();
        // The new key was made, and nothing else.
        make(&beside(&file), signer.key().verifying().name()).unwrap();
        let first = Signer::open(folder.path(), &file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), old);
        assert!(!beside(&file).exists());
        // It was handed over to, and not put in its place.
        signer.rotate(1, "t").unwrap();
        std::fs::rename(&file, beside(&file)).unwrap();
        std::fs::write(&file, old).unwrap();
        let second = Signer::open(folder.path(), &file).unwrap();
        assert_ne!(second.key().verifying(), first.key().verifying());
    }

    #[test]
    fn a_key_that_is_not_the_logs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.key");
        let name = Signer::open(folder.path(), &file).unwrap().key().verifying().name().to_owned();
        std::fs::write(&file, SigningKey::generate(&name).unwrap().1).unwrap();
        let error = Signer::open(folder.path(), &file).err().unwrap().to_string();
        assert!(error.contains("not the key that signs this log"), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(Signer::open(folder.path(), &file).is_err());
    }

    #[test]
    fn every_changed_byte_of_the_list_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut signer = Signer::open(folder.path(), &folder.path().join("audit.key")).unwrap();
        signer.rotate(5, "2026-11-22T09:00:00.000Z").unwrap();
        let first = signer.ring().terms()[0].key.clone();
        let ring = signer.ring().clone();
        let path = folder.path().join(KEYS);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let noticed =
                KeyRing::read(folder.path()).map_or(true, |read| !read.contains(&first) || read != ring);
            assert!(noticed, "byte {at}");
        }
    }
}
