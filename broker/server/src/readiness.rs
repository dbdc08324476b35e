//! Whether the broker may take new connections, and why not: asked by listeners and by `/ready`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mqgate_identity::hooks::HookSet;

use crate::audit::AuditLog;
use crate::registry::Registry;

/// What has to work before a listener opens.
pub struct Readiness {
    hooks: Arc<ArcSwap<HookSet>>,
    audit: Arc<AuditLog>,
    registry: Option<Arc<Registry>>,
}

impl Readiness {
    pub fn new(hooks: Arc<ArcSwap<HookSet>>, audit: Arc<AuditLog>, registry: Option<Arc<Registry>>) -> Self {
        Self { hooks, audit, registry }
    }

    /// One sentence for each obstacle; empty when ready.
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        for (name, why) in &self.hooks.load().missing {
            obstacles.push(format!("the required plugin \"{name}\" is not live: {why}"));
        }
        if let Err(refused) = self.audit.check() {
            obstacles.push(refused.to_string());
        }
        if self.registry.as_ref().is_some_and(|registry| !registry.is_healthy()) {
            obstacles.push("the registry's storage is unavailable".to_owned());
        }
        obstacles
    }
}
