//! What happened, as the checkers need it: messages, subscriptions, deliveries.

/// Counts what a story does; orders everything.
pub type Step = u32;

/// Index into [`History::messages`]; the payload of a message is this number.
pub type MessageId = usize;

/// Index into the clients.
pub type ClientId = usize;

#[derive(Debug)]
pub struct Message {
    pub publisher: ClientId,
    pub topic: String,
    pub qos: u8,
    pub sent_at: Step,
    /// The broker took responsibility: PUBACK or PUBREC without an error.
    pub accepted: bool,
    /// Sent again after a reconnection: a second copy is on its way, and may come late.
    pub repeated: bool,
    pub will: Option<WillFate>,
}

/// How often a will has to be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillFate {
    Never,
    Once,
    /// The story left it open.
    AtMostOnce,
}

#[derive(Debug)]
pub struct Subscription {
    pub client: ClientId,
    /// With `$share/…/` if it is shared.
    pub filter: String,
    pub qos: u8,
    /// Lowest QoS asked for the same filter since.
    pub at_most: u8,
    /// SUBACK was seen; `Step::MAX` as long as it was not.
    pub from: Step,
    /// UNSUBSCRIBE was sent, or the session was lost.
    pub until: Option<Step>,
}

#[derive(Debug)]
pub struct Delivery {
    pub client: ClientId,
    pub message: MessageId,
    pub qos: u8,
    /// Because of a new subscription, not because of a publish.
    pub retained: bool,
    pub at: Step,
}

#[derive(Debug, Default)]
pub struct History {
    pub messages: Vec<Message>,
    pub subscriptions: Vec<Subscription>,
    pub deliveries: Vec<Delivery>,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub step: Step,
}

impl History {
    pub fn note(&mut self, text: String) {
        self.trace.push(format!("{:4} {text}", self.step));
    }

    pub fn violated(&mut self, text: String) {
        self.note(format!("VIOLATION {text}"));
        self.violations.push(format!("step {}: {text}", self.step));
    }

    /// Nobody knows what becomes of the client's session; if it goes on, so do its subscriptions.
    pub fn session_uncertain(&mut self, client: ClientId) {
        for subscription in self.subscriptions.iter_mut().filter(|one| one.client == client) {
            subscription.from = Step::MAX;
        }
    }

    /// The client's session is gone: what it was subscribed to is history.
    pub fn session_lost(&mut self, client: ClientId) {
        let step = self.step;
        for subscription in self.subscriptions.iter_mut().filter(|one| one.client == client) {
            subscription.until.get_or_insert(step);
        }
    }
}

/// The filter without `$share/group/`.
pub fn plain(filter: &str) -> &str {
    match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or(rest, |(_, filter)| filter),
        None => filter,
    }
}

/// Matching as [MQTT-4.7] has it, written again so that the broker's own cannot hide its mistakes.
pub fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (plain(filter).split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}
