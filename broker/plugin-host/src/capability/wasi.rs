//! WASI 0.2, as far as operators grant it: `wasi:http` with the parts of `wasi:io` that it needs, clocks, randomness.
//!
//! Written here and not taken from a library of all of WASI: what a plugin is not granted is then not in the broker, an
//! answer of a server is whole before a plugin sees it, and nothing goes on when a call has ended. Handles live in
//! the table of their instance, which is bounded; an instance that leaves some behind takes no further call.

mod answers;
mod clock;
mod io;
mod random;
mod requests;

use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::{HasSelf, Linker, ResourceTable};

use crate::instance::StoreState;
use crate::settings::{Capability, Grants};

/// Handles that an instance may have at once.
const MAX_HANDLES: usize = 256;
/// The part of what is left of a call in which a plugin can still act on an answer that did not come.
const KEPT_BACK: u32 = 10;

pub(crate) mod bindings {
    //! Generated from `wit/deps`.

    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package mqgate:host-wasi;
            world granted {
                import wasi:io/error@0.2.12;
                import wasi:io/poll@0.2.12;
                import wasi:io/streams@0.2.12;
                import wasi:clocks/monotonic-clock@0.2.12;
                import wasi:clocks/wall-clock@0.2.12;
                import wasi:random/random@0.2.12;
                import wasi:random/insecure@0.2.12;
                import wasi:random/insecure-seed@0.2.12;
                import wasi:http/types@0.2.12;
                import wasi:http/outgoing-handler@0.2.12;
            }
        ",
        imports: {
            // Everything else is answered at once.
            "wasi:io/poll.poll": async | trappable,
            "wasi:io/poll.[method]pollable.block": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:io/error.error": crate::capability::wasi::io::IoError,
            "wasi:io/poll.pollable": crate::capability::wasi::io::Pollable,
            "wasi:io/streams.input-stream": crate::capability::wasi::io::InputStream,
            "wasi:io/streams.output-stream": crate::capability::wasi::io::OutputStream,
            "wasi:http/types.fields": crate::capability::wasi::requests::Fields,
            "wasi:http/types.outgoing-request": crate::capability::wasi::requests::OutgoingRequest,
            "wasi:http/types.outgoing-body": crate::capability::wasi::requests::OutgoingBody,
            "wasi:http/types.request-options": crate::capability::wasi::requests::RequestOptions,
            "wasi:http/types.future-incoming-response": crate::capability::wasi::answers::PendingAnswer,
            "wasi:http/types.incoming-response": crate::capability::wasi::answers::IncomingResponse,
            "wasi:http/types.incoming-body": crate::capability::wasi::answers::IncomingBody,
            "wasi:http/types.future-trailers": crate::capability::wasi::answers::FutureTrailers,
        },
    });
}

/// What an instance has of WASI.
pub(crate) struct Wasi {
    table: ResourceTable,
    began: Instant,
    /// The end of the call, or of the trial.
    ends: Instant,
}

impl Wasi {
    pub(crate) fn new(most: Duration) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let began = Instant::now();
        Self { table, began, ends: began + most }
    }

    pub(crate) fn begin_call(&mut self, most: Duration) {
        self.ends = Instant::now() + most;
    }

    /// Nothing is left of a call.
    pub(crate) fn is_idle(&self) -> bool {
        self.table.is_empty()
    }

    /// When an answer comes too late. The rest of the call is for the plugin to say so.
    fn deadline(&self) -> Instant {
        let left = self.ends.saturating_duration_since(Instant::now());
        self.ends.checked_sub(left / KEPT_BACK).unwrap_or(self.ends)
    }
}

/// Defines what the grants allow, and nothing else.
pub(crate) fn link(linker: &mut Linker<StoreState>, grants: &Grants) -> wasmtime::Result<()> {
    use bindings::wasi::{clocks, http, io, random};
    type Host = HasSelf<StoreState>;
    let (with_http, with_clock) = (grants.has(Capability::Http), grants.has(Capability::Clock));
    if with_http || with_clock {
        io::poll::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    if with_http {
        io::error::add_to_linker::<StoreState, Host>(linker, |state| state)?;
        io::streams::add_to_linker::<StoreState, Host>(linker, |state| state)?;
        http::types::add_to_linker::<StoreState, Host>(linker, |state| state)?;
        http::outgoing_handler::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    if with_clock {
        clocks::monotonic_clock::add_to_linker::<StoreState, Host>(linker, |state| state)?;
        clocks::wall_clock::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    if grants.has(Capability::Random) {
        random::random::add_to_linker::<StoreState, Host>(linker, |state| state)?;
        random::insecure::add_to_linker::<StoreState, Host>(linker, |state| state)?;
        random::insecure_seed::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    Ok(())
}
