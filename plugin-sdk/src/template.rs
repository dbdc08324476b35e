//! Texts with `${field}` in them, for topics and names. Knows what may be put into a topic; knows no
//! certificate.
//!
//! A value is put in only if it is one plain topic level: not empty, no `/`, `+` or `#`, no `$` (it would start a
//! reserved topic, or a `${` that the broker replaces), no control or invisible character. Anything else is an
//! error, never an escaped or shortened text.

use std::borrow::Cow;
use std::fmt;

/// Values longer than this are no names of devices.
const LONGEST_VALUE: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

/// A template that cannot be used at all; found when the configuration is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// `${` without `}`.
    Unclosed,
    Unknown(String),
}

/// A template that cannot be filled for this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpandError {
    /// There is no value.
    Absent(String),
    /// There is one, and it must not be put in.
    Unsafe { variable: String, why: Unsafe },
}

/// Why a value is no plain topic level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsafe {
    Empty,
    TooLong,
    /// `/`, `+`, `#` or `$`.
    Topic(char),
    /// A control character, or one that hides or reorders text.
    Invisible,
}

impl Template {
    /// `is_variable` says which names may stand in `${…}`; those that `is_kept` are left as they are, because
    /// somebody else replaces them.
    pub fn parse(
        text: &str,
        is_variable: impl Fn(&str) -> bool,
        is_kept: impl Fn(&str) -> bool,
    ) -> Result<Self, TemplateError> {
        let dollars = text.bytes().filter(|byte| *byte == b'$').count();
        let mut parts = Vec::with_capacity(2 * dollars + 1);
        // What is no part yet, and the end of it that was not looked at.
        let (mut literal, mut rest) = (text, text);
        while let Some((_, after)) = split_variable(rest) {
            let (name, behind) = split_end(after).ok_or(TemplateError::Unclosed)?;
            if !is_kept(name) {
                if !is_variable(name) {
                    return Err(TemplateError::Unknown(name.to_owned()));
                }
                let before = &literal[..literal.len() - after.len() - "${".len()];
                if !before.is_empty() {
                    parts.push(Part::Text(before.to_owned()));
                }
                parts.push(Part::Variable(name.to_owned()));
                literal = behind;
            }
            rest = behind;
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Whether the variable `name` must be filled in here.
    pub fn uses(&self, name: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable(variable) if variable == name))
    }

    /// Fills in what `value` answers; an error of `value` ends it.
    pub fn expand<'v, E: From<ExpandError>>(
        &self,
        mut value: impl FnMut(&str) -> Result<Option<Cow<'v, str>>, E>,
    ) -> Result<String, E> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Variable(name) => {
                    let value = value(name)?.ok_or_else(|| ExpandError::Absent(name.clone()))?;
                    plain(&value).map_err(|why| ExpandError::Unsafe { variable: name.clone(), why })?;
                    filled.push_str(&value);
                }
            }
        }
        Ok(filled)
    }
}

/// What is before and after the first `${`. Templates are short: what searches long texts takes longer to begin than this to end.
pub(crate) fn split_variable(text: &str) -> Option<(&str, &str)> {
    let at = text.as_bytes().windows(2).position(|pair| pair == b"${")?;
    Some((&text[..at], &text[at + 2..]))
}

/// What is before and after the `}` of a variable.
pub(crate) fn split_end(text: &str) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == b'}')?;
    Some((&text[..at], &text[at + 1..]))
}

/// Whether `value` can stand for one topic level, and is fit to be a name.
pub fn plain(value: &str) -> Result<(), Unsafe> {
    if value.is_empty() {
        return Err(Unsafe::Empty);
    }
    if value.len() > LONGEST_VALUE {
        return Err(Unsafe::TooLong);
    }
    // What nearly all values are made of, seen at one look.
    if value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'+' | b'#' | b'$')) {
        return Ok(());
    }
    if let Some(special) = value.chars().find(|c| matches!(c, '/' | '+' | '#' | '$')) {
        return Err(Unsafe::Topic(special));
    }
    if value.chars().any(is_invisible) {
        return Err(Unsafe::Invisible);
    }
    Ok(())
}

/// The same characters that the broker refuses in device ids.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong => write!(f, "is longer than {LONGEST_VALUE} bytes"),
            Self::Topic(special) => write!(f, "holds {special}"),
            Self::Invisible => f.write_str("holds a control or invisible character"),
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("${ without }"),
            Self::Unknown(name) => write!(f, "there is no ${{{name}}}"),
        }
    }
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(variable) => write!(f, "there is no {variable}"),
            Self::Unsafe { variable, why } => write!(f, "{variable} {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<Template, TemplateError> {
        Template::parse(text, |name| matches!(name, "cn" | "ou"), |name| name == "client-id")
    }

    fn expand(text: &str, cn: Option<&'static str>) -> Result<String, ExpandError> {
        template(text).unwrap().expand(|name| Ok(if name == "cn" { cn.map(Cow::Borrowed) } else { None }))
    }

    #[test]
    fn values_are_put_in() {
        assert_eq!(expand("devices/${cn}/#", Some("meter-7")).unwrap(), "devices/meter-7/#");
        assert_eq!(expand("${cn}-${cn}", Some("ü")).unwrap(), "ü-ü");
        assert_eq!(expand("plain/$SYS/$", None).unwrap(), "plain/$SYS/$");
        assert_eq!(expand("x/${client-id}/${cn}", Some("a b")).unwrap(), "x/${client-id}/a b");
        assert_eq!(
            expand("${client-id}${cn}ü${client-id}$", Some("a")).unwrap(),
            "${client-id}aü${client-id}$"
        );
        assert_eq!(expand("$${cn}${cn}$", Some("a")).unwrap(), "$aa$");
        assert_eq!(expand("", None).unwrap(), "");
        assert_eq!(expand("a/${ou}", Some("x")), Err(ExpandError::Absent("ou".into())));
    }

    #[test]
    fn no_value_can_widen_a_topic() {
        for hostile in [
            "",
            "#",
            "+",
            "a/b",
            "/",
            "a+",
            "$SYS",
            "${client-id}",
            "a${",
            "a$b",
            "a\0b",
            "a\u{202e}b",
            "\u{feff}",
            "\u{85}",
            "\u{7f}",
            "a\n",
        ] {
            let refused = expand("devices/${cn}/#", Some(hostile));
            assert!(matches!(refused, Err(ExpandError::Unsafe { .. })), "{hostile:?}: {refused:?}");
        }
        assert_eq!(plain(&"x".repeat(256)), Ok(()));
        assert_eq!(plain(&"x".repeat(257)), Err(Unsafe::TooLong));
    }

    #[test]
    fn a_wrong_template_is_found_when_it_is_read() {
        assert_eq!(template("a/${cn"), Err(TemplateError::Unclosed));
        assert_eq!(template("a/${cnn}"), Err(TemplateError::Unknown("cnn".into())));
        assert_eq!(template("a/${}"), Err(TemplateError::Unknown(String::new())));
    }
}
