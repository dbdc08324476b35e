//! Plants the mistakes of `tests/sim/planted.toml`, one at a time, in a copy of the tree, and expects the
//! simulation to find each.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::process::{cargo, output, say, step};

#[derive(Deserialize)]
struct Planted {
    mistake: Vec<Mistake>,
}

#[derive(Deserialize)]
struct Mistake {
    name: String,
    file: String,
    find: String,
    replace: String,
}

pub fn run() -> anyhow::Result<()> {
    step("mistakes that the simulation has to find");
    let mistakes = read()?;
    let home = crate::target_directory().join("planted");
    let tree = home.join("tree");
    copy(&tree)?;
    let mut missed = Vec::new();
    for mistake in &mistakes {
        let path = tree.join(&mistake.file);
        let sound = fs::read_to_string(&path)?;
        fs::write(&path, sound.replacen(&mistake.find, &mistake.replace, 1))?;
        let mut test = cargo();
        test.current_dir(&tree).env("CARGO_TARGET_DIR", home.join("target"));
        let build = test.args(["test", "--locked", "-p", "mqgate-sim", "--no-run"]).output()?;
        ensure!(
            build.status.success(),
            "planted, it does not compile: {}\n{}",
            mistake.name,
            String::from_utf8_lossy(&build.stderr)
        );
        let mut test = cargo();
        test.current_dir(&tree).env("CARGO_TARGET_DIR", home.join("target"));
        let played = test.args(["test", "--locked", "-p", "mqgate-sim", "few_seeds_hold"]).output()?;
        fs::write(&path, sound)?;
        let said = String::from_utf8_lossy(&played.stdout);
        match said.lines().find(|line| line.starts_with("seed ")) {
            Some(found) => {
                say(&format!("found: {} ({})", mistake.name, found.trim_end_matches(['[', ' ', ':'])));
            }
            None => {
                say(&format!("not found: {}\n{said}", mistake.name));
                missed.push(mistake.name.as_str());
            }
        }
    }
    if !missed.is_empty() {
        bail!("the simulation did not find: {}", missed.join("; "));
    }
    say(&format!("{} of {} found", mistakes.len(), mistakes.len()));
    Ok(())
}

/// What stands in the list but not in the code any more.
pub fn stale() -> anyhow::Result<Vec<String>> {
    let gone = |mistake: &Mistake| {
        let text = fs::read_to_string(crate::root().join(&mistake.file)).unwrap_or_default();
        text.matches(&mistake.find).count() != 1
    };
    let name = |mistake: Mistake| {
        format!(
            "tests/sim/planted.toml: `find` of \"{}\" does not stand exactly once in {}; write it anew",
            mistake.name, mistake.file
        )
    };
    Ok(read()?.into_iter().filter(gone).map(name).collect())
}

fn read() -> anyhow::Result<Vec<Mistake>> {
    let path = crate::root().join("tests/sim/planted.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let planted: Planted =
        toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
    Ok(planted.mistake)
}

/// The files that git knows, as they are now, and no others.
fn copy(tree: &Path) -> anyhow::Result<()> {
    let listed = output(Command::new("git").args(["ls-files", "-z"]).current_dir(crate::root()))
        .context("git does not list the tree's files")?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (crate::root().join(name), tree.join(name));
        let Ok(bytes) = fs::read(&from) else { continue };
        // What is the same keeps its time, so that it is not compiled again.
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::write(&to, bytes)?;
    }
    let known: HashSet<PathBuf> = listed.split('\0').map(|name| tree.join(name)).collect();
    remove_others(tree, &known)
}

/// A module that has moved would stand there twice.
fn remove_others(folder: &Path, known: &HashSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_others(&path, known)?;
        } else if !known.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
