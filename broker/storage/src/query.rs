//! Answers queries: picks the index with the fewest keys for what is asked, walks it from the cursor, and reads and
//! compares the records.

use mqgate_identity::registry::{
    Cursor, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, MAX_PAGE, MAX_SCANNED, QueryIndex,
    StorageError, plain_serial,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};

use crate::engine::{Engine, Space};
use crate::index::{self, text_prefix};
use crate::keys::{self, STATES, device_prefix, name_of_key, trailing_id};
use crate::records::{parse_device, read_plain};
use crate::seen;

/// Keys of an index that are counted to find out which is shorter.
const PROBED: usize = 200;

/// From one key up to and without another.
type Range = (Vec<u8>, Vec<u8>);

struct Plan {
    index: QueryIndex,
    /// In order, apart from each other.
    ranges: Vec<Range>,
}

pub(crate) fn run(engine: &Engine, query: &DeviceQuery) -> Result<DevicePage, StorageError> {
    let space = &engine.registry;
    let plans = plans(query);
    let (plan, after) = match &query.cursor {
        Some(cursor) => resume(plans, cursor)?,
        None => (shortest(space, plans)?, None),
    };
    let limit = match query.limit {
        0 => MAX_PAGE,
        limit => limit.min(MAX_PAGE),
    };
    let mut page = DevicePage { records: Vec::new(), next: None, index: plan.index };
    let mut reached: Option<Vec<u8>> = None;
    let mut scanned = 0;
    for (from, until) in &plan.ranges {
        let from = match &after {
            Some(after) if after >= until => continue,
            // The key that follows.
            Some(after) if after >= from => [after, &[0][..]].concat(),
            _ => from.clone(),
        };
        for candidate in candidates(space, plan.index, &from, until) {
            let (key, record) = candidate?;
            if page.records.len() == limit || scanned == MAX_SCANNED {
                page.next = reached.map(|key| cursor(plan.index, &key));
                return Ok(page);
            }
            scanned += 1;
            reached = Some(key);
            if let Some(record) = record {
                page.records.extend(seen_if_wanted(space, query, record)?);
            }
        }
    }
    Ok(page)
}

type Candidate = Result<(Vec<u8>, Option<DeviceCertificate>), StorageError>;

/// The records of a range; `None` where another writer has moved one between the index and here.
fn candidates<'a>(
    space: &'a Space,
    index: QueryIndex,
    from: &[u8],
    until: &[u8],
) -> Box<dyn Iterator<Item = Candidate> + 'a> {
    match index {
        // The keys are those of the records.
        QueryIndex::Id => Box::new(space.entries(from, until, name_of_key).map(|entry| {
            let (key, payload) = entry?;
            let record = parse_device(&key, &payload)?;
            Ok((key, Some(record)))
        })),
        _ => Box::new(space.keys(from, until, name_of_key).map(|key| {
            let key = key?;
            let id = trailing_id(&key).ok_or_else(|| StorageError::Corrupt(name_of_key(&key)))?;
            Ok((key, read_plain(space, &id)?))
        })),
    }
}

/// A record with when it was last seen, if it is one of those asked for. That is read last: it costs as much as the
/// record, and few queries ask for it.
fn seen_if_wanted(
    space: &Space,
    query: &DeviceQuery,
    mut record: DeviceCertificate,
) -> Result<Option<DeviceCertificate>, StorageError> {
    if query.last_seen.is_open() && !query.is_for(&record) {
        return Ok(None);
    }
    record.last_seen = seen::read(space, &record.id)?;
    Ok(query.is_for(&record).then_some(record))
}

/// Every index that could answer, the best guess first.
fn plans(query: &DeviceQuery) -> Vec<Plan> {
    let one = |index, prefix: Vec<u8>| Plan { index, ranges: vec![whole(prefix)] };
    let mut plans = Vec::new();
    if let Some(serial) = &query.serial {
        plans.push(one(QueryIndex::Serial, text_prefix(index::SERIAL, &plain_serial(serial))));
    }
    if let Some(spki) = &query.spki_sha256 {
        plans.push(one(QueryIndex::Spki, text_prefix(index::SPKI, &spki.to_ascii_lowercase())));
    }
    if let Some(client_id) = &query.client_id {
        plans.push(one(QueryIndex::ClientId, text_prefix(index::CLIENT_ID, client_id)));
    }
    if let Some(device_id) = query.device_id.as_deref().filter(|id| !id.contains('\0')) {
        plans.push(one(QueryIndex::Device, device_prefix(device_id)));
    }
    if let Some(name) = &query.common_name {
        plans.push(one(QueryIndex::CommonName, text_prefix(index::COMMON_NAME, name)));
    }
    if let Some(name) = &query.san {
        plans.push(one(QueryIndex::San, index::alternative_name_prefix(name)));
    }
    if let Some(unit) = &query.organizational_unit {
        plans.push(one(QueryIndex::OrganizationalUnit, text_prefix(index::ORGANIZATIONAL_UNIT, unit)));
    }
    if let Some(tag) = &query.tag {
        plans.push(one(QueryIndex::Tag, text_prefix(index::TAG, tag)));
    }
    if !query.not_after.is_open() {
        let from = index::not_after_prefix(query.not_after.from.unwrap_or(UnixSeconds(i64::MIN)));
        let until = match query.not_after.until {
            Some(until) => index::not_after_prefix(until),
            None => keys::after_prefix(&[b'x', index::NOT_AFTER]),
        };
        plans.push(Plan { index: QueryIndex::NotAfter, ranges: vec![(from, until)] });
    }
    if !query.last_seen.is_open() {
        let from = index::last_seen_prefix(query.last_seen.from.unwrap_or(UnixMillis(0)));
        let until = match query.last_seen.until {
            Some(until) => index::last_seen_prefix(until),
            None => keys::after_prefix(&[b'x', index::LAST_SEEN]),
        };
        plans.push(Plan { index: QueryIndex::LastSeen, ranges: vec![(from, until)] });
    }
    // In the order of their keys.
    let mut states: Vec<(u8, DeviceState)> =
        STATES.iter().copied().filter(|(_, state)| query.is_for_state(*state)).collect();
    states.sort_unstable();
    if let Some(ca) = &query.ca {
        let ranges = states.iter().map(|(_, state)| whole(index::ca_state_prefix(ca, *state))).collect();
        plans.push(Plan { index: QueryIndex::CaState, ranges });
    }
    if !query.states.is_empty() {
        let ranges = states.iter().map(|(_, state)| whole(index::state_prefix(*state))).collect();
        plans.push(Plan { index: QueryIndex::State, ranges });
    }
    if plans.is_empty() {
        plans.push(one(QueryIndex::Id, b"d".to_vec()));
    }
    // An empty range is no range of the database.
    for plan in &mut plans {
        plan.ranges.retain(|(from, until)| from < until);
    }
    plans
}

fn whole(prefix: Vec<u8>) -> Range {
    let end = keys::after_prefix(&prefix);
    (prefix, end)
}

/// The plan with the fewest keys, of those that can be told apart by looking at the first of them.
fn shortest(space: &Space, mut plans: Vec<Plan>) -> Result<Plan, StorageError> {
    let mut best = (0, PROBED + 1);
    if plans.len() > 1 {
        for (at, plan) in plans.iter().enumerate() {
            let mut count = 0;
            for (from, until) in &plan.ranges {
                for key in space.keys(from, until, name_of_key).take(best.1 - count) {
                    key?;
                    count += 1;
                }
                if count >= best.1 {
                    break;
                }
            }
            if count < best.1 {
                best = (at, count);
            }
        }
    }
    Ok(plans.swap_remove(best.0))
}

fn resume(plans: Vec<Plan>, cursor: &Cursor) -> Result<(Plan, Option<Vec<u8>>), StorageError> {
    let (&number, key) = cursor.as_bytes().split_first().ok_or(StorageError::BadCursor)?;
    let plan = plans.into_iter().find(|plan| plan.index as u8 == number).ok_or(StorageError::BadCursor)?;
    let is_inside = |range: &Range| range.0.as_slice() <= key && key < range.1.as_slice();
    match plan.ranges.iter().any(is_inside) {
        true => Ok((plan, Some(key.to_vec()))),
        false => Err(StorageError::BadCursor),
    }
}

fn cursor(index: QueryIndex, key: &[u8]) -> Cursor {
    Cursor::new([&[index as u8][..], key].concat())
}
