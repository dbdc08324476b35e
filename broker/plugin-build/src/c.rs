//! C: bindings made from the project's world, compiled with zig, which is clang, wasm-ld and wasi-libc in one file
//! for every machine. What the C library wants of WASI is answered by [`crate::wasi`]. Tests of a project: [`native`].

pub mod native;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use wit_bindgen_core::Files;

use crate::embedded;
use crate::progress::Progress;
use crate::run::run;
use crate::wasi;
use crate::wheel::ZIG;
use crate::world;

/// As for Rust: a small stack halves the cost of a fresh instance.
const FLAGS: [&str; 11] = [
    "cc",
    "--target=wasm32-wasi",
    "-mexec-model=reactor",
    "-std=c17",
    "-Os",
    "-s",
    "-Wall",
    "-Wextra",
    // The generated bindings have some.
    "-Wno-unused-parameter",
    "-Wl,-z,stack-size=65536",
    "-fno-strict-aliasing",
];

#[derive(Debug)]
pub struct Compiler {
    zig: PathBuf,
    cache: PathBuf,
}

impl Compiler {
    pub fn find(progress: &Progress<'_>) -> Result<Self> {
        let folder = ZIG.folder(progress)?;
        Ok(Self { zig: folder.join(ZIG.holds), cache: folder.with_extension("cache") })
    }

    /// Compiles `src/*.c` of `project` with bindings for the world in `wit`.
    pub fn build(&self, project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let generated = bindings(wit, work)?;
        let sources = sources(&project.join("src"))?;
        let core = work.join("core.wasm");
        let mut zig = Command::new(&self.zig);
        zig.args(FLAGS).arg("-I").arg(project.join("src")).arg("-I").arg(&generated);
        // Paths end up in assertions, and differ from machine to machine.
        zig.arg(format!("-ffile-prefix-map={}=/plugin", project.display()));
        // The object holds the world; the encoder reads it from the module.
        zig.args(&sources).arg(generated.join("plugin.c")).arg(generated.join("plugin_component_type.o"));
        zig.arg("-o").arg(&core);
        self.caches(&mut zig, work);
        run(&mut zig, "the C compiler", progress)?;
        wasi::component(&fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?)
    }

    /// The C library is compiled once, by the first build of all.
    fn caches(&self, zig: &mut Command, work: &Path) {
        zig.env("ZIG_GLOBAL_CACHE_DIR", &self.cache).env("ZIG_LOCAL_CACHE_DIR", work.join("zig-cache"));
    }
}

/// Writes plugin.h and plugin.c for the world in `wit`, and what is ours beside them. The folder.
pub fn bindings(wit: &Path, work: &Path) -> Result<PathBuf> {
    let (mut resolve, world) = world::read(wit)?;
    let generated = work.join("c");
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)
        .map_err(|error| anyhow::anyhow!("bindings for C: {error:#}"))?;
    fs::create_dir_all(&generated).with_context(|| format!("cannot create {}", generated.display()))?;
    for (name, bytes) in files.iter() {
        fs::write(generated.join(name), bytes)?;
    }
    for (name, text) in embedded::SUPPORT {
        if let Some(name) = name.strip_prefix("c/") {
            fs::write(generated.join(name), text)?;
        }
    }
    Ok(generated)
}

/// The C sources of a folder; none is an error.
pub fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("c")))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "{} holds no C source", folder.display());
    Ok(files)
}
