//! The reference of the package for those who write plugins: every interface with its functions and types, in the order and
//! the words of wit/.

use std::fmt::Write as _;

use wit_parser::{
    Docs, Interface, InterfaceId, Type, TypeDefKind, TypeId, TypeOwner, World, WorldItem, WorldKey,
};

use super::{Package, text};

/// Who has the functions of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Plugin,
    Broker,
    /// Nothing but types.
    Both,
}

pub fn of(package: &Package) -> String {
    let name = package.name();
    let mut out = format!(
        "# {name}\n\n\
         The plugin ABI, generated from [wit/](../../wit) by `cargo xtask wit --write`. What the broker checks in an answer, and how\n\
         the ABI may change, stands in [wit/README.md](../../wit/README.md); the steps to a plugin in [writing.md](writing.md).\n\n\
         | interface | of | |\n|---|---|---|\n"
    );
    let named = &package.resolve.packages[package.id];
    let mut interfaces: Vec<_> = named.interfaces.iter().collect();
    // Whatever the order in which files are read.
    interfaces.sort_by_key(|(name, id)| (side(package, **id) as u8, *name != "lifecycle", *name));
    for (name, id) in &interfaces {
        let id = *id;
        let of = match side(package, *id) {
            Side::Plugin => "the plugin",
            Side::Broker => "the broker",
            Side::Both => "both: types",
        };
        let about = first_sentence(&package.resolve.interfaces[*id].docs);
        let _ = writeln!(out, "| [{name}](#{name}) | {of} | {about} |");
    }
    for (name, id) in interfaces {
        interface(package, name, &package.resolve.interfaces[*id], side(package, *id), &mut out);
    }
    out.push_str("\n## Worlds\n");
    let mut worlds: Vec<_> = named.worlds.iter().collect();
    worlds.sort_by_key(|(name, _)| *name);
    for (name, id) in worlds {
        world(package, name, &package.resolve.worlds[*id], &mut out);
    }
    out
}

fn side(package: &Package, id: InterfaceId) -> Side {
    let is = |item: &WorldItem| matches!(item, WorldItem::Interface { id: other, .. } if *other == id);
    let mut worlds = package.resolve.packages[package.id].worlds.values();
    if worlds.any(|world| package.resolve.worlds[*world].exports.values().any(is)) {
        Side::Plugin
    } else if package.resolve.interfaces[id].functions.is_empty() {
        Side::Both
    } else {
        Side::Broker
    }
}

fn interface(package: &Package, name: &str, interface: &Interface, side: Side, out: &mut String) {
    let _ = write!(out, "\n## {name}\n\n");
    docs(&interface.docs, "", out);
    let used = used(package, interface);
    if !used.is_empty() {
        let _ = write!(out, "Uses {}.\n\n", used.join("; "));
    }
    for (function, it) in &interface.functions {
        let _ = write!(
            out,
            "### {name}.{function}\n\n```wit\n{function}: {};\n```\n\n",
            text::of_function(&package.resolve, it)
        );
        if side == Side::Plugin {
            out.push_str("Called by the broker.\n\n");
        }
        docs(&it.docs, "", out);
    }
    for (ty, id) in &interface.types {
        if !is_used(package, *id) {
            type_of(package, &format!("{name}.{ty}"), *id, out);
        }
    }
}

/// Another interface's, by the name it has there.
fn is_used(package: &Package, id: TypeId) -> bool {
    let definition = &package.resolve.types[id];
    match definition.kind {
        TypeDefKind::Type(Type::Id(other)) => package.resolve.types[other].owner != definition.owner,
        _ => false,
    }
}

fn used(package: &Package, interface: &Interface) -> Vec<String> {
    let mut from: Vec<(String, Vec<String>)> = Vec::new();
    for (name, id) in interface.types.iter().filter(|(_, id)| is_used(package, **id)) {
        let TypeDefKind::Type(Type::Id(other)) = package.resolve.types[*id].kind else { continue };
        let TypeOwner::Interface(owner) = package.resolve.types[other].owner else { continue };
        let owner = package.resolve.interfaces[owner].name.clone().unwrap_or_default();
        let link = format!("[{name}](#{owner}{name})");
        match from.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, names)) => names.push(link),
            None => from.push((owner, vec![link])),
        }
    }
    from.into_iter().map(|(owner, names)| format!("{} of {owner}", names.join(", "))).collect()
}

fn type_of(package: &Package, name: &str, id: TypeId, out: &mut String) {
    let definition = &package.resolve.types[id];
    let kind = definition.kind.as_str();
    let _ = write!(out, "### {name}\n\n");
    docs(&definition.docs, "", out);
    let ty = |ty: &Type| format!("`{}`", text::of_type(&package.resolve, ty));
    let mut rows = |header: &str, rows: Vec<(String, Option<String>, &Docs)>| {
        let _ = write!(out, "{kind}:\n\n{header}\n");
        for (name, ty, about) in rows {
            let ty = ty.map(|ty| format!(" {ty} |")).unwrap_or_default();
            let _ = writeln!(out, "| `{name}` |{ty} {} |", one_line(about));
        }
        out.push('\n');
    };
    match &definition.kind {
        TypeDefKind::Record(record) => rows(
            "| field | type | |\n|---|---|---|",
            record.fields.iter().map(|it| (it.name.clone(), Some(ty(&it.ty)), &it.docs)).collect(),
        ),
        TypeDefKind::Variant(variant) => rows(
            "| case | of | |\n|---|---|---|",
            variant
                .cases
                .iter()
                .map(|it| (it.name.clone(), Some(it.ty.as_ref().map(ty).unwrap_or_default()), &it.docs))
                .collect(),
        ),
        TypeDefKind::Enum(cases) => rows(
            "| case | |\n|---|---|",
            cases.cases.iter().map(|it| (it.name.clone(), None, &it.docs)).collect(),
        ),
        TypeDefKind::Flags(flags) => rows(
            "| flag | |\n|---|---|",
            flags.flags.iter().map(|it| (it.name.clone(), None, &it.docs)).collect(),
        ),
        _ => {
            let _ = write!(out, "`{}`\n\n", text::of_kind(&package.resolve, id));
        }
    }
}

fn world(package: &Package, name: &str, world: &World, out: &mut String) {
    let _ = write!(out, "\n### {name}\n\n");
    docs(&world.docs, "", out);
    let names = |items: &wit_parser::IndexMap<WorldKey, WorldItem>| {
        let names = items.keys().filter_map(|key| match key {
            WorldKey::Interface(id) if side(package, *id) == Side::Both => None,
            WorldKey::Interface(id) => package.resolve.interfaces[*id].name.clone(),
            WorldKey::Name(name) => Some(name.clone()),
        });
        names.map(|name| format!("[{name}](#{name})")).collect::<Vec<_>>().join(", ")
    };
    for (what, items) in [("Imports", &world.imports), ("Exports", &world.exports)] {
        let names = names(items);
        if !names.is_empty() {
            let _ = write!(out, "{what} {names}.\n\n");
        }
    }
}

fn docs(docs: &Docs, indent: &str, out: &mut String) {
    let Some(text) = &docs.contents else { return };
    for line in text.trim_end().lines() {
        let _ = writeln!(out, "{indent}{}", line.trim_end());
    }
    out.push('\n');
}

/// For a cell of a table.
fn one_line(docs: &Docs) -> String {
    let text = docs.contents.as_deref().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn first_sentence(docs: &Docs) -> String {
    let text = one_line(docs);
    text.split_once(". ").map_or(text.clone(), |(first, _)| format!("{first}."))
}
