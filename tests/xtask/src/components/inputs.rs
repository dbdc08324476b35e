//! What goes into the components, as one digest: sources, WIT, lock file, compiler, flags, encoder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use mqgate_plugin_build::rust::compile;
use mqgate_plugin_build::rust::toolchain::Toolchain;

/// Raised when this code turns the same inputs into other bytes.
const RECIPE: &str = "2";

/// Folders whose every file matters. `plugins/` holds the lock file.
const FOLDERS: [&str; 3] = ["plugins", "plugin-sdk", "wit"];

/// Digest of everything that decides what the components are.
pub fn digest(workspace: &Path, toolchain: &Toolchain) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(RECIPE.as_bytes());
    part(toolchain.id.as_bytes());
    for flag in compile::LINK_FLAGS {
        part(flag.as_bytes());
    }
    part(encoder(&fs::read_to_string(workspace.join("Cargo.lock"))?).as_bytes());
    for folder in FOLDERS {
        let mut files = Vec::new();
        collect(&workspace.join(folder), &mut files)?;
        files.sort();
        for file in files {
            let relative = file.strip_prefix(workspace).expect("collected below the workspace");
            part(relative.as_os_str().as_encoded_bytes());
            part(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

/// The line of the lock file that pins the component encoder.
fn encoder(lock: &str) -> String {
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"wit-component\"");
    lines.nth(1).unwrap_or_default().to_owned()
}

/// Every file below `folder` that can change a component; what builds leave behind and prose cannot.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if name != "target" {
                collect(&path, files)?;
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
        for folder in FOLDERS {
            fs::create_dir_all(root.join(folder).join("target")).unwrap();
        }
        let write = |file: &str, text: &str| fs::write(root.join(file), text).unwrap();
        let lock = |version: &str| {
            write("Cargo.lock", &format!("[[package]]\nname = \"wit-component\"\nversion = \"{version}\"\n"));
        };
        lock("1");
        write("plugins/lib.rs", "a");
        let toolchain = |id: &str| Toolchain { id: id.into(), ..Toolchain::for_tests() };
        let now = |id: &str| digest(root, &toolchain(id)).unwrap();

        let first = now("one");
        assert_eq!(first, now("one"));
        write("plugins/target/leftover", "x");
        write("plugins/README.md", "prose");
        assert_eq!(first, now("one"));

        assert_ne!(first, now("two"), "another compiler");
        write("plugins/lib.rs", "b");
        let second = now("one");
        assert_ne!(first, second, "another source");
        write("wit/types.wit", "");
        let third = now("one");
        assert_ne!(second, third, "a new file");
        lock("2");
        assert_ne!(third, now("one"), "another encoder");
    }
}
