//! API tokens: list, show, create, revoke.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome, Rights};
use super::scope::{Grants, Role, Scope};
use super::tokens::{NewToken, TokenError, TokenInfo};
use super::{AdminParts, Code, Page, Problem, bad_json, note};
use crate::clock;

const LIST: &str = "tokens";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("API tokens")
        .route(Doc::get("/tokens", "token.list", Scope::TokensRead, "Lists API tokens."), list)
        .route(
            Doc::post(
                "/tokens",
                "token.create",
                Scope::TokensWrite,
                "Creates an API token; `secret` is shown this once.",
            )
            .created()
            .secret()
            .problems(&[
                Code::BadName,
                Code::NameTaken,
                Code::BadScope,
                Code::BadTime,
                Code::TooManyTokens,
                Code::MoreThanOwn,
                Code::StorageUnavailable,
            ]),
            create,
        )
        .route(
            Doc::get("/tokens/{id}", "token.show", Scope::TokensRead, "One API token, by id or name.")
                .problems(&[Code::NoSuchToken]),
            show,
        )
        .route(
            Doc::delete(
                "/tokens/{id}",
                "token.revoke",
                Scope::TokensWrite,
                "Revokes an API token: it is refused from now on.",
            )
            .problems(&[Code::NoSuchToken, Code::StorageUnavailable]),
            revoke,
        )
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let code = match &error {
            TokenError::Name => Code::BadName,
            TokenError::Taken => Code::NameTaken,
            TokenError::Nothing => Code::BadScope,
            TokenError::Over => Code::BadTime,
            TokenError::TooMany(_) => Code::TooManyTokens,
            TokenError::Unknown => Code::NoSuchToken,
            TokenError::Random(_) => Code::Internal,
            TokenError::Storage(_) => Code::StorageUnavailable,
        };
        Self::new(code, error.to_string())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<TokenInfo>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: Option<(String, String)> = query.after.map(|after| after.read(LIST)).transpose()?;
    let mut items = parts.tokens.list();
    items.retain(|token| after.as_ref().is_none_or(|(name, id)| (&token.name, &token.id) > (name, id)));
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| Cursor::of(LIST, &(&last.name, &last.id)));
    Ok(Json(Page { items, next }))
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Json<TokenInfo>, Problem> {
    Ok(Json(parts.tokens.show(&id)?))
}

/// What a token is to be.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    /// Letters, digits, `-`, `_`, `.`; audit records show it.
    name: String,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    scopes: Vec<Scope>,
    /// Without it the token holds until it is revoked.
    seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CreatedToken")]
struct Created {
    #[serde(flatten)]
    token: TokenInfo,
    /// For `Authorization: Bearer …`; shown this once.
    secret: String,
}

async fn create(
    State(parts): State<AdminParts>,
    rights: Rights,
    change: Change,
    body: Result<Json<CreateBody>, JsonRejection>,
) -> Result<Outcome<(StatusCode, Json<Created>)>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let asked = Grants { roles: body.roles.clone(), scopes: body.scopes.clone() };
    if let Some(scope) = rights.grants().lacks(&asked) {
        let detail = format!("the token would have the scope `{scope}`, which yours does not");
        return Err(Problem::new(Code::MoreThanOwn, detail).with("scope", scope.as_str()).about(body.name));
    }
    let now = clock::now().0;
    let until = body.seconds.map(|seconds| UnixMillis(now.saturating_add(seconds.saturating_mul(1000))));
    let new = NewToken { name: body.name, roles: body.roles, scopes: body.scopes, expires_at: until };
    let name = new.name.clone();
    parts.tokens.check(&new).map_err(|error| Problem::from(error).about(&name))?;
    let words = |words: Vec<&str>| words.join(",");
    let roles = words(new.roles.iter().map(|role| role.as_str()).collect());
    let scopes = words(new.scopes.iter().map(|scope| scope.as_str()).collect());
    let after = json!({ "name": name, "roles": roles, "scopes": scopes, "expires_at": new.expires_at });
    let impact = Impact::of("token.create", &*name).after(&after)?;
    if change.dry_run {
        return Ok(match new.roles.contains(&Role::Admin) && new.expires_at.is_none() {
            true => impact.warn("it would be an administrator's, for ever").into(),
            false => impact.into(),
        });
    }
    note(&parts.audit, &change.actor, &impact, &[("token", &name)]).await?;
    let (tokens, actor) = (parts.tokens, change.actor.0.to_string());
    let made = tokio::task::spawn_blocking(move || tokens.create(new, &actor)).await;
    let (token, secret) = made.map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
    Ok(Outcome::Done((StatusCode::CREATED, Json(Created { token, secret }))))
}

async fn revoke(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<String>,
) -> Result<Outcome<Json<TokenInfo>>, Problem> {
    let token = parts.tokens.show(&id)?;
    let impact = Impact::of("token.revoke", &token.name).before(&token)?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("token", &token.name), ("id", &token.id)]).await?;
    let tokens = parts.tokens;
    let revoked = tokio::task::spawn_blocking(move || tokens.revoke(&token.id)).await;
    Ok(Outcome::Done(Json(revoked.map_err(|error| Problem::new(Code::Internal, error.to_string()))??)))
}
