//! Which certificates: the filters that `list`, `export` and `batch` have in common.

use serde_json::{Map, Value};

use super::super::remote::segment;

/// Filters; all that are given must hold.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// In this state: PENDING_ACTIVATION, ACTIVE, INACTIVE, REVOKED, TOMBSTONE; may be repeated. Without it, all but
    /// tombstones
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// What it comes to now: ok, barred, expired, not_yet_valid, ca_inactive, ca_revoked, ca_missing, superseded,
    /// quarantined
    #[arg(long, value_name = "WORD")]
    effective: Option<String>,
    /// Registered under this CA: its name or SHA-256
    #[arg(long, value_name = "CA")]
    ca: Option<String>,
    /// With this common name
    #[arg(long, value_name = "NAME")]
    cn: Option<String>,
    /// With this organizational unit
    #[arg(long, value_name = "NAME")]
    ou: Option<String>,
    /// With this alternative name: `dns:meter-7.example`, or without the type
    #[arg(long, value_name = "NAME")]
    san: Option<String>,
    /// Of this device
    #[arg(long, visible_alias = "device-id", value_name = "NAME")]
    device: Option<String>,
    /// Bound to this client id
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// With this serial number, in hex
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// With this key: SHA-256 of its SubjectPublicKeyInfo
    #[arg(long, value_name = "SHA-256")]
    spki: Option<String>,
    /// Valid now, and not any more after this time: 30d, 12h
    #[arg(long, value_name = "TIME", conflicts_with_all = ["expires_from", "expires_until"])]
    expires_within: Option<String>,
    /// Valid until this moment or longer: 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "DATE")]
    expires_from: Option<String>,
    /// Valid until before this moment
    #[arg(long, value_name = "DATE")]
    expires_until: Option<String>,
    /// Used within this time: 24h
    #[arg(long, value_name = "TIME", conflicts_with = "not_seen_for")]
    seen_within: Option<String>,
    /// Used once, and not within this time: 90d
    #[arg(long, value_name = "TIME")]
    not_seen_for: Option<String>,
    /// How it was registered: api, jit (at the first connection), import
    #[arg(long, value_name = "HOW")]
    source: Option<String>,
    /// With this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

impl Filter {
    /// Names and values, as the API has them.
    fn given(&self) -> Vec<(&'static str, String)> {
        let states: Vec<String> =
            self.state.iter().map(|state| state.to_uppercase().replace('-', "_")).collect();
        let states = (!states.is_empty()).then(|| states.join(","));
        let word = |word: &Option<String>| word.as_ref().map(|word| word.to_lowercase().replace('-', "_"));
        [
            ("state", states),
            ("effective", word(&self.effective)),
            ("ca", self.ca.clone()),
            ("cn", self.cn.clone()),
            ("ou", self.ou.clone()),
            ("san", self.san.clone()),
            ("device_id", self.device.clone()),
            ("client_id", self.client_id.clone()),
            ("tenant", self.tenant.clone()),
            ("serial", self.serial.clone()),
            ("spki", self.spki.clone()),
            ("expires_within", self.expires_within.clone()),
            ("expires_from", self.expires_from.clone()),
            ("expires_until", self.expires_until.clone()),
            ("seen_within", self.seen_within.clone()),
            ("not_seen_for", self.not_seen_for.clone()),
            ("source", word(&self.source)),
            ("tag", self.tag.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// For a query: `&name=value` for each.
    pub fn query(&self) -> String {
        self.given().iter().map(|(name, value)| format!("&{name}={}", segment(value))).collect()
    }

    /// For a body.
    pub fn json(&self) -> Value {
        let members = self.given().into_iter().map(|(name, value)| (name.to_owned(), Value::String(value)));
        Value::Object(members.collect::<Map<_, _>>())
    }

    pub fn is_empty(&self) -> bool {
        self.given().is_empty()
    }
}
