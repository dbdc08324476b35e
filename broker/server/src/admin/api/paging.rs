//! Lists come in pages: how long a page is, and where the next one begins.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use super::super::problem::{Code, Problem};

/// Items of a page unless asked for otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

/// How many items a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(usize);

impl Limit {
    pub const LARGEST: usize = LARGEST_PAGE;

    pub fn or_default(asked: Option<Self>) -> usize {
        asked.map_or(PAGE, |limit| limit.0)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let limit = text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
        limit
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`limit` is a number from 1 to {LARGEST_PAGE}")))
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": PAGE,
            "description": "Items of a page.",
        })
    }
}

/// Where a page begins: the `next` of the page before it. What is in it is nobody's business.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// Behind the item with this key of this list.
    pub fn of(list: &str, key: &impl Serialize) -> String {
        // A key is a string, a number, or a tuple of them: these serialise.
        let text = serde_json::to_vec(&(list, key)).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(text)
    }

    /// The key; refused if it is not one of this list.
    pub fn read<K: DeserializeOwned>(&self, list: &str) -> Result<K, Problem> {
        let refused = || {
            Problem::new(
                Code::BadCursor,
                "`after` is not a `next` of an earlier page of this list; begin without it",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| refused())?;
        let (of, key): (String, K) = serde_json::from_slice(&bytes).map_err(|_| refused())?;
        if of == list { Ok(key) } else { Err(refused()) }
    }
}

impl JsonSchema for Cursor {
    fn schema_name() -> Cow<'static, str> {
        "Cursor".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The `next` of the page before; the first page has none.",
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;

    use super::*;

    #[test]
    fn a_cursor_is_of_one_list() {
        let cursor = Cursor(Cursor::of("sessions", &("device", "client\u{e9}/+")));
        assert_eq!(cursor.read("sessions"), Ok((String::from("device"), String::from("client\u{e9}/+"))));
        assert_eq!(cursor.read::<(String, String)>("bans").unwrap_err().code, Code::BadCursor);
        assert_eq!(cursor.read::<u64>("sessions").unwrap_err().code, Code::BadCursor);
        for text in ["", "x", "%", "AAAA", "bnVsbA"] {
            assert!(Cursor(text.to_owned()).read::<String>("sessions").is_err(), "{text}");
        }
    }

    #[test]
    fn a_page_has_its_bounds() {
        #[derive(Debug, Deserialize)]
        struct Ask {
            limit: Option<Limit>,
        }
        let ask = |query: &str| {
            let uri = format!("/?{query}").parse().unwrap();
            Query::<Ask>::try_from_uri(&uri).map(|Query(ask)| Limit::or_default(ask.limit))
        };
        assert_eq!((ask("").unwrap(), ask("limit=1").unwrap(), ask("limit=1000").unwrap()), (100, 1, 1000));
        for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit="] {
            let refused = ask(query).unwrap_err().body_text();
            assert!(refused.contains("limit"), "{refused}");
        }
    }
}
