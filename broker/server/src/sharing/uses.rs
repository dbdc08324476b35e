//! How one certificate was used lately.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use mqgate_protocol::time::Instant;

use super::SharingSettings;

/// Uses and takeovers remembered of one certificate.
const MOST: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Uses {
    /// One for each client id, the last.
    used: VecDeque<Used>,
    takeovers: VecDeque<Takeover>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Used {
    client_id: Box<str>,
    source: IpAddr,
    keep_alive: u16,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Takeover {
    from: IpAddr,
    to: IpAddr,
    at: Instant,
}

/// What the takeovers of a while come to.
pub(super) struct Takeovers {
    pub(super) count: usize,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// An address took over that had been taken over from.
    pub(super) somebody_came_back: bool,
}

impl Uses {
    /// Forgets what is over; says whether anything is left.
    pub(super) fn tidy(&mut self, settings: &SharingSettings, now: Instant) -> bool {
        self.used.retain(|used| now.since(used.at) < settings.window);
        self.takeovers.retain(|takeover| now.since(takeover.at) < settings.takeover_window);
        self.told.take_if(|told| now.since(*told) >= settings.window);
        !self.used.is_empty() || !self.takeovers.is_empty() || self.told.is_some()
    }

    pub(super) fn used(&mut self, client_id: &str, source: IpAddr, keep_alive: u16, now: Instant) {
        self.used.retain(|used| &*used.client_id != client_id);
        if self.used.len() >= MOST {
            self.used.pop_front();
        }
        self.used.push_back(Used { client_id: client_id.into(), source, keep_alive, at: now });
    }

    pub(super) fn taken_over(&mut self, from: IpAddr, to: IpAddr, now: Instant) {
        if self.takeovers.len() >= MOST {
            self.takeovers.pop_front();
        }
        self.takeovers.push_back(Takeover { from, to, at: now });
    }

    /// Of its last use under this client id.
    pub(super) fn keep_alive(&self, client_id: &str) -> Option<u16> {
        self.used.iter().find(|used| &*used.client_id == client_id).map(|used| used.keep_alive)
    }

    /// Client ids that it was used under from somewhere else.
    pub(super) fn elsewhere(&self, source: IpAddr) -> impl Iterator<Item = &str> {
        self.used.iter().filter(move |used| used.source != source).map(|used| &*used.client_id)
    }

    pub(super) fn takeovers(&self) -> Takeovers {
        let mut left = BTreeSet::new();
        let mut somebody_came_back = false;
        for takeover in &self.takeovers {
            left.insert(takeover.from);
            somebody_came_back |= left.contains(&takeover.to);
        }
        let addresses = self.takeovers.iter().flat_map(|takeover| [takeover.from, takeover.to]).collect();
        Takeovers { count: self.takeovers.len(), addresses, somebody_came_back }
    }

    /// Whether it is to be told: not again before the window is over.
    pub(super) fn tell(&mut self, settings: &SharingSettings, now: Instant) -> bool {
        let is_news = self.told.is_none_or(|told| now.since(told) >= settings.window);
        if is_news {
            self.told = Some(now);
        }
        is_news
    }
}
