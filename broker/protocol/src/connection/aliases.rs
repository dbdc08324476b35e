//! Topic Aliases that this side sets: the topics sent most recently have one.

use std::num::NonZeroU16;

use mqgate_codec::TopicName;

use crate::message::detached_topic;
use crate::session::Alias;

/// What one connection's client has been told. Nothing of it survives the connection [MQTT-3.3.2-7].
#[derive(Debug)]
pub(super) struct Aliases {
    /// The alias is the position and one [MQTT-3.3.2-8].
    topics: Vec<Known>,
    maximum: NonZeroU16,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    topic: TopicName,
    used: u64,
}

impl Aliases {
    /// At most `maximum` aliases, which is no more than the client takes [MQTT-3.1.2-26].
    pub(super) fn new(maximum: NonZeroU16) -> Self {
        Self { topics: Vec::new(), maximum, clock: 0 }
    }

    /// The alias to send a message for `topic` with; the one that was not used for the longest time goes for
    /// a new one.
    pub(super) fn alias(&mut self, topic: &TopicName) -> Alias {
        self.clock += 1;
        let used = self.clock;
        if let Some(at) = self.topics.iter().position(|known| known.topic == *topic) {
            self.topics[at].used = used;
            return Alias { number: number(at), known: true };
        }
        let new = Known { topic: detached_topic(topic), used };
        let oldest = self.topics.iter().enumerate().min_by_key(|(_, known)| known.used).map(|(at, _)| at);
        let at = match oldest {
            Some(at) if self.topics.len() >= usize::from(self.maximum.get()) => {
                self.topics[at] = new;
                at
            }
            Some(_) | None => {
                self.topics.push(new);
                self.topics.len() - 1
            }
        };
        Alias { number: number(at), known: false }
    }
}

fn number(at: usize) -> NonZeroU16 {
    let number = u16::try_from(at).ok().and_then(|at| NonZeroU16::new(at.saturating_add(1)));
    number.expect("there are at most 65,535 aliases")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `number`, with `!` where the topic has to be sent.
    fn sent(aliases: &mut Aliases, topics: &str) -> String {
        let sent = topics.split(' ').map(|topic| {
            let Alias { number, known } = aliases.alias(&TopicName::parse(topic.into()).unwrap());
            format!("{number}{}", if known { "" } else { "!" })
        });
        sent.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_oldest_alias_goes_for_a_new_one() {
        let mut aliases = Aliases::new(NonZeroU16::new(2).unwrap());
        assert_eq!(sent(&mut aliases, "a b a c a b"), "1! 2! 1 2! 1 2!");
    }
}
