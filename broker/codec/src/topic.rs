//! Topic Names and Topic Filters. [MQTT 5.0, section 4.7]

use bytestring::ByteString;

/// Where a message is published: UTF-8, 1 to 65,535 bytes, no wildcard, no U+0000.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// A pattern that Topic Names are matched against; `$share/{group}/…` and `$exclusive/…` are already taken
/// apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter {
    /// The whole text as the client sent it.
    text: ByteString,
    /// Bytes of `text` before the filter proper: 0, or the length of `$share/{group}/` or `$exclusive/`.
    prefix: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("is empty")]
    Empty,
    #[error("is longer than 65,535 bytes")]
    TooLong,
    #[error("holds a wildcard where none may stand")]
    Wildcard,
    #[error("holds U+0000")]
    Nul,
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("names a shared subscription without a group or without a filter")]
    Shared,
    #[error("names an exclusive subscription without a filter, or one that is shared too")]
    Exclusive,
}

/// Begins a filter that one session at a time may subscribe to.
const EXCLUSIVE: &str = "$exclusive/";

impl TopicName {
    /// Checks `raw` and keeps it: the bytes still share the receive buffer.
    pub fn parse(raw: ByteString) -> Result<Self, TopicError> {
        check_length(&raw)?;
        // One pass: this is done for every message.
        match memchr::memchr3(0, b'+', b'#', raw.as_bytes()) {
            None => Ok(Self(raw)),
            Some(at) if raw.as_bytes()[at] == 0 => Err(TopicError::Nul), // [MQTT-4.7.3-2]
            Some(_) => Err(TopicError::Wildcard),                        // [MQTT-3.3.2-2]
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text itself.
    pub fn as_text(&self) -> &ByteString {
        &self.0
    }

    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl TopicFilter {
    /// Checks `raw` and keeps it. [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.8.2-1, MQTT-4.8.2-2]
    pub fn parse(raw: ByteString) -> Result<Self, TopicError> {
        check_length(&raw)?;
        if memchr::memchr(0, raw.as_bytes()).is_some() {
            return Err(TopicError::Nul); // [MQTT-4.7.3-2]
        }
        let prefix = shared_prefix(&raw)?;
        check_wildcards(&raw[prefix..])?;
        Ok(Self { text: raw, prefix })
    }

    /// The text as the client sent it, `$share/{group}/` included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The shared text itself, `$share/{group}/` included.
    pub fn as_text(&self) -> &ByteString {
        &self.text
    }

    /// What topic names are matched against, without `$share/{group}/` or `$exclusive/`.
    pub fn filter(&self) -> &str {
        &self.text[self.prefix..]
    }

    /// The group of a shared subscription.
    pub fn share_name(&self) -> Option<&str> {
        let is_shared = self.prefix > 0 && !self.is_exclusive();
        is_shared.then(|| &self.text["$share/".len()..self.prefix - 1])
    }

    /// Whether it begins with `$exclusive/`: only one session at a time may have such a subscription.
    pub fn is_exclusive(&self) -> bool {
        self.prefix > 0 && self.text.starts_with(EXCLUSIVE)
    }

    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.filter().split('/')
    }

    /// Whether a message for `topic` is a match. Topics that begin with `$` are not matched by a leading
    /// wildcard. [MQTT-4.7.2-1]
    pub fn matches(&self, topic: &TopicName) -> bool {
        matches_str(self.filter(), topic.as_str())
    }

    /// Whether every topic that `other` can match is matched by `self` too.
    pub fn covers(&self, other: &Self) -> bool {
        covers_str(self.filter(), other.filter())
    }
}

fn check_length(raw: &str) -> Result<(), TopicError> {
    if raw.is_empty() {
        return Err(TopicError::Empty); // [MQTT-4.7.3-1]
    }
    if raw.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong); // [MQTT-4.7.3-3]
    }
    Ok(())
}

fn shared_prefix(raw: &str) -> Result<usize, TopicError> {
    if let Some(rest) = raw.strip_prefix(EXCLUSIVE) {
        let names_nothing = rest.is_empty() || rest.starts_with("$share/") || rest.starts_with(EXCLUSIVE);
        return if names_nothing { Err(TopicError::Exclusive) } else { Ok(EXCLUSIVE.len()) };
    }
    let Some(rest) = raw.strip_prefix("$share/") else { return Ok(0) };
    let group = rest.find('/').ok_or(TopicError::Shared)?;
    if group == 0 || group + 1 == rest.len() || rest[..group].contains(['+', '#']) {
        return Err(TopicError::Shared);
    }
    Ok("$share/".len() + group + 1)
}

fn check_wildcards(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let lone = level.len() == 1;
        let wrong_hash = level.contains('#') && (!lone || levels.peek().is_some());
        let wrong_plus = level.contains('+') && !lone;
        if wrong_hash || wrong_plus {
            return Err(TopicError::Wildcard);
        }
    }
    Ok(())
}

fn matches_str(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic_levels.next() {
            Some(_) if level == "+" => {}
            Some(topic_level) if topic_level == level => {}
            Some(_) | None => return false,
        }
    }
    topic_levels.next().is_none()
}

fn covers_str(wide: &str, narrow: &str) -> bool {
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let mut narrow_levels = narrow.split('/');
    for level in wide.split('/') {
        if level == "#" {
            return true;
        }
        match narrow_levels.next() {
            Some("#") | None => return false,
            Some(_) if level == "+" => {}
            Some(narrow_level) if narrow_level == level => {}
            Some(_) => return false,
        }
    }
    narrow_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text.into()).unwrap()
    }

    fn name(text: &str) -> TopicName {
        TopicName::parse(text.into()).unwrap()
    }

    /// [MQTT-4.7.2-1, MQTT-4.7.3-4; MQTT 3.1.1: MQTT-4.7.2-1, MQTT-4.7.3-4]
    #[test]
    fn filters_match_as_the_specification_says() {
        for (pattern, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("a//b", "a//b", true),
            ("A", "a", false),
        ] {
            assert_eq!(filter(pattern).matches(&name(topic)), expected, "{pattern} ~ {topic}");
        }
    }

    #[test]
    fn a_filter_covers_only_what_it_matches_whole() {
        for (wide, narrow, expected) in [
            ("devices/7/#", "devices/7/a/+", true),
            ("devices/7/#", "devices/7", true),
            ("devices/7/#", "devices/#", false),
            ("devices/+", "devices/#", false),
            ("devices/+/#", "devices/#", false),
            ("devices/+", "devices/+", true),
            ("devices/7", "devices/+", false),
            ("#", "a/#", true),
            ("#", "$SYS/#", false),
            ("+/#", "#", false),
        ] {
            assert_eq!(filter(wide).covers(&filter(narrow)), expected, "{wide} covers {narrow}");
        }
    }

    /// [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.8.2-1, MQTT-4.8.2-2]
    #[test]
    fn bad_filters_are_refused_by_kind() {
        for (text, error) in [
            ("", TopicError::Empty),
            ("a/#/b", TopicError::Wildcard),
            ("a#", TopicError::Wildcard),
            ("a+/b", TopicError::Wildcard),
            ("a\0", TopicError::Nul),
            ("$share/g", TopicError::Shared),
            ("$share//a", TopicError::Shared),
            ("$share/g/", TopicError::Shared),
            ("$share/g+/a", TopicError::Shared),
            ("$exclusive/", TopicError::Exclusive),
            ("$exclusive/$share/g/a", TopicError::Exclusive),
            ("$exclusive/a/#/b", TopicError::Wildcard),
        ] {
            assert_eq!(TopicFilter::parse(text.into()), Err(error), "{text:?}");
        }
        assert_eq!(filter("$share/g/a/+").share_name(), Some("g"));
        assert_eq!(filter("$share/g/a/+").filter(), "a/+");
        let exclusive = filter("$exclusive/a/+");
        assert_eq!((exclusive.filter(), exclusive.share_name()), ("a/+", None));
        assert!(exclusive.is_exclusive() && !filter("$share/g/a").is_exclusive());
    }
}
