//! What a client may do with topics, as configuration writes it: lists of topic filters with variables, and limits.
//! Knows which text is a topic filter and which filter covers another; knows no certificate.

use std::fmt;

use serde::Deserialize;

use crate::config::problem;
use crate::template::{Template, split_end, split_variable};
use crate::types::{AclRule, Actions, Effect, InitError, Limits, QosLevels, RetainMatch};

/// The broker takes no longer access list.
pub const MOST_LINES: usize = 1000;
/// The broker takes no longer filter.
pub const LONGEST_FILTER: usize = 1024;
/// What the broker replaces in an access list. Best left to it: it knows the final values.
pub const BROKER_VARIABLES: [&str; 3] = ["client-id", "device-id", "tenant"];

/// The four lists as they are written. Refusals go before permissions.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TopicLists {
    pub deny_publish: Vec<String>,
    pub deny_subscribe: Vec<String>,
    pub allow_publish: Vec<String>,
    pub allow_subscribe: Vec<String>,
}

/// One line of an access list whose filter is still to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub effect: Effect,
    pub actions: Actions,
    pub filter: Template,
}

/// Limits as they are written; each key may be left out.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LimitsTable {
    maximum_qos: Option<u8>,
    retain_available: Option<bool>,
    maximum_packet_size: Option<u32>,
    receive_maximum: Option<u16>,
    topic_alias_maximum: Option<u16>,
    session_expiry: Option<u32>,
    keep_alive: Option<u16>,
    subscriptions: Option<u32>,
    publishes_per_second: Option<u32>,
    publish_bytes_per_second: Option<u32>,
}

impl TopicLists {
    pub fn is_empty(&self) -> bool {
        self.lists().iter().all(|(.., filters)| filters.is_empty())
    }

    /// Every filter as it was written, with a pointer to it.
    pub fn texts(&self, at: &str) -> impl Iterator<Item = (&str, String)> {
        self.lists().into_iter().flat_map(move |(.., key, filters)| {
            filters
                .iter()
                .enumerate()
                .map(move |(position, text)| (text.as_str(), format!("{at}/{key}/{position}")))
        })
    }

    /// The lines in the order in which the broker is to try them. `is_variable` says what may stand in `${…}` beside
    /// [`BROKER_VARIABLES`], `examine` may object to a line; errors point below `at`.
    pub fn check(
        &self,
        at: impl fmt::Display,
        is_variable: impl Fn(&str) -> bool,
        examine: impl Fn(&Template) -> Result<(), String>,
    ) -> Result<Vec<Line>, InitError> {
        let mut lines = Vec::new();
        for (effect, actions, key, filters) in self.lists() {
            for (position, text) in filters.iter().enumerate() {
                let wrong = |why: String| problem(format!("{at}/{key}/{position}"), why);
                let kept = |name: &str| BROKER_VARIABLES.contains(&name);
                let filter = filter_template(text, &is_variable, kept).map_err(wrong)?;
                examine(&filter).map_err(wrong)?;
                lines.push(Line { effect, actions, filter });
            }
        }
        if lines.len() > MOST_LINES {
            return Err(problem(at.to_string(), format!("more than {MOST_LINES} topics")));
        }
        Ok(lines)
    }

    /// Refusals first: the first line that matches decides.
    fn lists(&self) -> [(Effect, Actions, &'static str, &[String]); 4] {
        [
            (Effect::Deny, Actions::PUBLISH, "deny-publish", &self.deny_publish),
            (Effect::Deny, Actions::SUBSCRIBE, "deny-subscribe", &self.deny_subscribe),
            (Effect::Allow, Actions::PUBLISH, "allow-publish", &self.allow_publish),
            (Effect::Allow, Actions::SUBSCRIBE, "allow-subscribe", &self.allow_subscribe),
        ]
    }
}

impl LimitsTable {
    /// An error points below `at`.
    pub fn check(&self, at: impl fmt::Display) -> Result<Limits, InitError> {
        if self.maximum_qos.is_some_and(|qos| qos > 2) {
            return Err(problem(format!("{at}/maximum-qos"), "is 0, 1 or 2"));
        }
        for (key, zero) in [
            ("receive-maximum", self.receive_maximum == Some(0)),
            ("maximum-packet-size", self.maximum_packet_size == Some(0)),
        ] {
            if zero {
                return Err(problem(format!("{at}/{key}"), "is at least 1"));
            }
        }
        Ok(Limits {
            maximum_qos: self.maximum_qos,
            retain_available: self.retain_available,
            maximum_packet_size: self.maximum_packet_size,
            receive_maximum: self.receive_maximum,
            topic_alias_maximum: self.topic_alias_maximum,
            session_expiry: self.session_expiry,
            keep_alive: self.keep_alive,
            subscriptions: self.subscriptions,
            publishes_per_second: self.publishes_per_second,
            publish_bytes_per_second: self.publish_bytes_per_second,
        })
    }
}

/// A line for every quality of service, retained or not.
pub fn rule(effect: Effect, actions: Actions, filter: impl Into<String>) -> AclRule {
    AclRule { effect, actions, filter: filter.into(), qos: QosLevels::all(), retain: RetainMatch::Any }
}

/// A topic filter with variables, each of which stands for a part of one level.
pub fn filter_template(
    text: &str,
    is_variable: impl Fn(&str) -> bool,
    is_kept: impl Fn(&str) -> bool,
) -> Result<Template, String> {
    let template = Template::parse(text, is_variable, is_kept).map_err(|error| error.to_string())?;
    // Every value is one plain level, so any stands for all.
    let (mut sample, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = split_variable(rest) {
        sample.push_str(before);
        sample.push('x');
        rest = split_end(after).map_or("", |(_, after)| after);
    }
    sample.push_str(rest);
    if is_topic_filter(&sample) { Ok(template) } else { Err(format!("{text:?} is no topic filter")) }
}

/// [MQTT-4.7.1-1] to [MQTT-4.7.1-3], [MQTT-4.7.3-1], [MQTT-4.7.3-2]. A shared subscription is a way to receive and no
/// set of topics: `$share/…` is none.
pub fn is_topic_filter(text: &str) -> bool {
    let is_level = |level: &str| level == "+" || !level.contains(['+', '#', '\0']);
    let (before, last) = text.rsplit_once('/').map_or((None, text), |(before, last)| (Some(before), last));
    !text.is_empty()
        && text.len() <= LONGEST_FILTER
        && text.split('/').next() != Some("$share")
        && before.is_none_or(|before| before.split('/').all(is_level))
        && (last == "#" || is_level(last))
}

/// Whether every topic that `filter` matches is matched by `bound` too. Both are topic filters.
pub fn covers(bound: &str, filter: &str) -> bool {
    // [MQTT-4.7.2-1]: a wildcard in front does not match what begins with `$`.
    if filter.starts_with('$') && bound.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = filter.split('/');
    for level in bound.split('/') {
        match (level, wanted.next()) {
            // `a/#` is `a` too.
            ("#", _) => return true,
            (_, None | Some("#")) => return false,
            ("+", Some(_)) => {}
            (level, Some(other)) if level == other => {}
            (_, Some(_)) => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::template::ExpandError;

    #[test]
    fn a_topic_filter_is_recognised() {
        for fine in ["a", "/", "a/+/b", "#", "+/#", "$SYS/x", "a//b", "ü"] {
            assert!(is_topic_filter(fine), "{fine:?}");
        }
        let long = "x".repeat(LONGEST_FILTER + 1);
        for wrong in ["", "a/#/b", "a#", "b+", "#/", "+a", "a\0", "$share/g/a", &long] {
            assert!(!is_topic_filter(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_filter_is_covered_level_by_level() {
        for (bound, filter) in [
            ("#", "#"),
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/#"),
            ("a/+", "a/+"),
            ("a/+/#", "a/b"),
            ("+/b", "+/b"),
            ("$SYS/#", "$SYS/x"),
            ("/a", "/a"),
        ] {
            assert!(covers(bound, filter), "{bound} covers {filter}");
        }
        for (bound, filter) in [
            ("a", "+"),
            ("a", "#"),
            ("a/+", "a/#"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a/b", "a"),
            ("a", "a/b"),
            ("+", "/a"),
            ("+/+", "#"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("a/#", "ab"),
        ] {
            assert!(!covers(bound, filter), "{bound} does not cover {filter}");
        }
    }

    fn lists(json: &str) -> Result<Vec<Line>, (String, String)> {
        let lists: TopicLists = serde_json::from_str(json).unwrap();
        lists.check("/rules/0", |name| name == "ou", |_| Ok(())).map_err(|error| match error {
            InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
            InitError::Failed(message) => (String::new(), message),
        })
    }

    #[test]
    fn refusals_go_before_permissions() {
        let lines =
            lists(r##"{"allow-publish": ["a/${ou}/${device-id}"], "deny-publish": ["a/x"]}"##).unwrap();
        assert_eq!((lines[0].effect, lines[1].effect), (Effect::Deny, Effect::Allow));
        let filter = lines[1].filter.expand::<ExpandError>(|_| Ok(Some(Cow::Borrowed("b"))));
        assert_eq!(filter.unwrap(), "a/b/${device-id}");
        assert!(TopicLists::default().is_empty());
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let (at, why) = lists(r#"{"allow-subscribe": ["a", "a/#/b"]}"#).unwrap_err();
        assert_eq!(
            (at.as_str(), why.as_str()),
            ("/rules/0/allow-subscribe/1", "\"a/#/b\" is no topic filter")
        );
        assert_eq!(lists(r#"{"allow-subscribe": ["${cn}"]}"#).unwrap_err().1, "there is no ${cn}");
        let many = format!(r#"{{"allow-publish": [{}]}}"#, vec![r#""a""#; MOST_LINES + 1].join(","));
        assert_eq!(lists(&many).unwrap_err().1, "more than 1000 topics");
        let limits: LimitsTable = serde_json::from_str(r#"{"maximum-qos": 3}"#).unwrap();
        assert!(
            matches!(limits.check("/l"), Err(InitError::InvalidConfig(p)) if p[0].at == "/l/maximum-qos")
        );
        let limits: LimitsTable = serde_json::from_str(r#"{"receive-maximum": 0}"#).unwrap();
        assert!(limits.check("").is_err());
        let limits: LimitsTable = serde_json::from_str(r#"{"subscriptions": 7}"#).unwrap();
        assert_eq!(limits.check("").unwrap(), Limits { subscriptions: Some(7), ..Limits::UNCHANGED });
    }
}
