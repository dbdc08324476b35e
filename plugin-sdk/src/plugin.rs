//! The traits a plugin implements. Everything is passed in: a plugin holds its configuration and nothing
//! that a call could change, because the broker makes and drops instances as it likes.

use crate::host::Host;
use crate::types::{
    AuditEvent, Authentication, AuthenticationStep, Authorization, Connection, Exchange, HookError, Identity,
    InitError, PluginContext, RegistrationDecision,
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

/// Says who a client is that asked for enhanced authentication, step by step. What a step has to remember goes into the
/// challenge's state and comes back with the next one.
pub trait EnhancedAuthenticator: Plugin {
    /// The Authentication Methods it serves; asked once, before the plugin goes live.
    fn methods(&self) -> Vec<String>;

    fn step<H: Host>(
        &self,
        on: &Connection,
        exchange: &Exchange,
        host: &H,
    ) -> Result<AuthenticationStep, HookError>;
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

/// A self-test. It runs once, after the trial `init`, before a new version or new settings go live; with an error they do not.
/// A plugin has it beside another hook.
pub trait Health: Plugin {
    fn check<H: Host>(&self, host: &H) -> Result<(), String>;
}
