//! Attacks the broker on clients whose ids say how; see the README.

use std::hint::black_box;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Auditor, Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::types::{
    AuditEvent, Authenticated, Authentication, Authorization, Connection, HookError, Identity, InitError,
    Level, PluginContext,
};

#[derive(Debug)]
pub struct HostileGuest;

impl Plugin for HostileGuest {
    fn init<H: Host>(_: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self)
    }
}

impl Authenticator for HostileGuest {
    fn authenticate<H: Host>(&self, on: &Connection, host: &H) -> Result<Authentication, HookError> {
        let attack = on.connect.client_id.split('-').next().unwrap_or_default();
        match attack {
            "loop" => loop {
                black_box(());
            },
            "recurse" => {
                black_box(recurse(1));
            }
            "memory" => {
                let mut blocks: Vec<Vec<u8>> = Vec::new();
                loop {
                    blocks.push(vec![1; 64 << 10]);
                    black_box(&blocks);
                }
            }
            "answer" => {
                let identity = Identity::new("x".repeat(16 << 20));
                return Ok(Authentication::Accept(Authenticated { identity, cache: None }));
            }
            "log" => {
                let line = "x".repeat(1 << 10);
                loop {
                    host.log(Level::Error, &line, &[]);
                }
            }
            "store" => {
                let value = vec![1; 64 << 10];
                loop {
                    // However it ends, once more.
                    let _ = host.set("k", &value, None);
                }
            }
            "trap" => panic!("it attacks"),
            _ => {}
        }
        Ok(Authentication::Abstain)
    }
}

impl Authorizer for HostileGuest {
    fn authorize<H: Host>(&self, on: &Connection, _: &Identity, _: &H) -> Result<Authorization, HookError> {
        assert!(!on.connect.client_id.starts_with("grant-"), "it attacks");
        Ok(Authorization::Abstain)
    }
}

impl Auditor for HostileGuest {
    fn record_events<H: Host>(&self, events: &[AuditEvent], _: &H) -> Result<u64, HookError> {
        let is_attacked = |event: &AuditEvent| {
            event.client_id.as_ref().is_some_and(|client_id| client_id.starts_with("trap-"))
        };
        assert!(!events.iter().any(is_attacked), "it attacks");
        Ok(events.iter().map(|event| event.sequence).max().unwrap_or(0))
    }
}

/// Not in the tail, so that the compiler makes no loop of it.
#[expect(unconditional_recursion, reason = "it is what the guest is for")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth) + 1)) + depth
}

export_plugin!(HostileGuest: authenticator, authorizer, auditor);
