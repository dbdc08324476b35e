//! `wasi:random`: the secure source for all three interfaces, so that nobody can pick the wrong one.

use super::bindings::wasi::random::{insecure, insecure_seed, random};
use crate::instance::StoreState;
use crate::metrics::{HostCallResult, Interface};
use crate::tap::HostCall;

/// Bytes in one call.
const MAX_RANDOM: u64 = 64 << 10;

impl StoreState {
    fn random(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        // An answer that depends on chance is another one the next time.
        self.consulted = true;
        let outcome = self.fill(length);
        let result = if outcome.is_ok() { HostCallResult::Ok } else { HostCallResult::Error };
        self.services.metrics.host_call(Interface::Random, result);
        if let Ok(bytes) = &outcome {
            self.heard(|| HostCall::Random { bytes: bytes.clone() });
        }
        outcome
    }

    fn fill(&self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > MAX_RANDOM {
            wasmtime::bail!("{length} random bytes at once; there are {MAX_RANDOM}");
        }
        let mut bytes = vec![0; usize::try_from(length)?];
        self.services.outside.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> wasmtime::Result<u64> {
        let bytes = self.random(8)?;
        Ok(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}

impl random::Host for StoreState {
    fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random(length)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.number()
    }
}

impl insecure::Host for StoreState {
    fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random(length)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.number()
    }
}

impl insecure_seed::Host for StoreState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.number()?, self.number()?))
    }
}
