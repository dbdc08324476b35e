//! A token as it is sent: the JWS compact serialization (RFC 7515, 7.1), taken apart. Knows no keys and believes nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// Longer ones are not looked at.
pub const LONGEST_TOKEN: usize = 16 << 10;

#[derive(Debug)]
pub struct Token<'t> {
    pub header: Header,
    /// What the signature is over.
    pub signed: &'t [u8],
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Of the header what counts. Keys and addresses of keys in it (`jwk`, `jku`, `x5c`, …) are the sender's word and are not
/// read.
#[derive(Debug, Deserialize)]
pub struct Header {
    pub alg: String,
    pub kid: Option<String>,
    pub typ: Option<String>,
    /// Extensions that must be understood; none is.
    pub crit: Option<Value>,
}

impl<'t> Token<'t> {
    /// `None` where it is no token at all: some other password.
    pub fn parse(password: &'t [u8]) -> Option<Self> {
        if password.len() > LONGEST_TOKEN {
            return None;
        }
        let text = std::str::from_utf8(password).ok()?;
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            signed: signed.as_bytes(),
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }
}

/// No padding, no other alphabet, no bits left over.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"))
    }

    #[test]
    fn three_parts_and_a_header() {
        let text = token(r#"{"alg": "ES256", "kid": "k", "jku": "https://evil.example"}"#);
        let token = Token::parse(text.as_bytes()).unwrap();
        assert_eq!((token.header.alg.as_str(), token.header.kid.as_deref()), ("ES256", Some("k")));
        assert_eq!((token.payload.as_slice(), token.signature.as_slice()), (&b"{}"[..], &b"sig"[..]));
        assert_eq!(token.signed, text.rsplit_once('.').unwrap().0.as_bytes());
    }

    #[test]
    fn everything_else_is_some_other_password() {
        let good = token(r#"{"alg": "ES256"}"#);
        let long = format!("{good}{}", "A".repeat(LONGEST_TOKEN));
        for other in [
            "",
            "secret",
            "a.b",
            "..",
            "a.b.c",
            &format!("{good}.x"),
            &format!("{good}="),
            &long,
            &good.replace('.', ". "),
            &token("[]"),
            &token("{}"),
            &token(r#"{"alg": 1}"#),
            &good.replace("c2ln", "c2l+"),
            &good.replace("c2ln", "c2l"),
        ] {
            assert!(Token::parse(other.as_bytes()).is_none(), "{other:.100}");
        }
        assert!(Token::parse(b"\xff.e30.").is_none());
    }
}
