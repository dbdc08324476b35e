//! Messages both ways: acknowledgements, retransmission, packet ids, flow control, expiry.

use std::num::NonZeroU16;

use mqgate_protocol::limits::{DeniedPublish, Limits};

use crate::play::{play, play_with};

/// [MQTT-2.2.1-5, MQTT-3.3.4-1, MQTT-4.3.2-4, MQTT-4.3.3-8, MQTT-4.3.3-11; MQTT 3.1.1: MQTT-3.3.4-1]
#[test]
fn messages_are_acknowledged_after_they_were_routed() {
    insta::assert_snapshot!(
        play(&["connect c clean", "admit", "publish a", "publish a qos=1 id=7", "publish a qos=2 id=8", "pubrel 8"]),
        @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        publish a => Publish(a)
        publish a qos=1 id=7 => Publish(a), PUBACK 7
        publish a qos=2 id=8 => Publish(a), PUBREC 8
        pubrel 8 => PUBCOMP 8
    "#
    );
    insta::assert_snapshot!(play(&["connect c clean", "admit", "nobody", "publish a qos=1", "publish a qos=2 id=2"]), @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        nobody => nothing
        publish a qos=1 => Publish(a), PUBACK 1 0x10
        publish a qos=2 id=2 => Publish(a), PUBREC 2 0x10
    "#);
    insta::assert_snapshot!(play(&["connect c v3 clean", "admit", "nobody", "publish a qos=1"]), @r#"
        connect c v3 clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0
        nobody => nothing
        publish a qos=1 => Publish(a), PUBACK 1
    "#);
}

/// [MQTT-4.3.3-10]
///
/// [MQTT-4.3.3-12]
#[test]
fn a_repeated_qos_2_message_is_not_routed_twice() {
    insta::assert_snapshot!(
        play(&[
            "connect c expiry=60",
            "admit",
            "publish a qos=2 id=5",
            "publish a qos=2 id=5 dup",
            "lost",
            "again",
            "connect c expiry=60",
            "admit",
            "publish a qos=2 id=5 dup",
            "pubrel 5",
            "pubrel 5",
            "publish a qos=2 id=5",
        ]),
        @r#"
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        publish a qos=2 id=5 => Publish(a), PUBREC 5
        publish a qos=2 id=5 dup => PUBREC 5
        lost => Close(Network 0x80 other session ends in 60s)
        again => nothing
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00 present
        publish a qos=2 id=5 dup => PUBREC 5
        pubrel 5 => PUBCOMP 5
        pubrel 5 => PUBCOMP 5 0x92
        publish a qos=2 id=5 => Publish(a), PUBREC 5
    "#
    );
}

/// [MQTT-4.4.0-1]
///
/// [MQTT-3.3.1-1, MQTT-4.3.3-2, MQTT-4.3.3-4, MQTT-4.3.3-6, MQTT-4.9.0-2]
#[test]
fn what_was_not_acknowledged_is_sent_again_to_a_resumed_session() {
    insta::assert_snapshot!(
        play(&[
            "connect c expiry=60",
            "admit",
            "deliver a qos=1",
            "deliver b qos=2",
            "deliver c qos=2",
            "deliver d qos=1",
            "pubrec 3",
            "puback 4",
            "lost",
            "again",
            "connect c expiry=60 receive-maximum=2",
            "admit",
            "deliver new qos=0",
            "puback 1",
            "pubcomp 3",
            "pubrec 2",
            "pubcomp 2",
            "deliver next qos=1",
        ]),
        @r#"
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        deliver a qos=1 => PUBLISH a qos 1 id 1
        deliver b qos=2 => PUBLISH b qos 2 id 2
        deliver c qos=2 => PUBLISH c qos 2 id 3
        deliver d qos=1 => PUBLISH d qos 1 id 4
        pubrec 3 => PUBREL 3
        puback 4 => nothing
        lost => Close(Network 0x80 other session ends in 60s)
        again => nothing
        connect c expiry=60 receive-maximum=2 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00 present, PUBLISH a qos 1 id 1 dup, PUBLISH b qos 2 id 2 dup
        deliver new qos=0 => PUBLISH new qos 0
        puback 1 => PUBREL 3
        pubcomp 3 => nothing
        pubrec 2 => PUBREL 2
        pubcomp 2 => nothing
        deliver next qos=1 => PUBLISH next qos 1 id 5
    "#
    );
}

/// [MQTT-4.3.3-5; MQTT 3.1.1: MQTT-4.4.0-1, MQTT-4.3.3-1]
#[test]
fn a_pubrel_owed_survives_a_takeover() {
    insta::assert_snapshot!(
        play(&[
            "connect c v3",
            "admit",
            "deliver a qos=2",
            "pubrec 1",
            "close 0x8e",
            "again",
            "connect c v3",
            "admit",
            "deliver b qos=2",
            "pubcomp 1",
        ]),
        @r#"
        connect c v3 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0
        deliver a qos=2 => PUBLISH a qos 2 id 1
        pubrec 1 => PUBREL 1
        close 0x8e => Close(Server 0x8e admin_action session ends in 7200s)
        again => nothing
        connect c v3 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0 present, PUBREL 1
        deliver b qos=2 => PUBLISH b qos 2 id 2
        pubcomp 1 => nothing
    "#
    );
}

/// [MQTT-3.6.2-1, MQTT-3.7.2-1]
#[test]
fn unknown_acknowledgements_are_answered_or_ignored() {
    insta::assert_snapshot!(
        play(&["connect c clean", "admit", "puback 9", "pubrec 9", "pubrec 9 0x92", "pubcomp 9", "pubrel 9"]),
        @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        puback 9 => nothing
        pubrec 9 => PUBREL 9 0x92
        pubrec 9 0x92 => nothing
        pubcomp 9 => nothing
        pubrel 9 => PUBCOMP 9 0x92
    "#
    );
    insta::assert_snapshot!(play(&["connect c v3 clean", "admit", "pubrec 9", "pubrel 9"]), @r#"
        connect c v3 clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0
        pubrec 9 => PUBREL 9
        pubrel 9 => PUBCOMP 9
    "#);
}

/// [MQTT-4.3.3-4]
///
/// [MQTT-4.4.0-2]
#[test]
fn a_refused_qos_2_message_is_finished() {
    insta::assert_snapshot!(
        play(&["connect c clean receive-maximum=1", "admit", "deliver a qos=2", "pubrec 1 0x97", "deliver b qos=2"]),
        @r#"
        connect c clean receive-maximum=1 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        deliver a qos=2 => PUBLISH a qos 2 id 1
        pubrec 1 0x97 => nothing
        deliver b qos=2 => PUBLISH b qos 2 id 2
    "#
    );
}

/// [MQTT-3.3.4-7]
#[test]
fn a_client_that_sends_more_than_we_take_is_dismissed() {
    let limits = Limits { receive_maximum: NonZeroU16::new(2).unwrap(), ..Limits::default() };
    insta::assert_snapshot!(
        play_with(limits, &[
            "connect c clean",
            "admit",
            "publish a qos=2 id=1",
            "publish a qos=2 id=2",
            "publish a qos=2 id=2 dup",
            "publish a qos=2 id=3",
        ]),
        @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        publish a qos=2 id=1 => Publish(a), PUBREC 1
        publish a qos=2 id=2 => Publish(a), PUBREC 2
        publish a qos=2 id=2 dup => PUBREC 2
        publish a qos=2 id=3 => DISCONNECT 0x93, Close(Server 0x93 protocol_error session ends in 0s)
    "#
    );
}

/// [MQTT-3.3.2-9, MQTT-3.3.2-12, MQTT-3.2.2-17]
#[test]
fn aliases_stand_for_topics() {
    insta::assert_snapshot!(
        play(&[
            "connect c clean",
            "admit +a/#",
            "publish a/b alias=1",
            "publish aliased alias=1",
            "publish a/c alias=1",
            "publish aliased alias=1",
            "publish secret alias=2",
            "publish aliased alias=2",
            "publish aliased alias=3",
        ]),
        @r#"
        connect c clean => Authorize("c")
        admit +a/# => OpenSession(c clean), Connected, CONNACK 0x00
        publish a/b alias=1 => Publish(a/b)
        publish aliased alias=1 => Publish(a/b)
        publish a/c alias=1 => Publish(a/c)
        publish aliased alias=1 => Publish(a/c)
        publish secret alias=2 => Denied(Publish secret)
        publish aliased alias=2 => Denied(Publish secret)
        publish aliased alias=3 => DISCONNECT 0x82, Close(Server 0x82 protocol_error session ends in 0s)
    "#
    );
    insta::assert_snapshot!(play(&["connect c clean", "admit", "publish a alias=65"]), @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        publish a alias=65 => DISCONNECT 0x94, Close(Server 0x94 protocol_error session ends in 0s)
    "#);
}

/// [MQTT-3.4.2-1, MQTT-3.5.2-1; MQTT 3.1.1: MQTT-3.3.5-2]
#[test]
fn what_the_permit_does_not_cover_goes_nowhere() {
    insta::assert_snapshot!(
        play(&[
            "connect c clean",
            "admit +mine/#",
            "publish other",
            "publish other qos=1 id=1",
            "publish other qos=2 id=2",
            "publish mine/a qos=1 id=3",
        ]),
        @r#"
        connect c clean => Authorize("c")
        admit +mine/# => OpenSession(c clean), Connected, CONNACK 0x00
        publish other => Denied(Publish other)
        publish other qos=1 id=1 => Denied(Publish other), PUBACK 1 0x87
        publish other qos=2 id=2 => Denied(Publish other), PUBREC 2 0x87
        publish mine/a qos=1 id=3 => Publish(mine/a), PUBACK 3
    "#
    );
    let old = [
        "connect c v3 clean",
        "admit +mine/#",
        "publish other qos=1",
        "publish other qos=2 id=2",
        "pubrel 2",
    ];
    insta::assert_snapshot!(play(&old), @r#"
        connect c v3 clean => Authorize("c")
        admit +mine/# => OpenSession(c clean), Connected, CONNACK 0
        publish other qos=1 => Denied(Publish other), PUBACK 1
        publish other qos=2 id=2 => Denied(Publish other), PUBREC 2
        pubrel 2 => PUBCOMP 2
    "#);
    let strict = Limits { denied_publish: DeniedPublish::Disconnect, ..Limits::default() };
    insta::assert_snapshot!(play_with(strict, &old[..3]), @r#"
        connect c v3 clean => Authorize("c")
        admit +mine/# => OpenSession(c clean), Connected, CONNACK 0
        publish other qos=1 => Denied(Publish other), Close(Server 0x87 acl_denied session ends in 0s)
    "#);
}

/// [MQTT-3.2.2-11, MQTT-3.2.2-14]
#[test]
fn a_client_above_the_granted_qos_is_dismissed() {
    insta::assert_snapshot!(play(&["connect c clean", "admit +# qos=1", "publish a qos=2"]), @r#"
        connect c clean => Authorize("c")
        admit +# qos=1 => OpenSession(c clean), Connected, CONNACK 0x00 qos=1
        publish a qos=2 => DISCONNECT 0x9b, Close(Server 0x9b protocol_error session ends in 0s)
    "#);
    let limits = Limits { retain_available: false, ..Limits::default() };
    insta::assert_snapshot!(play_with(limits, &["connect c clean", "admit", "publish a retain"]), @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00 retain=false
        publish a retain => DISCONNECT 0x9a, Close(Server 0x9a protocol_error session ends in 0s)
    "#);
}

/// [MQTT-3.3.2-5, MQTT-3.3.2-6]
#[test]
fn expired_messages_are_dropped_and_others_count_down() {
    insta::assert_snapshot!(
        play(&["connect c expiry=60", "admit", "deliver a qos=1 expiry=10", "deliver b expiry=0", "wait 4.5", "lost", "again", "connect c", "admit"]),
        @r#"
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        deliver a qos=1 expiry=10 => PUBLISH a qos 1 id 1 expires in 10s
        deliver b expiry=0 => Dropped(expired)
        wait 4.5 => nothing
        lost => Close(Network 0x80 other session ends in 60s)
        again => nothing
        connect c => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00 present, PUBLISH a qos 1 id 1 dup expires in 6s
    "#
    );
}

#[test]
fn a_fast_client_is_not_read_for_a_while() {
    insta::assert_snapshot!(
        play(&["connect c clean keep-alive=1", "admit +# rate=1", "publish a", "publish a", "publish a", "wait 1", "ping"]),
        @r#"
        connect c clean keep-alive=1 => Authorize("c")
        admit +# rate=1 => OpenSession(c clean), Connected, CONNACK 0x00
        publish a => Publish(a)
        publish a => Limited(Messages), Publish(a)
        publish a => not read
        wait 1 => nothing
        ping => PINGRESP
    "#
    );
}

#[test]
fn a_client_that_is_not_read_is_not_silent() {
    insta::assert_snapshot!(
        play(&["connect c clean keep-alive=1", "admit bytes=1", "publish ten-bytes", "wait 5", "ping", "wait 4", "ping", "wait 1", "wait 1"]),
        @r#"
        connect c clean keep-alive=1 => Authorize("c")
        admit bytes=1 => OpenSession(c clean), Connected, CONNACK 0x00
        publish ten-bytes => Limited(Bytes), Publish(ten-bytes)
        wait 5 => nothing
        ping => not read
        wait 4 => nothing
        ping => PINGRESP
        wait 1 => nothing
        wait 1 => DISCONNECT 0x8d, Close(Server 0x8d keep_alive_timeout session ends in 0s)
    "#
    );
}

/// MQTT 3.1.1 has no Receive Maximum; in 5.0 it counts what this connection brought.
#[test]
fn the_receive_maximum_counts_where_it_was_told() {
    let limits = || Limits { receive_maximum: NonZeroU16::new(2).unwrap(), ..Limits::default() };
    let publishes = ["publish a qos=2 id=1", "publish a qos=2 id=2", "publish a qos=2 id=3"];
    let old = [&["connect c v3 clean", "admit"], &publishes[..]].concat();
    assert!(!play_with(limits(), &old).contains("Close"));
    let mut resumed = vec!["connect c expiry=60", "admit", publishes[0], publishes[1], "lost", "again"];
    resumed.extend(["connect c expiry=60", "admit", publishes[2], "publish a qos=2 id=1 dup", "pubrel 2"]);
    assert!(!play_with(limits(), &resumed).contains("0x93"));
    resumed.push("publish a qos=2 id=4");
    assert!(play_with(limits(), &resumed).ends_with(
        "publish a qos=2 id=4 => DISCONNECT 0x93, Close(Server 0x93 protocol_error session ends in 60s)\n"
    ));
}

#[test]
fn a_narrower_permit_narrows_rate_and_qos_and_takes_the_will() {
    let story = play(&["connect c clean will=gone", "admit", "reauthorize +a", "lost"]);
    assert!(story.contains("reauthorize +a => Denied(Will gone)\n"), "{story}");
    assert!(!story.contains("will gone in"), "{story}");
    let story = play(&["connect c clean", "admit", "reauthorize rate=1", "publish a", "publish a"]);
    assert!(story.ends_with("publish a => Limited(Messages), Publish(a)\n"), "{story}");
    let story = play(&["connect c clean", "admit", "reauthorize qos=0", "publish a qos=1 id=1"]);
    assert!(story.contains("DISCONNECT 0x9b"), "{story}");
}

/// Who is not authorized any more does not publish any more.
#[test]
fn a_barred_client_has_no_will() {
    let story = |end| play(&["connect c clean will=gone", "admit", end]);
    assert!(story("close 98").contains("will gone in 0s"));
    assert!(!story("revoke").contains("will gone in 0s"));
}
