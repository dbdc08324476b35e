//! Lists the files that are part of the binary: the WIT, the Rust SDK and the templates. A list by hand would
//! forget the next file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is"));
    let root = here.ancestors().nth(2).expect("the package lies two folders below the root");
    let mut code = String::new();
    for (name, folder) in [
        ("WIT", root.join("wit")),
        ("SDK", root.join("plugin-sdk")),
        ("TEMPLATES", here.join("templates")),
        ("SUPPORT", here.join("support")),
    ] {
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        collect(&folder, &mut files);
        files.sort();
        writeln!(code, "pub const {name}: &[(&str, &str)] = &[").expect("a String takes everything");
        for file in files {
            let relative = file.strip_prefix(&folder).expect("it was found in there").display().to_string();
            writeln!(code, "    ({relative:?}, include_str!({:?})),", file.display().to_string())
                .expect("a String takes everything");
        }
        code.push_str("];\n");
    }
    for (name, file) in [
        ("PLUGINS_WORKSPACE", "plugins/Cargo.toml"),
        ("PLUGINS_LOCK", "plugins/Cargo.lock"),
        ("LICENSE", "LICENSE"),
    ] {
        let file = root.join(file).display().to_string();
        println!("cargo::rerun-if-changed={file}");
        writeln!(code, "pub const {name}: &str = include_str!({file:?});")
            .expect("a String takes everything");
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo says where to write"));
    fs::write(out.join("embedded.rs"), code).expect("the folder for generated code can be written");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // What builds and editors leave behind.
        if name.starts_with("target") || name.starts_with('.') || name == "__pycache__" || name.ends_with('~')
        {
            continue;
        }
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
