//! Running other programs: shown before they run, and named when they fail.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, bail};

/// A line for the person at the terminal. On standard error, so that output can be piped.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A step's title.
pub fn step(title: &str) {
    say(&format!("\n=== {title}"));
}

/// Runs `command` to its end with its output shown; an error names the whole command line.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = shown(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs `command` silently; its standard output, or nothing when it fails or does not exist.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The cargo that runs us, without what it told us about itself, so that an inner build is like one typed
/// by hand and shares its artefacts.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(crate::root());
    command
}
