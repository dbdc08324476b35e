//! What certificates, chains and revocation lists say, whatever bytes they are.

use crate::engine::Target;

#[path = "../../../../broker/identity/tests/it/entry.rs"]
mod entry;

pub const TARGET: Target = Target { name: "identity", dictionary: WORDS, longest: 6000, seeds, run };

/// Object identifiers, and beginnings of what stands in certificates.
const WORDS: &[&[u8]] = &[
    b"\x30\x82",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"\xa0\x03\x02\x01\x02",
    b"\x02\x01\x00",
    b"\x06\x03\x55\x04\x03",
    b"\x06\x03\x55\x1d\x0e",
    b"\x06\x03\x55\x1d\x0f",
    b"\x06\x03\x55\x1d\x11",
    b"\x06\x03\x55\x1d\x13",
    b"\x06\x03\x55\x1d\x14",
    b"\x06\x03\x55\x1d\x1e",
    b"\x06\x03\x55\x1d\x1f",
    b"\x06\x03\x55\x1d\x20",
    b"\x06\x03\x55\x1d\x25",
    b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02",
    b"\x06\x03\x55\x1d\x1c",
    b"\x06\x03\x55\x1d\x23",
    b"\x30\x03\x01\x01\xff",
    b"\x01\x01\xff",
    b"\x03\x02\x05\xa0",
    b"\x17\x0d260101000000Z",
    b"\x18\x0f20260101000000Z",
    b"\x0c\x01x",
    b"\x1e\x02\x00x",
    b"\x82\x01x",
    b"\x87\x04\x7f\x00\x00\x01",
    b"\x86\x0bhttp://h/c",
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
];

/// The first byte says what the rest is taken for.
fn run(data: &[u8]) {
    let [what, rest @ ..] = data else { return };
    match what % 3 {
        0 => entry::facts(rest),
        1 => entry::evaluation(rest),
        _ => entry::revocation_list(rest),
    }
}

/// Certificates of every class that the tests of `mqgate-identity` make are among the inputs that are kept.
fn seeds() -> Vec<Vec<u8>> {
    vec![vec![0], vec![1], vec![2]]
}
