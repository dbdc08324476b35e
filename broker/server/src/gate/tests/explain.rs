//! What an explanation says is what happens, and asking for it changes nothing.

use super::*;
use crate::gate::StepOutcome;

/// What happens to the client that was explained, just after.
pub(super) async fn agrees(world: &World, gate: &Gate, accepted: Accepted, client_id: &str, expected: &str) {
    let writes = world.storage.writes.load(Ordering::SeqCst);
    let explained = gate.explain(&accepted, &connect(client_id)).await;
    assert_eq!(world.storage.writes.load(Ordering::SeqCst), writes, "{expected}: nothing is written");
    let reason = match &explained.outcome {
        Ok(_) => Reason::Ok,
        Err(refused) => refused.reason,
    };
    assert_eq!(reason.as_str(), expected, "{:#?}", explained.steps);
    let last = explained.steps.last().unwrap();
    let is_failed = last.outcome == StepOutcome::Failed;
    assert_eq!((is_failed, last.reason), (reason != Reason::Ok, is_failed.then_some(expected)), "{last:?}");
    match (gate.admit(&accepted, &connect(client_id)).await, &explained.outcome) {
        (Admission::Admitted(permit), Ok(foretold)) => {
            assert_eq!(permit.device_id, foretold.device_id);
            assert!(permit.has_rules_of(foretold), "the same topics");
        }
        (Admission::Refused(refusal), Err(foretold)) => assert_eq!(refusal, foretold.answer),
        (admission, foretold) => panic!("{expected}: {foretold:?}, but {admission:?}"),
    }
}

fn registers(device_id: &str) -> Arc<FakeHook> {
    registrar(Ok(RegistrationDecision::Register(registration(device_id, ConflictPolicy::AddCertificate))))
}

#[tokio::test]
async fn what_is_foretold_is_what_happens() {
    let world = World::new().await;
    let denies = || Ok(Authentication::Deny(denial(ConnackReason::NotAuthorized)));
    let hold = || RegistrationDecision::Hold(registration("waits", ConflictPolicy::AddCertificate));
    let gate = |members: &[&Arc<FakeHook>]| {
        let members = members.iter().enumerate().map(|(at, hook)| member(&format!("p{at}"), hook));
        world.gate(members.collect())
    };
    let fresh = |name: &str| world.accepted("auto", Some(&world.ca.device(name)));

    agrees(&world, &gate(&[&registers("new"), &allow()]), fresh("new"), "c", "ok").await;
    agrees(&world, &gate(&[&allow()]), fresh("unknown"), "c", "cert_not_registered").await;
    let by_hand = world.accepted("manual", Some(&world.ca.device("by-hand")));
    agrees(&world, &gate(&[&registers("x"), &allow()]), by_hand, "c", "cert_not_registered").await;
    agrees(&world, &gate(&[&registrar(Ok(hold())), &allow()]), fresh("waits"), "c", "cert_pending").await;
    let bad_id = gate(&[&registers("a/b"), &allow()]);
    agrees(&world, &bad_id, fresh("bad"), "c", "plugin_invalid").await;
    let breaks = gate(&[&registrar(Err(FailureKind::Trap)), &allow()]);
    agrees(&world, &breaks, fresh("trapped"), "c", "plugin_unavailable").await;
    agrees(&world, &gate(&[&registers("silent")]), fresh("silent"), "c", "all_abstained").await;
    agrees(
        &world,
        &gate(&[&authenticator(denies()), &allow()]),
        world.accepted("one_way", None),
        "c",
        "plugin_denied",
    )
    .await;
    agrees(&world, &gate(&[&allow()]), world.accepted("strictly_mutual", None), "c", "tls_no_peer_cert")
        .await;
    agrees(&world, &gate(&[&allow()]), world.accepted("nowhere", None), "c", "other").await;

    let device = world.ca.device("known");
    world.register(&device, Some("only")).await;
    let known = || world.accepted("auto", Some(&device));
    agrees(&world, &gate(&[&allow()]), known(), "only", "ok").await;
    agrees(&world, &gate(&[&allow()]), known(), "other", "clientid_mismatch").await;
    world.registry.deactivate(device.id(), "admin:test").await.unwrap();
    agrees(&world, &gate(&[&allow()]), known(), "only", "cert_inactive").await;
    world.registry.revoke(device.id(), RevocationReason::Unspecified, "admin:test").await.unwrap();
    agrees(&world, &gate(&[&allow()]), known(), "only", "cert_revoked").await;
}
