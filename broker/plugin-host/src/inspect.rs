//! What a component exports and imports, and whether this broker and the operator's grants can serve it.

use std::collections::BTreeSet;

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::error::{LoadError, Stage};
use crate::hook::Hook;
use crate::settings::{Capability, Grants};

const PACKAGE: &str = "mqgate:plugin/";
/// Patch releases of a track are compatible, so only its number counts.
const TRACK: &str = "0.1";
const LIFECYCLE: &str = "lifecycle";
const HEALTH: &str = "health";
/// Interfaces that hold nothing but types.
const TYPES: [&str; 3] = ["types", "certificates", "connections"];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) hooks: Vec<Hook>,
    pub(crate) has_health: bool,
    /// Whole names, interfaces of types left out.
    pub(crate) imports: Vec<String>,
    /// Exports outside `mqgate:plugin/`, which nobody calls.
    pub(crate) other_exports: Vec<String>,
}

/// A name of the package: interface and version.
struct Named<'a> {
    interface: &'a str,
    track_fits: bool,
}

fn parse(name: &str) -> Option<Named<'_>> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@').unwrap_or((name, ""));
    let interface = interface.strip_prefix(PACKAGE).unwrap_or(interface);
    let patch = version.strip_prefix(TRACK).and_then(|rest| rest.strip_prefix('.'));
    let track_fits =
        patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()));
    Some(Named { interface, track_fits })
}

/// Refuses what this broker cannot serve: ignoring a hook it does not know would let everyone past it.
pub(crate) fn inspect(
    engine: &Engine,
    component: &Component,
    broker_version: &str,
) -> Result<Inspection, LoadError> {
    let ty = component.component_type();
    let mut found =
        Inspection { hooks: Vec::new(), has_health: false, imports: Vec::new(), other_exports: Vec::new() };
    let mut has_lifecycle = false;
    let supported =
        format!("This broker {broker_version} supports track {TRACK} of mqgate:plugin: {}.", exports_known());
    let refuse =
        |has: String, way_out: &str| LoadError::new(Stage::Inspect, format!("{has}\n{supported}\n{way_out}"));

    for (name, _) in ty.exports(engine) {
        let Some(Named { interface, track_fits }) = parse(name) else {
            found.other_exports.push(name.to_owned());
            continue;
        };
        let known = Hook::ALL.into_iter().find(|hook| hook.as_str() == interface);
        let is_known =
            known.is_some() || [LIFECYCLE, HEALTH].contains(&interface) || TYPES.contains(&interface);
        if !is_known {
            return Err(refuse(
                format!("the component exports {name}, a hook this broker does not know."),
                "Use a broker that knows it, or build the plugin without it.",
            ));
        }
        if !track_fits {
            return Err(refuse(
                format!("the component exports {name}."),
                "Rebuild the plugin with the SDK of this track, or use a broker that supports the other one.",
            ));
        }
        has_lifecycle |= interface == LIFECYCLE;
        found.has_health |= interface == HEALTH;
        found.hooks.extend(known);
    }
    found.hooks.sort_by_key(|hook| *hook as u8);

    for (name, item) in ty.imports(engine) {
        let is_types = parse(name).is_some_and(|named| TYPES.contains(&named.interface))
            && matches!(item.ty, ComponentItem::ComponentInstance(_));
        if !is_types {
            found.imports.push(name.to_owned());
        }
    }

    if found.hooks.is_empty() {
        let has = match (&found.other_exports[..], has_lifecycle) {
            ([], false) => String::from("the component exports nothing."),
            ([], true) => String::from("the component exports lifecycle and no hook."),
            (others, _) => format!("the component exports {} and no hook.", others.join(", ")),
        };
        return Err(refuse(
            has,
            "Export at least one hook; the SDK does it for each trait that is implemented.",
        ));
    }
    if !has_lifecycle {
        return Err(refuse(
            String::from("the component does not export lifecycle."),
            "Export mqgate:plugin/lifecycle, in which `init` receives the configuration.",
        ));
    }
    Ok(found)
}

/// What serves an import.
enum Served {
    Always,
    By(Capability),
    /// Nothing here.
    No,
}

fn served(import: &str) -> Served {
    let Some(named) = parse(import).filter(|named| named.track_fits) else { return Served::No };
    match named.interface {
        "log" => Served::Always,
        "key-value" => Served::By(Capability::KeyValue),
        "registry" => Served::By(Capability::RegistryRead),
        "metrics" => Served::By(Capability::Metrics),
        _ => Served::No,
    }
}

/// The capabilities that the imports need.
pub(crate) fn needs(found: &Inspection) -> BTreeSet<Capability> {
    let needs = found.imports.iter().filter_map(|import| match served(import) {
        Served::By(capability) => Some(capability),
        Served::Always | Served::No => None,
    });
    needs.collect()
}

/// The imports that no grant would serve.
pub(crate) fn unserved(found: &Inspection) -> Vec<String> {
    found.imports.iter().filter(|import| matches!(served(import), Served::No)).cloned().collect()
}

/// The line of a plugin's entry that grants these.
pub fn grant_line(capabilities: &BTreeSet<Capability>) -> String {
    let words: Vec<String> =
        capabilities.iter().map(|capability| format!("\"{}\"", capability.as_str())).collect();
    format!("grant = [{}]", words.join(", "))
}

/// Refuses imports that are not granted, with the line that would grant them.
pub(crate) fn check_grants(
    found: &Inspection,
    grants: &Grants,
    broker_version: &str,
) -> Result<(), LoadError> {
    if let Some(name) = unserved(found).first() {
        let wasi = if name.starts_with("wasi:") {
            "Build without WASI: a target without an operating system, and no files, clocks, random or stdio."
        } else {
            "Build the plugin against wit/ of this broker."
        };
        return Err(LoadError::new(
            Stage::Inspect,
            format!(
                "the component imports {name}.\n\
                 This broker {broker_version} provides mqgate:plugin/log, key-value, registry and metrics of \
                 track {TRACK}, and nothing else.\n{wasi}"
            ),
        ));
    }
    let is_missing =
        |import: &&String| matches!(served(import), Served::By(capability) if !grants.has(capability));
    let imports: Vec<&str> = found.imports.iter().filter(is_missing).map(String::as_str).collect();
    if imports.is_empty() {
        return Ok(());
    }
    let granted: Vec<&str> = grants.capabilities.iter().map(|capability| capability.as_str()).collect();
    let wanted = grants.capabilities.union(&needs(found)).copied().collect();
    Err(LoadError::new(
        Stage::Inspect,
        format!(
            "the component imports {}, which the plugin is not granted.\n\
             It is granted: {}.\n\
             To grant it, write in its [[plugins]] entry: {}",
            imports.join(", "),
            if granted.is_empty() { String::from("nothing") } else { granted.join(", ") },
            grant_line(&wanted)
        ),
    ))
}

fn exports_known() -> String {
    let hooks = Hook::ALL.map(Hook::as_str).join(", ");
    format!("{LIFECYCLE}, {hooks}, {HEALTH}")
}
