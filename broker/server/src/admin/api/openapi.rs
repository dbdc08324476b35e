//! The description of the whole API, OpenAPI 3.1, made from the routes; and the route that serves it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::super::problem::Code;
use super::super::scope::Scope;
use super::guard::BASE;
use super::{Access, Api, Doc, Effect, Route, Sketch};

/// Where the text is put when all routes are known, this one included.
pub(in crate::admin) type Text = Arc<OnceLock<Bytes>>;

pub(in crate::admin) fn routes() -> Api<Text> {
    Api::new("API").route(
        Doc::get("/openapi.json", "api.describe", Scope::StatusRead, "This description.")
            .for_anyone()
            .media(&["application/json"]),
        show,
    )
}

async fn show(State(text): State<Text>) -> Response {
    let text = text.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Refusals that any route may answer with.
const OF_ALL: &[Code] =
    &[Code::HostNotAllowed, Code::BadRequest, Code::UnknownParameter, Code::BadParameter, Code::Internal];
const OF_GUARDED: &[Code] = &[Code::TokenMissing, Code::TokenWrong];
const OF_CHANGES: &[Code] =
    &[Code::AuditUnavailable, Code::BadHeader, Code::IdempotencyReused, Code::IdempotencyRunning];
const OF_BODIES: &[Code] =
    &[Code::BadJson, Code::BadBody, Code::TooLarge, Code::MediaType, Code::BodyTimeout];

/// The document.
pub fn document(version: &str, pages: &[Route], routes: &[Route]) -> Value {
    let mut sketch = Sketch::new();
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let impact = sketch.output_of::<super::Impact>();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut tags: Vec<&str> = Vec::new();
    for (base, route) in pages.iter().map(|route| ("", route)).chain(routes.iter().map(|route| (BASE, route)))
    {
        if !tags.contains(&route.tag) {
            tags.push(route.tag);
        }
        sketch.clear();
        (route.describe)(&mut sketch);
        let path = format!("{base}{}", route.doc.path);
        let method = route.doc.method.as_str().to_ascii_lowercase();
        paths.entry(path).or_default().insert(method, operation(route, &sketch, &impact, &problem));
    }
    let mut schemas = sketch.definitions();
    schemas.insert(String::from("Problem"), problem_schema());
    let tags: Vec<Value> = tags.into_iter().map(|tag| json!({ "name": tag })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "mqgate admin API",
            "version": version,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Errors are problem+json (RFC 9457) with a stable `code`. Lists come in pages: `next` of \
                one is `after` of the next. Changes take `dry_run` and `Idempotency-Key`.",
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of `admin.token_file`, or one made with `mqgate admin token create`.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "An operator's certificate that `admin.operators` maps to roles.",
                },
            },
        },
    })
}

fn operation(route: &Route, sketch: &Sketch, impact: &Value, problem: &Value) -> Value {
    let doc = &route.doc;
    let mut parameters = path_parameters(doc.path, &sketch.path);
    parameters.extend(sketch.parameters.iter().cloned());
    if doc.effect == Effect::Changes && !doc.secret {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Chosen by whoever asks: with the same one a request is not carried out again within a \
                day; the first answer is repeated.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
    }
    let mut operation = json!({
        "operationId": doc.id,
        "tags": [route.tag],
        "summary": doc.summary,
        "parameters": parameters,
        "responses": responses(doc, sketch, impact, problem),
        "x-scope": doc.scope(),
    });
    operation["security"] = match doc.access {
        Access::Public => json!([]),
        Access::Anyone => json!([{ "token": [] }, { "certificate": [] }]),
        Access::Needs(scope) => {
            json!([{ "token": [scope.as_str()] }, { "certificate": [scope.as_str()] }])
        }
    };
    if let Some(body) = &sketch.body {
        operation["requestBody"] =
            json!({ "required": body.required, "content": { body.media: { "schema": body.schema } } });
    }
    operation
}

/// In the order of the path; without a type of the handler's they are text.
fn path_parameters(path: &str, schemas: &[Value]) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .enumerate()
        .map(|(index, name)| {
            let mut schema = schemas.get(index).cloned().unwrap_or_else(|| json!({ "type": "string" }));
            if schema["type"] == "string" && schema.get("minLength").is_none() {
                // An empty part of a path is another path.
                schema["minLength"] = 1.into();
            }
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect()
}

/// The codes of a route, those that are every route's included.
pub(super) fn codes(doc: &Doc, sketch: &Sketch) -> Vec<Code> {
    let mut codes: Vec<Code> = OF_ALL.to_vec();
    if doc.access != Access::Public {
        codes.extend(OF_GUARDED);
    }
    if let Access::Needs(_) = doc.access {
        codes.push(Code::ScopeMissing);
    }
    if doc.path.contains('{') {
        codes.push(Code::BadPath);
        codes.push(Code::NoSuchPath);
    }
    if doc.effect == Effect::Changes {
        codes.extend(OF_CHANGES);
    }
    if sketch.checks_revision {
        codes.push(Code::RevisionMismatch);
    }
    if sketch.body.is_some() {
        codes.extend(OF_BODIES);
    }
    let pages = sketch.parameters.iter().any(|parameter| parameter["name"] == "after");
    if pages {
        codes.push(Code::BadCursor);
    }
    codes.extend(doc.problems);
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn responses(doc: &Doc, sketch: &Sketch, impact: &Value, problem: &Value) -> Value {
    let mut responses = Map::new();
    let mut success = json!({ "description": "Done." });
    if let Some(schema) = &sketch.answer {
        let media = if doc.media.is_empty() { &["application/json"] } else { doc.media };
        let content: Map<String, Value> =
            media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
        success["content"] = content.into();
    }
    if sketch.tagged {
        success["headers"] = json!({
            "ETag": { "description": "The revision, for `If-Match`.", "schema": { "type": "string" } },
        });
    }
    if sketch.impact {
        match doc.status {
            200 => {
                let done = success["content"]["application/json"]["schema"].take();
                success["content"]["application/json"]["schema"] = json!({ "anyOf": [done, impact] });
            }
            _ => {
                responses.insert(
                    String::from("200"),
                    json!({
                        "description": "With `dry_run`: what it would do.",
                        "content": { "application/json": { "schema": impact } },
                    }),
                );
            }
        }
    }
    responses.insert(doc.status.to_string(), success);
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes(doc, sketch) {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let words: Vec<String> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
        responses.insert(
            status.to_string(),
            json!({
                "description": words.join(", "),
                "content": { "application/problem+json": { "schema": problem } },
            }),
        );
    }
    Value::Object(responses)
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "description": "RFC 9457. Some codes have further members.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "code": { "type": "string", "enum": codes },
            "detail": { "type": "string" },
        },
    })
}
