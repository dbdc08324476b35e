//! Access lists, compiled: variables replaced, levels taken apart, indexed by the first level. Of several lists each has to
//! allow.
//!
//! Knows nothing of who asks; everything that cannot be compiled safely is closed.

use bytestring::ByteString;
use mqgate_codec::{QoS, TopicFilter};
use mqgate_identity::hooks::{AclRule, Effect, RetainMatch};

use super::{GrantError, Granted};

/// From how many rules on the index by first level is worth its lookup.
const INDEX_FROM: usize = 16;

/// What every one of its lists allows. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    first: List,
    others: Vec<List>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    /// In the order in which they are tried.
    rules: Vec<Rule>,
    otherwise: Effect,
    /// Only with many rules.
    index: Option<FirstLevels>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    effect: Effect,
    publish: bool,
    subscribe: bool,
    qos: u8,
    retain: RetainMatch,
    pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// A rule that denies and could not be compiled.
    Everything,
    Levels(Box<[Level]>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    /// `+`
    Any,
    /// `#`
    Rest,
}

/// Which rules can match at all, by the first level of what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FirstLevels {
    /// Sorted by level; the numbers of rules rise.
    literal: Vec<(Box<str>, Vec<usize>)>,
    /// Rules whose first level is a wildcard.
    open: Vec<usize>,
}

impl Rules {
    pub(super) fn compile(granted: &Granted<'_>) -> Result<Self, GrantError> {
        Ok(Self { first: List::compile(granted)?, others: Vec::new() })
    }

    /// One list more that has to allow.
    pub(super) fn and(&mut self, granted: &Granted<'_>) -> Result<(), GrantError> {
        let list = List::compile(granted)?;
        if list != self.first && !self.others.contains(&list) {
            self.others.push(list);
        }
        Ok(())
    }

    pub(super) fn may_publish(&self, topic: &str, qos: QoS, retain: bool) -> bool {
        self.lists().all(|list| list.may_publish(topic, qos, retain))
    }

    pub(super) fn may_subscribe(&self, filter: &str, qos: QoS) -> bool {
        self.lists().all(|list| list.may_subscribe(filter, qos))
    }

    fn lists(&self) -> impl Iterator<Item = &List> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl List {
    fn compile(granted: &Granted<'_>) -> Result<Self, GrantError> {
        let mut rules = Vec::with_capacity(granted.rules.len());
        for (number, rule) in granted.rules.iter().enumerate() {
            let problem =
                |problem: String| GrantError::Filter { rule: number, filter: rule.filter.clone(), problem };
            if rule.qos == 0 || rule.qos > 0b111 {
                return Err(problem(format!("has the QoS set {:#05b}; bits 0 to 2 can be set", rule.qos)));
            }
            let pattern = match expand(&rule.filter, granted).map_err(problem)? {
                Some(text) => Pattern::Levels(levels(&text)),
                None if rule.effect == Effect::Deny => Pattern::Everything,
                None => continue,
            };
            let AclRule { effect, publish, subscribe, qos, retain, .. } = *rule;
            rules.push(Rule { effect, publish, subscribe, qos, retain, pattern });
        }
        let index = (rules.len() >= INDEX_FROM).then(|| FirstLevels::of(&rules));
        Ok(Self { rules, otherwise: granted.otherwise, index })
    }

    fn may_publish(&self, topic: &str, qos: QoS, retain: bool) -> bool {
        let decided = self.candidates(first_level(topic)).find(|rule| {
            rule.publish
                && rule.applies_to(qos)
                && match rule.retain {
                    RetainMatch::Any => true,
                    RetainMatch::OnlyRetained => retain,
                    RetainMatch::OnlyLive => !retain,
                }
                && rule.pattern.matches(topic)
        });
        match decided {
            Some(rule) => rule.effect == Effect::Allow,
            None => self.unless_special(topic),
        }
    }

    fn may_subscribe(&self, filter: &str, qos: QoS) -> bool {
        let first = first_level(filter);
        let relevant = |rule: &&Rule| {
            rule.subscribe
                && rule.applies_to(qos)
                && match rule.effect {
                    Effect::Allow => rule.pattern.covers(filter),
                    Effect::Deny => rule.pattern.overlaps(filter),
                }
        };
        // A wildcard overlaps rules of any first level, so the index does not help there.
        let decided = match first {
            "+" | "#" => self.rules.iter().find(relevant),
            literal => self.candidates(literal).find(relevant),
        };
        match decided {
            Some(rule) => rule.effect == Effect::Allow,
            None => self.unless_special(filter),
        }
    }

    /// `$`-topics need a rule of their own.
    fn unless_special(&self, text: &str) -> bool {
        self.otherwise == Effect::Allow && !text.starts_with('$')
    }

    fn candidates<'a>(&'a self, first: &str) -> impl Iterator<Item = &'a Rule> {
        let (literal, mut open, all) = match &self.index {
            None => ([].as_slice(), [].as_slice(), self.rules.as_slice()),
            Some(index) => (index.literal(first), index.open.as_slice(), [].as_slice()),
        };
        let mut literal = literal;
        let merged = std::iter::from_fn(move || {
            let from = match (literal.first(), open.first()) {
                (Some(left), Some(right)) if left < right => &mut literal,
                (Some(_), None) => &mut literal,
                (_, Some(_)) => &mut open,
                (None, None) => return None,
            };
            let (number, rest) = from.split_first()?;
            *from = rest;
            Some(&self.rules[*number])
        });
        all.iter().chain(merged)
    }
}

impl Rule {
    fn applies_to(&self, qos: QoS) -> bool {
        self.qos & (1 << qos as u8) != 0
    }
}

impl FirstLevels {
    fn of(rules: &[Rule]) -> Self {
        let mut index = Self { literal: Vec::new(), open: Vec::new() };
        for (number, rule) in rules.iter().enumerate() {
            let Some(Level::Literal(first)) = rule.pattern.first() else {
                index.open.push(number);
                continue;
            };
            match index.literal.binary_search_by(|(level, _)| level.cmp(first)) {
                Ok(at) => index.literal[at].1.push(number),
                Err(at) => index.literal.insert(at, (first.clone(), vec![number])),
            }
        }
        index
    }

    fn literal(&self, first: &str) -> &[usize] {
        match self.literal.binary_search_by(|(level, _)| (**level).cmp(first)) {
            Ok(at) => &self.literal[at].1,
            Err(_) => &[],
        }
    }
}

impl Pattern {
    fn first(&self) -> Option<&Level> {
        match self {
            Self::Everything => None,
            Self::Levels(levels) => levels.first(),
        }
    }

    /// A leading wildcard says nothing about `$`-topics.
    fn is_blind_to(&self, text: &str) -> bool {
        text.starts_with('$') && !matches!(self.first(), Some(Level::Literal(_)))
    }

    fn matches(&self, topic: &str) -> bool {
        let Self::Levels(levels) = self else { return true };
        if self.is_blind_to(topic) {
            return false;
        }
        let mut asked = topic.split('/');
        for level in levels {
            match (level, asked.next()) {
                (Level::Rest, _) => return true,
                (Level::Any, Some(_)) => {}
                (Level::Literal(text), Some(asked)) if **text == *asked => {}
                (Level::Any | Level::Literal(_), _) => return false,
            }
        }
        asked.next().is_none()
    }

    /// Whether every topic that `filter` can match is matched by the rule too.
    fn covers(&self, filter: &str) -> bool {
        let Self::Levels(levels) = self else { return true };
        if self.is_blind_to(filter) {
            return false;
        }
        let mut asked = filter.split('/');
        for level in levels {
            match (level, asked.next()) {
                (Level::Rest, _) => return true,
                (Level::Any | Level::Literal(_), Some("#") | None) => return false,
                (Level::Any, Some(_)) => {}
                (Level::Literal(text), Some(asked)) if **text == *asked => {}
                (Level::Literal(_), Some(_)) => return false,
            }
        }
        asked.next().is_none()
    }

    /// Whether there is a topic that both the rule and `filter` match.
    fn overlaps(&self, filter: &str) -> bool {
        let Self::Levels(levels) = self else { return true };
        if self.is_blind_to(filter) {
            return false;
        }
        if let Some(Level::Literal(text)) = levels.first()
            && text.starts_with('$')
            && filter.starts_with(['+', '#'])
        {
            return false;
        }
        let mut asked = filter.split('/');
        for level in levels {
            match (level, asked.next()) {
                // `#` stands for its parent level as well.
                (Level::Rest, _) | (_, Some("#")) => return true,
                (Level::Any, Some(_)) | (Level::Literal(_), Some("+")) => {}
                (Level::Literal(text), Some(asked)) if **text == *asked => {}
                (Level::Literal(_), Some(_)) | (Level::Any | Level::Literal(_), None) => return false,
            }
        }
        matches!(asked.next(), None | Some("#"))
    }
}

fn first_level(text: &str) -> &str {
    text.split('/').next().unwrap_or(text)
}

fn levels(filter: &str) -> Box<[Level]> {
    filter
        .split('/')
        .map(|level| match level {
            "+" => Level::Any,
            "#" => Level::Rest,
            literal => Level::Literal(literal.into()),
        })
        .collect()
}

/// The filter with its variables replaced; `None` when a value is absent or could change what the filter
/// means; an error when the rule itself is wrong, whoever connects.
fn expand(template: &str, granted: &Granted<'_>) -> Result<Option<String>, String> {
    let mut text = String::with_capacity(template.len());
    let mut shape = String::with_capacity(template.len());
    let mut sound = true;
    let mut rest = template;
    while let Some(start) = rest.find("${") {
        let (before, variable) = rest.split_at(start);
        let end = variable.find('}').ok_or("has a variable without its closing brace")?;
        let value = match &variable[2..end] {
            "client-id" => Some(granted.client_id.as_ref() as &str),
            "device-id" => Some(granted.device_id),
            "tenant" => granted.tenant,
            unknown => return Err(format!("names the unknown variable {unknown:?}")),
        };
        text.push_str(before);
        shape.push_str(before);
        shape.push('x');
        let at_level_start = text.is_empty() || text.ends_with('/');
        match value {
            Some(value) if is_safe(value, at_level_start) => text.push_str(value),
            Some(_) | None => sound = false,
        }
        rest = &variable[end + 1..];
    }
    text.push_str(rest);
    shape.push_str(rest);
    let filter = TopicFilter::parse(ByteString::from(shape)).map_err(|error| error.to_string())?;
    if filter.share_name().is_some() {
        return Err("names a group of a shared subscription; a rule names the filter inside".into());
    }
    // Only a value can make it wrong now, by its length.
    sound = sound
        && TopicFilter::parse(ByteString::from(text.as_str()))
            .is_ok_and(|filter| filter.share_name().is_none());
    Ok(sound.then_some(text))
}

/// Whether a value stays one literal part of one level.
fn is_safe(value: &str, at_level_start: bool) -> bool {
    let special = at_level_start && value.starts_with('$');
    let breaks_out = value.chars().any(|c| matches!(c, '/' | '+' | '#') || c.is_control());
    !value.is_empty() && !special && !breaks_out
}
