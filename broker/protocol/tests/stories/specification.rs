//! Statements of the specifications about one connection, each with what happens line by line.

use std::num::NonZeroU16;
use std::sync::Arc;

use mqgate_codec::QoS;
use mqgate_protocol::limits::Limits;

use crate::play::{play, play_with};

/// What the last line of a story came to.
fn last(lines: &[&str]) -> String {
    last_with(Limits::default(), lines)
}

fn last_with(limits: Limits, lines: &[&str]) -> String {
    let story = play_with(limits, lines);
    let line = story.lines().last().unwrap_or_default();
    line.split_once(" => ").map(|(_, effects)| effects.to_owned()).unwrap_or(story)
}

/// A story of MQTT 5.0 and the same one of 3.1.1.
fn both(connect: &str, rest: &[&str]) -> [String; 2] {
    ["", " v3"].map(|version| {
        let connect = format!("{connect}{version}");
        last(&[&[connect.as_str()], rest].concat())
    })
}

/// [MQTT-3.1.3-5; MQTT 3.1.1: MQTT-3.1.3-5, MQTT-3.1.4-4, MQTT-3.2.0-1]
#[test]
fn every_plain_client_id_is_accepted() {
    for id in ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ", "ünïcödé/+#"]
    {
        let accepted = both(&format!("connect {id} clean"), &["admit"]);
        let expected = |code: &str| format!("OpenSession({id} clean), Connected, CONNACK {code}");
        assert_eq!(accepted, [expected("0x00"), expected("0")]);
    }
    let short = || Limits { client_id_length: 5, ..Limits::default() };
    // [MQTT-3.1.3-8; MQTT 3.1.1: MQTT-3.1.3-9]
    assert_eq!(
        last_with(short(), &["connect sixsix clean"]),
        "CONNACK 0x85, Close(Server 0x85 clientid_invalid)"
    );
    assert_eq!(
        last_with(short(), &["connect sixsix clean v3"]),
        "CONNACK 2, Close(Server 0x85 clientid_invalid)"
    );
}

/// [MQTT-3.1.3-6; MQTT 3.1.1: MQTT-3.1.3-6]
#[test]
fn a_client_without_an_id_gets_one_and_goes_on_with_it() {
    assert_eq!(
        both("connect nameless clean", &["admit"]),
        [
            "OpenSession(auto-1 clean), Connected, CONNACK 0x00 id=auto-1",
            "OpenSession(auto-1 clean), Connected, CONNACK 0"
        ]
    );
}

/// [MQTT-3.1.0-2; MQTT 3.1.1: MQTT-3.1.0-2, MQTT-4.8.0-1, MQTT-2.2.2-2]
#[test]
fn violations_close_the_connection() {
    for (line, code, reason) in [
        ("connect c clean", "0x82", "protocol_error"),
        ("malformed", "0x81", "malformed_packet"),
        ("auth", "0x82", "protocol_error"),
    ] {
        let end = format!("Close(Server {code} {reason} session ends in 0s)");
        let expected = [format!("DISCONNECT {code}, {end}"), end];
        assert_eq!(both("connect c clean", &["admit", line]), expected, "{line}");
    }
    let connect = |line: &str| play(&["connect c clean", "admit", line, "publish a", "ping"]);
    assert!(connect("malformed").ends_with("publish a => not read\nping => not read\n"), "nothing follows");
}

/// [MQTT-3.1.4-6; MQTT 3.1.1: MQTT-3.1.4-5]
#[test]
fn a_refused_client_is_not_heard() {
    for connect in ["connect c clean", "connect c clean v3"] {
        for refusal in ["deny 0x87", "close 0x98"] {
            let story = play(&[connect, refusal, "publish a", "subscribe a", "lost"]);
            assert!(
                story.ends_with("publish a => not read\nsubscribe a => not read\nlost => nothing\n"),
                "{story}"
            );
        }
    }
}

/// [MQTT-3.12.4-1, MQTT-3.3.4-10, MQTT-4.9.0-3; MQTT 3.1.1: MQTT-3.12.4-1]
#[test]
fn other_packets_are_answered_without_quota() {
    let story = play(&[
        "connect c clean receive-maximum=1",
        "admit",
        "deliver a qos=1",
        "ping",
        "subscribe b",
        "unsubscribe b",
        "publish c qos=1 id=9",
        "publish c qos=2 id=8",
        "pubrel 8",
        "pubrec 77",
    ]);
    for line in [
        "deliver a qos=1 => PUBLISH a qos 1 id 1",
        "ping => PINGRESP",
        "subscribe b => Subscribe(b qos 0 with retained), SUBACK 1 0x00",
        "unsubscribe b => Unsubscribe(b), UNSUBACK 1 0x00",
        "publish c qos=1 id=9 => Publish(c), PUBACK 9",
        "publish c qos=2 id=8 => Publish(c), PUBREC 8",
        "pubrel 8 => PUBCOMP 8",
        "pubrec 77 => PUBREL 77 0x92",
    ] {
        assert!(story.contains(&format!("{line}\n")), "{line} in\n{story}");
    }
    assert_eq!(both("connect c clean", &["admit", "ping"]), ["PINGRESP", "PINGRESP"]);
}

/// [MQTT-3.2.2-10]
#[test]
fn a_subscription_may_ask_for_more_than_may_be_published() {
    let limits = Limits { maximum_qos: QoS::AtMostOnce, ..Limits::default() };
    assert_eq!(
        last_with(limits, &["connect c clean", "admit", "subscribe a qos=2"]),
        "Subscribe(a qos 2 with retained), SUBACK 1 0x02"
    );
}

/// [MQTT-4.3.2-5; MQTT 3.1.1: MQTT-4.3.2-2]
#[test]
fn an_identifier_is_free_once_its_message_was_acknowledged() {
    let twice = ["admit", "publish a qos=1 id=7", "publish a qos=1 id=7 dup"];
    assert_eq!(both("connect c clean", &twice), ["Publish(a), PUBACK 7", "Publish(a), PUBACK 7"]);
}

/// [MQTT-4.3.3-10, MQTT-4.3.3-11, MQTT-4.3.3-12; MQTT 3.1.1: MQTT-4.3.3-2, MQTT-2.3.1-6]
#[test]
fn a_qos_2_message_is_taken_once_until_it_was_released() {
    let once = ["admit", "publish a qos=2 id=7"];
    let again = [&once[..], &["publish a qos=2 id=7 dup"]].concat();
    let released = [&again[..], &["pubrel 7"]].concat();
    let after = [&released[..], &["publish b qos=2 id=7"]].concat();
    assert_eq!(both("connect c clean", &once), ["Publish(a), PUBREC 7", "Publish(a), PUBREC 7"]);
    assert_eq!(both("connect c clean", &again), ["PUBREC 7", "PUBREC 7"]);
    assert_eq!(both("connect c clean", &released), ["PUBCOMP 7", "PUBCOMP 7"]);
    assert_eq!(both("connect c clean", &after), ["Publish(b), PUBREC 7", "Publish(b), PUBREC 7"]);
}

/// [MQTT-4.3.3-9]
#[test]
fn a_refused_qos_2_message_leaves_its_identifier_free() {
    let story = play(&[
        "connect c clean",
        "admit +mine/#",
        "publish other qos=2 id=7",
        "publish mine/a qos=2 id=7",
        "publish mine/a qos=2 id=7 dup",
    ]);
    assert!(
        story.ends_with(
            "publish other qos=2 id=7 => Denied(Publish other), PUBREC 7 0x87\n\
             publish mine/a qos=2 id=7 => Publish(mine/a), PUBREC 7\n\
             publish mine/a qos=2 id=7 dup => PUBREC 7\n"
        ),
        "{story}"
    );
}

/// [MQTT-4.3.3-4, MQTT-4.3.3-5, MQTT-2.2.1-5; MQTT 3.1.1: MQTT-4.3.3-1, MQTT-4.6.0-4]
#[test]
fn pubrec_is_answered_by_pubrel_in_its_order() {
    let rest = ["admit", "deliver a qos=2", "deliver b qos=2", "deliver c qos=2"];
    for connect in ["connect c clean", "connect c clean v3"] {
        let story =
            play(&[&[connect], &rest[..], &["pubrec 2", "pubrec 1", "pubrec 3", "pubcomp 1"]].concat());
        assert!(
            story.ends_with(
                "pubrec 2 => PUBREL 2\npubrec 1 => PUBREL 1\npubrec 3 => PUBREL 3\npubcomp 1 => nothing\n"
            ),
            "{story}"
        );
    }
}

/// [MQTT-4.3.2-1, MQTT-4.3.2-2, MQTT-4.3.2-3, MQTT-4.3.3-1, MQTT-4.3.3-2, MQTT-4.3.3-3, MQTT-4.3.1-1, MQTT-3.3.1-2;
/// MQTT 3.1.1: MQTT-2.3.1-4, MQTT-3.3.1-1, MQTT-3.3.1-2, MQTT-4.3.1-1, MQTT-4.3.2-1, MQTT-4.3.3-1, MQTT-4.6.0-1]
#[test]
fn dup_and_identifiers_belong_to_what_is_sent_again() {
    for version in ["", " v3"] {
        let connect = format!("connect c expiry=60{version}");
        let story = play(&[
            &connect,
            "admit",
            "deliver a",
            "deliver b qos=1",
            "deliver c qos=2",
            "puback 1",
            "deliver d qos=1",
            "lost",
            "again",
            &connect,
            "admit",
            "deliver e qos=1",
            "pubrec 2",
            "lost",
            "again",
            &connect,
            "admit",
        ]);
        for line in [
            "deliver a => PUBLISH a qos 0\n",
            "deliver b qos=1 => PUBLISH b qos 1 id 1\n",
            "deliver c qos=2 => PUBLISH c qos 2 id 2\n",
            "puback 1 => nothing\n",
            "deliver d qos=1 => PUBLISH d qos 1 id 3\n",
            "present, PUBLISH c qos 2 id 2 dup, PUBLISH d qos 1 id 3 dup\n",
            "deliver e qos=1 => PUBLISH e qos 1 id 4\n",
            "present, PUBREL 2, PUBLISH d qos 1 id 3 dup, PUBLISH e qos 1 id 4 dup\n",
        ] {
            assert!(story.contains(line), "{line} in\n{story}");
        }
    }
}

/// [MQTT-4.3.3-7, MQTT-4.3.3-13, MQTT-3.3.2-5]
#[test]
fn what_was_sent_does_not_expire() {
    let story = play(&[
        "connect c expiry=600",
        "admit",
        "deliver a qos=2 expiry=10",
        "wait 20",
        "deliver late qos=2 expiry=0",
        "lost",
        "again",
        "connect c expiry=600",
        "admit",
        "pubrec 1",
        "pubcomp 1",
    ]);
    for line in [
        "deliver late qos=2 expiry=0 => Dropped(expired)\n",
        "present, PUBLISH a qos 2 id 1 dup expires in 0s\n",
        "pubrec 1 => PUBREL 1\n",
        "pubcomp 1 => nothing\n",
    ] {
        assert!(story.contains(line), "{line} in\n{story}");
    }
}

/// [MQTT-4.4.0-1; MQTT 3.1.1: MQTT-4.4.0-1]
#[test]
fn nothing_is_sent_again_on_the_same_connection() {
    let story =
        play(&["connect c v3 keep-alive=0", "admit", "deliver a qos=1", "wait 3600", "ping", "wait 3600"]);
    assert_eq!(story.matches("PUBLISH a").count(), 1, "{story}");
}

/// [MQTT-4.4.0-2, MQTT-4.8.2-6]
#[test]
fn a_message_that_was_refused_is_done() {
    for (qos, refusal) in [("qos=1", "puback 1 0x83"), ("qos=2", "pubrec 1 0x83")] {
        let deliver = format!("deliver a {qos}");
        let story = play(&[
            "connect c expiry=60 receive-maximum=1",
            "admit",
            &deliver,
            refusal,
            "deliver b qos=1",
            "lost",
            "again",
            "connect c expiry=60",
            "admit",
        ]);
        assert!(story.contains(&format!("{refusal} => nothing\n")), "{story}");
        assert!(story.contains("deliver b qos=1 => PUBLISH b qos 1 id 2\n"), "the quota is free\n{story}");
        assert!(story.ends_with("present, PUBLISH b qos 1 id 2 dup\n"), "{story}");
    }
}

/// [MQTT-3.1.2-26, MQTT-3.1.2-27, MQTT-3.3.2-7, MQTT-3.3.2-8, MQTT-3.3.2-11]
#[test]
fn aliases_are_set_for_who_takes_them() {
    let story = play(&[
        "connect c expiry=60 aliases=2",
        "admit",
        "deliver a",
        "deliver b",
        "deliver a",
        "deliver c qos=1",
        "deliver b",
        "lost",
        "again",
        "connect c expiry=60 aliases=1",
        "admit",
        "deliver a",
        "lost",
        "again",
        "connect c expiry=60",
        "admit",
        "deliver a",
    ]);
    let sent: Vec<_> = story.lines().flat_map(|line| line.split("PUBLISH ").skip(1)).collect();
    assert_eq!(
        sent,
        [
            "a qos 0 alias 1 new",
            "b qos 0 alias 2 new",
            "a qos 0 alias 1",
            "c qos 1 id 1 alias 2 new",
            "b qos 0 alias 1 new",
            "c qos 1 id 1 alias 1 new dup",
            "a qos 0 alias 1 new",
            "c qos 1 id 1 dup",
            "a qos 0",
        ]
    );
    // What may not fit sets no alias that the client would not hear of; an older client has none.
    let large = ["connect c clean aliases=2 maximum=200", "admit", "deliver a size=150"];
    assert_eq!(last(&large), "PUBLISH a qos 0");
    assert_eq!(last(&["connect c clean v3", "admit", "deliver a"]), "PUBLISH a qos 0");
    let none = Limits { topic_aliases_to_client: 0, ..Limits::default() };
    assert_eq!(last_with(none, &["connect c clean aliases=9", "admit", "deliver a"]), "PUBLISH a qos 0");
}

/// [MQTT-3.3.2-7, MQTT-3.3.2-12, MQTT-3.2.2-18]
#[test]
fn aliases_of_a_client_end_with_its_connection() {
    let story = [
        "connect c expiry=60",
        "admit",
        "publish a alias=64",
        "publish aliased alias=64",
        "lost",
        "again",
        "connect c expiry=60",
        "admit",
        "publish aliased alias=64",
    ];
    assert!(play(&story).contains("publish aliased alias=64 => Publish(a)\n"));
    assert!(last(&story).starts_with("DISCONNECT 0x82"));
    let none = Limits { topic_alias_maximum: 0, ..Limits::default() };
    assert!(
        last_with(none, &["connect c clean", "admit", "publish a alias=1"]).starts_with("DISCONNECT 0x94")
    );
}

/// [MQTT-3.1.2-28]
#[test]
fn response_information_is_for_who_asks() {
    let tells =
        || Limits { response_information: Some("r/${device-id}/${client-id}".into()), ..Limits::default() };
    let told = |connect: &str| last_with(tells(), &[connect, "admit"]);
    assert!(told("connect c clean response-info").ends_with("CONNACK 0x00 answers=r/device/c"));
    for connect in ["connect c clean", "connect c clean no-response-info", "connect c clean v3 response-info"]
    {
        assert!(!told(connect).contains("answers"), "{connect}");
    }
    assert!(!last(&["connect c clean response-info", "admit"]).contains("answers"));
}

/// A payload that is said to be text is looked at where that was asked for. [MQTT 5.0, 3.3.2.3.2]
#[test]
fn payloads_are_what_they_are_said_to_be() {
    let checks = || Limits { payload_format_check: true, ..Limits::default() };
    let of = |line: &str| last_with(checks(), &["connect c clean", "admit", line]);
    assert_eq!(of("publish a text"), "Publish(a)");
    assert_eq!(of("publish a not-text qos=1"), "PUBACK 1 0x99");
    assert_eq!(of("publish a not-text qos=2"), "PUBREC 1 0x99");
    assert!(of("publish a not-text").starts_with("DISCONNECT 0x99, Close(Server 0x99"));
    let will = ["connect c clean will=w will-not-text"];
    assert!(last_with(checks(), &will).starts_with("CONNACK 0x99, Close"));
    assert_eq!(last(&["connect c clean", "admit", "publish a not-text"]), "Publish(a)");
    assert_eq!(last(&will), "Authorize(\"c\")");
}

/// MQTT 3.1 is an option.
#[test]
fn mqtt_3_1_is_spoken_where_it_may() {
    assert_eq!(last(&["connect c clean v31", "admit"]), "OpenSession(c clean), Connected, CONNACK 0");
    let refuses = Limits { mqtt_3_1: false, ..Limits::default() };
    assert_eq!(
        last_with(refuses, &["connect c clean v31"]),
        "CONNACK 1, Close(Server 0x84 unsupported_protocol_version)"
    );
}

/// [MQTT-3.1.2-24, MQTT-3.14.2-3, MQTT-3.2.2-19]
#[test]
fn no_word_is_larger_than_the_client_takes() {
    // CONNACK takes 5 bytes, and what it has to tell 11 more.
    assert!(last(&["connect c clean maximum=16", "admit"]).ends_with("CONNACK 0x00"));
    let end = "Connected, Close(Server 0x95 packet_too_large session ends in 0s)";
    assert_eq!(last(&["connect c clean maximum=15", "admit"]), format!("OpenSession(c clean), {end}"));
    let short = || Limits { client_id_length: 5, ..Limits::default() };
    assert!(last_with(short(), &["connect sixsix clean maximum=5"]).starts_with("CONNACK 0x85"));
    assert!(last_with(short(), &["connect sixsix clean maximum=4"]).starts_with("Close"));
    let dismissed = ["connect c clean maximum=16", "admit", "publish aliased alias=1"];
    assert!(last(&dismissed).starts_with("DISCONNECT 0x82, Close"));
    // SUBACK of 12 filters takes 17 bytes.
    let many = ["connect c clean maximum=16", "admit", "subscribe a b c d e f g h i j k l"];
    assert!(!last(&many).contains("SUBACK"));
    assert!(
        last(&["connect c clean maximum=16", "admit", "subscribe a b c d e f g h i j k"]).contains("SUBACK")
    );
}

/// [MQTT-3.14.2-1, MQTT-4.13.2-1]
#[test]
fn who_is_sent_away_hears_where_to() {
    let elsewhere = || Limits { server_reference: Some(Arc::from("b:8883")), ..Limits::default() };
    let end = |line: &str| last_with(elsewhere(), &["connect c clean", "admit", line]);
    assert!(end("close 0x9c").starts_with("DISCONNECT 0x9c to b:8883, Close(Server 0x9c"));
    assert!(end("close 0x9d").starts_with("DISCONNECT 0x9d to b:8883, Close(Server 0x9d"));
    assert!(end("close 0x98").starts_with("DISCONNECT 0x98, Close(Server 0x98"));
    // DISCONNECT has no word for these.
    assert!(end("close 0x8c").starts_with("DISCONNECT 0x87, Close(Server 0x8c"));
    assert!(end("close 0x88").starts_with("DISCONNECT 0x89, Close(Server 0x88"));
}

/// [MQTT-3.14.4-3, MQTT-3.1.2-10; MQTT 3.1.1: MQTT-3.14.4-3, MQTT-3.1.2-10, MQTT-3.1.2-12]
#[test]
fn a_normal_disconnect_takes_the_will_back() {
    for end in both("connect c clean will=gone", &["admit", "disconnect"]) {
        assert_eq!(end, "Close(Client 0x00 ok session ends in 0s)");
    }
    for end in both("connect c clean will=gone", &["admit", "lost"]) {
        assert_eq!(end, "Close(Network 0x80 other will gone in 0s session ends in 0s)");
    }
    for end in both("connect c clean", &["admit", "lost"]) {
        assert_eq!(end, "Close(Network 0x80 other session ends in 0s)");
    }
}

/// [MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-3.10.4-4, MQTT-3.10.4-5, MQTT-2.2.1-6; MQTT 3.1.1: MQTT-2.3.1-7, MQTT-3.8.4-1,
/// MQTT-3.8.4-2, MQTT-3.8.4-4, MQTT-3.8.4-5, MQTT-3.9.3-1, MQTT-3.10.4-1, MQTT-3.10.4-4, MQTT-3.10.4-5,
/// MQTT-3.10.4-6]
#[test]
fn subscriptions_are_answered_one_by_one_in_one_packet() {
    let rest = ["admit -b,+#", "subscribe a b c/+ qos=1 id=9"];
    let [five, three] = both("connect c clean", &rest);
    let subscribed =
        "Denied(Subscribe b), Subscribe(a qos 1 with retained, c/+ qos 1 with retained), SUBACK 9";
    assert_eq!(five, format!("{subscribed} 0x01 0x87 0x01"));
    assert_eq!(three, format!("{subscribed} 0x01 0x80 0x01"));
    // By character: neither c/# nor A nor c/x is c/+ or a.
    let gone = [rest[0], rest[1], "unsubscribe A c/# c/+ c/x id=7"];
    for answer in both("connect c clean", &gone) {
        assert_eq!(answer, "Unsubscribe(c/+), UNSUBACK 7 0x11 0x11 0x00 0x11");
    }
    let nothing = ["admit", "unsubscribe x id=3"];
    for answer in both("connect c clean", &nothing) {
        assert_eq!(answer, "UNSUBACK 3 0x11");
    }
}

/// [MQTT-3.8.4-3, MQTT-3.8.4-4, MQTT-3.11.3-2; MQTT 3.1.1: MQTT-3.8.4-3]
#[test]
fn the_same_filter_again_is_the_same_subscription() {
    for version in ["", " v3"] {
        let story = play(&[
            &format!("connect c clean{version}"),
            "admit +# subscriptions=1",
            "subscribe a qos=1",
            "subscribe a qos=2",
            "unsubscribe a",
            "unsubscribe a",
        ]);
        for line in [
            "subscribe a qos=1 => Subscribe(a qos 1 with retained), SUBACK 1 0x01\n",
            "subscribe a qos=2 => Subscribe(a qos 2 with retained), SUBACK 1 0x02\n",
            "unsubscribe a => Unsubscribe(a), UNSUBACK 1 0x00\nunsubscribe a => UNSUBACK 1 0x11\n",
        ] {
            assert!(story.contains(line), "{line} in\n{story}");
        }
    }
}

/// [MQTT-3.3.4-7, MQTT-4.9.0-1]
#[test]
fn the_quota_is_the_smaller_of_both_maxima_and_never_zero() {
    let few = || Limits { inflight_maximum: NonZeroU16::new(2).unwrap(), ..Limits::default() };
    let sent = |connect: &str| {
        let lines = [connect, "admit", "retained a b c d qos=1"];
        last_with(few(), &lines).matches("PUBLISH").count()
    };
    assert_eq!(sent("connect c clean receive-maximum=1"), 1);
    assert_eq!(sent("connect c clean receive-maximum=9"), 2);
    assert_eq!(sent("connect c clean v3"), 2);
}

/// [MQTT-3.10.4-3; MQTT 3.1.1: MQTT-3.10.4-3]
#[test]
fn what_was_begun_goes_on_after_unsubscribe() {
    let rest = [
        "admit",
        "subscribe a qos=2",
        "deliver a qos=2",
        "deliver a qos=1",
        "unsubscribe a",
        "puback 2",
        "pubrec 1",
    ];
    assert_eq!(both("connect c clean", &rest), ["PUBREL 1", "PUBREL 1"]);
}
