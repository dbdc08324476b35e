//! Which topics go over a bridge, and what they are called on the other side. Knows neither connections nor
//! configuration files.

use mqgate_codec::{QoS, TopicFilter, TopicName};
use mqgate_identity::hooks::{AclRule, Effect, RetainMatch};

use crate::config::model::{BridgeTopic, Direction, Retain};

/// One line of `topics`, checked.
#[derive(Debug, Clone)]
pub struct Rule {
    pub direction: Direction,
    pub qos: QoS,
    pub retain: Retain,
    local: Side,
    remote: Side,
}

/// One side's names of the same topics.
#[derive(Debug, Clone)]
struct Side {
    prefix: String,
    filter: TopicFilter,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    pub topic: TopicName,
    pub qos: QoS,
    pub retain: Retain,
}

/// The rules of a bridge; the first that matches counts.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

/// The key of a rule that is wrong, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {what}")]
pub struct RuleError {
    pub key: &'static str,
    pub what: String,
}

impl Rule {
    pub fn new(topic: &BridgeTopic) -> Result<Self, RuleError> {
        let wrong = |key, what: String| RuleError { key, what };
        if topic.pattern.is_empty() && (topic.local_prefix.is_empty() || topic.remote_prefix.is_empty()) {
            let what =
                "without a pattern both prefixes are needed: they are the topic's names here and there";
            return Err(wrong("pattern", what.to_owned()));
        }
        let side = |key, prefix: &str| {
            if prefix.contains(['+', '#']) {
                return Err(wrong(key, format!("{prefix:?} holds a wildcard; those are for `pattern`")));
            }
            let filter = format!("{prefix}{}", topic.pattern);
            // It becomes a rule of a permit, where this would be a variable.
            if filter.contains("${") {
                return Err(wrong(key, format!("{filter:?} holds \"${{\"")));
            }
            let filter = TopicFilter::parse(filter.as_str().into())
                .map_err(|error| wrong("pattern", format!("{filter:?} {error}")))?;
            if filter.share_name().is_some() || filter.is_exclusive() {
                return Err(wrong(
                    "pattern",
                    String::from("a bridge's subscription cannot be shared or exclusive"),
                ));
            }
            Ok(Side { prefix: prefix.to_owned(), filter })
        };
        Ok(Self {
            direction: topic.direction,
            qos: QoS::from_bits(topic.qos)
                .ok_or_else(|| wrong("qos", format!("{} is not a QoS: 0, 1 and 2 are", topic.qos)))?,
            retain: topic.retain,
            local: side("local_prefix", &topic.local_prefix)?,
            remote: side("remote_prefix", &topic.remote_prefix)?,
        })
    }

    fn goes_out(&self) -> bool {
        self.direction != Direction::In
    }

    fn comes_in(&self) -> bool {
        self.direction != Direction::Out
    }
}

impl Side {
    /// The name on the `other` side.
    fn to(&self, other: &Self, topic: &TopicName) -> Option<TopicName> {
        if !self.filter.matches(topic) {
            return None;
        }
        // A pattern that ends in `/#` matches its parent, too: that may end before the prefix does.
        let rest = topic.as_str().strip_prefix(&self.prefix)?;
        TopicName::parse(format!("{}{rest}", other.prefix).into()).ok()
    }
}

impl Rules {
    pub fn new(topics: &[BridgeTopic]) -> Result<Self, (usize, RuleError)> {
        let rules = topics.iter().enumerate();
        rules
            .map(|(at, topic)| Rule::new(topic).map_err(|error| (at, error)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Where a message from here goes.
    pub fn out(&self, topic: &TopicName, qos: QoS) -> Option<Mapped> {
        self.0.iter().filter(|rule| rule.goes_out()).find_map(|rule| {
            let topic = rule.local.to(&rule.remote, topic)?;
            Some(Mapped { topic, qos: qos.min(rule.qos), retain: rule.retain })
        })
    }

    /// Where a message from the other broker goes.
    pub fn inwards(&self, topic: &TopicName, qos: QoS) -> Option<Mapped> {
        self.0.iter().filter(|rule| rule.comes_in()).find_map(|rule| {
            let topic = rule.remote.to(&rule.local, topic)?;
            Some(Mapped { topic, qos: qos.min(rule.qos), retain: rule.retain })
        })
    }

    /// What a Response Topic of a message that goes out is called there: its name over there if a rule brings the
    /// answer back, otherwise what it was.
    pub fn response_out(&self, topic: &TopicName) -> TopicName {
        let back = self.0.iter().filter(|rule| rule.comes_in());
        back.into_iter().find_map(|rule| rule.local.to(&rule.remote, topic)).unwrap_or_else(|| topic.clone())
    }

    /// The same of one that comes in.
    pub fn response_in(&self, topic: &TopicName) -> TopicName {
        let back = self.0.iter().filter(|rule| rule.goes_out());
        back.into_iter().find_map(|rule| rule.remote.to(&rule.local, topic)).unwrap_or_else(|| topic.clone())
    }

    /// What is subscribed to here.
    pub fn local_filters(&self) -> Vec<(TopicFilter, QoS)> {
        merged(self.0.iter().filter(|rule| rule.goes_out()).map(|rule| (&rule.local.filter, rule.qos)))
    }

    /// What is subscribed to at the other broker.
    pub fn remote_filters(&self) -> Vec<(TopicFilter, QoS)> {
        merged(self.0.iter().filter(|rule| rule.comes_in()).map(|rule| (&rule.remote.filter, rule.qos)))
    }

    /// What the bridge may do here.
    pub fn permitted(&self) -> Vec<AclRule> {
        let qos = |highest: QoS| (1_u8 << (highest as u8 + 1)) - 1;
        let rule = |rule: &Rule| AclRule {
            effect: Effect::Allow,
            publish: rule.comes_in(),
            subscribe: rule.goes_out(),
            filter: rule.local.filter.as_str().to_owned(),
            qos: qos(rule.qos),
            retain: RetainMatch::Any,
        };
        self.0.iter().map(rule).collect()
    }
}

/// Each filter once, with its highest QoS.
fn merged<'a>(filters: impl Iterator<Item = (&'a TopicFilter, QoS)>) -> Vec<(TopicFilter, QoS)> {
    let mut found: Vec<(TopicFilter, QoS)> = Vec::new();
    for (filter, qos) in filters {
        match found.iter_mut().find(|(known, _)| known == filter) {
            Some((_, known)) => *known = qos.max(*known),
            None => found.push((filter.clone(), qos)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(pattern: &str, direction: Direction, local: &str, remote: &str) -> BridgeTopic {
        BridgeTopic {
            pattern: pattern.into(),
            direction,
            qos: 1,
            local_prefix: local.into(),
            remote_prefix: remote.into(),
            retain: Retain::Keep,
        }
    }

    fn name(text: &str) -> TopicName {
        TopicName::parse(text.into()).unwrap()
    }

    fn rules(topics: &[BridgeTopic]) -> Rules {
        Rules::new(topics).unwrap()
    }

    #[test]
    fn prefixes_are_exchanged() {
        let rules = rules(&[
            topic("#", Direction::Out, "site/", "factory-1/"),
            topic("commands/+", Direction::In, "", "factory-1/"),
            topic("", Direction::Both, "clock", "time/now"),
        ]);
        let out = |text| rules.out(&name(text), QoS::ExactlyOnce).map(|to| to.topic.as_str().to_owned());
        let into = |text| rules.inwards(&name(text), QoS::AtMostOnce).map(|to| to.topic.as_str().to_owned());
        assert_eq!(out("site/a/b").as_deref(), Some("factory-1/a/b"));
        assert_eq!(out("site"), None, "`site/#` matches it, and it has no name there");
        assert_eq!(out("commands/x"), None);
        assert_eq!(into("factory-1/commands/x").as_deref(), Some("commands/x"));
        assert_eq!(into("factory-1/a"), None);
        assert_eq!((out("clock").as_deref(), into("time/now").as_deref()), (Some("time/now"), Some("clock")));
        assert_eq!(rules.out(&name("clock"), QoS::ExactlyOnce).unwrap().qos, QoS::AtLeastOnce);
        assert_eq!(rules.out(&name("clock"), QoS::AtMostOnce).unwrap().qos, QoS::AtMostOnce);
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules =
            rules(&[topic("a/x", Direction::Out, "", "first/"), topic("a/+", Direction::Out, "", "second/")]);
        let out = |text| rules.out(&name(text), QoS::AtMostOnce).unwrap().topic.as_str().to_owned();
        assert_eq!((out("a/x"), out("a/y")), ("first/a/x".into(), "second/a/y".into()));
    }

    #[test]
    fn a_response_topic_is_what_the_answer_comes_back_by() {
        let rules = rules(&[
            topic("requests/#", Direction::Out, "", "site/"),
            topic("answers/#", Direction::In, "", "site/"),
        ]);
        assert_eq!(rules.response_out(&name("answers/7")).as_str(), "site/answers/7");
        assert_eq!(rules.response_out(&name("elsewhere")).as_str(), "elsewhere");
        assert_eq!(rules.response_in(&name("site/requests/7")).as_str(), "requests/7");
        assert_eq!(rules.response_in(&name("site/answers/7")).as_str(), "site/answers/7");
    }

    #[test]
    fn the_permit_is_no_wider_than_the_rules() {
        let rules = rules(&[
            topic("a/#", Direction::Out, "", ""),
            topic("b/#", Direction::In, "x/", ""),
            topic("a/#", Direction::Both, "", "other/"),
        ]);
        let permitted: Vec<_> = rules
            .permitted()
            .into_iter()
            .map(|rule| (rule.filter, rule.publish, rule.subscribe, rule.qos))
            .collect();
        let expected = [("a/#", false, true), ("x/b/#", true, false), ("a/#", true, true)];
        assert_eq!(permitted, expected.map(|(filter, to, from)| (filter.to_owned(), to, from, 0b011)));
        assert_eq!(rules.local_filters().len(), 1, "each filter is subscribed to once");
        assert_eq!(rules.remote_filters().len(), 2);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let wrong = |topic: BridgeTopic| Rule::new(&topic).unwrap_err().to_string();
        let say = |pattern, local, remote| wrong(topic(pattern, Direction::Out, local, remote));
        assert_eq!(
            say("a/#", "x+/", ""),
            "`local_prefix`: \"x+/\" holds a wildcard; those are for `pattern`"
        );
        assert_eq!(say("a/#/b", "", ""), "`pattern`: \"a/#/b\" holds a wildcard where none may stand");
        assert!(say("", "x", "").contains("both prefixes"));
        assert!(say("$share/g/a", "", "").contains("cannot be shared"));
        assert!(say("${client-id}/a", "", "").contains("holds \"${\""));
        let qos = BridgeTopic { qos: 3, ..topic("a", Direction::Out, "", "") };
        assert_eq!(wrong(qos), "`qos`: 3 is not a QoS: 0, 1 and 2 are");
    }
}
