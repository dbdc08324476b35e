//! What the commands share that run a component without a broker: which one, where its cases are, with which limits.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mqgate_plugin_host::case::{self, Case, CaseError, LimitsOfCase};
use mqgate_plugin_host::offline::{Offline, OfflineError};
use mqgate_plugin_host::{HostSettings, LoadError, Source};

use super::ConfigArgs;
use crate::cli::plugin_compile;
use crate::components;
use crate::exit::{Exit, Failure};

/// Beside a component, or the manifest of its project.
pub const CASES: &str = "cases";
const MANIFEST: &str = "plugin.toml";

#[derive(Debug, Clone, clap::Args)]
pub struct LimitArgs {
    /// What a call may use, whatever the case says: memory, cpu, wall, init; several times for several
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = limit)]
    limits: Vec<LimitsOfCase>,
}

fn limit(text: &str) -> Result<LimitsOfCase, String> {
    let mut limits = LimitsOfCase::default();
    limits.set(text).map(|()| limits)
}

impl LimitArgs {
    fn forced(&self) -> LimitsOfCase {
        self.limits.iter().fold(LimitsOfCase::default(), |all, one| one.or(all))
    }
}

/// Compiles a component; what was compiled before comes from the user's cache.
pub fn open(component: &Path, limits: &LimitArgs) -> Result<Offline> {
    let file = located(component)?;
    let name = plugin_name(&file);
    let settings = HostSettings {
        cache_dir: cache(),
        compiler: Some(plugin_compile::program()),
        broker_version: String::from(env!("CARGO_PKG_VERSION")),
        ..HostSettings::default()
    };
    let offline = Offline::new(&name, Source::File(file.clone()), settings);
    let offline = offline.map_err(|error| told(&file.display().to_string(), &error))?;
    Ok(offline.with_limits(LimitsOfCase::default(), limits.forced()))
}

/// What is wrong with a component, as an error of the command.
pub fn told(what: &str, error: &OfflineError) -> anyhow::Error {
    match error {
        OfflineError::Load(error) => refused(what, error),
        other => Failure::refused(format!("{what}: {other}")).into(),
    }
}

pub fn refused(what: &str, error: &LoadError) -> anyhow::Error {
    Failure::refused(format!("{what}: {}\n  (stage {})", error.message, error.stage.as_str())).into()
}

/// A file, or `bundled:NAME`.
pub fn located(component: &Path) -> Result<PathBuf> {
    match component.to_str().and_then(|text| text.strip_prefix("bundled:")) {
        Some(name) => Ok(components::find(name).map_err(|error| Failure::refused(error.to_string()))?),
        None => Ok(component.to_owned()),
    }
}

/// As the broker would call it where nobody says otherwise.
pub fn plugin_name(component: &Path) -> String {
    let stem = component.file_stem().and_then(|stem| stem.to_str()).unwrap_or("plugin");
    let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    stem.to_ascii_lowercase().chars().map(fits).take(64).collect()
}

/// Components that were compiled earlier by this user. A folder that others may write to is not used.
pub fn cache() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")))?;
    let folder = folder.join("mqgate").join("components");
    // Beside it are the tools that build plugins.
    DirBuilder::new().recursive(true).mode(0o700).create(folder.parent()?).ok()?;
    Some(folder)
}

/// The component of an argument that may be the folder of a project, and the folder of its cases.
pub fn project(argument: &Path, cases: Option<&Path>) -> Result<(PathBuf, PathBuf)> {
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let component = if argument.is_dir() { built(argument)? } else { located(argument)? };
    if let Some(cases) = cases {
        return Ok((component, cases.to_owned()));
    }
    let start = if argument.is_dir() { argument } else { component.parent().unwrap_or(Path::new(".")) };
    let start = start.canonicalize().unwrap_or_else(|_| start.to_owned());
    // From a component in the folder of builds upwards, to the folder of its project.
    let mut tried = Vec::new();
    for folder in start.ancestors().take(4) {
        let cases = folder.join(CASES);
        if cases.is_dir() {
            return Ok((component, cases));
        }
        tried.push(cases.display().to_string());
        if folder.join(MANIFEST).is_file() {
            break;
        }
    }
    Err(usage(format!(
        "there is no folder of cases; looked for:\n  {}\nname it with --cases, or write one: docs/plugins/cases.md",
        tried.join("\n  ")
    ))
    .into())
}

/// The component of the project in a folder.
fn built(folder: &Path) -> Result<PathBuf> {
    let manifest = folder.join(MANIFEST);
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let text = std::fs::read_to_string(&manifest)
        .map_err(|error| usage(format!("{} cannot be read: {error}", manifest.display())))?;
    let manifest: toml::Table =
        text.parse().map_err(|error| usage(format!("{}: {error}", manifest.display())))?;
    let name = manifest.get("plugin").and_then(|plugin| plugin.get("name")).and_then(|name| name.as_str());
    let name = name.ok_or_else(|| usage(format!("{MANIFEST} names no plugin: [plugin] name = …")))?;
    let places = [folder.join(format!("{name}.wasm")), folder.join("target").join(format!("{name}.wasm"))];
    match places.iter().find(|place| place.is_file()) {
        Some(found) => Ok(found.clone()),
        None => match components::find(name) {
            Ok(found) => Ok(found),
            Err(_) => Err(usage(format!(
                "{} is not built; build it first, or name its component",
                folder.display()
            ))
            .into()),
        },
    }
}

pub fn unreadable(error: CaseError) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

/// One case of a file: `FILE`, or `FILE#NAME` where there are several.
pub fn one_case(argument: &str) -> Result<Case> {
    let (file, name) = match argument.split_once('#') {
        Some((file, name)) => (file, Some(name)),
        None => (argument, None),
    };
    let mut cases = case::read(Path::new(file)).map_err(unreadable)?;
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let names =
        || cases.iter().take(20).map(|case| format!("  {}", case.name)).collect::<Vec<_>>().join("\n");
    let found = match name {
        Some(name) => cases.iter().position(|case| case.name == name),
        None if cases.len() == 1 => Some(0),
        None => None,
    };
    match found {
        Some(index) => Ok(cases.swap_remove(index)),
        None if cases.is_empty() => Err(usage(format!("{file}: there is no case in it")).into()),
        None => Err(usage(format!("say which case, as {file}#NAME; there are:\n{}", names())).into()),
    }
}

/// Gives a case other settings, where somebody said some.
pub fn with_config(case: &mut Case, config: &ConfigArgs) -> Result<()> {
    if let Some(config) = config.read()? {
        case.plugin.config = Some(config);
    }
    Ok(())
}
