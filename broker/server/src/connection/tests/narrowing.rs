//! What a client gets, and what is heard of it, once it may do less than before.

use mqgate_identity::hooks::{Authentication, Authorization};

use super::*;
use crate::bans::{Ban, Kind};
use crate::clock;
use crate::testing::{FakeHook, grant, hooks, identity, member};

const NOT_PERMITTED: &str = r#"mqgate_messages_dropped_total{reason="not_permitted"}"#;

/// Takes one unacknowledged message at a time.
fn slow(client_id: &'static str) -> Hello {
    Hello { receive_maximum: Some(1), ..Hello::v5(client_id).lasting(60) }
}

async fn acknowledge(peer: &mut Peer, publish: &Publish) {
    peer.send(&Packet::PubAck(Ack::success(publish.packet_id.unwrap()))).await;
}

async fn unacknowledged(peer: &mut Peer) -> Publish {
    match peer.next().await {
        Packet::Publish(publish) => publish,
        other => panic!("{other:?}"),
    }
}

/// The permit is another one now.
async fn asked_again(world: &World, client_id: &str) {
    let before = world.asked.load(Ordering::SeqCst);
    world.broker.connections().reauthorize_where(|handle| handle.client_id() == Some(client_id));
    while world.asked.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_not_delivered_under_a_narrower_permit() {
    let world = World::new();
    let (mut c, _) = world.connect(&slow("c")).await;
    for filter in ["a/+", "b/+"] {
        assert_eq!(c.subscribe(filter, qos(1)).await, ReasonCode::GRANTED_QOS_1);
    }
    let mut publisher = world.client("p").await;
    for topic in ["a/1", "a/2", "b/1", "a/3"] {
        publisher.publish(message(topic, topic, QoS::AtLeastOnce)).await;
    }
    let first = unacknowledged(&mut c).await;
    assert_eq!(first.payload, "a/1");
    world.denied.lock().unwrap().push("a/#");
    asked_again(&world, "c").await;
    c.is_quiet().await;
    acknowledge(&mut c, &first).await;
    assert_eq!(c.message().await.payload, "b/1", "a/2 was waiting when its topic was taken away");
    c.is_quiet().await;
    assert_eq!(world.metric(NOT_PERMITTED), 2.0);
    assert_eq!(world.metric("mqgate_queued_messages"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn nor_is_it_delivered_to_who_comes_back_with_one() {
    let world = World::new();
    let (mut c, _) = world.connect(&slow("c")).await;
    for filter in ["a/+", "b/+"] {
        assert_eq!(c.subscribe(filter, qos(1)).await, ReasonCode::GRANTED_QOS_1);
    }
    let mut publisher = world.client("p").await;
    for topic in ["a/1", "a/2", "b/1"] {
        publisher.publish(message(topic, topic, QoS::AtLeastOnce)).await;
    }
    assert_eq!(unacknowledged(&mut c).await.payload, "a/1");
    c.lose().await;
    world.denied.lock().unwrap().push("a/#");
    let (mut c, present) = world.connect(&slow("c")).await;
    assert!(present);
    assert_eq!(c.message().await.payload, "b/1");
    c.is_quiet().await;
    assert_eq!(world.metric(NOT_PERMITTED), 2.0, "the one that was not acknowledged, too");
}

/// Its packet id is free only when the client has let go of it. [MQTT-4.3.3-10]
#[tokio::test(start_paused = true)]
async fn a_message_of_qos_2_that_is_not_sent_again_is_released() {
    let world = World::new();
    let (mut c, _) = world.connect(&slow("c")).await;
    c.subscribe("a/+", qos(2)).await;
    let mut publisher = world.client("p").await;
    publisher.publish(message("a/1", "x", QoS::ExactlyOnce)).await;
    let first = unacknowledged(&mut c).await;
    c.lose().await;
    world.denied.lock().unwrap().push("a/#");
    let (mut c, _) = world.connect(&slow("c")).await;
    assert_eq!(c.next().await, Packet::PubRel(Ack::success(first.packet_id.unwrap())));
    c.is_quiet().await;
    assert_eq!(world.metric(NOT_PERMITTED), 1.0);
}

#[tokio::test(start_paused = true)]
async fn another_member_of_a_shared_subscription_gets_what_one_may_not_have() {
    let world = World::new();
    let (mut c, _) = world.connect(&slow("c")).await;
    c.subscribe("$share/g/a/+", qos(1)).await;
    let mut publisher = world.client("p").await;
    for topic in ["a/1", "a/2"] {
        publisher.publish(message(topic, topic, QoS::AtLeastOnce)).await;
    }
    let first = unacknowledged(&mut c).await;
    let mut other = world.client("other").await;
    other.subscribe("$share/g/a/+", qos(1)).await;
    world.denied.lock().unwrap().push("a/#");
    asked_again(&world, "c").await;
    assert_eq!(other.message().await.payload, "a/2");
    acknowledge(&mut c, &first).await;
    c.is_quiet().await;
    assert_eq!(world.metric(NOT_PERMITTED), 0.0);
}

async fn will_of_who_was_banned(kind: Kind, value: &str) -> (World, Peer) {
    let hook = FakeHook {
        authentication: Some(Ok(Authentication::Accept { identity: identity("device"), cache: None })),
        authorization: Some(Ok(Authorization::Allow(grant("#")))),
        ..FakeHook::default()
    };
    let bans = Arc::new(Bans::open(None, 10, &prometheus::Registry::new()).unwrap());
    let world = World::guarded(&hooks(vec![member("m", &Arc::new(hook))]), Arc::clone(&bans));
    let hello = Hello { will: Some(("t", 5)), ..Hello::v5("c").lasting(60) };
    let (c, _) = world.connect(&hello).await;
    let mut watcher = world.client("watcher").await;
    watcher.subscribe("t", qos(0)).await;
    c.lose().await;
    let ban = Ban::new(kind, value, None, None, "test", clock::now(), None).unwrap();
    bans.add(ban).unwrap();
    tokio::time::sleep(SECOND * 10).await;
    (world, watcher)
}

#[tokio::test(start_paused = true)]
async fn the_delayed_will_of_who_was_barred_meanwhile_is_not_published() {
    let (world, mut watcher) = will_of_who_was_banned(Kind::Client, "c").await;
    watcher.is_quiet().await;
    assert_eq!(world.metric("mqgate_will_published_total"), 0.0);
    let audited = world.audited();
    let denied: Vec<_> =
        audited.iter().filter(|record| record["name"] == "authorization.publish_denied").collect();
    assert_eq!(denied.len(), 1, "{audited:?}");
    assert_eq!((&denied[0]["reason"], &denied[0]["client_id"]), (&"banned".into(), &"c".into()));
}

#[tokio::test(start_paused = true)]
async fn that_of_others_is() {
    let (world, mut watcher) = will_of_who_was_banned(Kind::Client, "somebody else").await;
    assert_eq!(watcher.message().await.payload, "gone");
    assert_eq!(world.metric("mqgate_will_published_total"), 1.0);
}
