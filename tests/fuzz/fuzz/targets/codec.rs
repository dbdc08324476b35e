//! Bytes of either side, in every version: decoded whole and in pieces with the same outcome; and what was decoded is
//! written, read back, and is the same.

use bytes::BytesMut;
use mqgate_codec::{
    DecodeError, DecodeLimits, Decoder, EncodeError, Packet, ProtocolVersion, encode, encoded_len,
};

use super::{WIRE_WORDS, wire};
use crate::engine::Target;

pub const TARGET: Target = Target { name: "codec", dictionary: WIRE_WORDS, longest: 1024, seeds, run };

/// The first byte says who reads and in which version, the second how the bytes are cut.
fn run(data: &[u8]) {
    let [how, cut, bytes @ ..] = data else { return };
    let limits = match how & 0x10 {
        0 => DecodeLimits::UNLIMITED,
        _ => DecodeLimits {
            maximum_packet_size: 200,
            maximum_connect_size: 150,
            maximum_topic_levels: 3,
            maximum_filters: 2,
            maximum_user_properties: 2,
        },
    };
    let version = [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5][usize::from(how % 3)];
    let decoder = match how >> 5 & 3 {
        0 => Decoder::server(limits),
        1 => Decoder::client(version, limits),
        2 => Decoder::either(Some(version), limits),
        _ => Decoder::either(None, limits),
    };
    let whole = decode(decoder.clone(), [bytes].into_iter());
    let pieces = decode(decoder.clone(), bytes.chunks(usize::from(*cut).max(1)));
    assert!(same(&whole, &pieces), "cut, it is something else: {whole:?} {pieces:?}");
    for (packet, version) in &whole.0 {
        there_and_back(packet, *version);
    }
}

type Decoded = (Vec<(Packet, ProtocolVersion)>, Option<DecodeError>);

fn same(whole: &Decoded, pieces: &Decoded) -> bool {
    whole == pieces
}

fn decode<'a>(mut decoder: Decoder, pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let (mut packets, mut buffer) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => {
                    assert!(buffer.len() < before, "a packet of no bytes");
                    let version = decoder.version().expect("a packet has come, so the version is known");
                    let version =
                        if let Packet::Connect(connect) = &packet { connect.version } else { version };
                    packets.push((packet, version));
                }
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "what is not complete stays");
                    let limit = decoder.limits().maximum_packet_size.max(2) as usize;
                    assert!((1..=limit).contains(&decoder.missing()), "{} are missing", decoder.missing());
                    break;
                }
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

/// What was read can be written, and is read as the same.
pub fn there_and_back(packet: &Packet, version: ProtocolVersion) {
    let mut bytes = BytesMut::new();
    match encode(packet, version, &mut bytes) {
        Ok(()) => {}
        Err(EncodeError::WrongVersion { .. }) if bytes.is_empty() => {
            panic!("read in {version:?}, but not to be written in it: {packet:?}")
        }
        Err(error) => panic!("read, but not to be written: {error}: {packet:?}"),
    }
    assert_eq!(encoded_len(packet, version), Ok(bytes.len()), "{packet:?}");
    let known = (!matches!(packet, Packet::Connect(_))).then_some(version);
    let mut decoder = Decoder::either(known, DecodeLimits::UNLIMITED);
    let again = decoder.decode(&mut bytes);
    assert_eq!(again, Ok(Some(packet.clone())), "written and read back, it is another packet");
    assert!(bytes.is_empty(), "written and read back, something is left");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (at, version) in
        [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5].into_iter().enumerate()
    {
        for packet in wire::specimens(version) {
            let mut bytes = BytesMut::new();
            encode(&packet, version, &mut bytes).expect("a specimen can be written");
            for how in [0x00, 0x40] {
                seeds.push([&[how + at as u8, 3], &*bytes].concat());
            }
        }
    }
    seeds
}
