//! Cuts a stream of bytes into rows: a line of NDJSON, a record of CSV, a device's certificate in a PEM bundle with the
//! CA certificates that follow it. Does not know what a row says.

use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest row, in bytes.
pub const MAX_ROW_BYTES: usize = 256 * 1024;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a file of certificates is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "FileFormat")]
pub enum Format {
    /// Certificates one after another; a CA's belongs to the device's before it.
    Pem,
    /// The first line names the columns.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

impl Format {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }

    /// By the first bytes of a file.
    pub fn of_content(start: &[u8]) -> Self {
        let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
        let has_pem = |line: &[u8]| line.starts_with(BEGIN);
        match start.first() {
            Some(b'{') => Self::Ndjson,
            _ if start.split(|byte| *byte == b'\n').any(has_pem) => Self::Pem,
            _ => Self::Csv,
        }
    }
}

/// One row as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Where it begins, from 1.
    pub line: u64,
    /// Of the row; of a row that cannot be taken, why.
    pub bytes: Result<Vec<u8>, CutError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    #[error("the row is longer than {MAX_ROW_BYTES} bytes")]
    TooLong,
    #[error("the certificate has no end: the next one begins, or the file ends, before its END line")]
    NoEnd,
}

/// Takes a file piece by piece.
pub struct Cutter {
    format: Format,
    /// What came of the line that is not complete.
    rest: Vec<u8>,
    /// The rest of the line is not kept: it is too long.
    overflowed: bool,
    /// Number of the line that comes next.
    line: u64,
    /// The row that is not complete.
    row: Vec<u8>,
    row_line: u64,
    row_overflowed: bool,
    /// CSV: inside of quotation marks.
    quoted: bool,
    /// PEM: inside of a certificate, which begins there in `row`.
    section: Option<usize>,
    section_line: u64,
    is_start: bool,
}

impl Cutter {
    /// `line` is the number that the first line has.
    pub fn new(format: Format, line: u64) -> Self {
        Self {
            format,
            rest: Vec::new(),
            overflowed: false,
            line,
            row: Vec::new(),
            row_line: line,
            row_overflowed: false,
            quoted: false,
            section: None,
            section_line: line,
            is_start: true,
        }
    }

    /// Takes the next piece; rows that are complete now go to `found`.
    pub fn take(&mut self, piece: &[u8], found: &mut Vec<Cut>) {
        let mut lines = piece.split_inclusive(|byte| *byte == b'\n');
        for part in &mut lines {
            if self.rest.len() + part.len() > MAX_ROW_BYTES {
                self.overflowed = true;
                self.rest.clear();
            }
            if !self.overflowed {
                self.rest.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                self.end_of_line(found);
            }
        }
    }

    /// There is no more. Answers the number of the line that would come next.
    pub fn finish(mut self, found: &mut Vec<Cut>) -> u64 {
        if !self.rest.is_empty() || self.overflowed {
            self.end_of_line(found);
        }
        if self.section.is_some() {
            self.broken_section(found);
        }
        match self.format {
            Format::Pem | Format::Csv => self.end_of_row(found),
            Format::Ndjson => {}
        }
        self.line
    }

    fn end_of_line(&mut self, found: &mut Vec<Cut>) {
        let line = std::mem::take(&mut self.rest);
        let overflowed = std::mem::take(&mut self.overflowed);
        let number = self.line;
        self.line += 1;
        let mut line = line.as_slice();
        if std::mem::take(&mut self.is_start) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        match self.format {
            Format::Ndjson => match (overflowed, line.trim_ascii()) {
                (true, _) => found.push(Cut { line: number, bytes: Err(CutError::TooLong) }),
                (false, []) => {}
                (false, row) => found.push(Cut { line: number, bytes: Ok(row.to_vec()) }),
            },
            Format::Csv => self.line_of_csv(number, line, overflowed, found),
            Format::Pem => self.line_of_pem(number, line.trim_ascii(), found),
        }
    }

    fn line_of_csv(&mut self, number: u64, line: &[u8], overflowed: bool, found: &mut Vec<Cut>) {
        if !self.quoted && !overflowed && line.trim_ascii().is_empty() {
            return;
        }
        if self.row.is_empty() && !self.row_overflowed {
            self.row_line = number;
        }
        self.row_overflowed |= overflowed || self.row.len() + line.len() > MAX_ROW_BYTES;
        if self.row_overflowed {
            // Nobody knows where it should have ended: the next line is taken for a row.
            self.quoted = false;
        } else {
            self.row.extend_from_slice(line);
            let quotes = line.iter().filter(|byte| **byte == b'"').count();
            self.quoted ^= quotes % 2 == 1;
        }
        if !self.quoted {
            self.end_of_row(found);
        }
    }

    fn line_of_pem(&mut self, number: u64, line: &[u8], found: &mut Vec<Cut>) {
        if line.starts_with(BEGIN) {
            if self.section.is_some() {
                self.broken_section(found);
            }
            self.section = Some(self.row.len());
            self.section_line = number;
        }
        let Some(start) = self.section else { return };
        if self.row.len() + line.len() + 1 > MAX_ROW_BYTES {
            self.row.truncate(start);
            self.section = None;
            self.end_of_row(found);
            found.push(Cut { line: self.section_line, bytes: Err(CutError::TooLong) });
            return;
        }
        self.row.extend_from_slice(line);
        self.row.push(b'\n');
        if !line.starts_with(END) {
            return;
        }
        self.section = None;
        let belongs_to_the_one_before = start > 0 && is_ca(&self.row[start..]);
        if !belongs_to_the_one_before {
            let section = self.row.split_off(start);
            self.end_of_row(found);
            self.row = section;
            self.row_line = self.section_line;
        }
    }

    /// A section without an end is a row of its own, and a bad one.
    fn broken_section(&mut self, found: &mut Vec<Cut>) {
        if let Some(start) = self.section.take() {
            self.row.truncate(start);
            self.end_of_row(found);
            found.push(Cut { line: self.section_line, bytes: Err(CutError::NoEnd) });
        }
    }

    fn end_of_row(&mut self, found: &mut Vec<Cut>) {
        let row = std::mem::take(&mut self.row);
        self.quoted = false;
        match std::mem::take(&mut self.row_overflowed) {
            true => found.push(Cut { line: self.row_line, bytes: Err(CutError::TooLong) }),
            false if row.trim_ascii().is_empty() => {}
            false => found.push(Cut { line: self.row_line, bytes: Ok(row) }),
        }
    }
}

/// What cannot be read is no CA: it is a row of its own, and a bad one.
fn is_ca(section: &[u8]) -> bool {
    let facts = certificates_from_pem(section).and_then(|ders| CertificateFacts::parse(&ders[0]));
    facts.is_ok_and(|facts| facts.is_ca)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::TestCa;

    fn cut(format: Format, pieces: &[&[u8]]) -> Vec<Cut> {
        let mut cutter = Cutter::new(format, 1);
        let mut found = Vec::new();
        for piece in pieces {
            cutter.take(piece, &mut found);
        }
        cutter.finish(&mut found);
        found
    }

    fn shown(format: Format, text: &str) -> Vec<(u64, Result<String, CutError>)> {
        let cuts = cut(format, &[text.as_bytes()]).into_iter();
        cuts.map(|cut| (cut.line, cut.bytes.map(|bytes| String::from_utf8(bytes).unwrap()))).collect()
    }

    #[test]
    fn lines_of_json() {
        let text = "\u{feff}{\"a\":1}\n\n  {\"b\":2}\r\n{\"c\":3}";
        let rows = shown(Format::Ndjson, text);
        let expected = [(1, "{\"a\":1}"), (3, "{\"b\":2}"), (4, "{\"c\":3}")];
        assert_eq!(rows, expected.map(|(line, row)| (line, Ok(row.to_owned()))));
    }

    #[test]
    fn a_record_of_csv_may_have_several_lines() {
        let text = "a,b\n1,\"two\nlines \"\"quoted\"\"\"\n\n2,x\n";
        let rows = shown(Format::Csv, text);
        let expected = [(1, "a,b\n"), (2, "1,\"two\nlines \"\"quoted\"\"\"\n"), (5, "2,x\n")];
        assert_eq!(rows, expected.map(|(line, row)| (line, Ok(row.to_owned()))));
    }

    #[test]
    fn a_row_that_is_too_long_is_one_bad_row() {
        let long = "x".repeat(MAX_ROW_BYTES + 1);
        for (format, text, next) in [
            (Format::Ndjson, format!("{long}\n{{}}\n"), "{}"),
            (Format::Csv, format!("{long}\nb\n"), "b\n"),
            (Format::Csv, format!("\"{}\n{long}\nb\n", "y".repeat(10)), "b\n"),
        ] {
            let rows = shown(format, &text);
            assert_eq!(rows.len(), 2, "{format:?}");
            assert_eq!((rows[0].0, &rows[0].1), (1, &Err(CutError::TooLong)));
            assert_eq!(rows[1].1, Ok(next.to_owned()));
        }
    }

    #[test]
    fn the_cas_that_follow_belong_to_the_certificate_before() {
        let (root, other) = (TestCa::new("root"), TestCa::new("other"));
        let below = root.below("below");
        let (a, b) = (below.device("a").pem(), root.device("b").pem());
        let text = format!("a comment\n{a}{}{}\n{b}", below.pem(), root.pem());
        let rows = shown(Format::Pem, &text);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], (2, Ok(format!("{a}{}{}", below.pem(), root.pem()))));
        assert_eq!(rows[1].1, Ok(b.clone()));
        // One that belongs to nobody is a row: whoever registers it says what is wrong with it.
        assert_eq!(shown(Format::Pem, &format!("{}{b}", other.pem())).len(), 2);
    }

    #[test]
    fn a_key_is_not_taken_and_a_certificate_without_an_end_is_one_bad_row() {
        let ca = TestCa::new("ca");
        let (a, b) = (ca.device("a"), ca.device("b"));
        let text = format!("{}{}", a.key.serialize_pem(), a.pem());
        let rows = shown(Format::Pem, &text);
        assert!(rows.len() == 1 && !rows[0].1.as_ref().unwrap().contains("PRIVATE"), "{rows:?}");
        let torn = a.pem().replace("-----END CERTIFICATE-----\n", "");
        let rows = shown(Format::Pem, &format!("{}{torn}{}{torn}", a.pem(), b.pem()));
        let bad: Vec<bool> = rows.iter().map(|(_, row)| *row == Err(CutError::NoEnd)).collect();
        assert_eq!(bad, [false, true, false, true], "{rows:?}");
        let lines = a.pem().lines().count() as u64;
        assert_eq!(rows[1].0, lines + 1);
    }

    #[test]
    fn a_file_says_what_it_is() {
        for (start, format) in [
            ("{\"pem\":", Format::Ndjson),
            ("\u{feff}\n {}", Format::Ndjson),
            ("-----BEGIN CERTIFICATE-----\n", Format::Pem),
            ("subject=CN = x\n-----BEGIN CERTIFICATE-----\n", Format::Pem),
            ("pem,device_id\n", Format::Csv),
            ("device_id,pem\nd,\"-----BEGIN CERTIFICATE-----\n", Format::Csv),
            ("", Format::Csv),
        ] {
            assert_eq!(Format::of_content(start.as_bytes()), format, "{start:?}");
        }
    }

    proptest! {
        /// Wherever the pieces end.
        #[test]
        fn pieces_do_not_matter(
            text in "([a\",\n\r]|-----BEGIN CERTIFICATE-----\n|-----END CERTIFICATE-----\n){0,40}",
            at in 0_usize..400,
        ) {
            for format in [Format::Pem, Format::Csv, Format::Ndjson] {
                let whole = cut(format, &[text.as_bytes()]);
                let (a, b) = text.as_bytes().split_at(at.min(text.len()));
                prop_assert_eq!(cut(format, &[a, b]), whole);
            }
        }
    }
}
