//! What holds for every route: a description, rights, tries, repetition.

use std::collections::HashSet;

use super::*;
use crate::admin::api::{Access, Effect, Route, Sketch};

fn all() -> Vec<Route> {
    all_routes(&[&bundles_routes()[..], &crls_routes()[..]].concat())
}

fn sketch(route: &Route) -> Sketch {
    let mut sketch = Sketch::new();
    (route.describe)(&mut sketch);
    sketch
}

/// A path that reaches the route.
fn path_of(route: &Route) -> String {
    let parts = route.doc.path.split('/').map(|part| if part.starts_with('{') { "0" } else { part });
    format!("/api/v1{}", parts.collect::<Vec<_>>().join("/"))
}

#[test]
fn every_route_is_described() {
    let mut ids = HashSet::new();
    for route in all() {
        let doc = &route.doc;
        let what = format!("{} {}", doc.method, doc.path);
        assert!(ids.insert(doc.id), "{what}: the id {} is taken", doc.id);
        assert!(doc.summary.ends_with('.') && doc.summary.len() > 6, "{what}: {:?}", doc.summary);
        assert_ne!(doc.access, Access::Public, "{what} is below /api/v1");
        let sketch = sketch(&route);
        // A change can be tried, and names who made it: both come with `Change`.
        assert_eq!(sketch.changes, doc.effect == Effect::Changes, "{what}: `Change` and the method");
        let parts = doc.path.matches('{').count();
        assert_eq!(sketch.path.len(), parts, "{what}: parts of the path that the handler takes");
        if sketch.parameters.iter().any(|one| one["name"] == "after") {
            assert!(
                sketch.parameters.iter().any(|one| one["name"] == "limit"),
                "{what}: `after` and `limit`"
            );
        }
    }
}

#[tokio::test]
async fn what_is_served_is_what_the_code_says() {
    let (world, _) = World::new(false).await;
    let answer = world.ask("GET /api/v1/openapi.json", &Value::Null).await;
    assert_eq!((answer.status, &answer.body), (200, &description("1.2.3", &[])));
    assert!(answer.head.contains("content-type: application/json"));
    let document = answer.body;
    assert_eq!(document["openapi"], "3.1.0");
    let ban = &document["paths"]["/api/v1/bans"]["post"];
    assert_eq!(
        (&ban["operationId"], &ban["security"][0]["token"][0]),
        (&json!("ban.add"), &json!("bans:write"))
    );
    assert!(ban["responses"]["409"]["description"].as_str().unwrap().contains("`too_many_bans`"), "{ban}");
    // Every reference leads somewhere.
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    // Each route that it names is there, and behind the token.
    let host = format!("Host: {}\r\n", world.address);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let (method, path) = (method.to_uppercase(), path.replace(['{', '}'], "0"));
            let answer = world.raw(&format!("{method} {path}"), &host, "").await;
            let open = !path.starts_with("/api/");
            assert_eq!(answer.status == 401, !open, "{method} {path}: {}", answer.status);
            if open {
                continue;
            }
            let answer = world.ask(&format!("{method} {path}"), &Value::Null).await;
            let code = answer.body["code"].as_str().unwrap_or_default();
            assert!(
                !matches!(code, "no_such_path" | "method_not_allowed" | "internal"),
                "{method} {path}: {code}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_may_what_its_scopes_say_and_nothing_else() {
    let (world, _) = World::new(false).await;
    let made = world.ask("POST /api/v1/tokens", &json!({ "name": "watch", "scopes": ["status:read"] })).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    let own = routes();
    for route in own.routes() {
        let request = format!("{} {}", route.doc.method, path_of(route));
        let answer = world.ask_with(&secret, "", &request, &Value::Null).await;
        let Access::Needs(scope) = route.doc.access else { continue };
        let refused = (answer.status, answer.body["code"].as_str(), answer.body["scope"].as_str());
        match scope {
            Scope::StatusRead => assert_eq!(answer.status, 200, "{request}"),
            _ => assert_eq!(refused, (403, Some("scope_missing"), Some(scope.as_str())), "{request}"),
        }
    }
    // Revoked while the broker runs.
    assert_eq!(world.ask("DELETE /api/v1/tokens/watch", &Value::Null).await.status, 200);
    let answer = world.ask_with(&secret, "", "GET /api/v1/status", &Value::Null).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (401, Some("token_wrong")));
    world.audit.close();
    let text = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    assert!(!text.contains(&secret), "a secret is in the audit log");
    let denied = text.lines().filter(|line| line.contains("scope_missing")).count();
    let others = own.routes().iter().filter(|route| route.doc.access != Access::Needs(Scope::StatusRead));
    assert_eq!(denied, others.count(), "each attempt is written down");
    assert!(text.contains("\"actor\":\"admin:watch\""), "{text}");
}

#[tokio::test]
async fn nobody_gives_more_than_the_own_rights() {
    let (world, _) = World::new(false).await;
    let maker = json!({ "name": "maker", "scopes": ["tokens:write", "certs:read"] });
    let made = world.ask("POST /api/v1/tokens", &maker).await;
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    for (body, status, code) in [
        (json!({ "name": "a", "scopes": ["certs:revoke"] }), 403, Some("more_than_own")),
        (json!({ "name": "a", "roles": ["admin"] }), 403, Some("more_than_own")),
        (json!({ "name": "a", "roles": ["viewer"] }), 403, Some("more_than_own")),
        (json!({ "name": "a", "roles": ["king"] }), 422, Some("bad_body")),
        (json!({ "name": "a" }), 422, Some("bad_scope")),
        (json!({ "name": "a", "scopes": ["certs:read"], "seconds": 60 }), 201, None),
        (json!({ "name": "a", "scopes": ["certs:read"] }), 409, Some("name_taken")),
    ] {
        let answer = world.ask_with(&secret, "", "POST /api/v1/tokens", &body).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, code), "{body} {}", answer.body);
    }
    // A CA that proves nothing needs a right of its own.
    let stranger = TestCa::new("stranger");
    let writer = json!({ "name": "writer", "scopes": ["cas:write"] });
    let made = world.ask("POST /api/v1/tokens", &writer).await;
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    let body = json!({ "name": "other", "pem": stranger.pem(), "skip_verification": true });
    let answer = world.ask_with(&secret, "", "POST /api/v1/cas", &body).await;
    assert_eq!((answer.status, answer.body["scope"].as_str()), (403, Some("cas:unproven")));
    // Without the right it waits for its proof, and carries nobody until then.
    let body = json!({ "name": "other", "pem": stranger.pem() });
    let answer = world.ask_with(&secret, "", "POST /api/v1/cas", &body).await;
    assert_eq!((answer.status, answer.body["state"].as_str()), (201, Some("PENDING_ACTIVATION")));
}

#[tokio::test]
async fn a_try_changes_nothing() {
    let (world, _) = World::new(false).await;
    let body = json!({ "name": "ci", "roles": ["admin"] });
    let tried = world.ask("POST /api/v1/tokens?dry_run=true", &body).await;
    assert_eq!((tried.status, &tried.body["dry_run"]), (200, &json!(true)), "{}", tried.body);
    assert_eq!(tried.body["action"], "token.create");
    assert_eq!(world.ask("GET /api/v1/tokens", &Value::Null).await.body["items"], json!([]));
    // It is refused as the change itself would be.
    let again =
        world.ask("POST /api/v1/tokens?dry_run=true", &json!({ "name": "a b", "roles": ["admin"] })).await;
    assert_eq!((again.status, again.body["code"].as_str()), (422, Some("bad_name")));
    assert_eq!(world.ask("POST /api/v1/tokens?dry_run=false", &body).await.status, 201);
    let listed = world.ask("GET /api/v1/tokens", &Value::Null).await;
    assert_eq!(listed.body["items"][0]["name"], "ci");
    let tried = world.ask("DELETE /api/v1/tokens/ci?dry_run=true", &Value::Null).await;
    assert_eq!(tried.body["before"]["name"], "ci");
    assert_eq!(world.ask("GET /api/v1/tokens/ci", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn what_is_asked_for_again_is_answered_and_not_done_again() {
    let (world, _) = World::new(false).await;
    let stranger = TestCa::new("other");
    let body = json!({ "name": "other", "pem": stranger.pem() });
    let key = "Idempotency-Key: 7f3a\r\n";
    let first = world.ask_with(TOKEN, key, "POST /api/v1/cas", &body).await;
    assert_eq!(first.status, 201, "{}", first.body);
    assert!(!first.head.contains("idempotency-replayed"));
    let again = world.ask_with(TOKEN, key, "POST /api/v1/cas", &body).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert!(again.head.contains("idempotency-replayed: true"), "{}", again.head);
    for (request, body) in [
        ("POST /api/v1/cas", json!({ "name": "another", "pem": stranger.pem() })),
        ("POST /api/v1/bans", body.clone()),
    ] {
        let other = world.ask_with(TOKEN, key, request, &body).await;
        assert_eq!((other.status, other.body["code"].as_str()), (422, Some("idempotency_key_reused")));
    }
    // Without the key it is a request of its own, which finds the CA there; so is a key of somebody else's.
    let plain = world.ask("POST /api/v1/cas", &body).await;
    assert_eq!(plain.status, 200, "{}", plain.body);
    let made = world.ask("POST /api/v1/tokens", &json!({ "name": "t", "roles": ["admin"] })).await;
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(world.ask_with(&secret, key, "POST /api/v1/cas", &body).await.status, 200);
    for bad in ["Idempotency-Key: \r\n", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n"] {
        let answer = world.ask_with(TOKEN, bad, "POST /api/v1/cas", &body).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("bad_header")), "{bad}");
    }
    // A secret is not kept to be told again.
    let answer =
        world.ask_with(TOKEN, key, "POST /api/v1/tokens", &json!({ "name": "s", "roles": ["admin"] })).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("bad_header")));
    // A refusal is an answer like any other, and written down once.
    let key = "Idempotency-Key: refused\r\n";
    for _ in 0..2 {
        let answer = world.ask_with(TOKEN, key, "DELETE /api/v1/cas/devices", &Value::Null).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (409, Some("ca_configured")));
    }
    let refusals = world.audited().into_iter().filter(|line| line.contains("ca_configured"));
    assert_eq!(refusals.count(), 1);
}

#[tokio::test]
async fn pages_of_a_list_follow_each_other() {
    let (world, _) = World::new(false).await;
    for name in ["a", "b", "c", "d", "e"] {
        let body = json!({ "name": name, "roles": ["viewer"] });
        assert_eq!(world.ask("POST /api/v1/tokens", &body).await.status, 201);
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.ask(&format!("GET /api/v1/tokens?limit=2{after}"), &Value::Null).await;
        let items = page.body["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page.body["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    // A cursor of one list is none of another.
    let answer = world.ask(&format!("GET /api/v1/sessions?limit=2{after}"), &Value::Null).await;
    assert_eq!(answer.body["code"], "bad_cursor");
}
