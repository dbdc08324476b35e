//! `mqgate:plugin/log`: lines of plugins in the broker's log, bounded in rate and length, with nothing in them
//! that could pass for another line or steer a terminal.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::bindings::mqgate::plugin::log::{Host, Level};
use crate::bindings::mqgate::plugin::types::{Attribute, Value};
use crate::instance::{StoreState, shorten};
use crate::metrics::{HostCallResult, Interface};
use crate::tap::HostCall;

/// Lines a plugin may write in a second, and at once.
const LINES_PER_SECOND: f64 = 100.0;
/// Longest line, fields included.
const MAX_LINE: usize = 1024;
const TARGET: &str = "mqgate::plugin";
/// Of lines written while audit events are handed over: a log filter can tell them from the rest.
const AUDIT_TARGET: &str = "mqgate::audit_log";
/// What an auditor may write while it takes one batch. The size of a batch bounds its lines already; this is for
/// an auditor that does not stop.
const AUDIT_BYTES: usize = 1 << 20;
/// What a line costs beside its text.
const LINE_COST: usize = 64;

/// A bucket of lines that fills with time.
pub(crate) struct LogRate(Mutex<Bucket>);

struct Bucket {
    lines: f64,
    filled: Instant,
}

impl LogRate {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Bucket { lines: LINES_PER_SECOND, filled: now }))
    }

    fn allows(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * LINES_PER_SECOND;
        bucket.lines = (bucket.lines + gained).min(LINES_PER_SECOND);
        bucket.filled = now;
        let allowed = bucket.lines >= 1.0;
        if allowed {
            bucket.lines -= 1.0;
        }
        allowed
    }
}

/// Under which rules an instance's lines are written.
pub(crate) enum Voice {
    /// So many a second, over all instances of the plugin.
    Plugin,
    /// Audit events are handed over. A batch is one call, so lines are bounded per call and none is lost.
    Auditor { bytes_left: usize },
}

impl Voice {
    pub(crate) const fn auditor() -> Self {
        Self::Auditor { bytes_left: AUDIT_BYTES }
    }

    fn allows(&mut self, line: &str, rate: &LogRate, now: Instant) -> bool {
        match self {
            Self::Plugin => rate.allows(now),
            Self::Auditor { bytes_left } => match bytes_left.checked_sub(line.len() + LINE_COST) {
                Some(left) => {
                    *bytes_left = left;
                    true
                }
                None => false,
            },
        }
    }
}

/// `tracing` takes a target and a level only as constants.
macro_rules! at_level {
    ($level:expr, $do:ident, $target:expr $(, $rest:tt)*) => {
        match $level {
            Level::Trace => $do!($target, tracing::Level::TRACE $(, $rest)*),
            Level::Debug => $do!($target, tracing::Level::DEBUG $(, $rest)*),
            Level::Info => $do!($target, tracing::Level::INFO $(, $rest)*),
            Level::Warn => $do!($target, tracing::Level::WARN $(, $rest)*),
            Level::Error => $do!($target, tracing::Level::ERROR $(, $rest)*),
        }
    };
}

macro_rules! is_enabled {
    ($target:expr, $level:expr) => {
        tracing::enabled!(target: $target, $level)
    };
}

macro_rules! emit {
    ($target:expr, $level:expr, $plugin:ident, $line:ident) => {
        tracing::event!(target: $target, $level, plugin = $plugin, "{}", $line)
    };
}

impl Host for StoreState {
    fn enabled(&mut self, level: Level) -> bool {
        match self.voice {
            Voice::Plugin => at_level!(level, is_enabled, TARGET),
            Voice::Auditor { .. } => at_level!(level, is_enabled, AUDIT_TARGET),
        }
    }

    fn write(&mut self, level: Level, message: String, fields: Vec<Attribute>) {
        if !self.enabled(level) {
            return;
        }
        let line = line(&message, &fields);
        self.heard(|| HostCall::Log { level: word(level), line: line.clone() });
        if !self.voice.allows(&line, &self.services.log_rate, Instant::now()) {
            self.services.metrics.host_call(Interface::Log, HostCallResult::Dropped);
            return;
        }
        self.services.metrics.host_call(Interface::Log, HostCallResult::Ok);
        let plugin = &*self.services.plugin;
        match self.voice {
            Voice::Plugin => at_level!(level, emit, TARGET, plugin, line),
            Voice::Auditor { .. } => at_level!(level, emit, AUDIT_TARGET, plugin, line),
        }
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

/// Message and fields as one line of bounded length.
fn line(message: &str, fields: &[Attribute]) -> String {
    let mut line = escape(start(message));
    for Attribute { name, value } in fields {
        if line.len() > MAX_LINE {
            break;
        }
        let value = match value {
            Value::Text(text) => escape(start(text)),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::Blob(bytes) => hex::encode(&bytes[..bytes.len().min(MAX_LINE)]),
            Value::Texts(texts) => {
                let texts: Vec<String> =
                    texts.iter().take(MAX_LINE).map(|text| escape(start(text))).collect();
                texts.join(",")
            }
        };
        let _ = write!(line, " {}={value}", escape(start(name)));
    }
    shorten(line, MAX_LINE)
}

/// As much of a text as can matter to a line.
fn start(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LINE + 1)]
}

/// Writes control characters, and those that change the direction of text, as `\u{…}`.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let steers = matches!(character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || steers {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Text of several lines, such as a backtrace, as one.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| escape(line.trim())).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_a_plugin_writes_begins_a_new_line_or_steers_a_terminal() {
        let fields =
            [Attribute { name: String::from("a\nb"), value: Value::Text(String::from("\u{202e}x\0")) }];
        assert_eq!(
            line("one\ntwo \u{1b}[31mred", &fields),
            "one\\ntwo \\u{1b}[31mred a\\nb=\\u{202e}x\\u{0}"
        );
    }

    #[test]
    fn a_line_is_cut() {
        let long = line(&"ä".repeat(1 << 20), &[]);
        assert!(long.len() <= MAX_LINE + '…'.len_utf8(), "{}", long.len());
        let many = vec![Attribute { name: String::from("n"), value: Value::Blob(vec![0; 1 << 20]) }; 100];
        assert!(line("m", &many).len() <= MAX_LINE + '…'.len_utf8());
    }

    #[test]
    fn an_auditor_writes_its_batch_and_not_without_end() {
        let begin = Instant::now();
        let rate = LogRate::new(begin);
        let line = "x".repeat(MAX_LINE);
        let mut voice = Voice::auditor();
        assert!((0..256).all(|_| voice.allows(&line, &rate, begin)), "a batch of the longest lines");
        assert!((0..1000).any(|_| !voice.allows(&line, &rate, begin)));
        assert!((0..20_000).any(|_| !voice.allows("", &rate, begin)), "empty lines cost too");
        assert!(Voice::Plugin.allows("", &rate, begin), "the rate of the others is untouched");
    }

    #[test]
    fn a_flood_is_stopped_and_the_bucket_fills_again() {
        let begin = Instant::now();
        let rate = LogRate::new(begin);
        assert_eq!((0..1000).filter(|_| rate.allows(begin)).count(), 100);
        assert_eq!((0..1000).filter(|_| rate.allows(begin + Duration::from_millis(500))).count(), 50);
    }
}
