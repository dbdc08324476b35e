//! Looking for records: what they must be like, and finding them page by page.

use jiff::Timestamp;
use mqgate_identity::time::UnixMillis;

use crate::read::ReadError;
use crate::record::{Record, Stored, time};
use crate::view::View;

/// Records read in one go.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// What records must be like. What is not set is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `connection.refused`; `connection` for all that begin with `connection.`
    pub name: Option<String>,
    pub category: Option<String>,
    pub outcome: Option<String>,
    pub reason: Option<String>,
    pub actor: Option<String>,
    pub client_id: Option<String>,
    pub device_id: Option<String>,
    pub fingerprint: Option<String>,
    pub listener: Option<String>,
    /// An address, with or without its port.
    pub peer: Option<String>,
    pub connection_id: Option<u64>,
    /// Of a request to the admin API.
    pub request_id: Option<String>,
    /// RFC 3339, UTC, as records have it: [`moment`].
    pub since: Option<String>,
    pub until: Option<String>,
}

/// A point in time as records write it, so that they compare as texts.
pub fn moment(text: &str) -> Option<String> {
    let at: Timestamp = text.parse().ok()?;
    Some(time(UnixMillis(u64::try_from(at.as_millisecond()).ok()?)))
}

impl Filter {
    pub fn matches(&self, record: &Record) -> bool {
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let has = |wanted: &Option<String>, value: &Option<String>| wanted.is_none() || wanted == value;
        let name = self.name.as_deref().is_none_or(|wanted| {
            let rest = record.name.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let peer = self.peer.as_deref().is_none_or(|wanted| {
            let peer = record.peer.as_deref().unwrap_or_default();
            let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
            peer == wanted || host.trim_matches(['[', ']']) == wanted
        });
        let request = || record.fields.get("request_id").and_then(|id| id.as_str()).map(str::to_owned);
        name && peer
            && is(&self.category, &record.category)
            && is(&self.outcome, &record.outcome)
            && is(&self.reason, &record.reason)
            && is(&self.actor, &record.actor)
            && has(&self.client_id, &record.client_id)
            && has(&self.device_id, &record.device_id)
            && has(&self.fingerprint, &record.fingerprint)
            && has(&self.listener, &record.listener)
            && self.connection_id.is_none_or(|wanted| record.connection_id == Some(wanted))
            && (self.request_id.is_none() || self.request_id == request())
            && self.since.as_ref().is_none_or(|since| record.time >= *since)
            && self.until.as_ref().is_none_or(|until| record.time < *until)
    }
}

/// Some records that matched, and where to go on.
#[derive(Debug, Default)]
pub struct Found {
    pub records: Vec<Record>,
    /// Everything up to this record was looked at.
    pub after: u64,
    /// There is nothing behind it now.
    pub is_end: bool,
}

/// Looks through the records behind `after`, for at most `limit` that match, and at no more than `scan` of them.
/// `reveal` is given the name and the text of members that may be encrypted.
pub fn find(
    view: &View,
    filter: &Filter,
    after: u64,
    (limit, scan): (usize, usize),
    reveal: &mut dyn FnMut(&str, &str) -> Option<String>,
) -> Result<Found, ReadError> {
    let after = match &filter.since {
        Some(since) => after.max(before(view, since)?),
        None => after,
    };
    let mut reader = view.reader(after);
    let mut found = Found { after, ..Found::default() };
    let mut left = scan;
    while left > 0 {
        let batch = reader.batch(BATCH.min(left), BATCH_BYTES)?;
        if batch.records.is_empty() {
            found.is_end = true;
            break;
        }
        left -= batch.records.len();
        for stored in batch.records {
            found.after = stored.sequence;
            // What is no record is for `verify` to tell.
            let Ok(mut record) = stored.parse() else { continue };
            show(&mut record, reveal);
            if filter.matches(&record) {
                found.records.push(record);
                if found.records.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// Looks through the records before `before`, the newest first, for at most `limit` that are `wanted`, and at no more than
/// `scan` of them. `after` of what is found is the oldest that was looked at.
pub fn find_newest(
    view: &View,
    before: u64,
    (limit, scan): (usize, usize),
    reveal: &mut dyn FnMut(&str, &str) -> Option<String>,
    wanted: &dyn Fn(&Record) -> bool,
) -> Result<Found, ReadError> {
    let end = view.end();
    let mut found = Found { after: before.min(end.written.saturating_add(1)), ..Found::default() };
    let mut left = scan as u64;
    let mut reader = view.reader(0);
    loop {
        let newest = found.after.saturating_sub(1);
        if newest < view.end().oldest || newest == 0 {
            found.is_end = true;
            return Ok(found);
        }
        if left == 0 {
            return Ok(found);
        }
        let many = left.min(BATCH as u64).min(newest);
        left -= many;
        let mut window = Vec::new();
        reader.seek(newest - many);
        while reader.after() < newest {
            let batch = reader.batch(BATCH, BATCH_BYTES)?;
            if batch.records.is_empty() {
                break;
            }
            window.extend(batch.records.into_iter().filter(|stored| stored.sequence <= newest));
        }
        for stored in window.into_iter().rev() {
            found.after = stored.sequence;
            let Ok(mut record) = stored.parse() else { continue };
            show(&mut record, reveal);
            if wanted(&record) {
                found.records.push(record);
                if found.records.len() >= limit {
                    return Ok(found);
                }
            }
        }
        // What retention deleted meanwhile is passed over.
        found.after = found.after.min(newest - many + 1);
    }
}

/// The last record that is certainly before `since`: the one before the newest segment that begins before it.
fn before(view: &View, since: &str) -> Result<u64, ReadError> {
    for first in view.firsts().into_iter().rev() {
        let batch = view.reader(first - 1).batch(1, usize::MAX)?;
        let begins = batch.records.first().and_then(|record| Stored::parse(record).ok());
        if begins.is_some_and(|record| record.time.as_str() < since) {
            return Ok(first - 1);
        }
    }
    Ok(0)
}

/// Puts the text of encrypted members in their place, as far as it can be had.
pub fn show(record: &mut Record, reveal: &mut dyn FnMut(&str, &str) -> Option<String>) {
    let members = [
        ("client_id", &mut record.client_id),
        ("device_id", &mut record.device_id),
        ("fingerprint", &mut record.fingerprint),
        ("peer", &mut record.peer),
        ("sni", &mut record.sni),
        ("subject", &mut record.subject),
    ];
    for (name, value) in members {
        if let Some(text) = value.as_deref().and_then(|text| reveal(name, text)) {
            *value = Some(text);
        }
    }
    for (name, value) in &mut record.fields {
        let texts: Vec<&mut serde_json::Value> = match value {
            serde_json::Value::Array(items) => items.iter_mut().collect(),
            one => vec![one],
        };
        for text in texts {
            if let Some(shown) = text.as_str().and_then(|text| reveal(name, text)) {
                *text = shown.into();
            }
        }
    }
}
