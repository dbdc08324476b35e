//! SCRAM-SHA-256, the server's side: messages and proofs, without channel binding. [RFC 5802, RFC 7677]
//!
//! Knows no file and no MQTT. A password is prepared by SASLprep when credentials are made; a login needs none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Name of the mechanism: the Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";
/// For new credentials.
pub const ITERATIONS: u32 = 16_384;
/// What credentials of others may have: RFC 7677 says no less, and every login of a client costs this much.
const POSSIBLE_ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=1_000_000;
const SALT_LENGTH: usize = 16;
/// Longest message of a client.
const LONGEST_MESSAGE: usize = 4_096;

type Key = [u8; 32];

/// What a server keeps of a password: nobody logs in with it, but whoever has it can try passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

/// The client's first message, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// The header that says there is no channel binding.
    header: &'a str,
    bare: &'a str,
    pub user: String,
    nonce: &'a str,
}

/// What has to be remembered between the server's first message and the client's last.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begun {
    pub user: String,
    header: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

/// Why a message is not one. Never more than "no" for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("the message is not a SCRAM message")]
    Malformed,
    #[error("channel binding is asked for, which this mechanism has not")]
    ChannelBinding,
    #[error("another identity than the user's is asked for")]
    OtherIdentity,
    #[error("an extension is demanded that nobody knows")]
    Extension,
    #[error("the message belongs to another exchange")]
    OtherExchange,
    #[error("unknown user or wrong password")]
    Proof,
}

impl Credentials {
    /// Of a new password; `None` if SASLprep forbids it.
    pub fn new(password: &str, salt: [u8; SALT_LENGTH], iterations: u32) -> Option<Self> {
        let password = stringprep::saslprep(password).ok().filter(|password| !password.is_empty())?;
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
        let stored_key = Sha256::digest(mac(&salted, b"Client Key")).into();
        Some(Self { iterations, salt: salt.to_vec(), stored_key, server_key: mac(&salted, b"Server Key") })
    }

    /// For a user who does not exist: the same salt each time, and no password fits.
    pub fn decoy(secret: &Key, user: &str) -> Self {
        let salt = mac(secret, user.as_bytes())[..SALT_LENGTH].to_vec();
        let nothing = mac(secret, b"no password");
        Self { iterations: ITERATIONS, salt, stored_key: nothing, server_key: nothing }
    }

    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STORED-KEY:SERVER-KEY`, as other servers write it too.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix(METHOD)?.strip_prefix('$')?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| Key::try_from(BASE64.decode(text).ok()?).ok();
        let iterations = iterations.parse().ok().filter(|number| POSSIBLE_ITERATIONS.contains(number))?;
        let salt = BASE64.decode(salt).ok().filter(|salt| (8..=64).contains(&salt.len()))?;
        Some(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// Whether `proof` is the client's for this exchange.
    fn fits(&self, message: &[u8], proof: &Key) -> bool {
        let signature = mac(&self.stored_key, message);
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(left, right)| left ^ right).collect();
        let stored: Key = Sha256::digest(client_key).into();
        stored.ct_eq(&self.stored_key).into()
    }
}

impl std::fmt::Display for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let base64 = |bytes: &[u8]| BASE64.encode(bytes);
        let Self { iterations, salt, stored_key, server_key } = self;
        write!(f, "{METHOD}${iterations}:{}${}:{}", base64(salt), base64(stored_key), base64(server_key))
    }
}

impl<'a> ClientFirst<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        let mut parts = message.splitn(3, ',');
        let flag = parts.next().unwrap_or_default();
        let identity = parts.next().ok_or(ScramError::Malformed)?;
        let bare = parts.next().ok_or(ScramError::Malformed)?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed),
        }
        let mut fields = bare.split(',');
        let first = fields.next().unwrap_or_default();
        if first.starts_with("m=") {
            return Err(ScramError::Extension);
        }
        let user = first.strip_prefix("n=").and_then(user_name).ok_or(ScramError::Malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).filter(|nonce| is_nonce(nonce));
        if !identity.is_empty() {
            let other = identity.strip_prefix("a=").and_then(user_name).ok_or(ScramError::Malformed)?;
            if other != user {
                return Err(ScramError::OtherIdentity);
            }
        }
        let header = &message[..message.len() - bare.len()];
        Ok(Self { header, bare, user, nonce: nonce.ok_or(ScramError::Malformed)? })
    }

    /// The server's answer, and what to remember of it.
    pub fn answer(self, credentials: &Credentials, server_nonce: &str) -> Begun {
        let nonce = format!("{}{server_nonce}", self.nonce);
        let salt = BASE64.encode(&credentials.salt);
        Begun {
            server_first: format!("r={nonce},s={salt},i={}", credentials.iterations),
            user: self.user,
            header: self.header.to_owned(),
            client_first_bare: self.bare.to_owned(),
            nonce,
        }
    }
}

impl Begun {
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Judges the client's last message; gives the server's, which proves that it knows the credentials too.
    pub fn finish(&self, credentials: &Credentials, message: &[u8]) -> Result<String, ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let proof = BASE64.decode(proof).ok().and_then(|proof| Key::try_from(proof).ok());
        let proof = proof.ok_or(ScramError::Malformed)?;
        let mut fields = without_proof.split(',');
        let header = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or(ScramError::Malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        if nonce != self.nonce || header != BASE64.encode(&self.header) {
            return Err(ScramError::OtherExchange);
        }
        let signed = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        if !credentials.fits(signed.as_bytes(), &proof) {
            return Err(ScramError::Proof);
        }
        Ok(format!("v={}", BASE64.encode(mac(&credentials.server_key, signed.as_bytes()))))
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > LONGEST_MESSAGE {
        return Err(ScramError::Malformed);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

/// `=2C` is a comma and `=3D` an equals sign; nothing else begins with `=`.
fn user_name(escaped: &str) -> Option<String> {
    let plain = escaped.replace("=2C", ",").replace("=3D", "=");
    let legal = escaped.match_indices('=').all(|(at, _)| {
        let rest = &escaped[at..];
        rest.starts_with("=2C") || rest.starts_with("=3D")
    });
    (legal && !plain.is_empty()).then_some(plain)
}

/// Printable ASCII without a comma.
fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| matches!(byte, 0x21..=0x2B | 0x2D..=0x7E))
}

fn mac(key: &[u8], message: &[u8]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3.
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn pencil() -> Credentials {
        let salt = BASE64.decode(SALT).unwrap().try_into().unwrap();
        Credentials::new("pencil", salt, 4_096).unwrap()
    }

    fn begun(credentials: &Credentials) -> Begun {
        ClientFirst::parse(FIRST).unwrap().answer(credentials, SERVER_NONCE)
    }

    #[test]
    fn the_exchange_of_the_specification_comes_out_as_written_there() {
        let credentials = pencil();
        let begun = begun(&credentials);
        assert_eq!(
            begun.server_first(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        assert_eq!(
            begun.finish(&credentials, LAST).unwrap(),
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        assert_eq!(Credentials::parse(&credentials.to_string()), Some(credentials));
    }

    #[test]
    fn everything_else_is_a_no() {
        let credentials = pencil();
        let other = Credentials::new("pencil2", [7; 16], 4_096).unwrap();
        assert_eq!(begun(&credentials).finish(&other, LAST), Err(ScramError::Proof));
        let decoy = Credentials::decoy(&[1; 32], "user");
        assert_eq!(begun(&credentials).finish(&decoy, LAST), Err(ScramError::Proof));
        assert_eq!(decoy, Credentials::decoy(&[1; 32], "user"), "the same salt each time");
        let text = String::from_utf8(LAST.to_vec()).unwrap();
        for (changed, error) in [
            (text.replace("c=biws", "c=eSws"), ScramError::OtherExchange),
            (text.replace("rOpr", "rOps"), ScramError::OtherExchange),
            (text.replace("p=dHzb", "p=dHzc"), ScramError::Proof),
            (text.replace(",p=dHzb", ",q=dHzb"), ScramError::Malformed),
            (text.replace("p=dHzb", "p=!"), ScramError::Malformed),
        ] {
            assert_eq!(begun(&credentials).finish(&credentials, changed.as_bytes()), Err(error), "{changed}");
        }
    }

    #[test]
    fn first_messages_are_judged() {
        let parse = |text: &str| ClientFirst::parse(text.as_bytes()).map(|first| first.user);
        assert_eq!(parse("y,a=an=2Cn,n=an=2Cn,r=x").as_deref(), Ok("an,n"));
        for (text, error) in [
            ("", ScramError::Malformed),
            ("n,,n=user", ScramError::Malformed),
            ("n,,n=,r=x", ScramError::Malformed),
            ("n,,n=a=b,r=x", ScramError::Malformed),
            ("n,,n=user,r=", ScramError::Malformed),
            ("x,,n=user,r=x", ScramError::Malformed),
            ("p=tls-exporter,,n=user,r=x", ScramError::ChannelBinding),
            ("n,a=other,n=user,r=x", ScramError::OtherIdentity),
            ("n,,m=ext,n=user,r=x", ScramError::Extension),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(ClientFirst::parse(&[0xFF]), Err(ScramError::Malformed));
        assert_eq!(ClientFirst::parse(&vec![b'n'; 5000]), Err(ScramError::Malformed));
    }

    #[test]
    fn passwords_are_prepared_and_credentials_bounded() {
        let new = |password| Credentials::new(password, [1; 16], 4_096);
        assert_eq!(new("a\u{AA}"), new("aa"), "SASLprep");
        assert_eq!(new("a\u{7}"), None);
        assert_eq!(new(""), None);
        for line in ["SCRAM-SHA-256$1:c2FsdHNhbHQ=$a:b", "SCRAM-SHA-1$4096:c2FsdHNhbHQ=$a:b", "plain"] {
            assert_eq!(Credentials::parse(line), None, "{line}");
        }
        let weak = pencil().to_string().replace("$4096:", "$4095:");
        assert_eq!(Credentials::parse(&weak), None);
    }
}
