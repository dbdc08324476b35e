//! What the binary carries so that a project builds without this repository: the WIT, the Rust SDK, the templates
//! and what tool chains need of us. `build.rs` lists the files; each is its path within its folder, and its text.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The text of one file.
pub fn text(files: &'static [(&'static str, &'static str)], path: &str) -> &'static str {
    let found = files.iter().find(|(name, _)| *name == path);
    found.unwrap_or_else(|| panic!("{path} is part of the binary")).1
}
