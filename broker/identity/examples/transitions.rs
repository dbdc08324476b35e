//! Prints the tables of `docs/registry.md`: `cargo run -p mqgate-identity --example transitions`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for the terminal")]
#![allow(dead_code, unused_imports, reason = "the tests use the rest")]

#[path = "../tests/it/pki.rs"]
mod pki;
#[path = "../tests/it/registry.rs"]
mod registry;
#[path = "../tests/it/transitions/mod.rs"]
mod transitions;

use crate::transitions::every_code;
use crate::transitions::table::{ca_cells, codes_markdown, device_cells, markdown};

fn main() {
    println!("{}", markdown(&device_cells()));
    println!("{}", markdown(&ca_cells()));
    println!("{}", codes_markdown(&every_code()));
}
