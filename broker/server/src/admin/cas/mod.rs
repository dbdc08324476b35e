//! CAs: register, list, show, change, and the changes of their state.

mod codes;
mod impact;
mod settings;
mod shown;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::rules::{Cascade, Force};
use mqgate_identity::registry::{CaCertificate, CaState};
use schemars::JsonSchema;
use serde::Deserialize;

use self::settings::SettingsBody;
use self::shown::{Mode, Shown};
use super::api::{Api, Change, Doc, Impact, MaybeJson, Outcome, Rights, Tagged};
use super::asked::{Asked, asked};
use super::device_certs::{fingerprint_or, reason, refused};
use super::grace::Grace;
use super::{AdminParts, Code, Page, Problem, Scope, bad_json};
use crate::registry::{CaProof, CaRegistration, ChangedCa, RegistryError};

/// A change of one CA, by its SHA-256 or its name.
type One = Asked<CaCertificate>;
type Answer = Result<Outcome<Tagged<Shown>>, Problem>;

/// What the rules, the trust set and the storage may say.
const PROBLEMS: &[Code] = &[
    Code::NotFound,
    Code::BadCertificate,
    Code::BadReason,
    Code::NotACa,
    Code::BadCa,
    Code::BadName,
    Code::BadPattern,
    Code::NameTaken,
    Code::TooManyCas,
    Code::CaConfigured,
    Code::CaInTransition,
    Code::CaRevoked,
    Code::CaExpired,
    Code::CaPending,
    Code::CaRetiring,
    Code::CaInUse,
    Code::CaNotReplaceable,
    Code::SameCa,
    Code::RegistrationCodeInvalid,
    Code::RegistrationCodeExpired,
    Code::RegistrationCodeUsed,
    Code::VerificationSignatureInvalid,
    Code::VerificationExpired,
    Code::PublicKeyMismatch,
    Code::DeviceCertificatesExist,
    Code::TooManyTransitions,
    Code::TransitionsUnavailable,
    Code::RevisionMismatch,
    Code::RevisionConflict,
    Code::RegistryUnavailable,
    Code::AuditUnavailable,
];

pub(super) fn routes() -> Api<AdminParts> {
    let write = Scope::CasWrite;
    Api::new("CAs")
        .route(
            Doc::get("/cas", "ca.list", Scope::CasRead, "Lists CAs, those of the configuration included."),
            list,
        )
        .route(
            Doc::post(
                "/cas",
                "ca.add",
                write,
                "Registers a CA, with a proof that its key is the asker's or without.",
            )
            .created()
            .problems(PROBLEMS),
            register,
        )
        .route(Doc::get("/cas/{id}", "ca.show", Scope::CasRead, "One CA.").problems(&[Code::NotFound]), show)
        .route(
            Doc::patch("/cas/{id}", "ca.change", write, "Changes settings of a CA.").problems(PROBLEMS),
            patch,
        )
        .route(
            Doc::delete("/cas/{id}", "ca.remove", write, "Removes a CA from the registry.")
                .problems(PROBLEMS),
            remove,
        )
        .route(
            Doc::post(
                "/cas/{id}/verify",
                "ca.verify",
                write,
                "Takes the proof that a CA's key is the asker's.",
            )
            .problems(PROBLEMS),
            verify,
        )
        .route(
            Doc::post("/cas/{id}/activate", "ca.activate", write, "Trusts a CA again.").problems(PROBLEMS),
            activate,
        )
        .route(
            Doc::post("/cas/{id}/deactivate", "ca.deactivate", write, "Trusts a CA no longer, for now.")
                .problems(PROBLEMS),
            deactivate,
        )
        .route(
            Doc::post(
                "/cas/{id}/replace",
                "ca.replace",
                write,
                "Trusts another CA in the place of one, which stays valid beside it for its grace.",
            )
            .problems(PROBLEMS),
            replace,
        )
        .route(
            Doc::post("/cas/{id}/revoke", "ca.revoke", Scope::CasRevoke, "Trusts a CA never again.")
                .problems(PROBLEMS),
            revoke,
        )
        .route(
            Doc::get("/cas/{id}/impact", "ca.impact", Scope::CasRead, "What depends on a CA.")
                .problems(&[Code::NotFound, Code::RegistryUnavailable]),
            impact::show,
        )
        .merge(codes::routes())
}

async fn list(State(parts): State<AdminParts>) -> Json<Page<Shown>> {
    let mut cas = parts.registry.cas();
    cas.sort_by(|a, b| a.name.cmp(&b.name));
    Json(Page::whole(cas.into_iter().map(|ca| Shown::of(ca, &parts)).collect()))
}

/// By fingerprint or by name.
pub(super) fn find(parts: &AdminParts, id: &str) -> Result<CaCertificate, Problem> {
    let fingerprint = CertificateFingerprint::from_hex(id);
    let cas = parts.registry.cas();
    // One that retires leaves its name to its successor.
    let named = |ca: &&CaCertificate| ca.name == id && ca.state != CaState::Retiring;
    let found = cas.iter().find(|ca| Some(ca.id) == fingerprint).or_else(|| cas.iter().find(named));
    found.or_else(|| cas.iter().find(|ca| ca.name == id)).cloned().ok_or_else(|| {
        let detail = "no CA has this name or SHA-256; `mqgate ca list` shows those there are";
        Problem::new(Code::NotFound, detail)
    })
}

/// The fingerprint of a CA, for filters. A name must be known; a CA that is gone is found by its fingerprint.
pub(super) fn id_of(parts: &AdminParts, id: &str) -> Result<CertificateFingerprint, Problem> {
    fingerprint_or(id, || find(parts, id).map(|ca| ca.id))
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Tagged<Shown>, Problem> {
    let ca = find(&parts, &id)?;
    Ok(Tagged::new(ca.revision, Shown::of(ca, &parts)))
}

/// A CA to be registered.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    name: String,
    /// Its certificate.
    pem: String,
    /// The proof: a certificate that the CA signed, its common name a registration code. Without it the CA verifies
    /// nothing before `verify`.
    verification_pem: Option<String>,
    /// The asker's word is enough; needs the scope `cas:unproven`.
    #[serde(default)]
    skip_verification: bool,
    /// Registered, but not trusted before `activate`.
    #[serde(default)]
    inactive: bool,
    auto_registration: Option<shown::Registers>,
    on_deactivate: Option<Mode>,
    max_device_certs: Option<u64>,
    registration_rate: Option<shown::Rate>,
    subject_patterns: Option<Vec<String>>,
    san_patterns: Option<Vec<String>>,
    max_leaf_lifetime_seconds: Option<u64>,
    crl_sources: Option<Vec<String>>,
    registrar: Option<String>,
    /// Without one, a domain of its own.
    trust_domain: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

fn proof(pem: Option<String>, skip: bool, rights: &Rights) -> Result<CaProof, Problem> {
    match (pem, skip) {
        (Some(_), true) => {
            let detail = "`verification_pem` and `skip_verification` do not go together";
            Err(Problem::new(Code::BadQuery, detail))
        }
        (Some(pem), false) => Ok(CaProof::Certificate(pem)),
        (None, false) => Ok(CaProof::None),
        (None, true) => rights.require(Scope::CasUnproven).map(|()| CaProof::Skip),
    }
}

async fn register(
    State(parts): State<AdminParts>,
    change: Change,
    rights: Rights,
    body: Result<Json<RegisterBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let name = body.name.clone();
    let settings = SettingsBody {
        auto_registration: body.auto_registration,
        on_deactivate: body.on_deactivate,
        max_device_certs: body.max_device_certs.map(Some),
        registration_rate: body.registration_rate.map(Some),
        subject_patterns: body.subject_patterns,
        san_patterns: body.san_patterns,
        max_leaf_lifetime_seconds: body.max_leaf_lifetime_seconds.map(Some),
        crl_sources: body.crl_sources,
        registrar: body.registrar.map(Some),
    };
    let request = CaRegistration {
        pem: body.pem,
        name: body.name,
        proof: proof(body.verification_pem, body.skip_verification, &rights)?,
        inactive: body.inactive,
        trust_domain: body.trust_domain,
        settings: settings.over(mqgate_identity::registry::CaSettings::default()),
        tags: body.tags,
    };
    let changed = parts.registry.register_ca(request, asked(&change, None)).await;
    let changed = changed.map_err(|error| Problem::from(error).about(name))?;
    if change.dry_run {
        return Ok(Json(tried(&parts, "ca.add", &changed)?).into_response());
    }
    let status = if changed.is_new() { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Tagged::new(changed.revision, Shown::of(changed.after, &parts))).into_response())
}

/// What a change would do to the record; what it would do to others is `/impact`'s.
fn tried(parts: &AdminParts, action: &'static str, changed: &ChangedCa) -> Result<Impact, Problem> {
    let mut impact = Impact::of(action, &*changed.after.name);
    if let Some(before) = &changed.before {
        impact = impact.before(&Shown::of(before.clone(), parts))?;
        if before.revision == changed.after.revision {
            impact = impact.warn("it is as wanted already: nothing would be written");
        }
    }
    let after = Shown::of(changed.after.clone(), parts);
    for warning in &after.warnings {
        impact = impact.warn(warning.text());
    }
    impact.after(&after)
}

/// The answer to a change, made or tried.
async fn settled(one: &One, action: &'static str, changed: Result<ChangedCa, RegistryError>) -> Answer {
    let changed = changed.map_err(|error| refused(error, &one.if_match))?;
    if one.change.dry_run {
        let tried = tried(&one.parts, action, &changed)?;
        return Ok(impact::affected(&one.parts, tried, &changed.after).await?.into());
    }
    Ok(Outcome::Done(Tagged::new(changed.revision, Shown::of(changed.after, &one.parts))))
}

/// What is left out stays as it is; `null` lets a setting go.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PatchBody {
    name: Option<String>,
    trust_domain: Option<String>,
    tags: Option<Vec<String>>,
    auto_registration: Option<shown::Registers>,
    on_deactivate: Option<Mode>,
    #[serde(default, deserialize_with = "settings::given")]
    #[schemars(with = "Option<u64>")]
    max_device_certs: Option<Option<u64>>,
    #[serde(default, deserialize_with = "settings::given")]
    #[schemars(with = "Option<shown::Rate>")]
    registration_rate: Option<Option<shown::Rate>>,
    subject_patterns: Option<Vec<String>>,
    san_patterns: Option<Vec<String>>,
    #[serde(default, deserialize_with = "settings::given")]
    #[schemars(with = "Option<u64>")]
    max_leaf_lifetime_seconds: Option<Option<u64>>,
    crl_sources: Option<Vec<String>>,
    #[serde(default, deserialize_with = "settings::given")]
    #[schemars(with = "Option<String>")]
    registrar: Option<Option<String>>,
}

async fn patch(one: One, body: Result<Json<PatchBody>, JsonRejection>) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let settings = SettingsBody {
        auto_registration: body.auto_registration,
        on_deactivate: body.on_deactivate,
        max_device_certs: body.max_device_certs,
        registration_rate: body.registration_rate,
        subject_patterns: body.subject_patterns,
        san_patterns: body.san_patterns,
        max_leaf_lifetime_seconds: body.max_leaf_lifetime_seconds,
        crl_sources: body.crl_sources,
        registrar: body.registrar,
    };
    let patch = mqgate_identity::registry::rules::CaPatch {
        name: body.name,
        settings: Some(settings.over(one.of.settings.clone())),
        tags: body.tags,
        trust_domain: body.trust_domain,
    };
    // Settings are written as a whole: over the revision that they were read from.
    let ask = one.ask();
    let ask = ask.expecting(ask.expected.or(Some(one.of.revision)));
    let changed = one.parts.registry.change_ca(one.of.id, &patch, ask).await;
    settled(&one, "ca.change", changed).await
}

/// The proof.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VerifyBody {
    /// A certificate that the CA signed, its common name a registration code.
    verification_pem: Option<String>,
    /// The asker's word is enough; needs the scope `cas:unproven`.
    #[serde(default)]
    skip_verification: bool,
}

async fn verify(one: One, rights: Rights, body: Result<Json<VerifyBody>, JsonRejection>) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let ask = one.ask();
    let changed = match proof(body.verification_pem, body.skip_verification, &rights)? {
        CaProof::None => {
            let detail = "`verification_pem` is missing: a certificate that the CA signed, its common name a code of \
                          `POST /ca-registration-codes` (`mqgate ca code new`)";
            return Err(Problem::new(Code::BadBody, detail));
        }
        CaProof::Certificate(pem) => one.parts.registry.verify_ca(one.of.id, &pem, ask).await,
        CaProof::Skip => one.parts.registry.trust_ca(one.of.id, ask).await,
    };
    settled(&one, "ca.verify", changed).await
}

async fn activate(one: One) -> Answer {
    let changed = one.parts.registry.activate_ca(one.of.id, one.ask()).await;
    settled(&one, "ca.activate", changed).await
}

/// What ends.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct DeactivateBody {
    /// Without it, what its settings say.
    mode: Option<Mode>,
}

async fn deactivate(one: One, MaybeJson(body): MaybeJson<DeactivateBody>) -> Answer {
    let mode = body.and_then(|body| body.mode).map(Into::into);
    let changed = one.parts.registry.deactivate_ca(one.of.id, mode, one.ask()).await;
    settled(&one, "ca.deactivate", changed).await
}

/// Why.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RevokeBody {
    /// RFC 5280's name of it; without one, `cACompromise`.
    reason: Option<String>,
}

async fn revoke(one: One, MaybeJson(body): MaybeJson<RevokeBody>) -> Answer {
    let asked_for = body.and_then(|body| body.reason);
    let reason = reason(Some(asked_for.as_deref().unwrap_or("cACompromise")))?;
    let changed = one.parts.registry.revoke_ca(one.of.id, reason, one.ask()).await;
    settled(&one, "ca.revoke", changed).await
}

/// What becomes of the certificates of a CA that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CascadeWord {
    Revoke,
    /// They stay, and let nobody in until another CA carries them.
    Orphan,
}

#[derive(Deserialize, JsonSchema)]
struct RemoveQuery {
    /// Also if certificates are registered under it: they stay.
    #[serde(default)]
    force: bool,
    /// What becomes of them, for a CA that is out of use.
    cascade: Option<CascadeWord>,
    /// How long one in use stays valid: `10m`; without it, `reload.grace`.
    grace: Option<Grace>,
}

/// A CA in use is removed with a grace; one that is out of use goes at once.
async fn remove(one: One, Query(query): Query<RemoveQuery>) -> Answer {
    one.if_match.check(one.of.revision)?;
    let in_use = one.of.revision == 0 || matches!(one.of.state, CaState::Active | CaState::Retiring);
    if query.cascade.is_none() && in_use {
        return remove_in_use(one, &query).await;
    }
    let cascade = match (query.cascade, query.force) {
        (Some(CascadeWord::Revoke), _) => Cascade::Revoke,
        (Some(CascadeWord::Orphan), _) | (None, true) => Cascade::Orphan,
        (None, false) => Cascade::Refuse,
    };
    let changed = one.parts.registry.delete_ca(one.of.id, cascade, one.ask()).await;
    settled(&one, "ca.remove", changed).await
}

async fn remove_in_use(one: One, query: &RemoveQuery) -> Answer {
    let Asked { parts, change, of: ca, .. } = one;
    let force = if query.force { Force::Yes } else { Force::No };
    if change.dry_run {
        if ca.revision == 0 {
            let error = match parts.registry.is_retiring(ca.id) {
                true => RegistryError::Retiring,
                false => RegistryError::Configured,
            };
            return Err(error.into());
        }
        let devices = parts.registry.ca_impact(ca.id).await?.not_deleted();
        mqgate_identity::registry::rules::check_remove_ca(devices, force).map_err(RegistryError::Rule)?;
        let tried = Impact::of("ca.remove", &*ca.name).before(&Shown::of(ca.clone(), &parts))?;
        return Ok(impact::affected(&parts, tried, &ca).await?.into());
    }
    let grace = query.grace.map(|grace| grace.0);
    let removed = parts.registry.remove_ca(ca.id, force, grace, &change.actor.0).await?;
    let revision = removed.old.revision;
    let shown = Shown { transition: removed.retiring, ..Shown::of(removed.old, &parts) };
    Ok(Outcome::Done(Tagged::new(revision, shown)))
}

/// What takes its place.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplaceBody {
    pem: String,
    /// Without one it gets that of the old CA.
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct ReplaceQuery {
    /// How long the old one stays valid: `10m`; without it, `reload.grace`.
    grace: Option<Grace>,
}

/// Answers the new one.
async fn replace(
    one: One,
    Query(query): Query<ReplaceQuery>,
    body: Result<Json<ReplaceBody>, JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    one.if_match.check(one.of.revision)?;
    let Asked { parts, change, of: ca, .. } = one;
    if change.dry_run {
        let tried = Impact::of("ca.replace", &*ca.name).before(&Shown::of(ca.clone(), &parts))?;
        return Ok(impact::affected(&parts, tried, &ca).await?.into());
    }
    let grace = query.grace.map(|grace| grace.0);
    let actor = &change.actor.0;
    let replaced = parts.registry.replace_ca(ca.id, &body.pem, body.name.as_deref(), grace, actor).await?;
    let new = replaced.new.unwrap_or(replaced.old);
    let revision = new.revision;
    let shown = Shown { transition: replaced.retiring, ..Shown::of(new, &parts) };
    Ok(Outcome::Done(Tagged::new(revision, shown)))
}
