//! What `[crl]` must not say: addresses that may not be asked, sources that are none.

use mqgate_server::fetch::check_url;

use super::{Checker, network};
use crate::config::model::Config;

pub(super) fn check(checker: &mut Checker<'_, '_>, config: &Config) {
    let crl = &config.crl;
    for (index, url) in crl.urls.iter().enumerate() {
        if let Err(error) = check_url(url) {
            checker.add(&format!("crl.urls[{index}]"), error.to_string(), None);
        }
    }
    for (index, text) in crl.allow_networks.iter().enumerate() {
        if let Err(error) = network(text) {
            checker.add(&format!("crl.allow_networks[{index}]"), error, None);
        }
    }
    for (index, host) in crl.allow_hosts.iter().enumerate() {
        let bare = host.strip_prefix("*.").unwrap_or(host);
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
        if bare.is_empty() || !bare.chars().all(fits) {
            checker.add(
                &format!("crl.allow_hosts[{index}]"),
                format!("`{host}` is no host name"),
                Some("write \"pki.example.org\", or \"*.example.org\" for every host below it"),
            );
        }
    }
    if crl.follow_distribution_points && crl.allow_hosts.is_empty() {
        checker.add(
            "crl.follow_distribution_points",
            "no host may be asked: `crl.allow_hosts` is empty",
            Some("name the hosts that your CAs' distribution points are on"),
        );
    }
    for (key, zero) in [
        ("crl.refresh", crl.refresh.0.is_zero()),
        ("crl.fetch_timeout", crl.fetch_timeout.0.is_zero()),
        ("crl.max_size", crl.max_size.0 == 0),
        ("crl.max_lists", crl.max_lists == 0),
    ] {
        if zero {
            checker.add(key, "nothing would go through: more than zero is needed", None);
        }
    }
    let has_source = !(crl.files.is_empty() && crl.directories.is_empty() && crl.urls.is_empty())
        || crl.follow_distribution_points;
    for (name, listener) in &config.listeners {
        if listener.crl_check && !has_source {
            checker.add(
                &format!("listeners.{name}.crl_check"),
                "there is no revocation list to look certificates up in",
                Some("name files, directories or urls in `[crl]`, or set `crl_check = false`"),
            );
        }
    }
}
