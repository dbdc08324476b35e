//! Which hooks a component exports, looked up once; and the functions behind them, once per instance.

use wasmtime::Store;
use wasmtime::component::InstancePre;

use crate::bindings::exports::mqgate::plugin::{
    auditor, authenticator, authorizer, enhanced_authenticator, health, lifecycle, registrar,
};
use crate::hook::Hook;
use crate::instance::{Running, StoreState};

pub(crate) struct HookExports {
    pub(crate) lifecycle: lifecycle::GuestIndices,
    pub(crate) health: Option<health::GuestIndices>,
    pub(crate) authenticator: Option<authenticator::GuestIndices>,
    pub(crate) enhanced_authenticator: Option<enhanced_authenticator::GuestIndices>,
    pub(crate) registrar: Option<registrar::GuestIndices>,
    pub(crate) authorizer: Option<authorizer::GuestIndices>,
    pub(crate) auditor: Option<auditor::GuestIndices>,
}

/// The hooks of an instance that have been asked. To find one again means to compare its type with the broker's, which is
/// a twelfth of what a call costs.
#[derive(Default)]
pub(crate) struct Hooks {
    authenticator: Option<authenticator::Guest>,
    enhanced_authenticator: Option<enhanced_authenticator::Guest>,
    registrar: Option<registrar::Guest>,
    authorizer: Option<authorizer::Guest>,
    auditor: Option<auditor::Guest>,
}

/// A hook, and the store it is called with.
type Callable<'a, G> = wasmtime::Result<(&'a G, &'a mut Store<StoreState>)>;

macro_rules! hook {
    ($hook:ident) => {
        pub(crate) fn $hook<'a>(&self, on: &'a mut Running) -> Callable<'a, $hook::Guest> {
            let Running { store, instance, hooks, .. } = on;
            let guest = match &mut hooks.$hook {
                Some(guest) => guest,
                none => {
                    let indices =
                        self.$hook.as_ref().expect("a plugin is only called through the hooks it exports");
                    none.insert(indices.load(&mut *store, instance)?)
                }
            };
            Ok((guest, store))
        }
    };
}

impl HookExports {
    hook!(authenticator);
    hook!(enhanced_authenticator);
    hook!(registrar);
    hook!(authorizer);
    hook!(auditor);

    /// Looks up what [`crate::inspect`] found; types are compared by [`Self::check_types`].
    pub(crate) fn find(
        pre: &InstancePre<StoreState>,
        hooks: &[Hook],
        has_health: bool,
    ) -> wasmtime::Result<Self> {
        let has = |hook| hooks.contains(&hook);
        Ok(Self {
            lifecycle: lifecycle::GuestIndices::new(pre)?,
            health: has_health.then(|| health::GuestIndices::new(pre)).transpose()?,
            authenticator: has(Hook::Authenticator)
                .then(|| authenticator::GuestIndices::new(pre))
                .transpose()?,
            enhanced_authenticator: has(Hook::EnhancedAuthenticator)
                .then(|| enhanced_authenticator::GuestIndices::new(pre))
                .transpose()?,
            registrar: has(Hook::Registrar).then(|| registrar::GuestIndices::new(pre)).transpose()?,
            authorizer: has(Hook::Authorizer).then(|| authorizer::GuestIndices::new(pre)).transpose()?,
            auditor: has(Hook::Auditor).then(|| auditor::GuestIndices::new(pre)).transpose()?,
        })
    }

    /// Compares the types of all exports with those of this broker, so that no connection is the first to notice.
    pub(crate) fn check_types(&self, running: &mut Running) -> wasmtime::Result<()> {
        let Running { store, instance, .. } = running;
        self.lifecycle.load(&mut *store, instance)?;
        if let Some(health) = &self.health {
            health.load(&mut *store, instance)?;
        }
        if let Some(authenticator) = &self.authenticator {
            authenticator.load(&mut *store, instance)?;
        }
        if let Some(enhanced_authenticator) = &self.enhanced_authenticator {
            enhanced_authenticator.load(&mut *store, instance)?;
        }
        if let Some(registrar) = &self.registrar {
            registrar.load(&mut *store, instance)?;
        }
        if let Some(authorizer) = &self.authorizer {
            authorizer.load(&mut *store, instance)?;
        }
        if let Some(auditor) = &self.auditor {
            auditor.load(&mut *store, instance)?;
        }
        Ok(())
    }
}
