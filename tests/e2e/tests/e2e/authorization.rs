//! What an admitted device may do: the grants of `cert-acl` and `cedar`, judged without WebAssembly for each packet.

use mqgate_client::Client;
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::Broker;
use mqgate_e2e::broker::PATIENT;

#[tokio::test]
async fn a_device_publishes_below_its_own_name_and_nowhere_else() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-7");
    let (client, _) = Client::connect(broker.options("seven", &device)).await.unwrap();
    for (topic, expected) in [
        ("devices/device-7/temperature", ReasonCode::NO_MATCHING_SUBSCRIBERS),
        ("devices/device-7", ReasonCode::NO_MATCHING_SUBSCRIBERS),
        ("devices/device-8/temperature", ReasonCode::NOT_AUTHORIZED),
        ("devices/device-77/temperature", ReasonCode::NOT_AUTHORIZED),
        ("elsewhere", ReasonCode::NOT_AUTHORIZED),
        ("$SYS/x", ReasonCode::NOT_AUTHORIZED),
    ] {
        let reason = client.publish(topic, "x", QoS::AtLeastOnce, false).await.unwrap();
        assert_eq!(reason, expected, "{topic}");
    }
    let line =
        broker.audited("the denied publish", |line| line["name"] == "authorization.publish_denied").await;
    assert_eq!((&line["device_id"], &line["reason"]), (&"device-7".into(), &"acl_denied".into()));
}

#[tokio::test]
async fn a_subscription_wider_than_granted_is_refused() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-7");
    let (client, _) = Client::connect(broker.options("seven", &device)).await.unwrap();
    for (filter, expected) in [
        ("devices/device-7/#", ReasonCode::GRANTED_QOS_1),
        ("devices/device-7/+/x", ReasonCode::GRANTED_QOS_1),
        ("$share/group/devices/device-7/+", ReasonCode::GRANTED_QOS_1),
        ("devices/#", ReasonCode::NOT_AUTHORIZED),
        ("devices/+/temperature", ReasonCode::NOT_AUTHORIZED),
        ("#", ReasonCode::NOT_AUTHORIZED),
        ("$share/group/#", ReasonCode::NOT_AUTHORIZED),
        ("$SYS/#", ReasonCode::NOT_AUTHORIZED),
    ] {
        let reasons = client.subscribe(&[(filter, QoS::AtLeastOnce)]).await.unwrap();
        assert_eq!(reasons, [expected], "{filter}");
    }
    broker.audited("the denied subscription", |line| line["name"] == "authorization.subscribe_denied").await;
}

/// A string of a certificate never becomes a wildcard or a further level.
#[tokio::test]
async fn names_with_wildcards_and_slashes_get_nowhere() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    for name in ["#", "+", "a/b", "device-1/#", "a+b", "$SYS"] {
        let device = broker.pki.device(name);
        assert!(
            Client::connect(broker.options("x", &device)).await.is_err(),
            "a certificate for {name:?} got in"
        );
    }
}

#[tokio::test]
async fn a_will_outside_the_grant_is_refused_with_its_connection() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-7");
    let mut options = broker.options("seven", &device);
    options.set_will("devices/device-8/gone", "x", QoS::AtLeastOnce, false);
    let error = Client::connect(options).await.err().expect("the will is for another device's topic");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
}

/// What `cedar` forbids no wider topic and no wildcard brings back, and what fails to be decided is refused.
#[tokio::test]
#[ignore = "full: a debug build compiles a component of three megabytes"]
async fn what_cedar_policies_forbid_is_refused_by_every_filter_that_holds_it() {
    let config = r#"
[plugins.config]
policies = '''
@id("everybody") permit (principal, action, resource);
@id("no-secrets") forbid (principal, action == Action::"subscribe", resource == Topic::"sites/+/secret");
@id("no-firmware") forbid (principal, action == Action::"publish", resource == Topic::"sites/${device-id}/firmware");
@id("banned") forbid (principal, action == Action::"connect", resource)
when { context has certificate && context.certificate.cn.contains("device-8") };
@id("fails") forbid (principal == Device::"device-9", action == Action::"publish", resource)
when { context has certificate && context.certificate.notAfter * 9000000000 > 0 };
'''
topics = [{ filter = "sites/#" }, { filter = "sites/+/secret" }, { filter = "sites/${device-id}/firmware" }]
"#;
    let broker = Broker::builder()
        .with_auto_register(PATIENT)
        .with_plugin("cedar", "bundled:cedar", &format!("{PATIENT}\n{config}"))
        .with_cert_acl(PATIENT)
        .start()
        .await;
    let device = broker.pki.device("device-7");
    let (client, _) = Client::connect(broker.options("seven", &device)).await.unwrap();
    for (filter, expected) in [
        ("sites/a/open", ReasonCode::GRANTED_QOS_1),
        ("sites/a/open/#", ReasonCode::GRANTED_QOS_1),
        ("sites/a/secret/deeper", ReasonCode::GRANTED_QOS_1),
        ("sites/a/secret", ReasonCode::NOT_AUTHORIZED),
        ("sites/+/secret", ReasonCode::NOT_AUTHORIZED),
        ("sites/a/+", ReasonCode::NOT_AUTHORIZED),
        ("sites/a/#", ReasonCode::NOT_AUTHORIZED),
        ("sites/#", ReasonCode::NOT_AUTHORIZED),
        ("+/a/+", ReasonCode::NOT_AUTHORIZED),
        ("$share/group/sites/#", ReasonCode::NOT_AUTHORIZED),
        ("#", ReasonCode::NOT_AUTHORIZED),
        ("elsewhere", ReasonCode::NOT_AUTHORIZED),
    ] {
        let reasons = client.subscribe(&[(filter, QoS::AtLeastOnce)]).await.unwrap();
        assert_eq!(reasons, [expected], "{filter}");
    }
    for (topic, expected) in [
        ("sites/device-7/x", ReasonCode::NO_MATCHING_SUBSCRIBERS),
        ("sites/device-7/firmware", ReasonCode::NOT_AUTHORIZED),
        ("sites/device-8/firmware", ReasonCode::NO_MATCHING_SUBSCRIBERS),
        ("devices/device-7/x", ReasonCode::NOT_AUTHORIZED),
    ] {
        let reason = client.publish(topic, "x", QoS::AtLeastOnce, false).await.unwrap();
        assert_eq!(reason, expected, "{topic}");
    }
    for refused in ["device-8", "device-9"] {
        let device = broker.pki.device(refused);
        let error = Client::connect(broker.options(refused, &device)).await.err().expect("it is refused");
        assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{refused}: {error}");
    }
}
