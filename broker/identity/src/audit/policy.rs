//! Which events are written down, how much of them, how safely, and who gets them: ordered rules, of which the first that
//! matches counts.
//!
//! Pure: how often a sampled rule was asked is the only thing it remembers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{AuditEvent, Outcome, names};
use crate::hooks::Value;

/// How much of an event is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, on what, from where, when and why; no words of clients and plugins, no values before and after.
    Metadata,
    /// And what was asked for, in the words of who asked.
    Request,
    /// And who was asked about it, and values before and after.
    Full,
}

/// How safe a record is before what it is about takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is on the disk.
    Durable,
    /// It is accepted, and will be on the disk within `sync_interval`.
    Batched,
    /// The effect does not wait for it: if there is no room it is lost, and counted.
    BestEffort,
}

/// What a rule is about; what is empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    pub category: Vec<String>,
    /// Names of events; `connection.*` stands for all that begin so.
    pub action: Vec<String>,
    pub outcome: Vec<Outcome>,
    pub listener: Vec<String>,
    pub ca: Vec<String>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    pub when: Match,
    pub level: Level,
    /// One of so many is written down.
    pub sample: u32,
    /// Sinks that get it; `None`: all.
    pub sinks: Option<Vec<String>>,
    /// `None`: as the event's origin asks for it.
    pub mode: Option<Mode>,
    seen: AtomicU64,
}

/// What is looked at of a record.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub category: &'a str,
    pub action: &'a str,
    pub outcome: Outcome,
    pub listener: Option<&'a str>,
    pub ca: Option<&'a str>,
}

/// The rules, in order; what no rule matches is written down in full.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// A rule that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("there is no event `{0}`; docs/audit.md has all of them, and `connection.*` stands for some")]
    Action(String),
    #[error("there is no category `{0}`: it is one of {known}", known = CATEGORIES.join(", "))]
    Category(String),
    #[error("a sample of 0 is none: write `level = \"none\"`")]
    NoSample,
    #[error(
        "a sample would lose refusals and errors, which are counted and never lost: add `outcome = [\"success\"]` to `match`"
    )]
    Sample,
}

/// Something about the rules that is surely not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyWarning {
    /// Everything that the rule matches is matched by an earlier one.
    Unreachable { rule: usize, by: usize },
    /// It matches only what is written down in any case.
    WithoutEffect { rule: usize },
}

pub const CATEGORIES: [&str; 9] =
    ["authn", "authz", "registry", "ca", "plugin", "admin", "tls", "session", "system"];

/// Fields whose words somebody else chose.
const OF_CLIENTS: [&str; 6] = ["user_name", "topic", "filter", "detail", "will", "trace_id"];
/// Fields with values before and after a change begin with these.
const OF_CHANGES: [&str; 4] = ["before", "after", "changes", "digest_before"];

/// What says whether the log is whole, and by which rules it is kept, is always written down.
fn is_always(action: &str) -> bool {
    ["audit.", "broker.", "config.", "finding."].iter().any(|start| action.starts_with(start))
}

impl Rule {
    pub fn new(
        when: Match,
        level: Level,
        sample: u32,
        sinks: Option<Vec<String>>,
        mode: Option<Mode>,
    ) -> Result<Self, PolicyError> {
        for action in &when.action {
            let is_known = match action.strip_suffix('*') {
                Some(start) => names::ALL.iter().any(|name| name.starts_with(start)),
                None => names::ALL.contains(&action.as_str()),
            };
            if !is_known {
                return Err(PolicyError::Action(action.clone()));
            }
        }
        if let Some(category) = when.category.iter().find(|category| !CATEGORIES.contains(&category.as_str()))
        {
            return Err(PolicyError::Category(category.clone()));
        }
        if sample == 0 {
            return Err(PolicyError::NoSample);
        }
        if sample > 1 && when.outcome != [Outcome::Success] {
            return Err(PolicyError::Sample);
        }
        Ok(Self { when, level, sample, sinks, mode, seen: AtomicU64::new(0) })
    }
}

fn action_matches(pattern: &str, action: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => action.starts_with(start),
        None => pattern == action,
    }
}

impl Match {
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let named = |list: &[String], name: Option<&str>| {
            list.is_empty() || name.is_some_and(|name| list.iter().any(|one| one == name))
        };
        named(&self.category, Some(subject.category))
            && (self.action.is_empty()
                || self.action.iter().any(|pattern| action_matches(pattern, subject.action)))
            && (self.outcome.is_empty() || self.outcome.contains(&subject.outcome))
            && named(&self.listener, subject.listener)
            && named(&self.ca, subject.ca)
    }

    /// Whether it matches everything that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        let all = |ours: &[String], theirs: &[String]| {
            ours.is_empty() || (!theirs.is_empty() && theirs.iter().all(|one| ours.contains(one)))
        };
        let actions = self.action.is_empty()
            || (!other.action.is_empty()
                && other.action.iter().all(|theirs| {
                    self.action
                        .iter()
                        .any(|ours| ours == theirs || action_matches(ours, theirs.trim_end_matches('*')))
                }));
        let outcomes = self.outcome.is_empty()
            || (!other.outcome.is_empty() && other.outcome.iter().all(|one| self.outcome.contains(one)));
        all(&self.category, &other.category)
            && actions
            && outcomes
            && all(&self.listener, &other.listener)
            && all(&self.ca, &other.ca)
    }
}

impl<'a> Subject<'a> {
    pub fn of(event: &'a AuditEvent, category: &'a str) -> Self {
        let ca = event.fields.iter().find(|field| field.name == "ca");
        let ca = ca.and_then(|field| match &field.value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        });
        Self { category, action: event.name, outcome: event.outcome, listener: event.listener.as_deref(), ca }
    }
}

/// What is to be done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub level: Level,
    pub mode: Option<Mode>,
    /// It stands for so many.
    pub sample: u32,
}

const IN_FULL: Decision = Decision { level: Level::Full, mode: None, sample: 1 };

impl Policy {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The place of the rule that is about this; `None`: no rule is.
    pub fn hit(&self, subject: &Subject<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.when.matches(subject))
    }

    /// What is to be done with an event; counts for samples.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision {
        let Some(rule) = self.hit(subject).and_then(|at| self.rules.get(at)) else { return IN_FULL };
        if is_always(subject.action) {
            return Decision { mode: rule.mode.filter(|mode| *mode == Mode::Durable), ..IN_FULL };
        }
        let is_taken =
            rule.sample == 1 || rule.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(rule.sample.into());
        let level = if is_taken { rule.level } else { Level::None };
        Decision { level, mode: rule.mode, sample: rule.sample }
    }

    /// Whether a sink of this name gets it.
    pub fn goes_to(&self, subject: &Subject<'_>, sink: &str) -> bool {
        let rule = self.hit(subject).and_then(|at| self.rules.get(at));
        rule.and_then(|rule| rule.sinks.as_ref()).is_none_or(|sinks| sinks.iter().any(|name| name == sink))
    }

    /// Whether any rule says who gets what.
    pub fn names_sinks(&self) -> bool {
        self.rules.iter().any(|rule| rule.sinks.is_some())
    }

    pub fn warnings(&self) -> Vec<PolicyWarning> {
        let mut warnings = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let earlier = self.rules.iter().take(at).position(|earlier| earlier.when.covers(&rule.when));
            if let Some(by) = earlier {
                warnings.push(PolicyWarning::Unreachable { rule: at, by });
            }
            let always = !rule.when.action.is_empty() && rule.when.action.iter().all(|name| is_always(name));
            if always && (rule.level != Level::Full || rule.sample > 1) {
                warnings.push(PolicyWarning::WithoutEffect { rule: at });
            }
        }
        warnings
    }
}

impl Level {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Metadata => "metadata",
            Self::Request => "request",
            Self::Full => "full",
        }
    }

    /// Takes out of an event what is more than this level. Not to be asked at [`Level::None`].
    pub fn apply(self, event: &mut AuditEvent) {
        if self == Self::Full {
            return;
        }
        event.plugins = Vec::new();
        event.fields.retain(|field| {
            let name = field.name.as_str();
            let of_changes = OF_CHANGES.iter().any(|start| {
                name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            let of_others = OF_CLIENTS.contains(&name) || name.starts_with("plugin.");
            !of_changes && (self == Self::Request || !of_others)
        });
    }
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Batched => "batched",
            Self::BestEffort => "best_effort",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn rule(when: Match, level: Level) -> Rule {
        Rule::new(when, level, 1, None, None).unwrap()
    }

    fn about<'a>(action: &'a str, category: &'a str, outcome: Outcome) -> Subject<'a> {
        Subject { category, action, outcome, listener: Some("devices"), ca: Some("factory") }
    }

    const ACCEPTED: fn() -> Subject<'static> = || about("connection.accepted", "authn", Outcome::Success);
    const REFUSED: fn() -> Subject<'static> = || about("connection.refused", "authn", Outcome::Failure);

    #[test]
    fn the_first_rule_that_matches_counts() {
        let policy = Policy::new(vec![
            rule(Match { outcome: vec![Outcome::Failure], ..Match::default() }, Level::Full),
            rule(Match { action: words(&["connection.*"]), ..Match::default() }, Level::Metadata),
            rule(
                Match { category: words(&["registry"]), listener: words(&["x"]), ..Match::default() },
                Level::None,
            ),
        ]);
        assert_eq!(policy.hit(&REFUSED()), Some(0));
        assert_eq!(policy.hit(&ACCEPTED()), Some(1));
        assert_eq!(policy.decide(&ACCEPTED()).level, Level::Metadata);
        let elsewhere = about("device.registered", "registry", Outcome::Success);
        assert_eq!((policy.hit(&elsewhere), policy.decide(&elsewhere)), (None, IN_FULL));
        assert_eq!(policy.decide(&Subject { listener: Some("x"), ..elsewhere }).level, Level::None);
        // Where there is no listener, no listener is meant.
        assert_eq!(policy.hit(&Subject { listener: None, ..elsewhere }), None);
    }

    #[test]
    fn of_a_sample_one_is_taken_and_says_how_many_it_stands_for() {
        let successes = Match { outcome: vec![Outcome::Success], ..Match::default() };
        let sampled = Rule::new(successes.clone(), Level::Request, 3, None, None).unwrap();
        let policy = Policy::new(vec![sampled]);
        let levels = [0; 6].map(|_| policy.decide(&ACCEPTED()).level);
        assert_eq!(levels.map(Level::as_str), ["request", "none", "none", "request", "none", "none"]);
        assert_eq!(policy.decide(&ACCEPTED()).sample, 3);
        let sample = |when, sample| Rule::new(when, Level::Full, sample, None, None).err();
        assert_eq!(sample(Match::default(), 2), Some(PolicyError::Sample));
        assert_eq!(sample(successes, 0), Some(PolicyError::NoSample));
    }

    #[test]
    fn what_shows_that_the_log_is_whole_cannot_be_left_out() {
        let policy = Policy::new(vec![rule(Match::default(), Level::None)]);
        assert_eq!(policy.decide(&REFUSED()).level, Level::None);
        for action in ["audit.dropped", "config.reloaded", "broker.stopped", "finding.appeared"] {
            let decided = policy.decide(&about(action, "system", Outcome::Success));
            assert_eq!(decided, IN_FULL, "{action}");
        }
    }

    #[test]
    fn rules_that_never_count_are_found() {
        let policy = Policy::new(vec![
            rule(Match { action: words(&["connection.*"]), ..Match::default() }, Level::Full),
            rule(
                Match { action: words(&["connection.accepted"]), ca: words(&["a"]), ..Match::default() },
                Level::None,
            ),
            rule(
                Match { action: words(&["connection.closed", "device.*"]), ..Match::default() },
                Level::None,
            ),
            rule(Match { action: words(&["audit.*"]), ..Match::default() }, Level::None),
            rule(Match::default(), Level::Full),
            rule(Match { listener: words(&["x"]), ..Match::default() }, Level::None),
        ]);
        assert_eq!(
            policy.warnings(),
            [
                PolicyWarning::Unreachable { rule: 1, by: 0 },
                PolicyWarning::WithoutEffect { rule: 3 },
                PolicyWarning::Unreachable { rule: 5, by: 4 },
            ]
        );
    }

    #[test]
    fn names_that_there_are_not_are_refused() {
        let error = |when| Rule::new(when, Level::Full, 1, None, None).err();
        let action = |name: &str| Match { action: words(&[name]), ..Match::default() };
        assert_eq!(error(action("connection.open")), Some(PolicyError::Action("connection.open".into())));
        assert_eq!(error(action("conection.*")), Some(PolicyError::Action("conection.*".into())));
        assert_eq!(error(action("*")), None);
        let category = Match { category: words(&["auth"]), ..Match::default() };
        assert_eq!(error(category), Some(PolicyError::Category("auth".into())));
    }

    #[test]
    fn a_level_leaves_out_what_is_above_it() {
        let event = || {
            let mut event = AuditEvent::new(names::CONFIG_RELOADED, Outcome::Success, Reason::Ok)
                .field("tls.version", "1.3")
                .field("topic", "a/b")
                .field("plugin.detail", "x")
                .field("before.listeners", "1")
                .field("beforehand", "kept");
            event.client_id = Some("c".into());
            event
        };
        let left = |level: Level| {
            let mut event = event();
            level.apply(&mut event);
            assert_eq!(event.client_id.as_deref(), Some("c"));
            event.fields.into_iter().map(|field| field.name).collect::<Vec<_>>()
        };
        assert_eq!(left(Level::Metadata), ["tls.version", "beforehand"]);
        assert_eq!(left(Level::Request), ["tls.version", "topic", "plugin.detail", "beforehand"]);
        assert_eq!(left(Level::Full).len(), 5);
    }

    #[test]
    fn sinks_that_are_named_get_it_and_others_do_not() {
        let to = |sinks: Option<&[&str]>| {
            let rule = Rule::new(Match::default(), Level::Full, 1, sinks.map(words), None).unwrap();
            Policy::new(vec![rule]).goes_to(&ACCEPTED(), "siem")
        };
        assert_eq!(
            (to(None), to(Some(&["siem"])), to(Some(&["file"])), to(Some(&[]))),
            (true, true, false, false)
        );
        assert!(Policy::default().goes_to(&ACCEPTED(), "siem"));
    }
}
