//! The file of one trace: lines from many tasks, written by one thread that ends with it.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::IntCounter;

use super::TraceError;
use crate::directory::lock;

/// Lines that wait for the disk; more are lost and counted.
const QUEUE: usize = 8192;
/// What was written is seen by readers of the file after at most this long.
const FLUSH: Duration = Duration::from_millis(200);

pub(crate) struct Writer {
    lines: Mutex<Option<SyncSender<String>>>,
    shared: Arc<Shared>,
    dropped: IntCounter,
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    lost: AtomicU64,
    full: AtomicBool,
}

impl Writer {
    pub(super) fn start(path: &Path, limit: u64, dropped: IntCounter) -> Result<Self, TraceError> {
        let failed = |problem: std::io::Error| match problem.kind() {
            std::io::ErrorKind::AlreadyExists => TraceError::Exists,
            _ => TraceError::File { path: path.display().to_string(), problem },
        };
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let (sender, lines) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || run(&lines, BufWriter::new(file), limit, &for_thread))
            .map_err(failed)?;
        Ok(Self { lines: Mutex::new(Some(sender)), shared, dropped })
    }

    /// Never waits: without room the line is lost, counted, and the loss is told in the file.
    pub(super) fn write(&self, line: String) {
        let lines = lock(&self.lines);
        let Some(sender) = lines.as_ref() else { return };
        if let Err(TrySendError::Full(_)) = sender.try_send(line) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            self.dropped.inc();
        }
    }

    /// The thread writes what it has and ends.
    pub(super) fn end(&self) {
        *lock(&self.lines) = None;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }
}

fn run(lines: &Receiver<String>, mut file: BufWriter<std::fs::File>, limit: u64, shared: &Shared) {
    loop {
        match lines.recv_timeout(FLUSH) {
            Ok(line) => {
                let lost = shared.lost.swap(0, Ordering::Relaxed);
                let gap = if lost > 0 { format!("… {lost} lines were lost\n") } else { String::new() };
                let size = (gap.len() + line.len() + 1) as u64;
                if shared.written.load(Ordering::Relaxed) + size > limit {
                    shared.full.store(true, Ordering::Relaxed);
                    break;
                }
                if let Err(error) = writeln!(file, "{gap}{line}") {
                    tracing::error!(%error, "a trace cannot be written: it ends");
                    shared.full.store(true, Ordering::Relaxed);
                    break;
                }
                shared.written.fetch_add(size, Ordering::Relaxed);
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                let _ = file.flush();
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = file.flush();
}
