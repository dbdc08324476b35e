//! One packet, read by our codec and by rumqttc's: where the two differ, `tests/fuzz/differences.toml` says which
//! clause of MQTT decides it. A difference that is not in there is a failure.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use bytes::BytesMut;
use mqgate_codec::{DecodeError, DecodeLimits, Decoder, Packet, PacketType, ProtocolVersion, encode};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::{WIRE_WORDS, wire};
use crate::engine::Target;

pub const TARGET: Target = Target { name: "differential", dictionary: WIRE_WORDS, longest: 512, seeds, run };

/// Which clause decides a difference, by its name.
pub type Differences = BTreeMap<String, String>;

pub fn differences() -> &'static Differences {
    static DIFFERENCES: OnceLock<Differences> = OnceLock::new();
    DIFFERENCES.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("differences.toml");
        let text = std::fs::read_to_string(path).expect("differences.toml lies beside Cargo.toml");
        toml::from_str(&text).expect("differences.toml is a table of texts")
    })
}

fn run(data: &[u8]) {
    if let Some(name) = difference(data) {
        assert!(
            differences().contains_key(&name),
            "a difference that differences.toml does not decide: {name}"
        );
    }
}

/// The first byte says which version, the rest is one packet. The name of the difference, if there is one.
pub fn difference(data: &[u8]) -> Option<String> {
    let (version, bytes) = match data {
        [0, bytes @ ..] => (ProtocolVersion::V3_1_1, bytes),
        [1, bytes @ ..] => (ProtocolVersion::V5, bytes),
        _ => return None,
    };
    let packet = PacketType::from_bits(bytes.first()? >> 4).map_or("reserved", PacketType::name);
    let name = |what: &str| {
        let version = if version == ProtocolVersion::V5 { "5.0" } else { "3.1.1" };
        Some(format!("{version} {packet}: {what}"))
    };
    let ours = ours(bytes, version);
    let theirs = theirs(bytes, version);
    match (ours, theirs) {
        (Ours::Incomplete, _) | (_, Theirs::Incomplete) => None,
        (Ours::Refused(_), Theirs::Refused(_)) => None,
        (Ours::Refused(error), Theirs::Panicked) => Some(format!("we say {error}, they panic")),
        (Ours::Taken(_), Theirs::Panicked) => name("we take it, they panic"),
        (Ours::Taken(_), Theirs::Refused(error)) => name(&format!("we take it, they say {error}")),
        // One clause forbids it wherever it is, so the packet does not matter.
        (Ours::Refused(error), Theirs::Taken(_)) => Some(format!("we say {error}, they take it")),
        (Ours::Taken(packet), Theirs::Taken(written)) => match written {
            None => name("they read what they cannot write"),
            Some(written) => match self::ours(&written, version) {
                Ours::Taken(again) if again == packet => None,
                Ours::Taken(_) => name("they read something else"),
                Ours::Refused(_) | Ours::Incomplete => {
                    name("they read and write something that is no packet")
                }
            },
        },
    }
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
enum Ours {
    Incomplete,
    Refused(String),
    Taken(Packet),
}

fn ours(bytes: &[u8], version: ProtocolVersion) -> Ours {
    let is_connect = bytes.first().is_some_and(|first| first >> 4 == 1);
    let mut decoder = Decoder::either((!is_connect).then_some(version), DecodeLimits::UNLIMITED);
    let mut buffer = BytesMut::from(bytes);
    match decoder.decode(&mut buffer) {
        Ok(None) => Ours::Incomplete,
        // They are told the version, we read it.
        Ok(Some(Packet::Connect(connect))) if connect.version != version => Ours::Incomplete,
        Ok(Some(packet)) => Ours::Taken(packet),
        Err(error) => Ours::Refused(kind(&error)),
    }
}

/// What is wrong, without where.
fn kind(error: &DecodeError) -> String {
    match error {
        DecodeError::TopicName(error) => format!("TopicName({error:?})"),
        DecodeError::TopicFilter(error) => format!("TopicFilter({error:?})"),
        error => variant(error),
    }
}

enum Theirs {
    Incomplete,
    Refused(String),
    Panicked,
    /// As they write it, if they can.
    Taken(Option<Vec<u8>>),
}

fn theirs(bytes: &[u8], version: ProtocolVersion) -> Theirs {
    let read = AssertUnwindSafe(|| {
        let mut buffer = BytesMut::from(bytes);
        match version {
            ProtocolVersion::V5 => match v5::Packet::read(&mut buffer, None) {
                Ok(packet) => Theirs::Taken(written(|out| packet.write(out, None).is_ok())),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => Theirs::Incomplete,
                Err(error) => Theirs::Refused(variant(&error)),
            },
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
                match v4::Packet::read(&mut buffer, usize::MAX) {
                    Ok(packet) => Theirs::Taken(written(|out| packet.write(out, usize::MAX).is_ok())),
                    Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => Theirs::Incomplete,
                    Err(error) => Theirs::Refused(variant(&error)),
                }
            }
        }
    });
    catch_unwind(read).unwrap_or(Theirs::Panicked)
}

fn written(write: impl FnOnce(&mut BytesMut) -> bool) -> Option<Vec<u8>> {
    let mut out = BytesMut::new();
    let done = catch_unwind(AssertUnwindSafe(|| write(&mut out)));
    done.is_ok_and(|done| done).then(|| out.to_vec())
}

fn variant(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (at, version) in [ProtocolVersion::V3_1_1, ProtocolVersion::V5].into_iter().enumerate() {
        for packet in wire::specimens(version) {
            let mut bytes = BytesMut::new();
            encode(&packet, version, &mut bytes).expect("a specimen can be written");
            seeds.push([&[at as u8], &*bytes].concat());
        }
    }
    seeds
}
