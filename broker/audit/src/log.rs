//! The log, as the one who writes it has it: records are appended, forced to the disk, signed, and deleted by whole
//! segments. Does not know why something is recorded, nor the time: both are told.

use std::fs::{File, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mqgate_identity::audit::AuditEvent;
use mqgate_identity::time::UnixMillis;

use crate::files::{self, LOCK, Line, Lines, Part, SEGMENTS};
use crate::keys::{KeyError, Signer};
use crate::note::{Checkpoint, VerifyingKey};
use crate::record::{self, Place, Stamp};
use crate::segment::{Active, Before, Recovery, Sealed, SegmentError, Torn};
use crate::subjects::Personal;
use crate::tree::Range;
use crate::view::{End, Held, State, View};

/// How long a lock that somebody else has is tried again.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The link to the current segment; the folder of the log has this name and `.d`.
    pub path: PathBuf,
    /// The private key that signs checkpoints; made if it is not there.
    pub key_file: PathBuf,
    /// A segment that reaches this size is sealed.
    pub segment_bytes: u64,
    /// Sealed segments kept; 0 keeps all.
    pub keep: usize,
    /// A checkpoint is signed when so many records came since the last …
    pub checkpoint_records: u64,
    /// … or when one of them is so old.
    pub checkpoint_interval: Duration,
    /// What of records is encrypted with keys of their subjects, and where those are.
    pub personal: Option<PersonalSettings>,
}

/// See [`crate::subjects`].
#[derive(Debug, Clone)]
pub struct PersonalSettings {
    /// Where the keys are; not below the log's folder.
    pub folder: PathBuf,
    /// Names of members, and of fields.
    pub members: Vec<String>,
}

/// The log cannot be gone on with. The remedy is the operator's, so that nothing is covered up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{0}")]
    File(io::Error),
    #[error("{0}: another process writes this log")]
    Locked(String),
    #[error("{0}")]
    Key(KeyError),
    #[error(
        "{what}. `mqgate audit verify {folder}` says more. Restore the files from a copy, or move {folder} away to begin a new log"
    )]
    Damaged { what: String, folder: String },
}

/// What was found when the log was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// The end was torn by a crash, and was cut off.
    pub torn: Option<Torn>,
    /// A file from before the log had segments was at its path, and is here now.
    pub moved: Option<PathBuf>,
}

/// Records that are to be deleted, when that was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outdated {
    /// The last of them.
    pub through: u64,
}

/// The one who writes a log.
pub struct Log {
    settings: Settings,
    folder: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
    signer: Signer,
    personal: Option<Arc<Mutex<Personal>>>,
    /// Everything before the active segment.
    before: Before,
    active: Active,
    durable: u64,
    /// Records under the last checkpoint.
    signed: u64,
    /// When the oldest record came that no checkpoint covers.
    unsigned_since: Option<UnixMillis>,
    /// Up to where retention was announced.
    announced: u64,
    /// The active segment is in the list of sealed ones already: the attempt to begin the next failed.
    sealed: Option<Sealed>,
    stamp: Stamp,
    view: View,
}

impl Log {
    /// Opens the log, or begins it. Cuts off what a crash left torn, and refuses what else does not hold together.
    pub fn open(settings: Settings) -> Result<(Self, Opened), LogError> {
        let folder = files::folder_of(&settings.path);
        files::create_folder(&folder).map_err(files::at(&folder)).map_err(LogError::File)?;
        let lock = lock(&folder)?;
        let mut opened = Opened::default();
        let signer = Signer::open(&folder, &settings.key_file).map_err(LogError::Key)?;
        let damaged = |what: String| LogError::Damaged { what, folder: folder.display().to_string() };
        let sealed = sealed_segments(&folder).map_err(LogError::File)?;
        let mut before = Before::nothing();
        for (line, segment) in (1_u64..).zip(&sealed) {
            if !before.pass(segment) {
                return Err(damaged(format!(
                    "{SEGMENTS}, line {line}: does not follow from the line before"
                )));
            }
        }
        let last_sealed = before.tree.end();
        let there = files::segments(&folder).map_err(LogError::File)?;
        let kept: Vec<u64> = there.iter().copied().filter(|first| *first <= last_sealed).collect();
        let expected: Vec<u64> = sealed.iter().map(|segment| segment.first).collect();
        if !expected.ends_with(&kept) {
            return Err(damaged(format!("segments are missing: there are {kept:?} of {expected:?}")));
        }
        for gone in &expected[..expected.len() - kept.len()] {
            delete(&folder, *gone).map_err(LogError::File)?;
        }
        let newest: Vec<u64> = there.into_iter().filter(|first| *first > last_sealed).collect();
        let log = signer.ring().log().to_owned();
        let (active, checkpoint) = match newest[..] {
            [] => {
                let created = Active::create(&folder, last_sealed + 1, before.prev);
                (created.map_err(LogError::File)?, None)
            }
            [first] if first == last_sealed + 1 => {
                let recovery = Recovery { folder: &folder, log: &log, ring: signer.ring(), before: &before };
                let (active, checkpoint, torn) = recovery.open(first).map_err(|error| match error {
                    SegmentError::File(error) => LogError::File(error),
                    SegmentError::Damaged(what) => damaged(what),
                })?;
                opened.torn = torn;
                (active, checkpoint)
            }
            _ => return Err(damaged(format!("{newest:?}: these do not follow segment {last_sealed}"))),
        };
        let personal = settings
            .personal
            .as_ref()
            .map(|personal| Personal::open(&personal.folder, &log, &personal.members))
            .transpose()
            .map_err(LogError::File)?;
        let checkpoint = checkpoint.or_else(|| {
            sealed
                .last()
                .and_then(|segment| Checkpoint::parse(&segment.note).ok())
                .map(|(checkpoint, _)| checkpoint)
        });
        opened.moved = link(&settings.path, active.first()).map_err(LogError::File)?;
        let end = active.range().end();
        let mut segments: Vec<Held> = sealed[expected.len() - kept.len()..]
            .iter()
            .map(|segment| Held { first: segment.first, bytes: segment.bytes })
            .collect();
        segments.push(Held { first: active.first(), bytes: active.bytes() });
        let oldest = segments[0].first;
        let signed = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        let state = State {
            end: End { written: end, durable: end, oldest },
            segments,
            checkpoint: checkpoint.map(Arc::new),
            ..State::default()
        };
        let view = View::new(&folder, &log, state);
        let log = Self {
            settings,
            _lock: lock,
            signer,
            personal: personal.map(|personal| Arc::new(Mutex::new(personal))),
            before,
            active,
            durable: end,
            signed,
            // What the last run did not sign is signed as soon as the clock is asked.
            unsigned_since: (signed < end).then_some(UnixMillis(0)),
            announced: 0,
            sealed: None,
            stamp: Stamp::default(),
            view,
            folder,
        };
        Ok((log, opened))
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// The public key that signs now.
    pub fn key(&self) -> &VerifyingKey {
        self.signer.key().verifying()
    }

    /// The keys of subjects, to show and to erase what is encrypted with them.
    pub fn personal(&self) -> Option<Arc<Mutex<Personal>>> {
        self.personal.clone()
    }

    /// The last record that was written.
    pub fn written(&self) -> u64 {
        self.active.range().end()
    }

    /// Appends one record for each event, all or none of them. They survive a crash of the broker, and after
    /// [`Log::sync`] one of the machine. The records' sequence numbers follow the last one.
    pub fn append<'a>(
        &mut self,
        now: UnixMillis,
        events: impl IntoIterator<Item = &'a AuditEvent>,
    ) -> io::Result<()> {
        if self.active.bytes() > 0 && self.active.bytes() >= self.settings.segment_bytes {
            self.seal(now)?;
        }
        let next = self.written() + 1;
        let mut appending = self.active.appending();
        for (sequence, event) in (next..).zip(events) {
            let key = match &self.personal {
                Some(personal) => {
                    let mut personal = personal.lock().unwrap_or_else(PoisonError::into_inner);
                    personal.key_for(event)?
                }
                None => None,
            };
            let hide = key.as_ref().map(|key| move |member: &str, value: &str| key.hide(member, value));
            let place = Place {
                log: self.view.id(),
                sequence,
                prev: appending.prev().half(),
                time: self.stamp.of(event.at),
                hide: hide.as_ref().map(|hide| hide as &record::Hide<'_>),
            };
            appending.push(|line| record::encode(event, &place, line));
        }
        if appending.bytes() == 0 {
            return Ok(());
        }
        appending.write()?;
        self.unsigned_since.get_or_insert(now);
        self.show();
        Ok(())
    }

    /// Forces what was appended to the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.durable < self.written() {
            self.active.sync()?;
            self.durable = self.written();
            self.show();
        }
        Ok(())
    }

    /// Signs the log, if it is time to.
    pub fn checkpoint_if_due(&mut self, now: UnixMillis) -> io::Result<Option<Arc<Checkpoint>>> {
        let Some(since) = self.unsigned_since else { return Ok(None) };
        let age = Duration::from_millis(now.0.saturating_sub(since.0));
        // A clock that was set back ends the wait, too.
        let is_due = self.written() - self.signed >= self.settings.checkpoint_records
            || age >= self.settings.checkpoint_interval
            || now < since;
        if is_due { self.checkpoint(now) } else { Ok(None) }
    }

    /// When [`Log::checkpoint_if_due`] is to be asked again if nothing is appended.
    pub fn checkpoint_due_in(&self, now: UnixMillis) -> Option<Duration> {
        let since = self.unsigned_since?;
        let age = Duration::from_millis(now.0.saturating_sub(since.0));
        Some(self.settings.checkpoint_interval.saturating_sub(age))
    }

    /// Signs the log as it is; `None` if the last checkpoint says the same.
    pub fn checkpoint(&mut self, now: UnixMillis) -> io::Result<Option<Arc<Checkpoint>>> {
        if self.signed == self.written() {
            return Ok(None);
        }
        // A checkpoint about records that a power cut can take back would be evidence of a truncation that nobody did.
        self.sync()?;
        let checkpoint = self.sign(now);
        self.active.note(&checkpoint)?;
        self.signed = checkpoint.size;
        self.unsigned_since = None;
        let checkpoint = Arc::new(checkpoint);
        self.view.lock().checkpoint = Some(Arc::clone(&checkpoint));
        Ok(Some(checkpoint))
    }

    fn sign(&self, now: UnixMillis) -> Checkpoint {
        let mut tree = self.before.tree.clone();
        let joined = tree.join(self.active.range());
        debug_assert!(joined, "the active segment begins where the others end");
        Checkpoint::sign(self.signer.key(), tree.end(), tree.root(), &record::time(now))
    }

    /// Hands over to a new key: checkpoints are signed with it from now on. Returns the statement that both signed.
    pub fn rotate_key(&mut self, now: UnixMillis) -> Result<String, LogError> {
        self.checkpoint(now).map_err(LogError::File)?;
        self.signer.rotate(self.written(), &record::time(now)).map_err(LogError::Key)
    }

    /// Ends the active segment and begins the next. May be tried again when it failed.
    fn seal(&mut self, now: UnixMillis) -> io::Result<()> {
        let sealed = match self.sealed.clone() {
            Some(sealed) => sealed,
            None => {
                self.checkpoint(now)?;
                self.active.sync_all()?;
                let checkpoint =
                    self.view.checkpoint().filter(|checkpoint| checkpoint.size == self.written());
                let checkpoint =
                    checkpoint.ok_or_else(|| io::Error::other("a segment without records is not sealed"))?;
                let sealed = self.active.sealed(&checkpoint);
                let mut line = serde_json::to_vec(&sealed)?;
                line.push(b'\n');
                append_line(&self.folder, &line)?;
                self.sealed.insert(sealed).clone()
            }
        };
        let mut before = self.before.clone();
        let follows = before.pass(&sealed);
        debug_assert!(follows, "the active segment begins where the others end");
        let active = Active::create(&self.folder, sealed.last + 1, sealed.last_leaf)?;
        link(&self.settings.path, active.first())?;
        self.before = before;
        self.active = active;
        self.sealed = None;
        let mut state = self.view.lock();
        if let Some(held) = state.segments.last_mut() {
            held.bytes = sealed.bytes;
        }
        state.segments.push(Held { first: self.active.first(), bytes: 0 });
        Ok(())
    }

    /// What is too old to be kept, once for each: to be written down, and then deleted with [`Log::retire`].
    pub fn outdated(&mut self) -> Option<Outdated> {
        let mut state = self.view.lock();
        let sealed = state.segments.len().saturating_sub(1);
        state.outdated = if self.settings.keep == 0 { 0 } else { sealed.saturating_sub(self.settings.keep) };
        let done = state.holds.values().copied().min().unwrap_or(u64::MAX);
        let lasts = state.segments.iter().skip(1).map(|next| next.first - 1);
        let through = lasts.take(state.outdated).take_while(|last| *last <= done).last().unwrap_or(0);
        (through > self.announced).then(|| {
            self.announced = through;
            Outdated { through }
        })
    }

    /// Deletes the segments up to the record `through`. Their tree hashes stay in the list of sealed segments.
    pub fn retire(&mut self, through: u64) -> io::Result<()> {
        loop {
            let first = {
                let state = self.view.lock();
                match state.segments[..] {
                    [oldest, next, ..] if next.first - 1 <= through => oldest.first,
                    _ => break,
                }
            };
            delete(&self.folder, first)?;
            let mut state = self.view.lock();
            state.segments.remove(0);
            state.outdated = state.outdated.saturating_sub(1);
            state.end.oldest = state.segments[0].first;
        }
        files::sync_folder(&self.folder)
    }

    /// Tells the readers how far the log is.
    fn show(&self) {
        let mut state = self.view.lock();
        state.end.written = self.active.range().end();
        state.end.durable = self.durable;
    }

    /// The whole tree as it is.
    pub fn tree(&self) -> Range {
        let mut tree = self.before.tree.clone();
        tree.join(self.active.range());
        tree
    }
}

/// Deletes what is there of a segment. The records first: without them the rest is no segment, and is deleted at the next
/// start if the broker ends here.
fn delete(folder: &Path, first: u64) -> io::Result<()> {
    let parts = [Part::Records, Part::Index, Part::Checkpoints].map(|part| folder.join(part.name(first)));
    for path in parts.into_iter().chain(files::torn(folder, first)?) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files::at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// A process that this one has just started shares the locks of this one until it runs its own program: whoever closed
/// the log a moment ago may find it locked once more, and not for long.
fn lock(folder: &Path) -> Result<File, LogError> {
    let path = folder.join(LOCK);
    let file = files::open_private(&path).map_err(files::at(&path)).map_err(LogError::File)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_PATIENCE / 20),
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked(path.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(LogError::File(files::at(&path)(error))),
        }
    }
}

/// Reads the list of sealed segments; a last line that a crash tore is cut off: its segment is sealed again.
fn sealed_segments(folder: &Path) -> io::Result<Vec<Sealed>> {
    let path = folder.join(SEGMENTS);
    let file = files::open_private(&path).map_err(files::at(&path))?;
    let mut lines = Lines::new(&file, 0);
    let mut sealed = Vec::new();
    let mut whole = 0;
    while let Some(Line::Whole(line)) = lines.next_line()? {
        let segment = serde_json::from_slice(line);
        whole = lines.offset();
        sealed.push(segment.map_err(|error| {
            io::Error::other(format!("{}, line {}: {error}", path.display(), lines.number()))
        })?);
    }
    file.set_len(whole)?;
    Ok(sealed)
}

/// Adds a line to the list of sealed segments, all of it or nothing.
fn append_line(folder: &Path, line: &[u8]) -> io::Result<()> {
    let path = folder.join(SEGMENTS);
    let mut file = files::open_private(&path).map_err(files::at(&path))?;
    let end = file.seek(SeekFrom::End(0))?;
    let written = file.write_all(line).and_then(|()| file.sync_all());
    if written.is_err() {
        file.set_len(end)?;
    }
    written?;
    files::sync_folder(folder)
}

/// Makes `path` a link to the segment that begins with `first`. A file that is there is moved aside and returned.
fn link(path: &Path, first: u64) -> io::Result<Option<PathBuf>> {
    let mut moved = None;
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_symlink()) {
        let mut names = (1_u32..).map(|number| suffixed(path, &format!(".unsealed-{number}")));
        let aside = names.find(|aside| !aside.exists()).unwrap_or_else(|| suffixed(path, ".unsealed"));
        std::fs::rename(path, &aside).map_err(files::at(path))?;
        moved = Some(aside);
    }
    #[cfg(unix)]
    {
        let folder = files::folder_of(path);
        let target = Path::new(folder.file_name().unwrap_or_default()).join(Part::Records.name(first));
        let beside = suffixed(path, ".next");
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files::at(&beside)(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(&target, &beside).map_err(files::at(&beside))?;
        std::fs::rename(&beside, path).map_err(files::at(path))?;
    }
    Ok(moved)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
