//! Headers for tests, made byte by byte.

use std::net::{IpAddr, SocketAddr};

use super::header::SIGNATURE;

pub(crate) fn source(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

/// The value of the TLV for TLS.
pub(crate) fn ssl(client: u8, verify: u32, inner: &[(u8, &[u8])]) -> Vec<u8> {
    let mut value = vec![client];
    value.extend(verify.to_be_bytes());
    for (kind, content) in inner {
        push(&mut value, *kind, content);
    }
    value
}

fn push(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    to.push(kind);
    to.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    to.extend(value);
}

/// A header of version 2.
pub(crate) struct Builder {
    command: u8,
    family: u8,
    body: Vec<u8>,
}

impl Builder {
    pub(crate) fn v4(source: &str) -> Self {
        let source: SocketAddr = source.parse().unwrap();
        let IpAddr::V4(address) = source.ip() else { panic!("{source} is not IPv4") };
        let mut body = address.octets().to_vec();
        body.extend([198, 51, 100, 1]);
        body.extend(source.port().to_be_bytes());
        body.extend([0x22, 0xB3]);
        Self { command: 0x21, family: 0x11, body }
    }

    pub(crate) fn v6(source: &str) -> Self {
        let source: SocketAddr = source.parse().unwrap();
        let IpAddr::V6(address) = source.ip() else { panic!("{source} is not IPv6") };
        let mut body = address.octets().to_vec();
        body.extend([0; 16]);
        body.extend(source.port().to_be_bytes());
        body.extend([0x22, 0xB3]);
        Self { command: 0x21, family: 0x21, body }
    }

    pub(crate) fn unspecified() -> Self {
        Self { command: 0x21, family: 0, body: Vec::new() }
    }

    pub(crate) fn unix() -> Self {
        Self { command: 0x21, family: 0x31, body: vec![0; 216] }
    }

    pub(crate) fn local() -> Self {
        Self { command: 0x20, family: 0, body: vec![1, 2] }
    }

    pub(crate) fn tlv(mut self, kind: u8, value: &[u8]) -> Self {
        push(&mut self.body, kind, value);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([self.command, self.family]);
        header.extend(u16::try_from(self.body.len()).unwrap().to_be_bytes());
        header.extend(self.body);
        header
    }

    /// The same with a right checksum at its end, by a table this time.
    pub(crate) fn checksum(self) -> Vec<u8> {
        let mut bytes = self.tlv(0x03, &[0; 4]).bytes();
        let table: Vec<u32> = (0..256_u32)
            .map(|byte| {
                (0..8).fold(byte, |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 })
            })
            .collect();
        let sum = bytes
            .iter()
            .fold(!0_u32, |sum, byte| (sum >> 8) ^ table[((sum ^ u32::from(*byte)) & 0xFF) as usize]);
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&(!sum).to_be_bytes());
        bytes
    }
}

#[test]
fn the_checksum_is_the_one_that_has_a_name() {
    // CRC-32C of "123456789" is 0xE3069283.
    let sum = b"123456789".iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 },
        )
    });
    assert_eq!(!sum, 0xE306_9283);
}
