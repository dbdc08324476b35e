//! The types of a project's world for editors and `tsc`: one ambient module for each interface, under the name it is
//! imported by. As the engine's tool passes values: variants are `{ tag, val }`, and an error of a function is thrown. An absent
//! value is null in QuickJS and undefined in StarlingMonkey, a 64-bit number a number in the one and a bigint in the other.

use std::fmt::Write as _;

use wit_parser::{
    Docs, Function, FunctionKind, Handle, InterfaceId, Resolve, Type, TypeDef, TypeDefKind, TypeId,
    TypeOwner, WorldId, WorldItem,
};

use crate::manifest::Engine;

/// The declarations of every interface of the world.
pub fn declarations(resolve: &Resolve, world: WorldId, engine: Engine) -> String {
    let world = &resolve.worlds[world];
    let mut out = String::from("// Generated from the project's world; renewed by each build.\n");
    for item in world.imports.values().chain(world.exports.values()) {
        if let WorldItem::Interface { id, .. } = item {
            interface(resolve, *id, engine, &mut out);
        }
    }
    out
}

fn interface(resolve: &Resolve, id: InterfaceId, engine: Engine, out: &mut String) {
    let interface = &resolve.interfaces[id];
    let writer = Writer { resolve, interface: id, engine };
    let name = resolve.id_of(id).unwrap_or_default();
    line(out, 0, "");
    docs(out, 0, &interface.docs, None);
    line(out, 0, &format!("declare module '{name}' {{"));
    for (name, id) in &interface.types {
        writer.definition(name, *id, out);
    }
    for function in interface.functions.values().filter(|function| function.kind.resource().is_none()) {
        docs(out, 1, &function.docs, writer.thrown(function).as_deref());
        line(out, 1, &format!("export function {};", writer.signature(function)));
    }
    line(out, 0, "}");
}

struct Writer<'a> {
    resolve: &'a Resolve,
    /// Types of this one need no path.
    interface: InterfaceId,
    engine: Engine,
}

impl Writer<'_> {
    fn definition(&self, name: &str, id: TypeId, out: &mut String) {
        let TypeDef { kind, docs: about, .. } = &self.resolve.types[id];
        let name = pascal(name);
        docs(out, 1, about, None);
        match kind {
            TypeDefKind::Record(record) => {
                line(out, 1, &format!("export interface {name} {{"));
                for field in &record.fields {
                    docs(out, 2, &field.docs, None);
                    line(out, 2, &format!("{}: {};", camel(&field.name), self.of(&field.ty)));
                }
                line(out, 1, "}");
            }
            TypeDefKind::Flags(flags) => {
                line(out, 1, &format!("export interface {name} {{"));
                for flag in &flags.flags {
                    line(out, 2, &format!("{}?: boolean;", camel(&flag.name)));
                }
                line(out, 1, "}");
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter().map(|case| match &case.ty {
                    Some(ty) => format!("{{ tag: '{}', val: {} }}", case.name, self.of(ty)),
                    None => format!("{{ tag: '{}' }}", case.name),
                });
                line(out, 1, &format!("export type {name} = {};", cases.collect::<Vec<_>>().join(" | ")));
            }
            TypeDefKind::Enum(names) => {
                let names = names.cases.iter().map(|case| format!("'{}'", case.name));
                line(out, 1, &format!("export type {name} = {};", names.collect::<Vec<_>>().join(" | ")));
            }
            TypeDefKind::Resource => {
                line(out, 1, &format!("export class {name} {{"));
                let functions = self.resolve.interfaces[self.interface].functions.values();
                for function in functions.filter(|function| function.kind.resource() == Some(id)) {
                    docs(out, 2, &function.docs, self.thrown(function).as_deref());
                    line(out, 2, &format!("{};", self.signature(function)));
                }
                line(out, 1, "}");
            }
            other => line(out, 1, &format!("export type {name} = {};", self.kind(other))),
        }
    }

    fn signature(&self, function: &Function) -> String {
        let is_method = matches!(function.kind, FunctionKind::Method(_) | FunctionKind::AsyncMethod(_));
        let params: Vec<String> = function
            .params
            .iter()
            .skip(usize::from(is_method))
            .map(|param| format!("{}: {}", camel(&param.name), self.of(&param.ty)))
            .collect();
        let params = params.join(", ");
        // `[method]fields.get`
        let name = camel(function.name.rsplit(['.', ']']).next().unwrap_or_default());
        match function.kind {
            FunctionKind::Constructor(_) => return format!("constructor({params})"),
            FunctionKind::Static(_) => return format!("static {name}({params}): {}", self.result(function)),
            _ => {}
        }
        format!("{name}({params}): {}", self.result(function))
    }

    /// What a function returns when it does not throw.
    fn result(&self, function: &Function) -> String {
        let Some(result) = &function.result else { return "void".into() };
        match self.outcome(result) {
            Some((ok, _)) => ok.map_or_else(|| "void".into(), |ok| self.of(&ok)),
            None => self.of(result),
        }
    }

    fn thrown(&self, function: &Function) -> Option<String> {
        let (_, error) = self.outcome(function.result.as_ref()?)?;
        Some(self.of(&error?))
    }

    fn outcome(&self, ty: &Type) -> Option<(Option<Type>, Option<Type>)> {
        let Type::Id(id) = ty else { return None };
        let TypeDefKind::Result(result) = &self.resolve.types[*id].kind else { return None };
        Some((result.ok, result.err))
    }

    fn of(&self, ty: &Type) -> String {
        let id = match ty {
            Type::Bool => return "boolean".into(),
            Type::Char | Type::String => return "string".into(),
            Type::ErrorContext => return "unknown".into(),
            Type::U64 | Type::S64 if self.engine == Engine::StarlingMonkey => return "bigint".into(),
            Type::Id(id) => *id,
            _ => return "number".into(),
        };
        let definition = &self.resolve.types[id];
        let Some(name) = &definition.name else { return self.kind(&definition.kind) };
        match definition.owner {
            TypeOwner::Interface(owner) if owner != self.interface => self.path(owner, name),
            _ => pascal(name),
        }
    }

    fn path(&self, owner: InterfaceId, name: &str) -> String {
        format!("import('{}').{}", self.resolve.id_of(owner).unwrap_or_default(), pascal(name))
    }

    fn kind(&self, kind: &TypeDefKind) -> String {
        match kind {
            TypeDefKind::Option(inner) => {
                // What a plugin answers may be null in both.
                let absent = match self.engine {
                    Engine::QuickJs => "null",
                    Engine::StarlingMonkey => "null | undefined",
                };
                format!("{} | {absent}", self.of(inner))
            }
            TypeDefKind::List(Type::U8) => "Uint8Array".into(),
            TypeDefKind::List(inner) | TypeDefKind::FixedLengthList(inner, _) => {
                format!("Array<{}>", self.of(inner))
            }
            TypeDefKind::Map(key, value) => format!("Array<[{}, {}]>", self.of(key), self.of(value)),
            TypeDefKind::Tuple(tuple) => {
                let types: Vec<String> = tuple.types.iter().map(|ty| self.of(ty)).collect();
                format!("[{}]", types.join(", "))
            }
            TypeDefKind::Result(result) => {
                let of = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "undefined".into(), |ty| self.of(ty));
                let (ok, error) = (of(&result.ok), of(&result.err));
                format!("{{ tag: 'ok', val: {ok} }} | {{ tag: 'err', val: {error} }}")
            }
            TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id)) => self.of(&Type::Id(*id)),
            TypeDefKind::Type(inner) => self.of(inner),
            // Named ones are written by name; the rest has no synchronous value.
            _ => "unknown".into(),
        }
    }
}

/// Comments of the WIT, as JSDoc.
fn docs(out: &mut String, depth: usize, docs: &Docs, thrown: Option<&str>) {
    let mut lines: Vec<String> =
        docs.contents.as_deref().unwrap_or_default().lines().map(str::to_owned).collect();
    lines.extend(thrown.map(|thrown| format!("@throws {{{thrown}}}")));
    if lines.is_empty() {
        return;
    }
    line(out, depth, "/**");
    for text in lines {
        line(out, depth, format!(" * {}", text.trim().replace("*/", "* /")).trim_end());
    }
    line(out, depth, " */");
}

fn line(out: &mut String, depth: usize, text: &str) {
    writeln!(out, "{}{text}", "  ".repeat(depth)).expect("a String takes everything");
}

fn pascal(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(word).collect()
}

fn camel(name: &str) -> String {
    let name = pascal(name);
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Hook, Import, Language, Manifest};
    use crate::world;

    fn types(engine: Engine) -> String {
        let manifest = Manifest {
            name: "x".into(),
            language: Language::JavaScript,
            engine,
            hooks: Hook::ALL.into(),
            imports: Import::ALL.into(),
        };
        let folder = tempfile::tempdir().unwrap();
        world::write(&manifest, folder.path()).unwrap();
        let (resolve, world) = world::read(folder.path()).unwrap();
        declarations(&resolve, world, engine)
    }

    #[test]
    fn values_have_the_form_in_which_they_are_passed() {
        let types = types(Engine::QuickJs);
        for expected in [
            "declare module 'mqgate:plugin/authorizer@1.0.0' {",
            "  export function authorize(on: Connection, who: Identity): Authorization;",
            "   * @throws {HookError}",
            "  export type Authorization = { tag: 'allow', val: Grant } | { tag: 'deny', val: Denial } | { tag: 'abstain' };",
            "  export type Denial = import('mqgate:plugin/types@1.0.0').Denial;",
            "    clientMessage: string | null;",
            "    fingerprintSha256: Uint8Array;",
            "    userProperties: Array<[string, string]>;",
            "  export type Effect = 'allow' | 'deny';",
            "    publish?: boolean;",
            "  export function init(context: PluginContext): void;",
            "  export function recordEvents(events: Array<AuditEvent>): number;",
            "  export class OutgoingRequest {",
        ] {
            assert!(types.lines().any(|line| line == expected), "{expected}\n{types}");
        }
        for not_understood in [": unknown", "= unknown", "<unknown", "| unknown"] {
            assert!(!types.contains(not_understood), "{not_understood}\n{types}");
        }
    }

    #[test]
    fn starlingmonkey_passes_some_otherwise() {
        let types = types(Engine::StarlingMonkey);
        for expected in [
            "    clientMessage: string | null | undefined;",
            "  export function recordEvents(events: Array<AuditEvent>): bigint;",
            "  export type Seconds = number;",
        ] {
            assert!(types.lines().any(|line| line == expected), "{expected}\n{types}");
        }
    }
}
