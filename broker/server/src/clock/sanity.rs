//! Whether the clock of the machine can be right: one that shows a time before this program was built, or a day or more
//! before a time that it has shown, is not. Certificates are judged by it, so while it is wrong nobody registers by
//! himself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{Storage, StorageError};
use mqgate_identity::time::UnixMillis;
use prometheus::IntGauge;
use tokio_util::sync::CancellationToken;

use crate::audit::AuditLog;

/// Where the latest time that was shown is kept.
const SETTING: &str = "clock/latest";
/// It is kept this often, and looked at.
const PERIOD: Duration = Duration::from_secs(60);
/// A clock may be set back by less.
const MOST_BACK: u64 = 24 * 60 * 60 * 1000;

/// What happens to certificates that are registered while the clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenWrong {
    /// They are judged by it all the same.
    #[default]
    Allow,
    /// They are refused.
    Deny,
}

/// How a clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It shows a time before the program was built.
    BeforeBuild { now: UnixMillis, built_at: UnixMillis },
    /// It has shown a later time.
    WentBack { now: UnixMillis, latest: UnixMillis },
}

/// Looks at the clock.
pub struct ClockWatch {
    storage: Arc<dyn Storage>,
    audit: Arc<AuditLog>,
    built_at: UnixMillis,
    /// The latest time that was kept.
    latest: AtomicU64,
    check: bool,
    when_wrong: AtomicU8,
    right: AtomicBool,
    gauge: IntGauge,
}

/// Judges a clock.
pub fn judge(now: UnixMillis, built_at: UnixMillis, latest: UnixMillis) -> Result<(), Wrong> {
    if now < built_at {
        return Err(Wrong::BeforeBuild { now, built_at });
    }
    if now.0.saturating_add(MOST_BACK) < latest.0 {
        return Err(Wrong::WentBack { now, latest });
    }
    Ok(())
}

impl ClockWatch {
    /// Reads what the clock has shown before: blocks. Without `check` it is forgotten, and every clock is right.
    pub fn open(
        storage: Arc<dyn Storage>,
        audit: Arc<AuditLog>,
        metrics: &prometheus::Registry,
        built_at: UnixMillis,
        check: bool,
    ) -> Result<Arc<Self>, ClockError> {
        let gauge =
            IntGauge::new("mqgate_clock_sane", "1 unless the machine's clock shows a time that cannot be.")?;
        metrics.register(Box::new(gauge.clone()))?;
        gauge.set(1);
        let stored = if check { storage.setting(SETTING)? } else { None };
        let latest = stored.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))).unwrap_or(0);
        let watch = Self {
            storage,
            audit,
            built_at,
            latest: AtomicU64::new(latest),
            check,
            when_wrong: AtomicU8::new(0),
            right: AtomicBool::new(true),
            gauge,
        };
        let now = super::now();
        if watch.look(now).is_ok() {
            watch.keep(now)?;
        }
        Ok(Arc::new(watch))
    }

    pub fn configure(&self, when_wrong: WhenWrong) {
        self.when_wrong.store(u8::from(when_wrong == WhenWrong::Deny), Ordering::Relaxed);
    }

    /// Whether certificates may be judged by the clock as it is now, for somebody who is registered already.
    pub(crate) fn judges_known(&self) -> Result<(), Wrong> {
        match self.when_wrong.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => self.look(super::now()),
        }
    }

    /// The same for somebody who is not.
    pub(crate) fn judges_unknown(&self) -> Result<(), Wrong> {
        self.look(super::now())
    }

    /// Looks, and tells when the answer is another one than before.
    fn look(&self, now: UnixMillis) -> Result<(), Wrong> {
        if !self.check {
            return Ok(());
        }
        let verdict = judge(now, self.built_at, UnixMillis(self.latest.load(Ordering::Relaxed)));
        let right = verdict.is_ok();
        if self.right.swap(right, Ordering::AcqRel) != right {
            self.gauge.set(i64::from(right));
            let event = match verdict {
                Ok(()) => {
                    tracing::warn!("the machine's clock is right again");
                    AuditEvent::new(names::CLOCK_RIGHT, Outcome::Success, Reason::Ok)
                }
                Err(wrong) => {
                    tracing::error!(
                        "{wrong}: certificates do not register by themselves until it is set; if the time is \
                         right, start once with clock.check = false"
                    );
                    AuditEvent::new(names::CLOCK_WRONG, Outcome::Error, Reason::ClockInsane)
                        .field("detail", wrong.to_string())
                }
            };
            self.audit.record(event);
        }
        verdict
    }

    fn keep(&self, now: UnixMillis) -> Result<(), StorageError> {
        if now.0 <= self.latest.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.storage.put_setting(SETTING, &now.0.to_le_bytes())?;
        self.latest.store(now.0, Ordering::Relaxed);
        Ok(())
    }

    /// Looks at the clock and keeps what it shows, until `shutdown`. To be run once.
    pub async fn housekeeping(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let now = super::now();
            if self.look(now).is_ok() {
                let this = Arc::clone(&self);
                let kept = tokio::task::spawn_blocking(move || this.keep(now)).await;
                if let Ok(Err(error)) = kept {
                    tracing::warn!(%error, "the time is not kept");
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// For the operator.
impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BeforeBuild { now, built_at } => write!(
                f,
                "the machine's clock shows {}, and this program was not built before {}",
                now.seconds(),
                built_at.seconds()
            ),
            Self::WentBack { now, latest } => {
                write!(f, "the machine's clock shows {}, and has shown {}", now.seconds(), latest.seconds())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditSettings;
    use crate::testing::{MemoryStorage, metrics};

    const DAY: u64 = MOST_BACK;

    #[test]
    fn server_clock_wrong() {
        let at = |days: u64| UnixMillis(days * DAY);
        let wrong = |now: UnixMillis| judge(now, at(10), at(20));
        assert_eq!(wrong(at(20)), Ok(()));
        assert_eq!(wrong(at(19)), Ok(()), "set back by a day, at the limit");
        let late = UnixMillis(at(19).0 - 1);
        assert_eq!(wrong(late), Err(Wrong::WentBack { now: late, latest: at(20) }));
        assert_eq!(judge(at(10), at(10), at(0)), Ok(()));
        assert!(matches!(judge(UnixMillis(at(10).0 - 1), at(10), at(0)), Err(Wrong::BeforeBuild { .. })));
        assert!(matches!(judge(UnixMillis(0), at(10), at(0)), Err(Wrong::BeforeBuild { .. })), "no NTP");
    }

    fn watch(storage: &Arc<MemoryStorage>, built_at: UnixMillis, check: bool) -> Arc<ClockWatch> {
        let audit = AuditLog::open(AuditSettings::default(), Arc::clone(&metrics().gate)).unwrap();
        let registry = prometheus::Registry::new();
        ClockWatch::open(Arc::clone(storage) as _, Arc::new(audit), &registry, built_at, check).unwrap()
    }

    #[tokio::test]
    async fn what_the_clock_has_shown_outlives_the_broker() {
        let storage = Arc::new(MemoryStorage::default());
        let long_ago = UnixMillis(1);
        assert!(watch(&storage, long_ago, true).judges_unknown().is_ok());
        let kept = storage.setting(SETTING).unwrap().expect("it is kept at once");
        let kept = u64::from_le_bytes(kept.try_into().unwrap());
        // As if it had shown a time in two days.
        let later = kept + 2 * DAY;
        storage.put_setting(SETTING, &later.to_le_bytes()).unwrap();
        let wrong = watch(&storage, long_ago, true);
        assert!(matches!(wrong.judges_unknown(), Err(Wrong::WentBack { .. })));
        assert_eq!(wrong.gauge.get(), 0);
        assert!(wrong.judges_known().is_ok(), "the default lets them be judged");
        wrong.configure(WhenWrong::Deny);
        assert!(wrong.judges_known().is_err());
        // The operator says that the time is right: what was kept is forgotten.
        assert!(watch(&storage, long_ago, false).judges_unknown().is_ok());
        assert!(watch(&storage, long_ago, true).judges_unknown().is_ok());
        let unborn = UnixMillis(u64::MAX);
        assert!(matches!(watch(&storage, unborn, true).judges_unknown(), Err(Wrong::BeforeBuild { .. })));
    }
}
