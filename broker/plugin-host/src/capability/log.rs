//! `mqgate:plugin/log`: lines of plugins in the broker's log, bounded in rate and length, with nothing in them
//! that could pass for another line or steer a terminal.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::enabled;

use crate::bindings::mqgate::plugin::log::{Host, Level};
use crate::bindings::mqgate::plugin::types::{Attribute, Value};
use crate::instance::{StoreState, shorten};
use crate::metrics::{HostCallResult, Interface};

/// Lines a plugin may write in a second, and at once.
const LINES_PER_SECOND: f64 = 100.0;
/// Longest line, fields included.
const MAX_LINE: usize = 1024;
const TARGET: &str = "mqgate::plugin";

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

impl Host for StoreState {
    fn enabled(&mut self, level: Level) -> bool {
        match level {
            Level::Trace => enabled!(target: TARGET, tracing::Level::TRACE),
            Level::Debug => enabled!(target: TARGET, tracing::Level::DEBUG),
            Level::Info => enabled!(target: TARGET, tracing::Level::INFO),
            Level::Warn => enabled!(target: TARGET, tracing::Level::WARN),
            Level::Error => enabled!(target: TARGET, tracing::Level::ERROR),
        }
    }

    fn write(&mut self, level: Level, message: String, fields: Vec<Attribute>) {
        if !self.enabled(level) {
            return;
        }
        if !self.services.log_rate.allows(Instant::now()) {
            self.services.metrics.host_call(Interface::Log, HostCallResult::Dropped);
            return;
        }
        self.services.metrics.host_call(Interface::Log, HostCallResult::Ok);
        let plugin = &*self.services.plugin;
        let line = line(&message, &fields);
        match level {
            Level::Trace => tracing::trace!(target: TARGET, plugin, "{line}"),
            Level::Debug => tracing::debug!(target: TARGET, plugin, "{line}"),
            Level::Info => tracing::info!(target: TARGET, plugin, "{line}"),
            Level::Warn => tracing::warn!(target: TARGET, plugin, "{line}"),
            Level::Error => tracing::error!(target: TARGET, plugin, "{line}"),
        }
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
    fn a_flood_is_stopped_and_the_bucket_fills_again() {
        let begin = Instant::now();
        let rate = LogRate::new(begin);
        assert_eq!((0..1000).filter(|_| rate.allows(begin)).count(), 100);
        assert_eq!((0..1000).filter(|_| rate.allows(begin + Duration::from_millis(500))).count(), 50);
    }
}
