//! Fetched lists on the disk, so that a broker that starts while the CA's server is down knows what it knew.
//!
//! A list is signed: what somebody else writes here is not believed either.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Validators;

#[derive(Serialize, Deserialize)]
struct Meta {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
}

pub(crate) struct DiskCache {
    folder: Option<PathBuf>,
}

impl DiskCache {
    /// `None`: nothing is kept.
    pub(crate) const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    fn path(&self, url: &str, ending: &str) -> Option<PathBuf> {
        let name = hex::encode(Sha256::digest(url.as_bytes()));
        Some(self.folder.as_ref()?.join(format!("{name}.{ending}")))
    }

    pub(crate) fn load(&self, url: &str, max_bytes: usize) -> Option<(Vec<u8>, Validators)> {
        let path = self.path(url, "crl")?;
        if std::fs::metadata(&path).ok()?.len() > max_bytes as u64 * 2 {
            return None;
        }
        let body = std::fs::read(path).ok()?;
        let meta: Option<Meta> = std::fs::read(self.path(url, "json")?)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .filter(|meta: &Meta| meta.url == url);
        let validators = meta
            .map(|meta| Validators { etag: meta.etag, last_modified: meta.last_modified })
            .unwrap_or_default();
        Some((body, validators))
    }

    pub(crate) fn store(&self, url: &str, body: &[u8], validators: &Validators) {
        let Some(folder) = &self.folder else { return };
        let meta = Meta {
            url: url.to_owned(),
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
        };
        let written = std::fs::create_dir_all(folder).and_then(|()| {
            for (ending, content) in
                [("crl", body.to_vec()), ("json", serde_json::to_vec(&meta).unwrap_or_default())]
            {
                if let Some(path) = self.path(url, ending) {
                    replace(&path, &content)?;
                }
            }
            Ok(())
        });
        if let Err(error) = written {
            tracing::warn!(url, %error, "a fetched revocation list is not kept on the disk");
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
