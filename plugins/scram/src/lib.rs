//! Enhanced authentication by SCRAM-SHA-256: the password never travels, and client and server prove to each other that
//! they know it. README.md is the reference of its configuration.

mod config;
mod credentials;
mod exchange;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{EnhancedAuthenticator, Plugin};
use mqgate_plugin_sdk::types::{
    Attribute, AuthenticationStep, Challenge, ConnackReason, Connection, Denial, Exchange, HookError,
    Identity, InitError, PluginContext, Proved,
};

use config::Config;
use exchange::{Begun, ClientFirst, Refusal};

/// Name of the mechanism: the Authentication Method.
const METHOD: &str = "SCRAM-SHA-256";

pub struct Scram {
    config: Config,
}

impl Plugin for Scram {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl EnhancedAuthenticator for Scram {
    fn methods(&self) -> Vec<String> {
        vec![METHOD.to_owned()]
    }

    fn step<H: Host>(
        &self,
        _: &Connection,
        exchange: &Exchange,
        _: &H,
    ) -> Result<AuthenticationStep, HookError> {
        let step = match (&exchange.data, exchange.state.is_empty()) {
            (Some(data), true) => self.begin(data, &exchange.random),
            (Some(data), false) => self.finish(data, &exchange.state)?,
            // It waits to be asked, once.
            (None, true) if exchange.round == 0 => {
                Ok(AuthenticationStep::Challenge(Challenge { data: None, state: Vec::new() }))
            }
            (None, _) => Err(Refusal::Malformed),
        };
        Ok(step.unwrap_or_else(|refusal| {
            // The client hears the same whatever was wrong.
            AuthenticationStep::Deny(Denial::new(ConnackReason::NotAuthorized, refusal.to_string()))
        }))
    }
}

impl Scram {
    /// The client's first message: the answer is a salt, for whomever.
    fn begin(&self, message: &[u8], random: &[u8]) -> Result<AuthenticationStep, Refusal> {
        let first = ClientFirst::parse(message)?;
        let begun = first.answer(&self.config.credentials(&first.user), random);
        let data = Some(begun.server_first.clone().into_bytes());
        Ok(AuthenticationStep::Challenge(Challenge { data, state: begun.to_state() }))
    }

    /// Its last one: the proof.
    fn finish(&self, message: &[u8], state: &[u8]) -> Result<Result<AuthenticationStep, Refusal>, HookError> {
        let begun = Begun::from_state(state).map_err(HookError::Permanent)?;
        let credentials = self.config.credentials(&begun.user);
        Ok(begun.finish(&credentials, message).map(|server_final| {
            let mut identity = Identity::new(begun.user);
            identity.attributes = vec![
                Attribute::text("auth.method", "scram"),
                Attribute::text("user.name", &*identity.device_id),
            ];
            AuthenticationStep::Accept(Proved { identity, data: Some(server_final.into_bytes()) })
        }))
    }
}

export_plugin!(Scram: enhanced_authenticator);

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::{MemoryHost, connection, context};

    use super::*;

    /// The exchange of RFC 7677, section 3, but for the server's part of the nonce.
    const USER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn plugin() -> Scram {
        let config = format!(r#"{{"decoy-secret": "0123456789abcdef", "users": {{"user": "{USER}"}}}}"#);
        Scram::init(&context(&config), &MemoryHost::default()).unwrap()
    }

    fn step(plugin: &Scram, round: u32, state: &[u8], data: Option<&[u8]>) -> AuthenticationStep {
        let exchange = Exchange {
            method: METHOD.into(),
            round,
            state: state.to_vec(),
            data: data.map(<[u8]>::to_vec),
            again: false,
            random: vec![7; 32],
        };
        plugin.step(&connection(None), &exchange, &MemoryHost::default()).unwrap()
    }

    fn challenge(step: AuthenticationStep) -> (String, Vec<u8>) {
        match step {
            AuthenticationStep::Challenge(Challenge { data: Some(data), state }) => {
                (String::from_utf8(data).unwrap(), state)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_not_known_is_asked_like_everybody_else() {
        let plugin = plugin();
        let asked = |user: &str| {
            let first = format!("n,,n={user},r=abc");
            challenge(step(&plugin, 0, b"", Some(first.as_bytes()))).0
        };
        let field = |message: &str, name: &str| {
            message.split(',').find_map(|field| field.strip_prefix(name)).unwrap().to_owned()
        };
        let (known, eve, bob) = (asked("user"), asked("eve"), asked("bob"));
        assert_eq!(eve, asked("eve"), "the same salt each time");
        assert_ne!(field(&eve, "s="), field(&bob, "s="));
        assert_eq!(field(&eve, "s=").len(), field(&known, "s=").len());
        assert_eq!(field(&eve, "i="), field(&known, "i="));
        assert_eq!(field(&eve, "r="), field(&known, "r="));
        let refused = |user: &str| {
            let first = format!("n,,n={user},r=abc");
            let (server_first, state) = challenge(step(&plugin, 0, b"", Some(first.as_bytes())));
            let nonce = field(&server_first, "r=");
            let last = format!("c=biws,r={nonce},p={}", "A".repeat(43) + "=");
            match step(&plugin, 1, &state, Some(last.as_bytes())) {
                AuthenticationStep::Deny(denial) => denial,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused("eve"), refused("user"));
        assert_eq!(refused("eve").audit_detail.as_deref(), Some("unknown user or wrong password"));
    }

    #[test]
    fn a_client_without_first_words_is_asked_once() {
        let plugin = plugin();
        let asked = step(&plugin, 0, b"", None);
        assert!(matches!(asked, AuthenticationStep::Challenge(Challenge { data: None, .. })));
        assert!(matches!(step(&plugin, 1, b"", None), AuthenticationStep::Deny(_)));
        let (_, state) = challenge(step(&plugin, 1, b"", Some(b"n,,n=user,r=abc")));
        assert!(matches!(step(&plugin, 2, &state, None), AuthenticationStep::Deny(_)));
    }

    #[test]
    fn who_knows_the_password_is_proved() {
        let plugin = plugin();
        let (server_first, state) =
            challenge(step(&plugin, 0, b"", Some(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")));
        let (last, server_final) =
            exchange::tests::client_last("pencil", "n,,", "n=user,r=rOprNGfwEbeRWgbNEkqO", &server_first);
        match step(&plugin, 1, &state, Some(last.as_bytes())) {
            AuthenticationStep::Accept(Proved { identity, data }) => {
                assert_eq!(identity.device_id, "user");
                assert!(identity.attributes.contains(&Attribute::text("user.name", "user")));
                assert_eq!(data, Some(server_final.into_bytes()));
            }
            other => panic!("{other:?}"),
        }
        let wrong = last.replace("c=biws", "c=eSws");
        assert!(matches!(step(&plugin, 1, &state, Some(wrong.as_bytes())), AuthenticationStep::Deny(_)));
        let exchange = Exchange {
            method: METHOD.into(),
            round: 1,
            state: b"not its own".to_vec(),
            data: Some(last.into_bytes()),
            again: false,
            random: vec![7; 32],
        };
        assert!(plugin.step(&connection(None), &exchange, &MemoryHost::default()).is_err());
    }
}
