//! How far imports came that are sent in parts, under the key of whoever sends them. In memory: an import that is
//! forgotten begins with its first row again, and finds its rows registered already.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::Serialize;

use super::cut::Format;
use super::run::{Report, RowReport};

/// Imports remembered; the one that was longest not heard of makes room.
pub const MOST_IMPORTS: usize = 64;
/// Problems remembered of one.
pub const MOST_PROBLEMS: usize = 1_000;
/// Bytes of a key.
pub const MAX_KEY_BYTES: usize = 128;

/// One import.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Import")]
pub struct Progress {
    pub key: String,
    pub format: Format,
    pub dry_run: bool,
    pub actor: String,
    /// Milliseconds since 1970.
    #[schemars(with = "u64")]
    pub started_at: UnixMillis,
    #[schemars(with = "u64")]
    pub updated_at: UnixMillis,
    /// The first line that was not seen yet.
    pub next_line: u64,
    /// All of it was seen.
    pub complete: bool,
    /// No more of it is taken.
    pub cancelled: bool,
    pub created: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// The first of those that failed.
    pub problems: Vec<RowReport>,
}

/// A part that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key has 1 to {MAX_KEY_BYTES} letters, digits, `-` and `_`")]
    Bad,
    #[error("the import was cancelled by {by}: delete it (`DELETE /imports/KEY`) to begin anew")]
    Cancelled { by: String },
    #[error("the import under this key is of another kind: take another key")]
    Different,
}

/// Those that are known.
#[derive(Default)]
pub struct Imports {
    known: Mutex<BTreeMap<String, Progress>>,
}

/// What a part is part of.
#[derive(Debug, Clone)]
pub struct About<'a> {
    pub key: &'a str,
    pub format: Format,
    pub dry_run: bool,
    pub actor: &'a str,
}

impl Imports {
    /// Before a part is looked at.
    pub fn begin(&self, about: &About<'_>, now: UnixMillis) -> Result<(), KeyError> {
        let fitting = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if about.key.is_empty() || about.key.len() > MAX_KEY_BYTES || !about.key.bytes().all(fitting) {
            return Err(KeyError::Bad);
        }
        let mut known = self.lock();
        match known.get(about.key) {
            Some(import) if import.cancelled => Err(KeyError::Cancelled { by: import.actor.clone() }),
            Some(import) if (import.format, import.dry_run) != (about.format, about.dry_run) => {
                Err(KeyError::Different)
            }
            Some(_) => Ok(()),
            None => {
                if known.len() >= MOST_IMPORTS {
                    let oldest = known.values().min_by_key(|import| import.updated_at);
                    if let Some(key) = oldest.map(|import| import.key.clone()) {
                        known.remove(&key);
                    }
                }
                known.insert(about.key.to_owned(), Progress::new(about, now));
                Ok(())
            }
        }
    }

    /// After a part; `last`: there is no more.
    pub fn add(&self, key: &str, report: &Report, last: bool, now: UnixMillis) {
        let mut known = self.lock();
        let Some(import) = known.get_mut(key) else { return };
        import.updated_at = now;
        import.next_line = import.next_line.max(report.next_line);
        import.complete |= last;
        import.created += report.created;
        import.unchanged += report.unchanged;
        import.failed += report.failed;
        let room = MOST_PROBLEMS.saturating_sub(import.problems.len());
        import.problems.extend(report.problems.iter().take(room).cloned());
    }

    pub fn list(&self) -> Vec<Progress> {
        self.lock().values().cloned().collect()
    }

    pub fn find(&self, key: &str) -> Option<Progress> {
        self.lock().get(key).cloned()
    }

    /// No more of it is taken; one that has ended is forgotten.
    pub fn cancel(&self, key: &str, actor: &str, now: UnixMillis) -> Option<Progress> {
        let mut known = self.lock();
        let import = known.get_mut(key)?;
        if import.complete || import.cancelled {
            return known.remove(key);
        }
        (import.cancelled, import.updated_at) = (true, now);
        actor.clone_into(&mut import.actor);
        Some(import.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Progress>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn new(about: &About<'_>, now: UnixMillis) -> Self {
        Self {
            key: about.key.to_owned(),
            format: about.format,
            dry_run: about.dry_run,
            actor: about.actor.to_owned(),
            started_at: now,
            updated_at: now,
            next_line: 1,
            complete: false,
            cancelled: false,
            created: 0,
            unchanged: 0,
            failed: 0,
            problems: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(key: &str) -> About<'_> {
        About { key, format: Format::Csv, dry_run: false, actor: "admin:test" }
    }

    fn part(created: u64, problems: u64, next_line: u64) -> Report {
        let problem = |line| RowReport::problem(line, "bad_row", String::new());
        Report {
            created,
            failed: problems,
            problems: (0..problems).map(problem).collect(),
            next_line,
            ..Report::default()
        }
    }

    #[test]
    fn parts_add_up_and_an_end_is_an_end() {
        let imports = Imports::default();
        imports.begin(&about("k"), UnixMillis(1)).unwrap();
        imports.add("k", &part(2, 1, 4), false, UnixMillis(2));
        imports.begin(&about("k"), UnixMillis(3)).unwrap();
        imports.add("k", &part(3, MOST_PROBLEMS as u64, 9), true, UnixMillis(4));
        let import = imports.find("k").unwrap();
        assert_eq!((import.created, import.failed, import.next_line), (5, MOST_PROBLEMS as u64 + 1, 9));
        assert!(import.complete && import.problems.len() == MOST_PROBLEMS);
        assert!(imports.cancel("k", "admin:test", UnixMillis(5)).is_some());
        assert!(imports.find("k").is_none(), "it had ended: it is forgotten");
    }

    #[test]
    fn one_that_was_cancelled_takes_no_more() {
        let imports = Imports::default();
        imports.begin(&about("k"), UnixMillis(1)).unwrap();
        imports.cancel("k", "admin:other", UnixMillis(2)).unwrap();
        let refused = imports.begin(&about("k"), UnixMillis(3));
        assert_eq!(refused, Err(KeyError::Cancelled { by: "admin:other".into() }));
        imports.cancel("k", "admin:other", UnixMillis(4)).unwrap();
        assert_eq!(imports.begin(&about("k"), UnixMillis(5)), Ok(()));
    }

    #[test]
    fn keys_and_kinds() {
        let imports = Imports::default();
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        for key in ["", "a b", "a/b", &long] {
            assert_eq!(imports.begin(&about(key), UnixMillis(1)), Err(KeyError::Bad), "{key}");
        }
        imports.begin(&about("k"), UnixMillis(1)).unwrap();
        let dry = About { dry_run: true, ..about("k") };
        assert_eq!(imports.begin(&dry, UnixMillis(1)), Err(KeyError::Different));
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let imports = Imports::default();
        for number in 0..MOST_IMPORTS as u64 + 5 {
            imports.begin(&about(&format!("k{number}")), UnixMillis(number)).unwrap();
        }
        assert_eq!(imports.list().len(), MOST_IMPORTS);
        assert!(imports.find("k0").is_none() && imports.find("k5").is_some());
    }
}
