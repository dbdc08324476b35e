//! MQTT 3.1.1 for attackers: bytes that are made once and written as fast as they are taken. It need not be right, only
//! plausible.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A field with its length before it.
fn text(text: &[u8], packet: &mut Vec<u8>) {
    packet.extend((text.len() as u16).to_be_bytes());
    packet.extend(text);
}

/// A packet with a first byte and what follows its length.
fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = rest.len();
    loop {
        let more = length >> 7;
        packet.push((length & 0x7F) as u8 | if more > 0 { 0x80 } else { 0 });
        length = more;
        if length == 0 {
            break;
        }
    }
    packet.extend(rest);
    packet
}

/// A session that ends with the connection.
pub fn connect(client_id: &str, will: Option<(&str, &[u8])>) -> Vec<u8> {
    let mut rest = Vec::new();
    text(b"MQTT", &mut rest);
    rest.push(4);
    rest.push(if will.is_some() { 0x06 } else { 0x02 });
    rest.extend(0_u16.to_be_bytes());
    text(client_id.as_bytes(), &mut rest);
    if let Some((topic, payload)) = will {
        text(topic.as_bytes(), &mut rest);
        text(payload, &mut rest);
    }
    packet(0x10, &rest)
}

pub fn publish(topic: &str, payload: &[u8], retain: bool) -> Vec<u8> {
    let mut rest = Vec::new();
    text(topic.as_bytes(), &mut rest);
    rest.extend(payload);
    packet(0x30 | u8::from(retain), &rest)
}

/// At QoS 1, always with the same packet identifier: the next comes after PUBACK.
pub fn publish_to_be_acknowledged(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    text(topic.as_bytes(), &mut rest);
    rest.extend(1_u16.to_be_bytes());
    rest.extend(payload);
    packet(0x32, &rest)
}

pub fn subscribe(filters: &[String], qos: u8) -> Vec<u8> {
    let mut rest = 1_u16.to_be_bytes().to_vec();
    for filter in filters {
        text(filter.as_bytes(), &mut rest);
        rest.push(qos);
    }
    packet(0x82, &rest)
}

pub fn unsubscribe(filters: &[String]) -> Vec<u8> {
    let mut rest = 2_u16.to_be_bytes().to_vec();
    filters.iter().for_each(|filter| text(filter.as_bytes(), &mut rest));
    packet(0xA2, &rest)
}

pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// A connection that was accepted.
pub fn open(port: u16, connect: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(connect)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    match connack {
        [0x20, 2, _, 0] => Ok(stream),
        other => Err(io::Error::other(format!("CONNACK was {other:?}"))),
    }
}

/// A connection that was accepted and has subscribed.
pub fn subscribed(port: u16, client_id: &str, filter: &str, qos: u8) -> io::Result<TcpStream> {
    let mut stream = open(port, &connect(client_id, None))?;
    stream.write_all(&subscribe(&[filter.to_owned()], qos))?;
    let mut suback = [0; 5];
    stream.read_exact(&mut suback)?;
    if suback == [0x90, 3, 0, 1, qos] { Ok(stream) } else { Err(io::Error::other("no SUBACK")) }
}

/// Reads what comes, to the end; how many bytes.
pub fn drain(mut stream: TcpStream) -> u64 {
    let _ = stream.set_read_timeout(None);
    let mut buffer = vec![0; 256 * 1024];
    let mut taken = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        taken += count as u64;
    }
    let _ = stream.shutdown(Shutdown::Both);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_the_specification_writes_them() {
        assert_eq!(connect("a", None), [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'a']);
        assert_eq!(connect("", Some(("t", b"x")))[1..3], [18, 0]);
        assert_eq!(publish("t", b"xy", true), [0x31, 5, 0, 1, b't', b'x', b'y']);
        assert_eq!(publish("t", &[0; 200], false)[..3], [0x30, 0xCB, 1]);
        assert_eq!(subscribe(&["f".to_owned()], 1), [0x82, 6, 0, 1, 0, 1, b'f', 1]);
        assert_eq!(unsubscribe(&["f".to_owned()]), [0xA2, 5, 0, 2, 0, 1, b'f']);
    }
}
