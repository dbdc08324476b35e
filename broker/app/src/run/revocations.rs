//! From the configuration to the service that holds revocation lists.

use std::sync::Arc;

use mqgate_server::crl::{CrlSettings, NAMES};
use mqgate_server::fetch::FetchRules;

use crate::config::Config;
use crate::config::check::network;

/// What cannot be read is refused by `config::check` before.
pub fn settings(config: &Config) -> CrlSettings {
    let crl = &config.crl;
    CrlSettings {
        files: crl.files.clone(),
        directories: crl.directories.clone(),
        urls: crl.urls.clone(),
        follow_distribution_points: crl.follow_distribution_points,
        rules: Arc::new(FetchRules {
            timeout: crl.fetch_timeout.0,
            max_bytes: usize::try_from(crl.max_size.0).unwrap_or(usize::MAX),
            hosts: crl.allow_hosts.clone(),
            networks: crl.allow_networks.iter().filter_map(|text| network(text).ok()).collect(),
            names: NAMES,
        }),
        refresh: crl.refresh.0,
        max_lists: crl.max_lists as usize,
        cache: Some(config.node.data_dir.join("crl")),
    }
}
