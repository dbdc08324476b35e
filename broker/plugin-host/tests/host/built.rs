//! Components of this repository, where they were built. `cargo xtask test` builds those that its tests ask, and says that a
//! test may not do without.

use std::io::Write as _;
use std::path::PathBuf;

/// The component of this file name. Without it the test that runs on this thread skips itself and says so, but for where
/// `MQGATE_TEST_REQUIRE_TOOLS` is set: there it fails.
pub fn component(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/components")).join(name);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var_os("MQGATE_TEST_REQUIRE_TOOLS").is_some();
    assert!(!required, "{name} was to be built for the tests; `cargo xtask components --all` builds it");
    skip(&format!("{name} was not built; `cargo xtask components --all` builds it"));
    None
}

/// `cargo xtask test` counts what stands in this file.
#[allow(clippy::print_stderr, reason = "a test that does less should say so")]
fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test}: {why}");
    let file = std::env::var_os("MQGATE_TEST_SKIPS");
    if let Some(mut file) =
        file.and_then(|file| std::fs::File::options().append(true).create(true).open(file).ok())
    {
        let _ = writeln!(file, "{test}: {why}");
    }
}
