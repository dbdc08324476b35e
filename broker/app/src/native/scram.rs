//! `scram`: enhanced authentication of MQTT 5.0 by SCRAM-SHA-256. The password never travels, and client and server
//! prove to each other that they know it.
//!
//! Owns the file of credentials, for reading and for writing. What is exchanged is `mechanism`'s.

pub mod mechanism;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use mqgate_identity::hooks::{
    Acl, AuthenticationStep, Authorization, Authorizer, ChainMember, ConnackReason, Connection, Effect,
    EnhancedAuthenticator, Exchange, FailureKind, HookFailure, HookFuture, Identity, Secret,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::mechanism::{Begun, ClientFirst, Credentials, ITERATIONS, METHOD, ScramError};
use super::password_file::is_user_name;
use super::{METHOD as METHOD_ATTRIBUTE, USER_NAME, attribute, denial, grant, ready, text};

/// Largest file that is read.
const FILE_LIMIT: u64 = 64 << 20;

/// Settings of `scram`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScramConfig {
    /// The file; `mqgate passwd add --scram` writes it. It is read again when it changes.
    pub file: PathBuf,
    /// Rule set for these users, with `${device-id}` for the user name. Without one another member of the chain has
    /// to say what they may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ScramFileError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{0}: the file is larger than 64 MiB")]
    TooLarge(PathBuf),
    #[error("a user name has 1 to 256 bytes, no `:`, `/`, `+`, `#` and no control character")]
    UserName,
    #[error("this password cannot be used: it is empty, or SASLprep (RFC 4013) forbids a character of it")]
    Password,
    #[error("there is no randomness: {0}")]
    Random(getrandom::Error),
}

/// The lines of a file: `user:SCRAM-SHA-256$…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScramUsers {
    credentials: BTreeMap<String, Credentials>,
    /// Numbers of lines that are not understood; their users cannot log in.
    pub broken: Vec<usize>,
}

impl ScramUsers {
    pub fn parse(text: &str) -> Self {
        let mut users = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(':').filter(|(name, _)| is_user_name(name));
            match parsed.and_then(|(name, rest)| Some((name, Credentials::parse(rest)?))) {
                Some((name, credentials)) => {
                    users.credentials.insert(name.to_owned(), credentials);
                }
                None => users.broken.push(number + 1),
            }
        }
        users
    }

    pub fn read(path: &Path) -> Result<Self, ScramFileError> {
        let io = |error| ScramFileError::Io { path: path.to_owned(), error };
        if std::fs::metadata(path).map_err(io)?.len() > FILE_LIMIT {
            return Err(ScramFileError::TooLarge(path.to_owned()));
        }
        std::fs::read_to_string(path).map(|text| Self::parse(&text)).map_err(io)
    }

    /// Adds a user or gives one a new password. Says whether the user is new.
    pub fn set(&mut self, name: &str, password: &str) -> Result<bool, ScramFileError> {
        if !is_user_name(name) {
            return Err(ScramFileError::UserName);
        }
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(ScramFileError::Random)?;
        let credentials = Credentials::new(password, salt, ITERATIONS).ok_or(ScramFileError::Password)?;
        Ok(self.credentials.insert(name.to_owned(), credentials).is_none())
    }

    pub fn remove(&mut self, name: &str) -> bool {
        self.credentials.remove(name).is_some()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.credentials.keys().map(String::as_str)
    }
}

impl std::fmt::Display for ScramUsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.credentials.iter().try_for_each(|(name, credentials)| writeln!(f, "{name}:{credentials}"))
    }
}

/// By what one sees that a file changed.
type Stamp = Option<(SystemTime, u64)>;

/// The chain member.
pub struct Scram {
    config: ScramConfig,
    methods: [String; 1],
    /// Makes the salts of users that do not exist.
    secret: [u8; 32],
    cached: Mutex<(Stamp, Arc<ScramUsers>)>,
}

impl Scram {
    /// Fails if the file cannot be read now; later it may vanish, and then nobody logs in.
    pub fn member(name: &str, config: ScramConfig) -> Result<ChainMember, ScramFileError> {
        let users = ScramUsers::read(&config.file)?;
        warn_about(&config.file, &users);
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(ScramFileError::Random)?;
        let cached = Mutex::new((stamp(&config.file), Arc::new(users)));
        let this = Arc::new(Self { config, methods: [METHOD.to_owned()], secret, cached });
        let authorizer = this.config.acl.is_some().then(|| this.clone() as Arc<dyn Authorizer>);
        Ok(ChainMember {
            name: name.into(),
            digest: None,
            authenticator: None,
            enhanced_authenticator: Some(this),
            registrar: None,
            authorizer,
            auditor: None,
        })
    }

    /// Today's users; looks at the disk, and reads it when the file has changed.
    fn users(&self) -> Arc<ScramUsers> {
        let stamp = stamp(&self.config.file);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != stamp {
            let users = ScramUsers::read(&self.config.file).unwrap_or_else(|error| {
                tracing::error!(%error, "SCRAM file: nobody can log in until it can be read");
                ScramUsers::default()
            });
            warn_about(&self.config.file, &users);
            *cached = (stamp, Arc::new(users));
        }
        Arc::clone(&cached.1)
    }

    fn credentials(&self, user: &str) -> Credentials {
        let known = self.users().credentials.get(user).cloned();
        known.unwrap_or_else(|| Credentials::decoy(&self.secret, user))
    }

    fn judge(&self, exchange: &Exchange<'_>) -> Result<AuthenticationStep, HookFailure> {
        let Some(data) = exchange.data else {
            return Ok(match exchange.round {
                // The client waits to be asked.
                0 => AuthenticationStep::Continue { data: None, state: Secret(Vec::new()) },
                _ => refused(ScramError::Malformed),
            });
        };
        if exchange.state.is_empty() {
            let first = match ClientFirst::parse(data) {
                Ok(first) => first,
                Err(error) => return Ok(refused(error)),
            };
            let credentials = self.credentials(&first.user);
            let begun = first.answer(&credentials, &nonce()?);
            let data = Some(begun.server_first().as_bytes().to_vec());
            let state = serde_json::to_vec(&begun).map_err(|error| broken(&error))?;
            return Ok(AuthenticationStep::Continue { data, state: Secret(state) });
        }
        let begun: Begun = serde_json::from_slice(exchange.state).map_err(|error| broken(&error))?;
        Ok(match begun.finish(&self.credentials(&begun.user), data) {
            Ok(server_final) => {
                let attributes = vec![text(METHOD_ATTRIBUTE, "scram"), text(USER_NAME, &begun.user)];
                let (device_id, tenant, tags) = (begun.user, None, Vec::new());
                let identity = Identity { device_id, tenant, tags, attributes };
                AuthenticationStep::Accept { identity, data: Some(server_final.into_bytes()) }
            }
            Err(error) => refused(error),
        })
    }
}

/// One answer for an unknown user and for a wrong password.
fn refused(error: ScramError) -> AuthenticationStep {
    AuthenticationStep::Deny(denial(ConnackReason::NotAuthorized, error.to_string()))
}

fn broken(error: &dyn std::fmt::Display) -> HookFailure {
    HookFailure { kind: FailureKind::Unavailable, detail: error.to_string() }
}

fn nonce() -> Result<String, HookFailure> {
    let mut nonce = [0; 18];
    getrandom::fill(&mut nonce).map_err(|error| broken(&error))?;
    Ok(hex::encode(nonce))
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn warn_about(path: &Path, users: &ScramUsers) {
    if !users.broken.is_empty() {
        tracing::warn!(
            path = %path.display(), lines = ?users.broken,
            "SCRAM file: lines that are not `user:SCRAM-SHA-256$…` are left out"
        );
    }
}

impl EnhancedAuthenticator for Scram {
    fn methods(&self) -> &[String] {
        &self.methods
    }

    fn step<'a>(
        &'a self,
        _: &'a Arc<Connection>,
        exchange: Exchange<'a>,
    ) -> HookFuture<'a, AuthenticationStep> {
        Box::pin(std::future::ready(self.judge(&exchange)))
    }
}

impl Authorizer for Scram {
    fn authorize<'a>(&'a self, _: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        ready(match &self.config.acl {
            Some(acl) if attribute(who, METHOD_ATTRIBUTE) == Some("scram") => {
                Authorization::Allow(grant(Acl::Named(acl.clone()), Effect::Deny))
            }
            _ => Authorization::Abstain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::samples::{Sample, now};

    fn member(users: &ScramUsers) -> (ChainMember, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), users.to_string()).unwrap();
        let config = ScramConfig { file: file.path().to_owned(), acl: None };
        (Scram::member("scram", config).unwrap(), file)
    }

    fn step(member: &ChainMember, round: u32, state: &[u8], data: Option<&[u8]>) -> AuthenticationStep {
        let hook = member.enhanced_authenticator.as_ref().unwrap();
        let on = Sample::on("l").connection();
        now(hook.step(&on, Exchange { method: METHOD, round, state, data, again: false })).unwrap()
    }

    /// The salt that a user is asked with.
    fn salt(member: &ChainMember, user: &str) -> String {
        let first = format!("n,,n={user},r=abc");
        let AuthenticationStep::Continue { data, .. } = step(member, 0, b"", Some(first.as_bytes())) else {
            panic!("a challenge is due")
        };
        let text = String::from_utf8(data.unwrap()).unwrap();
        text.split(',').find_map(|field| field.strip_prefix("s=")).unwrap().to_owned()
    }

    #[test]
    fn nobody_can_see_who_exists() {
        let mut users = ScramUsers::default();
        users.set("ann", "geheim").unwrap();
        let (member, _file) = member(&users);
        assert_eq!(salt(&member, "ann"), salt(&member, "ann"));
        assert_eq!(salt(&member, "eve"), salt(&member, "eve"), "as for a user who exists");
        assert_ne!(salt(&member, "eve"), salt(&member, "bob"));
        assert_eq!(salt(&member, "eve").len(), salt(&member, "ann").len());
    }

    #[test]
    fn a_client_without_first_words_is_asked_for_them() {
        let (member, _file) = member(&ScramUsers::default());
        let asked = step(&member, 0, b"", None);
        assert!(matches!(asked, AuthenticationStep::Continue { data: None, .. }));
        assert!(matches!(step(&member, 1, b"", None), AuthenticationStep::Deny(_)));
    }

    #[test]
    fn a_changed_file_counts_at_once() {
        let mut users = ScramUsers::default();
        users.set("ann", "geheim").unwrap();
        let (member, file) = member(&users);
        let before = salt(&member, "ann");
        users.set("ann", "geheimer").unwrap();
        users.set("bob", "x").unwrap();
        std::fs::write(file.path(), users.to_string()).unwrap();
        assert_ne!(salt(&member, "ann"), before);
        assert_eq!(ScramUsers::parse("# x\nann:plain\n").broken, [2]);
        assert!(matches!(users.set("a/b", "x"), Err(ScramFileError::UserName)));
        assert!(matches!(users.set("a", ""), Err(ScramFileError::Password)));
    }
}
