//! Many device certificates from one table. A run that was interrupted is continued by running it again:
//! what is there and right is kept.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result};
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use rcgen::{PublicKeyData as _, SanType};
use sha2::{Digest as _, Sha256};

use super::{
    Authority, Existing, KeyKind, Pair, Role, Secrecy, Subject, Template, alternative_name, check_file_name,
    is_there, key, write,
};
use crate::exit::Failure;

const COLUMNS: [&str; 7] = ["cn", "name", "org", "ou", "country", "san", "days"];
const LONGEST_DAYS: u32 = 36_500;
const COMMON_NAME: &str = "2.5.4.3";

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub line: u64,
    /// Name of its files.
    pub name: String,
    pub subject: Subject,
    pub alternative_names: Vec<SanType>,
    pub days: Option<u32>,
}

/// A line from which no certificate came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    pub line: u64,
    pub problem: String,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    pub issued: usize,
    /// Were there from an earlier run.
    pub kept: usize,
    pub errors: Vec<RowError>,
}

/// What is the same for all.
pub struct Settings<'a> {
    pub authority: &'a Authority,
    pub folder: &'a Path,
    pub key_kind: KeyKind,
    /// For rows that do not say.
    pub days: Option<u32>,
    pub crl_urls: &'a [String],
    pub threads: usize,
}

/// Reads the table: its first line names the columns.
pub fn read(table: &[u8]) -> Result<(Vec<Row>, Vec<RowError>)> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(table);
    let head = reader.headers().context("the first line, which names the columns, cannot be read")?.clone();
    let unknown = head.iter().find(|column| !COLUMNS.contains(column));
    if unknown.is_some() || !head.iter().any(|column| column == "cn") {
        let what = unknown.map_or_else(
            || String::from("there is no column `cn`"),
            |column| format!("there is no column `{column}`"),
        );
        return Err(Failure::refused(format!(
            "line 1: {what}: the columns are {}; `cn` must be among them",
            COLUMNS.join(", ")
        ))
        .into());
    }
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    let mut names: HashMap<String, u64> = HashMap::new();
    for record in reader.records() {
        let parsed = match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                row(line, &head, &record).map_err(|error| RowError { line, problem: error.to_string() })
            }
            Err(error) => Err(RowError {
                line: error.position().map_or(0, csv::Position::line),
                problem: match error.kind() {
                    csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                        format!("it has {len} columns, and the first line has {expected_len}")
                    }
                    csv::ErrorKind::Utf8 { .. } => String::from("it is not UTF-8"),
                    _ => error.to_string(),
                },
            }),
        };
        match parsed {
            // Two names that differ in case only are one file on some systems.
            Ok(row) => match names.insert(row.name.to_lowercase(), row.line) {
                None => rows.push(row),
                Some(first) => {
                    names.insert(row.name.to_lowercase(), first);
                    let problem = format!("its files would be those of line {first}: `{}`", row.name);
                    errors.push(RowError { line: row.line, problem });
                }
            },
            Err(error) => errors.push(error),
        }
    }
    Ok((rows, errors))
}

fn row(line: u64, head: &csv::StringRecord, record: &csv::StringRecord) -> Result<Row> {
    let cell = |column: &str| {
        let at = head.iter().position(|name| name == column)?;
        record.get(at).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let common_name = cell("cn").ok_or_else(|| Failure::refused("`cn` is empty"))?;
    let name = cell("name").unwrap_or_else(|| common_name.clone());
    check_file_name(&name)?;
    let days = cell("days").map(|text| days(&text)).transpose()?;
    let alternative_names = cell("san")
        .iter()
        .flat_map(|text| text.split([';', ' ']).filter(|name| !name.is_empty()))
        .map(alternative_name)
        .collect::<Result<_>>()?;
    let subject = Subject {
        country: cell("country"),
        organization: cell("org"),
        organizational_unit: cell("ou"),
        common_name: Some(common_name),
    };
    subject.to_name()?;
    Ok(Row { line, name, subject, alternative_names, days })
}

fn days(text: &str) -> Result<u32> {
    let days = text.parse().ok().filter(|days| (1..=LONGEST_DAYS).contains(days));
    days.ok_or_else(|| Failure::refused(format!("days `{text}`: 1 to {LONGEST_DAYS} are allowed")).into())
}

/// Issues what is not there yet, and writes `manifest.csv`. `step` is called after each row.
pub fn issue(rows: &[Row], settings: &Settings<'_>, step: &(dyn Fn() + Sync)) -> Result<Report> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<Done, RowError>>>> =
        Mutex::new((0..rows.len()).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..settings.threads.clamp(1, 64) {
            scope.spawn(|| {
                while let Some((index, row)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    rows.get(index).map(|row| (index, row))
                } {
                    let result = one(row, settings)
                        .map_err(|error| RowError { line: row.line, problem: format!("{error:#}") });
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    done[index] = Some(result);
                    drop(done);
                    step();
                }
            });
        }
    });
    let mut report = Report::default();
    let mut manifest = csv::Writer::from_writer(Vec::new());
    manifest.write_record(["cn", "certificate", "key", "serial", "sha256", "not_after"])?;
    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (row, done) in rows.iter().zip(done) {
        let facts = match done {
            Some(Ok(Done { facts, new: true })) => {
                report.issued += 1;
                facts
            }
            Some(Ok(Done { facts, new: false })) => {
                report.kept += 1;
                facts
            }
            Some(Err(error)) => {
                report.errors.push(error);
                continue;
            }
            None => continue,
        };
        manifest.write_record([
            row.subject.common_name.as_deref().unwrap_or_default(),
            &format!("{}.pem", row.name),
            &format!("{}.key", row.name),
            &hex::encode(&facts.serial),
            &facts.certificate_fingerprint.to_hex(),
            &facts.not_after.to_string(),
        ])?;
    }
    let manifest = manifest.into_inner().context("the manifest cannot be written")?;
    write(&settings.folder.join("manifest.csv"), &manifest, Secrecy::Public, Existing::Replaced)?;
    Ok(report)
}

struct Done {
    facts: CertificateFacts,
    new: bool,
}

fn one(row: &Row, settings: &Settings<'_>) -> Result<Done> {
    let files = Pair::new(settings.folder, &row.name);
    let key = match files.key.exists() {
        // A certificate comes after its key: a run may have ended between the two.
        true => key::read(&files.key, None)?,
        false => {
            let key = settings.key_kind.generate()?;
            write(&files.key, key::to_pem(&key, None)?.as_bytes(), Secrecy::Private, Existing::Kept)?;
            key
        }
    };
    if files.certificate.exists() {
        let text = super::read(&files.certificate)?;
        let facts = certificates_from_pem(&text)
            .and_then(|ders| CertificateFacts::parse(ders.first().map_or(&[][..], |der| der)));
        let own_key = <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let is_right = |facts: &CertificateFacts| {
            facts.issuer.raw == settings.authority.facts.subject.raw
                && facts.public_key.spki_sha256 == own_key
                && common_name(facts) == row.subject.common_name.as_deref()
                && facts.not_after.0 > now.cast_signed()
        };
        return match facts {
            Ok(facts) if is_right(&facts) => Ok(Done { facts, new: false }),
            _ => Err(is_there(&files.certificate)).context(
                "what is there is not this device's certificate of this CA and key, or has expired: move it away",
            ),
        };
    }
    let template = Template {
        subject: row.subject.to_name()?,
        alternative_names: row.alternative_names.clone(),
        role: Role::Device,
        days: row.days.or(settings.days),
        crl_urls: settings.crl_urls.to_vec(),
    };
    let issued = settings.authority.issue(&template, &key)?;
    write(&files.certificate, issued.pem.as_bytes(), Secrecy::Public, Existing::Kept)?;
    Ok(Done { facts: issued.facts, new: true })
}

fn common_name(facts: &CertificateFacts) -> Option<&str> {
    facts.subject.attributes.iter().rev().find(|part| part.oid == COMMON_NAME)?.text.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::root;

    fn authority(folder: &Path) -> Authority {
        let key = KeyKind::EcP256.generate().expect("a key");
        let made = root(Subject::common("factory").to_name().expect("a name"), None, 0, &key).expect("a CA");
        Pair::new(folder, "ca").write(&made, &key, None, Existing::Kept).expect("written");
        Authority::open(folder, "ca", None).expect("a CA")
    }

    #[test]
    fn wrong_lines_are_named_and_the_others_issued() {
        let table = "cn,name,san,days\n\
            meter-1,,urn:dev:1 m1.example,30\n\
            meter/2,,,\n\
            meter/2,meter-2,,\n\
            ,x,,\n\
            meter-5,,not a name,0\n\
            meter-6,,,0\n\
            meter-7,METER-1,,\n\
            meter-8,,\n";
        let (rows, errors) = read(table.as_bytes()).expect("a table");
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [3, 5, 6, 7, 8, 9]);
        assert!(errors[4].problem.contains("line 2"), "{errors:?}");
        assert!(read(b"name\nx\n").is_err() && read(b"cn,color\nx,red\n").is_err());
    }

    #[test]
    fn a_run_is_continued_where_it_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = authority(folder.path());
        let settings = Settings {
            authority: &ca,
            folder: folder.path(),
            key_kind: KeyKind::EcP256,
            days: None,
            crl_urls: &[],
            threads: 2,
        };
        let table: String =
            std::iter::once(String::from("cn\n")).chain((0..20).map(|n| format!("m-{n}\n"))).collect();
        let (rows, _) = read(table.as_bytes()).expect("a table");
        let first = issue(&rows[..8], &settings, &|| ()).expect("some");
        assert_eq!((first.issued, first.kept, first.errors.len()), (8, 0, 0));
        // It ended after the key of one, and one was replaced by something else.
        let name = |name: &str| folder.path().join(name);
        let before = std::fs::read(name("m-3.key")).expect("a key");
        std::fs::remove_file(name("m-3.pem")).expect("removed");
        std::fs::copy(name("m-5.pem"), name("m-4.pem")).expect("a wrong one");
        let second = issue(&rows, &settings, &|| ()).expect("the rest");
        assert_eq!((second.issued, second.kept), (13, 6));
        assert_eq!(second.errors.iter().map(|error| error.line).collect::<Vec<_>>(), [6]);
        assert_eq!(std::fs::read(name("m-3.key")).expect("a key"), before, "its key was not made anew");
        let manifest = std::fs::read_to_string(name("manifest.csv")).expect("a manifest");
        assert_eq!(manifest.lines().count(), 20, "{manifest}");
    }
}
