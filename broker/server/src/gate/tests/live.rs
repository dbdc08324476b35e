//! What hooks are told of a session that is judged once more.

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
