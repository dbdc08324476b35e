//! Answers of a plugin that may be given again without calling it: for whom and for how long, the plugin said
//! with the answer.
//!
//! They end with the version of the plugin that gave them, and so with its configuration. Whether a certificate
//! is still good is not asked here: the broker finds that out for every connection, before any plugin.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{Authentication, Authorization, CacheHint, CacheScope, Connection, Identity};

/// What was asked, as far as the answer may depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    listener: Arc<str>,
    about: About,
    /// Only an authorizer is asked about somebody.
    who: Option<Identity>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum About {
    /// The leaf, and the trust anchor as the plugin sees it.
    Certificate { leaf: CertificateFingerprint, anchor: CertificateFingerprint, name: Arc<str> },
    /// The identity that is asked about, and nothing else.
    Identity,
}

/// An answer that can be given twice.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    Authentication(Authentication),
    Authorization(Authorization),
}

/// The decisions of one version of one plugin: at most so many, the older half of them goes first.
#[derive(Debug)]
pub(crate) struct Decisions {
    /// The longest that any is kept; zero keeps none.
    longest: Duration,
    half: usize,
    young: HashMap<Question, Entry>,
    old: HashMap<Question, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    until: Instant,
    decision: Decision,
}

impl Question {
    /// What a connection and an identity are to answers of this scope. `None`: such an answer holds for this one
    /// connection.
    pub(crate) fn of(scope: CacheScope, on: &Connection, who: Option<&Identity>) -> Option<Self> {
        let about = match (scope, &on.certificate, who) {
            (CacheScope::Certificate, Some(certificate), _) => About::Certificate {
                leaf: certificate.leaf.certificate_fingerprint,
                anchor: certificate.anchor.certificate_fingerprint,
                name: Arc::clone(&certificate.anchor.name),
            },
            (CacheScope::Identity, _, Some(_)) => About::Identity,
            (CacheScope::Certificate, None, _)
            | (CacheScope::Identity, _, None)
            | (CacheScope::Connection, ..) => return None,
        };
        Some(Self { listener: Arc::clone(&on.listener), about, who: who.cloned() })
    }
}

impl Decisions {
    pub(crate) fn new(longest: Duration, most: usize) -> Self {
        Self { longest, half: most / 2, young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.longest.is_zero() || self.half == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(crate) fn find(&mut self, question: &Question, now: Instant) -> Option<Decision> {
        if let Some(entry) = self.young.get(question) {
            return (now < entry.until).then(|| entry.decision.clone());
        }
        let entry = self.old.get(question).filter(|entry| now < entry.until)?;
        let decision = entry.decision.clone();
        // What is used stays, unless others would have to go for it.
        if self.young.len() < self.half
            && let Some((question, entry)) = self.old.remove_entry(question)
        {
            self.young.insert(question, entry);
        }
        Some(decision)
    }

    /// Says how many others had to go.
    pub(crate) fn remember(
        &mut self,
        question: Question,
        hint: CacheHint,
        decision: Decision,
        now: Instant,
    ) -> usize {
        let kept_for = hint.ttl.min(self.longest);
        if self.is_off() || kept_for.is_zero() {
            return 0;
        }
        self.old.remove(&question);
        let mut gone = 0;
        if self.young.len() >= self.half && !self.young.contains_key(&question) {
            gone = self.old.len();
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(question, Entry { until: now + kept_for, decision });
        gone
    }
}

#[cfg(test)]
mod tests {
    use mqgate_identity::hooks::{ConnectFacts, Occasion, Peer};
    use mqgate_identity::time::UnixMillis;

    use super::*;

    fn on(listener: &str) -> Connection {
        Connection {
            id: 7,
            trace_id: String::new(),
            listener: listener.into(),
            accepted_at: UnixMillis(1),
            peer: Peer { address: [10, 0, 0, 1].into(), port: 1, via_proxy: None },
            tls: None,
            certificate: None,
            connect: ConnectFacts {
                protocol_level: 4,
                client_id: String::from("c"),
                clean_start: true,
                keep_alive: 60,
                user_name: None,
                password: None,
                will: None,
                session_expiry: None,
                receive_maximum: None,
                maximum_packet_size: None,
                authentication_method: None,
                user_properties: Vec::new(),
            },
            attributes: Vec::new(),
            occasion: Occasion::Admission,
        }
    }

    fn who(device_id: &str) -> Identity {
        Identity { device_id: device_id.into(), tenant: None, tags: Vec::new(), attributes: Vec::new() }
    }

    fn question(device_id: &str) -> Question {
        Question::of(CacheScope::Identity, &on("l"), Some(&who(device_id))).unwrap()
    }

    const ABSTAIN: Decision = Decision::Authorization(Authorization::Abstain);
    const MINUTE: CacheHint = CacheHint { scope: CacheScope::Identity, ttl: Duration::from_secs(60) };

    #[test]
    fn an_answer_is_for_its_question() {
        let now = Instant::now();
        let mut decisions = Decisions::new(Duration::from_secs(300), 10);
        decisions.remember(question("a"), MINUTE, ABSTAIN, now);
        assert!(decisions.find(&question("a"), now).is_some());
        assert!(decisions.find(&question("b"), now).is_none());
        let elsewhere = Question::of(CacheScope::Identity, &on("m"), Some(&who("a"))).unwrap();
        assert!(decisions.find(&elsewhere, now).is_none(), "another listener is another question");
        let other = Identity { tags: vec!["x".into()], ..who("a") };
        let other = Question::of(CacheScope::Identity, &on("l"), Some(&other)).unwrap();
        assert!(decisions.find(&other, now).is_none(), "the tags may have decided");
    }

    #[test]
    fn some_answers_hold_for_one_connection() {
        let on = on("l");
        assert_eq!(Question::of(CacheScope::Connection, &on, Some(&who("a"))), None);
        assert_eq!(Question::of(CacheScope::Certificate, &on, Some(&who("a"))), None, "there is none");
        assert_eq!(Question::of(CacheScope::Identity, &on, None), None, "nobody knows yet who it is");
    }

    #[test]
    fn an_answer_ends() {
        let now = Instant::now();
        let mut decisions = Decisions::new(Duration::from_secs(30), 10);
        decisions.remember(question("a"), MINUTE, ABSTAIN, now);
        assert!(decisions.find(&question("a"), now + Duration::from_millis(29_999)).is_some());
        assert!(
            decisions.find(&question("a"), now + Duration::from_secs(30)).is_none(),
            "the operator's bound"
        );
        let short = CacheHint { ttl: Duration::from_secs(1), ..MINUTE };
        decisions.remember(question("b"), short, ABSTAIN, now);
        assert!(decisions.find(&question("b"), now + Duration::from_secs(1)).is_none());
        let mut off = Decisions::new(Duration::ZERO, 10);
        off.remember(question("a"), MINUTE, ABSTAIN, now);
        assert_eq!(off.len(), 0);
    }

    #[test]
    fn there_are_never_more_than_the_bound_and_what_is_used_stays() {
        let now = Instant::now();
        let mut decisions = Decisions::new(Duration::from_secs(300), 10);
        let mut gone = 0;
        for number in 0..100 {
            gone += decisions.remember(question(&number.to_string()), MINUTE, ABSTAIN, now);
            assert!(decisions.len() <= 10);
            assert!(decisions.find(&question("0"), now).is_some(), "used all the time");
        }
        assert_eq!(gone, 100 - decisions.len());
    }
}
