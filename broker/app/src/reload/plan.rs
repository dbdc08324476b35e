//! What differs between the configuration in force and the next one, key by key, and what each difference means
//! while the broker runs. Reads values only: knows neither files nor the parts of the broker.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::config::show::is_secret;

/// When a changed key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ReloadEffect")]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// For everybody, as soon as it is taken over.
    Now,
    /// For connections that come after it.
    NewConnections,
    /// When the broker is started again: until then the value before holds.
    Restart,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ReloadChange")]
pub struct Change {
    pub key: String,
    /// `null`: it was not there.
    pub before: Value,
    /// `null`: it is there no longer.
    pub after: Value,
    pub effect: Effect,
}

/// Every difference, and the configuration that can be had without a restart.
#[derive(Debug, Clone)]
pub struct Plan {
    pub changes: Vec<Change>,
    pub effective: Config,
}

/// A step into a configuration: plugins stand under their names, not under their places.
type Path = Vec<String>;

impl Plan {
    /// What it takes to come from `now` to `next`.
    pub fn new(now: &Config, next: &Config) -> Result<Self> {
        let (before, after) = (tree(now)?, tree(next)?);
        let mut found = Vec::new();
        compare(&mut Vec::new(), &before, &after, &mut found);
        let mut effective = after;
        let mut changes = Vec::new();
        for (path, before, after) in found {
            let effect = effect(&path);
            if effect == Effect::Restart {
                put(&mut effective, &path, before.clone());
            }
            changes.push(Change {
                key: path.join("."),
                before: shown(&path, before),
                after: shown(&path, after),
                effect,
            });
        }
        let effective = config(effective, now)?;
        Ok(Self { changes, effective })
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Keys that wait for a restart.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.changes
            .iter()
            .filter(|change| change.effect == Effect::Restart)
            .map(|change| change.key.as_str())
    }
}

/// The rules, from the particular to the general. A key that is not named here waits for a restart: that is
/// always right.
fn effect(path: &[String]) -> Effect {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        // Added, removed, or somewhere else: the listener opens or shuts.
        ["listeners", _] | ["listeners", _, "bind" | "type"] => Effect::Now,
        ["listeners", _, ..] => Effect::NewConnections,
        // Whether there is TLS at all is settled at the start.
        ["admin", "tls", _, ..] => Effect::NewConnections,
        // Rule sets are part of a permit, which a session keeps unless it asks again.
        ["policy", "acls" | "chain", ..] => Effect::NewConnections,
        // The routes that load and swap plugins have it from the start.
        ["policy", "reauthorize"] => Effect::Restart,
        // What is watched over from the start.
        ["clock", "check"] | ["rotation", "expiry_warnings", ..] => Effect::Restart,
        ["provisioning" | "rotation" | "sharing" | "clock", ..] => Effect::Now,
        ["policy", ..] | ["reload", ..] | ["log", "filter"] => Effect::Now,
        ["limits", key] if LIMITS.contains(key) => Effect::NewConnections,
        // What these decide is part of how a listener judges; the others say which lists there are.
        ["crl", "stale" | "grace" | "unknown" | "scope"] => Effect::NewConnections,
        ["crl", ..] => Effect::Now,
        ["limits", "ca_certs" | "server_certs" | "ca_hints" | "ca_hint_bytes"] => Effect::Now,
        ["plugins", _, "config", ..] | ["audit", "checks" | "rules" | "sinks", ..] => Effect::Now,
        _ => Effect::Restart,
    }
}

/// Limits that a connection takes with it when it begins.
const LIMITS: &[&str] = &[
    "connect_timeout",
    "max_packet_size",
    "receive_maximum",
    "max_inflight",
    "topic_alias_maximum",
    "max_qos",
    "retain_available",
    "max_client_id_bytes",
    "max_topic_levels",
    "max_keep_alive",
    "max_session_expiry",
    "max_will_delay",
    "max_subscriptions",
    "max_filter_bytes",
    "write_stall_timeout",
    "max_filters_per_subscribe",
    "denied_publish",
];

/// The configuration as values, with the list of plugins as a table of their names.
fn tree(config: &Config) -> Result<Value> {
    let mut value = serde_json::to_value(config).context("a configuration is made of plain values")?;
    let plugins = value.get_mut("plugins").and_then(Value::as_array_mut).map(std::mem::take);
    let mut table = Map::new();
    let mut order = Vec::new();
    for plugin in plugins.unwrap_or_default() {
        let name = plugin["name"].as_str().unwrap_or_default().to_owned();
        order.push(Value::from(name.clone()));
        table.insert(name, plugin);
    }
    value["plugins"] = Value::Object(table);
    value["plugin order"] = Value::Array(order);
    Ok(value)
}

/// The way back. Plugins that wait for a restart stand where they stand now.
fn config(mut value: Value, now: &Config) -> Result<Config> {
    let order = value.as_object_mut().and_then(|value| value.remove("plugin order"));
    let mut plugins = match value["plugins"].take() {
        Value::Object(plugins) => plugins,
        _ => Map::new(),
    };
    let names: Vec<String> = match order {
        Some(Value::Array(order)) => {
            order.into_iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        }
        _ => now.plugins.iter().map(|plugin| plugin.name.clone()).collect(),
    };
    value["plugins"] = names.iter().filter_map(|name| plugins.remove(name)).collect();
    serde_json::from_value(value).context("the configuration cannot be put together")
}

fn compare(path: &mut Path, before: &Value, after: &Value, found: &mut Vec<(Path, Value, Value)>) {
    if before == after {
        return;
    }
    match (before, after) {
        // A listener that comes or goes is one change, not one for each of its keys.
        (Value::Object(before), Value::Object(after)) => {
            let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                path.push(key.clone());
                let none = Value::Null;
                compare(path, before.get(key).unwrap_or(&none), after.get(key).unwrap_or(&none), found);
                path.pop();
            }
        }
        _ => found.push((path.clone(), before.clone(), after.clone())),
    }
}

/// Puts a value back where it was; `null` takes it away.
fn put(tree: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = tree;
    for key in parents {
        let Value::Object(map) = at else { return };
        at = map.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
    }
    let Value::Object(map) = at else { return };
    match value {
        Value::Null => drop(map.remove(last)),
        value => drop(map.insert(last.clone(), value)),
    }
}

/// Secrets are not told: only that they differ.
fn shown(path: &[String], value: Value) -> Value {
    fn without_secrets(value: Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(
                map.into_iter()
                    .map(|(key, value)| {
                        let value = if is_secret(&key) { hidden(&value) } else { without_secrets(value) };
                        (key, value)
                    })
                    .collect(),
            ),
            Value::Array(items) => items.into_iter().map(without_secrets).collect(),
            value => value,
        }
    }
    fn hidden(value: &Value) -> Value {
        if value.is_null() { Value::Null } else { Value::from("(secret)") }
    }
    // Only what a plugin or a key's own name says is secret can be: paths and numbers are not.
    if path.iter().any(|step| is_secret(step) && !NOT_SECRET.contains(&step.as_str())) {
        return hidden(&value);
    }
    match path.first().map(String::as_str) {
        Some("plugins" | "listeners") => without_secrets(value),
        _ => value,
    }
}

/// Names with a word of a secret in them that hold none.
const NOT_SECRET: &[&str] = &["token_file", "require_token"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Inputs;

    const BASE: &str = r#"
[node]
data_dir = "data"
[listeners.main]
type = "tcp"
bind = "127.0.0.1:1883"
[listeners.tls]
bind = "127.0.0.1:8883"
certfile = "server.pem"
keyfile = "server.key"
cacertfile = "ca.pem"
[[plugins]]
name = "rules"
native = "static-policy"
[[plugins]]
name = "acl"
source = "acl.wasm"
config = { password = "one" }
"#;

    fn read(text: &str) -> Config {
        let inputs = Inputs { file: Some("/etc/mqgate.toml".into()), text: text.into(), ..Inputs::default() };
        inputs.load().unwrap_or_else(|problems| panic!("{problems}")).config
    }

    /// `key: before -> after (effect)`, one line each.
    fn differences(next: &str) -> (String, Config) {
        let plan = Plan::new(&read(BASE), &read(next)).expect("a plan");
        let lines: Vec<String> = plan
            .changes
            .iter()
            .map(|change| {
                let effect = serde_json::to_value(change.effect).expect("a word");
                let brief = |value: &Value| match value {
                    Value::Object(_) => String::from("{…}"),
                    value => value.to_string(),
                };
                format!("{}: {} -> {} {effect}", change.key, brief(&change.before), brief(&change.after))
            })
            .collect();
        (lines.join("\n"), plan.effective)
    }

    #[test]
    fn the_same_is_no_change() {
        let (lines, effective) = differences(BASE);
        assert_eq!(lines, "");
        assert_eq!(effective, read(BASE));
    }

    #[test]
    fn each_key_says_when_it_takes_effect_and_what_waits_keeps_its_value() {
        let next = BASE
            .replace("127.0.0.1:1883", "127.0.0.1:1884")
            .replace("cacertfile = \"ca.pem\"", "cacertfile = \"ca.pem\"\ndepth = 2")
            .replace("data_dir = \"data\"", "data_dir = \"elsewhere\"\nworkers = 3")
            + "[limits]\nmax_inflight = 5\nmax_retained_messages = 7\n[log]\nfilter = \"debug\"\n";
        let (lines, effective) = differences(&next);
        insta::assert_snapshot!(lines, @r#"
        limits.max_inflight: 32 -> 5 "new-connections"
        limits.max_retained_messages: 100000 -> 7 "restart"
        listeners.main.bind: "127.0.0.1:1883" -> "127.0.0.1:1884" "now"
        listeners.tls.depth: 6 -> 2 "new-connections"
        log.filter: "info,fjall=warn,lsm_tree=warn" -> "debug" "now"
        node.data_dir: "/etc/data" -> "/etc/elsewhere" "restart"
        node.workers: 0 -> 3 "restart"
        "#);
        assert_eq!((effective.limits.max_inflight, effective.limits.max_retained_messages), (5, 100_000));
        assert_eq!((effective.node.workers, effective.node.data_dir), (0, "/etc/data".into()));
        assert_eq!(effective.listeners["tls"].depth, 2);
    }

    #[test]
    fn listeners_come_and_go_as_a_whole() {
        let next = BASE.replace("[listeners.main]", "[listeners.other]");
        let (lines, effective) = differences(&next);
        insta::assert_snapshot!(lines, @r#"
        listeners.main: {…} -> null "now"
        listeners.other: null -> {…} "now"
        "#);
        assert_eq!(effective.listeners.keys().collect::<Vec<_>>(), ["other", "tls"]);
    }

    #[test]
    fn settings_of_a_member_change_and_the_chain_itself_waits() {
        let next =
            BASE.replace("native = \"static-policy\"", "native = \"static-policy\"\nconfig = { rules = [] }");
        let (lines, _) = differences(&next);
        insta::assert_snapshot!(lines, @r#"plugins.rules.config.rules: null -> [] "now""#);

        // What a plugin keeps secret is not told.
        let (lines, effective) =
            differences(&BASE.replace("\"one\"", "\"two\"").replace("acl.wasm", "b.wasm"));
        insta::assert_snapshot!(lines, @r#"
        plugins.acl.config.password: "(secret)" -> "(secret)" "now"
        plugins.acl.source: "/etc/acl.wasm" -> "/etc/b.wasm" "restart"
        "#);
        assert_eq!(effective.plugins[1].source.as_deref(), Some("/etc/acl.wasm"));

        let added = BASE.to_owned() + "[[plugins]]\nname = \"more\"\nsource = \"more.wasm\"\n";
        let (lines, effective) = differences(&added);
        insta::assert_snapshot!(lines, @r#"
        plugin order: ["rules","acl"] -> ["rules","acl","more"] "restart"
        plugins.more: null -> {…} "restart"
        "#);
        assert_eq!(effective, read(BASE));
    }
}
