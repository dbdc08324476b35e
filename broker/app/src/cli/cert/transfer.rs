//! Many certificates from a file, and into one. The file is read and written piece by piece; an import that was cut
//! short goes on where it was when it is run again.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use mqgate_server::import::{Cut, Cutter, Format};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::output::{self, printable, say, text};
use super::super::remote::{Remote, RemoteArgs};
use super::filter::Filter;
use crate::exit::Failure;

/// Read from the file at once.
const PIECE: usize = 64 * 1024;
/// Rows and bytes of one request, at most.
const PART_ROWS: usize = 1_000;
const PART_BYTES: usize = 8 << 20;
/// Problems that are printed; `--json` has all.
const MOST_PRINTED: usize = 100;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate cert import fleet.pem                one certificate after another; a CA's belongs to the one before
  mqgate cert import fleet.csv --dry-run      columns: pem, device_id, client_id, tenant, tags, state, attribute.NAME
  mqgate cert import fleet.ndjson             as `mqgate cert export` writes it

What is registered already stays as it is, so that it can be run again at any time. One that was cut short goes on
where it was. Exit code 1: rows were not taken; each is named with its line and the reason.")]
pub struct ImportArgs {
    /// The file; `-` is standard input
    file: PathBuf,
    /// How it is written; without it, by its name or its first bytes
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Option<Format>,
    /// Register them, but do not let them in before `mqgate cert activate`, where a row does not say otherwise
    #[arg(long)]
    inactive: bool,
    /// Say of each row what would become of it, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Begin with the first row even if an earlier import of this file was cut short
    #[arg(long)]
    from_start: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate cert export --output fleet.ndjson
  mqgate cert export --format pem --ca factory-2 --state ACTIVE --output factory-2.pem
  mqgate cert export --format csv --expires-within 30d")]
pub struct ExportArgs {
    /// How it is written: ndjson, csv or pem
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "ndjson")]
    format: Format,
    /// The file; without it, standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn format(text: &str) -> Result<Format, String> {
    let known = [Format::Pem, Format::Csv, Format::Ndjson];
    let found = known.into_iter().find(|format| format.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| String::from("the formats are pem, csv and ndjson"))
}

/// What came of the rows so far.
#[derive(Default)]
struct Total {
    created: u64,
    unchanged: u64,
    failed: u64,
    problems: Vec<Value>,
}

impl Total {
    fn add(&mut self, report: &Value) {
        self.created += report["created"].as_u64().unwrap_or_default();
        self.unchanged += report["unchanged"].as_u64().unwrap_or_default();
        self.failed += report["failed"].as_u64().unwrap_or_default();
        self.problems.extend(report["problems"].as_array().into_iter().flatten().cloned());
    }

    /// A row that does not even get to the broker.
    fn refuse(&mut self, line: u64, code: &str, detail: &str) {
        self.failed += 1;
        self.problems.push(json!({ "line": line, "code": code, "detail": detail }));
    }
}

pub fn import(args: &ImportArgs, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&args.remote, config)?;
    let mut source = Source::open(&args.file)?;
    let format = match args.format.or_else(|| of_name(&args.file)) {
        Some(format) => format,
        None => Format::of_content(source.peek()?),
    };
    let mut import = Import { remote: &remote, args, format, key: None, total: Total::default(), from: 0 };
    if let Some(digest) = &source.digest {
        import.resume(&format!("{digest}-{}{}", format.as_str(), if args.dry_run { "-dry" } else { "" }))?;
    }
    let bar = bar(source.length)?;
    if import.from > 0 {
        bar.println(format!("continued at line {}", import.from));
    }
    import.send_all(&mut source, &bar)?;
    bar.finish_and_clear();
    report(args, import.total)
}

fn of_name(file: &Path) -> Option<Format> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "pem" | "crt" | "cer" => Some(Format::Pem),
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        _ => None,
    }
}

/// Shows itself on a terminal only.
fn bar(length: Option<u64>) -> Result<ProgressBar> {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:40} {bytes}/{total_bytes} {eta} {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    Ok(bar
        .with_style(ProgressStyle::with_template(template).context("the progress bar's template is wrong")?))
}

/// The file, and what was read of it to find out how it is written.
struct Source {
    reader: Box<dyn Read>,
    length: Option<u64>,
    /// Of the whole; what standard input holds is not known before it is read.
    digest: Option<String>,
    start: Vec<u8>,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let reader = Box::new(std::io::stdin());
            return Ok(Self { reader, length: None, digest: None, start: Vec::new() });
        }
        let cannot = |error: std::io::Error| {
            Failure::refused(format!("{} cannot be read: {error}\n  nothing was sent", path.display()))
        };
        let mut digest = Sha256::new();
        std::io::copy(&mut File::open(path).map_err(cannot)?, &mut Digesting(&mut digest)).map_err(cannot)?;
        let file = File::open(path).map_err(cannot)?;
        let length = file.metadata().map_err(cannot)?.len();
        let digest = Some(hex::encode(digest.finalize()));
        Ok(Self { reader: Box::new(file), length: Some(length), digest, start: Vec::new() })
    }

    fn peek(&mut self) -> Result<&[u8]> {
        self.start = self.read()?;
        Ok(&self.start)
    }

    /// The next piece; empty at the end.
    fn next(&mut self) -> Result<Vec<u8>> {
        match std::mem::take(&mut self.start) {
            start if start.is_empty() => self.read(),
            start => Ok(start),
        }
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(PIECE);
        Read::by_ref(&mut self.reader).take(PIECE as u64).read_to_end(&mut piece)?;
        Ok(piece)
    }
}

struct Digesting<'a>(&'a mut Sha256);

impl Write for Digesting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Import<'a> {
    remote: &'a Remote,
    args: &'a ImportArgs,
    format: Format,
    /// The broker remembers under it how far it came.
    key: Option<String>,
    total: Total,
    /// The first line that was not sent yet.
    from: u64,
}

impl Import<'_> {
    /// Finds out how far an earlier run came.
    fn resume(&mut self, key: &str) -> Result<()> {
        self.key = Some(key.to_owned());
        if self.args.from_start {
            self.forget();
            return Ok(());
        }
        let Some(known) = self.remote.find(&format!("/imports/{key}"))? else { return Ok(()) };
        if known["complete"] == true {
            self.forget();
            return Ok(());
        }
        self.from = known["next_line"].as_u64().unwrap_or_default();
        self.total.add(&known);
        Ok(())
    }

    fn forget(&self) {
        if let Some(key) = &self.key {
            // There may be none.
            let _ = self.remote.delete(&format!("/imports/{key}"));
        }
    }

    fn send_all(&mut self, source: &mut Source, bar: &ProgressBar) -> Result<()> {
        let mut cutter = Cutter::new(self.format, 1);
        let mut found = Vec::new();
        let mut part = Part::default();
        let mut head = None;
        loop {
            let piece = source.next()?;
            let is_last = piece.is_empty();
            if is_last {
                std::mem::replace(&mut cutter, Cutter::new(self.format, 1)).finish(&mut found);
            } else {
                cutter.take(&piece, &mut found);
            }
            for cut in found.drain(..) {
                if self.format == Format::Csv && head.is_none() {
                    head = Some(self.head(&cut)?);
                    continue;
                }
                if let Some((code, detail)) = unsendable(&cut) {
                    self.total.refuse(cut.line, code, &detail);
                    continue;
                }
                if cut.line < self.from {
                    continue;
                }
                if let Some(line) = part.add(&cut) {
                    self.send(&mut part, head.as_deref(), Some(line))?;
                }
            }
            bar.inc(piece.len() as u64);
            bar.set_message(format!("{} registered, {} not taken", self.total.created, self.total.failed));
            if is_last {
                return self.send(&mut part, head.as_deref(), None);
            }
        }
    }

    /// The names of the columns go before the rows of every part.
    fn head(&self, cut: &Cut) -> Result<Vec<u8>> {
        match &cut.bytes {
            Ok(bytes) => {
                let mut head = bytes.trim_ascii().to_vec();
                head.push(b'\n');
                Ok(head)
            }
            Err(error) => Err(Failure::refused(format!("line {}: {error}", cut.line)).into()),
        }
    }

    /// `next_line`: of the row that comes after; `None`: there is none.
    fn send(&mut self, part: &mut Part, head: Option<&[u8]>, next_line: Option<u64>) -> Result<()> {
        let mut body = head.unwrap_or_default().to_vec();
        body.append(&mut part.body);
        let mut path = format!(
            "/imports?format={}&line={}&inactive={}&dry_run={}",
            self.format.as_str(),
            part.first_line.max(1),
            self.args.inactive,
            self.args.dry_run
        );
        if let Some(key) = &self.key {
            path.push_str(&format!("&key={key}&last={}", next_line.is_none()));
        }
        *part = Part::default();
        let media = match self.format {
            Format::Pem => "application/x-pem-file",
            Format::Csv => "text/csv",
            Format::Ndjson => "application/x-ndjson",
        };
        let report = self.remote.send("POST", &path, media, &body)?;
        self.total.add(&report);
        Ok(())
    }
}

/// Rows of one request. Lines keep their numbers: what stands between rows is sent as empty lines.
#[derive(Default)]
struct Part {
    body: Vec<u8>,
    rows: usize,
    first_line: u64,
    /// Number of the line that would come next in the body.
    line: u64,
}

impl Part {
    /// Takes a row; answers the line after it if the part is full with it.
    fn add(&mut self, cut: &Cut) -> Option<u64> {
        let row = cut.bytes.as_deref().unwrap_or_default();
        if self.rows == 0 {
            (self.first_line, self.line) = (cut.line, cut.line);
        }
        let between = cut.line.saturating_sub(self.line);
        self.body.extend(std::iter::repeat_n(b'\n', usize::try_from(between).unwrap_or_default()));
        self.body.extend_from_slice(row);
        if !row.ends_with(b"\n") {
            self.body.push(b'\n');
        }
        let lines = row.trim_ascii_end().iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        self.line = cut.line + lines;
        self.rows += 1;
        (self.rows >= PART_ROWS || self.body.len() >= PART_BYTES).then_some(self.line)
    }
}

/// Why a row does not even get to the broker.
fn unsendable(cut: &Cut) -> Option<(&'static str, String)> {
    const KEY: &[u8] = b"PRIVATE KEY-----";
    match &cut.bytes {
        Err(error) => Some(("bad_row", error.to_string())),
        Ok(row) if row.windows(KEY.len()).any(|window| window == KEY) => Some((
            "private_key",
            String::from("it holds a private key, which was not sent: take it out of the file"),
        )),
        Ok(_) => None,
    }
}

fn report(args: &ImportArgs, mut total: Total) -> Result<()> {
    total.problems.sort_by_key(|problem| problem["line"].as_u64());
    if args.remote.json {
        output::json(&json!({
            "dry_run": args.dry_run,
            "created": total.created,
            "unchanged": total.unchanged,
            "failed": total.failed,
            "problems": total.problems,
        }))?;
    } else {
        let would = if args.dry_run { "would be registered" } else { "registered" };
        say(format!(
            "{would}: {}, known already: {}, not taken: {}",
            total.created, total.unchanged, total.failed
        ))?;
        for problem in total.problems.iter().take(MOST_PRINTED) {
            let (line, code) = (text(problem, "line"), text(problem, "code"));
            say(format!("  line {line}: {code}: {}", printable(&text(problem, "detail"))))?;
        }
        let more = total.problems.len().saturating_sub(MOST_PRINTED);
        if more > 0 {
            say(format!("  … and {more} more: --json has them all"))?;
        }
    }
    match total.failed {
        0 => Ok(()),
        failed => Err(Failure::refused(format!(
            "{failed} rows were not taken\n  help: correct them and run it again; the others stay as they are"
        ))
        .into()),
    }
}

pub fn export(args: &ExportArgs, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&args.remote, config)?;
    let path = format!("/exports?format={}{}", args.format.as_str(), args.filter.query());
    let mut answer = remote.read(&path)?;
    match &args.output {
        None => {
            let mut out = std::io::stdout().lock();
            match std::io::copy(&mut answer, &mut out).and_then(|_| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                result => Ok(result.context("the export broke off")?),
            }
        }
        Some(file) => {
            let cannot = |error: std::io::Error| {
                Failure::refused(format!("{} cannot be written: {error}", file.display()))
            };
            // Whole or not at all: what broke off must not be taken for a complete one.
            let partial = file.with_added_extension("partial");
            let mut out = File::create(&partial).map_err(cannot)?;
            let bytes = std::io::copy(&mut answer, &mut out).context("the export broke off")?;
            out.sync_all().map_err(cannot)?;
            std::fs::rename(&partial, file).map_err(cannot)?;
            if std::io::stdout().is_terminal() || !args.remote.json {
                say(format!("wrote {} ({bytes} bytes)", file.display()))?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_all(format: Format, text: &str, line: u64) -> Vec<Cut> {
        let mut cutter = Cutter::new(format, line);
        let mut found = Vec::new();
        cutter.take(text.as_bytes(), &mut found);
        cutter.finish(&mut found);
        found
    }

    /// What the broker cuts out of a part are the same rows, with the same numbers.
    #[test]
    fn lines_keep_their_numbers() {
        let text = "{\"a\":1}\n\n\n{\"b\":2}\n{\"c\":3}\n   \n{\"d\":4}";
        let csv = "a,b\n\n1,\"two\nlines\"\n\n\n2,x\n3,\"four\n\nlines\"\n5,y";
        for (format, text) in [(Format::Ndjson, text), (Format::Csv, csv)] {
            let cuts = cut_all(format, text, 1);
            for first in 0..cuts.len() {
                let mut part = Part::default();
                for cut in &cuts[first..] {
                    part.add(cut);
                }
                let body = String::from_utf8(part.body).expect("text");
                let again = cut_all(format, &body, part.first_line);
                let lines = |cuts: &[Cut]| cuts.iter().map(|cut| cut.line).collect::<Vec<_>>();
                assert_eq!(lines(&again), lines(&cuts[first..]), "{format:?} from {first}: {body:?}");
            }
        }
    }

    #[test]
    fn a_row_with_a_key_stays_here() {
        let row = b"{\"pem\":\"-----BEGIN EC PRIVATE KEY-----\"}".to_vec();
        assert!(unsendable(&Cut { line: 7, bytes: Ok(row) }).is_some_and(|(code, _)| code == "private_key"));
        assert_eq!(unsendable(&Cut { line: 7, bytes: Ok(b"{}".to_vec()) }), None);
    }
}
