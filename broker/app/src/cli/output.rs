//! What commands print: tables for people, JSON for programs, errors to standard error.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use serde_json::Value;

/// Writes a line to standard output. A reader that went away is no error.
pub fn say(text: impl AsRef<str>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Writes an error and what led to it to standard error.
pub fn complain(error: &anyhow::Error) {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let line = cause.to_string();
        // Causes that the text above has already are not said twice.
        if !text.contains(&line) {
            text.push_str(if depth == 0 { "" } else { "\n  because: " });
            text.push_str(&line);
        }
    }
    let _ = writeln!(std::io::stderr().lock(), "mqgate: {}", printable_lines(&text));
}

/// Writes a warning to standard error.
pub fn warn(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "mqgate: warning: {}", printable_lines(text));
}

pub fn json(value: &Value) -> Result<()> {
    say(plain_json(&serde_json::to_string_pretty(value)?))
}

/// The same JSON, in which no character is left that a terminal obeys. JSON itself wants less of them escaped.
pub fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        // What is between the values are line breaks and blanks. These stand in a text, and have one unit in UTF-16.
        if is_obeyed(c) && c != '\n' {
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Columns of equal width; control characters are shown and not obeyed.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let clean: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = clean.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    say(line(&mut head.iter().copied()))?;
    clean.iter().try_for_each(|row| say(line(&mut row.iter().map(String::as_str))))
}

/// A device may choose its name; the operator's terminal must not obey it.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let shown: Vec<char> = if is_obeyed(c) { c.escape_unicode().collect() } else { vec![c] };
            shown
        })
        .collect()
}

/// The same of a text of several lines, which may have tabs in them.
pub fn printable_lines(text: &str) -> String {
    text.split_inclusive(['\n', '\t'])
        .map(|part| match part.strip_suffix(['\n', '\t']) {
            Some(before) => printable(before) + &part[before.len()..],
            None => printable(part),
        })
        .collect()
}

/// It steers a terminal, or hides or reorders what is beside it.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A member as text; empty if there is none.
pub fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

/// The members of an answer, one a line; members of members are indented. What is absent is left out.
pub fn details(value: &Value) -> Result<()> {
    detail_lines(value, 0).into_iter().try_for_each(say)
}

fn detail_lines(value: &Value, depth: usize) -> Vec<String> {
    let pad = "  ".repeat(depth);
    let mut lines = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        match member {
            Value::Null => {}
            Value::Array(items) if items.iter().any(Value::is_object) => {
                lines.push(format!("{pad}{name}"));
                for item in items {
                    let members =
                        item.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
                    let words: Vec<String> =
                        members.map(|(name, _)| format!("{name}={}", printable(&text(item, name)))).collect();
                    lines.push(format!("{pad}  {}", words.join(" ")));
                }
            }
            Value::Object(_) => {
                lines.push(format!("{pad}{name}"));
                lines.extend(detail_lines(member, depth + 1));
            }
            _ => lines.push(format!("{pad}{name:22} {}", printable(&text(value, name)))),
        }
    }
    lines
}

/// Milliseconds since the epoch as a time.
pub fn time(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| milliseconds.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Seconds since the epoch as a date.
pub fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}ü"), "a\\u{1b}[2Jb\\u{202e}ü");
        assert_eq!(printable_lines("a\n\tb\u{1b}[2J\r\n\n"), "a\n\tb\\u{1b}[2J\\u{d}\n\n");
    }

    #[test]
    fn json_tells_a_terminal_nothing_and_says_the_same() {
        // CSI in one character, which JSON lets through.
        let value = serde_json::json!({ "id": "a\u{9b}2Jb\u{7f}\u{202e}\n\u{1b}ü\\" });
        let text = plain_json(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(text.chars().all(|c| c == '\n' || !is_obeyed(c)), "{text:?}");
        assert!(text.contains("a\\u009b2Jb\\u007f\\u202e"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }
}
