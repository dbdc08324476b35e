//! What a C library or a language's runtime wants of WASI, answered by a module that does nothing: no files, no
//! clock, no entropy, no environment. The component then imports no WASI but what its world names.

use anyhow::{Context, Result};

use crate::embedded;
use crate::encode;

/// Encodes a core module built for WASI preview 1.
pub fn component(module: &[u8]) -> Result<Vec<u8>> {
    let adapter =
        wat::parse_str(embedded::text(embedded::SUPPORT, "wasi.wat")).context("support/wasi.wat")?;
    encode::component(module, &[("wasi_snapshot_preview1", &adapter)]).context(
        "the core module does not become a component (a function of WASI that it names is not among those of support/wasi.wat, \
         or it is built for another world)",
    )
}
