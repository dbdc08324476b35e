//! Takes a change over: everything that can fail is made ready beside what is in force, then swapped in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, to_pem};
use mqgate_identity::hooks::ChainMember;
use mqgate_server::admin::ADMIN_TLS;
use mqgate_server::clock;
use mqgate_server::tls::TlsSet;
use mqgate_server::trust::BoundAnchor;
use serde_json::Value;

use super::files::{Contents, of_admin};
use super::impact::{Concerned, Impact, Obstacle, Rules, concerned};
use super::ledger::{Gone, Material, Transition, Undo, new_id};
use super::material::{self, Pair, Term};
use super::overrides::{self, Overrides};
use super::plan::{Change, Effect};
use super::settings;
use super::transitions::{after, anchors as anchors_of, server_certificates_of};
use super::{Begun, Disconnect, Done as Outcome, ReloadError, ReloadParts, Report, Request, State};
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
    /// What is replaced, with grace or without.
    replaced: Vec<Gone>,
    transitions: Vec<Transition>,
    natives: Vec<ChainMember>,
    components: Vec<Component>,
    /// The admin API's, if it changes.
    admin_tls: Option<TlsSet>,
}

/// A component whose settings change.
struct Component {
    name: String,
    config: Value,
}

pub(super) async fn run(
    parts: &ReloadParts,
    state: &mut State,
    next: Next,
    request: &Request,
    report: &mut Report,
) -> Result<(), ReloadError> {
    // What is put together here is not replaced or removed by others meanwhile.
    let (_bundles, _cas) = (parts.bundles.hold().await, parts.registry.hold_cas().await);
    let ready = prepare(parts, state, &next, request).map_err(ReloadError::Refused)?;
    report.transitions = ready.transitions.iter().map(begun).collect();
    let rules = rules(parts, &next.config, &ready, Vec::new());
    let affected = concerned(&parts.broker, &rules, clock::now().seconds()).await;
    report.affected = Impact::of(&affected);
    if request.dry_run {
        report.result = Outcome::DryRun;
        return Ok(());
    }
    let gone: Vec<CertificateFingerprint> = ready.gone.iter().filter_map(fingerprint).collect();
    let (anchors, pairs) = (ready.anchors.clone(), ready.pairs.clone());
    commit(parts, state, &next, ready).await?;
    report.result = Outcome::Applied;
    for ca in gone {
        // Who has another path stays, and so does everybody while a transition runs.
        parts.live.ca_gone(ca);
    }
    if request.disconnect == Disconnect::Affected {
        // Who came while the change was made came by the rules before it.
        let affected = concerned(&parts.broker, &rules, clock::now().seconds()).await;
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
    let mut transitions = transitions(parts, state, &gone, &pairs, grace, request)?;
    let replaced = transitions.iter().map(Gone::of).collect();
    if grace.is_zero() {
        transitions.clear();
    }
    let mut retiring = parts.transitions.anchors();
    retiring.extend(anchors_of(&transitions));
    parts
        .trust
        .check_configured(anchors.clone(), retiring, config.limits.ca_certs as usize)
        .context("the CAs cannot be used together")?;
    parts.log.check(&config.log.filter)?;
    let limit = config.limits.server_certs as usize;
    parts.bundles.check_files(build::files_of_certificates(config), limit)?;
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
        replaced,
        transitions,
        natives: natives(next)?,
        components: components(next),
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
    let policy_before = |listener| path_policy(&state.config, listener);
    let mut ready = listeners::Next::default();
    for (name, listener) in after {
        let policy = path_policy(&next.config, listener);
        let build = || {
            let mut retired = parts.transitions.server_certificates(name);
            retired.extend(server_certificates_of(transitions, name));
            let policy = policy.clone();
            build::listener(name, listener, policy, &parts.trust, &parts.bundles, &retired, drain)
        };
        match before.get(name) {
            None => ready.added.push((name.clone(), listener.clone(), build()?)),
            Some(known) => {
                let touched = listener.every_file().any(|file| next.files.contains(&file));
                if known != listener || touched || policy_before(known) != policy {
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

fn components(next: &Next) -> Vec<Component> {
    let names = with_settings(&next.changes);
    let plugins = next.config.plugins.iter();
    let changed = plugins.filter(|plugin| plugin.source.is_some() && names.contains(plugin.name.as_str()));
    let component = |plugin: &model::Plugin| Component {
        name: plugin.name.clone(),
        config: Value::Object(plugin.config.clone()),
    };
    changed.map(component).collect()
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
    let started_at = clock::now();
    let ends_at = after(started_at, grace);
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
            password: None,
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

/// What was done and can be undone.
struct Done<'a> {
    parts: &'a ReloadParts,
    state: &'a State,
    overrides: Option<PathBuf>,
    transitions: Option<Undo>,
    listeners: Option<listeners::Begun>,
    /// Plugins with the settings they had.
    components: Vec<(String, Value)>,
}

impl Done<'_> {
    async fn undo(self, error: anyhow::Error) -> ReloadError {
        let Self { parts, state, overrides, transitions, listeners, components } = self;
        for (name, config) in components {
            let reauthorize = build::reauthorize(state.config.policy.reauthorize);
            if let Err(error) = parts.host.reconfigure(&name, config, reauthorize).await {
                tracing::error!(plugin = name, %error, "has its new settings and not its old ones");
            }
        }
        if let Some(listeners) = listeners {
            parts.listeners.take_back(listeners).await;
        }
        if let Some(transitions) = transitions {
            parts.transitions.take_back(&transitions);
        }
        if let Some(file) = overrides
            && let Err(error) = state.overrides.write(&file)
        {
            tracing::error!(%error, "settings of the API that were refused are still on the disk");
        }
        ReloadError::RolledBack(error)
    }
}

/// Does it. What fails is undone.
async fn commit(parts: &ReloadParts, state: &State, next: &Next, ready: Ready) -> Result<(), ReloadError> {
    let mut done =
        Done { parts, state, overrides: None, transitions: None, listeners: None, components: Vec::new() };
    if next.overrides != state.overrides {
        let file = overrides::file(&state.config.node.data_dir);
        next.overrides.write(&file).map_err(ReloadError::Refused)?;
        done.overrides = Some(file);
    }
    match parts.transitions.begin(&ready.replaced, &ready.transitions) {
        Ok(undo) => done.transitions = Some(undo),
        Err(error) => return Err(done.undo(error.into()).await),
    }
    match parts.listeners.begin(ready.listeners).await {
        Ok(begun) => done.listeners = Some(begun),
        Err(error) => return Err(done.undo(error.into()).await),
    }
    for component in ready.components {
        if parts.host.has_settings_of_its_own(&component.name) {
            tracing::warn!(
                plugin = component.name,
                "its settings were set at runtime and go on; `mqgate plugin reset` goes back to the configuration"
            );
        }
        let reauthorize = build::reauthorize(state.config.policy.reauthorize);
        match parts.host.reconfigure(&component.name, component.config, reauthorize).await {
            Ok(before) => done.components.push((component.name, before)),
            Err(error) => {
                return Err(done.undo(anyhow::anyhow!("plugin `{}`: {error}", component.name)).await);
            }
        }
    }
    let config = &next.config;
    parts.trust.set_limit(config.limits.ca_certs as usize);
    let (trust, anchors) = (&parts.trust, ready.anchors);
    if let Err(error) = parts.transitions.with_anchors(|retiring| trust.configure_bound(anchors, retiring)) {
        parts.trust.set_limit(state.config.limits.ca_certs as usize);
        return Err(done.undo(error.into()).await);
    }
    // From here on nothing fails.
    settings::take_over(parts, state, config).await;
    parts.trust.know_own_chain(ready.own_chain);
    for native in ready.natives {
        parts.host.replace_native(native).await;
    }
    if let Some(listeners) = done.listeners {
        parts.listeners.finish(listeners);
    }
    if let (Some(tls), Some(set)) = (&parts.admin_tls, ready.admin_tls) {
        tls.swap(set);
        parts.bundles.watch(ADMIN_TLS, tls);
    }
    parts.registry.count_cas();
    if let Some(undo) = done.transitions {
        parts.transitions.begun(&ready.transitions, &undo);
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
