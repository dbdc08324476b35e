//! The bytes of a component, looked at without trusting them: size, kind, digest, version.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use crate::error::{LoadError, Stage};
use crate::settings::Source;
use crate::store::Store;

/// No component may be larger.
pub(crate) const MAX_COMPONENT_BYTES: u64 = 32 << 20;

const MAGIC: &[u8; 4] = b"\0asm";
/// Version 13, layer 1: a component. A core module has version 1, layer 0.
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];
const MAX_VERSION_BYTES: usize = 64;

/// Bytes that begin as a component does.
#[derive(Clone)]
pub(crate) struct Artifact {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) sha256: [u8; 32],
}

impl Artifact {
    /// Reads the source; blocks.
    pub(crate) fn read_from(source: &Source, store: Option<&Store>) -> Result<Self, LoadError> {
        match source {
            Source::Bytes(bytes) => Self::check(Arc::clone(bytes)),
            Source::Stored(digest) => {
                let store = store.ok_or_else(|| verify(format!("no component {digest} is kept here")))?;
                Self::check(store.read(digest).map_err(verify)?)
            }
            Source::File(path) => {
                let failed = |error: std::io::Error| verify(format!("{}: {error}", path.display()));
                let length = std::fs::metadata(path).map_err(failed)?.len();
                check_size(length)?;
                Self::check(std::fs::read(path).map_err(failed)?.into())
                    .map_err(|error| verify(format!("{}: {}", path.display(), error.message)))
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn read(source: &Source) -> Result<Self, LoadError> {
        Self::read_from(source, None)
    }

    fn check(bytes: Arc<[u8]>) -> Result<Self, LoadError> {
        check_size(bytes.len() as u64)?;
        if Engine::detect_precompiled(&bytes).is_some() {
            return Err(verify(
                "this is machine code that wasmtime compiled earlier (.cwasm).\n\
                 Only components are loaded, because machine code cannot be checked.\n\
                 Load the .wasm file it was made from.",
            ));
        }
        match (bytes.first_chunk::<4>(), bytes.get(4..8)) {
            (Some(MAGIC), Some(version)) if version == COMPONENT_VERSION => {}
            (Some(MAGIC), Some([1, 0, 0, 0])) => {
                return Err(verify(
                    "this is a core WebAssembly module.\n\
                     Plugins are components that export hooks of mqgate:plugin.\n\
                     Build for a component target, or wrap it with `wasm-tools component new`.",
                ));
            }
            _ => {
                return Err(verify(
                    "this is not WebAssembly: it does not begin with \\0asm and the version of a component.\n\
                     Plugins are components that export hooks of mqgate:plugin, in the binary format.\n\
                     Check that the right file was given.",
                ));
            }
        }
        let sha256 = Sha256::digest(&bytes).into();
        Ok(Self { bytes, sha256 })
    }

    /// `sha256:` and 64 hex digits.
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.sha256))
    }

    /// Text of the custom section `version`, as `wasm-tools metadata add --version` writes it.
    pub(crate) fn version(&self) -> Option<String> {
        let mut rest = self.bytes.get(8..)?;
        while let Some((&id, after_id)) = rest.split_first() {
            let (length, body) = read_length(after_id)?;
            let section = body.get(..length)?;
            rest = &body[length..];
            if id == 0
                && let Some((length, named)) = read_length(section)
                && named.get(..length) == Some(b"version")
            {
                let text = std::str::from_utf8(&named[length..]).ok()?;
                let fine = !text.is_empty()
                    && text.len() <= MAX_VERSION_BYTES
                    && text.chars().all(|c| c.is_ascii_graphic());
                return fine.then(|| text.to_owned());
            }
        }
        None
    }
}

fn check_size(length: u64) -> Result<(), LoadError> {
    if length == 0 {
        return Err(verify("the file is empty; a WebAssembly component was expected"));
    }
    if length > MAX_COMPONENT_BYTES {
        return Err(verify(format!(
            "the component has {length} bytes.\n\
             This broker loads components of at most {MAX_COMPONENT_BYTES} bytes.\n\
             Strip debug information with `wasm-tools strip`."
        )));
    }
    Ok(())
}

fn verify(message: impl Into<String>) -> LoadError {
    LoadError::new(Stage::Verify, message)
}

/// An unsigned LEB128 of at most 32 bits.
fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u32;
    for (index, &byte) in bytes.iter().take(5).enumerate() {
        let bits = u32::from(byte & 0x7f);
        value |= bits.checked_mul(1 << (7 * index as u32).min(31))?;
        if byte & 0x80 == 0 {
            return Some((value as usize, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Artifact, LoadError> {
        Artifact::read(&Source::Bytes(bytes.into()))
    }

    #[test]
    fn what_is_not_a_component_is_named() {
        let cases: [(&[u8], &str); 5] = [
            (b"", "empty"),
            (b"\0as", "not WebAssembly"),
            (b"#!/bin/sh\n", "not WebAssembly"),
            (b"\0asm\x01\0\0\0", "core WebAssembly module"),
            (b"\0asm\x0c\0\x01\0", "not WebAssembly"),
        ];
        for (bytes, said) in cases {
            let error = read(bytes).err().expect("refused");
            assert_eq!(error.stage, Stage::Verify);
            assert!(error.message.contains(said), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn the_version_is_read_from_its_section() {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend_from_slice(b"\x00\x06\x04name\x00"); // another custom section
        bytes.extend_from_slice(b"\x00\x0d\x07version1.2.3");
        assert_eq!(read(&bytes).expect("a component").version().as_deref(), Some("1.2.3"));
        for cut in 8..bytes.len() {
            assert_eq!(read(&bytes[..cut]).expect("a component").version(), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Artifact::read(&Source::File("no-such-file.wasm".into())).err().expect("refused");
        assert!(error.message.contains("no-such-file.wasm"), "{error}");
    }
}
