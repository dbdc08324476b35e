//! Registers the rows of a file in groups, and says what came of each.

use std::sync::Arc;

use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, certificates_from_pem};
use mqgate_identity::registry::rules::{OnTombstone, RevocationReason};
use mqgate_identity::registry::{DeviceState, RegistrationSource};
use schemars::JsonSchema;
use serde::Serialize;

use super::cut::{Cut, Cutter, Format};
use super::row::{Head, Row, RowError};
use crate::registry::{Ask, DryRun, ManualRegistration, Registry};

/// Rows that are written in one step.
const GROUP: usize = 500;
/// Rows that went well and are named one by one, if that is asked for.
pub const MOST_ROWS: usize = 100_000;
/// Rows that did not, and are named one by one; the others are counted.
pub const MOST_FAILED: usize = 10_000;

/// How a file is imported.
#[derive(Debug, Clone)]
pub struct Options {
    pub format: Format,
    /// Number of the line of the first row; what names the columns stands before it.
    pub line: Option<u64>,
    pub dry_run: bool,
    /// What does not say otherwise is not let in yet.
    pub inactive: bool,
    /// Rows that went well are named, too.
    pub every_row: bool,
    pub actor: String,
}

/// What came of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RowOutcome")]
pub enum Outcome {
    Created,
    /// It is registered already.
    Unchanged,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RowReport {
    pub line: u64,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub id: Option<CertificateFingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Stable; why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl RowReport {
    pub fn problem(line: u64, code: impl Into<String>, detail: String) -> Self {
        let (code, detail) = (Some(code.into()), Some(detail));
        Self { line, outcome: Outcome::Failed, id: None, device_id: None, code, detail }
    }
}

/// What came of all rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ImportReport")]
pub struct Report {
    pub dry_run: bool,
    pub created: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// The first line that was not seen.
    pub next_line: u64,
    /// Rows that failed, in order.
    pub problems: Vec<RowReport>,
    /// The others, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<RowReport>,
}

/// A row that can be registered.
struct Waiting {
    line: u64,
    request: ManualRegistration,
    /// Of one that is registered as revoked.
    reason: Option<RevocationReason>,
}

/// Takes a file piece by piece.
pub struct Importer {
    registry: Arc<Registry>,
    options: Options,
    cutter: Cutter,
    head: Option<Head>,
    waiting: Vec<Waiting>,
    report: Report,
}

impl Importer {
    pub fn new(registry: Arc<Registry>, options: Options) -> Self {
        let first = match (options.format, options.line) {
            // The line before the first row names the columns.
            (Format::Csv, Some(line)) => line.saturating_sub(1),
            (_, Some(line)) => line,
            (_, None) => 1,
        };
        let report = Report { dry_run: options.dry_run, next_line: first, ..Report::default() };
        let cutter = Cutter::new(options.format, first);
        Self { registry, options, cutter, head: None, waiting: Vec::new(), report }
    }

    /// An error is about the whole file: nothing of it can be used.
    pub async fn take(&mut self, piece: &[u8]) -> Result<(), RowError> {
        let mut found = Vec::new();
        self.cutter.take(piece, &mut found);
        self.rows(found).await
    }

    /// There is no more.
    pub async fn finish(mut self) -> Result<Report, RowError> {
        let mut found = Vec::new();
        let cutter = std::mem::replace(&mut self.cutter, Cutter::new(self.options.format, 1));
        let next_line = cutter.finish(&mut found);
        self.rows(found).await?;
        self.register().await;
        self.report.next_line = next_line;
        // Within a group those that cannot even be read come first.
        self.report.problems.sort_by_key(|problem| problem.line);
        self.report.rows.sort_by_key(|row| row.line);
        Ok(self.report)
    }

    async fn rows(&mut self, found: Vec<Cut>) -> Result<(), RowError> {
        for Cut { line, bytes } in found {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.failed(RowReport::problem(line, "bad_row", error.to_string()));
                    continue;
                }
            };
            if self.options.format == Format::Csv && self.head.is_none() {
                self.head = Some(Head::parse(&bytes)?);
                continue;
            }
            match Row::parse(self.options.format, self.head.as_ref(), &bytes)
                .map_err(|error| ("bad_row", error.to_string()))
                .and_then(|row| self.request(line, row))
            {
                Ok(waiting) => self.waiting.push(waiting),
                Err((code, detail)) => self.failed(RowReport::problem(line, code, detail)),
            }
            if self.waiting.len() >= GROUP {
                self.register().await;
            }
        }
        Ok(())
    }

    fn request(&self, line: u64, row: Row) -> Result<Waiting, (&'static str, String)> {
        let usual = if self.options.inactive { DeviceState::Inactive } else { DeviceState::Active };
        let state = row.state.as_deref().map_or(Ok(usual), state)?;
        if let Some(id) = &row.id {
            check_id(id, &row.pem)?;
        }
        let reason = row.revocation_reason.as_deref().and_then(RevocationReason::parse);
        let request = ManualRegistration {
            pem: row.pem,
            device_id: row.device_id,
            tenant: row.tenant,
            tags: row.tags,
            client_id: row.client_id,
            attributes: row.attributes,
            state: Some(state),
            source: RegistrationSource::Import,
            on_tombstone: OnTombstone::Refuse,
        };
        Ok(Waiting { line, request, reason: reason.filter(|_| state == DeviceState::Revoked) })
    }

    async fn register(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return;
        }
        let mut rows = Vec::with_capacity(waiting.len());
        let mut requests = Vec::with_capacity(waiting.len());
        for Waiting { line, request, reason } in waiting {
            rows.push((line, reason));
            requests.push(request);
        }
        let dry_run = if self.options.dry_run { DryRun::Yes } else { DryRun::No };
        let actor = self.options.actor.clone();
        let answers = self.registry.register_many(requests, Ask::by(&actor).dry_run(dry_run)).await;
        for ((line, reason), answer) in rows.into_iter().zip(answers) {
            let answer = match (answer, reason) {
                // A key that somebody has is never let in again, under whatever certificate: that is kept, too.
                (Ok(changed), Some(reason)) if reason.is_compromise() && !self.options.dry_run => {
                    let revoked = self.registry.revoke(changed.id, reason, actor.as_str()).await;
                    revoked.map(|_| changed)
                }
                (answer, _) => answer,
            };
            match answer {
                Ok(changed) => {
                    // One that was deleted has a record, too.
                    let is_known =
                        changed.before.as_ref().is_some_and(|before| before.revision == changed.revision);
                    let (count, outcome) = match is_known {
                        true => (&mut self.report.unchanged, Outcome::Unchanged),
                        false => (&mut self.report.created, Outcome::Created),
                    };
                    *count += 1;
                    self.fine(line, outcome, changed.id, &changed.device_id);
                }
                Err(error) => self.failed(RowReport::problem(line, error.code(), error.to_string())),
            }
        }
    }

    fn fine(&mut self, line: u64, outcome: Outcome, id: CertificateFingerprint, device_id: &str) {
        if self.options.every_row && self.report.rows.len() < MOST_ROWS {
            let (id, device_id) = (Some(id), Some(device_id.to_owned()));
            self.report.rows.push(RowReport { line, outcome, id, device_id, code: None, detail: None });
        }
    }

    fn failed(&mut self, problem: RowReport) {
        self.report.failed += 1;
        if self.report.problems.len() < MOST_FAILED {
            self.report.problems.push(problem);
        }
    }
}

/// A row may say which certificate it is about.
fn check_id(id: &str, pem: &str) -> Result<(), (&'static str, String)> {
    let Some(id) = CertificateFingerprint::from_hex(id) else {
        return Err(("bad_id", String::from("an `id` is the certificate's SHA-256, 64 hex digits")));
    };
    let facts = certificates_from_pem(pem.as_bytes()).and_then(|ders| CertificateFacts::parse(&ders[0]));
    match facts {
        // What cannot be read is refused where it is registered.
        Err(_) => Ok(()),
        Ok(facts) if facts.certificate_fingerprint == id => Ok(()),
        Ok(_) => Err(("bad_id", String::from("the `id` is not that of the certificate"))),
    }
}

fn state(word: &str) -> Result<DeviceState, (&'static str, String)> {
    let word = word.trim().replace('-', "_");
    let known = DeviceState::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(&word));
    match known {
        Some(DeviceState::Tombstone) | None => {
            let known = "active, inactive, pending_activation or revoked";
            Err(("bad_state", format!("`{word}` is no state of a new certificate: it is {known}")))
        }
        Some(state) => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditLog;
    use crate::registry::RegistrySettings;
    use crate::testing::{MemoryStorage, TestCa, metrics};
    use crate::trust::TrustStore;

    struct World {
        ca: TestCa,
        registry: Arc<Registry>,
    }

    impl World {
        async fn new() -> Self {
            let ca = TestCa::new("factory");
            let trust = Arc::new(TrustStore::new(4));
            trust.configure(vec![ca.anchor()]).unwrap();
            let registry = Registry::open(
                Arc::new(MemoryStorage::default()),
                trust,
                Arc::new(AuditLog::default()),
                Arc::clone(&metrics().gate),
                RegistrySettings::default(),
            );
            Self { ca, registry: registry.await.unwrap() }
        }

        /// In pieces of seven bytes: none of them is a row.
        async fn import(&self, options: Options, text: &str) -> Result<Report, RowError> {
            let mut importer = Importer::new(Arc::clone(&self.registry), options);
            for piece in text.as_bytes().chunks(7) {
                importer.take(piece).await?;
            }
            importer.finish().await
        }

        fn row(&self, name: &str, more: &str) -> String {
            let pem = self.ca.device(name).pem().replace('\n', "\\n");
            format!("{{\"pem\":\"{pem}\"{more}}}\n")
        }

        async fn state(&self, report: &RowReport) -> Option<DeviceState> {
            self.registry.device(report.id?).await.unwrap().map(|record| record.state)
        }
    }

    fn options(format: Format) -> Options {
        Options {
            format,
            line: None,
            dry_run: false,
            inactive: false,
            every_row: true,
            actor: String::from("admin:test"),
        }
    }

    fn counts(report: &Report) -> (u64, u64, u64) {
        (report.created, report.unchanged, report.failed)
    }

    #[tokio::test]
    async fn import_with_partial_failure_and_again() {
        let world = World::new().await;
        let rows = (0..GROUP + 3).map(|number| world.row(&format!("d{number}"), "")).collect::<String>();
        let expired = format!("{{\"pem\":\"{}\"}}\n", world.ca.expired("late").pem().replace('\n', "\\n"));
        let text = format!("{}\nno json\n{expired}{rows}", world.row("first", ""));
        let ndjson = options(Format::Ndjson);
        let dry = Options { dry_run: true, ..ndjson.clone() };
        let all = GROUP as u64 + 4;
        assert_eq!(counts(&world.import(dry, &text).await.unwrap()), (all, 0, 2));
        let report = world.import(ndjson.clone(), &text).await.unwrap();
        assert_eq!(counts(&report), (all, 0, 2), "the try wrote nothing");
        let problems: Vec<_> =
            report.problems.iter().map(|row| (row.line, row.code.as_deref().unwrap())).collect();
        assert_eq!(problems, [(3, "bad_row"), (4, "cert_expired")]);
        assert_eq!(report.next_line, 4 + all);
        let lines: Vec<u64> = report.rows.iter().map(|row| row.line).collect();
        assert_eq!((lines[0], lines[1], lines.len() as u64), (1, 5, all));
        let again = world.import(ndjson, &text).await.unwrap();
        assert_eq!(counts(&again), (0, all, 2));
    }

    #[tokio::test]
    async fn duplicate_import_rows_are_one_record_and_the_others_are_in() {
        let world = World::new().await;
        let (a, b) = (world.row("a", ""), world.row("b", ""));
        let report = world.import(options(Format::Ndjson), &format!("{a}{b}{a}")).await.unwrap();
        assert_eq!(counts(&report), (2, 1, 0), "{report:?}");
        let other = a.replace("\"}", "\",\"device_id\":\"another\"}");
        let report = world.import(options(Format::Ndjson), &other).await.unwrap();
        assert_eq!(report.problems[0].code.as_deref(), Some("cert_registered"), "{report:?}");
    }

    #[tokio::test]
    async fn a_row_says_in_which_state_it_comes() {
        let world = World::new().await;
        let text = [
            world.row("a", ",\"state\":\"INACTIVE\""),
            world.row("b", ",\"state\":\"pending-activation\""),
            world.row("c", ",\"state\":\"REVOKED\",\"revocation_reason\":\"keyCompromise\""),
            world.row("d", ""),
            world.row("e", ",\"state\":\"TOMBSTONE\""),
        ]
        .concat();
        let inactive = Options { inactive: true, ..options(Format::Ndjson) };
        let report = world.import(inactive, &text).await.unwrap();
        assert_eq!(counts(&report), (4, 0, 1), "{report:?}");
        let mut states = Vec::new();
        for row in &report.rows {
            states.push(world.state(row).await.unwrap());
        }
        let expected = [
            DeviceState::Inactive,
            DeviceState::PendingActivation,
            DeviceState::Revoked,
            DeviceState::Inactive,
        ];
        assert_eq!(states, expected);
        let revoked = world.registry.device(report.rows[2].id.unwrap()).await.unwrap().unwrap();
        assert!(revoked.is_key_compromised(), "{:?}", revoked.revocation_reason);
        assert_eq!(report.problems[0].code.as_deref(), Some("bad_state"));
    }

    #[tokio::test]
    async fn a_part_of_a_file_keeps_its_line_numbers() {
        let world = World::new().await;
        let pem = world.ca.device("a").pem();
        let part = |line| Options { line, ..options(Format::Csv) };
        let text = format!("device_id,pem\na,\"{pem}\"\nb,x\n");
        let lines = pem.lines().count() as u64;
        let report = world.import(part(Some(100)), &text).await.unwrap();
        assert_eq!((report.rows[0].line, report.problems[0].line), (100, 101 + lines));
        let report = world.import(part(None), &text).await.unwrap();
        assert_eq!((report.rows[0].line, report.problems[0].line), (2, 3 + lines));
        let refused = world.import(part(None), "colour\nred\n").await.unwrap_err();
        assert!(refused.to_string().contains("`colour`"), "{refused}");
    }

    #[tokio::test]
    async fn an_id_must_be_that_of_the_certificate() {
        let world = World::new().await;
        let device = world.ca.device("a");
        let pem = device.pem().replace('\n', "\\n");
        let row = |id: &str| format!("{{\"pem\":\"{pem}\",\"id\":\"{id}\"}}\n");
        let text = row(&"0".repeat(64)) + &row("zz") + &row(&device.id().to_hex());
        let report = world.import(options(Format::Ndjson), &text).await.unwrap();
        assert_eq!(counts(&report), (1, 0, 2), "{report:?}");
        assert!(report.problems.iter().all(|row| row.code.as_deref() == Some("bad_id")));
    }
}
