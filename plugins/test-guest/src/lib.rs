//! Misbehaves as it is told, or tells what it was told; see the README.

use mqgate_plugin_sdk::certificate::{Field, anchor, hex};
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authenticator, Plugin};
use mqgate_plugin_sdk::types::{
    Attribute, Authenticated, Authentication, ConnackReason, Connection, Denial, HookError, Identity,
    InitError, Level, PluginContext,
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    init: Init,
    authenticate: Answer,
    only_prefix: Option<String>,
    loop_on_client_id: Option<String>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    #[default]
    Ok,
    Fail,
    Loop,
    Trap,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    #[default]
    Abstain,
    Tell,
    Deny,
    Trap,
    Garbage,
    EatMemory,
}

#[derive(Debug)]
pub struct TestGuest {
    config: Config,
}

impl Plugin for TestGuest {
    fn init<H: Host>(context: &PluginContext, _host: &H) -> Result<Self, InitError> {
        let config: Config = mqgate_plugin_sdk::config::parse(context)?;
        match config.init {
            Init::Ok => Ok(Self { config }),
            Init::Fail => Err(InitError::Failed("it was told to fail".to_owned())),
            Init::Loop => endless(),
            Init::Trap => panic!("it was told to trap"),
        }
    }
}

impl Authenticator for TestGuest {
    fn authenticate<H: Host>(&self, on: &Connection, host: &H) -> Result<Authentication, HookError> {
        if self.config.loop_on_client_id.as_ref() == Some(&on.connect.client_id) {
            endless();
        }
        let is_meant = |prefix: &String| on.connect.client_id.starts_with(prefix);
        if !self.config.only_prefix.as_ref().is_none_or(is_meant) {
            return Ok(Authentication::Abstain);
        }
        match self.config.authenticate {
            Answer::Abstain => Ok(Authentication::Abstain),
            Answer::Tell => {
                host.log(Level::Info, "told:", &facts(on));
                Ok(Authentication::Abstain)
            }
            Answer::Deny => {
                Ok(Authentication::Deny(Denial::new(ConnackReason::NotAuthorized, "it was told to deny")))
            }
            Answer::Trap => panic!("it was told to trap"),
            // A device id that would reach other devices' topics.
            Answer::Garbage => Ok(Authentication::Accept(Authenticated {
                identity: Identity::new("devices/+/#"),
                cache: None,
            })),
            Answer::EatMemory => {
                let mut blocks: Vec<Vec<u8>> = Vec::new();
                loop {
                    blocks.push(vec![1; 1 << 20]);
                    std::hint::black_box(&blocks);
                }
            }
        }
    }
}

/// What it was told of a connection, in the order in which a test reads it.
fn facts(on: &Connection) -> Vec<Attribute> {
    let mut facts = vec![
        Attribute::text("client-id", &*on.connect.client_id),
        Attribute::text("peer", &*on.peer.address),
        Attribute::text("proxy", on.peer.via_proxy.as_deref().unwrap_or("-")),
    ];
    if let Some(tls) = &on.tls {
        facts.push(Attribute::text("tls", format!("{:04x}", tls.version)));
        facts.push(Attribute::text("cipher", format!("{:04x}", tls.cipher_suite)));
        facts.push(Attribute::text("sni", tls.server_name.as_deref().unwrap_or("-")));
    }
    if let Some(certificate) = &on.certificate {
        let cn = Field::Cn.single(certificate).ok().flatten();
        facts.push(Attribute::text("cn", cn.as_deref().unwrap_or("-")));
        facts.push(Attribute::text("fingerprint", hex(&certificate.leaf.fingerprint_sha256)));
        facts.push(Attribute::text("anchor", anchor(certificate).map_or("-", |anchor| &*anchor.name)));
    }
    facts.extend(on.attributes.iter().cloned());
    facts
}

fn endless() -> ! {
    loop {
        std::hint::black_box(());
    }
}

export_plugin!(TestGuest: authenticator);
