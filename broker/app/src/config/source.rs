//! The configuration before it is understood: the file's text as a tree that knows where each value stands,
//! with the environment laid over it.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Place, Problem};

/// Variables that begin so set keys: `MQGATE__LISTENERS__MAIN__BIND` is `listeners.main.bind`.
pub const PREFIX: &str = "MQGATE__";

/// Spans from here on are numbers of environment variables and not positions in the file.
const ENVIRONMENT: usize = 1 << 40;

/// A step of a path: a key, or the index of an array.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// File and environment together; borrows the text of both.
#[derive(Debug, Clone)]
pub struct Source<'t> {
    text: &'t str,
    variables: Vec<&'t str>,
    pub root: DeTable<'t>,
    /// Of names that were understood and mean nothing.
    pub warnings: Vec<Problem>,
}

/// Shows a path the way it is written: `plugins[0].name`.
pub fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// `listeners.main.bind` or `plugins[0].config.rules` as steps.
pub fn path(dotted: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in dotted.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())));
        steps.extend(pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok()).map(Step::Index));
    }
    steps
}

impl<'t> Source<'t> {
    /// Reads the text of a file. Every syntax error is reported.
    pub fn parse(text: &'t str) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { text, variables: Vec::new(), root: root.into_inner(), warnings: Vec::new() });
        }
        Err(errors
            .iter()
            .map(|error| Problem {
                place: error.span().map_or(Place::Nowhere, |span| Place::in_text(text, &span)),
                key: String::new(),
                what: format!("this is not TOML: {}", error.message()),
                remedy: error
                    .message()
                    .contains("string values must be quoted")
                    .then(|| String::from("put the value in double quotes")),
            })
            .collect())
    }

    /// Lays one variable over the file. `as_text` says that the key wants a string, so that `true` and `5` stay
    /// text; otherwise the value is read as TOML, and as a string if that fails.
    pub fn set(
        &mut self,
        variable: &'t str,
        value: &'t str,
        as_text: impl Fn(&[Step]) -> bool,
    ) -> Result<(), Problem> {
        let index = ENVIRONMENT + self.variables.len();
        self.variables.push(variable);
        let span = index..index;
        let error = |key: &str, what: &str| Problem {
            place: Place::Environment(variable.to_owned()),
            key: key.to_owned(),
            what: what.to_owned(),
            remedy: Some(String::from(
                "name the key as MQGATE__TABLE__KEY, elements of lists as MQGATE__LIST__0__KEY",
            )),
        };
        let names: Vec<String> = variable
            .strip_prefix(PREFIX)
            .unwrap_or_default()
            .split("__")
            .map(str::to_ascii_lowercase)
            .collect();
        if names.iter().any(String::is_empty) {
            return Err(error("", "a part of the name is empty"));
        }
        let mut steps = Vec::new();
        let mut table = &mut self.root;
        let (last, parents) = names.split_last().expect("split gives at least one part");
        let mut parents = parents.iter();
        while let Some(name) = parents.next() {
            let name = matching_key(table, name);
            steps.push(Step::Key(name.clone()));
            let slot = table
                .entry(Spanned::new(span.clone(), Cow::Owned(name)))
                .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
            table = match slot.get_mut() {
                DeValue::Table(inner) => inner,
                DeValue::Array(items) => {
                    let number = parents.next().and_then(|number| number.parse::<usize>().ok());
                    let Some(number) = number.filter(|number| *number <= items.len()) else {
                        return Err(error(
                            &dotted(&steps),
                            "this is a list: the number of one of its elements must follow",
                        ));
                    };
                    steps.push(Step::Index(number));
                    if number == items.len() {
                        items.push(Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
                    }
                    match items.get_mut(number).map(Spanned::get_mut) {
                        Some(DeValue::Table(inner)) => inner,
                        _ => return Err(error(&dotted(&steps), "this is not a table")),
                    }
                }
                _ => return Err(error(&dotted(&steps), "this is a value, and the name goes on after it")),
            };
        }
        let last = matching_key(table, last);
        steps.push(Step::Key(last.clone()));
        let value = read_value(value, as_text(&steps), &span);
        let key = Spanned::new(span.clone(), Cow::Owned(last));
        table.remove(&key);
        table.insert(key, Spanned::new(span, value));
        Ok(())
    }

    /// Where the value at `path` stands, or the nearest table around it.
    pub fn place(&self, path: &[Step]) -> Place {
        self.span(path).map_or(Place::Nowhere, |span| self.place_of(&span))
    }

    /// The place that a span of this tree means.
    pub fn place_of(&self, span: &Range<usize>) -> Place {
        match span.start.checked_sub(ENVIRONMENT).map(|index| self.variables.get(index)) {
            Some(Some(variable)) => Place::Environment((*variable).to_owned()),
            Some(None) => Place::Nowhere,
            None => Place::in_text(self.text, span),
        }
    }

    /// Whether somebody wrote a value for exactly this path.
    pub fn sets(&self, path: &[Step]) -> Option<Place> {
        let (value, _) = self.find(path)?;
        Some(self.place_of(&value.span()))
    }

    /// The value at a path, and the span of its key (of the element itself in a list).
    pub fn find(&self, path: &[Step]) -> Option<(&Spanned<DeValue<'t>>, Range<usize>)> {
        let mut found: Option<(&Spanned<DeValue<'t>>, Range<usize>)> = None;
        for step in path {
            let inside = found.as_ref().map(|(value, _)| value.get_ref());
            found = Some(match (step, inside) {
                (Step::Key(name), None) => entry(&self.root, name)?,
                (Step::Key(name), Some(DeValue::Table(table))) => entry(table, name)?,
                (Step::Index(index), Some(DeValue::Array(items))) => {
                    let item = items.get(*index)?;
                    (item, item.span())
                }
                (Step::Key(_) | Step::Index(_), _) => return None,
            });
        }
        found
    }

    fn span(&self, path: &[Step]) -> Option<Range<usize>> {
        (1..=path.len()).rev().find_map(|length| {
            let (value, key) = self.find(&path[..length])?;
            let exact = length == path.len() && !matches!(value.get_ref(), DeValue::Table(_));
            Some(if exact { value.span() } else { key })
        })
    }
}

fn entry<'a, 't>(table: &'a DeTable<'t>, name: &str) -> Option<(&'a Spanned<DeValue<'t>>, Range<usize>)> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(key, value)| (value, key.span()))
}

/// Names of listeners and the like may hold capitals and dashes; variables cannot.
fn matching_key(table: &DeTable<'_>, name: &str) -> String {
    table
        .keys()
        .map(|key| key.get_ref().as_ref())
        .find(|key| key.to_ascii_lowercase().replace('-', "_") == name)
        .map_or_else(|| name.to_owned(), str::to_owned)
}

fn read_value<'t>(value: &'t str, as_text: bool, span: &Range<usize>) -> DeValue<'t> {
    let parsed = if as_text { None } else { DeValue::parse(value.trim()).ok() };
    parsed.map_or(DeValue::String(Cow::Borrowed(value)), |parsed| restamp(parsed.into_inner(), span))
}

/// Gives every part of a value the same span.
fn restamp<'t>(value: DeValue<'t>, span: &Range<usize>) -> DeValue<'t> {
    match value {
        DeValue::Array(items) => {
            let mut stamped = DeArray::new();
            for item in items {
                stamped.push(Spanned::new(span.clone(), restamp(item.into_inner(), span)));
            }
            DeValue::Array(stamped)
        }
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    let value = restamp(value.into_inner(), span);
                    (Spanned::new(span.clone(), key.into_inner()), Spanned::new(span.clone(), value))
                })
                .collect(),
        ),
        scalar => scalar,
    }
}
