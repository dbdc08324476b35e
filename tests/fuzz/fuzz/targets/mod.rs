//! What is fuzzed: each target is a function of bytes that panics when something does not hold.

mod codec;
mod connection;
pub mod differential;
mod identity;
mod proxy;
mod stream;
mod websocket;
mod wire;

use crate::engine::Target;

pub const ALL: &[Target] = &[
    codec::TARGET,
    differential::TARGET,
    connection::TARGET,
    websocket::TARGET,
    proxy::TARGET,
    identity::TARGET,
];

/// Bytes that packets are made of.
const WIRE_WORDS: &[&[u8]] = &[
    b"\x00\x04MQTT\x04",
    b"\x00\x04MQTT\x05",
    b"\x00\x06MQIsdp\x03",
    b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00",
    b"\x30\x03\x00\x01a",
    b"\x82\x06\x00\x01\x00\x01#\x00",
    b"\x62\x02\x00\x01",
    b"\xc0\x00",
    b"\xe0\x00",
    b"\xf0\x00",
    b"\x11\x00\x00\x00\x0a",
    b"\x21\x00\x01",
    b"\x23\x00\x01",
    b"\x26\x00\x01a\x00\x01b",
    b"\x0b\x80\x80\x01",
    b"\x1f\x00\x01r",
    b"\x15\x00\x01m",
    b"\x16\x00\x01d",
    b"\x00\x09$share/g/",
    b"\x00\x0b$exclusive/",
    b"\xff\xff\xff\x7f",
    b"\xed\xa0\x80",
    b"////////",
    b"+/#",
];
