//! How large an event may be: what clients say is cut short, and every event has a weight in bytes.

use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::Value;

/// Bytes kept of a string that a client chose.
const OF_CLIENTS: usize = 256;
/// Bytes kept of any other.
const OF_OTHERS: usize = 4096;
/// Follows what was cut short.
const CUT: char = '…';
/// Fields that hold what a client said, in its words.
const CLIENTS_FIELDS: [&str; 3] = ["user_name", "topic", "filter"];

/// Cuts long strings short. Fingerprints and reasons are whole in any case.
pub(super) fn clip(event: &mut AuditEvent) {
    let texts = [&mut event.client_id, &mut event.device_id, &mut event.subject, &mut event.server_name];
    for text in texts.into_iter().flatten() {
        clip_text(text, OF_CLIENTS);
    }
    for field in &mut event.fields {
        let most = if CLIENTS_FIELDS.contains(&&*field.name) { OF_CLIENTS } else { OF_OTHERS };
        match &mut field.value {
            Value::Text(text) => clip_text(text, most),
            Value::Texts(texts) => texts.iter_mut().for_each(|text| clip_text(text, most)),
            Value::Blob(bytes) => bytes.truncate(most),
            Value::Integer(_) | Value::Boolean(_) => {}
        }
    }
}

fn clip_text(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push(CUT);
        // What was cut off is to be gone from memory, too.
        text.shrink_to_fit();
    }
}

/// Bytes an event takes in memory, nearly.
pub(super) fn weight(event: &AuditEvent) -> usize {
    let texts = [&event.client_id, &event.device_id, &event.peer_address, &event.subject, &event.server_name];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    let fields: usize = event
        .fields
        .iter()
        .map(|field| {
            let value = match &field.value {
                Value::Text(text) => text.len(),
                Value::Texts(texts) => texts.iter().map(|text| size_of::<String>() + text.len()).sum(),
                Value::Blob(bytes) => bytes.len(),
                Value::Integer(_) | Value::Boolean(_) => 0,
            };
            size_of_val(field) + field.name.len() + value
        })
        .sum();
    size_of::<AuditEvent>() + texts + event.actor.len() + size_of_val(&*event.plugins) + fields
}

#[cfg(test)]
mod tests {
    use mqgate_identity::audit::{Outcome, names};
    use mqgate_identity::certificate::CertificateFingerprint;
    use mqgate_identity::reason::Reason;

    use super::*;

    #[test]
    fn what_a_client_says_is_cut_short() {
        let mut event = AuditEvent::new(names::CONNECTION_REFUSED, Outcome::Failure, Reason::PluginDenied)
            .field("user_name", "é".repeat(32 << 10))
            .field("filter", "f".repeat(256))
            .field("detail", "d".repeat(1000));
        event.client_id = Some(format!("x{}", "é".repeat(300)));
        event.subject = Some("CN=short".into());
        event.server_name = Some("s".repeat(1 << 16));
        event.certificate_fingerprint = Some(CertificateFingerprint([7; 32]));
        let before = weight(&event);
        clip(&mut event);
        assert!(before > 64 << 10);
        assert!(weight(&event) < 4096, "{}", weight(&event));
        let client_id = event.client_id.as_deref().unwrap();
        assert_eq!((client_id.len(), client_id.chars().last()), (255 + "…".len(), Some('…')));
        assert_eq!(event.subject.as_deref(), Some("CN=short"));
        assert_eq!(event.certificate_fingerprint, Some(CertificateFingerprint([7; 32])));
        let lengths: Vec<_> = event
            .fields
            .iter()
            .map(|field| match &field.value {
                Value::Text(text) => text.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(lengths, [256 + "…".len(), 256, 1000]);
    }
}
