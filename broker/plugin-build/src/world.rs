//! The WIT world of a project, made from its manifest: it exports the hooks and imports what is asked for, and
//! nothing else. Tool chains that put a whole world into the component (JavaScript, Python) then make an honest one.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use wit_parser::{Resolve, WorldId};

use crate::embedded;
use crate::manifest::{Import, Manifest};

/// Name of every project's world, and so of what is generated from it.
pub const WORLD: &str = "plugin";

/// The ABI that projects are built for.
const ABI: &str = "1.0.0";
/// The patch release of WASI that stands under `wit/deps`.
const WASI: &str = "0.2.12";

/// The world as WIT.
fn text(manifest: &Manifest) -> String {
    let mut text = format!("package mqgate:project;\n\nworld {WORLD} {{\n");
    for import in &manifest.imports {
        for interface in worlds_imports(*import) {
            writeln!(text, "  import {interface};").expect("a String takes everything");
        }
    }
    writeln!(text, "  export mqgate:plugin/lifecycle@{ABI};").expect("a String takes everything");
    for hook in &manifest.hooks {
        writeln!(text, "  export mqgate:plugin/{hook}@{ABI};").expect("a String takes everything");
    }
    text.push_str("}\n");
    text
}

/// What a world imports for it. What those use comes along by itself.
fn worlds_imports(import: Import) -> Vec<String> {
    let named: &[&str] = match import {
        Import::Http => &["wasi:http/outgoing-handler"],
        Import::Clock => &["wasi:clocks/wall-clock", "wasi:clocks/monotonic-clock"],
        Import::Random => &["wasi:random/random"],
        Import::Log | Import::KeyValue | Import::Registry | Import::Metrics => import.interfaces(),
    };
    let version = |name: &str| if name.starts_with("wasi:") { WASI } else { ABI };
    named.iter().map(|name| format!("{name}@{}", version(name))).collect()
}

/// Writes the world and all it stands on into `folder`, which then is what tools take as a WIT package.
pub fn write(manifest: &Manifest, folder: &Path) -> Result<()> {
    let mut files = vec![(PathBuf::from("world.wit"), text(manifest))];
    let needs_wasi = manifest.imports.iter().any(|import| import.interfaces()[0].starts_with("wasi:"));
    for (path, text) in embedded::WIT {
        match path.strip_prefix("deps/") {
            Some(name) if needs_wasi => files.push((Path::new("deps").join(name), (*text).to_owned())),
            None if path.ends_with(".wit") => {
                files.push((Path::new("deps/mqgate-plugin").join(path), (*text).to_owned()));
            }
            _ => {}
        }
    }
    // What an earlier manifest needed would still be read.
    let _ = fs::remove_dir_all(folder);
    for (path, text) in files {
        let file = folder.join(path);
        let parent = file.parent().expect("it was joined to a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&file, text))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Reads what [`write`] wrote.
pub fn read(folder: &Path) -> Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder).map_err(|error| anyhow!("the project's WIT: {error:#}"))?;
    let world = resolve
        .select_world(&[package], Some(WORLD))
        .map_err(|error| anyhow!("the project's world: {error:#}"))?;
    Ok((resolve, world))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Hook;

    fn manifest(hooks: &[Hook], imports: &[Import]) -> Manifest {
        Manifest {
            name: "x".into(),
            language: crate::manifest::Language::C,
            engine: crate::manifest::Engine::default(),
            hooks: hooks.iter().copied().collect(),
            imports: imports.iter().copied().collect(),
        }
    }

    #[test]
    fn a_world_has_what_the_manifest_says_and_nothing_else() {
        let text = text(&manifest(&[Hook::Authorizer], &[Import::Log, Import::Random]));
        assert_eq!(
            text,
            "package mqgate:project;\n\nworld plugin {\n  import mqgate:plugin/log@1.0.0;\n  import wasi:random/random@0.2.12;\n  \
             export mqgate:plugin/lifecycle@1.0.0;\n  export mqgate:plugin/authorizer@1.0.0;\n}\n"
        );
    }

    #[test]
    fn every_hook_and_every_import_makes_a_valid_world() {
        let folder = tempfile::tempdir().unwrap();
        for imports in [&[][..], &[Import::Log], &Import::ALL] {
            let all = manifest(&Hook::ALL, imports);
            write(&all, folder.path()).unwrap();
            let (resolve, world) = read(folder.path()).unwrap();
            assert_eq!(resolve.worlds[world].exports.len(), Hook::ALL.len() + 1);
            assert_eq!(folder.path().join("deps/http.wit").exists(), imports.contains(&Import::Http));
        }
    }
}
