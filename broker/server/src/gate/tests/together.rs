//! Chains in which all members are asked, side by side with those in which the first decides.

use std::collections::BTreeSet;

use mqgate_codec::{QoS, TopicFilter, TopicName};
use mqgate_identity::hooks::GrantLimits;

use super::explain::agrees;
use super::*;
use crate::gate::StepOutcome;

/// Of the listeners whose chains are not as everywhere.
pub(super) fn chains() -> HashMap<Arc<str>, ListenerChain> {
    let modes =
        ChainModes { authenticator: ChainMode::All, registrar: ChainMode::All, authorizer: ChainMode::All };
    let all = ListenerChain { modes, without: None };
    let without = Some(Arc::new(BTreeSet::from(["p0".into()])));
    [
        ("all", all.clone()),
        ("all_auto", all),
        ("without_p0", ListenerChain { without, ..ListenerChain::default() }),
    ]
    .map(|(name, chain)| (name.into(), chain))
    .into()
}

fn allows(filter: &str) -> Arc<FakeHook> {
    authorizer(Ok(Authorization::Allow(grant(filter))))
}

fn denies() -> Arc<FakeHook> {
    authorizer(Ok(Authorization::Deny(denial(ConnackReason::NotAuthorized))))
}

fn gate_of(world: &World, chain: &[Arc<FakeHook>]) -> Gate {
    world.gate(chain.iter().enumerate().map(|(at, hook)| member(&format!("p{at}"), hook)).collect())
}

fn publishes(permit: &Permit, topic: &str) -> bool {
    permit.may_publish(&TopicName::parse(topic.into()).unwrap(), QoS::AtMostOnce, false)
}

#[tokio::test]
async fn all_are_asked_and_one_no_is_a_no() {
    let world = World::new().await;
    let abstain = || authenticator(Ok(Authentication::Abstain));
    let silent = || authorizer(Ok(Authorization::Abstain));
    let d = || authenticator(accept("d"));
    let no = || authenticator(Ok(Authentication::Deny(denial(ConnackReason::NotAuthorized))));
    let trap = || authenticator(Err(FailureKind::Trap));
    let named = |name: &str| {
        authorizer(Ok(Authorization::Allow(Grant { acl: Acl::Named(name.into()), ..grant("#") })))
    };
    let yes = "admitted c1 as d";
    let denied = "refused plugin_denied 0x87 \"go away\"";
    let nobody = "refused all_abstained 0x87";
    let cases: Vec<(&str, Vec<Arc<FakeHook>>, &str, &str)> = vec![
        // What, the chain, where the first decides, where all are asked.
        ("one of each", vec![d(), allows("#")], yes, yes),
        ("two agree", vec![d(), d(), allows("#")], yes, yes),
        ("one abstains", vec![abstain(), d(), silent(), allows("#")], yes, yes),
        (
            "another device",
            vec![d(), authenticator(accept("e")), allows("#")],
            yes,
            "refused plugin_denied 0x87",
        ),
        ("the second says no", vec![d(), no(), allows("#")], yes, denied),
        ("the second fails", vec![d(), trap(), allows("#")], yes, "refused plugin_unavailable 0x88"),
        (
            "the second is nonsense",
            vec![d(), authenticator(accept("a/b")), allows("#")],
            yes,
            "refused plugin_invalid 0x88",
        ),
        ("all authenticators abstain", vec![abstain(), abstain(), allows("#")], nobody, nobody),
        ("all authorizers abstain", vec![d(), silent(), silent()], nobody, nobody),
        ("the second authorizer says no", vec![d(), allows("#"), denies()], yes, denied),
        ("the first authorizer says no", vec![d(), denies(), allows("#")], denied, denied),
        (
            "the second authorizer fails",
            vec![d(), allows("#"), authorizer(Err(FailureKind::Deadline))],
            yes,
            "refused plugin_timeout 0x88",
        ),
        (
            "the second names no rule set",
            vec![d(), allows("#"), named("x")],
            yes,
            "refused plugin_invalid 0x88",
        ),
        (
            "the second grant is wrong",
            vec![d(), allows("#"), allows("a/#/b")],
            yes,
            "refused plugin_invalid 0x88",
        ),
    ];
    for (name, chain, first, all) in cases {
        for (listener, expected) in [("one_way", first), ("all", all)] {
            let gate = gate_of(&world, &chain);
            let admission = gate.admit(&world.accepted(listener, None), &connect("c1")).await;
            assert_eq!(said(&admission), expected, "{name}, {listener}");
            let reason = match &admission {
                Admission::Admitted(_) => Reason::Ok,
                Admission::Refused(refusal) => refusal.reason,
            };
            agrees(&world, &gate, world.accepted(listener, None), "c1", reason.as_str()).await;
        }
    }
}

#[tokio::test]
async fn a_topic_is_allowed_that_every_grant_allows() {
    let world = World::new().await;
    let limited = authorizer(Ok(Authorization::Allow(Grant {
        limits: GrantLimits { maximum_qos: Some(1), ..GrantLimits::default() },
        valid_for: Some(Duration::from_secs(60)),
        ..grant("devices/#")
    })));
    let own = authorizer(Ok(Authorization::Allow(Grant {
        limits: GrantLimits { maximum_qos: Some(2), subscriptions: Some(3), ..GrantLimits::default() },
        ..grant("+/${device-id}/#")
    })));
    let gate = gate_of(&world, &[authenticator(accept("d")), limited, own]);
    let Admission::Admitted(permit) = gate.admit(&world.accepted("all", None), &connect("c1")).await else {
        panic!("refused");
    };
    for (topic, expected) in [("devices/d/up", true), ("devices/e/up", false), ("other/d/up", false)] {
        assert_eq!(publishes(&permit, topic), expected, "{topic}");
    }
    let subscribes =
        |filter: &str| permit.may_subscribe(&TopicFilter::parse(filter.into()).unwrap(), QoS::AtMostOnce);
    assert!(subscribes("devices/d/#") && subscribes("$share/g/devices/d/+"));
    assert!(!subscribes("devices/#") && !subscribes("+/d/#") && !subscribes("$share/g/+/d/x"));
    assert_eq!((permit.limits.maximum_qos, permit.limits.subscriptions), (Some(1), Some(3)));
    assert_eq!(permit.valid_for, Some(Duration::from_secs(60)));

    let explained = gate.explain(&world.accepted("all", None), &connect("c1")).await;
    let said: Vec<_> = explained.verdicts.iter().map(|verdict| (&*verdict.name, verdict.result)).collect();
    assert_eq!(said, [("p0", "accept"), ("p1", "allow"), ("p2", "allow")]);
    let granting = explained.grant.expect("it would be let in");
    assert_eq!((granting.acls.len(), granting.names().as_str()), (2, "p1, p2"));
    let step = explained.steps.iter().find(|step| step.step == "authorizers").unwrap();
    assert!(step.outcome == StepOutcome::Passed && step.detail.contains("p1, p2 allow it"), "{step:?}");
    let audited = world.audited();
    assert!(audited.contains("p0/authenticator=accept"), "{audited}");
    assert!(audited.contains("p1/authorizer=allow") && audited.contains("p2/authorizer=allow"), "{audited}");
}

#[tokio::test]
async fn what_members_add_stands_under_their_names() {
    let world = World::new().await;
    let attributes = |value: &str| vec![Attribute { name: "zone".into(), value: Value::Text(value.into()) }];
    let says = |zone: &str| {
        let identity =
            Identity { attributes: attributes(zone), tags: vec![zone.into(), "t".into()], ..identity("d") };
        authenticator(Ok(Authentication::Accept { identity, cache: None }))
    };
    let gives = |zone: &str| {
        authorizer(Ok(Authorization::Allow(Grant { attributes: attributes(zone), ..grant("#") })))
    };
    let gate = gate_of(&world, &[says("a"), says("b"), gives("c"), gives("d")]);
    let explained = gate.explain(&world.accepted("all", None), &connect("c1")).await;
    let names = |attributes: &[Attribute]| {
        attributes.iter().map(|attribute| attribute.name.clone()).collect::<Vec<_>>()
    };
    let identity = explained.identity.expect("it is known");
    assert_eq!(
        (names(&identity.attributes).join(" ").as_str(), identity.tags),
        ("p0.zone p1.zone", vec!["t".into()])
    );
    assert_eq!(names(&explained.grant.expect("granted").terms.attributes), ["p2.zone", "p3.zone"]);
    let explained = gate.explain(&world.accepted("one_way", None), &connect("c1")).await;
    assert_eq!(names(&explained.identity.expect("it is known").attributes), ["zone"]);
}

#[tokio::test]
async fn a_certificate_is_registered_when_every_registrar_says_so() {
    let add = |name: &str| {
        registrar(Ok(RegistrationDecision::Register(registration(name, ConflictPolicy::AddCertificate))))
    };
    let hold = |name: &str| {
        registrar(Ok(RegistrationDecision::Hold(registration(name, ConflictPolicy::AddCertificate))))
    };
    let no = || registrar(Ok(RegistrationDecision::Deny(denial(ConnackReason::NotAuthorized))));
    let silent = || registrar(Ok(RegistrationDecision::Abstain));
    for (name, chain, expected) in [
        ("both", vec![add("both"), silent(), add("both"), allow()], "ok"),
        ("held", vec![add("held"), hold("held"), allow()], "cert_pending"),
        ("differ", vec![add("differ"), add("another"), allow()], "provision_denied"),
        ("denied", vec![add("denied"), no(), allow()], "provision_denied"),
        ("nobody", vec![silent(), silent(), allow()], "cert_not_registered"),
        ("broken", vec![add("broken"), registrar(Err(FailureKind::Trap)), allow()], "plugin_unavailable"),
    ] {
        // Nothing that was let in before is written meanwhile.
        let world = World::new().await;
        let gate = gate_of(&world, &chain);
        let device = world.ca.device(name);
        agrees(&world, &gate, world.accepted("all_auto", Some(&device)), "c1", expected).await;
        let known = world.registry.device(device.id()).await.unwrap();
        assert_eq!(known.is_some(), matches!(expected, "ok" | "cert_pending"), "{name}");
    }
}

/// A live session is asked about in the mode of its listener: one no ends it, and a failure leaves it as it is.
#[tokio::test]
async fn a_live_session_is_asked_about_by_all() {
    let world = World::new().await;
    let accepted = world.accepted("all", None);
    let d = || authenticator(accept("d"));
    let gate = gate_of(&world, &[d(), allows("#"), allows("a/#")]);
    let Admission::Admitted(permit) = gate.admit(&accepted, &connect("c1")).await else { panic!("refused") };
    let narrower = gate_of(&world, &[d(), allows("#"), allows("a/b")]);
    let Reauthorization::Replaced(next) = narrower.reauthorize(&accepted, &connect("c1"), &permit).await
    else {
        panic!("it is granted less");
    };
    assert!(publishes(&permit, "a/c") && !publishes(&next, "a/c") && publishes(&next, "a/b"));
    let refuses = gate_of(&world, &[d(), allows("#"), denies()]);
    let answer = refuses.reauthorize(&accepted, &connect("c1"), &permit).await;
    assert!(matches!(answer, Reauthorization::Withdrawn(_)), "{answer:?}");
    let fails = gate_of(&world, &[d(), allows("#"), authorizer(Err(FailureKind::Trap))]);
    let answer = fails.reauthorize(&accepted, &connect("c1"), &permit).await;
    assert!(matches!(answer, Reauthorization::Kept), "{answer:?}");
}

/// A member that a listener does without has no say about its clients, whatever hook it has.
#[tokio::test]
async fn a_listener_may_do_without_a_member() {
    let no = || authenticator(Ok(Authentication::Deny(denial(ConnackReason::NotAuthorized))));
    let add = |name: &str| {
        registrar(Ok(RegistrationDecision::Register(registration(name, ConflictPolicy::AddCertificate))))
    };
    for (name, chain, without, everywhere) in [
        ("denied", vec![no(), add("denied"), allow()], "ok", "plugin_denied"),
        ("unregistered", vec![add("unregistered"), allow()], "cert_not_registered", "ok"),
        ("ungranted", vec![allow(), add("ungranted")], "all_abstained", "ok"),
    ] {
        for (listener, expected) in [("without_p0", without), ("auto", everywhere)] {
            // Nothing that was let in before is written meanwhile.
            let world = World::new().await;
            let asked = chain[0].asked.load(Ordering::SeqCst);
            let device = world.ca.device(name);
            let accepted = world.accepted(listener, Some(&device));
            agrees(&world, &gate_of(&world, &chain), accepted, "c1", expected).await;
            let is_asked = chain[0].asked.load(Ordering::SeqCst) > asked;
            assert_eq!(is_asked, listener == "auto", "{name}");
        }
    }
}
