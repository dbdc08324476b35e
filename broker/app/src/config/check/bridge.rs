//! `[bridges]`: rules that cannot be, addresses that are none, TLS without what it needs.

use super::Checker;
use crate::bridge::rules::Rule;
use crate::bridge::settings::Address;
use crate::config::Config;
use crate::config::model::{Bridge, BridgeVersion};

pub(super) fn check(checker: &mut Checker<'_, '_>, config: &Config) {
    for (name, bridge) in &config.bridges {
        one(checker, name, bridge);
    }
}

fn one(checker: &mut Checker<'_, '_>, name: &str, bridge: &Bridge) {
    let key = |field: &str| format!("bridges.{name}.{field}");
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        checker.add(
            &format!("bridges.{name}"),
            "a bridge's name is made of up to 64 letters, digits, `-`, `_` and `.`",
            Some("it is a client id and a label of metrics"),
        );
    }
    if bridge.addresses.is_empty() {
        checker.add(&key("addresses"), "there is no other broker", Some("name one: [\"mqtts://HOST:8883\"]"));
    }
    let mut tls = false;
    for (index, text) in bridge.addresses.iter().enumerate() {
        match Address::parse(text) {
            Ok(address) => tls |= address.tls,
            Err(error) => checker.add(&key(&format!("addresses[{index}]")), error, None),
        }
    }
    if bridge.topics.is_empty() {
        checker.add(
            &key("topics"),
            "nothing would go over it",
            Some("add a rule: [{ pattern = \"sensors/#\", direction = \"out\", qos = 1 }]"),
        );
    }
    for (index, topic) in bridge.topics.iter().enumerate() {
        if let Err(error) = Rule::new(topic) {
            checker.add(&key(&format!("topics[{index}].{}", error.key)), error.what, None);
        }
    }
    check_tls(checker, name, bridge, tls);
    if bridge.password.is_some() && bridge.username.is_none() && bridge.version == BridgeVersion::V311 {
        checker.add(
            &key("password"),
            "MQTT 3.1.1 has no password without a user name",
            Some("set `username`"),
        );
    }
    if bridge.version == BridgeVersion::V311 && bridge.keep_alive.0.as_secs() > u64::from(u16::MAX) {
        checker.add(&key("keep_alive"), "longer than 65535 seconds", None);
    }
    if bridge.min_backoff.0.is_zero() {
        checker.add(&key("min_backoff"), "without a pause the other broker would be stormed", Some("\"1s\""));
    }
    if bridge.max_backoff.0 < bridge.min_backoff.0 {
        checker.add(&key("max_backoff"), "shorter than `min_backoff`", None);
    }
    for (field, zero) in [
        ("connect_timeout", bridge.connect_timeout.0.is_zero()),
        ("max_inflight", bridge.max_inflight == 0),
        ("max_queued_messages", bridge.max_queued_messages == 0),
        ("max_queued_bytes", bridge.max_queued_bytes.0 == 0),
        ("max_packet_size", bridge.max_packet_size.0 == 0),
    ] {
        if zero {
            checker.add(&key(field), "nothing would go through: more than zero is needed", None);
        }
    }
}

fn check_tls(checker: &mut Checker<'_, '_>, name: &str, bridge: &Bridge, tls: bool) {
    let key = |field: &str| format!("bridges.{name}.tls.{field}");
    let settings = &bridge.tls;
    if tls && settings.cacertfile.is_none() {
        checker.add(
            &key("cacertfile"),
            "missing: without a CA no certificate of the other broker can be believed",
            Some("name the PEM file of the CA that its certificate comes from"),
        );
    }
    if !tls && *settings != Default::default() {
        checker.add(
            &format!("bridges.{name}.tls"),
            "without effect: no address is `mqtts`",
            Some("write the address as \"mqtts://HOST:PORT\", or remove the table"),
        );
    }
    match (&settings.certfile, &settings.keyfile) {
        (Some(_), None) => checker.add(&key("keyfile"), "missing: a certificate needs its private key", None),
        (None, Some(_)) => checker.add(&key("certfile"), "missing: this is the key of no certificate", None),
        (None, None) if settings.password.is_some() => {
            checker.add(&key("password"), "there is no `keyfile` that it could be for", Some("remove it"));
        }
        _ => {}
    }
}
