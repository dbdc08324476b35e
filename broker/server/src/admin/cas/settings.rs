//! Settings of a CA as requests change them: what is left out stays.

use mqgate_identity::registry::CaSettings;
use serde::{Deserialize, Deserializer};

use super::shown::{Mode, Rate, Registers};

/// `None`: not given. An inner `None`: the setting goes.
pub(super) struct SettingsBody {
    pub(super) auto_registration: Option<Registers>,
    pub(super) on_deactivate: Option<Mode>,
    pub(super) max_device_certs: Option<Option<u64>>,
    pub(super) registration_rate: Option<Option<Rate>>,
    pub(super) subject_patterns: Option<Vec<String>>,
    pub(super) san_patterns: Option<Vec<String>>,
    pub(super) max_leaf_lifetime_seconds: Option<Option<u64>>,
    pub(super) crl_sources: Option<Vec<String>>,
    pub(super) registrar: Option<Option<String>>,
}

/// `null` is something else than nothing.
pub(super) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

impl SettingsBody {
    /// The settings after the change.
    pub(super) fn over(self, old: CaSettings) -> CaSettings {
        CaSettings {
            auto_registration: self.auto_registration.map_or(old.auto_registration, Into::into),
            on_deactivate: self.on_deactivate.map_or(old.on_deactivate, Into::into),
            max_device_certs: self.max_device_certs.unwrap_or(old.max_device_certs),
            registration_rate: self
                .registration_rate
                .map_or(old.registration_rate, |rate| rate.map(Into::into)),
            subject_patterns: self.subject_patterns.unwrap_or(old.subject_patterns),
            san_patterns: self.san_patterns.unwrap_or(old.san_patterns),
            max_leaf_lifetime_seconds: self
                .max_leaf_lifetime_seconds
                .unwrap_or(old.max_leaf_lifetime_seconds),
            crl_sources: self.crl_sources.unwrap_or(old.crl_sources),
            registrar: self.registrar.unwrap_or(old.registrar),
        }
    }
}
