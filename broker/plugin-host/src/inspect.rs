//! What a component exports and imports, and whether this broker and the operator's grants can serve it.

use std::collections::BTreeSet;

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::abi::{self, Named};
use crate::capability::http::AllowedDestination;
use crate::capability::log::escape;
use crate::error::{LoadError, Stage};
use crate::hook::Hook;
use crate::settings::{Capability, Grants};

/// WASI as far as it is granted: packages, and the track of all of them.
const WASI: &str = "wasi:";
const WASI_TRACK: &str = "0.2";
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

/// Package and interface of WASI, if it is of the track that is served.
fn parse_wasi(name: &str) -> Option<&str> {
    let (interface, version) = name.strip_prefix(WASI)?.split_once('@')?;
    let version = abi::Version::parse(version)?;
    (version.track().to_string() == WASI_TRACK).then_some(interface)
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
    let mut asked = BTreeSet::new();
    let supported = format!(
        "This broker {broker_version} supports track {} of mqgate:plugin: {}.",
        abi::track(),
        exports_known()
    );
    let refuse =
        |has: String, way_out: &str| LoadError::new(Stage::Inspect, format!("{has}\n{supported}\n{way_out}"));

    for (name, _) in ty.exports(engine) {
        let Some(named) = Named::parse(name) else {
            found.other_exports.push(escape(name));
            continue;
        };
        let interface = named.interface;
        let known = Hook::ALL.into_iter().find(|hook| hook.as_str() == interface);
        let is_known =
            known.is_some() || [LIFECYCLE, HEALTH].contains(&interface) || TYPES.contains(&interface);
        if !is_known {
            return Err(refuse(
                format!("the component exports {name}, a hook this broker does not know."),
                "Use a broker that knows it, or build the plugin without it.",
            ));
        }
        if !named.is_of_this_track() {
            return Err(refuse(
                format!("the component exports {name}."),
                "Rebuild the plugin with the SDK of this track, or use a broker that supports the other one.",
            ));
        }
        if !TYPES.contains(&interface) && !asked.insert(interface) {
            return Err(refuse(
                format!(
                    "the component exports {interface} twice, for two releases: one of them is never asked."
                ),
                "Build it with one of them.",
            ));
        }
        has_lifecycle |= interface == LIFECYCLE;
        found.has_health |= interface == HEALTH;
        found.hooks.extend(known);
    }
    found.hooks.sort_by_key(|hook| *hook as u8);

    for (name, item) in ty.imports(engine) {
        let is_types = match &item.ty {
            ComponentItem::ComponentInstance(_) if Named::parse(name).is_some() => {
                Named::parse(name).is_some_and(|named| TYPES.contains(&named.interface))
            }
            // `wasi:http` names a duration, which is a number of `wasi:clocks`: that is no use of a clock.
            ComponentItem::ComponentInstance(instance) if name.starts_with(WASI) => {
                instance.exports(engine).all(|(_, export)| matches!(export.ty, ComponentItem::Type(_)))
            }
            _ => false,
        };
        if !is_types {
            // A URL may be one, with anything in it.
            found.imports.push(escape(name));
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
    /// Comes along with each of them.
    With([Capability; 2]),
    /// Nothing here.
    No,
}

fn served(import: &str) -> Served {
    if let Some(interface) = parse_wasi(import) {
        return match interface {
            "http/outgoing-handler" | "http/types" | "io/error" | "io/streams" => {
                Served::By(Capability::Http)
            }
            "io/poll" => Served::With([Capability::Clock, Capability::Http]),
            "clocks/monotonic-clock" | "clocks/wall-clock" => Served::By(Capability::Clock),
            "random/random" | "random/insecure" | "random/insecure-seed" => Served::By(Capability::Random),
            _ => Served::No,
        };
    }
    let Some(named) = Named::parse(import).filter(|named| named.is_of_this_track()) else {
        return Served::No;
    };
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
    let served: Vec<Served> = found.imports.iter().map(|import| served(import)).collect();
    let by = |served: &Served| match served {
        Served::By(capability) => Some(*capability),
        Served::Always | Served::With(_) | Served::No => None,
    };
    let mut needs: BTreeSet<Capability> = served.iter().filter_map(by).collect();
    for served in served {
        if let Served::With(each) = served
            && !each.iter().any(|capability| needs.contains(capability))
        {
            needs.insert(each[0]);
        }
    }
    needs
}

fn is_granted(import: &str, grants: &Grants) -> bool {
    match served(import) {
        Served::Always => true,
        Served::By(capability) => grants.has(capability),
        Served::With(each) => each.into_iter().any(|capability| grants.has(capability)),
        Served::No => false,
    }
}

/// The imports that no grant would serve.
pub(crate) fn unserved(found: &Inspection) -> Vec<String> {
    found.imports.iter().filter(|import| matches!(served(import), Served::No)).cloned().collect()
}

/// The line of a plugin's entry that grants these. Without a destination that is allowed, `http` has one to fill in.
pub fn grant_line(capabilities: &BTreeSet<Capability>, allow: &[AllowedDestination]) -> String {
    let list = |words: Vec<String>| format!("[{}]", words.join(", "));
    let words = list(capabilities.iter().map(|capability| format!("\"{}\"", capability.as_str())).collect());
    if !capabilities.contains(&Capability::Http) {
        return format!("grant = {words}");
    }
    let allow = match allow {
        [] => String::from("[\"https://HOST:443\"]"),
        allow => list(allow.iter().map(|allowed| format!("\"{allowed}\"")).collect()),
    };
    format!("grant = {{ capabilities = {words}, http = {{ allow = {allow} }} }}")
}

/// Refuses imports that are not granted, with the line that would grant them.
pub(crate) fn check_grants(
    found: &Inspection,
    grants: &Grants,
    broker_version: &str,
) -> Result<(), LoadError> {
    if let Some(name) = unserved(found).first() {
        let wasi = if name.starts_with("wasi:") {
            "Build without the rest of WASI: a target without an operating system, and no files, environment or stdio."
        } else {
            "Build the plugin against wit/ of this broker."
        };
        return Err(LoadError::new(
            Stage::Inspect,
            format!(
                "the component imports {name}.\n\
                 This broker {broker_version} provides mqgate:plugin/log, key-value, registry and metrics of \
                 track {}, wasi:http/outgoing-handler, wasi:clocks and wasi:random of {WASI_TRACK}, and nothing \
                 else.\n{wasi}",
                abi::track()
            ),
        ));
    }
    let missing = found.imports.iter().filter(|import| !is_granted(import, grants));
    let imports: Vec<&str> = missing.map(String::as_str).collect();
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
            grant_line(&wanted, &grants.http.allow)
        ),
    ))
}

fn exports_known() -> String {
    let hooks = Hook::ALL.map(Hook::as_str).join(", ");
    format!("{LIFECYCLE}, {hooks}, {HEALTH}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(imports: &[&str]) -> (Vec<&'static str>, Vec<String>) {
        let imports = imports.iter().map(|import| (*import).to_owned()).collect();
        let found = Inspection { hooks: Vec::new(), has_health: false, imports, other_exports: Vec::new() };
        (needs(&found).into_iter().map(Capability::as_str).collect(), unserved(&found))
    }

    #[test]
    fn of_wasi_the_packages_that_can_be_granted_are_served() {
        assert_eq!(
            needed(&["wasi:http/outgoing-handler@0.2.3", "wasi:io/poll@0.2.3"]),
            (vec!["http"], vec![])
        );
        assert_eq!(
            needed(&["wasi:clocks/monotonic-clock@0.2.0", "wasi:io/poll@0.2.0"]),
            (vec!["clock"], vec![])
        );
        assert_eq!(needed(&["wasi:io/poll@0.2.0"]), (vec!["clock"], vec![]));
        assert_eq!(needed(&["wasi:random/insecure-seed@0.2.12"]), (vec!["random"], vec![]));
        for foreign in [
            "wasi:http/incoming-handler@0.2.3",
            "wasi:http/types@0.3.0",
            "wasi:http/types@0.2.0-rc-2023",
            "wasi:http/types@0.20.0",
            "wasi:http/types",
            "wasi:clocks/timezone@0.2.0",
            "wasi:cli/stdout@0.2.0",
            "wasi:filesystem/types@0.2.0",
            "wasi:sockets/tcp@0.2.0",
        ] {
            assert_eq!(needed(&[foreign]), (vec![], vec![foreign.to_owned()]), "{foreign}");
        }
    }

    fn inspected(text: &str) -> Result<Inspection, LoadError> {
        let engine = Engine::new(&crate::engine::base(1 << 20)).expect("an engine");
        let bytes = wat::parse_str(text).expect("text");
        inspect(&engine, &Component::new(&engine, bytes).expect("a component"), "0")
    }

    #[test]
    fn a_hook_of_two_releases_is_refused_for_one_of_them_is_never_asked() {
        let export = |names: &[&str]| {
            let names = names.iter().map(|name| format!("(export \"mqgate:plugin/{name}\" (instance $i))"));
            format!("(component (instance $i) {})", names.collect::<String>())
        };
        let found = inspected(&export(&["lifecycle@1.0.0", "authorizer@1.0.0", "auditor@1.1.0"]));
        assert_eq!(found.expect("one of each").hooks, [Hook::Authorizer, Hook::Auditor]);
        for twice in ["authorizer", "lifecycle"] {
            let again = [&format!("{twice}@1.0.0"), "authenticator@1.0.0", &format!("{twice}@1.1.0")];
            let error = inspected(&export(&again)).expect_err("refused");
            assert!(error.message.contains(&format!("exports {twice} twice")), "{error}");
        }
    }

    #[test]
    fn a_name_that_a_component_chose_steers_no_terminal() {
        let named = "(component (instance $i)
            (import \"url=<https://x/\\1b[2J\\0a\\c2\\9b>\" (instance))
            (export \"mqgate:plugin/lifecycle@1.0.0\" (instance $i))
            (export \"mqgate:plugin/authorizer@1.0.0\" (instance $i)))";
        let mut found = inspected(named).expect("it has a hook");
        assert_eq!(found.imports, ["url=<https://x/\\u{1b}[2J\\n\\u{9b}>"]);
        // And where somebody forgets it.
        found.imports = vec![String::from("wasi:\u{1b}[2J")];
        let error = check_grants(&found, &Grants::default(), "0").expect_err("refused");
        assert!(!error.message.contains('\u{1b}') && error.message.lines().count() == 3, "{error}");
    }

    #[test]
    fn what_comes_along_is_granted_by_either() {
        for (granted, expected) in
            [(Capability::Http, true), (Capability::Clock, true), (Capability::Random, false)]
        {
            assert_eq!(is_granted("wasi:io/poll@0.2.0", &Grants::of([granted])), expected, "{granted:?}");
        }
    }
}
