//! How long a permit lasts, and what hooks are told of the session when it is judged once more.

use super::*;

#[tokio::test]
async fn a_live_session_is_known_as_such_and_by_the_moment() {
    let world = World::new().await;
    let accepted = world.accepted("one_way", None);
    let asked = authenticator(accept("d"));
    let gate = world.gate(vec![member("a", &asked), member("b", &allow())]);
    let Admission::Admitted(permit) = gate.admit(&accepted, &connect("c1")).await else { panic!("refused") };
    let before = clock::now();
    let again = gate.reauthorize(&accepted, &connect("c1"), &permit).await;
    assert!(matches!(again, Reauthorization::Replaced(_)));
    let seen = asked.connections.lock().unwrap();
    let [first, second] = &seen[..] else { panic!("asked {} times", seen.len()) };
    assert_eq!(first.attributes, accepted.attributes);
    assert_eq!(second.accepted_at, first.accepted_at);
    let [attribute] = &second.attributes[..] else { panic!("{:?}", second.attributes) };
    assert_eq!(attribute.name, "reauthorization.at");
    let Value::Integer(at) = attribute.value else { panic!("{attribute:?}") };
    assert!((before.0..=clock::now().0).contains(&u64::try_from(at).unwrap()), "{at}");
}

#[tokio::test]
async fn a_grant_says_how_long_its_permit_lasts() {
    let world = World::new().await;
    let accepted = world.accepted("one_way", None);
    let seconds = Duration::from_secs;
    for (granted, expected) in
        [(None, None), (Some(seconds(90)), Some(seconds(90))), (Some(seconds(0)), Some(seconds(1)))]
    {
        let may = authorizer(Ok(Authorization::Allow(Grant { valid_for: granted, ..grant("#") })));
        let gate = world.gate(vec![member("p0", &authenticator(accept("d"))), member("p1", &may)]);
        let Admission::Admitted(permit) = gate.admit(&accepted, &connect("c1")).await else {
            panic!("refused")
        };
        assert_eq!(permit.valid_for, expected);
        let Reauthorization::Replaced(permit) = gate.reauthorize(&accepted, &connect("c1"), &permit).await
        else {
            panic!("not replaced")
        };
        assert_eq!(permit.valid_for, expected);
    }
}
