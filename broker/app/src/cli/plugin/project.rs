//! What the commands on a plugin project share: how a build tells what it does and what came of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mqgate_plugin_build::manifest::Manifest;
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::project::{Built, Project};

use crate::cli::output::{printable, printable_lines, say};

/// A line of a build, on standard error: the result alone is output.
pub fn progress_line(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(line));
}

/// Builds the project and says what came of it.
pub fn build(project: &Project) -> Result<Built> {
    let built = project.build(&Progress::new(&progress_line))?;
    let name = &project.manifest.name;
    say(format!("{name}: {} in {:.1} s", size(built.size), built.took.as_secs_f64()))?;
    say(format!("  component  {}", shown(&built.path)))?;
    say(format!("  digest     {}", built.digest))?;
    // A name without a package is what a tool left behind; nobody calls it.
    let exports: Vec<String> =
        built.shape.exports.iter().filter(|name| name.contains(':')).cloned().collect();
    say(format!("  exports    {}", interfaces(&exports)))?;
    let called: Vec<String> =
        built.shape.imports.iter().filter(|name| !built.shape.types_only.contains(name)).cloned().collect();
    say(format!("  imports    {}", if called.is_empty() { "nothing".into() } else { interfaces(&called) }))?;
    Ok(built)
}

/// The command that loads what was built.
pub fn load_line(project: &Project, built: &Built) -> String {
    let grants = grants(&project.manifest);
    let grant = if grants.is_empty() { String::new() } else { format!(" --grant {}", grants.join(",")) };
    format!("mqgate plugin load {} --name {} --first{grant}", shown(&built.path), project.manifest.name)
}

/// What an operator has to grant for the manifest's imports.
pub fn grants(manifest: &Manifest) -> Vec<String> {
    manifest.imports.iter().filter_map(|import| import.grant()).map(str::to_owned).collect()
}

/// Names as they stand in the WIT, those of mqgate without what they all share.
fn interfaces(names: &[String]) -> String {
    let short = |name: &String| name.strip_prefix("mqgate:plugin/").unwrap_or(name).to_owned();
    printable(&names.iter().map(short).collect::<Vec<_>>().join(", "))
}

fn size(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes.div_ceil(1 << 10)) } else { format!("{} MiB", bytes >> 20) }
}

/// A path as short as it can be typed from here.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// The folder a command was given, or this one.
pub fn folder(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| PathBuf::from("."))
}
