//! Files of cases: one case, an array, `{"common": …, "cases": […]}`, or NDJSON, which is read line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Case, Written};

/// Longest file that is read at once, and longest line of NDJSON.
const LONGEST: u64 = 64 << 20;
const COMMON: &str = "common";
const CASES: &str = "cases";
const EXPECT: &str = "expect";
/// Where editors look for the form of a file.
const SCHEMA: &str = "$schema";

/// Why a file holds no cases: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", place(.file, .at))]
pub struct CaseError {
    pub file: PathBuf,
    /// The case by its name or its number, or the line.
    pub at: Option<String>,
    pub what: String,
}

fn place(file: &Path, at: &Option<String>) -> String {
    let file = file.display();
    at.as_ref().map_or_else(|| file.to_string(), |at| format!("{file}, {at}"))
}

/// The cases of one file.
pub fn read(file: &Path) -> Result<Vec<Case>, CaseError> {
    if is_lines(file) {
        return Lines::open(file)?.collect();
    }
    let wrong = |at: Option<String>, what: String| CaseError { file: file.to_owned(), at, what };
    let mut text = String::new();
    let opened = File::open(file).and_then(|opened| opened.take(LONGEST).read_to_string(&mut text));
    opened.map_err(|error| wrong(None, format!("it cannot be read: {error}")))?;
    let folder = folder(file);
    let mut common = Map::new();
    let whole: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        // Several values, one after the other.
        Err(error) if text.lines().filter(|line| !line.trim().is_empty()).count() > 1 && is_line(&text) => {
            tracing::debug!(%error, "read as one case per line");
            return Lines::open(file)?.collect();
        }
        Err(error) => return Err(wrong(None, format!("it is no JSON: {error}"))),
    };
    let values = match whole {
        Value::Array(values) => values,
        Value::Object(mut fields) if fields.contains_key(CASES) => {
            let cases = fields.remove(CASES);
            if let Some(found) = fields.remove(COMMON) {
                let Value::Object(found) = found else {
                    return Err(wrong(None, String::from("common: it is a part of a case, an object")));
                };
                common = found;
            }
            fields.remove(SCHEMA);
            if let Some(other) = fields.keys().next() {
                let what = format!("{other}: beside \"cases\" there is \"common\" and nothing else");
                return Err(wrong(None, what));
            }
            match cases {
                Some(Value::Array(values)) => values,
                _ => return Err(wrong(None, String::from("cases: it is an array of cases"))),
            }
        }
        one => vec![one],
    };
    let numbered = values.into_iter().enumerate().map(|(index, value)| {
        let at = named(&value).unwrap_or_else(|| format!("case {}", index + 1));
        case(value, &common, folder).map_err(|what| wrong(Some(at), what))
    });
    let cases: Vec<Case> = numbered.collect::<Result<_, _>>()?;
    Ok(cases)
}

/// Every case of a file or of the `.json` and `.ndjson` files of a folder, in the order of their names; no two cases of
/// one name.
pub fn read_all(path: &Path) -> Result<Vec<Case>, CaseError> {
    let wrong = |file: &Path, at: Option<String>, what: String| CaseError { file: file.to_owned(), at, what };
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let listed = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
        files = listed.map_err(|error| wrong(path, None, format!("it cannot be read: {error}")))?;
        files.retain(|file| file.extension().is_some_and(|it| it == "json" || it == "ndjson"));
        files.sort();
        if files.is_empty() {
            return Err(wrong(path, None, String::from("there is no .json and no .ndjson file in it")));
        }
    }
    let mut cases: Vec<Case> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for file in &files {
        for case in read(file)? {
            if case.recorded.is_none() && !names.insert(case.name.clone()) {
                let at = Some(format!("case {:?}", case.name));
                return Err(wrong(
                    file,
                    at,
                    String::from("name: another case has it; give it one of its own"),
                ));
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

/// The cases of NDJSON, one after the other.
pub struct Lines {
    file: PathBuf,
    reader: BufReader<File>,
    common: Map<String, Value>,
    number: usize,
}

impl Lines {
    pub fn open(file: &Path) -> Result<Self, CaseError> {
        let opened = File::open(file).map_err(|error| CaseError {
            file: file.to_owned(),
            at: None,
            what: format!("it cannot be read: {error}"),
        })?;
        Ok(Self { file: file.to_owned(), reader: BufReader::new(opened), common: Map::new(), number: 0 })
    }

    /// Of one line; `None`: there is no case in it.
    fn case(&mut self, line: &str) -> Result<Option<Case>, String> {
        if line.trim().is_empty() {
            return Ok(None);
        }
        let value: Value = serde_json::from_str(line).map_err(|error| format!("it is no JSON: {error}"))?;
        if let Value::Object(fields) = &value
            && fields.len() == 1
            && let Some(Value::Object(common)) = fields.get(COMMON)
        {
            self.common.clone_from(common);
            return Ok(None);
        }
        case(value, &self.common, folder(&self.file)).map(Some)
    }
}

impl Iterator for Lines {
    type Item = Result<Case, CaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = String::new();
            self.number += 1;
            let read = (&mut self.reader).take(LONGEST).read_line(&mut line);
            let outcome = match read {
                Ok(0) => return None,
                Ok(_) => self.case(&line),
                Err(error) => Err(format!("it cannot be read: {error}")),
            };
            let error =
                |what| CaseError { file: self.file.clone(), at: Some(format!("line {}", self.number)), what };
            match outcome {
                Ok(Some(case)) => return Some(Ok(case)),
                Ok(None) => {}
                Err(what) => return Some(Err(error(what))),
            }
        }
    }
}

fn is_lines(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "ndjson")
}

/// Whether a text begins with a line that is JSON by itself.
fn is_line(text: &str) -> bool {
    text.lines().next().is_some_and(|line| serde_json::from_str::<Value>(line).is_ok())
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    }
}

fn named(value: &Value) -> Option<String> {
    Some(format!("case {:?}", value.get("name")?.as_str()?))
}

fn case(value: Value, common: &Map<String, Value>, folder: &Path) -> Result<Case, String> {
    let value = match common.is_empty() {
        true => value,
        false => {
            let mut whole = Value::Object(common.clone());
            lay_over(&mut whole, value);
            whole
        }
    };
    let written: Written = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let what = error.into_inner();
        if path == "." { what.to_string() } else { format!("{path}: {what}") }
    })?;
    written.check(folder)
}

/// Objects are merged, everything else is replaced. `null` takes away what is under it; where there is nothing, it stays
/// what it is. An expectation is replaced as a whole.
fn lay_over(under: &mut Value, over: Value) {
    let (Some(fields), Value::Object(over)) = (under.as_object_mut(), &over) else {
        *under = over;
        return;
    };
    for (name, value) in over {
        match fields.get_mut(name) {
            Some(_) if value.is_null() => drop(fields.remove(name)),
            Some(under) if name != EXPECT => lay_over(under, value.clone()),
            Some(_) | None => drop(fields.insert(name.clone(), value.clone())),
        }
    }
}
