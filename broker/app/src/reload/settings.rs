//! Settings that are swapped in one by one: none of it can fail.

use super::{ReloadParts, State};
use crate::config::Config;
use crate::run::{build, extras, posture, revocations};

pub(super) async fn take_over(parts: &ReloadParts, state: &State, config: &Config) {
    if config.crl != state.config.crl {
        // Before anybody is judged by them.
        parts.revocations.configure(revocations::settings(config)).await;
    }
    parts.gate.configure(build::gate_settings(config));
    parts.clock_watch.configure(build::registry::when_wrong(config));
    parts.sharing.configure(build::registry::sharing(config));
    parts.registry.configure(build::registry_settings(config).policy);
    parts.broker.configure(build::limits(config), build::listener_limits(config));
    parts.broker.configure_rates(extras::rates(config));
    parts.live.configure(build::live(config));
    // Who is connected by a listener that is removed is judged as before, until it goes.
    for (name, listener) in &config.listeners {
        parts.live.judge_by(name, build::path_rules(config, name, listener, &parts.trust));
    }
    parts.transitions.configure(config.reload.grace.0);
    parts.bundles.set_limit(config.limits.server_certs as usize);
    if let Err(error) = parts.trust.limit_hints(build::hint_limits(config)) {
        tracing::error!(%error, "clients are told of as many CAs as before");
    }
    if (&config.audit.rules, &config.audit.sinks) != (&state.config.audit.rules, &state.config.audit.sinks) {
        parts.sinks.configure(config);
    }
    parts.known.configure(config);
    if config.audit.checks != state.config.audit.checks {
        parts.posture.configure(posture::settings(config));
    }
    parts.log.set(&config.log.filter);
}
