//! The deterministic encoding of a record. Every record of every connection goes through here: nothing is formatted that
//! can be copied, and nothing is allocated.

use mqgate_identity::audit::{AuditEvent, Category, PluginVerdict};
use mqgate_identity::hooks::Value;
use mqgate_identity::time::UnixMillis;

use super::{LARGEST_NUMBER, VERSION, time};
use crate::hash::Half;

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Fields that are sorted without a heap; few events have more.
const FEW: usize = 16;
/// Fields that a sequel does not repeat.
const OF_BEGINNING: [&str; 4] = ["ca", "proxy", "tls.resumed", "tls.version"];

/// Gives the form in which the member of this name and text is written; `None` for one that is not personal.
pub type Hide<'a> = dyn Fn(&str, &str) -> Option<String> + 'a;

/// What a record needs besides its event.
pub struct Place<'a> {
    pub log: &'a str,
    pub sequence: u64,
    pub prev: Half,
    /// The event's time, as [`Stamp::of`] or [`time`] write it.
    pub time: &'a str,
    /// Where something is encrypted.
    pub hide: Option<&'a Hide<'a>>,
}

impl Place<'_> {
    fn shown(&self, member: &str, value: &str) -> Option<String> {
        self.hide.and_then(|hide| hide(member, value))
    }
}

/// Writes times that are mostly of the same second as the one before.
#[derive(Debug, Default)]
pub struct Stamp {
    second: Option<u64>,
    text: String,
}

impl Stamp {
    /// The same as [`time`].
    pub fn of(&mut self, at: UnixMillis) -> &str {
        let (second, millis) = (at.0 / 1000, at.0 % 1000);
        if self.second == Some(second) {
            // `2026-11-22T00:00:00.` stays.
            self.text.truncate(self.text.len() - 4);
            for part in [millis / 100, millis / 10 % 10, millis % 10] {
                self.text.push(char::from(DIGITS[(part % 10) as usize]));
            }
            self.text.push('Z');
        } else {
            self.text = time(at);
            self.second = self.text.ends_with('Z').then_some(second);
        }
        &self.text
    }
}

/// Appends `event` as a line, without a line feed.
pub fn encode(event: &AuditEvent, place: &Place<'_>, out: &mut Vec<u8>) {
    // Everything but what comes from outside is plain text: it needs no look for what must be escaped.
    out.extend_from_slice(b"{\"actor\":");
    string(&event.actor, out);
    plain(out, b",\"category\":\"", Category::of(event.name).as_str());
    personal(out, b",\"client_id\":", "client_id", event.client_id.as_deref(), place);
    if let Some(id) = event.connection_id {
        number(out, b",\"connection_id\":", id);
    }
    personal(out, b",\"device_id\":", "device_id", event.device_id.as_deref(), place);
    fields(event, place, out);
    let is_whole = !event.is_sequel;
    if let Some(fingerprint) = event.certificate_fingerprint.as_ref().filter(|_| is_whole) {
        out.extend_from_slice(b",\"fingerprint\":");
        match place.hide {
            Some(_) => {
                let text = fingerprint.to_hex();
                let shown = place.shown("fingerprint", &text);
                string(shown.as_deref().unwrap_or(&text), out);
            }
            None => {
                out.push(b'"');
                hex(&fingerprint.0, out);
                out.push(b'"');
            }
        }
    }
    if let Some(listener) = event.listener.as_ref().filter(|_| is_whole) {
        out.extend_from_slice(b",\"listener\":");
        string(listener, out);
    }
    plain(out, b",\"log\":\"", place.log);
    plain(out, b",\"name\":\"", event.name);
    plain(out, b",\"outcome\":\"", event.outcome.as_str());
    if is_whole {
        personal(out, b",\"peer\":", "peer", event.peer_address.as_deref(), place);
    }
    if !event.plugins.is_empty() {
        out.extend_from_slice(b",\"plugins\":[");
        verdicts(&event.plugins, out);
        out.push(b']');
    }
    out.extend_from_slice(b",\"prev\":\"");
    hex(&place.prev.0, out);
    plain(out, b"\",\"reason\":\"", event.reason.as_str());
    number(out, b",\"seq\":", place.sequence);
    if is_whole {
        personal(out, b",\"sni\":", "sni", event.server_name.as_deref(), place);
        personal(out, b",\"subject\":", "subject", event.subject.as_deref(), place);
    }
    plain(out, b",\"time\":\"", place.time);
    number(out, b",\"v\":", VERSION.into());
    out.push(b'}');
}

fn fields(event: &AuditEvent, place: &Place<'_>, out: &mut Vec<u8>) {
    let fields = &event.fields;
    let Some(any) = fields.first() else { return };
    let mut few = [any; FEW];
    let mut many = Vec::new();
    let sorted = match few.get_mut(..fields.len()) {
        Some(few) => {
            few.iter_mut().zip(fields).for_each(|(place, field)| *place = field);
            few
        }
        None => {
            many.extend(fields);
            &mut many[..]
        }
    };
    // RFC 8785, section 3.2.3: by UTF-16 code units. Of two with one name the later holds.
    if fields.iter().all(|field| field.name.is_ascii()) {
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
    } else {
        sorted.sort_by(|a, b| a.name.encode_utf16().cmp(b.name.encode_utf16()));
    }
    let start = out.len();
    for (at, field) in sorted.iter().enumerate() {
        if sorted.get(at + 1).is_some_and(|next| next.name == field.name) {
            continue;
        }
        if event.is_sequel && OF_BEGINNING.contains(&&*field.name) {
            continue;
        }
        out.extend_from_slice(if out.len() == start { b",\"fields\":{" } else { b"," });
        string(&field.name, out);
        match &field.value {
            Value::Text(text) => personal(out, b":", &field.name, Some(text), place),
            Value::Integer(number) => integer(out, *number),
            Value::Boolean(yes) => out.extend_from_slice(if *yes { b":true" } else { b":false" }),
            Value::Blob(bytes) => personal(out, b":", &field.name, Some(&hex::encode(bytes)), place),
            Value::Texts(texts) => {
                out.extend_from_slice(b":[");
                for (at, text) in texts.iter().enumerate() {
                    personal(out, if at > 0 { b"," } else { b"" }, &field.name, Some(text), place);
                }
                out.push(b']');
            }
        }
    }
    if out.len() > start {
        out.push(b'}');
    }
}

fn verdicts(plugins: &[PluginVerdict], out: &mut Vec<u8>) {
    for (at, verdict) in plugins.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match &verdict.digest {
            Some(digest) => {
                out.extend_from_slice(b"{\"digest\":");
                string(digest, out);
                plain(out, b",\"hook\":\"", verdict.hook);
            }
            None => plain(out, b"{\"hook\":\"", verdict.hook),
        }
        out.extend_from_slice(b",\"name\":");
        string(&verdict.name, out);
        plain(out, b",\"result\":\"", verdict.result);
        if verdict.digest.is_some() {
            number(out, b",\"us\":", verdict.microseconds);
        }
        out.push(b'}');
    }
}

/// A text that has nothing to escape; `name` has its opening quotation mark, too.
#[inline]
fn plain(out: &mut Vec<u8>, name: &[u8], text: &str) {
    out.extend_from_slice(name);
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[inline]
fn personal(out: &mut Vec<u8>, start: &[u8], name: &str, value: Option<&str>, place: &Place<'_>) {
    let Some(value) = value else { return };
    out.extend_from_slice(start);
    match place.shown(name, value) {
        Some(shown) => string(&shown, out),
        None => string(value, out),
    }
}

fn number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    let is_text = value > LARGEST_NUMBER;
    if is_text {
        out.push(b'"');
    }
    decimal(value, out);
    if is_text {
        out.push(b'"');
    }
}

fn integer(out: &mut Vec<u8>, value: i64) {
    let is_text = value.unsigned_abs() > LARGEST_NUMBER;
    out.extend_from_slice(if is_text { b":\"" } else { b":" });
    if value < 0 {
        out.push(b'-');
    }
    decimal(value.unsigned_abs(), out);
    if is_text {
        out.push(b'"');
    }
}

fn decimal(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = DIGITS[(value % 10) as usize];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn hex<const N: usize>(bytes: &[u8; N], out: &mut Vec<u8>) {
    let mut digits = [[0; 2]; N];
    for (pair, byte) in digits.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    out.extend_from_slice(digits.as_flattened());
}

/// RFC 8785, section 3.2.2.2: what must be escaped is, in the shortest way, and nothing else.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if !has_escapes(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            0x00..=0x1f => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            out.extend_from_slice(b"00");
            hex(&[byte], out);
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

/// Whether a control character, a quotation mark or a backslash is among the bytes: nearly never. Eight at a time.
fn has_escapes(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The top bit of each byte that is less than another; the lowest that is set is right, and none is if none is.
    let less = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let marks = |word: u64| {
        let quote = less(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = less(word ^ (ONES * u64::from(b'\\')), 1);
        (less(word, 0x20) | quote | backslash) & TOPS
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().fold(marks(u64::from_ne_bytes(last)), |found, word| found | marks(u64::from_ne_bytes(*word)))
        != 0
}
