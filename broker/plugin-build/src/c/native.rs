//! Tests of a plugin in C, on this machine: `test/*.c` and `src/*.c` with the bindings, by the machine's own compiler, or by
//! zig where there is none. The runner is `support/c/mqgate_test.c`.
//!
//! The bindings call the broker through functions that only a component can import. Here they are defined to end a test that
//! comes there, and the functions in front of them are weak: a test defines those its plugin calls.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Compiler, bindings, sources};
use crate::progress::Progress;
use crate::run::{on_path, run};

const FLAGS: [&str; 6] = ["-std=c17", "-g", "-O1", "-Wall", "-Wextra", "-fno-strict-aliasing"];
/// Functions of the bindings that the runner serves.
const SERVED: &str = "__wasm_import_mqgate_plugin_log_";

/// Whether a project has such tests.
pub fn has_tests(project: &Path) -> bool {
    sources(&project.join("test")).is_ok()
}

/// Compiles and runs them. What they said.
pub fn test(project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<String> {
    let generated = bindings(wit, work)?;
    let read = |name: &str| {
        let file = generated.join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    fs::write(generated.join("weak.h"), weak(&read("plugin.h")?))?;
    fs::write(generated.join("broker.c"), absent(&read("plugin.c")?))?;

    let folder = work.join("test");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (object, program) = (folder.join("plugin.o"), folder.join("tests"));
    let compiler = Native::find(progress)?;
    let mut compile = compiler.command(work);
    // Nobody can do anything about warnings of generated code.
    compile.args(FLAGS).args(["-w", "-include"]).arg(generated.join("weak.h"));
    compile.arg("-c").arg(generated.join("plugin.c")).arg("-o").arg(&object);
    run(&mut compile, "the C compiler", progress)?;

    let mut link = compiler.command(work);
    link.args(FLAGS).arg("-Wno-unused-parameter");
    for include in [&project.join("src"), &project.join("test"), &generated] {
        link.arg("-I").arg(include);
    }
    link.args(sources(&project.join("src"))?).args(sources(&project.join("test"))?);
    link.arg(generated.join("broker.c")).arg(generated.join("mqgate_test.c")).arg(&object);
    link.arg("-o").arg(&program);
    run(&mut link, "the C compiler", progress)?;

    let mut tests = Command::new(&program);
    tests.current_dir(project);
    if env::var_os("ASAN_OPTIONS").is_none() {
        // An instance lives for few calls; what it does not free is no fault.
        tests.env("ASAN_OPTIONS", "detect_leaks=0");
    }
    run(&mut tests, "tests in C", progress)
}

/// What compiles for this machine.
struct Native {
    program: Vec<String>,
    /// Words of `CFLAGS`: for sanitizers, above all.
    flags: Vec<String>,
    zig: Option<Compiler>,
}

impl Native {
    /// `CC`, or the machine's own compiler, or zig.
    fn find(progress: &Progress<'_>) -> Result<Self> {
        let words = |name: &str| -> Vec<String> {
            let text = env::var(name).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let flags = words("CFLAGS");
        let chosen = words("CC");
        if !chosen.is_empty() {
            return Ok(Self { program: chosen, flags, zig: None });
        }
        if on_path("cc").is_some() {
            return Ok(Self { program: vec!["cc".to_owned()], flags, zig: None });
        }
        let zig = Compiler::find(progress)?;
        Ok(Self { program: vec![zig.zig.display().to_string(), "cc".to_owned()], flags, zig: Some(zig) })
    }

    fn command(&self, work: &Path) -> Command {
        let (program, arguments) = self.program.split_first().expect("it is never empty");
        let mut command = Command::new(program);
        command.args(arguments).args(&self.flags);
        if let Some(zig) = &self.zig {
            zig.caches(&mut command, work);
        }
        command
    }
}

/// Makes weak what the bindings define for the plugin to call.
fn weak(header: &str) -> String {
    let mut text = String::from("// What a test defines itself takes the place of these.\n");
    for name in header.lines().filter_map(|line| function(line.strip_prefix("extern ")?)) {
        writeln!(text, "#pragma weak {name}").expect("a String takes everything");
    }
    text
}

/// Defines what the bindings import, but for what the runner serves.
fn absent(bindings: &str) -> String {
    let mut text = String::from(
        "// The broker's side, which is not here: a test defines what its plugin calls.\n\
         #include <stdio.h>\n#include <stdlib.h>\n\n\
         static void absent(const char *name) {\n  \
         printf(\"        the plugin called %s; the test has to define it\\n\", name);\n  \
         fflush(stdout);\n  _Exit(1);\n}\n\n",
    );
    let imported = bindings.lines().filter_map(|line| function(line.strip_prefix("extern ")?));
    for name in imported.filter(|name| !name.starts_with(SERVED)) {
        let shown = name.strip_prefix("__wasm_import_").unwrap_or(name);
        writeln!(text, "void {name}(void);\nvoid {name}(void) {{ absent(\"{shown}\"); }}")
            .expect("a String takes everything");
    }
    text
}

/// The name of the function that a line declares.
fn function(line: &str) -> Option<&str> {
    let before = line.strip_suffix(';')?.split_once('(')?.0.trim_end();
    let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    Some(&before[start..]).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_bindings_are_found_by_their_declarations() {
        let header = "extern \"C\" {\n\
                      extern bool mqgate_plugin_log_enabled(mqgate_plugin_log_level_t level);\n\
                      extern wasi_io_own_t *wasi_io_new(void);\n\
                      bool exports_mqgate_plugin_health_check(plugin_string_t *err);\n\
                      typedef struct x { int y; } x;\n";
        assert_eq!(
            weak(header).lines().skip(1).collect::<Vec<_>>(),
            ["#pragma weak mqgate_plugin_log_enabled", "#pragma weak wasi_io_new"]
        );
    }

    #[test]
    fn what_the_runner_serves_is_not_defined_twice() {
        let bindings = "extern int32_t __wasm_import_mqgate_plugin_log_enabled(int32_t);\n\
                        extern void __wasm_import_mqgate_plugin_key_value_get(uint8_t *, size_t, uint8_t *);\n\
                        extern void __component_type_object_force_link_plugin(void);\n";
        let text = absent(bindings);
        assert!(!text.contains("plugin_log"), "{text}");
        assert!(text.contains("absent(\"mqgate_plugin_key_value_get\")"), "{text}");
        assert!(text.contains("void __component_type_object_force_link_plugin(void) {"), "{text}");
    }
}
