//! What `[[plugins]]` must not say: names that are taken, components that are none, rule sets that there are not.

use std::collections::HashSet;
use std::time::Duration;

use mqgate_plugin_host::{MOST_HTTP_BYTES, MOST_HTTP_CONNECTIONS, PublicKey};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeValue;

use super::{BUNDLED, Checker, is_local};
use crate::config::model::{Capability, ChainMode, Config, Native, Plugin};
use crate::config::problem::{Problem, did_you_mean};
use crate::config::schema::Shape;
use crate::config::source::{dotted, path};
use crate::native::{
    anonymous::AnonymousConfig, password_file::PasswordFileConfig, scram::ScramConfig,
    static_policy::StaticPolicyConfig,
};

/// Less address space than the program itself needs compiles nothing.
const LEAST_COMPILE_MEMORY: u64 = 64 << 20;
const LEAST_COMPILE_TIME: Duration = Duration::from_millis(1);
/// The least time between two looks at a folder.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

impl Checker<'_, '_> {
    pub(super) fn plugins(&mut self, config: &Config) {
        let mut names = HashSet::new();
        let mut scram = None;
        for (index, plugin) in config.plugins.iter().enumerate() {
            let key = |field: &str| format!("plugins[{index}].{field}");
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if plugin.name.is_empty() || plugin.name.len() > 64 || !plugin.name.chars().all(fine) {
                self.add(&key("name"), "a name has 1 to 64 lower-case letters, digits and `-`", None);
            }
            if !names.insert(plugin.name.as_str()) {
                self.add(
                    &key("name"),
                    format!("there is another plugin `{}`", plugin.name),
                    Some("rename one of them"),
                );
            }
            let by_native = plugin.native == Some(Native::Scram);
            if by_native || plugin.source.as_deref() == Some("bundled:scram") {
                let field = if by_native { "native" } else { "source" };
                match scram {
                    None => scram = Some(&plugin.name),
                    Some(first) => self.add(
                        &key(field),
                        format!("the plugin `{first}` serves SCRAM-SHA-256 already"),
                        Some("remove one of the two: one member of the chain serves a method"),
                    ),
                }
            }
            match (&plugin.source, plugin.native) {
                (Some(_), Some(_)) => self.add(
                    &key("native"),
                    "a plugin is a component (`source`) or built in (`native`), not both",
                    Some("remove one of the two"),
                ),
                (None, None) => self.add(
                    &key("source"),
                    "missing: what is this plugin?",
                    Some("write source = \"bundled:cert-acl\", the path of a component, or native = \"static-policy\""),
                ),
                (Some(source), None) => {
                    if plugin.digest.as_deref().is_some_and(|digest| !is_digest(digest)) {
                        let remedy = "`mqgate plugin inspect` prints it";
                        self.add(&key("digest"), "a digest is `sha256:` and 64 hexadecimal digits", Some(remedy));
                    }
                    if let Some(name) = source.strip_prefix("bundled:")
                        && !BUNDLED.contains(&name)
                    {
                        let remedy = match did_you_mean(name, BUNDLED) {
                            Some(guess) => format!("did you mean `bundled:{guess}`?"),
                            None => format!("there are {}", BUNDLED.join(", ")),
                        };
                        self.add(&key("source"), format!("no component `{name}` is bundled"), Some(&remedy));
                    }
                }
                (None, Some(native)) => self.native(config, index, plugin, native),
            }
            self.http(index, plugin);
        }
    }

    /// `[plugins.grant.http]`.
    fn http(&mut self, index: usize, plugin: &Plugin) {
        let http = &plugin.grant.http;
        let key = |field: &str| format!("plugins[{index}].grant.{field}");
        if plugin.grant.capabilities.contains(&Capability::Http) && http.allow.is_empty() {
            let remedy = "name some: http = { allow = [\"https://HOST:443\"] }";
            self.add(
                &key("capabilities"),
                "`http` without a destination: no request could be sent",
                Some(remedy),
            );
        }
        let most = MOST_HTTP_CONNECTIONS as u32;
        if !(1..=most).contains(&http.connections) {
            self.add(&key("http.connections"), format!("1 to {most} connections are possible"), None);
        }
        for (field, size) in
            [("request", http.request), ("response", http.response), ("headers", http.headers)]
        {
            if size.0 > MOST_HTTP_BYTES as u64 {
                self.add(&key(&format!("http.{field}")), "16 MiB at most are possible", None);
            }
        }
    }

    /// `[policy.chain]` and that of each listener.
    pub(super) fn chain_modes(&mut self, config: &Config) {
        self.left_out(config);
        let of_all = (String::from("policy"), Some(config.policy.chain.enhanced_authenticator));
        let of_listeners = config
            .listeners
            .iter()
            .map(|(name, listener)| (format!("listeners.{name}"), listener.chain.enhanced_authenticator));
        for (table, mode) in std::iter::once(of_all).chain(of_listeners) {
            if mode == Some(ChainMode::All) {
                self.add(
                    &format!("{table}.chain.enhanced_authenticator"),
                    "the steps of enhanced authentication are those of one member: only `first` is possible",
                    Some("remove this key"),
                );
            }
        }
    }

    /// Who a listener does without; a plugin that is loaded later may have the name.
    fn left_out(&mut self, config: &Config) {
        let known: Vec<&str> = config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        for (listener, settings) in &config.listeners {
            for (index, name) in settings.chain.without.iter().enumerate() {
                if known.contains(&name.as_str()) {
                    continue;
                }
                let remedy = did_you_mean(name, known.iter().copied());
                let remedy = remedy.map(|guess| format!("did you mean `{guess}`?"));
                self.warn(
                    &format!("listeners.{listener}.chain.without[{index}]"),
                    format!("no member is called `{name}`: it has no effect until one is loaded"),
                    remedy.as_deref(),
                );
            }
        }
    }

    /// `[plugin_host]`.
    pub(super) fn plugin_host(&mut self, config: &Config) {
        let host = &config.plugin_host;
        if !(2..=100).contains(&host.versions) {
            self.add("plugin_host.versions", "2 to 100 versions can be kept", None);
        }
        if !(1..=100).contains(&host.uploads) {
            self.add("plugin_host.uploads", "1 to 100 uploads can be kept", None);
        }
        if host.watch_interval.0 < LEAST_INTERVAL {
            self.add("plugin_host.watch_interval", "at least 100ms is needed", None);
        }
        if host.compile.memory.0 < LEAST_COMPILE_MEMORY {
            self.add("plugin_host.compile.memory", "at least 64 MiB are needed", None);
        }
        for (key, time) in [("cpu", host.compile.cpu), ("time", host.compile.time)] {
            if time.0 < LEAST_COMPILE_TIME {
                self.add(&format!("plugin_host.compile.{key}"), "at least 1ms is needed", None);
            }
        }
        if host.require_signed && host.trusted_keys.is_empty() {
            self.add(
                "plugin_host.require_signed",
                "no key is trusted: no component could be loaded",
                Some("add [[plugin_host.trusted_keys]] with the key that `mqgate plugin keygen` prints"),
            );
        }
        for (key, percent) in [
            ("failed_percent", host.probation.failed_percent),
            ("denied_points", host.probation.denied_points),
        ] {
            if percent > 100 {
                self.add(&format!("plugin_host.probation.{key}"), "0 to 100 percent are possible", None);
            }
        }
        for (index, plugin) in config.plugins.iter().enumerate() {
            if plugin.limits.breaker_percent > 100 {
                let key = format!("plugins[{index}].limits.breaker_percent");
                self.add(&key, "0 to 100 percent are possible", None);
            }
        }
        let mut names = HashSet::new();
        for (index, trusted) in host.trusted_keys.iter().enumerate() {
            let key = |field: &str| format!("plugin_host.trusted_keys[{index}].{field}");
            if trusted.name.is_empty() || !names.insert(trusted.name.as_str()) {
                self.add(&key("name"), "every key has a name of its own", None);
            }
            if let Err(error) = trusted.key.parse::<PublicKey>() {
                self.add(&key("key"), error.to_string(), Some("`mqgate plugin keygen` prints it"));
            }
            if let Some(Err(_)) = trusted.until.as_deref().map(str::parse::<jiff::Timestamp>) {
                let remedy = "write it like \"2027-06-30T00:00:00Z\"";
                self.add(&key("until"), "this is no moment in time", Some(remedy));
            }
        }
    }

    fn native(&mut self, config: &Config, index: usize, plugin: &Plugin, native: Native) {
        let acls = &config.policy.acls;
        for field in ["grant", "limits", "required", "digest", "isolation"] {
            self.without_effect(
                &format!("plugins[{index}].{field}"),
                "without effect: this plugin is built in, not a component",
                "remove this key",
            );
        }
        let key = format!("plugins[{index}].config");
        let mut named: Vec<(String, String)> = Vec::new();
        match native {
            Native::StaticPolicy => {
                let Some(settings) = self.settings::<StaticPolicyConfig>(&key, plugin) else { return };
                for (number, rule) in settings.rules.iter().enumerate() {
                    let key = format!("{key}.rules[{number}]");
                    for (field, what) in rule.problems() {
                        let key = if field.is_empty() { key.clone() } else { format!("{key}.{field}") };
                        self.add(&key, what, None);
                    }
                    named.extend(rule.acl.iter().map(|acl| (format!("{key}.acl"), acl.clone())));
                }
            }
            Native::PasswordFile => {
                let Some(settings) = self.settings::<PasswordFileConfig>(&key, plugin) else { return };
                named.extend(settings.acl.map(|acl| (format!("{key}.acl"), acl)));
            }
            Native::Scram => {
                let Some(settings) = self.settings::<ScramConfig>(&key, plugin) else { return };
                named.extend(settings.acl.map(|acl| (format!("{key}.acl"), acl)));
            }
            Native::Anonymous => {
                let Some(settings) = self.settings::<AnonymousConfig>(&key, plugin) else { return };
                named.extend(settings.acl.map(|acl| (format!("{key}.acl"), acl)));
                self.networks(&format!("{key}.from"), &settings.from);
                for (name, listener) in &config.listeners {
                    let open = settings.from.is_empty() && !is_local(&listener.bind);
                    // A listener that demands a certificate has no anonymous clients.
                    if open && !(listener.has_certificates() && listener.certificate_required()) {
                        self.add(
                            &format!("plugins[{index}].native"),
                            format!("`anonymous` lets everybody in, and listener `{name}` can be reached by others"),
                            Some("bind that listener to 127.0.0.1 or [::1], or name the networks that it is for in `config.from`"),
                        );
                    }
                }
            }
        }
        for (key, name) in named {
            if !acls.contains_key(&name) {
                let remedy = match did_you_mean(&name, acls.keys().map(String::as_str)) {
                    Some(guess) => format!("did you mean `{guess}`?"),
                    None => format!("add [[policy.acls.{name}.rules]]"),
                };
                self.add(&key, format!("there is no rule set `{name}`"), Some(&remedy));
            }
        }
    }

    /// The settings of a native implementation, read where they stand so that mistakes have a position.
    fn settings<T: DeserializeOwned + schemars::JsonSchema>(
        &mut self,
        key: &str,
        plugin: &Plugin,
    ) -> Option<T> {
        let steps = path(key);
        let before = self.problems.len();
        let Some((value, _)) = self.source.find(&steps) else {
            return match serde_json::from_value(plugin.config.clone().into()) {
                Ok(settings) => Some(settings),
                Err(error) => {
                    self.add(key, error.to_string(), None);
                    None
                }
            };
        };
        if let DeValue::Table(table) = value.get_ref() {
            self.problems.extend(Shape::of::<T>().unknown_keys(self.source, table, &steps));
        }
        let value = Spanned::new(value.span(), value.get_ref().clone());
        match T::deserialize(toml::de::ValueDeserializer::from(value)) {
            Ok(settings) => (self.problems.len() == before).then_some(settings),
            Err(error) => {
                if self.problems.len() == before {
                    let place = error
                        .span()
                        .map_or_else(|| self.source.place(&steps), |span| self.source.place_of(&span));
                    self.problems.push(Problem {
                        place,
                        key: dotted(&steps),
                        what: error.message().trim().to_owned(),
                        remedy: None,
                    });
                }
                None
            }
        }
    }
}

/// As the host writes them.
fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}
