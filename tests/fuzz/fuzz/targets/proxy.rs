//! The PROXY protocol's header, versions 1 and 2: whatever is sent, no more is taken than the header, and the pieces
//! that it comes in make no difference.

use mqgate_server::proxy_protocol::header::{Header, HeaderError, SIGNATURE, missing, parse};

use crate::engine::Target;

pub const TARGET: Target = Target { name: "proxy", dictionary: WORDS, longest: 2048, seeds, run };

const WORDS: &[&[u8]] = &[
    &SIGNATURE,
    b"PROXY TCP4 ",
    b"PROXY TCP6 ",
    b"PROXY UNKNOWN",
    b"\r\n",
    b"192.0.2.7 ",
    b"2001:db8::7 ",
    b" 65535",
    b"\x20\x00\x00",
    b"\x21\x11\x00\x0c",
    b"\x21\x21\x00\x24",
    b"\x21\x31\x00\xd8",
    b"\x20\x00\x05\x01\x00\x00\x00\x00",
    b"\x21\x00\x07TLSv1.3",
    b"\x22\x00\x02cn",
    b"\x03\x00\x04",
    b"\x04\x00\x01\x00",
    b"\x02\x00\x01h",
    b"\x05\x00\x01u",
    b"\xe0\x00\x01c",
];
const LONGEST: usize = 512;
const CERTIFICATE_TLV: u8 = 0xE0;

fn run(data: &[u8]) {
    // As it comes from a socket: never more than is known to be missing.
    let mut taken = 0;
    let gathered = loop {
        match missing(&data[..taken], LONGEST) {
            Err(error) => break Err(error),
            Ok(0) => break parse(&data[..taken], CERTIFICATE_TLV),
            Ok(count) => {
                assert!(taken + count <= LONGEST.max(107), "{count} more after {taken}");
                if taken + count > data.len() {
                    return;
                }
                taken += count;
            }
        }
    };
    // Byte by byte it is the same.
    let bytewise = (0..=data.len()).find_map(|end| match missing(&data[..end], LONGEST) {
        Err(error) => Some((end, Err(error))),
        Ok(0) => Some((end, parse(&data[..end], CERTIFICATE_TLV))),
        Ok(_) => None,
    });
    let Some((end, bytewise)) = bytewise else { panic!("complete at once, but never byte by byte") };
    match (&gathered, &bytewise) {
        (Ok(one), Ok(other)) => {
            assert_eq!((one, taken), (other, end), "in pieces it is another header");
            says_what_it_read(one);
        }
        // Which of its faults is seen first depends on how much of it is there.
        (Err(_), Err(_)) => {}
        (one, other) => panic!("whole {one:?}, in pieces {other:?}"),
    }
    // Whoever calls it with something else gets an error, and no more.
    let _ = parse(data, CERTIFICATE_TLV);
    let _: Result<usize, HeaderError> = missing(data, data.len());
}

fn says_what_it_read(header: &Header) {
    if let Header::Proxied(proxied) = header {
        let _ = proxied.facts.tls_session();
        let longest = proxied.facts.certificates.iter().map(Vec::len).max();
        assert!(longest.unwrap_or(0) <= LONGEST);
        if let Some(name) = proxied.facts.ssl.as_ref().and_then(|ssl| ssl.common_name.as_ref()) {
            assert!(name.len() <= LONGEST);
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let v2 = |command: u8, family: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).expect("a short body").to_be_bytes();
        [&SIGNATURE, &[command, family][..], &length, body, b"rest"].concat()
    };
    let v4 = [192, 0, 2, 7, 192, 0, 2, 8, 16, 146, 0, 1];
    let ssl = b"\x20\x00\x19\x07\x00\x00\x00\x00\x21\x00\x07TLSv1.3\x22\x00\x02cn\x23\x00\x01C";
    vec![
        b"PROXY TCP4 192.0.2.7 192.0.2.8 4242 1883\r\nrest".to_vec(),
        b"PROXY TCP6 2001:db8::7 2001:db8::8 4242 1883\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN whatever it says\r\n".to_vec(),
        v2(0x20, 0, b""),
        v2(0x21, 0x11, &v4),
        v2(0x21, 0x21, &[0x20; 36]),
        v2(0x21, 0x31, &[0; 216]),
        v2(0x21, 0x11, &[&v4, &ssl[..]].concat()),
        v2(
            0x21,
            0x11,
            &[
                &v4,
                &b"\x01\x00\x04mqtt\x02\x00\x01h\x05\x00\x01u\x03\x00\x04\x00\x00\x00\x00\xe0\x00\x03der"[..],
            ]
            .concat(),
        ),
    ]
}
