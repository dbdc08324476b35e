//! Guests as text: a core module with the bodies a test gives, wrapped as a component.
//!
//! Addresses: 64 texts, 1024 the answer of `init` (all zero: success), 2048 the answer of a hook.

use std::fmt::Write;
use std::path::PathBuf;

/// Body of a hook that has no opinion: `ok(abstain)`.
pub const ABSTAIN: &str = "(i32.store8 (i32.const 2052) (i32.const 2)) (i32.const 2048)";
/// Body of `authenticate` that denies.
pub const DENY: &str = "(i32.store8 (i32.const 2052) (i32.const 1)) (i32.const 2048)";
pub const TRAP: &str = "unreachable";
pub const LOOP: &str = "(loop $l (br $l)) unreachable";
/// Where the record `connection` holds the length of the listener's name.
pub const LISTENER_LENGTH: usize = 20;

const INIT_PARAMETERS: usize = 13;

pub struct Guest {
    /// Lines of the world beside `import log`.
    world: Vec<String>,
    imports: String,
    functions: String,
    init: String,
    text: String,
    pages: usize,
    /// Packages of others, as text.
    packages: Vec<String>,
    /// Changes to the WIT package the guest is built against.
    wit: Vec<(String, String)>,
}

impl Guest {
    pub fn new() -> Self {
        Self {
            world: vec![String::from("export mqgate:plugin/lifecycle@1.0.0;")],
            imports: String::new(),
            functions: String::new(),
            init: String::from("(i32.const 1024)"),
            text: String::new(),
            pages: 2,
            packages: Vec::new(),
            wit: Vec::new(),
        }
    }

    pub fn without_lifecycle(mut self) -> Self {
        self.world.clear();
        self
    }

    pub fn init(mut self, body: &str) -> Self {
        body.clone_into(&mut self.init);
        self
    }

    /// The text at address 64.
    pub fn text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    pub fn pages(mut self, pages: usize) -> Self {
        self.pages = pages;
        self
    }

    /// A hook with one parameter, the address of what is asked.
    pub fn hook(mut self, interface: &str, function: &str, body: &str) -> Self {
        self.world.push(format!("export mqgate:plugin/{interface}@1.0.0;"));
        let _ = writeln!(
            self.functions,
            "(func (export \"mqgate:plugin/{interface}@1.0.0#{function}\") (param i32) (result i32) {body})"
        );
        self
    }

    pub fn authenticator(self, body: &str) -> Self {
        self.hook("authenticator", "authenticate", body)
    }

    /// A hook with any signature.
    pub fn export(mut self, interface: &str, function: &str, signature: &str, body: &str) -> Self {
        self.world.push(format!("export mqgate:plugin/{interface}@1.0.0;"));
        let _ = writeln!(
            self.functions,
            "(func (export \"mqgate:plugin/{interface}@1.0.0#{function}\") {signature} {body})"
        );
        self
    }

    pub fn import(mut self, interface: &str, function: &str, name: &str, signature: &str) -> Self {
        let line = format!("import mqgate:plugin/{interface}@1.0.0;");
        if !self.world.contains(&line) {
            self.world.push(line);
        }
        let _ = writeln!(
            self.imports,
            "(import \"mqgate:plugin/{interface}@1.0.0\" \"{function}\" (func ${name} {signature}))"
        );
        self
    }

    /// A core import as it is, for what is not of the package.
    pub fn raw_import(mut self, module: &str, function: &str, name: &str, signature: &str) -> Self {
        let _ = writeln!(self.imports, "(import \"{module}\" \"{function}\" (func ${name} {signature}))");
        self
    }

    /// Imports an interface of another package, which has one function: `wasi:cli/environment@0.2.0`.
    pub fn foreign(mut self, name: &str) -> Self {
        let (package, interface) = name.split_once('/').expect("package and interface");
        let (interface, version) = interface.split_once('@').expect("a version");
        self.packages.push(format!("package {package}@{version}; interface {interface} {{ f: func(); }}"));
        self.world(&format!("import {name};")).raw_import(name, "f", "foreign", "")
    }

    /// A function that is not exported.
    pub fn function(mut self, text: &str) -> Self {
        self.functions.push_str(text);
        self
    }

    /// Builds against a changed package.
    pub fn wit(mut self, from: &str, to: &str) -> Self {
        self.wit.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Lines of the world, for what has no core function.
    pub fn world(mut self, line: &str) -> Self {
        self.world.push(line.to_owned());
        self
    }

    pub fn build(self) -> Vec<u8> {
        let has_lifecycle = self.world.iter().any(|line| line.contains("lifecycle"));
        let lifecycle = if has_lifecycle {
            format!(
                "(func (export \"mqgate:plugin/lifecycle@1.0.0#init\") (param {}) (result i32) {})",
                "i32 ".repeat(INIT_PARAMETERS),
                self.init
            )
        } else {
            String::new()
        };
        let mut module = format!(
            "(module {imports}
               (memory (export \"memory\") {pages})
               (global $next (mut i32) (i32.const 8192))
               (global $calls (mut i32) (i32.const 0))
               (data (i32.const 64) \"{text}\")
               (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (local $at i32)
                 (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                 (global.set $next (i32.add (local.get $at) (local.get 3)))
                 (local.get $at))
               {lifecycle}
               {functions})",
            imports = self.imports,
            pages = self.pages,
            text = self.text,
            functions = self.functions,
        );
        let mut world = format!("package test:guest; world guest {{ {} }}", self.world.join("\n"));
        let folder = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(wit_folder()).expect("wit/").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "wit") {
                let mut source = std::fs::read_to_string(entry.path()).expect("a file of wit/");
                for (from, to) in &self.wit {
                    source = source.replace(from, to);
                }
                std::fs::write(folder.path().join(entry.file_name()), source).expect("writes");
            }
        }
        for (from, to) in self.wit.iter().filter(|(from, _)| from.contains("1.0.0")) {
            // A changed version is one of the whole package.
            let version =
                |text: &str| text.rsplit('@').next().unwrap_or_default().trim_end_matches(';').to_owned();
            let (from, to) = (format!("@{}", version(from)), format!("@{}", version(to)));
            world = world.replace(&from, &to);
            module = module.replace(&from, &to);
        }
        let mut resolve = wit_parser::Resolve::default();
        resolve.push_dir(folder.path()).expect("the package resolves");
        for package in &self.packages {
            resolve.push_str("foreign.wit", package).expect("the other package resolves");
        }
        let package = resolve.push_str("guest.wit", &world).expect("the world resolves");
        let world = resolve.select_world(&[package], Some("guest")).expect("the world is there");
        let mut module = wat::parse_str(&module).unwrap_or_else(|error| panic!("{error}\n{module}"));
        wit_component::embed_component_metadata(
            &mut module,
            &resolve,
            world,
            wit_component::StringEncoding::UTF8,
            false,
        )
        .expect("metadata fits");
        wit_component::ComponentEncoder::default()
            .module(&module)
            .expect("the module fits the world")
            .validate(true)
            .encode()
            .expect("encodes")
    }
}

pub fn wit_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit"))
}

/// Body of a hook that answers `err(transient(text))` with `length` bytes from address 64.
pub fn transient(length: usize) -> String {
    format!(
        "(i32.store8 (i32.const 2048) (i32.const 1)) (i32.store8 (i32.const 2052) (i32.const 0))
         (i32.store (i32.const 2056) (i32.const 64)) (i32.store (i32.const 2060) (i32.const {length}))
         (i32.const 2048)"
    )
}

/// Body of `authenticate` that accepts with `length` bytes from address 64 as device id.
pub fn accept(length: usize) -> String {
    format!(
        "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store8 (i32.const 2052) (i32.const 0))
         (i32.store (i32.const 2056) (i32.const 64)) (i32.store (i32.const 2060) (i32.const {length}))
         (i32.const 2048)"
    )
}

/// A plugin that accepts everyone as the device `id`.
pub fn accepts_as(id: &str) -> Vec<u8> {
    Guest::new().text(id).authenticator(&accept(id.len())).build()
}
