//! Turns a plugin project into a component. Owns the tool chains of each language, where they come from, and
//! what is checked about a component before anybody loads it. Knows no broker.
//!
//! Errors are `anyhow`'s: all that ever happens to one here is that a person reads it, and does something about it.

mod c;
mod embedded;
pub mod encode;
pub mod files;
mod go;
mod javascript;
pub mod manifest;
mod native;
pub mod progress;
pub mod project;
mod python;
mod run;
pub mod rust;
pub mod template;
mod typescript;
mod wasi;
mod wheel;
mod world;
