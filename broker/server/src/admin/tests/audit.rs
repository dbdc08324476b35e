//! The audit log over the admin API.

use super::*;
use crate::testing::TestCertificate;

/// Asks until the answer is as wanted.
async fn until(world: &World, request: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    loop {
        let answer = world.ask(request, &Value::Null).await;
        if wanted(&answer) {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn records_are_found_proved_and_signed_with_a_new_key() {
    let (world, _) = World::new(false).await;
    world.ask_with("wrong", "", "GET /api/v1/status", &Value::Null).await;
    let found = "GET /api/v1/audit/records?name=admin.refused";
    let found = until(&world, found, |answer| answer.body["items"] != json!([])).await;
    let record = &found.body["items"][0];
    assert_eq!((&record["category"], &record["v"]), (&json!("admin"), &json!(1)));
    let seq = record["seq"].as_u64().unwrap();
    assert_eq!(found.body.get("next"), None, "{}", found.body);
    let none = world.ask("GET /api/v1/audit/records?name=admin.refused&outcome=success", &Value::Null).await;
    assert_eq!(none.body["items"], json!([]));

    // Nothing is signed yet: ten seconds are not over.
    let proof = format!("GET /api/v1/audit/proofs/{seq}");
    let refused = world.ask(&proof, &Value::Null).await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("not_signed_yet")));
    let tried = world.ask("POST /api/v1/audit/keys?dry_run=true", &Value::Null).await;
    assert_eq!((tried.status, &tried.body["action"]), (200, &json!("audit.rotate_key")));
    let rotated = world.ask("POST /api/v1/audit/keys", &Value::Null).await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let keys = world.ask("GET /api/v1/audit/keys", &Value::Null).await;
    assert_eq!(keys.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(keys.body["items"][1], rotated.body);
    let proved = world.ask(&proof, &Value::Null).await;
    assert_eq!((proved.status, &proved.body["leaf_index"]), (200, &json!(seq - 1)));
    let checkpoints = world.ask("GET /api/v1/audit/checkpoints?limit=1", &Value::Null).await;
    let size = checkpoints.body["items"][0]["size"].as_u64().unwrap();
    assert!(size >= seq && checkpoints.body["written"].as_u64().unwrap() >= size, "{}", checkpoints.body);
    let path = format!("GET /api/v1/audit/proofs?first=1&second={size}");
    assert_eq!(world.ask(&path, &Value::Null).await.status, 200);
    assert!(
        world.audited().iter().any(|line| line.starts_with("audit.key_rotated")),
        "{:?}",
        world.audited()
    );
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_by_name() {
    let (world, _) = World::new(false).await;
    for (request, body, status, code) in [
        ("GET /api/v1/audit/records?since=yesterday", Value::Null, 400, "bad_parameter"),
        ("GET /api/v1/audit/records?nmae=x", Value::Null, 400, "unknown_parameter"),
        ("GET /api/v1/audit/records?after=x", Value::Null, 400, "bad_cursor"),
        ("GET /api/v1/audit/proofs/0", Value::Null, 409, "not_signed_yet"),
        ("GET /api/v1/audit/proofs?first=5&second=1", Value::Null, 404, "not_found"),
        ("POST /api/v1/audit/erasures", json!({"subject": "somebody"}), 422, "bad_subject"),
        ("POST /api/v1/audit/erasures", json!({"subject": "device:d"}), 409, "nothing_personal"),
    ] {
        let answer = world.ask(request, &body).await;
        assert_eq!(
            (answer.status, answer.body["code"].as_str()),
            (status, Some(code)),
            "{request}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn what_a_request_did_is_found_by_its_name() {
    let (world, ca) = World::new(false).await;
    let request = "POST /api/v1/device-certs";
    let body = |device: &TestCertificate| json!({ "pem": device.pem() });
    let own = world.ask_with(TOKEN, "X-Request-Id: change-4711\r\n", request, &body(&ca.device("one"))).await;
    assert!(own.head.contains("x-request-id: change-4711"), "{}", own.head);
    // The same way for one that may be repeated, which runs in a task of its own.
    let repeatable = "X-Request-Id: change-4712\r\nIdempotency-Key: k\r\n";
    world.ask_with(TOKEN, repeatable, request, &body(&ca.device("two"))).await;
    let given = world.ask_with(TOKEN, "X-Request-Id: a\"b\r\n", request, &body(&ca.device("three"))).await;
    let given = given.head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    assert_eq!(given.len(), 16, "{given}");
    // A refusal, and what another thread writes down.
    world.ask_with("wrong", "X-Request-Id: nobody\r\n", "GET /api/v1/status", &Value::Null).await;
    world.ask_with(TOKEN, "X-Request-Id: keys\r\n", "POST /api/v1/audit/keys", &Value::Null).await;
    for (id, name) in [
        ("change-4711", "device.registered"),
        ("change-4712", "device.registered"),
        (given.as_str(), "device.registered"),
        ("nobody", "admin.refused"),
        ("keys", "audit.key_rotated"),
    ] {
        let wanted = format!("GET /api/v1/audit/records?request_id={id}");
        let found = until(&world, &wanted, |answer| answer.body["items"] != json!([])).await;
        let items = found.body["items"].as_array().unwrap();
        assert_eq!((items.len(), items[0]["name"].as_str()), (1, Some(name)), "{id}: {}", found.body);
    }
}

#[tokio::test]
async fn what_was_decided_about_a_certificate_the_newest_first() {
    let (world, ca) = World::new(false).await;
    let (one, other) = (ca.device("one").id(), ca.device("other").id());
    let record = |name, id, client_id: &str| {
        let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok);
        event.certificate_fingerprint = Some(id);
        event.client_id = Some(client_id.to_owned());
        world.audit.record(event);
    };
    record(names::HANDSHAKE_FAILED, one, "1");
    record(names::DEVICE_REGISTERED, one, "2");
    record(names::CONNECTION_ACCEPTED, other, "-");
    record(names::CONNECTION_CLOSED, one, "-");
    record(names::CONNECTION_REFUSED, one, "3");
    let path = format!("GET /api/v1/device-certs/{}/decisions", one.to_hex());
    until(&world, &path, |answer| answer.body["items"].as_array().is_some_and(|items| items.len() == 3))
        .await;
    let mut seen = Vec::new();
    let mut asked = format!("{path}?limit=2");
    loop {
        let page = world.ask(&asked, &Value::Null).await;
        let items = page.body["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["client_id"].as_str().unwrap().to_owned()));
        match page.body["next"].as_str() {
            Some(next) => asked = format!("{path}?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["3", "2", "1"]);
    let bad = world.ask("GET /api/v1/device-certs/seven/decisions", &Value::Null).await;
    assert_eq!((bad.status, &bad.body["code"]), (400, &json!("bad_id")), "{}", bad.body);
}

#[tokio::test]
async fn a_change_is_written_down_with_what_is_before_and_after_it() {
    let (world, ca) = World::new(false).await;
    let device = ca.device("device-7");
    let body = json!({ "pem": device.pem(), "tags": ["lot-1"] });
    assert_eq!(world.ask("POST /api/v1/device-certs", &body).await.status, 201);
    let patch = json!({ "tags": ["lot-2"], "client_id": "c-7" });
    let path = format!("PATCH /api/v1/device-certs/{}", device.id().to_hex());
    assert_eq!(world.ask(&path, &patch).await.status, 200);
    let token = json!({ "name": "night-shift", "roles": ["viewer"] });
    assert_eq!(world.ask("POST /api/v1/tokens", &token).await.status, 201);
    assert_eq!(world.ask("DELETE /api/v1/tokens/night-shift", &Value::Null).await.status, 200);
    world.audit.close();
    let text = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let sides: Vec<(String, Value, Value)> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let side = |name: &str| {
                let text = line["fields"][name].as_str();
                text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
            };
            let action = line["fields"]["action"].as_str().or(line["name"].as_str()).unwrap();
            (action.to_owned(), side("before"), side("after"))
        })
        .collect();
    let find = |wanted: &str| sides.iter().find(|(action, ..)| action == wanted).unwrap();
    let (_, before, after) = find("device.registered");
    assert_eq!((before, &after["tags"]), (&Value::Null, &json!(["lot-1"])));
    let (_, before, after) = find("device.changed");
    assert_eq!(*before, json!({ "tags": ["lot-1"] }));
    assert_eq!(*after, json!({ "tags": ["lot-2"], "client_id": "c-7" }));
    let (_, before, after) = find("token.create");
    assert_eq!((before, &after["name"]), (&Value::Null, &json!("night-shift")));
    let (_, before, after) = find("token.revoke");
    assert_eq!((&before["name"], after), (&json!("night-shift"), &Value::Null));
}
