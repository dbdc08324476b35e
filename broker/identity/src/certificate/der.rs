//! A strict reader of DER elements: X.690, section 10 and 11, as far as certificates and revocation lists need
//! it. It knows tags, lengths and simple values, nothing of certificates.

use crate::time::UnixSeconds;

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// Tag, length and content.
    pub raw: &'a [u8],
}

pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
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

/// Content of an INTEGER in its shortest form. `None`: not one.
pub(crate) fn integer<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut ahead = *input;
    let content = take_tagged(&mut ahead, tag::INTEGER)?.content;
    is_shortest_integer(content).then(|| {
        *input = ahead;
        content
    })
}

/// X.690, 8.3.2: the first nine bits are neither all zero nor all one.
pub(crate) fn is_shortest_integer(content: &[u8]) -> bool {
    match content {
        [] => false,
        [0x00, next, ..] => next & 0x80 != 0,
        [0xff, next, ..] => next & 0x80 == 0,
        _ => true,
    }
}

/// A small number that is not negative; what does not fit becomes `u32::MAX`.
pub(crate) fn unsigned(content: &[u8]) -> Option<u32> {
    if !is_shortest_integer(content) || content.first()? & 0x80 != 0 {
        return None;
    }
    let digits = content.strip_prefix(&[0]).unwrap_or(content);
    if digits.len() > 4 {
        return Some(u32::MAX);
    }
    Some(digits.iter().fold(0, |sum, &digit| sum << 8 | u32::from(digit)))
}

/// X.690, 11.1: TRUE is 0xff.
pub(crate) fn boolean(content: &[u8]) -> Option<bool> {
    match content {
        [0x00] => Some(false),
        [0xff] => Some(true),
        _ => None,
    }
}

/// A point in time, in the one form that RFC 5280, 4.1.2.5, allows for each type: to the second, in UTC.
pub(crate) fn time(element: &Element<'_>) -> Option<UnixSeconds> {
    let text = element.content.strip_suffix(b"Z")?;
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (element.tag, text.len()) {
        (tag::UTC_TIME, 12) => {
            let year = number(&text[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (tag::GENERALIZED_TIME, 14) => (number(&text[..4]), &text[4..]),
        _ => return None,
    };
    let field = |at: usize| number(&rest[at..at + 2]);
    let (month, day, hour, minute, second) = (field(0), field(2), field(4), field(6), field(8));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days from 1970: years begin in March, so that the leap day is the last of one.
    let year = year - i64::from(month < 3);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(UnixSeconds(days * 86_400 + hour * 3_600 + minute * 60 + second))
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
    fn integers_have_one_form() {
        for (content, value) in [
            (&[0x00][..], Some(0)),
            (&[0x7f], Some(127)),
            (&[0x00, 0x80], Some(128)),
            (&[0x01, 0x00, 0x00, 0x00, 0x00], Some(u32::MAX)),
            (&[], None),
            (&[0x00, 0x01], None),
            (&[0xff], None),
            (&[0xff, 0xff], None),
        ] {
            assert_eq!(unsigned(content), value, "{content:02x?}");
        }
        assert!(is_shortest_integer(&[0xff]) && !is_shortest_integer(&[0xff, 0x80]));
        assert_eq!(
            (boolean(&[0xff]), boolean(&[0]), boolean(&[1]), boolean(&[])),
            (Some(true), Some(false), None, None)
        );
    }

    #[test]
    fn times_have_one_form() {
        let read =
            |tag, text: &str| time(&Element { tag, content: text.as_bytes(), raw: &[] }).map(|time| time.0);
        for (tag, text, expected) in [
            (tag::UTC_TIME, "700101000000Z", Some(0)),
            (tag::UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (tag::UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (tag::UTC_TIME, "000229000000Z", Some(951_782_400)),
            (tag::GENERALIZED_TIME, "20231114221320Z", Some(1_700_000_000)),
            (tag::GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (tag::GENERALIZED_TIME, "00000101000000Z", Some(-62_167_219_200)),
            (tag::GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (tag::GENERALIZED_TIME, "21000229000000Z", None),
            (tag::UTC_TIME, "7001010000Z", None),
            (tag::UTC_TIME, "700101000000+0000", None),
            (tag::UTC_TIME, "701301000000Z", None),
            (tag::UTC_TIME, "700100000000Z", None),
            (tag::UTC_TIME, "700101240000Z", None),
            (tag::UTC_TIME, "700101000060Z", None),
            (tag::UTC_TIME, "20231114221320Z", None),
            (tag::GENERALIZED_TIME, "20231114221320.5Z", None),
            (tag::GENERALIZED_TIME, "2023111422132 Z", None),
            (0x16, "700101000000Z", None),
        ] {
            assert_eq!(read(tag, text), expected, "{text}");
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
