//! `wasi:clocks`, in whole milliseconds: finer ones measure what other plugins and clients do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Resource;

use super::bindings::wasi::clocks::{monotonic_clock, wall_clock};
use super::io::Pollable;
use crate::instance::StoreState;
use crate::metrics::{HostCallResult, Interface};
use crate::tap::HostCall;

const NANOSECONDS_OF_ONE: u32 = 1_000_000;

impl StoreState {
    fn look_at_the_clock(&mut self) {
        // What was said at one time may be otherwise at another.
        self.consulted = true;
        self.services.metrics.host_call(Interface::Clock, HostCallResult::Ok);
    }

    /// Rings when so much has passed since the instance began, or at the end of the call.
    fn timer(&mut self, when: Duration) -> wasmtime::Result<Resource<Pollable>> {
        self.look_at_the_clock();
        let outside = Arc::clone(&self.services.outside);
        let left = when.saturating_sub(outside.passed(self.wasi.began));
        let at = Instant::now().checked_add(left).unwrap_or(self.wasi.ends).min(self.wasi.ends);
        Ok(self.wasi.table.push(Pollable::Timer { at, until: when, outside })?)
    }
}

impl monotonic_clock::Host for StoreState {
    /// Since the instance began.
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.look_at_the_clock();
        let passed = u64::try_from(self.services.outside.passed(self.wasi.began).as_millis())?;
        Ok(passed.saturating_mul(u64::from(NANOSECONDS_OF_ONE)))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::from(NANOSECONDS_OF_ONE))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<Pollable>> {
        self.timer(Duration::from_nanos(when))
    }

    fn subscribe_duration(&mut self, length: u64) -> wasmtime::Result<Resource<Pollable>> {
        let passed = self.services.outside.passed(self.wasi.began);
        self.timer(passed.saturating_add(Duration::from_nanos(length)))
    }
}

impl wall_clock::Host for StoreState {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        self.look_at_the_clock();
        let now = self.services.outside.now();
        self.heard(|| HostCall::Clock { now });
        let now = now.0;
        let nanoseconds = u32::try_from(now % 1000)? * NANOSECONDS_OF_ONE;
        Ok(wall_clock::Datetime { seconds: now / 1000, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: NANOSECONDS_OF_ONE })
    }
}
