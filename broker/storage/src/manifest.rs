//! A small file beside the database: up to which write each space is complete. The database drops the rest of
//! its journal at the first damaged entry; this file is how that is noticed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::envelope::checksum;

/// Number of the last write of each space.
pub(crate) type Numbers = [u64; 2];

const MAGIC: &[u8; 8] = b"mqgateM1";
const PAYLOAD_BYTES: usize = 8 + 8 + 2 * 8;
const SLOT_BYTES: usize = PAYLOAD_BYTES + 8;
/// Two slots, each in a sector of its own, written in turn: a torn write spoils one of them at most.
const SLOT_DISTANCE: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Manifest {
    file: File,
    /// Counts the writes of the file itself; its lowest bit picks the slot.
    generation: u64,
    numbers: Numbers,
}

#[derive(Debug)]
pub(crate) enum ManifestError {
    Io(std::io::Error),
    Damaged,
}

impl From<std::io::Error> for ManifestError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Manifest {
    /// `None`: there is no manifest.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, ManifestError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        let (generation, numbers) =
            slots.into_iter().flatten().max_by_key(|slot| slot.0).ok_or(ManifestError::Damaged)?;
        Ok(Some(Self { file, generation, numbers }))
    }

    pub(crate) fn create(path: &Path, directory: &Path) -> Result<Self, ManifestError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut manifest = Self { file, generation: 0, numbers: [0; 2] };
        manifest.write([0; 2])?;
        File::open(directory)?.sync_all()?;
        Ok(manifest)
    }

    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Durable when it returns.
    pub(crate) fn write(&mut self, numbers: Numbers) -> std::io::Result<()> {
        let generation = self.generation + 1;
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend_from_slice(MAGIC);
        slot.extend_from_slice(&generation.to_be_bytes());
        for number in numbers {
            slot.extend_from_slice(&number.to_be_bytes());
        }
        let sum = checksum(MAGIC, &slot);
        slot.extend_from_slice(&sum);
        self.file.write_all_at(&slot, (generation & 1) * SLOT_DISTANCE)?;
        self.file.sync_data()?;
        self.generation = generation;
        self.numbers = numbers;
        Ok(())
    }
}

/// Generation and numbers; `None` if the slot is not whole.
fn read_slot(file: &File, slot: u64) -> std::io::Result<Option<(u64, Numbers)>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (payload, sum) = bytes.split_at(PAYLOAD_BYTES);
    if !payload.starts_with(MAGIC) || checksum(MAGIC, payload) != sum {
        return Ok(None);
    }
    let number = |at: usize| {
        let mut digits = [0; 8];
        digits.copy_from_slice(&payload[at..at + 8]);
        u64::from_be_bytes(digits)
    };
    Ok(Some((number(8), [number(16), number(24)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manifest");
        assert!(Manifest::open(&path).unwrap().is_none());
        let mut manifest = Manifest::create(&path, directory.path()).unwrap();
        manifest.write([1, 0]).unwrap();
        manifest.write([2, 7]).unwrap();
        let slot = manifest.generation & 1;
        drop(manifest);
        assert_eq!(Manifest::open(&path).unwrap().unwrap().numbers(), [2, 7]);

        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff], slot * SLOT_DISTANCE + 20).unwrap();
        assert_eq!(Manifest::open(&path).unwrap().unwrap().numbers(), [1, 0]);
        file.write_all_at(&[0xff], (1 - slot) * SLOT_DISTANCE + 20).unwrap();
        assert!(matches!(Manifest::open(&path), Err(ManifestError::Damaged)));
    }
}
