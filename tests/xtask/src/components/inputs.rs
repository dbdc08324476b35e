//! What goes into a component, as one digest: sources, WIT, lock file, compiler, flags, encoder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mqgate_plugin_build::manifest::{self, Language};
use mqgate_plugin_build::project::{Project, Tools};
use mqgate_plugin_build::rust::compile;
use sha2::{Digest, Sha256};

/// Raised when this code, or `mqgate-plugin-build`, turns the same inputs into other bytes.
const RECIPE: &str = "3";

/// Folders whose every file matters to those in Rust. `plugins/` holds the lock file.
const RUST: [&str; 3] = ["plugins", "plugin-sdk", "wit"];
/// And to the others, beside their own.
const OTHERS: [&str; 2] = ["broker/plugin-build/support", "wit"];

/// Folders of a project that hold questions to a component, and nothing of it.
const ASKING: [&str; 3] = ["cases", "test", "tests"];

/// Packages of our lock file that write bytes of components.
const WRITERS: [&str; 3] = ["wit-component", "wit-bindgen-c", "wit-bindgen-go"];

/// Digest of everything that decides what the component of `project` is.
pub fn digest(workspace: &Path, all: &[Project], project: &Project, tools: &Tools) -> Result<String> {
    let mut parts: Vec<String> = vec![RECIPE.into(), tools.describe()];
    let (mut folders, mut foreign) = (Vec::new(), Vec::new());
    if let Tools::Rust(toolchain) = tools {
        parts.push(toolchain.id.clone());
        parts.extend(compile::LINK_FLAGS.map(str::to_owned));
        folders.extend(RUST.map(|folder| workspace.join(folder)));
        let others = all.iter().filter(|other| other.manifest.language != Language::Rust);
        foreign.extend(others.map(|other| other.folder.clone()));
    } else {
        folders.extend(OTHERS.map(|folder| workspace.join(folder)));
        folders.push(project.folder.clone());
    }
    let lock = fs::read_to_string(workspace.join("Cargo.lock"))?;
    parts.extend(WRITERS.map(|name| version(&lock, name)));
    of(workspace, &parts, &folders, &foreign)
}

/// Digest of texts and of all files of folders, but for those below `foreign`.
fn of(workspace: &Path, parts: &[String], folders: &[PathBuf], foreign: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for text in parts {
        part(text.as_bytes());
    }
    for folder in folders {
        let mut files = Vec::new();
        collect(folder, foreign, &mut files)?;
        files.sort();
        for file in files {
            // Where the checkout lies is no input.
            let relative = file.strip_prefix(workspace).unwrap_or(&file);
            part(relative.as_os_str().as_encoded_bytes());
            part(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

/// The line of the lock file that pins a package.
fn version(lock: &str, package: &str) -> String {
    let name = format!("name = \"{package}\"");
    // There may be an older one, which others use.
    let mut pinned: Vec<&str> = lock
        .lines()
        .zip(lock.lines().skip(1))
        .filter(|(line, _)| *line == name)
        .map(|(_, next)| next)
        .collect();
    pinned.sort_unstable();
    pinned.join(" ")
}

/// Every file below `folder` that can change a component; what builds leave behind, what asks it, and prose cannot.
fn collect(folder: &Path, foreign: &[PathBuf], files: &mut Vec<PathBuf>) -> Result<()> {
    let is_project = folder.join(manifest::FILE).is_file();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            let left = ["target", "__pycache__", "node_modules"].iter().any(|left| name == *left);
            let asks = is_project && ASKING.iter().any(|asks| name == *asks);
            if !left && !asks && !foreign.contains(&path) {
                collect(&path, foreign, files)?;
            }
        } else if path.extension().is_none_or(|extension| extension != "md") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts_and_nothing_else() {
        let workspace = tempfile::tempdir().unwrap();
        let root = workspace.path();
        let write = |file: &str, text: &str| {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), text).unwrap();
        };
        write("plugins/lib.rs", "a");
        write("plugins/gate/plugin.toml", "a");
        write("plugins/gate/cases/gate.json", "a");
        write("plugins/in-c/src/plugin.c", "a");
        let now = |id: &str| {
            let folders = [root.join("plugins")];
            of(root, &[id.to_owned()], &folders, &[root.join("plugins/in-c")]).unwrap()
        };
        let first = now("one");
        assert_eq!(first, now("one"));
        write("plugins/target/leftover", "x");
        write("plugins/README.md", "prose");
        write("plugins/in-c/src/plugin.c", "b");
        write("plugins/gate/cases/gate.json", "b");
        write("plugins/gate/tests/gate.rs", "new");
        assert_eq!(first, now("one"));

        assert_ne!(first, now("two"), "another compiler");
        write("plugins/lib.rs", "b");
        let second = now("one");
        assert_ne!(first, second, "another source");
        write("plugins/types.wit", "");
        let third = now("one");
        assert_ne!(second, third, "a new file");
        write("plugins/gate/src/cases/mod.rs", "");
        assert_ne!(third, now("one"), "a module that is called as the folder of cases is");
    }

    #[test]
    fn another_encoder_is_another_input() {
        let lock =
            |version: &str| format!("[[package]]\nname = \"wit-component\"\nversion = \"{version}\"\n");
        assert_eq!(version(&lock("1"), "wit-component"), "version = \"1\"");
        assert_ne!(version(&lock("1"), "wit-component"), version(&lock("2"), "wit-component"));
        let ours = fs::read_to_string(super::super::workspace().join("Cargo.lock")).unwrap();
        for writer in WRITERS {
            assert!(version(&ours, writer).starts_with("version = "), "{writer}");
        }
    }
}
