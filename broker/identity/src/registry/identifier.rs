//! Names of devices, and texts that may stand in a topic.

/// Bytes of a device id.
pub const MAX_DEVICE_ID_BYTES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    #[error("a device id must not be empty")]
    Empty,
    #[error("a device id has at most {MAX_DEVICE_ID_BYTES} bytes")]
    TooLong,
    #[error("a device id must not contain {0:?}: it becomes part of topics")]
    Forbidden(char),
}

/// 1 to 256 bytes, none of `/ + #`, no control or invisible character.
pub fn check_device_id(text: &str) -> Result<(), IdentifierError> {
    if text.is_empty() {
        return Err(IdentifierError::Empty);
    }
    if text.len() > MAX_DEVICE_ID_BYTES {
        return Err(IdentifierError::TooLong);
    }
    match text.chars().find(|&c| matches!(c, '/' | '+' | '#') || crate::certificate::is_deceptive(c)) {
        Some(c) => Err(IdentifierError::Forbidden(c)),
        None => Ok(()),
    }
}

/// Bytes of a client id that a certificate can be bound to.
pub const MAX_BOUND_CLIENT_ID_BYTES: usize = 256;

/// Whether a certificate may be bound to this client id: 1 to 256 bytes, no control or invisible character.
pub fn is_bindable(client_id: &str) -> bool {
    let fits = (1..=MAX_BOUND_CLIENT_ID_BYTES).contains(&client_id.len());
    fits && !client_id.chars().any(crate::certificate::is_deceptive)
}

/// Whether a text from outside may be put into a topic as (part of) one level: it can neither add a level,
/// nor be a wildcard, nor reach a `$` tree. Where it may not, an allowing rule must not match, and a denying
/// rule must.
pub fn is_topic_safe(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| matches!(c, '/' | '+' | '#' | '$') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids() {
        let long = "x".repeat(MAX_DEVICE_ID_BYTES);
        for good in ["a", "device-7", "urn:dev:7", "Gerät", "a b", "$x", &long] {
            assert_eq!(check_device_id(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            ("", IdentifierError::Empty),
            (&*"x".repeat(MAX_DEVICE_ID_BYTES + 1), IdentifierError::TooLong),
            (&*"ä".repeat(129), IdentifierError::TooLong),
            ("a/b", IdentifierError::Forbidden('/')),
            ("+", IdentifierError::Forbidden('+')),
            ("a#", IdentifierError::Forbidden('#')),
            ("a\0", IdentifierError::Forbidden('\0')),
            ("a\u{7f}", IdentifierError::Forbidden('\u{7f}')),
            ("a\u{202e}b", IdentifierError::Forbidden('\u{202e}')),
        ] {
            assert_eq!(check_device_id(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn client_ids_to_be_bound_to() {
        for (text, good) in [
            ("pump-1", true),
            ("a/b", true),
            (&*"x".repeat(MAX_BOUND_CLIENT_ID_BYTES), true),
            (&*"x".repeat(MAX_BOUND_CLIENT_ID_BYTES + 1), false),
            ("", false),
            ("a\0", false),
            ("a\u{202e}b", false),
        ] {
            assert_eq!(is_bindable(text), good, "{text}");
        }
    }

    #[test]
    fn texts_in_topics() {
        for (text, safe) in [
            ("device-7", true),
            ("", false),
            ("a/b", false),
            ("+", false),
            ("#", false),
            ("$SYS", false),
            ("a\0", false),
        ] {
            assert_eq!(is_topic_safe(text), safe, "{text}");
        }
    }
}
