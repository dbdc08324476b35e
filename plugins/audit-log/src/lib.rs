//! Hands audit events on as JSON lines: those the operator wants, without what the operator does not want in
//! them. README.md is the reference of its configuration.

mod config;
mod glob;
mod line;
mod redact;
mod time;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Auditor, Plugin};
use mqgate_plugin_sdk::types::{AuditEvent, HookError, InitError, Level, PluginContext};

use config::Config;

pub struct AuditLog {
    config: Config,
}

impl Plugin for AuditLog {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl Auditor for AuditLog {
    fn record_events<H: Host>(&self, events: &[AuditEvent], host: &H) -> Result<u64, HookError> {
        // One line at a time: a batch needs no more memory than its longest line.
        for event in events.iter().filter(|event| self.config.wants(event)) {
            host.log(Level::Info, &line::write(event, &self.config.redaction), &[]);
        }
        Ok(events.iter().map(|event| event.sequence).max().unwrap_or(0))
    }
}

export_plugin!(AuditLog: auditor);

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::{self, MemoryHost};

    use super::*;
    use crate::line::tests::event;

    fn written(config: &str, names: &[&str]) -> Vec<String> {
        let host = MemoryHost::default();
        let plugin = AuditLog::init(&testing::context(config), &host).unwrap();
        let events: Vec<AuditEvent> =
            (5..).zip(names).map(|(sequence, name)| event(sequence, name)).collect();
        assert_eq!(plugin.record_events(&events, &host), Ok(4 + names.len() as u64));
        let messages = host.messages.borrow();
        assert!(messages.iter().all(|(level, _)| *level == Level::Info));
        messages
            .iter()
            .map(|(_, line)| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].to_string())
            .collect()
    }

    #[test]
    fn wanted_events_become_lines_and_all_are_acknowledged() {
        let names = ["connection.accepted", "connection.closed", "device.registered"];
        assert_eq!(written("{}", &names).len(), 3);
        assert_eq!(written(r#"{"include": ["device.*"]}"#, &names), ["\"device.registered\""]);
        assert_eq!(written(r#"{"exclude": ["*.closed", "device.*"]}"#, &names), ["\"connection.accepted\""]);
        assert_eq!(written(r#"{"outcomes": ["failure", "err*"]}"#, &names), Vec::<String>::new());
        assert_eq!(written("{}", &["new.event.of.a.later.broker"]).len(), 1);
    }

    #[test]
    fn an_empty_batch_is_fine() {
        let host = MemoryHost::default();
        let plugin = AuditLog::init(&testing::context("{}"), &host).unwrap();
        assert_eq!(plugin.record_events(&[], &host), Ok(0));
    }
}
