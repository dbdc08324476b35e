//! Takes a change over: everything that can fail is made ready beside what is in force, then swapped in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, to_pem};
use mqgate_identity::hooks::ChainMember;
use mqgate_identity::time::UnixMillis;
use mqgate_server::admin::ADMIN_TLS;
use mqgate_server::clock;
use mqgate_server::tls::TlsSet;
use mqgate_server::trust::BoundAnchor;
use serde_json::Value;

use super::files::{Contents, of_admin};
use super::impact::{Concerned, Impact, Obstacle, Rules, concerned};
use super::ledger::{Material, Transition, new_id};
use super::material::{self, Pair, Term};
use super::overrides::{self, Overrides};
use super::plan::{Change, Effect};
use super::transitions::{anchors as anchors_of, server_certificates_of};
use super::{Begun, Disconnect, Done, ReloadError, ReloadParts, Report, Request, State};
use crate::config::{Config, model};
use crate::run::paths::path_policy;
use crate::run::{admin_tls, build, builtin, chain, listeners};

/// What is to be in force.
pub(super) struct Next {
    pub config: Config,
    pub changes: Vec<Change>,
    pub files: Vec<PathBuf>,
    pub contents: Contents,
    pub overrides: Overrides,
}

/// Everything that could fail without being done.
struct Ready {
    listeners: listeners::Next,
    anchors: Vec<BoundAnchor>,
    /// CAs that are not trusted any more where they were.
    gone: Vec<BoundAnchor>,
    pairs: BTreeMap<String, Vec<Pair>>,
    /// What the listeners show, for who judges CAs.
    own_chain: Vec<CertificateFacts>,
    transitions: Vec<Transition>,
    natives: Vec<ChainMember>,
    components: Vec<Component>,
    /// The admin API's, if it changes.
    admin_tls: Option<TlsSet>,
}

/// A component whose settings change.
struct Component {
    name: String,
    bytes: Arc<[u8]>,
    config: Value,
}

pub(super) async fn run(
    parts: &ReloadParts,
    state: &mut State,
    next: Next,
    request: &Request,
    report: &mut Report,
) -> Result<(), ReloadError> {
    let ready = prepare(parts, state, &next, request).map_err(ReloadError::Refused)?;
    report.transitions = ready.transitions.iter().map(begun).collect();
    let rules = rules(parts, &next.config, &ready, Vec::new());
    let affected = concerned(&parts.broker, &rules, clock::now().seconds()).await;
    report.affected = Impact::of(&affected);
    if request.dry_run {
        report.result = Done::DryRun;
        return Ok(());
    }
    let gone: Vec<CertificateFingerprint> = ready.gone.iter().filter_map(fingerprint).collect();
    let (anchors, pairs) = (ready.anchors.clone(), ready.pairs.clone());
    commit(parts, state, &next, ready).await?;
    report.result = Done::Applied;
    for ca in gone {
        // Who has another path stays, and so does everybody while a transition runs.
        parts.live.ca_gone(ca);
    }
    if request.disconnect == Disconnect::Affected {
        report.disconnected = dismiss(parts, affected);
    }
    *state = State {
        config: next.config,
        overrides: next.overrides,
        contents: next.contents,
        anchors,
        pairs,
        waiting: std::mem::take(&mut state.waiting),
    };
    Ok(())
}

fn prepare(parts: &ReloadParts, state: &State, next: &Next, request: &Request) -> Result<Ready> {
    let config = &next.config;
    let anchors = build::anchors(config)?;
    let gone = gone(&state.anchors, &anchors);
    let grace = request.grace.unwrap_or(config.reload.grace.0);
    let pairs = material::read(config);
    let transitions = transitions(parts, state, &gone, &pairs, grace, request)?;
    let mut retiring = parts.transitions.anchors();
    retiring.extend(anchors_of(&transitions));
    parts
        .trust
        .check_configured(anchors.clone(), retiring, config.limits.ca_certs as usize)
        .context("the CAs cannot be used together")?;
    parts.log.check(&config.log.filter)?;
    parts.bundles.check_files(build::files_of_certificates(config))?;
    if builtin::is_wanted(config) && parts.bundles.bind_builtin().is_none() {
        // Nobody had it until now. That it is there changes nothing by itself.
        parts.bundles.set_builtin(parts.builtin.provide(config)?)?;
    }
    Ok(Ready {
        listeners: next_listeners(parts, state, next, &transitions)?,
        anchors,
        gone,
        pairs,
        own_chain: build::own_chain(config),
        transitions,
        natives: natives(next)?,
        components: components(next)?,
        admin_tls: admin_tls(parts, state, next)?,
    })
}

/// The admin API's TLS with what its keys and files are now. That there is any at all is settled at the start.
fn admin_tls(parts: &ReloadParts, state: &State, next: &Next) -> Result<Option<TlsSet>> {
    let touched = of_admin(&next.config).iter().any(|file| next.files.contains(file));
    let changed = touched || state.config.admin.tls != next.config.admin.tls;
    match parts.admin_tls.is_some() && changed {
        true => admin_tls::set(&next.config, &parts.bundles),
        false => Ok(None),
    }
}

/// Listeners that a change concerns, made ready.
fn next_listeners(
    parts: &ReloadParts,
    state: &State,
    next: &Next,
    transitions: &[Transition],
) -> Result<listeners::Next> {
    let (before, after) = (&state.config.listeners, &next.config.listeners);
    let drain = next.config.node.shutdown_timeout.0;
    let mut ready = listeners::Next::default();
    for (name, listener) in after {
        let build = || {
            let mut retired = parts.transitions.server_certificates(name);
            retired.extend(server_certificates_of(transitions, name));
            let policy = path_policy(&next.config, listener);
            build::listener(name, listener, policy, &parts.trust, &parts.bundles, &retired, drain)
        };
        match before.get(name) {
            None => ready.added.push((name.clone(), listener.clone(), build()?)),
            Some(known) => {
                let touched = listener.every_file().any(|file| next.files.contains(file));
                if known != listener || touched {
                    ready.changed.push((name.clone(), listener.clone(), build()?));
                }
            }
        }
    }
    ready.removed = before.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
    Ok(ready)
}

/// Native members whose settings change, or who depend on listeners that do.
fn natives(next: &Next) -> Result<Vec<ChainMember>> {
    let listeners = next.changes.iter().any(|change| change.key.starts_with("listeners."));
    let names = with_settings(&next.changes);
    let members = next.config.plugins.iter().filter_map(|plugin| Some((plugin, plugin.native?)));
    members
        .filter(|(plugin, native)| {
            names.contains(plugin.name.as_str()) || (*native == model::Native::Anonymous && listeners)
        })
        .map(|(plugin, native)| chain::member(&next.config, plugin, native))
        .collect()
}

fn components(next: &Next) -> Result<Vec<Component>> {
    let names = with_settings(&next.changes);
    let changed = next
        .config
        .plugins
        .iter()
        .filter(|plugin| plugin.source.is_some() && names.contains(plugin.name.as_str()));
    changed
        .map(|plugin| {
            let file = chain::source_file(plugin)?;
            let bytes = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            Ok(Component {
                name: plugin.name.clone(),
                bytes: bytes.into(),
                config: Value::Object(plugin.config.clone()),
            })
        })
        .collect()
}

/// Members whose own settings are among the changes.
fn with_settings(changes: &[Change]) -> BTreeSet<&str> {
    changes
        .iter()
        .filter(|change| change.effect == Effect::Now)
        .filter_map(|change| change.key.strip_prefix("plugins.")?.split_once(".config").map(|(name, _)| name))
        .collect()
}

/// Each CA of `before` with the listeners that name it no longer.
fn gone(before: &[BoundAnchor], after: &[BoundAnchor]) -> Vec<BoundAnchor> {
    let names = |bound: &BoundAnchor| bound.listeners.clone().unwrap_or_default();
    before
        .iter()
        .filter_map(|bound| {
            let now = after.iter().find(|other| other.anchor.der == bound.anchor.der).map(names);
            let now = now.unwrap_or_default();
            let lost: Vec<Arc<str>> = names(bound).into_iter().filter(|name| !now.contains(name)).collect();
            let anchor = bound.anchor.clone();
            (!lost.is_empty()).then_some(BoundAnchor { anchor, listeners: Some(lost) })
        })
        .collect()
}

fn transitions(
    parts: &ReloadParts,
    state: &State,
    gone: &[BoundAnchor],
    pairs: &BTreeMap<String, Vec<Pair>>,
    grace: Duration,
    request: &Request,
) -> Result<Vec<Transition>> {
    if grace.is_zero() {
        return Ok(Vec::new());
    }
    let started_at = clock::now();
    let milliseconds = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let ends_at = UnixMillis(started_at.0.saturating_add(milliseconds));
    let term = Term { started_at, ends_at, actor: &request.actor };
    let mut transitions = material::replaced(&state.pairs, pairs, term)?;
    for bound in gone {
        let facts = CertificateFacts::parse(&bound.anchor.der)?;
        // The registry trusts it anywhere: nothing ends.
        if parts.registry.trusts_by_itself(facts.certificate_fingerprint) {
            continue;
        }
        let listeners = bound.listeners.iter().flatten().map(ToString::to_string).collect();
        transitions.push(Transition {
            id: new_id()?,
            material: Material::Ca,
            name: bound.anchor.name.to_string(),
            fingerprint: facts.certificate_fingerprint,
            subject: facts.subject.display,
            not_after: facts.not_after,
            listeners,
            started_at,
            ends_at,
            actor: request.actor.clone(),
            pem: to_pem(&bound.anchor.der),
            key: None,
            server_names: Vec::new(),
        });
    }
    Ok(transitions)
}

/// What each listener would ask, with `retiring` CAs beside those of the next configuration.
fn rules(
    parts: &ReloadParts,
    config: &Config,
    ready: &Ready,
    retiring: Vec<BoundAnchor>,
) -> BTreeMap<String, Rules> {
    let trust = parts.trust.preview(ready.anchors.clone(), retiring);
    config
        .listeners
        .iter()
        .map(|(name, listener)| {
            let rules = Rules {
                versions: build::tls_versions(listener),
                certificate_required: listener.has_certificates() && listener.certificate_required(),
                paths: build::path_rules(config, name, listener, &trust),
            };
            (name.clone(), rules)
        })
        .collect()
}

/// Does it. What fails is undone.
async fn commit(parts: &ReloadParts, state: &State, next: &Next, ready: Ready) -> Result<(), ReloadError> {
    let rolled_back = |error: anyhow::Error| ReloadError::RolledBack(error);
    let file = overrides::file(&state.config.node.data_dir);
    if next.overrides != state.overrides {
        next.overrides.write(&file).map_err(ReloadError::Refused)?;
    }
    let undo_overrides = || {
        if next.overrides != state.overrides
            && let Err(error) = state.overrides.write(&file)
        {
            tracing::error!(%error, "settings of the API that were refused are still on the disk");
        }
    };
    if let Err(error) = parts.transitions.begin(&ready.transitions) {
        undo_overrides();
        return Err(rolled_back(error.into()));
    }
    let listeners = match parts.listeners.begin(ready.listeners).await {
        Ok(begun) => begun,
        Err(error) => {
            parts.transitions.take_back(&ready.transitions);
            undo_overrides();
            return Err(rolled_back(error.into()));
        }
    };
    if let Err(error) = swap_components(parts, state, &ready.components).await {
        parts.listeners.take_back(listeners).await;
        parts.transitions.take_back(&ready.transitions);
        undo_overrides();
        return Err(rolled_back(error));
    }
    let config = &next.config;
    parts.trust.set_limit(config.limits.ca_certs as usize);
    if let Err(error) = parts.trust.configure_bound(ready.anchors, parts.transitions.anchors()) {
        // It was checked; the registry's CAs may have changed since.
        parts.trust.set_limit(state.config.limits.ca_certs as usize);
        parts.listeners.take_back(listeners).await;
        parts.transitions.take_back(&ready.transitions);
        undo_overrides();
        return Err(rolled_back(error.into()));
    }
    // From here on nothing fails.
    parts.gate.configure(build::gate_settings(config));
    parts.broker.configure(build::limits(config), build::listener_limits(config));
    parts.live.configure(build::live(config));
    // Who is connected by a listener that is removed is judged as before, until it goes.
    for (name, listener) in &config.listeners {
        parts.live.judge_by(name, build::path_rules(config, name, listener, &parts.trust));
    }
    parts.trust.know_own_chain(ready.own_chain);
    for native in ready.natives {
        parts.host.replace_native(native).await;
    }
    parts.listeners.finish(listeners);
    if let (Some(tls), Some(set)) = (&parts.admin_tls, ready.admin_tls) {
        tls.swap(set);
        parts.bundles.watch(ADMIN_TLS, tls);
    }
    parts.log.set(&config.log.filter);
    parts.registry.count_cas();
    parts.transitions.begun(&ready.transitions);
    Ok(())
}

/// Gives components their new settings; on an error all have their old ones.
async fn swap_components(parts: &ReloadParts, state: &State, components: &[Component]) -> Result<()> {
    for (index, component) in components.iter().enumerate() {
        let reauthorize = build::reauthorize(state.config.policy.reauthorize);
        let swapped = parts
            .host
            .swap(&component.name, Arc::clone(&component.bytes), Some(component.config.clone()), reauthorize)
            .await;
        let Err(error) = swapped else { continue };
        for done in &components[..index] {
            let before = state.config.plugins.iter().find(|plugin| plugin.name == done.name);
            let config = before.map(|plugin| Value::Object(plugin.config.clone()));
            let back = parts.host.swap(&done.name, Arc::clone(&done.bytes), config, reauthorize).await;
            if let Err(error) = back {
                tracing::error!(plugin = done.name, %error, "has its new settings and not its old ones");
            }
        }
        return Err(anyhow::anyhow!("plugin `{}`: {error}", component.name));
    }
    Ok(())
}

/// Sends those away who could not come again; who could, because a transition runs, stays until it ends.
fn dismiss(parts: &ReloadParts, affected: Vec<Concerned>) -> usize {
    let now = clock::now().seconds();
    let going: Vec<_> = affected
        .into_iter()
        .filter(|client| match client.obstacle {
            Obstacle::CaRemoved | Obstacle::CertificateRefused => {
                !matches!(parts.live.judge(&client.handle, now), Some(Ok(_)))
            }
            Obstacle::ListenerRemoved | Obstacle::TlsVersion | Obstacle::CertificateRequired => true,
        })
        .map(|client| (client.handle, client.reason))
        .collect();
    let count = going.len();
    parts.live.dismiss(going);
    count
}

fn fingerprint(bound: &BoundAnchor) -> Option<CertificateFingerprint> {
    CertificateFacts::parse(&bound.anchor.der).ok().map(|facts| facts.certificate_fingerprint)
}

fn begun(transition: &Transition) -> Begun {
    Begun {
        id: transition.id.clone(),
        material: transition.material,
        name: transition.name.clone(),
        fingerprint: transition.fingerprint.to_hex(),
        ends_at: transition.ends_at.0,
    }
}
