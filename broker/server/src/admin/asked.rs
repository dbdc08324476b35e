//! A change of one thing that its path names: who asks for it, of which thing, at which revision, and whether it is only
//! tried.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::CaCertificate;

use super::api::{Change, IfMatch, Sketch, Takes};
use super::{AdminParts, Code, Problem, cas};
use crate::registry::{Ask, DryRun};

/// What the last part of a path names.
pub(super) trait Named: Sized {
    fn named(parts: &AdminParts, id: &str) -> Result<Self, Problem>;
}

impl Named for CertificateFingerprint {
    fn named(_: &AdminParts, id: &str) -> Result<Self, Problem> {
        fingerprint(id)
    }
}

impl Named for CaCertificate {
    fn named(parts: &AdminParts, id: &str) -> Result<Self, Problem> {
        cas::find(parts, id)
    }
}

pub(super) fn fingerprint(text: &str) -> Result<CertificateFingerprint, Problem> {
    CertificateFingerprint::from_hex(text)
        .ok_or_else(|| Problem::new(Code::BadId, "a certificate's id is its SHA-256, 64 hex digits"))
}

/// A change of `of`.
pub(super) struct Asked<T> {
    pub parts: AdminParts,
    pub change: Change,
    pub if_match: IfMatch,
    pub of: T,
}

impl<T> Asked<T> {
    /// What it asks the registry for.
    pub fn ask(&self) -> Ask<'_> {
        asked(&self.change, Some(&self.if_match))
    }
}

/// What a change asks the registry for.
pub(super) fn asked<'a>(change: &'a Change, if_match: Option<&IfMatch>) -> Ask<'a> {
    let dry_run = if change.dry_run { DryRun::Yes } else { DryRun::No };
    Ask::by(&change.actor.0).expecting(if_match.and_then(IfMatch::expected)).dry_run(dry_run)
}

impl<T: Named> FromRequestParts<AdminParts> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AdminParts) -> Result<Self, Problem> {
        let change = Change::from_request_parts(parts, state).await?;
        let if_match = IfMatch::from_request_parts(parts, state).await?;
        let id = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|rejection| Problem::new(Code::BadPath, rejection.body_text()))?;
        let of = T::named(state, &id)?;
        Ok(Self { parts: state.clone(), change, if_match, of })
    }
}

impl<T> Takes for Asked<T> {
    fn describe(sketch: &mut Sketch) {
        <Change as Takes>::describe(sketch);
        <IfMatch as Takes>::describe(sketch);
        <Path<String> as Takes>::describe(sketch);
    }
}
