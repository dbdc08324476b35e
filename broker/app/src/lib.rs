//! The program `mqgate`: configuration, command line and wiring. The only crate that reads files of
//! configuration, the environment and arguments; what a command does lives in the libraries.

pub mod config;
pub mod native;
