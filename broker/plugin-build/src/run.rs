//! Running the programs of tool chains: found, watched while they work, and quoted when they fail.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// A program on the `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // A folder that depends on where we are may be one of the project's.
    let mut folders = env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()))
}

/// Runs it to its end. What it says is shown as it says it, and is the error if it fails.
pub fn run(command: &mut Command, what: &str, progress: &Progress<'_>) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("{what}: {} does not run", Path::new(command.get_program()).display()))?;
    let stdout = child.stdout.take().expect("it is piped above");
    let other = thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
    });
    let mut errors = String::new();
    let stderr = child.stderr.take().expect("it is piped above");
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        progress.detail(line.trim());
        errors.push_str(&line);
        errors.push('\n');
    }
    let said = other.join().unwrap_or_default();
    let status = child.wait()?;
    if !status.success() {
        // Some tools complain on standard output.
        let both = format!("{}\n{}", said.trim_end(), errors.trim_end());
        bail!("{what} failed ({status}):\n{}", both.trim());
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_both_of_its_outputs() {
        let progress = Progress::new(&|_| ());
        let mut command = Command::new("sh");
        let error = run(command.args(["-c", "echo one; echo two >&2; exit 3"]), "the tool", &progress);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("the tool failed") && error.contains("one\ntwo"), "{error}");
        let mut command = Command::new("sh");
        assert_eq!(run(command.args(["-c", "echo one; echo two >&2"]), "it", &progress).unwrap(), "one");
        let error = run(&mut Command::new("no-such-program"), "it", &progress).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-program does not run"), "{error:#}");
    }
}
