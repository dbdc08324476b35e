//! The configuration: where it comes from, and how it becomes [`Config`]. All problems are found at once.
//!
//! Owns locating, reading and laying the environment over the file. What the keys mean is `model`'s, what
//! they must not say together is `check`'s.

pub mod check;
pub mod docs;
mod emqx;
pub mod init;
pub mod model;
pub mod problem;
pub mod schema;
pub mod show;
pub mod source;
pub mod units;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use model::Config;
use problem::{Place, Problem, Problems};
use schema::Shape;
use source::{PREFIX, Source, Step, dotted};

/// What a configuration is made from, before anything is understood.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `None`: there is no file, and the defaults hold.
    pub file: Option<PathBuf>,
    pub text: String,
    /// Every variable that begins with [`PREFIX`], sorted by name.
    pub environment: Vec<(String, String)>,
    /// What the API has changed, as variables; wins over all of it.
    pub overrides: Vec<(String, String)>,
}

/// A configuration that was understood.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Nobody configured anything: no file, no variable.
    pub is_default: bool,
    pub file: Option<PathBuf>,
    /// What is good enough to start with, and should be looked at.
    pub warnings: Problems,
}

/// No configuration could be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {path} cannot be read: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl Inputs {
    /// The file that counts: `--config`, `$MQGATE_CONFIG` (both through `explicit`), `./mqgate.toml`,
    /// `/etc/mqgate/mqgate.toml`; and the environment of this process.
    pub fn gather(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let file = Self::locate(explicit);
        let text = match &file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Read { path: path.clone(), error })?,
        };
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        environment.sort();
        Ok(Self { file, text, environment, overrides: Vec::new() })
    }

    /// The file that counts, if there is one.
    pub fn locate(explicit: Option<&Path>) -> Option<PathBuf> {
        let usual = [PathBuf::from("mqgate.toml"), PathBuf::from("/etc/mqgate/mqgate.toml")];
        match explicit {
            Some(path) => Some(path.to_owned()),
            None => usual.into_iter().find(|path| path.exists()),
        }
    }

    /// The directory that relative paths start from.
    pub fn base(&self) -> PathBuf {
        let parent =
            self.file.as_deref().and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
        let here = || std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        match parent {
            Some(parent) if parent.is_absolute() => parent.to_owned(),
            Some(parent) => here().join(parent),
            None => here(),
        }
    }

    /// Understands file and environment. Paths in the answer are absolute.
    pub fn load(&self) -> Result<Loaded, Problems> {
        self.understand(None)
    }

    /// Like [`Self::load`], and sees to it that the files it names are there.
    pub fn load_with_files(&self) -> Result<Loaded, Problems> {
        self.understand(Some(&self.base()))
    }

    fn understand(&self, files_from: Option<&Path>) -> Result<Loaded, Problems> {
        let fail = |list| Problems { file: self.file.clone(), list };
        let shape = Shape::config();
        let source = self.source(&shape).map_err(fail)?;
        let mut warnings = source.warnings.clone();
        let mut problems = shape.unknown_keys(&source, &source.root, &[]);
        let (config, mistakes) = read_all::<Config>(&source, &shape);
        problems.extend(mistakes);
        if let Some(config) = &config {
            // What could not be read has its complaint.
            let fresh = |problem: &Problem| problems.iter().all(|known| known.key != problem.key);
            let found = check::check(config, &source);
            warnings.extend(found.warnings);
            let found: Vec<Problem> = found.problems.into_iter().filter(fresh).collect();
            problems.extend(found);
            if let Some(base) = files_from {
                problems.extend(check::check_files(config, &source, base));
            }
        }
        // The order of the file, then the environment, then what is nowhere.
        problems.sort_by_key(|problem| match &problem.place {
            Place::File { line, column, .. } => (0, *line, *column),
            Place::Environment(_) => (1, 0, 0),
            Place::Nowhere => (2, 0, 0),
        });
        match config {
            Some(mut config) if problems.is_empty() => {
                anchor_paths(&mut config, &self.base());
                let is_default = self.file.is_none() && self.environment.is_empty();
                Ok(Loaded { config, is_default, file: self.file.clone(), warnings: fail(warnings) })
            }
            _ => Err(fail(problems)),
        }
    }

    /// File and environment as one tree.
    pub fn source(&self, shape: &Shape) -> Result<Source<'_>, Vec<Problem>> {
        let mut source = Source::parse(&self.text)?;
        let mut warnings = emqx::adopt(&mut source);
        let problems: Vec<Problem> = self
            .environment
            .iter()
            .chain(&self.overrides)
            .filter_map(|(name, value)| source.set(name, value, |path| shape.is_text(path)).err())
            .collect();
        warnings.extend(emqx::adopt(&mut source));
        source.warnings = warnings;
        if problems.is_empty() { Ok(source) } else { Err(problems) }
    }
}

/// Reads a `T` out of the tree. A value that does not fit is reported, taken out, and the rest read again,
/// so that one run finds all of them. `None` if the rest does not make a `T`.
fn read_all<T: DeserializeOwned>(source: &Source<'_>, shape: &Shape) -> (Option<T>, Vec<Problem>) {
    let mut root = source.root.clone();
    let mut problems: Vec<Problem> = Vec::new();
    for problem in shape.unknown_keys(source, &root, &[]) {
        remove(&mut root, &source::path(&problem.key));
    }
    for _ in 0..100 {
        let deserializer = toml::de::Deserializer::from(Spanned::new(0..0, root.clone()));
        let error = match T::deserialize(deserializer) {
            Ok(value) => return (Some(value), problems),
            Err(error) => error,
        };
        let path = error.span().and_then(|span| path_of(&root, &span)).unwrap_or_default();
        let missing = error.message().starts_with("missing field");
        let (what, remedy) = in_plain_words(error.message());
        // A key that is missing because it was just taken out needs no second complaint.
        if !(missing && problems.iter().any(|known| known.key.starts_with(&dotted(&path)))) {
            problems.push(Problem {
                place: error.span().map_or(Place::Nowhere, |span| source.place_of(&span)),
                key: dotted(&path),
                what,
                remedy,
            });
        }
        if path.is_empty() || !remove(&mut root, &path) {
            break;
        }
    }
    (None, problems)
}

/// What serde says, for people who do not write Rust: the text and a remedy.
fn in_plain_words(message: &str) -> (String, Option<String>) {
    let mut what = message.trim().replace('\n', ", ");
    for number in ["u8", "u16", "u32", "u64", "usize", "i64"] {
        if let Some(start) = what.strip_suffix(&format!("expected {number}")) {
            what = format!("{start}expected a whole number, not in quotes");
        }
    }
    if what.starts_with("missing field") {
        return (what, Some(String::from("add it, or remove the table it belongs to")));
    }
    let Some((word, known)) = what.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, "))
    else {
        return (what, None);
    };
    // `a_b` beside `a-b` is the same word as other brokers write it.
    let all: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let known: Vec<&str> = all
        .iter()
        .copied()
        .filter(|name| !name.contains('_') || !all.contains(&name.replace('_', "-").as_str()))
        .collect();
    let remedy = match problem::did_you_mean(word, known.iter().copied()) {
        Some(guess) => format!("did you mean \"{guess}\"?"),
        None => format!("the values are {}", known.join(", ")),
    };
    (format!("there is no `{word}` here"), Some(remedy))
}

/// The path of the innermost value whose span holds `span`; a key's own span counts as its value.
fn path_of(root: &DeTable<'_>, span: &std::ops::Range<usize>) -> Option<Vec<Step>> {
    fn inside(value: &DeValue<'_>, span: &std::ops::Range<usize>) -> Option<Vec<Step>> {
        match value {
            DeValue::Table(table) => path_of(table, span),
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| step(Step::Index(index), item.get_ref(), &item.span(), None, span)),
            _ => None,
        }
    }
    fn step(
        step: Step,
        value: &DeValue<'_>,
        own: &std::ops::Range<usize>,
        key: Option<std::ops::Range<usize>>,
        span: &std::ops::Range<usize>,
    ) -> Option<Vec<Step>> {
        let below = inside(value, span);
        let here = below.is_some() || own == span || key.as_ref() == Some(span);
        here.then(|| std::iter::once(step).chain(below.unwrap_or_default()).collect())
    }
    root.iter().find_map(|(key, value)| {
        step(Step::Key(key.get_ref().to_string()), value.get_ref(), &value.span(), Some(key.span()), span)
    })
}

fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    fn from_value(value: &mut DeValue<'_>, path: &[Step]) -> bool {
        match (value, path) {
            (DeValue::Table(table), path) => remove(table, path),
            (DeValue::Array(items), [Step::Index(index), rest @ ..]) => {
                items.get_mut(*index).is_some_and(|item| {
                    if rest.is_empty() {
                        // Indices of the others must stay, so the element only becomes something harmless.
                        *item = Spanned::new(item.span(), DeValue::Table(DeTable::new()));
                    }
                    rest.is_empty() || from_value(item.get_mut(), rest)
                })
            }
            _ => false,
        }
    }
    let [Step::Key(name), rest @ ..] = path else { return false };
    let Some((key, value)) = table.iter_mut().find(|(key, _)| key.get_ref() == name) else { return false };
    if !rest.is_empty() {
        return from_value(value.get_mut(), rest);
    }
    let key = key.clone();
    table.remove(&key).is_some()
}

/// Makes every path absolute.
fn anchor_paths(config: &mut Config, base: &Path) {
    let anchor = |path: &mut PathBuf| {
        if path.is_relative() {
            *path = base.join(&*path);
        }
    };
    anchor(&mut config.node.data_dir);
    for listener in config.listeners.values_mut() {
        let files = [&mut listener.certfile, &mut listener.keyfile, &mut listener.cacertfile];
        files.into_iter().flatten().chain(&mut listener.cacertfiles).for_each(anchor);
        for certificate in &mut listener.certificates {
            [&mut certificate.certfile, &mut certificate.keyfile].into_iter().for_each(anchor);
            certificate.password.iter_mut().for_each(|password| anchor_password(password, base));
        }
        listener.password.iter_mut().for_each(|password| anchor_password(password, base));
        listener.ocsp.issuer_pem.iter_mut().for_each(anchor);
    }
    for bridge in config.bridges.values_mut() {
        let tls = &mut bridge.tls;
        let files = [&mut tls.cacertfile, &mut tls.certfile, &mut tls.keyfile];
        files.into_iter().flatten().for_each(anchor);
        let passwords = [&mut bridge.password, &mut tls.password];
        passwords.into_iter().flatten().for_each(|password| anchor_password(password, base));
    }
    for plugin in &mut config.plugins {
        if let Some(source) = plugin.source.as_mut().filter(|source| !source.starts_with("bundled:")) {
            let mut path = PathBuf::from(&*source);
            anchor(&mut path);
            *source = path.to_string_lossy().into_owned();
        }
        if matches!(plugin.native, Some(model::Native::PasswordFile | model::Native::Scram))
            && let Some(serde_json::Value::String(file)) = plugin.config.get_mut("file")
        {
            let mut path = PathBuf::from(&*file);
            anchor(&mut path);
            *file = path.to_string_lossy().into_owned();
        }
        plugin.grant.http.ca_file.iter_mut().for_each(anchor);
    }
    if let Some(tls) = &mut config.admin.tls {
        [&mut tls.certfile, &mut tls.keyfile, &mut tls.cacertfile]
            .into_iter()
            .flatten()
            .chain(&mut tls.cacertfiles)
            .for_each(anchor);
        for certificate in &mut tls.certificates {
            [&mut certificate.certfile, &mut certificate.keyfile].into_iter().for_each(anchor);
            certificate.password.iter_mut().for_each(|password| anchor_password(password, base));
        }
        tls.password.iter_mut().for_each(|password| anchor_password(password, base));
    }
    for sink in config.audit.sinks.values_mut() {
        let tls = &mut sink.tls;
        [&mut sink.path, &mut tls.cacertfile, &mut tls.certfile, &mut tls.keyfile]
            .into_iter()
            .flatten()
            .for_each(anchor);
        [&mut sink.secret, &mut sink.password, &mut tls.password]
            .into_iter()
            .flatten()
            .chain(sink.headers.values_mut())
            .for_each(|secret| anchor_password(secret, base));
    }
    config.crl.files.iter_mut().chain(&mut config.crl.directories).for_each(anchor);
    config.admin.allow_paths.iter_mut().chain(&mut config.plugin_host.watch).for_each(anchor);
    config.admin.token_file.iter_mut().for_each(anchor);
    let audit = &mut config.audit;
    [&mut audit.path, &mut audit.key_file, &mut audit.publish_folder, &mut audit.personal.key_folder]
        .into_iter()
        .flatten()
        .for_each(anchor);
}

/// `file://PATH` is a path as well.
pub(crate) fn anchor_password(password: &mut String, base: &Path) {
    if let Some(path) = password.strip_prefix("file://") {
        *password = format!("file://{}", base.join(path).display());
    }
}

impl Config {
    pub fn token_file(&self) -> PathBuf {
        self.admin.token_file.clone().unwrap_or_else(|| self.node.data_dir.join("admin.token"))
    }

    pub fn audit_file(&self) -> PathBuf {
        self.audit.path.clone().unwrap_or_else(|| self.node.data_dir.join("audit").join("audit.jsonl"))
    }

    pub fn audit_key_file(&self) -> PathBuf {
        self.audit.key_file.clone().unwrap_or_else(|| self.node.data_dir.join("audit.key"))
    }

    pub fn audit_subjects(&self) -> PathBuf {
        self.audit.personal.key_folder.clone().unwrap_or_else(|| self.node.data_dir.join("audit-subjects"))
    }

    pub fn endpoints_file(&self) -> PathBuf {
        self.node.data_dir.join("endpoints.json")
    }
}

#[cfg(test)]
mod tests;
