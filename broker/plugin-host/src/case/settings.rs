//! With which settings a case has the plugin run: as in its `[[plugins]]` entry.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::settings::{Capability, Limits, WALL_WITH_HTTP};

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PluginPart {
    /// Left out in recordings: it may hold secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Left out: what its imports need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<BTreeSet<Capability>>,
    #[serde(skip_serializing_if = "LimitsOfCase::is_empty")]
    pub limits: LimitsOfCase,
    /// Left out: the hosts that the case answers for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_allow: Option<Vec<String>>,
}

/// The limits that matter to one call; the broker's own where they are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsOfCase {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Span>,
}

/// `"64 MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

/// `"20ms"`, `"2s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl PluginPart {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for text in self.http_allow.iter().flatten() {
            text.parse::<crate::AllowedDestination>()
                .map_err(|error| format!("plugin.http_allow: {error}"))?;
        }
        Ok(())
    }

    /// What `init` gets.
    pub fn config(&self) -> Value {
        self.config.clone().unwrap_or_else(|| Value::Object(Map::new()))
    }
}

impl LimitsOfCase {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is said in `self`, or else in `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.or(other.memory),
            cpu: self.cpu.or(other.cpu),
            wall: self.wall.or(other.wall),
            init: self.init.or(other.init),
        }
    }

    /// Laid over the broker's own.
    pub(crate) fn over(self, granted: &BTreeSet<Capability>) -> Limits {
        let mut limits = Limits::default();
        if granted.contains(&Capability::Http) {
            limits.wall = WALL_WITH_HTTP;
        }
        let Self { memory, cpu, wall, init } = self;
        limits.memory = memory.map_or(limits.memory, |size| size.0);
        limits.cpu = cpu.map_or(limits.cpu, |span| span.0);
        limits.wall = wall.map_or(limits.wall, |span| span.0);
        limits.init = init.map_or(limits.init, |span| span.0);
        limits
    }

    /// Sets one by name, as commands have them: `cpu=50ms`.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').ok_or("a limit is NAME=VALUE, such as cpu=50ms")?;
        match name.trim() {
            "memory" => self.memory = Some(value.parse()?),
            "cpu" => self.cpu = Some(value.parse()?),
            "wall" => self.wall = Some(value.parse()?),
            "init" => self.init = Some(value.parse()?),
            other => {
                return Err(format!(
                    "no limit of a call is called {other:?}; there are memory, cpu, wall, init"
                ));
            }
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = number(text).and_then(|(count, unit)| match unit {
            "ms" => Some(Duration::from_millis(count)),
            "s" => Some(Duration::from_secs(count)),
            "m" => Some(Duration::from_secs(count.checked_mul(60)?)),
            _ => None,
        });
        duration.map(Self).ok_or_else(|| format!("{text:?} is no duration such as \"20ms\" or \"2s\""))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = number(text).and_then(|(count, unit)| {
            let factor = match unit {
                "" | "B" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                _ => return None,
            };
            usize::try_from(count.checked_mul(factor)?).ok()
        });
        size.map(Self).ok_or_else(|| format!("{text:?} is no size such as \"64 KiB\" or \"32 MiB\""))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

/// Reads and writes what has a text.
macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

as_text!(Span, Size);
