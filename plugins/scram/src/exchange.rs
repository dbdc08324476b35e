//! The messages of SCRAM, the server's side, without channel binding. [RFC 5802, sections 5 to 7]

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::credentials::{Credentials, Key};

/// Longest message of a client. What is remembered of it is below 16 KiB, which the broker allows unless told otherwise.
const LONGEST_MESSAGE: usize = 2_048;

/// Why an exchange ends badly: for the audit log, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    ChannelBinding,
    OtherIdentity,
    Extension,
    OtherExchange,
    Proof,
}

/// The client's first message, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// The part that says there is no channel binding.
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
    pub user: String,
}

/// What the second step has to know of the first one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub user: String,
    pub server_first: String,
    header: String,
    bare: String,
    nonce: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the message is not a SCRAM message",
            Self::ChannelBinding => "channel binding is asked for, which this mechanism has not",
            Self::OtherIdentity => "another identity than the user's is asked for",
            Self::Extension => "an extension is demanded that nobody knows",
            Self::OtherExchange => "the message belongs to another exchange",
            Self::Proof => "unknown user or wrong password",
        })
    }
}

impl<'a> ClientFirst<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, Refusal> {
        let message = text(message)?;
        let (flag, rest) = message.split_once(',').ok_or(Refusal::Malformed)?;
        let (identity, bare) = rest.split_once(',').ok_or(Refusal::Malformed)?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(Refusal::ChannelBinding),
            _ => return Err(Refusal::Malformed),
        }
        let mut fields = bare.split(',');
        let user = match fields.next().unwrap_or_default().split_once('=') {
            Some(("n", name)) => unescaped(name)?,
            Some(("m", _)) => return Err(Refusal::Extension),
            _ => return Err(Refusal::Malformed),
        };
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(Refusal::Malformed)?;
        // Printable, and no comma: that is where fields end.
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::Malformed);
        }
        if !identity.is_empty() {
            let other = identity.strip_prefix("a=").ok_or(Refusal::Malformed)?;
            if unescaped(other)? != user {
                return Err(Refusal::OtherIdentity);
            }
        }
        Ok(Self { header: &message[..message.len() - bare.len()], bare, nonce, user })
    }

    /// The server's answer, and what is to be remembered. `random` makes its part of the nonce.
    pub fn answer(&self, credentials: &Credentials, random: &[u8]) -> Begun {
        let nonce = format!("{}{}", self.nonce, BASE64.encode(random));
        let server_first =
            format!("r={nonce},s={},i={}", BASE64.encode(&credentials.salt), credentials.iterations);
        let (user, header, bare) = (self.user.clone(), self.header.to_owned(), self.bare.to_owned());
        Begun { user, server_first, header, bare, nonce }
    }
}

impl Begun {
    pub fn to_state(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts are JSON")
    }

    pub fn from_state(state: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(state).map_err(|error| format!("the state is not of this plugin: {error}"))
    }

    /// Judges the client's last message; gives the server's, which proves that it knows the credentials too.
    pub fn finish(&self, credentials: &Credentials, message: &[u8]) -> Result<String, Refusal> {
        let (without_proof, proof) = text(message)?.rsplit_once(",p=").ok_or(Refusal::Malformed)?;
        let proof = BASE64.decode(proof).ok().and_then(|proof| Key::try_from(proof).ok());
        let proof = proof.ok_or(Refusal::Malformed)?;
        let mut fields = without_proof.split(',');
        let header = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or(Refusal::Malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(Refusal::Malformed)?;
        if header != BASE64.encode(&self.header) || nonce != self.nonce {
            return Err(Refusal::OtherExchange);
        }
        let signed = format!("{},{},{without_proof}", self.bare, self.server_first);
        if !credentials.fits(signed.as_bytes(), &proof) {
            return Err(Refusal::Proof);
        }
        Ok(format!("v={}", BASE64.encode(credentials.server_signature(signed.as_bytes()))))
    }
}

fn text(message: &[u8]) -> Result<&str, Refusal> {
    let message = std::str::from_utf8(message).map_err(|_| Refusal::Malformed)?;
    // No name that SASLprep lets pass holds a control character, and none makes the state long.
    let fine = message.len() <= LONGEST_MESSAGE && !message.contains(char::is_control);
    if fine { Ok(message) } else { Err(Refusal::Malformed) }
}

/// A name as it was before `,` became `=2C` and `=` became `=3D`; no other `=` stands in it.
fn unescaped(name: &str) -> Result<String, Refusal> {
    let mut parts = name.split('=');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            (None, None) => return Err(Refusal::Malformed),
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    if plain.is_empty() { Err(Refusal::Malformed) } else { Ok(plain) }
}

#[cfg(test)]
pub mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::credentials::mac;

    /// What a client says to the server's first message, and what it wants to hear then. [RFC 5802, section 3]
    pub fn client_last(password: &str, header: &str, bare: &str, server_first: &str) -> (String, String) {
        let fields: Vec<&str> = server_first.split(',').collect();
        let [nonce, salt, iterations] = fields[..] else { panic!("{server_first}") };
        let salt = BASE64.decode(&salt[2..]).unwrap();
        let mut block = mac(password.as_bytes(), &[&salt, &[0, 0, 0, 1]]);
        let mut salted = block;
        for _ in 1..iterations[2..].parse().unwrap() {
            block = mac(password.as_bytes(), &[&block]);
            salted.iter_mut().zip(block).for_each(|(byte, next)| *byte ^= next);
        }
        let client_key = mac(&salted, &[b"Client Key"]);
        let without_proof = format!("c={},{nonce}", BASE64.encode(header));
        let signed = format!("{bare},{server_first},{without_proof}");
        let signature = mac(&Sha256::digest(client_key), &[signed.as_bytes()]);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(left, right)| left ^ right).collect();
        let server_final = mac(&mac(&salted, &[b"Server Key"]), &[signed.as_bytes()]);
        (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(server_final)))
    }

    /// The exchange of RFC 7677, section 3.
    const STORED: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const BARE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn begun() -> Begun {
        Begun {
            user: "user".into(),
            server_first: format!("r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
            header: "n,,".into(),
            bare: BARE.into(),
            nonce: NONCE.into(),
        }
    }

    #[test]
    fn the_exchange_of_the_specification_comes_out_as_written_there() {
        let pencil = Credentials::parse(STORED).unwrap();
        let begun = begun();
        assert_eq!(
            client_last("pencil", "n,,", BARE, &begun.server_first),
            (LAST.to_owned(), FINAL.to_owned()),
            "the client of these tests is one"
        );
        assert_eq!(begun.finish(&pencil, LAST.as_bytes()).as_deref(), Ok(FINAL));
        assert_eq!(Begun::from_state(&begun.to_state()), Ok(begun));
        assert!(Begun::from_state(b"{}").is_err());
    }

    #[test]
    fn every_other_last_message_is_refused() {
        let pencil = Credentials::parse(STORED).unwrap();
        for (changed, refusal) in [
            (LAST.replace("c=biws", "c=eSws"), Refusal::OtherExchange),
            (LAST.replace("rOpr", "rOps"), Refusal::OtherExchange),
            (LAST.replace("p=dHzb", "p=dHzc"), Refusal::Proof),
            (LAST.replace(",p=dHzb", ",q=dHzb"), Refusal::Malformed),
            (LAST.replace("p=dHzb", "p=!"), Refusal::Malformed),
            (LAST.replace("c=biws,", "x=1,c=biws,"), Refusal::Malformed),
        ] {
            assert_eq!(begun().finish(&pencil, changed.as_bytes()), Err(refusal), "{changed}");
        }
        let decoy = Credentials::decoy(b"secret", "user", 4096, 16);
        assert_eq!(begun().finish(&decoy, LAST.as_bytes()), Err(Refusal::Proof));
        let other = Begun { server_first: begun().server_first.replace("i=4096", "i=5000"), ..begun() };
        assert_eq!(other.finish(&pencil, LAST.as_bytes()), Err(Refusal::Proof), "all of it is signed");
    }

    #[test]
    fn first_messages_are_judged() {
        let parse = |text: &str| ClientFirst::parse(text.as_bytes()).map(|first| first.user);
        assert_eq!(parse("y,a=a=2Cn=3D,n=a=2Cn=3D,r=x").as_deref(), Ok("a,n="));
        assert_eq!(parse("n,,n=user,r=x,ext=1").as_deref(), Ok("user"));
        assert_eq!(parse(&format!("n,,n=u,r={}", "x".repeat(LONGEST_MESSAGE - 9))).as_deref(), Ok("u"));
        for (text, refusal) in [
            ("", Refusal::Malformed),
            ("n,,n=user", Refusal::Malformed),
            ("n,,n=,r=x", Refusal::Malformed),
            ("n,,n=a=b,r=x", Refusal::Malformed),
            ("n,,n=a=3,r=x", Refusal::Malformed),
            ("n,,n=user,r=", Refusal::Malformed),
            ("n,,n=user,r=a b", Refusal::Malformed),
            ("n,,n=us\u{1}er,r=x", Refusal::Malformed),
            ("x,,n=user,r=x", Refusal::Malformed),
            ("n,user,n=user,r=x", Refusal::Malformed),
            ("p=tls-exporter,,n=user,r=x", Refusal::ChannelBinding),
            ("n,a=other,n=user,r=x", Refusal::OtherIdentity),
            ("n,,m=ext,n=user,r=x", Refusal::Extension),
        ] {
            assert_eq!(parse(text), Err(refusal), "{text}");
        }
        assert_eq!(ClientFirst::parse(&[0xFF]), Err(Refusal::Malformed));
        let long = format!("n,,n=u,r={}", "x".repeat(LONGEST_MESSAGE - 8));
        assert_eq!(parse(&long), Err(Refusal::Malformed));
    }

    #[test]
    fn what_is_remembered_of_the_longest_message_is_short_enough() {
        // Every one of these characters is two in JSON.
        for message in [
            format!("n,,n=u,r={}", "\"".repeat(LONGEST_MESSAGE - 9)),
            format!("n,,n={},r=x", "\"".repeat(LONGEST_MESSAGE - 9)),
        ] {
            let first = ClientFirst::parse(message.as_bytes()).unwrap();
            let credentials = Credentials::decoy(b"secret", &first.user, 1_000_000, 32);
            let state = first.answer(&credentials, &[0xFF; 32]).to_state();
            assert!(state.len() < 16 << 10, "{}", state.len());
        }
    }
}
