//! An auditor of the chain as a sink: it gets the log's records as the events that they were.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mqgate_audit::record::Stored;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::{AuditSink, HookSet};

use super::{Item, Outlet, OutletError, OutletFuture};

/// Names of auditors' sinks begin so.
pub(in crate::audit) const PREFIX: &str = "auditor-";

/// The auditor of this name in the hook set of the moment: one that is swapped keeps its place.
pub(in crate::audit) struct Auditor {
    pub(in crate::audit) name: Arc<str>,
    pub(in crate::audit) hooks: Arc<ArcSwap<HookSet>>,
}

impl Auditor {
    fn now(&self) -> Option<Arc<dyn AuditSink>> {
        let hooks = self.hooks.load();
        let member = hooks.members.iter().find(|member| member.name == self.name)?;
        member.auditor.clone()
    }
}

impl Outlet for Auditor {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        Box::pin(async move {
            let Some(auditor) = self.now() else { return Err(OutletError::new("it is there no longer")) };
            // A record of an event that this version does not know, which an older one left, has nothing to tell.
            let event = |item: &Item| {
                Stored { sequence: item.sequence, line: item.line.clone() }.event().map(Arc::new)
            };
            let events: Vec<Arc<AuditEvent>> = items.iter().filter_map(event).collect();
            let last = items.last().map_or(0, |item| item.sequence);
            let Some(last_event) = events.last().map(|event| event.sequence) else { return Ok(last) };
            match auditor.record_events(&events).await {
                Ok(safe) if safe >= last_event => Ok(last),
                Ok(safe) => Ok(safe),
                Err(failure) => {
                    // Perhaps it was too much at once.
                    let problem = format!("{}: {}", failure.kind.as_str(), failure.detail);
                    Err(OutletError { is_too_much: items.len() > 1, ..OutletError::new(problem) })
                }
            }
        })
    }

    fn is_there(&self) -> bool {
        self.now().is_some()
    }
}
