//! `password-file`: user names and Argon2id hashes, one per line, as `mqgate passwd` writes them.
//!
//! Owns the file format, for reading and for writing. A hash is computed on a blocking thread, a bounded
//! number at a time, and an unknown user costs as much time as a wrong password.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use mqgate_identity::hooks::{
    Acl, Authentication, Authenticator, Authorization, Authorizer, ChainMember, ConnackReason, Connection,
    Effect, FailureKind, HookFailure, HookFuture, Identity, Secret,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{METHOD, USER_NAME, attribute, denial, grant, is_device_id, ready, text};

/// How long a client waits for its turn at the hash function.
const WAIT: Duration = Duration::from_secs(5);
/// Largest file that is read.
const FILE_LIMIT: u64 = 64 << 20;
/// Longest password that is hashed.
const PASSWORD_LIMIT: usize = 4096;

/// Settings of `password-file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordFileConfig {
    /// The file; `mqgate passwd` writes it. It is read again when it changes.
    pub file: PathBuf,
    /// Rule set for these users, with `${device-id}` for the user name. Without one another member of the chain has
    /// to say what they may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
    /// Hashes computed at the same time. Each takes 19 MiB of memory for about 30 ms.
    #[serde(default = "two")]
    pub concurrency: u16,
    /// Clients that may wait for their turn; more are told that the server is busy.
    #[serde(default = "waiting")]
    pub queue: u16,
}

fn two() -> u16 {
    2
}

fn waiting() -> u16 {
    256
}

#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{0}: the file is larger than 64 MiB")]
    TooLarge(PathBuf),
    #[error("a user name has 1 to 256 bytes, no `:`, `/`, `+`, `#` and no control character")]
    UserName,
    #[error("a password has 1 to {PASSWORD_LIMIT} bytes")]
    Password,
    #[error("the password cannot be hashed: {0}")]
    Hash(argon2::password_hash::Error),
}

/// The lines of a password file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    hashes: BTreeMap<String, String>,
    /// Numbers of lines that are not understood; their users cannot log in.
    pub broken: Vec<usize>,
}

impl Users {
    pub fn parse(text: &str) -> Self {
        let mut users = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((name, hash)) if is_user_name(name) && is_hash(hash) => {
                    users.hashes.insert(name.to_owned(), hash.to_owned());
                }
                _ => users.broken.push(number + 1),
            }
        }
        users
    }

    pub fn read(path: &Path) -> Result<Self, PasswordFileError> {
        let io = |error| PasswordFileError::Io { path: path.to_owned(), error };
        if std::fs::metadata(path).map_err(io)?.len() > FILE_LIMIT {
            return Err(PasswordFileError::TooLarge(path.to_owned()));
        }
        std::fs::read_to_string(path).map(|text| Self::parse(&text)).map_err(io)
    }

    /// Adds a user or gives one a new password. Says whether the user is new.
    pub fn set(&mut self, name: &str, password: &[u8]) -> Result<bool, PasswordFileError> {
        if !is_user_name(name) {
            return Err(PasswordFileError::UserName);
        }
        if password.is_empty() || password.len() > PASSWORD_LIMIT {
            return Err(PasswordFileError::Password);
        }
        let hash = Argon2::default().hash_password(password).map_err(PasswordFileError::Hash)?.to_string();
        Ok(self.hashes.insert(name.to_owned(), hash).is_none())
    }

    pub fn remove(&mut self, name: &str) -> bool {
        self.hashes.remove(name).is_some()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hashes.keys().map(String::as_str)
    }

    /// Computes one hash whether or not the user exists.
    fn verify(&self, name: &str, password: &[u8]) -> bool {
        let known = self.hashes.get(name);
        // Some user's hash has the parameters that all others are likely to have.
        let Some(hash) = known.or_else(|| self.hashes.values().next()) else {
            let _ = Argon2::default().hash_password(password);
            return false;
        };
        let right = PasswordHash::new(hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
        right && known.is_some()
    }
}

impl std::fmt::Display for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.hashes.iter().try_for_each(|(name, hash)| writeln!(f, "{name}:{hash}"))
    }
}

pub(super) fn is_user_name(name: &str) -> bool {
    is_device_id(name) && !name.contains(':') && !name.starts_with('#') && name.trim() == name
}

/// Argon2id only, with parameters that one login may be charged for: at most 256 MiB and 16 passes.
fn is_hash(text: &str) -> bool {
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let bounded = argon2::Params::try_from(&hash)
        .is_ok_and(|params| params.m_cost() <= 256 << 10 && params.t_cost() <= 16 && params.p_cost() <= 16);
    hash.algorithm.as_str() == "argon2id" && hash.hash.is_some() && bounded
}

/// The file as it was last read, and by what one sees that it changed.
struct Cached {
    stamp: Option<(SystemTime, u64)>,
    users: Arc<Users>,
}

/// The chain member.
pub struct PasswordFile {
    config: PasswordFileConfig,
    cached: Mutex<Cached>,
    turns: Semaphore,
    waiting: AtomicUsize,
}

impl PasswordFile {
    /// Fails if the file cannot be read now; later it may vanish, and then nobody logs in.
    pub fn member(name: &str, config: PasswordFileConfig) -> Result<ChainMember, PasswordFileError> {
        let this = Arc::new(Self::new(config)?);
        let authorizer = this.config.acl.is_some().then(|| this.clone() as Arc<dyn Authorizer>);
        Ok(ChainMember {
            name: name.into(),
            digest: None,
            authenticator: Some(Arc::new(Login(this))),
            enhanced_authenticator: None,
            registrar: None,
            authorizer,
            auditor: None,
        })
    }

    fn new(config: PasswordFileConfig) -> Result<Self, PasswordFileError> {
        let stamp = stamp(&config.file);
        let users = Users::read(&config.file)?;
        warn_about(&config.file, &users);
        Ok(Self {
            cached: Mutex::new(Cached { stamp, users: Arc::new(users) }),
            turns: Semaphore::new(usize::from(config.concurrency.max(1))),
            waiting: AtomicUsize::new(0),
            config,
        })
    }

    /// Today's users. Reads the disk, so it belongs on a blocking thread.
    fn users(&self) -> Arc<Users> {
        let stamp = stamp(&self.config.file);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.stamp != stamp {
            let users = Users::read(&self.config.file).unwrap_or_else(|error| {
                tracing::error!(%error, "password file: nobody can log in until it can be read");
                Users::default()
            });
            warn_about(&self.config.file, &users);
            *cached = Cached { stamp, users: Arc::new(users) };
        }
        cached.users.clone()
    }

    async fn check(self: Arc<Self>, name: String, password: Secret) -> Result<Authentication, HookFailure> {
        let failure = |detail: &str| HookFailure { kind: FailureKind::Overload, detail: detail.to_owned() };
        let waiting = Waiting::enter(&self.waiting, usize::from(self.config.queue))
            .ok_or_else(|| failure("too many logins are waiting for the password file"))?;
        let turn = tokio::time::timeout(WAIT, self.turns.acquire())
            .await
            .map_err(|_| failure("no turn at the password file in time"))?
            .map_err(|_| failure("the password file is closed"))?;
        drop(waiting);
        let this = self.clone();
        let right = {
            let name = name.clone();
            tokio::task::spawn_blocking(move || {
                let fits = password.0.len() <= PASSWORD_LIMIT;
                this.users().verify(&name, if fits { &password.0 } else { b"" }) && fits
            })
        };
        let right = right.await.map_err(|error| HookFailure {
            kind: FailureKind::Unavailable,
            detail: format!("the password check ended early: {error}"),
        })?;
        drop(turn);
        if !right {
            // One answer for an unknown user and for a wrong password.
            return Ok(Authentication::Deny(denial(
                ConnackReason::BadUserNameOrPassword,
                "unknown user or wrong password",
            )));
        }
        let attributes = vec![text(METHOD, "password"), text(USER_NAME, &name)];
        let identity = Identity { device_id: name, tenant: None, tags: Vec::new(), attributes };
        Ok(Authentication::Accept { identity, cache: None })
    }
}

/// Counts a waiting client for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let this = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(this)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn warn_about(path: &Path, users: &Users) {
    if !users.broken.is_empty() {
        tracing::warn!(
            path = %path.display(), lines = ?users.broken,
            "password file: lines that are not `user:$argon2id$…` are left out"
        );
    }
}

/// The authenticator; apart because it needs the shared value itself.
struct Login(Arc<PasswordFile>);

impl Authenticator for Login {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        match (&on.connect.user_name, &on.connect.password) {
            (Some(name), Some(password)) => Box::pin(self.0.clone().check(name.clone(), password.clone())),
            _ => ready(Authentication::Abstain),
        }
    }
}

impl Authorizer for PasswordFile {
    fn authorize<'a>(&'a self, _: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        let answer = match &self.config.acl {
            Some(acl) if attribute(who, METHOD) == Some("password") => {
                Authorization::Allow(grant(Acl::Named(acl.clone()), Effect::Deny))
            }
            _ => Authorization::Abstain,
        };
        ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::samples::Sample;

    fn file(users: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        write(file.path(), users);
        file
    }

    fn write(path: &Path, users: &[(&str, &str)]) {
        let mut list = Users::default();
        for (name, password) in users {
            list.set(name, password.as_bytes()).expect("a good user");
        }
        std::fs::write(path, list.to_string()).expect("written");
    }

    fn config(file: &Path) -> PasswordFileConfig {
        PasswordFileConfig { file: file.to_owned(), acl: None, concurrency: 2, queue: 8 }
    }

    async fn login(member: &ChainMember, sample: Sample) -> Result<Authentication, HookFailure> {
        let on = sample.connection();
        member.authenticator.as_ref().expect("an authenticator").authenticate(&on).await
    }

    fn accepted(answer: &Result<Authentication, HookFailure>) -> bool {
        matches!(answer, Ok(Authentication::Accept { .. }))
    }

    #[tokio::test]
    async fn the_right_password_opens_and_others_hear_the_same() {
        let file = file(&[("ann", "geheim"), ("bob", "hunter2")]);
        let member = PasswordFile::member("users", config(file.path())).expect("a member");
        assert!(accepted(&login(&member, Sample::on("l").user("ann", "geheim")).await));
        let wrong = login(&member, Sample::on("l").user("ann", "hunter2")).await;
        let unknown = login(&member, Sample::on("l").user("eve", "hunter2")).await;
        assert!(
            matches!(&wrong, Ok(Authentication::Deny(denial)) if denial.reason == ConnackReason::BadUserNameOrPassword)
        );
        assert_eq!(wrong, unknown);
        assert_eq!(login(&member, Sample::on("l")).await, Ok(Authentication::Abstain));
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once() {
        let file = file(&[("ann", "geheim")]);
        let member = PasswordFile::member("users", config(file.path())).expect("a member");
        write(file.path(), &[("bob", "hunter2"), ("carl", "3")]);
        assert!(accepted(&login(&member, Sample::on("l").user("bob", "hunter2")).await));
        assert!(!accepted(&login(&member, Sample::on("l").user("ann", "geheim")).await));
        std::fs::remove_file(file.path()).expect("removed");
        assert!(!accepted(&login(&member, Sample::on("l").user("bob", "hunter2")).await));
    }

    #[tokio::test]
    async fn a_full_queue_is_an_overload_and_no_entry() {
        let file = file(&[("ann", "geheim")]);
        let member = PasswordFile::member("users", PasswordFileConfig { queue: 0, ..config(file.path()) });
        let answer = login(&member.expect("a member"), Sample::on("l").user("ann", "geheim")).await;
        assert!(matches!(answer, Err(HookFailure { kind: FailureKind::Overload, .. })));
    }

    #[test]
    fn lines_that_could_hurt_are_left_out() {
        let mut users = Users::default();
        users.set("ann", b"geheim").expect("a good user");
        let good = users.to_string();
        let text = format!(
            "# comment\n\n{good}bob:geheim\na/b:x\ncarl:$argon2id$v=19$m=9999999,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g\nnoline\n"
        );
        let users = Users::parse(&text);
        assert_eq!(users.names().collect::<Vec<_>>(), ["ann"]);
        assert_eq!(users.broken, [4, 5, 6, 7]);
        assert!(
            users.verify("ann", b"geheim")
                && !users.verify("ann", b"Geheim")
                && !users.verify("bob", b"geheim")
        );
    }

    #[test]
    fn names_that_could_hurt_are_refused() {
        let mut users = Users::default();
        for name in ["", "a:b", "a/b", "a+", "#", "a\nb", " a"] {
            assert!(matches!(users.set(name, b"x"), Err(PasswordFileError::UserName)), "{name:?}");
        }
        assert!(matches!(users.set("a", b""), Err(PasswordFileError::Password)));
    }
}
