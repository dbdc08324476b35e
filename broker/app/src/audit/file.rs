//! Records into a file, rotated by size, and to the journal of systemd and standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mqgate_server::audit::sinks::format::Parsed;
use mqgate_server::audit::sinks::{Format, Item, Outlet, OutletError, OutletFuture, Turns};

/// Lines of a file: `NAME`, and renamed `NAME.1`, `NAME.2`, … the youngest first.
pub struct FileOutlet {
    file: Arc<Mutex<Rotating>>,
    format: Format,
    turns: Turns,
}

struct Rotating {
    path: PathBuf,
    largest: u64,
    keep: u32,
    /// Opened with the first batch, and again after a failure.
    open: Option<(File, u64)>,
}

impl FileOutlet {
    pub fn new(path: &Path, format: Format, largest: u64, keep: u32) -> Self {
        let rotating = Rotating { path: path.to_owned(), largest, keep, open: None };
        Self { file: Arc::new(Mutex::new(rotating)), format, turns: Turns::default() }
    }
}

impl Outlet for FileOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        let lines = lines(items, self.format);
        let last = last(items);
        let file = Arc::clone(&self.file);
        Box::pin(async move {
            let write = move || file.lock().unwrap_or_else(PoisonError::into_inner).append(&lines);
            self.turns.take(move || write().map_err(OutletError::new)).await.map(|()| last)
        })
    }
}

fn lines(items: &[Item], format: Format) -> Vec<u8> {
    let mut lines = Vec::new();
    for item in items {
        lines.extend_from_slice(&format.write(&item.line));
        lines.push(b'\n');
    }
    lines
}

fn last(items: &[Item]) -> u64 {
    items.last().map_or(0, |item| item.sequence)
}

impl Rotating {
    /// On the disk when it returns. After a failure what was written in part is cut off.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let (mut file, length) = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let (mut file, length) = match length > 0 && length + lines.len() as u64 > self.largest {
            true => {
                file.sync_all()?;
                drop(file);
                self.rotate()?;
                self.open()?
            }
            false => {
                file.seek(SeekFrom::Start(length))?;
                (file, length)
            }
        };
        file.write_all(lines).and_then(|()| file.sync_data()).inspect_err(|_| {
            let _ = file.set_len(length);
        })?;
        self.open = Some((file, length + lines.len() as u64));
        Ok(())
    }

    /// Cuts off a line that a crash has torn: it comes again.
    fn open(&self) -> io::Result<(File, u64)> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        let mut file = options.open(&self.path).map_err(named)?;
        let mut length = file.metadata()?.len();
        let mut end = [0];
        while length > 0 {
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut end)?;
            if end == [b'\n'] {
                break;
            }
            length -= 1;
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok((file, length))
    }

    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return std::fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))
    }
}

/// Lines to standard output.
pub struct StdoutOutlet {
    format: Format,
    turns: Turns,
}

impl StdoutOutlet {
    pub fn new(format: Format) -> Self {
        Self { format, turns: Turns::default() }
    }
}

impl Outlet for StdoutOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        let (lines, last) = (lines(items, self.format), last(items));
        Box::pin(async move {
            // A reader that does not read keeps nobody waiting but this.
            let write = move || {
                let mut out = io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            };
            self.turns.take(move || write().map_err(OutletError::new)).await.map(|()| last)
        })
    }
}

/// The journal of systemd, by its native protocol: one datagram for each record.
pub struct JournalOutlet {
    socket: PathBuf,
    format: Format,
    turns: Turns,
}

impl JournalOutlet {
    pub fn new(socket: PathBuf, format: Format) -> Self {
        Self { socket, format, turns: Turns::default() }
    }
}

impl Outlet for JournalOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        let last = last(items);
        let datagrams: Vec<Vec<u8>> = items.iter().map(|item| datagram(item, self.format)).collect();
        let path = self.socket.clone();
        Box::pin(async move {
            let send = move || {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&path)?;
                datagrams.iter().try_for_each(|datagram| socket.send(datagram).map(drop))
            };
            let failed = |error: io::Error| OutletError::new(format!("the journal: {error}"));
            self.turns.take(move || send().map_err(failed)).await.map(|()| last)
        })
    }
}

/// Fields that hold a line break have their length in front; a record holds none, but who knows.
fn datagram(item: &Item, format: Format) -> Vec<u8> {
    let record = Parsed::new(&item.line);
    let priority = match record.text("outcome") {
        "success" => "6",
        "failure" => "4",
        _ => "3",
    };
    let sequence = item.sequence.to_string();
    let message = format.write(&item.line);
    let fields: [(&str, &[u8]); 9] = [
        ("MESSAGE", &message),
        ("PRIORITY", priority.as_bytes()),
        ("SYSLOG_FACILITY", b"13"),
        ("SYSLOG_IDENTIFIER", b"mqgate"),
        ("MQGATE_LOG", record.text("log").as_bytes()),
        ("MQGATE_SEQ", sequence.as_bytes()),
        ("MQGATE_NAME", record.text("name").as_bytes()),
        ("MQGATE_OUTCOME", record.text("outcome").as_bytes()),
        ("MQGATE_REASON", record.text("reason").as_bytes()),
    ];
    let mut out = Vec::new();
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            out.push(b'\n');
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(numbers: std::ops::RangeInclusive<u64>) -> Vec<Item> {
        let line =
            |sequence: u64| format!("{{\"seq\":{sequence},\"outcome\":\"failure\"}}").into_bytes().into();
        numbers.map(|sequence| Item { sequence, line: line(sequence) }).collect()
    }

    #[tokio::test]
    async fn a_file_is_rotated_and_a_torn_line_comes_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        std::fs::write(&path, "{\"seq\":1}\n{\"se").expect("written");
        let outlet = FileOutlet::new(&path, Format::Json, 100, 2);
        assert_eq!(outlet.take(&items(2..=3)).await, Ok(3));
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().count(), 3, "{text}");
        for round in 0..4 {
            outlet.take(&items(4 + round * 2..=5 + round * 2)).await.expect("taken");
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert!(read("out.jsonl").ends_with("{\"seq\":11,\"outcome\":\"failure\"}\n"));
        assert!(!read("out.jsonl.1").is_empty() && !read("out.jsonl.2").is_empty());
        assert!(read("out.jsonl.3").is_empty());
        let kept: usize =
            ["out.jsonl", "out.jsonl.1", "out.jsonl.2"].iter().map(|name| read(name).len()).sum();
        assert!(kept <= 300, "{kept}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_said_by_name() {
        let outlet = FileOutlet::new(Path::new("/nowhere/at/all"), Format::Json, 100, 2);
        let error = outlet.take(&items(1..=1)).await.expect_err("there is none");
        assert!(error.problem.contains("/nowhere/at/all"), "{error:?}");
    }

    #[tokio::test]
    async fn the_journal_gets_a_datagram_for_each_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let outlet = JournalOutlet::new(path.clone(), Format::Json);
        assert!(outlet.take(&items(1..=1)).await.is_err());
        let journal = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(outlet.take(&items(1..=2)).await, Ok(2));
        let mut buffer = [0; 4096];
        for sequence in 1..=2 {
            let length = journal.recv(&mut buffer).expect("received");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(text.starts_with("MESSAGE={\"seq\":"), "{text}");
            assert!(text.contains(&format!("\nMQGATE_SEQ={sequence}\n")), "{text}");
            assert!(text.contains("\nPRIORITY=4\n"), "{text}");
        }
    }
}
