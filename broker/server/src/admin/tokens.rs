//! API tokens: each with a name, rights and perhaps an end. The secret is shown once; its SHA-256 is kept, in a
//! key-value space that no plugin can have (a plugin's name has no colon).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mqgate_identity::registry::{KvAnswer, KvError, KvOperation, KvQuota, KvRequest, Storage};
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::scope::{Grants, Role, Scope};
use crate::clock;

const SPACE: &str = "broker:tokens";
/// Of one record.
const LARGEST: u32 = 64 * 1024;
const PAGE: u32 = 500;
const LONGEST_NAME: usize = 64;
/// Begins every secret, so that one is known where it should not be.
const PREFIX: &str = "mqg_";
/// Random bytes of an id and of a secret.
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    id: String,
    name: String,
    /// SHA-256 of the secret, hex.
    hash: String,
    roles: Vec<Role>,
    scopes: Vec<Scope>,
    created_at: UnixMillis,
    created_by: String,
    expires_at: Option<UnixMillis>,
}

/// A token, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Token")]
pub struct TokenInfo {
    pub id: String,
    /// As audit records name who used it.
    pub name: String,
    pub roles: Vec<Role>,
    pub scopes: Vec<Scope>,
    /// Unix time, milliseconds.
    pub created_at: UnixMillis,
    pub created_by: String,
    /// Unix time, milliseconds; without one it holds until it is revoked.
    pub expires_at: Option<UnixMillis>,
    /// Unix time, milliseconds; since the broker started.
    pub last_used_at: Option<UnixMillis>,
}

/// What a token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub name: String,
    pub roles: Vec<Role>,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<UnixMillis>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("a token's name has 1 to {LONGEST_NAME} letters, digits, `-`, `_`, `.`, and is not `default`")]
    Name,
    #[error("there is a token of this name; revoke it first, or choose another")]
    Taken,
    #[error("a token needs a role or a scope")]
    Nothing,
    #[error("the token's end has passed already")]
    Over,
    #[error("there are {0} tokens, which is as many as `admin.max_tokens` allows")]
    TooMany(usize),
    #[error("there is no token of this id or name")]
    Unknown,
    #[error("no random numbers: {0}")]
    Random(String),
    #[error("{0}")]
    Storage(#[from] KvError),
}

/// Whose token a request came with; what may go on after the request looks here whether it still holds.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) name: Arc<str>,
    pub(super) grants: Arc<Grants>,
    known: Arc<Known>,
}

impl Pass {
    /// Whether the token is neither revoked nor over.
    pub(super) fn holds(&self) -> bool {
        self.known.holds(clock::now())
    }
}

#[derive(Debug)]
struct Known {
    record: Record,
    hash: [u8; 32],
    name: Arc<str>,
    grants: Arc<Grants>,
    state: Mutex<Use>,
}

#[derive(Debug, Default)]
struct Use {
    last: Option<UnixMillis>,
    revoked: bool,
}

impl Known {
    fn new(record: Record) -> Result<Self, KvError> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&record.hash, &mut hash)
            .map_err(|error| KvError::Unavailable(format!("the token {}: {error}", record.id)))?;
        let grants = Grants { roles: record.roles.clone(), scopes: record.scopes.clone() };
        let name = record.name.as_str().into();
        Ok(Self { record, hash, name, grants: Arc::new(grants), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, Use> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, now: UnixMillis) -> bool {
        self.record.expires_at.is_none_or(|end| end > now) && !self.state().revoked
    }

    fn info(&self) -> TokenInfo {
        let Record { id, name, roles, scopes, created_at, created_by, expires_at, hash: _ } =
            self.record.clone();
        let last_used_at = self.state().last;
        TokenInfo { id, name, roles, scopes, created_at, created_by, expires_at, last_used_at }
    }
}

/// The tokens there are.
pub struct Tokens {
    storage: Arc<dyn Storage>,
    most: usize,
    by_id: RwLock<HashMap<String, Arc<Known>>>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Tokens {
    /// Reads them all. One that cannot be read is an error: nobody is let in by damage.
    pub fn open(storage: Arc<dyn Storage>, most: usize) -> Result<Arc<Self>, KvError> {
        let tokens = Self { storage, most, by_id: RwLock::default(), changing: Mutex::default() };
        let mut found = HashMap::new();
        let mut after: Option<String> = None;
        loop {
            let list = KvRequest::List { prefix: "", cursor: after.as_deref(), limit: PAGE };
            let KvAnswer::Page { keys, cursor } = tokens.run(list)? else { break };
            for key in keys {
                let KvAnswer::Entry(Some(entry)) = tokens.run(KvRequest::Get { key: &key })? else {
                    continue;
                };
                let record: Record = serde_json::from_slice(&entry.value)
                    .map_err(|error| KvError::Unavailable(format!("the token {key}: {error}")))?;
                found.insert(key, Arc::new(Known::new(record)?));
            }
            match cursor {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        *tokens.by_id.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(Arc::new(tokens))
    }

    fn run(&self, what: KvRequest<'_>) -> Result<KvAnswer, KvError> {
        let quota = KvQuota { bytes: u64::MAX, entries: self.most as u64, value_bytes: LARGEST };
        self.storage.kv(SPACE, KvOperation { now: clock::now(), quota, what })
    }

    fn known(&self) -> Vec<Arc<Known>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The rights of a secret, if it is a token's that holds.
    pub(super) fn pass(&self, secret: &str) -> Option<Pass> {
        let (id, _) = secret.strip_prefix(PREFIX)?.split_once('_')?;
        let known = self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()?;
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        // The id is no secret; what is compared in constant time is.
        if !bool::from(hash.ct_eq(&known.hash)) {
            return None;
        }
        let now = clock::now();
        if !known.holds(now) {
            return None;
        }
        known.state().last = Some(now);
        Some(Pass { name: Arc::clone(&known.name), grants: Arc::clone(&known.grants), known })
    }

    /// By name, those that are over included.
    pub fn list(&self) -> Vec<TokenInfo> {
        let mut all: Vec<TokenInfo> = self.known().iter().map(|known| known.info()).collect();
        all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        all
    }

    fn find(&self, id: &str) -> Result<Arc<Known>, TokenError> {
        let found = self.known().into_iter().find(|known| known.record.id == id || known.record.name == id);
        found.ok_or(TokenError::Unknown)
    }

    /// By id or name.
    pub fn show(&self, id: &str) -> Result<TokenInfo, TokenError> {
        self.find(id).map(|known| known.info())
    }

    /// Whether one like this can be made.
    pub fn check(&self, new: &NewToken) -> Result<(), TokenError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        // `default` is how the administrator's own token is named.
        if new.name.is_empty()
            || new.name.len() > LONGEST_NAME
            || !new.name.bytes().all(plain)
            || new.name == "default"
            || new.name == "unknown"
        {
            return Err(TokenError::Name);
        }
        if new.roles.is_empty() && new.scopes.is_empty() {
            return Err(TokenError::Nothing);
        }
        if new.expires_at.is_some_and(|end| end <= clock::now()) {
            return Err(TokenError::Over);
        }
        let known = self.known();
        if known.iter().any(|known| known.record.name == new.name) {
            return Err(TokenError::Taken);
        }
        if known.len() >= self.most {
            return Err(TokenError::TooMany(self.most));
        }
        Ok(())
    }

    /// Makes one; the secret is told this once. Blocks for the disk.
    pub fn create(&self, new: NewToken, actor: &str) -> Result<(TokenInfo, String), TokenError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(&new)?;
        let (id, secret) = (random::<ID_BYTES>()?, random::<SECRET_BYTES>()?);
        let secret = format!("{PREFIX}{id}_{secret}");
        let record = Record {
            id: id.clone(),
            name: new.name,
            hash: hex::encode(Sha256::digest(secret.as_bytes())),
            roles: new.roles,
            scopes: new.scopes,
            created_at: clock::now(),
            created_by: actor.to_owned(),
            expires_at: new.expires_at,
        };
        let value = serde_json::to_vec(&record).map_err(|error| KvError::Unavailable(error.to_string()))?;
        // Kept when it is over, so that it can be seen why it is refused.
        self.run(KvRequest::Set { key: &id, value: &value, expires: None })?;
        let known = Arc::new(Known::new(record)?);
        let info = known.info();
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
        Ok((info, secret))
    }

    /// From now on it is refused. Blocks for the disk.
    pub fn revoke(&self, id: &str) -> Result<TokenInfo, TokenError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.find(id)?;
        self.run(KvRequest::Delete { key: &known.record.id })?;
        known.state().revoked = true;
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(&known.record.id);
        Ok(known.info())
    }
}

fn random<const BYTES: usize>() -> Result<String, TokenError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| TokenError::Random(error.to_string()))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStorage;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.into(), roles: vec![Role::Viewer], scopes: vec![], expires_at: None }
    }

    #[test]
    fn a_token_lets_in_until_it_is_revoked_also_after_a_restart() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let tokens = Tokens::open(Arc::clone(&storage), 2).unwrap();
        let (info, secret) = tokens.create(new("ci"), "admin:default").unwrap();
        let pass = tokens.pass(&secret).expect("it is known");
        assert!(pass.grants.has(Scope::ClientsRead) && !pass.grants.has(Scope::ClientsKick) && pass.holds());
        assert!(tokens.show("ci").unwrap().last_used_at.is_some());
        let id = &info.id;
        for wrong in [String::new(), format!("{secret}0"), format!("mqg_{id}_"), secret.replace("mqg_", "")] {
            assert!(tokens.pass(&wrong).is_none(), "{wrong}");
        }
        let again = Tokens::open(Arc::clone(&storage), 2).unwrap();
        assert!(again.pass(&secret).is_some());
        assert_eq!(tokens.revoke("ci").unwrap().id, info.id);
        assert!(tokens.pass(&secret).is_none() && !pass.holds());
        assert!(Tokens::open(storage, 2).unwrap().pass(&secret).is_none());
        assert!(matches!(tokens.revoke("ci"), Err(TokenError::Unknown)));
    }

    #[test]
    fn the_secret_is_nowhere() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let tokens = Tokens::open(Arc::clone(&storage), 2).unwrap();
        let (info, secret) = tokens.create(new("ci"), "admin:default").unwrap();
        let KvAnswer::Entry(Some(entry)) = tokens.run(KvRequest::Get { key: &info.id }).unwrap() else {
            panic!("it was written")
        };
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        let (_, random) = secret.rsplit_once('_').unwrap();
        assert!(!text.contains(random) && text.contains(&hex::encode(Sha256::digest(&secret))), "{text}");
    }

    #[test]
    fn what_a_token_cannot_be() {
        let tokens = Tokens::open(Arc::new(MemoryStorage::default()), 1).unwrap();
        let check = |new: NewToken| tokens.check(&new).map_err(|error| error.to_string());
        for name in ["", "a b", "default", "unknown", &"x".repeat(65), "ä"] {
            assert!(check(new(name)).unwrap_err().contains("name"), "{name}");
        }
        assert!(check(NewToken { roles: vec![], ..new("a") }).unwrap_err().contains("role or a scope"));
        let over = NewToken { expires_at: Some(UnixMillis(1)), ..new("a") };
        assert!(check(over).unwrap_err().contains("end"));
        tokens.create(new("a"), "x").unwrap();
        assert!(matches!(tokens.create(new("a"), "x"), Err(TokenError::Taken)));
        assert!(matches!(tokens.create(new("b"), "x"), Err(TokenError::TooMany(1))));
    }

    #[test]
    fn one_that_is_over_is_refused_and_still_shown() {
        let tokens = Tokens::open(Arc::new(MemoryStorage::default()), 1).unwrap();
        let soon = UnixMillis(clock::now().0 + 60_000);
        let (info, secret) = tokens.create(NewToken { expires_at: Some(soon), ..new("a") }, "x").unwrap();
        let known = tokens.find(&info.id).unwrap();
        assert!(known.holds(UnixMillis(soon.0 - 1)) && !known.holds(soon));
        assert!(tokens.pass(&secret).is_some());
        assert_eq!(tokens.list().len(), 1);
    }
}
