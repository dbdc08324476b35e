//! Topics with as many levels as can be allowed, through everything that looks at topics.

use mqgate_protocol::topics::{Applies, Rewrite, TopicRules};

use super::*;

/// On half of the stack that a worker has: who calls himself for each level needs more.
#[test]
fn depth_needs_no_stack() {
    let story = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(deep());
    };
    std::thread::Builder::new().stack_size(1024 * 1024).spawn(story).unwrap().join().unwrap();
}

/// So that it is as long as can be.
fn filled(prefix: &str, rest: &str) -> String {
    prefix.to_owned() + &"/".repeat(65_534 - prefix.len() - rest.len()) + rest
}

async fn deep() {
    let rewrites = vec![Rewrite::new(Applies::All, "rewritten/#", "to/$1").unwrap()];
    let world = World::with(Limits {
        topic_levels: 65_535,
        filter_bytes_per_session: 1024 * 1024,
        topics: Arc::new(TopicRules { rewrites, ..TopicRules::default() }),
        ..Limits::default()
    });
    // What begins with a wildcard might be `secret/#`, which is denied.
    let covered = [
        filled("", ""),
        filled("", "#"),
        filled("a/+", "#"),
        "a/".to_owned() + &"+/".repeat(32_765) + "+",
        filled("rewritten/", ""),
    ];
    let apart = [filled("$share/group/shared", ""), filled("$exclusive/own", "")];
    let topics = [filled("", ""), filled("rewritten/", ""), filled("shared", "")[..65_000].to_owned()];
    for hello in [Hello::v5("deep").lasting(60), Hello::v3("older")] {
        let (mut peer, _) = world.connect(&hello).await;
        for filter in covered.iter().chain(&apart) {
            let start = &filter[..20];
            assert_eq!(peer.subscribe(filter, qos(1)).await, ReasonCode::GRANTED_QOS_1, "{start}");
        }
        let denied = peer.subscribe(&filled("+", "#"), qos(1)).await;
        assert!(denied.is_error(), "it overlaps what is denied");
        // What several filters match is one delivery, and it is kept for whoever comes.
        let mut publisher = world.client("publisher").await;
        for topic in &topics[..2] {
            let publish = Publish { retain: true, ..message("t", "x", QoS::AtLeastOnce) };
            publisher.publish(Publish { topic: Some(name(topic)), ..publish }).await;
            assert_eq!(peer.message().await.payload, "x");
        }
        publisher.publish(message(&topics[2], "to nobody", QoS::AtLeastOnce)).await;
        peer.is_quiet().await;
        let mut late = world.client("late").await;
        late.subscribe("a/b/c", qos(1)).await;
        late.subscribe(&filled("", "#"), qos(1)).await;
        assert!(late.message().await.retain);
        late.is_quiet().await;
        // It goes, and its session with all that it has.
        peer.lose().await;
        tokio::time::sleep(61 * SECOND).await;
        for topic in &topics[..2] {
            let publish = Publish { retain: true, ..message("t", "", QoS::AtLeastOnce) };
            publisher.publish(Publish { topic: Some(name(topic)), ..publish }).await;
        }
        late.lose().await;
        publisher.disconnect().await;
    }
    assert_eq!(world.metric(r#"mqgate_subscriptions{kind="normal"}"#), 0.0);
    assert_eq!(world.metric("mqgate_messages_retained"), 0.0);
}
