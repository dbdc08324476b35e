//! The admin token's file. The broker keeps only the hash in memory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use mqgate_server::admin::TokenHash;

use crate::exit::{Exit, Failure};
use crate::pki::{create_folder, write_private};

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;
/// Before the hash in a file that does not hold the token itself.
const HASHED: &str = "sha256:";

/// Reads the token, or makes one at the first start.
pub fn ensure(file: &Path) -> Result<TokenHash> {
    match std::fs::read_to_string(file) {
        Ok(text) => read(file, text.trim()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(file),
        Err(error) => Err(wrong(file, &error.to_string()).into()),
    }
}

fn wrong(file: &Path, what: &str) -> Failure {
    Failure::new(Exit::Config, format!("the token file {}: {what}", file.display()))
}

fn read(file: &Path, text: &str) -> Result<TokenHash> {
    let mode = std::fs::metadata(file).context("the token file vanished")?.permissions().mode();
    if mode & 0o022 != 0 {
        let what = format!("others can write it (mode {:03o}): chmod go-w", mode & 0o777);
        return Err(wrong(file, &what).into());
    }
    if let Some(hash) = text.strip_prefix(HASHED) {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes)
            .map_err(|error| wrong(file, &format!("`sha256:` and 64 hex digits: {error}")))?;
        return Ok(TokenHash::from_sha256(bytes));
    }
    if mode & 0o077 != 0 {
        return Err(wrong(file, &format!("others can read it (mode {:03o}): chmod 600", mode & 0o777)).into());
    }
    if text.len() < SHORTEST {
        return Err(wrong(
            file,
            &format!(
                "the token has fewer than {SHORTEST} characters: remove the file, and a new one is made"
            ),
        )
        .into());
    }
    Ok(TokenHash::of(text))
}

fn create(file: &Path) -> Result<TokenHash> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let token = hex::encode(bytes);
    if let Some(folder) = file.parent() {
        create_folder(folder)?;
    }
    write_private(file, format!("{token}\n").as_bytes())?;
    tracing::info!(file = %file.display(), "the admin token was made");
    Ok(TokenHash::of(&token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("data").join("admin.token");
        ensure(&file).expect("made");
        let first = std::fs::read_to_string(&file).expect("written");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        ensure(&file).expect("read");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), first);
        assert_eq!(first.trim().len(), 64);
    }

    #[test]
    fn a_token_that_others_know_or_guess_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin.token");
        for (text, mode, good) in [
            ("0123456789abcdef", 0o600, true),
            ("0123456789abcdef", 0o644, false),
            ("short", 0o600, false),
            ("", 0o600, false),
            ("sha256:zz", 0o600, false),
        ] {
            std::fs::write(&file, text).expect("written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(ensure(&file).is_ok(), good, "{text} {mode:o}");
        }
        // A hash may be read, but whoever can write it chooses the token.
        std::fs::write(&file, format!("sha256:{}", "ab".repeat(32))).expect("written");
        for (mode, good) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(ensure(&file).is_ok(), good, "{mode:o}");
        }
    }
}
