//! What is wrong with a configuration, told to the person who has to repair it: where, what, and the remedy.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// Dotted, as in `listeners.main.bind`; empty for the file as a whole.
    pub key: String,
    pub what: String,
    pub remedy: Option<String>,
}

/// Where the value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Position in the file.
    File { line: usize, column: usize, width: usize, text: String },
    /// Name of the environment variable.
    Environment(String),
    /// Nobody wrote it: a default, or a key that is missing.
    Nowhere,
}

/// Every problem of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    pub file: Option<PathBuf>,
    pub list: Vec<Problem>,
}

impl Place {
    /// The place of the byte range `span` in `text`.
    pub fn in_text(text: &str, span: &Range<usize>) -> Self {
        let start = (0..=span.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = span.end.clamp(start, line_end);
        Self::File {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text.get(start..end).map_or(1, |marked| marked.chars().count()).max(1),
            text: text[line_start..line_end].trim_end().to_owned(),
        }
    }
}

impl Problem {
    pub fn render(&self, file: Option<&Path>, f: &mut impl fmt::Write) -> fmt::Result {
        let name = file.map_or_else(|| String::from("configuration"), |file| file.display().to_string());
        match &self.place {
            Place::File { line, column, .. } => write!(f, "{name}:{line}:{column}: ")?,
            Place::Environment(variable) => write!(f, "environment variable {variable}: ")?,
            Place::Nowhere => write!(f, "{name}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        writeln!(f, "{}", self.what)?;
        if let Place::File { line, column, width, text } = &self.place {
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "  {number} | {text}")?;
            writeln!(f, "  {gutter} | {}{}", " ".repeat(column - 1), "^".repeat(*width))?;
        }
        if let Some(remedy) = &self.remedy {
            writeln!(f, "  help: {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            problem.render(self.file.as_deref(), f)?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem in the configuration"),
            count => write!(f, "{count} problems in the configuration"),
        }
    }
}

impl Problems {
    /// Each in one line, for a log.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|problem| {
            let place = match &problem.place {
                Place::File { line, .. } => format!(" (line {line})"),
                Place::Environment(variable) => format!(" ({variable})"),
                Place::Nowhere => String::new(),
            };
            format!("`{}`{place}: {}", problem.key, problem.what)
        })
    }
}

impl std::error::Error for Problems {}

/// The candidate that `word` is most likely a mistyped form of.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_is_guessed() {
        let words = ["bind", "certfile", "keyfile", "cacertfile", "auth_mode"];
        for (word, guess) in [
            ("bnid", Some("bind")),
            ("cert_file", Some("certfile")),
            ("authmode", Some("auth_mode")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(word, words), guess, "{word}");
        }
    }

    #[test]
    fn a_place_survives_any_span() {
        let text = "a = 1\nß = 2";
        for start in 0..20 {
            for end in 0..20 {
                let _ = Place::in_text(text, &(start..end));
            }
        }
        assert_eq!(
            Place::in_text(text, &(6..8)),
            Place::File { line: 2, column: 1, width: 1, text: String::from("ß = 2") }
        );
    }
}
