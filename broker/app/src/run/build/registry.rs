//! From `provisioning`, `rotation`, `sharing` and `clock` to what the server takes.

use std::time::Duration;

use mqgate_identity::time::UnixMillis;
use mqgate_server::clock::sanity::WhenWrong;
use mqgate_server::gate::{BindClientId, OnClientIdMismatch};
use mqgate_server::provision::{ProvisionRates, ProvisionSettings, Rate};
use mqgate_server::registry::{OnMaxActive, RotationSettings};
use mqgate_server::sharing::{OnShared, SharingSettings};

use crate::config::Config;
use crate::config::model;

pub fn provision(config: &Config) -> ProvisionSettings {
    let given = &config.provisioning;
    ProvisionSettings {
        rates: ProvisionRates {
            global: Rate::per_second(given.rate, given.burst),
            ca: Rate::per_second(given.ca_rate, given.ca_burst),
            source: Rate::per_second(given.source_rate, given.source_burst),
        },
        max_device_certs: Some(given.max_device_certs).filter(|most| *most > 0),
        max_pending: Some(given.max_pending).filter(|most| *most > 0),
        park_timeout: given.park_timeout.0,
        max_parked: given.max_parked as usize,
        max_rejected: given.max_rejected as usize,
    }
}

pub fn bind_client_id(config: &Config) -> BindClientId {
    match config.provisioning.bind_client_id {
        model::BindClientId::None => BindClientId::None,
        model::BindClientId::Cn => BindClientId::CommonName,
        model::BindClientId::San => BindClientId::AlternativeName,
        model::BindClientId::FirstConnect => BindClientId::FirstConnect,
    }
}

pub fn on_client_id_mismatch(config: &Config) -> OnClientIdMismatch {
    match config.provisioning.on_client_id_mismatch {
        model::OnClientIdMismatch::Reject => OnClientIdMismatch::Reject,
        model::OnClientIdMismatch::Override => OnClientIdMismatch::Override,
    }
}

pub fn rotation(config: &Config) -> RotationSettings {
    RotationSettings {
        overlap: config.rotation.overlap.0,
        max_active: config.rotation.max_active_per_device as usize,
        on_max_active: match config.rotation.on_max_active {
            model::OnMaxActive::SupersedeOldest => OnMaxActive::SupersedeOldest,
            model::OnMaxActive::RejectNew => OnMaxActive::RejectNew,
        },
    }
}

pub fn expiry_warnings(config: &Config) -> Vec<Duration> {
    config.rotation.expiry_warnings.iter().map(|warning| warning.0).collect()
}

pub fn sharing(config: &Config) -> SharingSettings {
    let given = &config.sharing;
    SharingSettings {
        policy: match given.policy {
            model::OnShared::Alert => OnShared::Alert,
            model::OnShared::RejectNew => OnShared::RejectNew,
            model::OnShared::KickOld => OnShared::KickOld,
            model::OnShared::Quarantine => OnShared::Quarantine,
        },
        max_client_ids: given.max_client_ids_per_cert as usize,
        window: given.window.0,
        max_takeovers: given.max_takeovers as usize,
        takeover_window: given.takeover_window.0,
        ..SharingSettings::default()
    }
}

pub fn when_wrong(config: &Config) -> WhenWrong {
    match config.clock.when_wrong {
        model::AllowDeny::Allow => WhenWrong::Allow,
        model::AllowDeny::Deny => WhenWrong::Deny,
    }
}

/// No clock that is right shows a time before this: when the program was built, or else some time before its first
/// version.
pub fn built_at() -> UnixMillis {
    const FIRST_VERSION: u64 = 1_735_689_600;
    let said = option_env!("MQGATE_BUILD_TIME").and_then(|seconds| seconds.parse().ok());
    UnixMillis(said.unwrap_or(FIRST_VERSION) * 1000)
}
