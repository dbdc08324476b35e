//! Subscriptions: what is granted, what is refused, retained messages, permits that change.

use mqgate_protocol::limits::Limits;

use crate::play::{play, play_with};

/// [MQTT-2.2.1-6, MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-3.8.4-5, MQTT-3.8.4-6, MQTT-3.8.4-7, MQTT-3.9.3-1,
/// MQTT-3.10.4-4, MQTT-3.10.4-5, MQTT-3.10.4-6, MQTT-3.11.3-1; MQTT 3.1.1: MQTT-3.8.4-5, MQTT-3.9.3-1,
/// MQTT-3.9.3-2]
#[test]
fn each_filter_gets_its_answer() {
    insta::assert_snapshot!(
        play(&[
            "connect c clean",
            "admit -mine/secret,+mine/#",
            "subscribe mine/a other/# mine/# $share/g/mine/b qos=2",
            "unsubscribe mine/a other/#",
        ]),
        @r#"
        connect c clean => Authorize("c")
        admit -mine/secret,+mine/# => OpenSession(c clean), Connected, CONNACK 0x00
        subscribe mine/a other/# mine/# $share/g/mine/b qos=2 => Denied(Subscribe other/#), Denied(Subscribe mine/#), Subscribe(mine/a qos 2 with retained, $share/g/mine/b qos 2), SUBACK 1 0x02 0x87 0x87 0x02
        unsubscribe mine/a other/# => Unsubscribe(mine/a), UNSUBACK 1 0x00 0x11
    "#
    );
    insta::assert_snapshot!(
        play(&["connect c v3 clean", "admit +mine/#", "subscribe mine/a other/# qos=1"]),
        @r#"
        connect c v3 clean => Authorize("c")
        admit +mine/# => OpenSession(c clean), Connected, CONNACK 0
        subscribe mine/a other/# qos=1 => Denied(Subscribe other/#), Subscribe(mine/a qos 1 with retained), SUBACK 1 0x01 0x80
    "#
    );
}

#[test]
fn the_number_of_subscriptions_is_bounded() {
    insta::assert_snapshot!(
        play(&["connect c clean", "admit +# subscriptions=2", "subscribe a b c", "subscribe a", "unsubscribe a", "subscribe c"]),
        @r#"
        connect c clean => Authorize("c")
        admit +# subscriptions=2 => OpenSession(c clean), Connected, CONNACK 0x00
        subscribe a b c => Subscribe(a qos 0 with retained, b qos 0 with retained), SUBACK 1 0x00 0x00 0x97
        subscribe a => Subscribe(a qos 0 with retained), SUBACK 1 0x00
        unsubscribe a => Unsubscribe(a), UNSUBACK 1 0x00
        subscribe c => Subscribe(c qos 0 with retained), SUBACK 1 0x00
    "#
    );
}

/// [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11]
///
/// [MQTT-3.8.4-4]
#[test]
fn retained_messages_are_sent_as_asked() {
    insta::assert_snapshot!(
        play(&[
            "connect c clean",
            "admit",
            "subscribe a $share/g/a",
            "subscribe a",
            "subscribe a b handling=1",
            "subscribe a handling=2",
        ]),
        @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        subscribe a $share/g/a => Subscribe(a qos 0 with retained, $share/g/a qos 0), SUBACK 1 0x00 0x00
        subscribe a => Subscribe(a qos 0 with retained), SUBACK 1 0x00
        subscribe a b handling=1 => Subscribe(a qos 0, b qos 0 with retained), SUBACK 1 0x00 0x00
        subscribe a handling=2 => Subscribe(a qos 0), SUBACK 1 0x00
    "#
    );
}

#[test]
fn retained_messages_wait_for_their_turn() {
    insta::assert_snapshot!(
        play(&["connect c clean receive-maximum=1", "admit", "retained a b c qos=1", "puback 1", "puback 2", "puback 3"]),
        @r#"
        connect c clean receive-maximum=1 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        retained a b c qos=1 => PUBLISH a qos 1 id 1 retain
        puback 1 => PUBLISH b qos 1 id 2 retain
        puback 2 => PUBLISH c qos 1 id 3 retain
        puback 3 => nothing
    "#
    );
}

#[test]
fn a_permit_that_is_over_is_asked_about() {
    let kept = [
        "connect c clean",
        "admit valid-for=60",
        "wait 59",
        "publish a",
        "wait 1",
        "wait 600",
        "kept",
        "wait 59",
        "wait 1",
    ];
    insta::assert_snapshot!(play(&kept), @r#"
        connect c clean => Authorize("c")
        admit valid-for=60 => OpenSession(c clean), Connected, CONNACK 0x00
        wait 59 => nothing
        publish a => Publish(a)
        wait 1 => Reauthorize
        wait 600 => nothing
        kept => nothing
        wait 59 => nothing
        wait 1 => Reauthorize
    "#);
    // Nobody could be asked: that is tried again soon, however long the permit was for.
    let long = ["connect c clean", "admit valid-for=300", "wait 10", "wait 290", "kept", "wait 59", "wait 1"];
    let last = play(&long);
    assert!(last.trim_end().ends_with("wait 59 => nothing\nwait 1 => Reauthorize"), "{last}");
    // The clock of a new permit starts with it, also when nobody waited for it.
    let replaced = [
        "connect c clean",
        "admit valid-for=60",
        "wait 50",
        "reauthorize +# valid-for=20",
        "wait 19",
        "wait 1",
        "reauthorize",
        "wait 600",
    ];
    insta::assert_snapshot!(play(&replaced), @r#"
        connect c clean => Authorize("c")
        admit valid-for=60 => OpenSession(c clean), Connected, CONNACK 0x00
        wait 50 => nothing
        reauthorize +# valid-for=20 => nothing
        wait 19 => nothing
        wait 1 => Reauthorize
        reauthorize => nothing
        wait 600 => nothing
    "#);
    insta::assert_snapshot!(play(&["connect c clean", "admit valid-for=0", "wait 0.9", "wait 0.1"]), @r#"
        connect c clean => Authorize("c")
        admit valid-for=0 => OpenSession(c clean), Connected, CONNACK 0x00
        wait 0.9 => nothing
        wait 0.1 => Reauthorize
    "#);
    // Neither silence nor haste changes when it is over.
    let busy = [
        "connect c clean keep-alive=4",
        "admit bytes=1 valid-for=5",
        "publish ten-bytes",
        "wait 5",
        "kept",
        "wait 4",
        "wait 1",
        "wait 5",
    ];
    insta::assert_snapshot!(play(&busy), @r#"
        connect c clean keep-alive=4 => Authorize("c")
        admit bytes=1 valid-for=5 => OpenSession(c clean), Connected, CONNACK 0x00
        publish ten-bytes => Limited(Bytes), Publish(ten-bytes)
        wait 5 => Reauthorize
        kept => nothing
        wait 4 => nothing
        wait 1 => Reauthorize
        wait 5 => DISCONNECT 0x8d, Close(Server 0x8d keep_alive_timeout session ends in 0s)
    "#);
    // A client that is never quiet is asked about all the same, once.
    let storm = [
        "connect c clean",
        "admit valid-for=60",
        "late 60",
        "publish a",
        "deliver b",
        "wait 1",
        "reauthorize +a valid-for=60",
        "late 60",
        "deliver a",
    ];
    insta::assert_snapshot!(play(&storm), @r#"
        connect c clean => Authorize("c")
        admit valid-for=60 => OpenSession(c clean), Connected, CONNACK 0x00
        late 60 => nothing
        publish a => Publish(a), Reauthorize
        deliver b => PUBLISH b qos 0
        wait 1 => nothing
        reauthorize +a valid-for=60 => nothing
        late 60 => nothing
        deliver a => PUBLISH a qos 0, Reauthorize
    "#);
}

#[test]
fn a_narrower_permit_ends_what_it_does_not_cover() {
    insta::assert_snapshot!(
        play(&["connect c clean", "admit", "subscribe a b qos=1", "reauthorize +a", "publish b"]),
        @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        subscribe a b qos=1 => Subscribe(a qos 1 with retained, b qos 1 with retained), SUBACK 1 0x01 0x01
        reauthorize +a => Denied(Subscribe b), Unsubscribe(b)
        publish b => Denied(Publish b)
    "#
    );
    insta::assert_snapshot!(
        play(&["connect c expiry=60", "admit", "subscribe a b", "lost", "again", "connect c", "admit +b"]),
        @r#"
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        subscribe a b => Subscribe(a qos 0 with retained, b qos 0 with retained), SUBACK 1 0x00 0x00
        lost => Close(Network 0x80 other session ends in 60s)
        again => nothing
        connect c => Authorize("c")
        admit +b => OpenSession(c), Connected, CONNACK 0x00 present, Denied(Subscribe a), Unsubscribe(a)
    "#
    );
}

#[test]
fn the_bytes_of_filters_are_bounded() {
    let limits = Limits { filter_bytes_per_session: 10, ..Limits::default() };
    let story = play_with(
        limits,
        &[
            "connect c clean",
            "admit",
            "subscribe 12345678",
            "subscribe abc",
            "subscribe 12345678",
            "subscribe ab",
        ],
    );
    let refused: Vec<_> = story.lines().map(|line| line.contains("0x97") || line.contains("151")).collect();
    assert_eq!(refused, [false, false, false, true, false, false], "{story}");
}

#[test]
fn a_filter_that_is_named_twice_gets_its_retained_messages_once() {
    let story = play(&["connect c clean", "admit", "subscribe a a b a"]);
    assert_eq!(story.matches("with retained").count(), 2, "{story}");
}
