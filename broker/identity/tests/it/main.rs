//! Certificates made by rcgen and by the openssl command line, read and judged.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says where it fails")]

mod differential;
mod edge_cases;
mod entry;
mod facts;
mod fuzz;
mod lists;
mod openssl;
mod paths;
mod pki;
mod policies;
mod registry;
mod rules;
mod transitions;
mod work;
