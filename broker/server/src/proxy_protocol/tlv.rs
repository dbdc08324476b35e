//! What a header of version 2 says beyond addresses: names, the TLS session that ended in the proxy, the
//! client's certificate.

use mqgate_identity::hooks::TlsSession;

use super::header::{HeaderError, malformed};

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
const SSL_CLIENT_CERT: u8 = 0x28;

/// Bits of the `client` field.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

const LONGEST_UNIQUE_ID: usize = 128;
const LONGEST_NAME: usize = 255;
/// Certificates that one header may carry; the evaluation has a limit of its own.
const MOST_CERTIFICATES: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub alpn: Option<String>,
    /// The name that the client asked for: SNI.
    pub authority: Option<String>,
    pub unique_id: Option<Vec<u8>>,
    pub ssl: Option<Ssl>,
    /// DER, the client's own first.
    pub certificates: Vec<Vec<u8>>,
}

/// The TLS session between client and proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ssl {
    /// The client spoke TLS.
    pub is_tls: bool,
    /// The client had a certificate, in this connection or in the session that it resumed.
    pub has_certificate: bool,
    /// The proxy has verified that certificate.
    pub verified: bool,
    /// The proxy's own error code.
    pub verify_result: u32,
    pub version: Option<String>,
    pub common_name: Option<String>,
    pub cipher: Option<String>,
}

impl Facts {
    /// `header` is all of it, for the checksum; `tlvs` what stands after the addresses.
    pub(super) fn parse(header: &[u8], tlvs: &[u8], certificate_tlv: u8) -> Result<Self, HeaderError> {
        let mut facts = Self::default();
        let mut standard_certificate = None;
        for tlv in Tlvs(tlvs) {
            let (kind, value) = tlv?;
            match kind {
                ALPN => once(&mut facts.alpn, String::from_utf8_lossy(value).into_owned())?,
                AUTHORITY => once(&mut facts.authority, text(value)?)?,
                UNIQUE_ID if value.len() > LONGEST_UNIQUE_ID => {
                    return Err(malformed("its unique id is longer than 128 bytes"));
                }
                UNIQUE_ID => once(&mut facts.unique_id, value.to_vec())?,
                CRC32C => check_sum(header, value)?,
                SSL => once(&mut facts.ssl, Ssl::parse(value, &mut standard_certificate)?)?,
                kind if kind == certificate_tlv => split_certificates(value, &mut facts.certificates)?,
                _ => {} // Others may have been agreed upon by others.
            }
        }
        match (standard_certificate, facts.certificates.first()) {
            (Some(one), Some(other)) if one != *other => {
                return Err(malformed("it carries two different certificates"));
            }
            (Some(one), None) => facts.certificates.push(one),
            _ => {}
        }
        Ok(facts)
    }

    /// What the client's own TLS session with the proxy was, as far as the proxy told.
    pub fn tls_session(&self) -> Option<TlsSession> {
        let ssl = self.ssl.as_ref().filter(|ssl| ssl.is_tls)?;
        Some(TlsSession {
            version: ssl.version.as_deref().map_or(0, version),
            cipher_suite: ssl.cipher.as_deref().map_or(0, cipher_suite),
            server_name: self.authority.clone(),
            alpn: self.alpn.clone(),
            resumed: false,
        })
    }
}

impl Ssl {
    fn parse(value: &[u8], certificate: &mut Option<Vec<u8>>) -> Result<Self, HeaderError> {
        let Some((&[client, a, b, c, d], tlvs)) = value.split_first_chunk() else {
            return Err(malformed("its TLS information is cut off"));
        };
        let verify_result = u32::from_be_bytes([a, b, c, d]);
        let has_certificate = client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0;
        let mut ssl = Self {
            is_tls: client & CLIENT_SSL != 0,
            has_certificate,
            verified: has_certificate && verify_result == 0,
            verify_result,
            ..Self::default()
        };
        for tlv in Tlvs(tlvs) {
            let (kind, value) = tlv?;
            match kind {
                SSL_VERSION => once(&mut ssl.version, text(value)?)?,
                SSL_CN => once(&mut ssl.common_name, text(value)?)?,
                SSL_CIPHER => once(&mut ssl.cipher, text(value)?)?,
                SSL_CLIENT_CERT => {
                    let mut one = Vec::new();
                    split_certificates(value, &mut one)?;
                    match one.pop() {
                        Some(der) if one.is_empty() => once(certificate, der)?,
                        _ => return Err(malformed("its certificate is not one")),
                    }
                }
                _ => {}
            }
        }
        Ok(ssl)
    }
}

/// Type, length, value; one after the other.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((&[kind, high, low], rest)) = self.0.split_first_chunk() else {
            self.0 = &[];
            return Some(Err(malformed("a TLV is cut off")));
        };
        let Some((value, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))) else {
            self.0 = &[];
            return Some(Err(malformed("a TLV is cut off")));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

/// What stands twice is not guessed about.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed("a TLV stands twice")),
    }
}

fn text(value: &[u8]) -> Result<String, HeaderError> {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= LONGEST_NAME && !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(malformed("a name in it is not text of at most 255 bytes")),
    }
}

/// Takes a run of DER certificates apart.
fn split_certificates(mut der: &[u8], into: &mut Vec<Vec<u8>>) -> Result<(), HeaderError> {
    const BAD: HeaderError = malformed("its certificate is not DER");
    while !der.is_empty() {
        if into.len() >= MOST_CERTIFICATES {
            return Err(malformed("it carries more than 32 certificates"));
        }
        let (content, head) = match der {
            [0x30, length @ 0..=0x7F, ..] => (usize::from(*length), 2),
            [0x30, 0x81, length, ..] => (usize::from(*length), 3),
            [0x30, 0x82, high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 4),
            _ => return Err(BAD),
        };
        let (one, rest) = der.split_at_checked(head + content).ok_or(BAD)?;
        into.push(one.to_vec());
        der = rest;
    }
    Ok(())
}

/// The checksum is over the whole header with its own four bytes as zeros.
fn check_sum(header: &[u8], value: &[u8]) -> Result<(), HeaderError> {
    let &[a, b, c, d] = value else { return Err(malformed("its checksum has not four bytes")) };
    // `value` is a part of `header`.
    let at = value.as_ptr().addr() - header.as_ptr().addr();
    let sum = header.iter().enumerate().fold(!0_u32, |sum, (index, byte)| {
        let byte = if (at..at + 4).contains(&index) { 0 } else { *byte };
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg()))
    });
    if !sum == u32::from_be_bytes([a, b, c, d]) { Ok(()) } else { Err(malformed("its checksum is wrong")) }
}

fn version(name: &str) -> u16 {
    match name {
        "TLSv1.3" => 0x0304,
        "TLSv1.2" => 0x0303,
        "TLSv1.1" => 0x0302,
        "TLSv1" | "TLSv1.0" => 0x0301,
        _ => 0,
    }
}

/// The suites that are in use, by OpenSSL's names.
fn cipher_suite(name: &str) -> u16 {
    match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xC02B,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xC02C,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xC02F,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xC030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xCCA8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xCCA9,
        "DHE-RSA-AES128-GCM-SHA256" => 0x009E,
        "DHE-RSA-AES256-GCM-SHA384" => 0x009F,
        "AES128-GCM-SHA256" => 0x009C,
        "AES256-GCM-SHA384" => 0x009D,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::{Header, parse};
    use super::super::testing::{Builder, ssl};
    use super::*;

    fn facts(builder: Builder) -> Result<Facts, HeaderError> {
        match parse(&builder.bytes(), 0xE0)? {
            Header::Proxied(proxied) => Ok(proxied.facts),
            Header::Local => panic!("it is proxied"),
        }
    }

    fn v4() -> Builder {
        Builder::v4("192.0.2.7:1")
    }

    const DER: &[u8] = &[0x30, 3, 2, 1, 5];

    #[test]
    fn the_session_that_ended_in_the_proxy() {
        let inner = [
            (SSL_VERSION, b"TLSv1.3".as_slice()),
            (SSL_CN, b"meter-7"),
            (SSL_CIPHER, b"TLS_AES_256_GCM_SHA384"),
        ];
        let facts = facts(
            v4().tlv(AUTHORITY, b"mqtt.example.com")
                .tlv(ALPN, b"mqtt")
                .tlv(UNIQUE_ID, b"u-1")
                .tlv(0x04, b"\0\0")
                .tlv(SSL, &ssl(7, 0, &inner)),
        )
        .unwrap();
        let session = facts.tls_session().unwrap();
        assert_eq!((session.version, session.cipher_suite), (0x0304, 0x1302));
        assert_eq!(
            (session.server_name.as_deref(), session.alpn.as_deref()),
            (Some("mqtt.example.com"), Some("mqtt"))
        );
        assert_eq!(facts.unique_id.as_deref(), Some(b"u-1".as_slice()));
        let ssl = facts.ssl.unwrap();
        assert!(ssl.verified && ssl.has_certificate);
        assert_eq!(ssl.common_name.as_deref(), Some("meter-7"));
    }

    #[test]
    fn a_certificate_that_was_not_verified_is_not_verified() {
        let of =
            |client, verify| facts(v4().tlv(SSL, &ssl(client, verify, &[]))).unwrap().ssl.unwrap().verified;
        assert!(of(3, 0));
        assert!(of(5, 0), "a resumed session");
        assert!(!of(3, 18));
        assert!(!of(1, 0), "there was none");
        assert!(facts(v4().tlv(SSL, &ssl(0, 0, &[]))).unwrap().tls_session().is_none());
    }

    #[test]
    fn certificates_in_one_tlv_or_in_several() {
        let two = facts(v4().tlv(0xE0, &[DER, DER].concat())).unwrap().certificates;
        assert_eq!(two, [DER, DER]);
        assert_eq!(facts(v4().tlv(0xE0, DER).tlv(0xE0, DER)).unwrap().certificates, two);
        assert_eq!(facts(v4().tlv(SSL, &ssl(3, 0, &[(SSL_CLIENT_CERT, DER)]))).unwrap().certificates, [DER]);
        assert_eq!(facts(v4().tlv(0xE1, DER)).unwrap().certificates.len(), 0, "another type");
        let other: &[u8] = &[0x30, 3, 2, 1, 6];
        let both = v4().tlv(0xE0, DER).tlv(SSL, &ssl(3, 0, &[(SSL_CLIENT_CERT, other)]));
        assert_eq!(facts(both), Err(malformed("it carries two different certificates")));
        let many = v4().tlv(0xE0, &DER.repeat(33));
        assert_eq!(facts(many), Err(malformed("it carries more than 32 certificates")));
        for bad in [&DER[..4], &[0x31, 0], &[0x30, 0x83, 0, 0, 0], &[0x30]] {
            assert_eq!(facts(v4().tlv(0xE0, bad)), Err(malformed("its certificate is not DER")));
        }
    }

    #[test]
    fn what_is_wrong_or_stands_twice_is_refused() {
        let cut = |bytes: &[u8]| facts(v4().raw(bytes)).unwrap_err();
        assert_eq!(cut(&[1]), malformed("a TLV is cut off"));
        assert_eq!(cut(&[1, 0, 2, 0]), malformed("a TLV is cut off"));
        assert_eq!(facts(v4().tlv(SSL, &[1, 0, 0])), Err(malformed("its TLS information is cut off")));
        assert_eq!(
            facts(v4().tlv(AUTHORITY, b"a").tlv(AUTHORITY, b"a")),
            Err(malformed("a TLV stands twice"))
        );
        let long = malformed("a name in it is not text of at most 255 bytes");
        assert_eq!(facts(v4().tlv(AUTHORITY, &[b'a'; 256])), Err(long.clone()));
        assert!(facts(v4().tlv(AUTHORITY, &[b'a'; 255])).is_ok());
        assert_eq!(facts(v4().tlv(SSL, &ssl(3, 0, &[(SSL_CN, b"\xFF")]))), Err(long.clone()));
        assert_eq!(facts(v4().tlv(SSL, &ssl(3, 0, &[(SSL_CN, b"a\nb")]))), Err(long));
        assert!(facts(v4().tlv(UNIQUE_ID, &[0; 128])).is_ok());
        assert_eq!(
            facts(v4().tlv(UNIQUE_ID, &[0; 129])),
            Err(malformed("its unique id is longer than 128 bytes"))
        );
    }

    #[test]
    fn a_checksum_is_checked() {
        let good = v4().tlv(AUTHORITY, b"a").checksum();
        assert!(parse(&good, 0xE0).is_ok());
        let mut bad = good.clone();
        bad[17] ^= 1;
        assert_eq!(parse(&bad, 0xE0), Err(malformed("its checksum is wrong")));
        assert_eq!(facts(v4().tlv(CRC32C, &[0; 3])), Err(malformed("its checksum has not four bytes")));
    }
}
