//! Where the bundled components are.

use std::path::{Path, PathBuf};

/// The component is in none of the places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the bundled component `{name}` was not found; looked in:\n{}\nbuild it with `cargo xtask components`, or set \
     MQGATE_COMPONENTS to the folder it is in",
    .places.iter().map(|place| format!("  {}", place.display())).collect::<Vec<_>>().join("\n")
)]
pub struct NotFound {
    pub name: String,
    pub places: Vec<PathBuf>,
}

/// The folders that are looked at, in order.
pub fn places() -> Vec<PathBuf> {
    let explicit =
        std::env::var_os("MQGATE_COMPONENTS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let exe = std::env::current_exe().and_then(|exe| exe.canonicalize()).ok();
    let beside = exe.as_deref().and_then(Path::parent).map(Path::to_owned);
    let mut places: Vec<PathBuf> = explicit.into_iter().collect();
    if let Some(folder) = beside {
        places.push(folder.join("components"));
        if let Some(above) = folder.parent() {
            places.push(above.join("components"));
            places.push(above.join("lib/mqgate/components"));
        }
    }
    places.push(PathBuf::from("/usr/lib/mqgate/components"));
    places
}

/// The file of `bundled:{name}`.
pub fn find(name: &str) -> Result<PathBuf, NotFound> {
    find_in(name, places())
}

fn find_in(name: &str, places: Vec<PathBuf>) -> Result<PathBuf, NotFound> {
    let file = places.iter().map(|place| place.join(format!("{name}.wasm"))).find(|file| file.is_file());
    file.ok_or_else(|| NotFound { name: name.to_owned(), places })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_it_counts_and_the_error_lists_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir_all(&b).expect("a folder");
        std::fs::write(b.join("cert-acl.wasm"), "x").expect("a file");
        let places = vec![a.clone(), b.clone()];
        assert_eq!(find_in("cert-acl", places.clone()), Ok(b.join("cert-acl.wasm")));
        let error = find_in("other", places).expect_err("it is nowhere").to_string();
        assert!(
            error.contains(&a.display().to_string()) && error.contains("cargo xtask components"),
            "{error}"
        );
    }
}
