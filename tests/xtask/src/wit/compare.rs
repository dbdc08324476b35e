//! Whether a plugin that was built for a release still fits the package: the rules of wit/README.md.
//!
//! Types are the same to the last case, for no host can tell a record with one field more from another record. Plugins may
//! be asked for nothing new; they may be offered more.

use std::collections::BTreeSet;

use wit_parser::{Interface, InterfaceId, TypeDefKind, World, WorldItem};

use super::{Package, text};

/// What is not as it was, in the order of the release.
pub fn broken(then: &Package, now: &Package) -> Vec<String> {
    let mut broken = Vec::new();
    if track(then) != track(now) {
        return broken; // Nothing was promised.
    }
    let exported = exported(then);
    for (name, id) in &then.resolve.packages[then.id].interfaces {
        let Some(new) = now.resolve.packages[now.id].interfaces.get(name) else {
            broken.push(format!("the interface {name} is gone"));
            continue;
        };
        let (old, new) = (&then.resolve.interfaces[*id], &now.resolve.interfaces[*new]);
        types(name, (then, old), (now, new), &mut broken);
        functions(name, (then, old), (now, new), exported.contains(id), &mut broken);
    }
    for (name, id) in &then.resolve.packages[then.id].worlds {
        match now.resolve.packages[now.id].worlds.get(name) {
            None => broken.push(format!("the world {name} is gone")),
            Some(new) => {
                let (old, new) = (&then.resolve.worlds[*id], &now.resolve.worlds[*new]);
                world(name, (then, old), (now, new), &mut broken);
            }
        }
    }
    broken
}

/// Major version, and minor where the major is 0.
fn track(package: &Package) -> Option<(u64, u64)> {
    let version = package.resolve.packages[package.id].name.version.as_ref()?;
    Some((version.major, if version.major == 0 { version.minor } else { 0 }))
}

/// Interfaces that plugins have and the broker calls.
fn exported(package: &Package) -> BTreeSet<InterfaceId> {
    let worlds = package.resolve.packages[package.id].worlds.values();
    let items = worlds.flat_map(|world| package.resolve.worlds[*world].exports.values());
    items
        .filter_map(|item| if let WorldItem::Interface { id, .. } = item { Some(*id) } else { None })
        .collect()
}

fn types(
    at: &str,
    (then, old): (&Package, &Interface),
    (now, new): (&Package, &Interface),
    broken: &mut Vec<String>,
) {
    for (name, id) in &old.types {
        let was = text::of_kind(&then.resolve, *id);
        match new.types.get(name) {
            None => broken.push(format!("the type {at}.{name} is gone")),
            Some(id) => {
                let is = text::of_kind(&now.resolve, *id);
                if is != was {
                    broken.push(format!("the type {at}.{name} is {is} and was {was}"));
                }
            }
        }
    }
    // A type that another interface may use as well is of no harm; a resource would be something to be served.
    for (name, id) in new.types.iter().filter(|(name, _)| !old.types.contains_key(*name)) {
        if matches!(now.resolve.types[*id].kind, TypeDefKind::Resource) {
            broken.push(format!("the resource {at}.{name} is new in an interface that was there"));
        }
    }
}

fn functions(
    at: &str,
    (then, old): (&Package, &Interface),
    (now, new): (&Package, &Interface),
    is_exported: bool,
    broken: &mut Vec<String>,
) {
    for (name, function) in &old.functions {
        let was = text::of_function(&then.resolve, function);
        match new.functions.get(name).map(|function| text::of_function(&now.resolve, function)) {
            None => broken.push(format!("the function {at}.{name} is gone")),
            Some(is) if is != was => broken.push(format!("the function {at}.{name} is {is} and was {was}")),
            Some(_) => {}
        }
    }
    if is_exported {
        for name in new.functions.keys().filter(|name| !old.functions.contains_key(*name)) {
            broken.push(format!(
                "the function {at}.{name} is new, and plugins that export {at} do not have it"
            ));
        }
    }
}

fn world(
    at: &str,
    (then, old): (&Package, &World),
    (now, new): (&Package, &World),
    broken: &mut Vec<String>,
) {
    let names = |package: &Package, items: &wit_parser::IndexMap<wit_parser::WorldKey, WorldItem>| {
        items.keys().map(|key| named(package, key)).collect::<BTreeSet<_>>()
    };
    let (had, has) = (names(then, &old.exports), names(now, &new.exports));
    for name in has.difference(&had) {
        broken
            .push(format!("the world {at} exports {name}, which plugins that were built for it do not have"));
    }
    for name in had.difference(&has) {
        broken.push(format!("the world {at} exports {name} no more"));
    }
    for name in names(then, &old.imports).difference(&names(now, &new.imports)) {
        broken.push(format!("the world {at} imports {name} no more"));
    }
}

/// The version is no part of it.
fn named(package: &Package, key: &wit_parser::WorldKey) -> String {
    let name = package.resolve.name_world_key(key);
    name.split_once('@').map_or(name.clone(), |(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "package a:b@1.0.0;
        interface types { record r { x: u32, y: option<string> } enum e { one, two } }
        interface hook { use types.{r}; decide: func(on: r) -> result<bool, string>; }
        interface log { use types.{e}; write: func(level: e, text: string); }
        world plugin { import log; export hook; }";

    fn package(text: &str) -> Package {
        let mut resolve = wit_parser::Resolve::default();
        let id = resolve.push_str("t.wit", text).unwrap();
        Package { resolve, id }
    }

    /// What is broken by one change to the text.
    fn after(from: &str, to: &str) -> Vec<String> {
        assert!(THEN.contains(from), "{from}");
        broken(&package(THEN), &package(&THEN.replace(from, to)))
    }

    #[test]
    fn what_may_be_added_is_nothing_that_is_broken() {
        for (from, to) in [
            ("@1.0.0", "@1.4.2"),
            ("write:", "flush: func(); write:"),
            ("interface log", "interface more { f: func(); } interface log"),
            ("import log;", "import log; import extra: interface { f: func(); }"),
            ("world plugin", "world other { export hook; } world plugin"),
            ("enum e", "type t = u32; enum e"),
        ] {
            assert_eq!(after(from, to), Vec::<String>::new(), "{from} -> {to}");
        }
        // Another track promises nothing.
        assert_eq!(
            broken(&package(THEN), &package("package a:b@2.0.0; interface x {}")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_was_promised_is_held() {
        for (from, to, expected) in [
            ("x: u32,", "x: u32, z: bool,", "types.r is record"),
            ("x: u32", "x: u64", "types.r is record"),
            ("one, two", "two, one", "types.e is enum"),
            ("one, two", "one, two, three", "types.e is enum"),
            ("decide: func(on: r)", "decide: func(who: r)", "hook.decide is func"),
            ("result<bool, string>", "result<bool>", "hook.decide is func"),
            ("decide:", "warm-up: func(); decide:", "hook.warm-up is new"),
            ("write: func(level: e, text: string);", "", "log.write is gone"),
            ("export hook;", "export hook; export log;", "exports a:b/log, which"),
            ("export hook;", "", "exports a:b/hook no more"),
            ("import log; ", "", "imports a:b/log no more"),
            ("world plugin", "world plug", "the world plugin is gone"),
            ("enum e { one, two }", "resource q; enum e { one, two }", "the resource types.q is new"),
        ] {
            let found = after(from, to);
            assert!(found.iter().any(|what| what.contains(expected)), "{from} -> {to}: {found:?}");
        }
    }
}
