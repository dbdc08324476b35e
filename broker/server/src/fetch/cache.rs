//! What was fetched, on the disk, so that a broker that starts while the CA's server is down knows what it knew.
//!
//! What is kept here is signed: what somebody else writes here is not believed either.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Validators;

#[derive(Serialize, Deserialize)]
struct Meta {
    #[serde(rename = "url")]
    key: String,
    etag: Option<String>,
    last_modified: Option<String>,
}

pub(crate) struct DiskCache {
    folder: Option<PathBuf>,
    /// Of the files' names.
    ending: &'static str,
}

fn stem(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

impl DiskCache {
    /// `None`: nothing is kept.
    pub(crate) const fn new(folder: Option<PathBuf>, ending: &'static str) -> Self {
        Self { folder, ending }
    }

    fn path(&self, key: &str, ending: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{}.{ending}", stem(key))))
    }

    /// Forgets everything but this.
    pub(crate) fn keep_only<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        let Some(folder) = &self.folder else { return };
        let kept: HashSet<String> = keys.into_iter().map(stem).collect();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let of_ours = path.extension().is_some_and(|ending| ending == self.ending || ending == "json");
            let known =
                path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| kept.contains(stem));
            if of_ours && !known {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    pub(crate) fn remove(&self, key: &str) {
        for path in [self.path(key, self.ending), self.path(key, "json")].into_iter().flatten() {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(crate) fn load(&self, key: &str, max_bytes: usize) -> Option<(Vec<u8>, Validators)> {
        let path = self.path(key, self.ending)?;
        if std::fs::metadata(&path).ok()?.len() > max_bytes as u64 * 2 {
            return None;
        }
        let body = std::fs::read(path).ok()?;
        let meta: Option<Meta> = std::fs::read(self.path(key, "json")?)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .filter(|meta: &Meta| meta.key == key);
        let validators = meta
            .map(|meta| Validators { etag: meta.etag, last_modified: meta.last_modified })
            .unwrap_or_default();
        Some((body, validators))
    }

    pub(crate) fn store(&self, key: &str, body: &[u8], validators: &Validators) {
        let Some(folder) = &self.folder else { return };
        let meta = Meta {
            key: key.to_owned(),
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
        };
        let written = std::fs::create_dir_all(folder).and_then(|()| {
            for (ending, content) in
                [(self.ending, body.to_vec()), ("json", serde_json::to_vec(&meta).unwrap_or_default())]
            {
                if let Some(path) = self.path(key, ending) {
                    replace(&path, &content)?;
                }
            }
            Ok(())
        });
        if let Err(error) = written {
            tracing::warn!(key, %error, "what was fetched is not kept on the disk");
        }
    }
}

/// Writes beside it and renames: whoever reads sees the old or the new.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}
