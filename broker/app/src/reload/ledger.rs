//! Transitions: what was replaced and stays valid beside its successor, until when, and why. On disk before it is
//! believed, so that a broker that is started again keeps its word.
//!
//! Knows records and moments; what makes the old material valid is `transitions`' part.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::pki::write_private;

/// What was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "TransitionMaterial")]
#[serde(rename_all = "kebab-case")]
pub enum Material {
    Ca,
    ServerCertificate,
}

/// Something old that is still valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub id: String,
    pub material: Material,
    /// The CA's name, or the file of the certificate.
    pub name: String,
    pub fingerprint: CertificateFingerprint,
    pub subject: String,
    pub not_after: UnixSeconds,
    /// Where it stays valid; empty: on every listener.
    pub listeners: Vec<String>,
    pub started_at: UnixMillis,
    pub ends_at: UnixMillis,
    pub actor: String,
    /// The old certificate, or the chain.
    pub pem: String,
    /// The key to it, of a server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of the key, where the broker keeps it anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Server names that it was for, if it was not for those in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<String>,
}

/// What is replaced now, whether or not it stays valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub material: Material,
    pub fingerprint: CertificateFingerprint,
    /// Where; empty: on every listener.
    pub listeners: Vec<String>,
}

/// How the ledger was before something began.
#[derive(Debug, Default)]
pub struct Undo {
    added: Vec<String>,
    /// Runs nowhere any more.
    removed: Vec<Transition>,
    /// Runs on fewer listeners.
    shrunk: Vec<Transition>,
}

/// Transitions that run at the same time; each keeps its material in memory.
pub const MOST: usize = 64;

/// Format of the file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    transitions: Vec<Transition>,
}

/// Every transition that runs.
pub struct Ledger {
    file: PathBuf,
    running: Mutex<Vec<Transition>>,
}

/// What a transition cannot do.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("no transition has the id \"{0}\"; `mqgate transition list` shows those that run")]
    NoSuch(String),
    #[error("the end would be in the past: end the transition instead")]
    Past,
    #[error("{MOST} transitions run already: end one of them first, or use a grace of 0s")]
    TooMany,
    #[error(transparent)]
    Disk(#[from] anyhow::Error),
}

impl Ledger {
    /// Reads what runs. A file that cannot be read is an error: what was promised must not be forgotten silently.
    /// By a clock that is behind the one of who wrote it nothing can be said of an end: what began later than `now` is
    /// over.
    pub fn open(file: &Path, now: UnixMillis) -> Result<Self> {
        let mut transitions = match std::fs::read(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
            Ok(bytes) => {
                let read: File = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is no list of transitions", file.display()))?;
                anyhow::ensure!(
                    read.version == VERSION,
                    "{} was written by another version of the broker (format {}, not {VERSION})",
                    file.display(),
                    read.version
                );
                read.transitions
            }
        };
        transitions.retain(|transition| {
            let is_past = transition.started_at <= now;
            if !is_past {
                tracing::error!(
                    transition = transition.id,
                    name = transition.name,
                    "a transition began later than now by this machine's clock: it is over"
                );
            }
            is_past
        });
        Ok(Self { file: file.to_owned(), running: Mutex::new(transitions) })
    }

    /// Every transition that runs, the next to end first.
    pub fn list(&self) -> Vec<Transition> {
        let mut list = self.running().clone();
        list.sort_by(|a, b| a.ends_at.cmp(&b.ends_at).then_with(|| a.id.cmp(&b.id)));
        list
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<UnixMillis> {
        self.running().iter().map(|transition| transition.ends_at).min()
    }

    /// Replaces everything by what `change` makes of it, on disk first.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Transition>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut running = self.running();
        let mut next = running.clone();
        let answer = change(&mut next)?;
        if next.len() > MOST && next.len() > running.len() {
            return Err(LedgerError::TooMany);
        }
        if next != *running {
            self.write(&next)?;
            *running = next;
        }
        Ok(answer)
    }

    /// Writes down what begins, in the place of what ran of the same material in the same place: who has it replaced
    /// again, with less grace, means that.
    pub fn begin(&self, gone: &[Gone], new: &[Transition]) -> Result<Undo, LedgerError> {
        self.change(|running| {
            let mut undo = Undo::default();
            for gone in gone {
                let has_successor = new.iter().any(|transition| gone.is(transition));
                running.retain_mut(|known| {
                    if !gone.is(known) {
                        return true;
                    }
                    let was = known.clone();
                    let stays = gone.leaves(known, has_successor);
                    if !stays {
                        undo.removed.push(was);
                    } else if *known != was {
                        undo.shrunk.push(was);
                    }
                    stays
                });
            }
            running.extend_from_slice(new);
            undo.added = new.iter().map(|transition| transition.id.clone()).collect();
            Ok(undo)
        })
    }

    /// What began did not come about. What ran before runs again, unless it was ended meanwhile.
    pub fn take_back(&self, undo: &Undo) -> Result<(), LedgerError> {
        self.change(|running| {
            running.retain(|known| !undo.added.contains(&known.id));
            // The first entry of one is how it was.
            for before in undo.shrunk.iter().rev() {
                if let Some(known) = running.iter_mut().find(|known| known.id == before.id) {
                    known.listeners.clone_from(&before.listeners);
                }
            }
            running.extend(undo.removed.iter().cloned());
            Ok(())
        })
    }

    /// Takes out what has ended by `now`.
    pub fn take_ended(&self, now: UnixMillis) -> Result<Vec<Transition>, LedgerError> {
        self.change(|running| Ok(running.extract_if(.., |transition| transition.ends_at <= now).collect()))
    }

    /// Takes one out.
    pub fn take(&self, id: &str) -> Result<Transition, LedgerError> {
        self.change(|running| {
            let index = running.iter().position(|transition| transition.id == id);
            let index = index.ok_or_else(|| LedgerError::NoSuch(id.to_owned()))?;
            Ok(running.remove(index))
        })
    }

    /// Moves the end of one; answers it as it was and as it is.
    pub fn extend(
        &self,
        id: &str,
        ends_at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(Transition, Transition), LedgerError> {
        self.change(|running| {
            let found = running.iter_mut().find(|transition| transition.id == id);
            let found = found.ok_or_else(|| LedgerError::NoSuch(id.to_owned()))?;
            if ends_at <= now {
                return Err(LedgerError::Past);
            }
            let before = found.clone();
            found.ends_at = ends_at;
            Ok((before, found.clone()))
        })
    }

    fn running(&self) -> MutexGuard<'_, Vec<Transition>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, transitions: &[Transition]) -> Result<()> {
        let file = File { version: VERSION, transitions: transitions.to_vec() };
        write_private(&self.file, &serde_json::to_vec_pretty(&file)?)
    }
}

impl Gone {
    /// That of a transition.
    pub fn of(transition: &Transition) -> Self {
        let Transition { material, fingerprint, listeners, .. } = transition;
        Self { material: *material, fingerprint: *fingerprint, listeners: listeners.clone() }
    }

    fn is(&self, transition: &Transition) -> bool {
        (self.material, self.fingerprint) == (transition.material, transition.fingerprint)
    }

    /// Takes the places where it is gone from a transition; whether it still runs anywhere.
    fn leaves(&self, known: &mut Transition, has_successor: bool) -> bool {
        match (self.listeners.is_empty(), known.listeners.is_empty()) {
            (true, true) => false,
            // One of them is about a part of the other. With a successor both hold; without, somebody has the key.
            (true, false) | (false, true) => has_successor,
            (false, false) => {
                known.listeners.retain(|name| !self.listeners.contains(name));
                !known.listeners.is_empty()
            }
        }
    }
}

impl Undo {
    /// What ended because something else began, for who writes that down.
    pub fn removed(&self) -> &[Transition] {
        &self.removed
    }
}

/// A new id, short enough to type.
pub fn new_id() -> Result<String> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(id: &str, ends_at: u64) -> Transition {
        Transition {
            id: id.into(),
            material: Material::Ca,
            name: "factory".into(),
            fingerprint: CertificateFingerprint([7; 32]),
            subject: "CN=factory".into(),
            not_after: UnixSeconds(9),
            listeners: Vec::new(),
            started_at: UnixMillis(1),
            ends_at: UnixMillis(ends_at),
            actor: "admin".into(),
            pem: "PEM".into(),
            key: Some("KEY".into()),
            password: None,
            server_names: Vec::new(),
        }
    }

    const NOW: UnixMillis = UnixMillis(50);

    fn ids(list: &[Transition]) -> Vec<&str> {
        list.iter().map(|transition| transition.id.as_str()).collect()
    }

    #[test]
    fn what_runs_is_there_after_a_restart_until_it_ends() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("transitions.json");
        let ledger = Ledger::open(&file, NOW).expect("nothing runs yet");
        assert_eq!(ledger.next_end(), None);
        ledger
            .change(|running| {
                running.extend([transition("b", 200), transition("a", 100)]);
                Ok(())
            })
            .expect("written");
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "keys are in it");

        let ledger = Ledger::open(&file, NOW).expect("it can be read");
        assert_eq!(ids(&ledger.list()), ["a", "b"]);
        assert_eq!(ledger.next_end(), Some(UnixMillis(100)));
        assert!(ledger.take_ended(UnixMillis(99)).expect("nothing").is_empty());
        assert_eq!(ids(&ledger.take_ended(UnixMillis(100)).expect("one")), ["a"]);
        assert_eq!(ids(&Ledger::open(&file, NOW).expect("it can be read").list()), ["b"]);
    }

    #[test]
    fn an_end_can_be_moved_but_not_into_the_past() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&folder.path().join("transitions.json"), NOW).expect("nothing runs yet");
        ledger
            .change(|running| {
                running.push(transition("a", 100));
                Ok(())
            })
            .expect("written");
        let (before, after) = ledger.extend("a", UnixMillis(300), UnixMillis(50)).expect("extended");
        assert_eq!((before.ends_at, after.ends_at), (UnixMillis(100), UnixMillis(300)));
        assert!(matches!(ledger.extend("a", UnixMillis(40), UnixMillis(50)), Err(LedgerError::Past)));
        assert!(matches!(ledger.take("x"), Err(LedgerError::NoSuch(_))));
        assert_eq!(ledger.take("a").expect("it runs").id, "a");
        assert_eq!(ledger.next_end(), None);
    }

    fn on(mut transition: Transition, listeners: &[&str]) -> Transition {
        transition.listeners = listeners.iter().map(ToString::to_string).collect();
        transition
    }

    #[test]
    fn what_is_replaced_again_has_the_last_grace_and_none_if_there_is_none() {
        // Which runs, where something is replaced with a successor or without: what is left of it.
        type Names = &'static [&'static str];
        let cases: [(Names, Names, bool, Option<Names>); 9] = [
            (&["a"], &["a"], false, None),
            (&["a"], &["a"], true, None),
            (&["a", "b"], &["a"], false, Some(&["b"])),
            (&["a"], &["b"], false, Some(&["a"])),
            (&[], &[], false, None),
            (&[], &[], true, None),
            // After a compromise no part of it is valid anywhere.
            (&["a"], &[], false, None),
            (&[], &["a"], false, None),
            (&["a"], &[], true, Some(&["a"])),
        ];
        for (runs, replaced, has_successor, left) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let ledger =
                Ledger::open(&folder.path().join("transitions.json"), NOW).expect("nothing runs yet");
            let other =
                Transition { fingerprint: CertificateFingerprint([8; 32]), ..transition("other", 100) };
            let before = [on(transition("old", 100), runs), other.clone()];
            ledger.begin(&[], &before).expect("written");
            let next = on(transition("next", 200), replaced);
            let new = if has_successor { vec![next.clone()] } else { Vec::new() };
            let undo = ledger.begin(&[Gone::of(&next)], &new).expect("written");
            let list = ledger.list();
            let old = list.iter().find(|known| known.id == "old");
            let what = format!("{runs:?} {replaced:?} {has_successor}");
            let found = old.map(|old| old.listeners.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), left, "{what}");
            assert_eq!(list.iter().any(|known| known.id == "next"), has_successor, "{what}");
            assert!(list.contains(&other), "{what}");
            assert_eq!(undo.removed().len(), usize::from(left.is_none()), "{what}");
            // It did not come about.
            ledger.take_back(&undo).expect("written");
            let mut again = ledger.list();
            again.sort_by(|a, b| b.id.cmp(&a.id));
            assert_eq!(again, [other, before[0].clone()], "{what}");
        }
    }

    #[test]
    fn what_was_ended_meanwhile_is_not_put_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&folder.path().join("transitions.json"), NOW).expect("nothing runs yet");
        ledger.begin(&[], &[on(transition("old", 100), &["a", "b"])]).expect("written");
        let gone = Gone::of(&on(transition("", 0), &["a"]));
        let undo = ledger.begin(&[gone], &[]).expect("written");
        ledger.take("old").expect("it runs on the other");
        ledger.take_back(&undo).expect("written");
        assert!(ledger.list().is_empty());
    }

    #[test]
    fn a_clock_that_is_behind_makes_nothing_valid_longer() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("transitions.json");
        let ledger = Ledger::open(&file, UnixMillis(1_000)).expect("nothing runs yet");
        let begun = Transition { started_at: UnixMillis(1_000), ..transition("a", 2_000) };
        ledger.begin(&[], &[begun]).expect("written");
        assert_eq!(ids(&Ledger::open(&file, UnixMillis(1_000)).expect("it can be read").list()), ["a"]);
        assert!(Ledger::open(&file, UnixMillis(999)).expect("it can be read").list().is_empty());
    }

    #[test]
    fn there_is_an_end_to_how_many_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&folder.path().join("transitions.json"), NOW).expect("nothing runs yet");
        let fill = |count: usize| {
            ledger.change(|running| {
                running.extend((0..count).map(|number| transition(&number.to_string(), 1)));
                Ok(())
            })
        };
        fill(MOST).expect("so many may run");
        assert!(matches!(fill(1), Err(LedgerError::TooMany)));
        assert_eq!(ledger.list().len(), MOST);
    }

    #[test]
    fn what_cannot_be_written_or_read_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("gone").join("transitions.json");
        let ledger = Ledger::open(&file, NOW).expect("nothing runs yet");
        let refused = ledger.change(|running| {
            running.push(transition("a", 100));
            Ok(())
        });
        assert!(matches!(refused, Err(LedgerError::Disk(_))));
        assert!(ledger.list().is_empty());

        let broken = folder.path().join("transitions.json");
        for (text, expected) in
            [("{", "no list of transitions"), (r#"{"version":2,"transitions":[]}"#, "format 2")]
        {
            std::fs::write(&broken, text).expect("written");
            let error = Ledger::open(&broken, NOW).err().expect("refused");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
