//! What becomes of topics before anybody looks at them: rewriting by rules, and the prefix that asks for a
//! later delivery. Permits, subscriptions and messages only ever see the outcome.

use bytestring::ByteString;
use mqgate_codec::{TopicFilter, TopicName};

/// Begins the topic of a message that is to be published later: `$delayed/SECONDS/topic`.
const DELAYED: &str = "$delayed/";
/// Begin what the broker says about itself, and what happens in it: no client may publish there.
const RESERVED: [&str; 2] = ["$SYS", "$events"];

/// The rules of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// The first that matches is applied, and no other.
    pub rewrites: Vec<Rewrite>,
    /// Seconds that a message may be delayed; `None`: not at all.
    pub longest_delay: Option<u32>,
    /// Whether `$exclusive/` subscriptions are taken.
    pub exclusive: bool,
}

/// One rule: what matches `from` becomes `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    applies: Applies,
    from: TopicFilter,
    to: Box<[Part]>,
}

/// What a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    Publish,
    Subscribe,
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// What the wildcard with this number stood for, from 0 on.
    Wildcard(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    #[error("`{0}` is not a Topic Filter: it {1}")]
    From(String, mqgate_codec::TopicError),
    #[error("a rule names the filter inside a shared or exclusive subscription, without its prefix")]
    Prefix,
    #[error("`${0}` stands for no wildcard: there are {1}")]
    Wildcard(usize, usize),
    #[error("`{0}` can be no topic: it is empty, or holds `+`, `#` or U+0000")]
    To(String),
    #[error("`{0}` begins with `$SYS` or `$events`, where clients cannot publish")]
    Sys(String),
}

/// Where a PUBLISH is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Now,
    After(u32),
    /// It asks for a delay that cannot be had.
    Never,
}

impl Default for TopicRules {
    /// No rewriting; a delay of up to fifty days.
    fn default() -> Self {
        Self { rewrites: Vec::new(), longest_delay: Some(50 * 24 * 60 * 60), exclusive: true }
    }
}

impl Rewrite {
    /// `to` names the wildcards of `from` as `$1`, `$2`, … in their order.
    pub fn new(applies: Applies, from: &str, to: &str) -> Result<Self, RewriteError> {
        let filter =
            TopicFilter::parse(from.into()).map_err(|error| RewriteError::From(from.into(), error))?;
        if filter.filter() != filter.as_str() {
            return Err(RewriteError::Prefix);
        }
        if to.is_empty() || to.contains(['+', '#', '\0']) {
            return Err(RewriteError::To(to.into()));
        }
        if is_reserved(to) {
            return Err(RewriteError::Sys(to.into()));
        }
        let wildcards = filter.levels().filter(|level| matches!(*level, "+" | "#")).count();
        let mut parts = Vec::new();
        let mut rest = to;
        let mut text = String::new();
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            let number = rest[at + 1..at + 1 + digits].parse::<usize>();
            rest = &rest[at + 1 + digits..];
            match number {
                Ok(number) if (1..=wildcards).contains(&number) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text).into()));
                    }
                    parts.push(Part::Wildcard(number - 1));
                }
                Ok(number) => return Err(RewriteError::Wildcard(number, wildcards)),
                Err(_) => text.push('$'),
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Self { applies, from: filter, to: parts.into() })
    }

    /// The text that `text`, a Topic Name or a Topic Filter, becomes. A wildcard of a filter is only matched
    /// by a wildcard that covers it.
    fn apply(&self, text: &str) -> Option<String> {
        let from = self.from.as_str();
        if text.starts_with('$') && from.starts_with(['+', '#']) {
            return None;
        }
        let mut found: Vec<&str> = Vec::new();
        let mut rest = Some(text);
        for level in from.split('/') {
            if level == "#" {
                found.push(rest.unwrap_or_default());
                rest = None;
                break;
            }
            let (first, after) = match rest?.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (rest?, None),
            };
            match level {
                "+" if first != "#" => found.push(first),
                literal if literal == first && first != "#" => {}
                _ => return None,
            }
            rest = after;
        }
        if rest.is_some() {
            return None;
        }
        let parts = self.to.iter().map(|part| match part {
            Part::Text(text) => &**text,
            Part::Wildcard(number) => found.get(*number).copied().unwrap_or_default(),
        });
        Some(parts.collect())
    }
}

impl TopicRules {
    fn rewritten(&self, text: &str, unless: Applies) -> Option<String> {
        let mut rules = self.rewrites.iter().filter(|rule| rule.applies != unless);
        rules.find_map(|rule| rule.apply(text))
    }

    /// The topic a client publishes to. What would be no Topic Name stays as it was.
    pub fn published(&self, topic: TopicName) -> TopicName {
        if self.rewrites.is_empty() {
            return topic;
        }
        let rewritten = self.rewritten(topic.as_str(), Applies::Subscribe);
        rewritten.and_then(|text| TopicName::parse(text.into()).ok()).unwrap_or(topic)
    }

    /// The filter a client subscribes to, if it is another one. Group and prefix stay; what would be no Topic
    /// Filter stays as it was.
    pub fn subscribed(&self, filter: &TopicFilter) -> Option<TopicFilter> {
        if self.rewrites.is_empty() {
            return None;
        }
        let inner = self.rewritten(filter.filter(), Applies::Publish)?;
        let prefix = filter.as_str().strip_suffix(filter.filter())?;
        TopicFilter::parse(ByteString::from(format!("{prefix}{inner}"))).ok()
    }

    /// Takes `$delayed/SECONDS/` off a topic.
    pub fn delay(&self, topic: TopicName) -> (TopicName, When) {
        let Some(rest) = topic.as_str().strip_prefix(DELAYED) else { return (topic, When::Now) };
        let asked = rest.split_once('/').and_then(|(seconds, inner)| {
            let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
            let seconds: u32 = seconds.parse().ok().filter(|_| digits)?;
            let longest = self.longest_delay?;
            Some((TopicName::parse(inner.into()).ok()?, seconds)).filter(|_| seconds <= longest)
        });
        match asked {
            Some((inner, seconds)) => (inner, When::After(seconds)),
            None => (topic, When::Never),
        }
    }
}

/// Whether a topic is the broker's own: only it publishes there.
pub fn is_reserved(topic: &str) -> bool {
    RESERVED
        .iter()
        .any(|root| topic.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&str, &str)]) -> TopicRules {
        let rewrites = rules.iter().map(|(from, to)| Rewrite::new(Applies::All, from, to).unwrap()).collect();
        TopicRules { rewrites, longest_delay: Some(100), exclusive: true }
    }

    fn name(text: &str) -> TopicName {
        TopicName::parse(text.into()).unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text.into()).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_is_applied() {
        let rules = rules(&[("a/+/b/#", "x/$1/$2"), ("a/#", "y"), ("+/old", "$1/new"), ("price", "cost/$x")]);
        for (topic, expected) in [
            ("a/1/b/c/d", "x/1/c/d"),
            ("a/1/b", "x/1/"),
            ("a", "y"),
            ("a/1/c", "y"),
            ("z/old", "z/new"),
            ("$z/old", "$z/old"),
            ("z/old/er", "z/old/er"),
            ("price", "cost/$x"),
        ] {
            assert_eq!(rules.published(name(topic)).as_str(), expected, "{topic}");
        }
        for (asked, expected) in [
            ("a/+/b/#", Some("x/+/#")),
            ("a/1/b/c", Some("x/1/c")),
            ("$share/g/a/1/b/c", Some("$share/g/x/1/c")),
            ("a/#", Some("y")),
            ("+/old", Some("+/new")),
            ("#", None),
            ("z/#", None),
        ] {
            let rewritten = rules.subscribed(&filter(asked));
            assert_eq!(rewritten.as_ref().map(TopicFilter::as_str), expected, "{asked}");
        }
    }

    #[test]
    fn a_rule_is_for_what_it_says() {
        let rules = TopicRules {
            rewrites: vec![
                Rewrite::new(Applies::Publish, "a", "p").unwrap(),
                Rewrite::new(Applies::Subscribe, "a", "s").unwrap(),
            ],
            ..TopicRules::default()
        };
        assert_eq!(rules.published(name("a")).as_str(), "p");
        assert_eq!(rules.subscribed(&filter("a")).unwrap().as_str(), "s");
    }

    #[test]
    fn what_cannot_be_a_rule_is_refused_by_kind() {
        let new = |from, to| Rewrite::new(Applies::All, from, to).unwrap_err();
        assert!(matches!(new("a/#/b", "x"), RewriteError::From(..)));
        assert_eq!(new("$share/g/a", "x"), RewriteError::Prefix);
        assert_eq!(new("a/+", "x/$2"), RewriteError::Wildcard(2, 1));
        assert_eq!(new("a/+", "x/$0"), RewriteError::Wildcard(0, 1));
        assert_eq!(new("a", "x/+"), RewriteError::To("x/+".into()));
        assert_eq!(new("a", ""), RewriteError::To(String::new()));
        assert_eq!(new("a", "$SYS/x"), RewriteError::Sys("$SYS/x".into()));
    }

    #[test]
    fn a_delay_is_taken_off_or_refused() {
        let rules = rules(&[]);
        for (topic, inner, when) in [
            ("a/b", "a/b", When::Now),
            ("$delayed/5/a/b", "a/b", When::After(5)),
            ("$delayed/0/a", "a", When::After(0)),
            ("$delayed/100/a", "a", When::After(100)),
            ("$delayed/101/a", "$delayed/101/a", When::Never),
            ("$delayed/x/a", "$delayed/x/a", When::Never),
            ("$delayed/5", "$delayed/5", When::Never),
            ("$delayed/5/", "$delayed/5/", When::Never),
            ("$delayed/99999999999/a", "$delayed/99999999999/a", When::Never),
        ] {
            assert_eq!(rules.delay(name(topic)), (name(inner), when));
        }
        let off = TopicRules { longest_delay: None, ..rules };
        assert_eq!(off.delay(name("$delayed/5/a")).1, When::Never);
    }

    #[test]
    fn the_brokers_own_topics_are_known() {
        for (topic, reserved) in [
            ("$SYS", true),
            ("$SYS/x", true),
            ("$SYSTEM/x", false),
            ("SYS", false),
            ("$sys/x", false),
            ("$events", true),
            ("$events/certs/revoked/ab", true),
            ("$eventsource", false),
            ("events/x", false),
        ] {
            assert_eq!(is_reserved(topic), reserved, "{topic}");
        }
    }
}
