//! Write mqgate plugins in Rust.

pub mod bindings;
pub mod glue;
pub mod host;
pub mod plugin;
pub mod types;
