//! Secrets that stand elsewhere: `file://PATH` and `env:NAME`; anything else is the secret itself.

use anyhow::Result;

use crate::exit::Failure;

/// The secret that `text` is or names. Errors name the place and never the secret.
pub fn resolve(text: &str) -> Result<String> {
    if let Some(path) = file(text) {
        let read = std::fs::read_to_string(path)
            .map_err(|error| Failure::refused(format!("the password file {path} cannot be read: {error}")))?;
        // What follows the first line is somebody's comment; the line break is no part of the password.
        return match read.lines().next().filter(|line| !line.is_empty()) {
            Some(line) => Ok(line.to_owned()),
            None => Err(Failure::refused(format!("the password file {path} is empty")).into()),
        };
    }
    if let Some(name) = text.strip_prefix("env:") {
        let name = name.trim_start_matches("//");
        return match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(value),
            _ => {
                Err(Failure::refused(format!("the environment variable {name} is not set, or not text"))
                    .into())
            }
        };
    }
    Ok(text.to_owned())
}

/// Where it stands, if that is a file.
pub fn file(text: &str) -> Option<&str> {
    text.strip_prefix("file://")
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn a_secret_is_where_it_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        std::fs::write(&file, "geheim\nmore\n").expect("written");
        let by_file = format!("file://{}", file.display());
        assert_eq!(resolve(&by_file).expect("a secret"), "geheim");
        assert_eq!(resolve("plain").expect("a secret"), "plain");
        // Cargo sets it for every test.
        assert_eq!(resolve("env:CARGO_PKG_NAME").expect("a secret"), "mqgate");
        std::fs::write(&file, "").expect("written");
        for wrong in [by_file.as_str(), "file:///no/such", "env:NO_SUCH_VARIABLE_HERE"] {
            let error = resolve(wrong).expect_err("no secret").to_string();
            assert!(
                !error.contains("geheim") && error.contains("password") || error.contains("variable"),
                "{error}"
            );
        }
    }
}
