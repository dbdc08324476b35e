//! `cargo xtask wit`: whether the package under `wit/` still is what its releases promised, and the reference that is
//! generated from it. Tidy asks both.

mod compare;
mod reference;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use wit_parser::{PackageId, Resolve};

use crate::process::say;

const REFERENCE: &str = "docs/plugins/abi.md";

#[derive(clap::Args)]
pub struct Options {
    /// Write the reference: docs/plugins/abi.md
    #[arg(long)]
    write: bool,
}

/// The package as one folder has it.
struct Package {
    resolve: Resolve,
    id: PackageId,
}

impl Package {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut resolve = Resolve::default();
        let read = resolve.push_dir(folder);
        let (id, _) = read.with_context(|| format!("{} is no package", folder.display()))?;
        Ok(Self { resolve, id })
    }

    fn name(&self) -> String {
        self.resolve.packages[self.id].name.to_string()
    }
}

pub fn run_it(options: &Options) -> anyhow::Result<()> {
    let root = crate::root();
    if options.write {
        fs::write(root.join(REFERENCE), reference::of(&Package::read(&root.join("wit"))?))?;
        say(&format!("wrote {REFERENCE}"));
    }
    let findings = findings(&root)?;
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    say("wit/ keeps what its releases promised, and the reference is that of wit/");
    Ok(())
}

/// What is wrong, each with file and remedy.
pub fn findings(root: &Path) -> anyhow::Result<Vec<String>> {
    let now = Package::read(&root.join("wit"))?;
    let mut findings = Vec::new();
    for folder in releases(&root.join("wit/released"))? {
        let then = Package::read(&folder)?;
        let shown = folder.strip_prefix(root).unwrap_or(&folder).display();
        let broken = compare::broken(&then, &now);
        findings.extend(broken.into_iter().map(|what| {
            format!(
                "wit/: {what}, which {} of {shown} is promised not to change; take the change back, or begin a new track \
                 (wit/README.md)",
                then.name()
            )
        }));
    }
    let written = fs::read_to_string(root.join(REFERENCE)).unwrap_or_default();
    if written != reference::of(&now) {
        findings.push(format!("{REFERENCE} is not what wit/ says; run cargo xtask wit --write"));
    }
    Ok(findings)
}

/// The folders of what was released, none of which is ever changed.
fn releases(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut folders: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    ensure!(!folders.is_empty(), "{} holds no release", folder.display());
    Ok(folders)
}
