//! The events of changes, written with them: a ring of the newest, each with its number.

use mqgate_identity::registry::{EventsPage, NewEvent, RegistryEvent, StorageError};

use crate::engine::{Batch, Engine, Space};
use crate::keys::{OUTBOX_BOUNDS, event_key, name_of_key};
use crate::records::{from_json, to_json};

/// Events taken out for each one put in, at most: a limit that was lowered is reached bit by bit.
const TRIM: u64 = 4;

/// Numbers of the oldest and of the newest event; (1, 0): there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
}

pub(crate) fn bounds(space: &Space) -> Result<Bounds, StorageError> {
    let corrupt = || StorageError::Corrupt(name_of_key(OUTBOX_BOUNDS));
    let Some(payload) = space.get(OUTBOX_BOUNDS, || name_of_key(OUTBOX_BOUNDS))? else {
        return Ok(Bounds { oldest: 1, newest: 0 });
    };
    let (numbers, rest) = payload.as_chunks::<8>();
    match (numbers, rest) {
        ([oldest, newest], []) => {
            Ok(Bounds { oldest: u64::from_be_bytes(*oldest), newest: u64::from_be_bytes(*newest) })
        }
        _ => Err(corrupt()),
    }
}

/// Puts events into the batch, takes out those over the limit, and answers the number of the newest.
pub(crate) fn append(
    space: &Space,
    batch: &mut Batch,
    events: &[NewEvent],
    limit: u64,
) -> Result<u64, StorageError> {
    let mut bounds = bounds(space)?;
    if events.is_empty() {
        return Ok(bounds.newest);
    }
    for event in events {
        bounds.newest += 1;
        let event = RegistryEvent {
            sequence: bounds.newest,
            kind: event.kind,
            at: event.at,
            actor: event.actor.clone(),
            data: event.data.clone(),
        };
        batch.put(&event_key(bounds.newest), &to_json(&event)?);
    }
    let kept = bounds.newest + 1 - bounds.oldest;
    let over = kept.saturating_sub(limit.max(1)).min(TRIM * events.len() as u64);
    for number in bounds.oldest..bounds.oldest + over {
        batch.remove(&event_key(number));
    }
    bounds.oldest += over;
    batch.put(OUTBOX_BOUNDS, [bounds.oldest, bounds.newest].map(u64::to_be_bytes).as_flattened());
    Ok(bounds.newest)
}

pub(crate) fn page(engine: &Engine, after: u64, limit: usize) -> Result<EventsPage, StorageError> {
    let space = &engine.registry;
    let Bounds { oldest, newest } = bounds(space)?;
    let mut events = Vec::new();
    // Begun at a number, never at the prefix: what was taken out in front would be walked over each time.
    let first = after.saturating_add(1).max(oldest);
    let last = newest.min(first.saturating_add(limit as u64).saturating_sub(1));
    for number in first..=last {
        let key = event_key(number);
        // Between the bounds and here a writer may have taken it out.
        let Some(payload) = space.get(&key, || name_of_key(&key))? else { continue };
        events.push(from_json::<RegistryEvent>(&key, &payload)?);
    }
    Ok(EventsPage { events, oldest, newest })
}
