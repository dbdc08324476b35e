//! The audit file: appended by one thread, rotated by size, synced in groups.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Entry, Shared, bounds, record};

/// Events written in one go at most.
const BATCH: usize = 1024;
/// After a failed write, the next attempt.
const RETRY: Duration = Duration::from_millis(500);

/// `audit.jsonl`, `audit.jsonl.1`, …
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    /// Bytes of complete batches: a batch that failed half-way is cut off again.
    length: u64,
    max_bytes: u64,
    keep: usize,
}

impl RotatingFile {
    /// Opens for appending and cuts off a torn last line; the second value is its length.
    pub(super) fn open(path: &Path, max_bytes: u64, keep: usize) -> io::Result<(Self, u64)> {
        let mut file = open_private(path)?;
        let total = file.metadata()?.len();
        let length = complete_length(&mut file, total)?;
        if length < total {
            file.set_len(length)?;
        }
        file.seek(SeekFrom::Start(length))?;
        Ok((Self { path: path.to_owned(), file, length, max_bytes, keep }, total - length))
    }

    /// Appends all of `bytes` or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + bytes.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(bytes) {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.keep == 0 {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.length = 0;
            return Ok(());
        }
        // The successor first: without it nothing is moved.
        let successor = successor(&self.path);
        let file = open_private(&successor)?;
        file.set_len(0)?;
        // This may be another attempt: what an earlier one has moved already is not moved again, and nothing
        // moves over a file while there is a gap before it.
        if self.path.exists() {
            let end = (1..self.keep).find(|number| !numbered(&self.path, *number).exists());
            for number in (1..end.unwrap_or(self.keep)).rev() {
                std::fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1))?;
            }
            std::fs::rename(&self.path, numbered(&self.path, 1))?;
        }
        std::fs::rename(&successor, &self.path)?;
        self.file = file;
        self.length = 0;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            // The renames themselves have to survive a crash.
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Where the next file is until it takes the place of the present one.
fn successor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).write(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Length up to and including the last line feed.
fn complete_length(file: &mut File, total: u64) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut end = total;
    let mut buffer = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut buffer)?;
        if let Some(at) = buffer.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The writer thread: takes what is queued, writes it, syncs it, until the log is closed and empty.
pub(super) fn write_loop(shared: &Shared, mut file: RotatingFile) {
    let mut unsynced_since: Option<Instant> = None;
    let mut lines = Vec::new();
    loop {
        let (batch, closed) = next_batch(shared, unsynced_since);
        if !batch.is_empty() {
            lines.clear();
            for entry in &batch {
                record::write(&entry.event, &mut lines);
            }
            if !until_it_works(shared, || file.append(&lines)) {
                tracing::error!(
                    records = batch.len(),
                    "audit records are lost: the log closes and its file fails"
                );
                lose(shared, batch.len());
                return;
            }
            unsynced_since.get_or_insert_with(Instant::now);
        }
        let durable = batch.iter().any(|entry| entry.durable.is_some());
        let due = unsynced_since.is_some_and(|since| since.elapsed() >= shared.settings.sync_interval);
        if (durable || due || closed) && unsynced_since.is_some() {
            let synced = until_it_works(shared, || file.sync());
            unsynced_since = None;
            if synced {
                for done in batch.into_iter().filter_map(|entry| entry.durable) {
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
            }
        }
        if closed && shared.lock().queue.is_empty() {
            return;
        }
    }
}

/// Waits for events, for the time of the next sync, or for the end.
pub(super) fn next_batch(shared: &Shared, unsynced_since: Option<Instant>) -> (Vec<Entry>, bool) {
    let mut state = shared.lock();
    loop {
        if !state.queue.is_empty() || state.closed {
            let count = state.queue.len().min(BATCH);
            let batch: Vec<Entry> = state.queue.drain(..count).collect();
            let weight: usize = batch.iter().map(|entry| bounds::weight(&entry.event)).sum();
            state.queue_bytes = state.queue_bytes.saturating_sub(weight);
            if let Some(metrics) = &shared.metrics {
                let lag = i64::try_from(state.queue.len()).unwrap_or(i64::MAX);
                metrics.audit_sink_lag.with_label_values(&["file"]).set(lag);
            }
            return (batch, state.closed);
        }
        let Some(since) = unsynced_since else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = shared.settings.sync_interval.saturating_sub(since.elapsed());
        if left.is_zero() {
            return (Vec::new(), false);
        }
        state = shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Repeats `write` while it fails, and gives up only when the log is being closed.
fn until_it_works(shared: &Shared, mut write: impl FnMut() -> io::Result<()>) -> bool {
    let started = Instant::now();
    loop {
        match write() {
            Ok(()) => {
                if shared.failing.swap(false, Ordering::AcqRel) {
                    tracing::warn!("the audit file can be written again");
                }
                if let Some(metrics) = &shared.metrics {
                    metrics.audit_sink_up.with_label_values(&["file"]).set(1);
                    let took = started.elapsed().as_secs_f64();
                    metrics.audit_write_duration.with_label_values(&["file"]).observe(took);
                }
                return true;
            }
            Err(error) => {
                if !shared.failing.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "the audit file cannot be written: new connections are refused");
                }
                if let Some(metrics) = &shared.metrics {
                    metrics.audit_sink_up.with_label_values(&["file"]).set(0);
                }
                let state = shared.lock();
                if state.closed {
                    return false;
                }
                // Woken early by new events and by the end; trying again then is harmless.
                drop(shared.work.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

fn lose(shared: &Shared, records: usize) {
    let lost = records + shared.lock().queue.drain(..).count();
    if let Some(metrics) = &shared.metrics {
        metrics.audit_dropped.with_label_values(&["file", "write_failed"]).inc_by(lost as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of three bytes that is full, and three rotated ones.
    fn full(folder: &Path) -> (PathBuf, RotatingFile) {
        let path = folder.join("audit.jsonl");
        for number in 1..=3 {
            std::fs::write(numbered(&path, number), format!("old {number}")).unwrap();
        }
        let (mut file, _) = RotatingFile::open(&path, 3, 3).unwrap();
        file.append(b"ab\n").unwrap();
        (path, file)
    }

    fn rotated(path: &Path) -> Vec<String> {
        (1..=3).map(|number| std::fs::read_to_string(numbered(path, number)).unwrap_or_default()).collect()
    }

    #[test]
    fn a_rotation_that_was_cut_short_is_completed_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = full(folder.path());
        // As an attempt leaves it that failed after the last of its moves.
        for number in [2, 1] {
            std::fs::rename(numbered(&path, number), numbered(&path, number + 1)).unwrap();
        }
        std::fs::rename(&path, numbered(&path, 1)).unwrap();
        file.append(b"cd\n").unwrap();
        assert_eq!(rotated(&path), ["ab\n", "old 1", "old 2"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cd\n");
    }

    #[test]
    fn without_a_successor_nothing_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = full(folder.path());
        std::fs::create_dir(successor(&path)).unwrap();
        for _ in 0..5 {
            file.append(b"cd\n").unwrap_err();
        }
        assert_eq!(rotated(&path), ["old 1", "old 2", "old 3"]);
        std::fs::remove_dir(successor(&path)).unwrap();
        file.append(b"cd\n").unwrap();
        assert_eq!(rotated(&path), ["ab\n", "old 1", "old 2"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cd\n");
        // One that was cut short between two moves goes on at the gap.
        std::fs::rename(numbered(&path, 1), numbered(&path, 2)).unwrap();
        file.append(b"ef\n").unwrap();
        assert_eq!(rotated(&path), ["cd\n", "ab\n", "old 2"]);
    }
}
