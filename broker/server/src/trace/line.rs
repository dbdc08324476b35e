//! One packet as one line. What a client chose is shown escaped, passwords never.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;
use mqgate_codec::{Packet, QoS};
use mqgate_protocol::session::Delivery;

use crate::clock;
use crate::directory::ConnectionHandle;

/// Bytes of a payload that are shown.
const PAYLOAD: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

fn head(on: &ConnectionHandle, direction: Direction) -> String {
    let now = i64::try_from(clock::now().0).ok().and_then(|now| Timestamp::from_millisecond(now).ok());
    let time = now.map_or_else(String::new, |now| format!("{now:.3}"));
    let arrow = match direction {
        Direction::In => "<-",
        Direction::Out => "->",
    };
    let client = on.client_id().unwrap_or("-");
    format!("{time} {arrow} connection={} client={client:?} address={} ", on.connection_id, on.peer_address)
}

fn payload(line: &mut String, payload: &Bytes, shown: bool) {
    let _ = write!(line, " bytes={}", payload.len());
    if shown {
        let part = &payload[..payload.len().min(PAYLOAD)];
        let _ = match std::str::from_utf8(part) {
            Ok(text) => write!(line, " payload={text:?}"),
            Err(_) => write!(line, " payload=0x{}", hex::encode(part)),
        };
        if part.len() < payload.len() {
            line.push('…');
        }
    }
}

fn quality(qos: QoS) -> u8 {
    qos as u8
}

pub(super) fn packet(on: &ConnectionHandle, direction: Direction, packet: &Packet, payloads: bool) -> String {
    let mut line = head(on, direction);
    let kind = packet.packet_type().to_string().to_uppercase();
    line.push_str(&kind);
    // Writing to a string does not fail.
    let _ = match packet {
        Packet::Connect(connect) => {
            let user =
                connect.user_name.as_ref().map_or_else(String::new, |name| format!(" user={:?}", &**name));
            let password = if connect.password.is_some() { " password=***" } else { "" };
            let will = connect
                .will
                .as_ref()
                .map_or_else(String::new, |will| format!(" will={:?}", will.topic.as_str()));
            write!(
                line,
                " version={:?} id={:?} clean={} keep_alive={}{user}{password}{will}",
                connect.version, &*connect.client_id, connect.clean_start, connect.keep_alive
            )
        }
        Packet::ConnAck(connack) => {
            write!(line, " code={:#04x} session={}", connack.code.reason().0, connack.session_present)
        }
        Packet::Publish(publish) => {
            let topic = publish.topic.as_ref().map_or("(by alias)", |topic| topic.as_str());
            let _ = write!(line, " topic={topic:?} qos={} retain={}", quality(publish.qos), publish.retain);
            if let Some(id) = publish.packet_id {
                let _ = write!(line, " id={} dup={}", id.get(), publish.dup);
            }
            payload(&mut line, &publish.payload, payloads);
            Ok(())
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            write!(line, " id={} code={:#04x}", ack.packet_id.get(), ack.reason.0)
        }
        Packet::Subscribe(subscribe) => {
            let _ = write!(line, " id={}", subscribe.packet_id.get());
            let mut filters = subscribe.filters.iter();
            filters.try_for_each(|(filter, options)| {
                write!(line, " filter={:?} qos={}", filter.as_str(), quality(options.qos))
            })
        }
        Packet::Unsubscribe(unsubscribe) => {
            let _ = write!(line, " id={}", unsubscribe.packet_id.get());
            unsubscribe.filters.iter().try_for_each(|filter| write!(line, " filter={:?}", filter.as_str()))
        }
        Packet::SubAck(ack) => codes(&mut line, ack.packet_id.get(), ack.reasons.iter().map(|code| code.0)),
        Packet::UnsubAck(ack) => codes(&mut line, ack.packet_id.get(), ack.reasons.iter().map(|code| code.0)),
        Packet::Disconnect(disconnect) => write!(line, " code={:#04x}", disconnect.reason.0),
        Packet::Auth(_) | Packet::PingReq | Packet::PingResp => Ok(()),
    };
    line
}

fn codes(line: &mut String, id: u16, codes: impl Iterator<Item = u8>) -> std::fmt::Result {
    write!(line, " id={id} codes=")?;
    let codes: Vec<String> = codes.map(|code| format!("{code:#04x}")).collect();
    write!(line, "{}", codes.join(","))
}

pub(super) fn delivery(on: &ConnectionHandle, delivery: &Delivery, payloads: bool) -> String {
    let mut line = head(on, Direction::Out);
    let (topic, qos) = (delivery.message.topic.as_str(), quality(delivery.qos));
    let _ = write!(line, "PUBLISH topic={topic:?} qos={qos} retain={}", delivery.retain);
    if let Some(id) = delivery.packet_id {
        let _ = write!(line, " id={} dup={}", id.get(), delivery.dup);
    }
    payload(&mut line, &delivery.message.payload, payloads);
    line
}
