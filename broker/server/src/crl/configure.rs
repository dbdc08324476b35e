//! Other settings while the service runs: which lists there are, and by what rules they are fetched.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CrlSettings, Origin, RevocationService};
use crate::directory::lock;
use crate::fetch::{NamedBy, check_url};

impl RevocationService {
    /// Holds from now on: lists that come from nowhere any more are used no longer, those of files are in force when
    /// this returns, and those to be fetched as soon as they are there. The folder of what was fetched stays.
    pub async fn configure(self: &Arc<Self>, settings: CrlSettings) {
        let this = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            {
                let _looking = lock(&this.looking);
                this.settings.store(Arc::new(settings));
                this.know_urls(&this.settings());
            }
            this.look();
        });
        if done.await.is_err() {
            tracing::error!("taking over the settings of revocation lists broke down");
        }
        self.wake.notify_one();
    }

    /// Those that are configured, to be asked soon: it may be by other rules now. Others only as far as they may be
    /// asked.
    pub(super) fn know_urls(&self, settings: &CrlSettings) {
        let mut all = self.held();
        all.retain(|origin, _| match origin {
            Origin::File(_) => true,
            Origin::Url(url, NamedBy::Configuration) => settings.urls.contains(url),
            Origin::Url(url, NamedBy::Certificate) => {
                may_follow(settings, url) && !settings.urls.contains(url)
            }
        });
        for url in &settings.urls {
            let held = all.entry(Origin::Url(url.clone(), NamedBy::Configuration)).or_default();
            held.due = Some(Instant::now());
        }
    }
}

/// Whether the host of a distribution point may be asked.
pub(super) fn may_follow(settings: &CrlSettings, url: &str) -> bool {
    let host = check_url(url).ok().and_then(|uri| uri.host().map(str::to_owned));
    settings.follow_distribution_points && host.is_some_and(|host| settings.rules.allows_host(&host))
}
