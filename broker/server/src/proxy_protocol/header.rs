//! The header of the PROXY protocol: bytes in, facts out.
//!
//! Pure, bounded and without a panic whatever the bytes are. Does not know who sent them, or whether that
//! somebody may say such things.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::Facts;

/// How a header of version 2 begins.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V1_BEGINS: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const V1_LONGEST: usize = 107;
/// `PROXY UNKNOWN` and the end of the line.
const V1_SHORTEST: usize = 15;
/// What stands before the addresses in version 2.
const V2_FIXED: usize = 16;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// The proxy speaks for itself, to see whether we are well.
    Local,
    Proxied(Box<Proxied>),
}

/// A connection that was made to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxied {
    /// `None`: not known, or not of an IP network.
    pub source: Option<SocketAddr>,
    pub facts: Facts,
}

/// Why there is no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("it does not begin with a PROXY protocol header")]
    Absent,
    #[error("its header is longer than {0} bytes")]
    TooLong(usize),
    #[error("its header has the version {0}; 1 and 2 exist")]
    Version(u8),
    #[error("its header is malformed: {0}")]
    Malformed(&'static str),
}

pub(super) const fn malformed(what: &'static str) -> HeaderError {
    HeaderError::Malformed(what)
}

/// How many more bytes are part of the header for certain, after `received`. 0: it is complete.
///
/// Whoever reads no more than that never takes a byte of what follows the header.
pub fn missing(received: &[u8], longest: usize) -> Result<usize, HeaderError> {
    let common = |beginning: &[u8]| received.iter().zip(beginning).all(|(byte, expected)| byte == expected);
    let length = received.len();
    if length > 0 && common(V1_BEGINS) {
        return missing_v1(received);
    }
    if !common(&SIGNATURE) {
        return Err(HeaderError::Absent);
    }
    let whole = match received.get(14..16) {
        Some(&[high, low]) => V2_FIXED + usize::from(u16::from_be_bytes([high, low])),
        _ if length == 0 => V1_SHORTEST.min(V2_FIXED),
        _ => V2_FIXED,
    };
    if whole > longest {
        return Err(HeaderError::TooLong(longest));
    }
    Ok(whole.saturating_sub(length))
}

fn missing_v1(received: &[u8]) -> Result<usize, HeaderError> {
    let length = received.len();
    match received.iter().position(|byte| *byte == b'\n') {
        Some(end) if end + 1 == length && received.ends_with(b"\r\n") => return Ok(0),
        Some(_) => return Err(malformed("its line ends in the middle")),
        None => {}
    }
    if length >= V1_LONGEST {
        return Err(HeaderError::TooLong(V1_LONGEST));
    }
    let end = if received.last() == Some(&b'\r') { 1 } else { 2 };
    Ok(V1_SHORTEST.saturating_sub(length).max(end).min(V1_LONGEST - length))
}

/// Reads a header that [`missing`] has called complete.
pub fn parse(header: &[u8], certificate_tlv: u8) -> Result<Header, HeaderError> {
    match header.strip_prefix(V1_BEGINS) {
        Some(rest) => v1(rest),
        None => v2(header, certificate_tlv),
    }
}

fn v1(rest: &[u8]) -> Result<Header, HeaderError> {
    let line = rest.strip_suffix(b"\r\n").ok_or(malformed("its line does not end"))?;
    let line = std::str::from_utf8(line).map_err(|_| malformed("its line is not text"))?;
    let proxied = |source| Ok(Header::Proxied(Box::new(Proxied { source, facts: Facts::default() })));
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // Whatever follows means nothing.
        return proxied(None);
    }
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err(malformed("its line has not six words"));
    };
    let address = |text: &str| -> Result<IpAddr, HeaderError> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from),
            _ => return Err(malformed("its family is neither TCP4 nor TCP6 nor UNKNOWN")),
        }
        .map_err(|_| malformed("an address is not one of its family"))
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port.to_string() == text => Ok(port),
        _ => Err(malformed("a port is not a number from 0 to 65535")),
    };
    let source = SocketAddr::new(address(source)?, port(source_port)?);
    address(destination)?;
    port(destination_port)?;
    proxied(Some(source))
}

fn v2(header: &[u8], certificate_tlv: u8) -> Result<Header, HeaderError> {
    let body = header.get(V2_FIXED..).ok_or(malformed("it is cut off"))?;
    let (version_and_command, family_and_transport) = (header[12], header[13]);
    if version_and_command >> 4 != 2 {
        return Err(HeaderError::Version(version_and_command >> 4));
    }
    match version_and_command & 0x0F {
        // The rest is to be skipped, whatever it is.
        0 => return Ok(Header::Local),
        1 => {}
        _ => return Err(malformed("its command is neither LOCAL nor PROXY")),
    }
    let cut = || malformed("its addresses are cut off");
    let (source, addresses) = match family_and_transport {
        0x00 => (None, 0),
        0x11 => {
            let block: &[u8; 12] = body.first_chunk().ok_or_else(cut)?;
            let &[a, b, c, d, _, _, _, _, high, low, _, _] = block;
            (Some((IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low]))), block.len())
        }
        0x21 => {
            let block: &[u8; 36] = body.first_chunk().ok_or_else(cut)?;
            let address: &[u8; 16] = block.first_chunk().ok_or_else(cut)?;
            (Some((IpAddr::from(*address), u16::from_be_bytes([block[32], block[33]]))), block.len())
        }
        0x31 => (None, body.get(..216).ok_or_else(cut)?.len()),
        0x12 | 0x22 | 0x32 => return Err(malformed("it speaks of datagrams on a stream")),
        _ => return Err(malformed("its address family is none that exists")),
    };
    let tlvs = body.get(addresses..).ok_or_else(cut)?;
    let facts = Facts::parse(header, tlvs, certificate_tlv)?;
    let source = source.map(|(address, port)| SocketAddr::new(address.to_canonical(), port));
    Ok(Header::Proxied(Box::new(Proxied { source, facts })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Builder, source};
    use super::*;

    const LONGEST: usize = 16 * 1024;

    /// Feeds bytes as they are asked for, and says what was read and what was left.
    fn read(bytes: &[u8]) -> Result<(Header, &[u8]), HeaderError> {
        let mut end = 0;
        loop {
            match missing(&bytes[..end], LONGEST)? {
                0 => return Ok((parse(&bytes[..end], 0xE0)?, &bytes[end..])),
                more => {
                    assert!(end + more <= bytes.len(), "it asks for {more} more than there are");
                    // One at a time is the worst that a network does.
                    end += 1;
                }
            }
        }
    }

    fn proxied(bytes: &[u8]) -> Proxied {
        match read(bytes) {
            Ok((Header::Proxied(proxied), _)) => *proxied,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_as_its_specification_has_it() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n\x10\x00";
        let (header, rest) = read(line).unwrap();
        assert_eq!(rest, b"\x10\x00");
        assert_eq!(
            header,
            Header::Proxied(Box::new(Proxied { source: source("192.0.2.7:56324"), facts: Facts::default() }))
        );
        let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        assert_eq!(proxied(six).source, source("[2001:db8::1]:1"));
        assert_eq!(proxied(b"PROXY UNKNOWN\r\n").source, None);
        let longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535 ffff:f...f:ffff ffff:f...f:ffff 65535 65535 xxx\r\n";
        assert!(longest.len() <= V1_LONGEST);
        assert_eq!(proxied(longest).source, None);
    }

    #[test]
    fn version_1_that_is_none() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +5 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n                ",
        ] {
            assert!(matches!(read(line.as_bytes()), Err(HeaderError::Malformed(_))), "{line:?}");
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(read(&endless).unwrap_err(), HeaderError::TooLong(V1_LONGEST));
    }

    #[test]
    fn what_is_no_header_is_seen_at_its_first_byte_that_differs() {
        for bytes in [
            b"\x10\x0c\x00\x04MQTT".as_slice(),
            b"\x16\x03\x01",
            b"GET / HTTP/1.1",
            b"PROXZ",
            b"\r\n\r\r",
            b"\r\nPROXY ",
        ] {
            let at = (0..=bytes.len()).find(|end| missing(&bytes[..*end], LONGEST).is_err());
            assert_eq!(missing(&bytes[..at.unwrap()], LONGEST), Err(HeaderError::Absent), "{bytes:?}");
        }
        assert_eq!(missing(b"", LONGEST), Ok(V1_SHORTEST));
    }

    #[test]
    fn version_2_of_both_families() {
        let header = Builder::v4("192.0.2.7:4242").bytes();
        assert_eq!(proxied(&header).source, source("192.0.2.7:4242"));
        let header = Builder::v6("[2001:db8::7]:4242").bytes();
        assert_eq!(proxied(&header).source, source("[2001:db8::7]:4242"));
        let header = Builder::v6("[::ffff:192.0.2.7]:1").bytes();
        assert_eq!(proxied(&header).source, source("192.0.2.7:1"));
        assert_eq!(proxied(&Builder::unspecified().bytes()).source, None);
        assert_eq!(proxied(&Builder::unix().bytes()).source, None);
        let (header, rest) = read(&[Builder::local().bytes(), b"rest".to_vec()].concat())
            .map(|(header, rest)| (header, rest.to_vec()))
            .unwrap();
        assert_eq!((header, rest.as_slice()), (Header::Local, b"rest".as_slice()));
    }

    #[test]
    fn version_2_that_is_none() {
        let good = Builder::v4("192.0.2.7:4242").bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read(&bytes).unwrap_err()
        };
        assert_eq!(with(12, 0x11), HeaderError::Version(1));
        assert_eq!(with(12, 0x22), malformed("its command is neither LOCAL nor PROXY"));
        assert_eq!(with(13, 0x12), malformed("it speaks of datagrams on a stream"));
        assert_eq!(with(13, 0x10), malformed("its address family is none that exists"));
        assert_eq!(with(13, 0x41), malformed("its address family is none that exists"));
        assert_eq!(with(13, 0x21), malformed("its addresses are cut off"));
        assert_eq!(with(15, 11), malformed("its addresses are cut off"));
        assert_eq!(with(14, 0xFF), HeaderError::TooLong(LONGEST));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..3) {
            match kind {
                0 => bytes.splice(0..0, *b"PROXY ").for_each(drop),
                1 => bytes.splice(0..0, SIGNATURE.into_iter().chain([0x21, 0x11, 0])).for_each(drop),
                _ => {}
            }
            let mut end = 0;
            while let Ok(more @ 1..) = missing(&bytes[..end], LONGEST) {
                if end + more > bytes.len() {
                    break;
                }
                end += more;
            }
            if missing(&bytes[..end], LONGEST) == Ok(0) {
                let _ = parse(&bytes[..end], 0xE0);
            }
            let _ = parse(&bytes, 0xE0);
        }
    }
}
