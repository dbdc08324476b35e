//! Registration codes.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::new_code;
use mqgate_identity::registry::{
    REGISTRATION_CODE_BYTES, REGISTRATION_CODE_TTL_MILLIS, RecordWrite, RegistrationCode, RegistryChanges,
    StorageError,
};
use mqgate_identity::time::UnixMillis;

use super::ask::Ask;
use super::{Registry, RegistryError};
use crate::clock;

/// How long a code is remembered after it was used or expired, so that it can be said which.
const REMEMBERED_MILLIS: u64 = 7 * 24 * 60 * 60 * 1000;

impl Registry {
    /// A code for the proof that somebody holds a CA's key; good once, for a day unless asked otherwise.
    pub async fn create_registration_code<'a>(
        self: &Arc<Self>,
        ttl: Option<Duration>,
        ask: impl Into<Ask<'a>>,
    ) -> Result<RegistrationCode, RegistryError> {
        let ask = ask.into();
        let _writing = self.cas_writing.lock().await;
        self.audit.check()?;
        let now = clock::now();
        let ttl = ttl
            .map_or(REGISTRATION_CODE_TTL_MILLIS, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let known = self.registration_codes().await?;
        let code = new_code(random()?, ttl, &known, ask.actor, now)?;
        if ask.is_dry() {
            return Ok(code);
        }
        let forgotten = known.iter().filter(|code| is_forgotten(code, now));
        let mut changes = RegistryChanges::default();
        changes.writes.extend(forgotten.map(|code| RecordWrite::RemoveCode { code: code.code.clone() }));
        changes.writes.push(RecordWrite::Code { record: Box::new(code.clone()), expected: None });
        self.store(changes).await?;
        self.record(about(names::REGISTRATION_CODE_CREATED, &code, ask.actor)).await?;
        Ok(code)
    }

    /// Every code, used and expired ones included as long as they are remembered.
    pub async fn registration_codes(&self) -> Result<Vec<RegistrationCode>, RegistryError> {
        Ok(self.blocking(|storage| storage.registration_codes()).await?)
    }

    /// Makes a code void.
    pub async fn delete_registration_code<'a>(
        self: &Arc<Self>,
        code: &str,
        ask: impl Into<Ask<'a>>,
    ) -> Result<RegistrationCode, RegistryError> {
        let ask = ask.into();
        let _writing = self.cas_writing.lock().await;
        let codes = self.registration_codes().await?;
        let known = codes.into_iter().find(|known| known.code.eq_ignore_ascii_case(code));
        let known = known.ok_or(RegistryError::NotFound)?;
        if ask.is_dry() {
            return Ok(known);
        }
        let remove = RecordWrite::RemoveCode { code: known.code.clone() };
        self.store(RegistryChanges::write(remove)).await?;
        self.record(about(names::REGISTRATION_CODE_DELETED, &known, ask.actor)).await?;
        Ok(known)
    }
}

fn is_forgotten(code: &RegistrationCode, now: UnixMillis) -> bool {
    let end = code.used.map_or(code.expires_at, |used| used.at);
    end.0.saturating_add(REMEMBERED_MILLIS) < now.0
}

fn random() -> Result<[u8; REGISTRATION_CODE_BYTES], RegistryError> {
    let mut bytes = [0; REGISTRATION_CODE_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| StorageError::Unavailable(format!("the system gives no randomness: {error}")))?;
    Ok(bytes)
}

/// Without the code: who reads the log need not be able to use it.
fn about(name: &'static str, code: &RegistrationCode, actor: &str) -> AuditEvent {
    let shown = code.code.get(..8).unwrap_or_default();
    AuditEvent::new(name, Outcome::Success, Reason::Ok)
        .actor(actor)
        .field("code_begins", shown)
        .field("expires", code.expires_at.seconds().to_string())
}
