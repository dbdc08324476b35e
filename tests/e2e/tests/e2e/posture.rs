//! Posture checks in the running broker: what is wrong is found, shown, lived with, and gone when it is mended.

use mqgate_e2e::Broker;
use serde_json::json;

#[tokio::test]
async fn what_is_wrong_is_found_and_gone_when_it_is_mended() {
    let settings = "[[policy.acls.any.rules]]\ntopic = \"#\"\n\n\
                    [audit.checks]\ndisable = [\"AUDIT_NO_EXTERNAL_CHECKPOINT\"]\n";
    let mut broker = Broker::builder()
        .tcp()
        .with_native("anonymous", "config = { acl = \"any\" }")
        .config(settings)
        .start()
        .await;
    let admin = broker.admin();
    let said = admin.run(&["audit", "check", "--now"]);
    assert!(said.contains("1 findings appeared, 0 disappeared"), "{said}");
    let found = admin.json(&["audit", "findings"]);
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!((&found[0]["check"], &found[0]["severity"]), (&json!("RULE_TOO_BROAD"), &json!("high")));
    assert_eq!(found[0]["resource"]["id"], "policy.acls.any.rules[0]");
    let series = "mqgate_audit_findings{check=\"RULE_TOO_BROAD\",severity=\"high\"}";
    assert_eq!(admin.metric(series), 1.0);
    let told = broker.audited("the finding", |line| line["name"] == "finding.appeared").await;
    assert_eq!(told["fields"]["check"], "RULE_TOO_BROAD");

    let id = found[0]["id"].as_str().unwrap();
    let unsaid = admin.try_run(&["audit", "suppress", id, "--reason", " "]);
    assert!(String::from_utf8_lossy(&unsaid.stderr).contains("needs a reason"), "{unsaid:?}");
    admin.run(&["audit", "suppress", &id[..6], "--reason", "a test", "--for", "1h"]);
    assert_eq!(admin.json(&["audit", "findings"]), json!([]));
    assert_eq!(admin.metric(series), 0.0);
    assert!(admin.run(&["audit", "findings", "--suppressed"]).contains("suppressed by"));
    broker.kill_and_restart();
    let admin = broker.admin();
    assert_eq!(admin.json(&["audit", "findings", "--suppressed"])[0]["id"], id);
    admin.run(&["audit", "unsuppress", id]);
    assert!(admin.run(&["audit", "findings"]).contains("RULE_TOO_BROAD"));

    broker.rewrite(|text| text.replace("topic = \"#\"", "topic = \"open/#\""));
    admin.run(&["reload"]);
    let said = admin.run(&["audit", "check", "--now"]);
    assert!(said.contains("0 findings appeared, 1 disappeared"), "{said}");
    assert_eq!(admin.json(&["audit", "findings"]), json!([]));
    let checks = admin.json(&["audit", "checks"]);
    let external = checks["items"].as_array().unwrap().iter().find(|item| item["enabled"] == false).unwrap();
    assert_eq!(external["name"], "AUDIT_NO_EXTERNAL_CHECKPOINT");
}
