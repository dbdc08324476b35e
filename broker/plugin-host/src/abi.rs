//! The releases of the package `mqgate:plugin` that this host serves, side by side.
//!
//! Names match by track: within one, a release only adds functions to what plugins import, and interfaces. So one set of
//! types serves them all, and each release says here what it adds. A plugin is served by the release that it was built
//! for, and by every later one.

#[cfg(test)]
mod tests;

use std::fmt;

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::capability;
use crate::instance::StoreState;
use crate::settings::Grants;

/// What the names of all interfaces begin with.
pub(crate) const PACKAGE: &str = "mqgate:plugin/";

/// In order of their versions, which are of one track.
pub(crate) const RELEASES: &[Release] = &[
    Release { version: Version { major: 1, minor: 0, patch: 0 }, link: capability::link },
    #[cfg(test)]
    tests::MADE_UP,
];

pub(crate) struct Release {
    pub(crate) version: Version,
    /// Defines what it adds, as far as the grants allow it, and nothing else.
    pub(crate) link: fn(&mut Linker<StoreState>, &Grants) -> wasmtime::Result<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

/// Releases whose plugins a later one serves: the first number of a version that is not zero, and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Track(Version);

/// A name of the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) interface: &'a str,
    /// `None`: it is none that was ever released.
    pub(crate) version: Option<Version>,
}

impl Version {
    /// Three numbers; a release has nothing behind them.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse::<u32>().ok()).flatten()
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    pub(crate) const fn track(self) -> Track {
        Track(match self {
            Self { major: 0, minor: 0, .. } => self,
            Self { major: 0, .. } => Self { patch: 0, ..self },
            Self { .. } => Self { minor: 0, patch: 0, ..self },
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Version { major: 0, minor: 0, patch } => write!(f, "0.0.{patch}"),
            Version { major: 0, minor, .. } => write!(f, "0.{minor}"),
            Version { major, .. } => write!(f, "{major}"),
        }
    }
}

impl<'a> Named<'a> {
    /// `None`: it is of another package.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let name = name.strip_prefix(PACKAGE)?;
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        Some(Self { interface, version: Version::parse(version) })
    }

    pub(crate) fn is_of_this_track(self) -> bool {
        self.version.is_some_and(|version| version.track() == track())
    }
}

/// The release that this host is built for.
pub(crate) fn newest() -> Version {
    RELEASES.last().expect("there is a release").version
}

pub(crate) fn track() -> Track {
    newest().track()
}

/// Defines what the grants allow, and nothing else.
pub(crate) fn link(linker: &mut Linker<StoreState>, grants: &Grants) -> wasmtime::Result<()> {
    RELEASES.iter().try_for_each(|release| (release.link)(linker, grants))?;
    capability::wasi::link(linker, grants)
}

/// What a component that does not link and this broker disagree about.
pub(crate) fn difference(engine: &Engine, component: &Component, broker_version: &str) -> String {
    let ty = component.component_type();
    let names = ty.imports(engine).map(|(name, _)| name).chain(ty.exports(engine).map(|(name, _)| name));
    let built_for = names.filter_map(|name| Named::parse(name)?.version).max();
    match built_for.filter(|version| *version > newest()) {
        Some(version) => format!(
            "It was built for mqgate:plugin@{version}; this broker {broker_version} has mqgate:plugin@{}: a newer broker may \
             have it.",
            newest()
        ),
        None => format!("This broker {broker_version} has other types or functions under that name."),
    }
}
