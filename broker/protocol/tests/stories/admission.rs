//! How connections begin and end: verdicts, client ids, wills, keep-alive, sessions that stay.

use std::time::Duration;

use mqgate_codec::{ConnAckCode, ProtocolVersion, QoS, ReasonCode};
use mqgate_identity::reason::Reason;
use mqgate_protocol::connection::Fault;
use mqgate_protocol::limits::Limits;

use crate::play::{play, play_with};

/// [MQTT-3.1.4-2, MQTT-3.2.2-6, MQTT-3.2.2-7; MQTT 3.1.1: MQTT-3.2.2-4, MQTT-3.2.2-5, MQTT-4.8.0-2]
#[test]
fn a_refused_client_hears_why() {
    insta::assert_snapshot!(play(&["connect meter-7 clean", "deny 0x87", "ping"]), @r#"
        connect meter-7 clean => Authorize("meter-7")
        deny 0x87 => CONNACK 0x87, Close(Server 0x87 plugin_denied)
        ping => not read
    "#);
    insta::assert_snapshot!(play(&["connect meter-7 v3 clean", "deny 0x87"]), @r#"
        connect meter-7 v3 clean => Authorize("meter-7")
        deny 0x87 => CONNACK 5, Close(Server 0x87 plugin_denied)
    "#);
    insta::assert_snapshot!(play(&["connect meter-7 v3 clean", "deny 0x88"]), @r#"
        connect meter-7 v3 clean => Authorize("meter-7")
        deny 0x88 => CONNACK 3, Close(Server 0x88 plugin_denied)
    "#);
}

/// A client of 3.1.1 that waits for its operator is not told a word that it takes for the last one.
#[test]
fn who_waits_for_an_operator_is_to_come_again() {
    insta::assert_snapshot!(play(&["connect meter-7 clean", "deny 0x87 pending"]), @r#"
        connect meter-7 clean => Authorize("meter-7")
        deny 0x87 pending => CONNACK 0x87, Close(Server 0x87 cert_pending)
    "#);
    insta::assert_snapshot!(play(&["connect meter-7 v3 clean", "deny 0x87 pending"]), @r#"
        connect meter-7 v3 clean => Authorize("meter-7")
        deny 0x87 pending => CONNACK 3, Close(Server 0x87 cert_pending)
    "#);
}

/// The Assigned Client Identifier is for those who sent none [MQTT-3.2.2-16]: who sent another one than it may use
/// reads it in a user property.
#[test]
fn a_client_id_that_is_overridden_is_told() {
    insta::assert_snapshot!(play(&["connect other clean", "admit as=bound"]), @r#"
        connect other clean => Authorize("other")
        admit as=bound => OpenSession(bound clean), Connected, CONNACK 0x00 client-id=bound
    "#);
    insta::assert_snapshot!(play(&["connect other v3 clean", "admit as=bound"]), @r#"
        connect other v3 clean => Authorize("other")
        admit as=bound => OpenSession(bound clean), Connected, CONNACK 0
    "#);
}

/// [MQTT-3.1.3-7, MQTT-3.1.4-5, MQTT-3.2.0-1, MQTT-3.2.2-9, MQTT-3.2.2-16]
#[test]
fn an_admitted_client_is_told_what_differs_from_its_wishes() {
    insta::assert_snapshot!(play(&["connect meter-7 clean keep-alive=60 expiry=100", "admit"]), @r#"
        connect meter-7 clean keep-alive=60 expiry=100 => Authorize("meter-7")
        admit => OpenSession(meter-7 clean), Connected, CONNACK 0x00
    "#);
    insta::assert_snapshot!(
        play(&["connect meter-7 clean keep-alive=60 expiry=100", "admit +# expiry=50 keep-alive=30 qos=1"]),
        @r#"
        connect meter-7 clean keep-alive=60 expiry=100 => Authorize("meter-7")
        admit +# expiry=50 keep-alive=30 qos=1 => OpenSession(meter-7 clean), Connected, CONNACK 0x00 expiry=50 keep-alive=30 qos=1
    "#
    );
    insta::assert_snapshot!(play(&["connect nameless clean", "admit"]), @r#"
        connect nameless clean => Authorize("")
        admit => OpenSession(auto-1 clean), Connected, CONNACK 0x00 id=auto-1
    "#);
}

/// The client is told which one it has got.
///
/// [MQTT-3.1.3-6, MQTT-3.1.3-7]
#[test]
fn an_empty_client_id_may_ask_for_a_session_that_stays() {
    insta::assert_snapshot!(play(&["connect nameless expiry=100", "admit"]), @r#"
        connect nameless expiry=100 => Authorize("")
        admit => OpenSession(auto-1), Connected, CONNACK 0x00 id=auto-1
    "#);
}

/// [MQTT 3.1.1: MQTT-3.1.3-8, MQTT-3.1.3-9]
#[test]
fn an_empty_client_id_cannot_keep_a_session_in_3_1_1() {
    insta::assert_snapshot!(play(&["connect nameless v3"]), @r#"
        connect nameless v3 => CONNACK 2, Close(Server 0x85 clientid_invalid)
    "#);
}

/// [MQTT-3.1.0-1, MQTT-3.1.0-2]
///
/// [MQTT-3.1.4-1, MQTT-3.14.0-1, MQTT-3.14.4-1, MQTT-3.14.4-2, MQTT-4.13.1-1]
#[test]
fn connect_comes_first_and_once() {
    insta::assert_snapshot!(play(&["ping"]), @r#"
        ping => Close(Server 0x82 protocol_error)
    "#);
    insta::assert_snapshot!(play(&["malformed"]), @r#"
        malformed => Close(Server 0x81 malformed_packet)
    "#);
    insta::assert_snapshot!(play(&["connect c clean", "admit", "connect c clean"]), @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        connect c clean => DISCONNECT 0x82, Close(Server 0x82 protocol_error session ends in 0s)
    "#);
    insta::assert_snapshot!(play(&["wait 14.9", "wait 0.1"]), @r#"
        wait 14.9 => nothing
        wait 0.1 => Close(Server 0x82 connect_timeout)
    "#);
}

/// Nothing is read before the gate has spoken, however much the client sends.
///
/// [MQTT-3.2.0-2]
#[test]
fn nothing_is_read_before_the_verdict() {
    insta::assert_snapshot!(play(&["connect c clean", "publish a", "wait 60", "admit", "publish a"]), @r#"
        connect c clean => Authorize("c")
        publish a => not read
        wait 60 => nothing
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        publish a => Publish(a)
    "#);
}

#[test]
fn a_connection_can_be_closed_while_it_is_judged() {
    insta::assert_snapshot!(play(&["connect c clean", "close 0x98", "admit"]), @r#"
        connect c clean => Authorize("c")
        close 0x98 => CONNACK 0x88, Close(Server 0x98 admin_action)
        admit => nothing
    "#);
    insta::assert_snapshot!(play(&["connect c clean", "lost", "admit"]), @r#"
        connect c clean => Authorize("c")
        lost => Close(Network 0x80 other)
        admit => nothing
    "#);
}

/// [MQTT-3.1.2-22]
///
/// [MQTT-3.2.2-22; MQTT 3.1.1: MQTT-3.1.2-24]
#[test]
fn silence_ends_after_one_and_a_half_keep_alives() {
    insta::assert_snapshot!(
        play(&["connect c clean keep-alive=10", "admit", "wait 14.9", "ping", "wait 14.9", "wait 0.1"]),
        @r#"
        connect c clean keep-alive=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        wait 14.9 => nothing
        ping => PINGRESP
        wait 14.9 => nothing
        wait 0.1 => DISCONNECT 0x8d, Close(Server 0x8d keep_alive_timeout session ends in 0s)
    "#
    );
    insta::assert_snapshot!(play(&["connect c v3 clean keep-alive=10", "admit", "wait 15"]), @r#"
        connect c v3 clean keep-alive=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0
        wait 15 => Close(Server 0x8d keep_alive_timeout session ends in 0s)
    "#);
    insta::assert_snapshot!(play(&["connect c clean", "admit", "wait 100000"]), @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        wait 100000 => nothing
    "#);
}

/// [MQTT-3.1.2-8, MQTT-3.1.3-9, MQTT-3.14.4-3]
///
/// [MQTT-3.1.2-7, MQTT-3.1.2-10; MQTT 3.1.1: MQTT-3.1.2-8]
#[test]
fn a_will_stays_unless_it_is_taken_back() {
    let connect = "connect c clean expiry=60 will=gone will-delay=10";
    insta::assert_snapshot!(play(&[connect, "admit", "lost"]), @r#"
        connect c clean expiry=60 will=gone will-delay=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        lost => Close(Network 0x80 other will gone in 10s session ends in 60s)
    "#);
    insta::assert_snapshot!(play(&[connect, "admit", "disconnect"]), @r#"
        connect c clean expiry=60 will=gone will-delay=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        disconnect => Close(Client 0x00 ok session ends in 60s)
    "#);
    insta::assert_snapshot!(play(&[connect, "admit", "disconnect 0x04"]), @r#"
        connect c clean expiry=60 will=gone will-delay=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        disconnect 0x04 => Close(Client 0x04 ok will gone in 10s session ends in 60s)
    "#);
    insta::assert_snapshot!(play(&[connect, "admit", "disconnect 0x04 expiry=5"]), @r#"
        connect c clean expiry=60 will=gone will-delay=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        disconnect 0x04 expiry=5 => Close(Client 0x04 ok will gone in 5s session ends in 5s)
    "#);
    insta::assert_snapshot!(play(&[connect, "admit", "close 0x8b"]), @r#"
        connect c clean expiry=60 will=gone will-delay=10 => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        close 0x8b => DISCONNECT 0x8b, Close(Server 0x8b admin_action will gone in 10s session ends in 60s)
    "#);
    insta::assert_snapshot!(play(&["connect c v3 clean will=gone", "admit", "lost"]), @r#"
        connect c v3 clean will=gone => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0
        lost => Close(Network 0x80 other will gone in 0s session ends in 0s)
    "#);
}

/// [MQTT-3.2.2-12, MQTT-3.2.2-13]
#[test]
fn a_will_needs_permission_and_must_fit_the_terms() {
    insta::assert_snapshot!(play(&["connect c clean will=gone", "admit +mine/#"]), @r#"
        connect c clean will=gone => Authorize("c")
        admit +mine/# => Denied(Will gone), CONNACK 0x87, Close(Server 0x87 acl_denied)
    "#);
    insta::assert_snapshot!(play(&["connect c v3 clean will=gone", "admit +mine/#"]), @r#"
        connect c v3 clean will=gone => Authorize("c")
        admit +mine/# => Denied(Will gone), CONNACK 5, Close(Server 0x87 acl_denied)
    "#);
    insta::assert_snapshot!(play(&["connect c clean will=gone will-qos=2", "admit +# qos=1"]), @r#"
        connect c clean will=gone will-qos=2 => Authorize("c")
        admit +# qos=1 => CONNACK 0x9b, Close(Server 0x9b protocol_error)
    "#);
    let limits = || Limits { retain_available: false, maximum_qos: QoS::AtLeastOnce, ..Limits::default() };
    insta::assert_snapshot!(play_with(limits(), &["connect c clean will=gone will-retain"]), @r#"
        connect c clean will=gone will-retain => CONNACK 0x9a, Close(Server 0x9a protocol_error)
    "#);
    insta::assert_snapshot!(play_with(limits(), &["connect c clean will=gone will-qos=2"]), @r#"
        connect c clean will=gone will-qos=2 => CONNACK 0x9b, Close(Server 0x9b protocol_error)
    "#);
}

/// [MQTT-3.1.2-23, MQTT-3.2.2-3; MQTT 3.1.1: MQTT-3.2.2-2]
#[test]
fn a_session_stays_as_long_as_agreed() {
    insta::assert_snapshot!(play(&["connect c expiry=60", "admit", "lost", "connect c"]), @r#"
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        lost => Close(Network 0x80 other session ends in 60s)
        connect c => not read
    "#);
    insta::assert_snapshot!(play(&["connect c", "admit", "lost"]), @r#"
        connect c => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        lost => Close(Network 0x80 other session ends in 0s)
    "#);
    insta::assert_snapshot!(play(&["connect c v3", "admit", "lost", "again", "connect c v3", "admit"]), @r#"
        connect c v3 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0
        lost => Close(Network 0x80 other session ends in 7200s)
        again => nothing
        connect c v3 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0 present
    "#);
    insta::assert_snapshot!(play(&["connect c expiry=60", "admit", "disconnect expiry=0"]), @r#"
        connect c expiry=60 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        disconnect expiry=0 => Close(Client 0x00 ok session ends in 0s)
    "#);
    insta::assert_snapshot!(play(&["connect c", "admit", "disconnect expiry=60"]), @r#"
        connect c => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0x00
        disconnect expiry=60 => DISCONNECT 0x82, Close(Server 0x82 protocol_error session ends in 0s)
    "#);
    let forever = Limits { session_expiry_maximum: Duration::MAX, ..Limits::default() };
    insta::assert_snapshot!(play_with(forever, &["connect c v3", "admit", "lost"]), @r#"
        connect c v3 => Authorize("c")
        admit => OpenSession(c), Connected, CONNACK 0
        lost => Close(Network 0x80 other session stays)
    "#);
}

#[test]
fn an_unasked_auth_is_a_protocol_error() {
    insta::assert_snapshot!(play(&["connect c clean", "admit", "auth"]), @r#"
        connect c clean => Authorize("c")
        admit => OpenSession(c clean), Connected, CONNACK 0x00
        auth => DISCONNECT 0x82, Close(Server 0x82 protocol_error session ends in 0s)
    "#);
}

/// The whole mapping, for each reader of it: MQTT 5.0 client, 3.1.1 client before CONNACK, auditor.
///
/// [MQTT-3.2.2-8, MQTT-3.14.2-1; MQTT 3.1.1: MQTT-3.1.2-2, MQTT-3.1.3-9, MQTT-3.1.4-1, MQTT-3.2.2-6]
#[test]
fn every_fault_has_its_words() {
    let faults = [
        Fault::Malformed(mqgate_codec::DecodeError::Truncated),
        Fault::Malformed(mqgate_codec::DecodeError::PacketTooLarge { size: 2, limit: 1 }),
        Fault::Malformed(mqgate_codec::DecodeError::UnsupportedProtocolLevel(9)),
        Fault::ConnectTimeout,
        Fault::NotConnect,
        Fault::SecondConnect,
        Fault::ServerPacket,
        Fault::ClientIdEmpty,
        Fault::ClientIdTooLong,
        Fault::Mqtt31,
        Fault::NotAuth,
        Fault::AuthenticationMethodChanged,
        Fault::AuthenticationTimeout,
        Fault::AuthTooLarge,
        Fault::UnexpectedAuth,
        Fault::WillDenied,
        Fault::KeepAlive,
        Fault::QosNotSupported,
        Fault::RetainNotSupported,
        Fault::PayloadFormat,
        Fault::ConnAckTooLarge,
        Fault::ReceiveMaximumExceeded,
        Fault::TopicAliasInvalid,
        Fault::TopicAliasUnknown,
        Fault::SessionExpiryRevived,
        Fault::PublishDenied,
    ];
    let table: String =
        faults.iter().map(|fault| words(&fault.to_string(), fault.code(), fault.reason())).collect();
    insta::assert_snapshot!(table, @r#"
        the packet ends in the middle of a field: 0x81, -, malformed_packet
        a packet of 2 bytes is larger than the limit of 1: 0x95, -, packet_too_large
        protocol level 9 is not supported: 0x84, 1, unsupported_protocol_version
        no CONNECT in time: 0x82, -, connect_timeout
        the first packet is not CONNECT: 0x82, -, protocol_error
        a second CONNECT: 0x82, -, protocol_error
        a packet that only a server sends: 0x82, -, protocol_error
        the client identifier is empty, but the session is to be kept: 0x85, 2, clientid_invalid
        the client identifier is too long: 0x85, 2, clientid_invalid
        MQTT 3.1 is not spoken here: 0x84, 1, unsupported_protocol_version
        something else than AUTH before CONNACK: 0x82, -, protocol_error
        the authentication method is not that of CONNECT: 0x82, -, protocol_error
        no AUTH in time: 0x87, 5, bad_credentials
        what the authentication needs does not fit the client's maximum packet size: 0x95, -, packet_too_large
        AUTH where none is expected: 0x82, -, protocol_error
        the permit does not cover the will: 0x87, 5, acl_denied
        no packet for one and a half keep-alives: 0x8d, -, keep_alive_timeout
        the QoS is above the maximum: 0x9b, 5, protocol_error
        retained messages are not available: 0x9a, 5, protocol_error
        the payload is not the UTF-8 text that it is said to be: 0x99, -, protocol_error
        CONNACK does not fit the client's maximum packet size: 0x95, -, packet_too_large
        more unacknowledged messages than the receive maximum: 0x93, -, protocol_error
        a topic alias of 0 or above the maximum: 0x94, -, protocol_error
        a topic alias that was not set: 0x82, -, protocol_error
        a session that was to end with the connection cannot be kept: 0x82, -, protocol_error
        the permit does not cover the topic: 0x87, 5, acl_denied
    "#);
}

fn words(text: &str, code: ReasonCode, reason: Reason) -> String {
    let old = match ConnAckCode::for_version(code, ProtocolVersion::V3_1_1) {
        Some(ConnAckCode::V3(code)) => (code as u8).to_string(),
        Some(ConnAckCode::V5(_)) | None => "-".to_owned(),
    };
    format!("{text}: {:#04x}, {old}, {reason}\n", code.0)
}
