//! What is measured of a process, where no other test adds to it.

use std::process::Command;

const ALONE: &str = "MQGATE_TEST_ALONE";

/// Whether this process runs `test` (its path in this binary) and nothing else. Otherwise one has done so, and passed.
pub fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("it was started");
    let arguments = ["--exact", test, "--include-ignored", "--nocapture"];
    let ran = Command::new(this).args(arguments).env(ALONE, "1").output().expect("it starts");
    let (told, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && told.contains(" 1 passed"), "{}: {told}{errors}", ran.status);
    false
}

/// Memory of this process.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize =
        statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}
