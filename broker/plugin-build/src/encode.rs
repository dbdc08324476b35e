//! Core modules into components, and what is checked about every component: that it exports the hooks its manifest
//! names and imports no more than the manifest asks for. Works in memory; knows no files and no compiler.

use anyhow::{Result, anyhow, ensure};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};
use wit_parser::{Resolve, TypeDefKind, WorldId, WorldItem, WorldKey};

use crate::manifest::Manifest;

/// What a component wants and what it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Names of the imported interfaces, for example `mqgate:plugin/log@1.0.0`.
    pub imports: Vec<String>,
    /// Those of them that are imported for their types alone: there is nothing in them to call.
    pub types_only: Vec<String>,
    pub exports: Vec<String>,
}

/// A stand-in for a module of imports that a language's runtime wants: its name and the module.
pub type Adapter<'a> = (&'a str, &'a [u8]);

/// Encodes a core module that carries its WIT world.
pub fn component(module: &[u8], adapters: &[Adapter<'_>]) -> Result<Vec<u8>> {
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true);
    encoder.module(module).map_err(|error| anyhow!("{error:#}"))?;
    for (name, adapter) in adapters {
        encoder.adapter(name, adapter).map_err(|error| anyhow!("{error:#}"))?;
    }
    encoder.encode().map_err(|error| anyhow!("{error:#}"))
}

/// Writes `world` into `module`, for languages whose linker does not.
pub fn with_world(module: &mut Vec<u8>, resolve: &Resolve, world: WorldId) -> Result<()> {
    wit_component::embed_component_metadata(module, resolve, world, StringEncoding::UTF8, false)
        .map_err(|error| anyhow!("{error:#}"))
}

/// Reads what `component` imports and exports.
pub fn shape(component: &[u8]) -> Result<Shape> {
    let decoded = wit_component::decode(component).map_err(|error| anyhow!("{error:#}"))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(anyhow!("it is a WIT package and not a component"));
    };
    let world = &resolve.worlds[world];
    let names = |keys: Vec<&WorldKey>| -> Vec<String> {
        keys.into_iter().map(|key| resolve.name_world_key(key)).collect()
    };
    let types_only = world.imports.iter().filter(|(_, item)| match item {
        WorldItem::Interface { id, .. } => {
            let interface = &resolve.interfaces[*id];
            let resource = |id: &_| matches!(resolve.types[*id].kind, TypeDefKind::Resource);
            interface.functions.is_empty() && !interface.types.values().any(resource)
        }
        WorldItem::Function(_) => false,
        WorldItem::Type { .. } => true,
    });
    Ok(Shape {
        types_only: names(types_only.map(|(key, _)| key).collect()),
        imports: names(world.imports.keys().collect()),
        exports: names(world.exports.keys().collect()),
    })
}

/// Holds a component to its manifest.
pub fn check(shape: &Shape, manifest: &Manifest) -> Result<()> {
    let asked = |name: &str| {
        manifest.imports.iter().any(|import| import.interfaces().contains(&without_version(name)))
    };
    let surplus: Vec<&str> = shape
        .imports
        .iter()
        .filter(|name| !shape.types_only.contains(name) && !asked(name))
        .map(String::as_str)
        .collect();
    ensure!(
        surplus.is_empty(),
        "the component imports {}, which its manifest does not ask for (imports = [{}]).\n\
         Add what it is meant to have to `imports` in plugin.toml; an operator has to grant it then",
        surplus.join(", "),
        list(&manifest.imports),
    );
    let mut wanted: Vec<String> =
        manifest.hooks.iter().map(|hook| format!("mqgate:plugin/{}", hook.name())).collect();
    wanted.push("mqgate:plugin/lifecycle".to_owned());
    let found: Vec<&str> = shape.exports.iter().map(|name| without_version(name)).collect();
    let missing: Vec<&String> = wanted.iter().filter(|name| !found.contains(&name.as_str())).collect();
    ensure!(
        missing.is_empty(),
        "the component does not export {}, which its manifest names (hooks = [{}]); it exports {}",
        missing.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "),
        list(&manifest.hooks),
        shape.exports.join(", "),
    );
    // A name without a package is no interface of anybody's: componentize-py leaves one behind.
    let interfaces = found.iter().filter(|name| name.contains(':'));
    let more: Vec<&&str> = interfaces.filter(|name| !wanted.iter().any(|wanted| wanted == *name)).collect();
    ensure!(
        more.is_empty(),
        "the component exports {}, which its manifest does not name (hooks = [{}])",
        more.iter().map(|name| **name).collect::<Vec<_>>().join(", "),
        list(&manifest.hooks),
    );
    Ok(())
}

fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Hook, Import, Language};
    use crate::world;

    fn manifest(hooks: &[Hook], imports: &[Import]) -> Manifest {
        Manifest {
            name: "x".into(),
            language: Language::C,
            engine: crate::manifest::Engine::default(),
            hooks: hooks.iter().copied().collect(),
            imports: imports.iter().copied().collect(),
        }
    }

    /// A component as a tool chain makes one that keeps every import of its world.
    fn built_for(manifest: &Manifest) -> Shape {
        let folder = tempfile::tempdir().unwrap();
        world::write(manifest, folder.path()).unwrap();
        let (resolve, world) = world::read(folder.path()).unwrap();
        let mangling = wit_parser::ManglingAndAbi::Standard32;
        let mut module = wit_component::dummy_module(&resolve, world, mangling);
        with_world(&mut module, &resolve, world).unwrap();
        shape(&component(&module, &[]).unwrap()).unwrap()
    }

    #[test]
    fn a_component_that_is_what_its_manifest_says_passes() {
        for imports in [&[][..], &[Import::Log], &Import::ALL] {
            let manifest = manifest(&[Hook::Authenticator, Hook::Authorizer], imports);
            check(&built_for(&manifest), &manifest).unwrap();
        }
    }

    #[test]
    fn a_component_that_imports_more_than_asked_is_refused() {
        let hooks = [Hook::Authenticator];
        let asks = manifest(&hooks, &[Import::Log]);
        for more in Import::ALL.into_iter().filter(|import| *import != Import::Log) {
            let built = built_for(&manifest(&hooks, &[Import::Log, more]));
            let error = check(&built, &asks).expect_err(more.name()).to_string();
            assert!(error.contains(more.interfaces()[0]), "{error}");
            assert!(error.contains("imports = [\"log\"]"), "{error}");
        }
    }

    #[test]
    fn types_alone_need_not_be_asked_for() {
        let manifest = manifest(&[Hook::Authenticator], &[]);
        let built = built_for(&manifest);
        assert!(built.imports.iter().any(|name| name.starts_with("mqgate:plugin/types")), "{built:?}");
        assert_eq!(built.imports, built.types_only);
        check(&built, &manifest).unwrap();
    }

    #[test]
    fn a_foreign_import_is_refused_whatever_the_manifest_says() {
        let mut built = built_for(&manifest(&[Hook::Auditor], &Import::ALL));
        built.imports.push("wasi:filesystem/types@0.2.12".into());
        let error = check(&built, &manifest(&[Hook::Auditor], &Import::ALL)).unwrap_err().to_string();
        assert!(error.contains("wasi:filesystem/types"), "{error}");
    }

    #[test]
    fn the_hooks_are_those_of_the_manifest() {
        let one = manifest(&[Hook::Authenticator], &[]);
        let two = manifest(&[Hook::Authenticator, Hook::Authorizer], &[]);
        let error = check(&built_for(&one), &two).unwrap_err().to_string();
        assert!(error.contains("does not export mqgate:plugin/authorizer"), "{error}");
        let error = check(&built_for(&two), &one).unwrap_err().to_string();
        assert!(error.contains("exports mqgate:plugin/authorizer"), "{error}");
    }
}
