//! Enhanced authentication of MQTT 5.0: AUTH before CONNACK, and once more while the client is online.

use crate::play::play;

const CONNECT: &str = "connect c clean method=M data=one";

/// The lines of a story that begins with CONNECT.
fn story(rest: &[&str]) -> String {
    play(&[&[CONNECT], rest].concat())
}

/// [MQTT-4.12.0-2, MQTT-4.12.0-3, MQTT-4.12.0-5, MQTT-3.15.2-1]
#[test]
fn challenge_and_proof_precede_connack() {
    insta::assert_snapshot!(
        story(&[
            "publish a",
            "challenge data=two",
            "auth 0x18 method=M data=three",
            "challenge",
            "auth 0x18 method=M",
            "admit +# data=six",
            "publish a",
        ]),
        @r#"
    connect c clean method=M data=one => Authorize("c")
    publish a => not read
    challenge data=two => AUTH 0x18 M two
    auth 0x18 method=M data=three => Proof(three)
    challenge => AUTH 0x18 M -
    auth 0x18 method=M => Proof(-)
    admit +# data=six => OpenSession(c clean), Connected, CONNACK 0x00 method=M data=six
    publish a => Publish(a)
    "#
    );
}

/// [MQTT-4.12.0-4, MQTT-3.1.2-30, MQTT-4.13.2-1]
#[test]
fn it_can_end_at_any_point() {
    let end = |rest: &[&str]| {
        let story = story(rest);
        story.lines().last().unwrap().split_once(" => ").unwrap().1.to_owned()
    };
    assert_eq!(end(&["deny 0x8c"]), "CONNACK 0x8c, Close(Server 0x8c plugin_denied)");
    let challenged = |line: &str| end(&["challenge data=two", line]);
    assert_eq!(challenged("deny 0x87"), "CONNACK 0x87, Close(Server 0x87 plugin_denied)");
    assert_eq!(challenged("publish a"), "CONNACK 0x82, Close(Server 0x82 protocol_error)");
    assert_eq!(challenged("connect c clean"), "CONNACK 0x82, Close(Server 0x82 protocol_error)");
    assert_eq!(challenged("auth 0x19 method=M"), "CONNACK 0x82, Close(Server 0x82 protocol_error)");
    assert_eq!(challenged("auth 0x18 method=N"), "CONNACK 0x82, Close(Server 0x82 protocol_error)");
    assert_eq!(challenged("disconnect"), "Close(Client 0x00 ok)");
    assert_eq!(challenged("lost"), "Close(Network 0x80 other)");
    assert_eq!(challenged("malformed"), "CONNACK 0x81, Close(Server 0x81 malformed_packet)");
    assert_eq!(challenged("wait 15"), "CONNACK 0x87, Close(Server 0x87 bad_credentials)");
    assert_eq!(challenged("close 0x8b"), "CONNACK 0x88, Close(Server 0x8b admin_action)");
}

/// [MQTT-4.12.0-6, MQTT-4.12.0-7]
#[test]
fn who_offers_no_method_hears_of_none() {
    let of = |lines: &[&str]| {
        let story = play(&[&["connect c clean"], lines].concat());
        story.lines().last().unwrap().split_once(" => ").unwrap().1.to_owned()
    };
    assert_eq!(of(&["admit"]), "OpenSession(c clean), Connected, CONNACK 0x00");
    assert_eq!(
        of(&["challenge data=x"]),
        "CONNACK 0x82, Close(Server 0x82 protocol_error)",
        "a driver's mistake"
    );
    for auth in ["auth 0x19 method=M", "auth 0x18 method=M"] {
        assert!(of(&["admit", auth]).starts_with("DISCONNECT 0x82, Close"), "{auth}");
    }
}

/// [MQTT-4.12.1-1, MQTT-4.12.0-5]
#[test]
fn a_client_that_is_online_can_prove_it_again() {
    insta::assert_snapshot!(
        story(&[
            "admit",
            "subscribe a b",
            "auth 0x19 method=M data=1",
            "publish a",
            "challenge data=2",
            "publish a",
            "auth 0x18 method=M data=3",
            "proved +a data=4",
            "publish b",
            "auth 0x19 method=M",
        ]),
        @r#"
    connect c clean method=M data=one => Authorize("c")
    admit => OpenSession(c clean), Connected, CONNACK 0x00 method=M
    subscribe a b => Subscribe(a qos 0 with retained, b qos 0 with retained), SUBACK 1 0x00 0x00
    auth 0x19 method=M data=1 => Reauthenticate(1)
    publish a => Publish(a)
    challenge data=2 => AUTH 0x18 M 2
    publish a => Publish(a)
    auth 0x18 method=M data=3 => Proof(3)
    proved +a data=4 => Denied(Subscribe b), Unsubscribe(b), AUTH 0x00 M 4
    publish b => Denied(Publish b)
    auth 0x19 method=M => Reauthenticate(-)
    "#
    );
}

/// [MQTT-4.12.1-2, MQTT-4.12.1-1]
#[test]
fn a_proof_that_fails_ends_the_connection() {
    let end = |rest: &[&str]| {
        let story = story(&[&["admit"], rest].concat());
        story.lines().last().unwrap().split_once(" => ").unwrap().1.to_owned()
    };
    let again = "auth 0x19 method=M data=1";
    assert!(end(&[again, "revoke"]).starts_with("DISCONNECT 0x87, Close(Server 0x87"));
    assert!(end(&["auth 0x19 method=N"]).starts_with("DISCONNECT 0x82, Close"), "another method");
    assert!(end(&["auth 0x18 method=M"]).starts_with("DISCONNECT 0x82, Close"), "nothing was asked");
    assert!(end(&[again, again]).starts_with("DISCONNECT 0x82, Close"), "twice");
    assert!(end(&[again, "challenge data=2", again]).starts_with("DISCONNECT 0x82, Close"));
    assert!(
        end(&[again, "challenge data=2", "wait 15"])
            .starts_with("DISCONNECT 0x87, Close(Server 0x87 bad_credentials")
    );
    assert_eq!(end(&["proved data=4"]), "nothing", "an answer to what was not asked");
    assert_eq!(end(&["challenge data=4"]), "nothing");
}
