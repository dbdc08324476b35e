//! Which request to the admin API a record belongs to: its number goes with the work that the request causes, and into
//! every record of it, without being handed from function to function.

use std::sync::Arc;

use tokio::task::JoinHandle;

/// The field of a record.
pub(super) const FIELD: &str = "request_id";
/// The longest that a caller may choose.
const LONGEST: usize = 64;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The name of one request: the caller's, or 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// What a caller chose, if it can stand in a header and a record: letters, digits, `-`, `_`, `.`, at most 64.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        fits.then(|| Self(text.into()))
    }

    /// A new one.
    pub fn random() -> Self {
        // Without random bytes it is one that others may have, too: it opens nothing.
        Self(format!("{:016x}", getrandom::u64().unwrap_or_default()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Runs `work` as the work of this request.
    pub async fn within<T>(self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self, work).await
    }
}

/// The request that the task of the moment works for.
pub(super) fn current() -> Option<RequestId> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Makes work that goes on elsewhere the work of the request that it was begun for.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let id = current();
    async move {
        match id {
            Some(id) => id.within(work).await,
            None => work.await,
        }
    }
}

/// Like `tokio::spawn`; what is spawned works for the same request.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(carried(work))
}

/// Like `tokio::task::spawn_blocking`; what is done there is done for the same request.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let id = current();
    tokio::task::spawn_blocking(move || match id {
        Some(id) => CURRENT.sync_scope(id, work),
        None => work(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_chooses_is_short_and_plain() {
        for good in ["a", "4bf92f35-77b3.4da6_A", &"x".repeat(LONGEST)] {
            assert_eq!(RequestId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\"b", "é", &"x".repeat(LONGEST + 1)] {
            assert_eq!(RequestId::parse(bad), None, "{bad}");
        }
        assert_eq!(RequestId::random().as_str().len(), 16);
        assert_ne!(RequestId::random(), RequestId::random());
    }

    #[tokio::test]
    async fn a_task_that_is_spawned_works_for_the_same_request() {
        assert_eq!(current(), None);
        let id = RequestId::random();
        let seen = id.clone().within(async { spawn(async { current() }).await.unwrap() });
        assert_eq!(seen.await, Some(id.clone()));
        let seen = id.clone().within(async { spawn_blocking(current).await.unwrap() });
        assert_eq!(seen.await, Some(id));
    }
}
