//! The traits a plugin implements. Everything is passed in: a plugin holds its configuration and nothing
//! that a call could change, because the broker makes and drops instances as it likes.

use crate::host::Host;
use crate::types::{
    AuditEvent, Authentication, Authorization, Connection, HookError, Identity, InitError, PluginContext,
    RegistrationDecision,
};

/// What every plugin has. Made once per instance, before any hook is called.
pub trait Plugin: Sized {
    /// Reads the configuration. An error keeps the plugin from going live, and the operator reads why.
    fn init<H: Host>(context: &PluginContext, host: &H) -> Result<Self, InitError>;
}

/// Says who a client is.
pub trait Authenticator: Plugin {
    fn authenticate<H: Host>(&self, on: &Connection, host: &H) -> Result<Authentication, HookError>;
}

/// Decides whether an unknown certificate becomes a registered device.
pub trait Registrar: Plugin {
    /// `claimed` is what the authenticators found, if anything.
    fn register<H: Host>(
        &self,
        on: &Connection,
        claimed: Option<&Identity>,
        host: &H,
    ) -> Result<RegistrationDecision, HookError>;
}

/// Says what an identified client may do.
pub trait Authorizer: Plugin {
    fn authorize<H: Host>(
        &self,
        on: &Connection,
        who: &Identity,
        host: &H,
    ) -> Result<Authorization, HookError>;
}

/// Receives what happened, in batches, after the fact.
pub trait Auditor: Plugin {
    /// Returns the sequence number up to which events are safe; later ones are delivered again.
    fn record_events<H: Host>(&self, events: &[AuditEvent], host: &H) -> Result<u64, HookError>;
}
