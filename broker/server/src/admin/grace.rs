//! How long what is replaced stays valid, as requests say it: `?grace=10m`.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::units::duration;

#[derive(Debug, Clone, Copy)]
pub(super) struct Grace(pub(super) Duration);

impl<'de> Deserialize<'de> for Grace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a duration: write a number and a unit, for example \"10m\", or \"0s\""
            ))
        })
    }
}

impl JsonSchema for Grace {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["10m", "30d", "0s"] })
    }
}

/// Without one it is `reload.grace`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GraceQuery {
    /// How long what is replaced stays valid beside it, for example `10m`; `reload.grace` otherwise.
    pub(super) grace: Option<Grace>,
}
