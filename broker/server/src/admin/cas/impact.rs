//! What depends on a CA: certificates by state, and connections, with those that another CA carries as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use mqgate_identity::registry::{CaCertificate, CaState};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::api::Impact;
use super::super::{AdminParts, Code, Problem};
use super::find;
use crate::directory::{ConnectionHandle, Mark};

/// Clients that are named; the others are counted.
const MOST_CLIENTS: usize = 20;
/// Connections that another path is looked for.
const MOST_JUDGED: usize = 5_000;

/// What depends on a CA.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CaImpact")]
pub(super) struct Shown {
    id: String,
    name: String,
    #[schemars(with = "String")]
    state: CaState,
    /// Certificates registered under it, by state.
    certificates: BTreeMap<String, u64>,
    /// Connections whose path ends in it.
    connections: u64,
    /// Those of them that would stay: a path of theirs leads to another CA. Looked for among the first 5,000.
    connections_with_another_path: u64,
    /// Client ids of some of those that would go.
    clients: Vec<String>,
    /// What each change would do.
    effects: BTreeMap<&'static str, String>,
}

pub(super) async fn show(
    State(parts): State<AdminParts>,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let ca = find(&parts, &id)?;
    look(&parts, &ca).await.map(Json)
}

async fn look(parts: &AdminParts, ca: &CaCertificate) -> Result<Shown, Problem> {
    let impact = parts.registry.ca_impact(ca.id).await?;
    let handles = parts.broker.connections().find(Mark::Anchor(ca.id));
    let (registry, id) = (Arc::clone(&parts.registry), ca.id);
    // Checks signatures: not on a thread that others wait for.
    let judged = tokio::task::spawn_blocking(move || {
        let others = registry.anchors_without(id);
        let stays = |handle: &Arc<ConnectionHandle>| {
            handle.certificate().is_some_and(|certificate| registry.leads_to(certificate, &others))
        };
        let staying = handles.iter().take(MOST_JUDGED).filter(|handle| stays(handle)).count();
        let going = handles.iter().take(MOST_JUDGED).filter(|handle| !stays(handle));
        let named = going.filter_map(|handle| handle.client_id().map(str::to_owned));
        (handles.len(), staying, named.take(MOST_CLIENTS).collect::<Vec<_>>())
    });
    let (connections, staying, clients) =
        judged.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let going = connections - staying;
    let not_deleted = impact.not_deleted();
    Ok(Shown {
        id: ca.id.to_hex(),
        name: ca.name.clone(),
        state: ca.state,
        certificates: impact
            .certificates
            .into_iter()
            .map(|(state, count)| (state.as_str().to_uppercase(), count))
            .collect(),
        connections: connections as u64,
        connections_with_another_path: staying as u64,
        clients,
        effects: effects(ca, not_deleted, going),
    })
}

fn effects(ca: &CaCertificate, certificates: u64, connections: usize) -> BTreeMap<&'static str, String> {
    if ca.revision == 0 {
        let what = "it is part of the configuration: take it out there, and `mqgate reload`";
        return [("change", what.to_owned())].into();
    }
    [
        ("deactivate", format!("no new connections under it; with mode disconnect, {connections} connections close")),
        ("replace", String::from("it stays valid beside the new one until the grace ends, and retires then")),
        (
            "revoke",
            format!("{certificates} certificates are refused from then on, {connections} connections close; for good"),
        ),
        (
            "remove",
            match certificates {
                0 => String::from("it is forgotten; no certificate is registered under it"),
                _ => format!(
                    "refused while {certificates} certificates are registered under it, unless --cascade revoke or \
                     orphan says what becomes of them"
                ),
            },
        ),
    ]
    .into()
}

/// Adds to a try whom it would concern.
pub(super) async fn affected(
    parts: &AdminParts,
    tried: Impact,
    ca: &CaCertificate,
) -> Result<Impact, Problem> {
    let shown = look(parts, ca).await?;
    let certificates: u64 = shown.certificates.values().sum();
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Ok(tried
        .affects("certificates", number(certificates))
        .affects("connections", number(shown.connections))
        .affects("connections_with_another_path", number(shown.connections_with_another_path)))
}
