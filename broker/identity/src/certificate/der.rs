//! A strict reader of DER elements, for the places where the raw bytes of a part are needed. It knows
//! tags and lengths, nothing of certificates.

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// Tag, length and content.
    pub raw: &'a [u8],
}

pub(crate) mod tag {
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
}

/// Takes the next element off `input`. `None`: not DER (one-byte tags and the shortest definite length only).
pub(crate) fn take<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    let bytes: &'a [u8] = input;
    let (&tag, rest) = bytes.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0_u64, |sum, &digit| sum << 8 | u64::from(digit));
            let needed = if length < 0x80 { 0 } else { (71 - length.leading_zeros() as usize) / 8 };
            if digits.len() != needed {
                return None;
            }
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    let raw = bytes.get(..bytes.len() - after.len())?;
    *input = after;
    Some(Element { tag, content, raw })
}

/// Takes the next element if it has this tag.
pub(crate) fn take_tagged<'a>(input: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    let mut ahead = *input;
    let element = take(&mut ahead).filter(|element| element.tag == tag)?;
    *input = ahead;
    Some(element)
}

/// The one element that `input` consists of.
pub(crate) fn only(mut input: &[u8], tag: u8) -> Option<Element<'_>> {
    let element = take_tagged(&mut input, tag)?;
    input.is_empty().then_some(element)
}

/// Dotted text of an object identifier's content. `None`: malformed, or an arc above 128 bits.
pub(crate) fn object_identifier(content: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut arc: u128 = 0;
    let mut inside = false;
    for &byte in content {
        // A leading zero digit is not the shortest form.
        if !inside && byte == 0x80 {
            return None;
        }
        if arc.leading_zeros() < 7 {
            return None;
        }
        arc = arc << 7 | u128::from(byte & 0x7f);
        inside = byte & 0x80 != 0;
        if inside {
            continue;
        }
        if text.is_empty() {
            let root = (arc / 40).min(2);
            text = format!("{root}.{}", arc - root * 40);
        } else {
            text.push('.');
            text.push_str(&arc.to_string());
        }
        arc = 0;
    }
    (!inside && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_form() {
        let long = [&[0x04, 0x81, 0x80][..], &[7; 0x80]].concat();
        let longer = [&[0x04, 0x82, 0x01, 0x00][..], &[7; 0x100]].concat();
        for (bytes, length) in [
            (&[0x04, 0x00][..], Some(0)),
            (&[0x04, 0x01, 0x07], Some(1)),
            (&long, Some(0x80)),
            (&longer, Some(0x100)),
            (&[0x04, 0x81, 0x01, 0x07], None),
            (&[0x04, 0x82, 0x00, 0x81], None),
            (&[0x04, 0x80, 0x00, 0x00], None),
            (&[0x04, 0x85, 0, 0, 0, 0, 1, 7], None),
            (&[0x1f, 0x01, 0x07], None),
            (&[0x04, 0x02, 0x07], None),
            (&[0x04], None),
            (&[], None),
        ] {
            let mut input = bytes;
            assert_eq!(take(&mut input).map(|element| element.content.len()), length, "{bytes:02x?}");
        }
    }

    #[test]
    fn object_identifiers_are_dotted() {
        for (bytes, text) in [
            (&[0x55, 0x04, 0x03][..], Some("2.5.4.3")),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], Some("1.2.840.113549.1.9.1")),
            (&[0x88, 0x37, 0x01], Some("2.999.1")),
            (&[0x00], Some("0.0")),
            (&[], None),
            (&[0x55, 0x80, 0x01], None),
            (&[0x55, 0x84], None),
            (
                &[
                    0x55, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
                ],
                None,
            ),
        ] {
            assert_eq!(object_identifier(bytes).as_deref(), text, "{bytes:02x?}");
        }
    }
}
