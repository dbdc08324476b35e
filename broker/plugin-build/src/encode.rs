//! Turns a core module with WIT metadata into a component and refuses one that wants more than mqgate
//! offers. Works in memory; knows no files and no compiler.

use anyhow::{Result, anyhow, ensure};
use wit_component::{ComponentEncoder, DecodedWasm};

/// Everything a plugin may import belongs to these packages.
const PACKAGES: [&str; 5] = ["mqgate:plugin/", "wasi:http/", "wasi:io/", "wasi:clocks/", "wasi:random/"];

pub struct Encoded {
    pub bytes: Vec<u8>,
    /// Names of the imported interfaces, for example `mqgate:plugin/log@0.1.0`.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

/// Encodes `module`, the output of the compiler for `wasm32-unknown-unknown`.
pub fn component(module: &[u8]) -> Result<Encoded> {
    let mut encoder = ComponentEncoder::default();
    let encoded = encoder.validate(true).module(module).and_then(ComponentEncoder::encode);
    let bytes = encoded.map_err(|error| anyhow!("{error:#}"))?;
    let decoded = wit_component::decode(&bytes).map_err(|error| anyhow!("{error:#}"))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(anyhow!("the encoder did not make a component"));
    };
    let world = &resolve.worlds[world];
    let names =
        |keys: Vec<_>| -> Vec<String> { keys.into_iter().map(|key| resolve.name_world_key(key)).collect() };
    let imports = names(world.imports.keys().collect());
    let exports = names(world.exports.keys().collect());

    let foreign: Vec<&str> = imports
        .iter()
        .map(String::as_str)
        .filter(|name| !PACKAGES.iter().any(|one| name.starts_with(one)))
        .collect();
    ensure!(
        foreign.is_empty(),
        "the component imports {}, which the broker does not offer",
        foreign.join(", ")
    );
    ensure!(exports.len() > 1, "the component exports no hook (only {})", exports.join(", "));
    Ok(Encoded { bytes, imports, exports })
}
