//! Write mqgate plugins in Rust.
//!
//! A plugin is a type that implements [`plugin::Plugin`] and one or more hooks, and is exported with
//! [`export_plugin!`]. It works on plain values: the tests of a plugin call it directly, without WebAssembly,
//! with the host of [`testing`].
//!
//! ```
//! use mqgate_plugin_sdk::certificate::Field;
//! use mqgate_plugin_sdk::host::Host;
//! use mqgate_plugin_sdk::plugin::{Authenticator, Plugin};
//! use mqgate_plugin_sdk::types::*;
//! use mqgate_plugin_sdk::{config, export_plugin};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(rename_all = "kebab-case", deny_unknown_fields)]
//! struct OnlyUnit {
//!     unit: String,
//! }
//!
//! impl Plugin for OnlyUnit {
//!     fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
//!         config::parse(context)
//!     }
//! }
//!
//! impl Authenticator for OnlyUnit {
//!     fn authenticate<H: Host>(&self, on: &Connection, _: &H) -> Result<Authentication, HookError> {
//!         let Some(certificate) = &on.certificate else { return Ok(Authentication::Abstain) };
//!         match Field::Ou.values(certificate) {
//!             Ok(units) if units.iter().any(|unit| *unit == self.unit) => Ok(Authentication::Abstain),
//!             _ => Ok(Authentication::Deny(Denial::new(ConnackReason::NotAuthorized, "another unit"))),
//!         }
//!     }
//! }
//!
//! export_plugin!(OnlyUnit: authenticator);
//!
//! # use mqgate_plugin_sdk::testing::*;
//! let host = MemoryHost::default();
//! let plugin = OnlyUnit::init(&context(r#"{"unit": "meters"}"#), &host).unwrap();
//! let guest = connection(Some(certificate(&[("cn", "x"), ("ou", "guests")])));
//! assert!(matches!(plugin.authenticate(&guest, &host), Ok(Authentication::Deny(_))));
//! ```
//!
//! The component imports what the plugin calls and nothing else, so its import list is an honest list of the
//! grants it needs. The time of a connection comes in with the hook's arguments; a clock of its own needs a grant.

pub mod access;
#[doc(hidden)]
pub mod bindings;
pub mod certificate;
pub mod config;
#[doc(hidden)]
pub mod glue;
pub mod host;
pub mod http;
#[cfg(all(feature = "allocator", target_arch = "wasm32"))]
#[allow(unsafe_code, reason = "an allocator is unsafe to the compiler")]
mod memory;
pub mod pattern;
pub mod plugin;
pub mod rate;
pub mod select;
#[cfg(any(test, all(feature = "allocator", target_arch = "wasm32")))]
#[allow(unsafe_code, reason = "as above")]
mod shelves;
pub mod template;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod types;
