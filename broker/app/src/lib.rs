//! The program `mqgate`: configuration, command line and wiring. The only crate that reads files of
//! configuration, the environment and arguments; what a command does lives in the libraries.

pub mod admin;
pub mod audit;
pub mod bridge;
pub mod cli;
pub mod components;
pub mod config;
pub mod exit;
pub mod native;
pub mod pki;
pub mod reload;
pub mod run;
mod secret;
