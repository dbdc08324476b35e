//! What a plugin says about itself: `plugin.toml`. Read and checked here, once; everything after it deals in values
//! that cannot be wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Name of the file that makes a folder a plugin project.
pub const FILE: &str = "plugin.toml";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the component's file.
    pub name: String,
    pub language: Language,
    /// Of a plugin in JavaScript; the first one where nobody says.
    pub engine: Engine,
    /// What the component exports besides `lifecycle`: these and no others.
    pub hooks: BTreeSet<Hook>,
    /// What the component may import, and no more.
    pub imports: BTreeSet<Import>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    Rust,
    C,
    JavaScript,
    Python,
    Go,
}

/// What runs a plugin in JavaScript, and is part of its component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Small, and quickly compiled.
    #[default]
    QuickJs,
    /// SpiderMonkey: large, and the language as browsers have it.
    StarlingMonkey,
}

/// What a component can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Authenticator,
    EnhancedAuthenticator,
    Registrar,
    Authorizer,
    Auditor,
    Health,
}

/// What a component can ask: an interface of mqgate, or a grant of WASI, which may be several interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Import {
    Log,
    KeyValue,
    Registry,
    Metrics,
    Http,
    Clock,
    Random,
}

impl Language {
    pub const ALL: [Self; 5] = [Self::Rust, Self::C, Self::JavaScript, Self::Python, Self::Go];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::JavaScript => "javascript",
            Self::Python => "python",
            Self::Go => "go",
        }
    }
}

impl Engine {
    pub const ALL: [Self; 2] = [Self::QuickJs, Self::StarlingMonkey];

    pub fn name(self) -> &'static str {
        match self {
            Self::QuickJs => "quickjs",
            Self::StarlingMonkey => "starlingmonkey",
        }
    }
}

impl Hook {
    pub const ALL: [Self; 6] = [
        Self::Authenticator,
        Self::EnhancedAuthenticator,
        Self::Registrar,
        Self::Authorizer,
        Self::Auditor,
        Self::Health,
    ];

    /// Its interface in `mqgate:plugin`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authenticator => "authenticator",
            Self::EnhancedAuthenticator => "enhanced-authenticator",
            Self::Registrar => "registrar",
            Self::Authorizer => "authorizer",
            Self::Auditor => "auditor",
            Self::Health => "health",
        }
    }
}

impl Import {
    pub const ALL: [Self; 7] =
        [Self::Log, Self::KeyValue, Self::Registry, Self::Metrics, Self::Http, Self::Clock, Self::Random];

    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::KeyValue => "key-value",
            Self::Registry => "registry",
            Self::Metrics => "metrics",
            Self::Http => "http",
            Self::Clock => "clock",
            Self::Random => "random",
        }
    }

    /// What an operator has to grant for it.
    pub fn grant(self) -> Option<&'static str> {
        match self {
            Self::Log => None,
            Self::KeyValue => Some("kv"),
            Self::Registry => Some("registry.read"),
            Self::Metrics => Some("metrics"),
            Self::Http => Some("http"),
            Self::Clock => Some("clock"),
            Self::Random => Some("random"),
        }
    }

    /// The interfaces it stands for, without versions; the first ones are what a world imports for it.
    pub fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::Log => &["mqgate:plugin/log"],
            Self::KeyValue => &["mqgate:plugin/key-value"],
            Self::Registry => &["mqgate:plugin/registry"],
            Self::Metrics => &["mqgate:plugin/metrics"],
            Self::Http => &[
                "wasi:http/outgoing-handler",
                "wasi:http/types",
                "wasi:io/error",
                "wasi:io/poll",
                "wasi:io/streams",
            ],
            Self::Clock => &["wasi:clocks/wall-clock", "wasi:clocks/monotonic-clock", "wasi:io/poll"],
            Self::Random => &["wasi:random/random", "wasi:random/insecure", "wasi:random/insecure-seed"],
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    plugin: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    language: Language,
    engine: Option<Engine>,
    hooks: Vec<Hook>,
    #[serde(default)]
    imports: Vec<Import>,
}

impl Manifest {
    /// The manifest of the project in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{} holds no plugin project: there is no {FILE}. `mqgate plugin new` makes one",
                folder.display()
            ),
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    pub fn parse(text: &str) -> Result<Self> {
        let File { plugin } = toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.message()))?;
        check_name(&plugin.name)?;
        ensure!(!plugin.hooks.is_empty(), "a plugin has at least one hook; hooks is empty");
        ensure!(
            plugin.engine.is_none() || plugin.language == Language::JavaScript,
            "engine is for plugins in JavaScript, and this one is in {}",
            plugin.language
        );
        Ok(Self {
            name: plugin.name,
            language: plugin.language,
            engine: plugin.engine.unwrap_or_default(),
            hooks: plugin.hooks.into_iter().collect(),
            imports: plugin.imports.into_iter().collect(),
        })
    }
}

/// A name becomes file names, a package's name and part of URLs.
pub fn check_name(name: &str) -> Result<()> {
    let characters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    ensure!(
        characters
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && name.len() <= 64,
        "{name:?} cannot be the name of a plugin: lower-case letters, digits and `-`, a letter first, at most 64"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        format!("{:#}", Manifest::parse(text).unwrap_err())
    }

    #[test]
    fn a_manifest_says_what_a_component_may_do() {
        let text = "[plugin]\nname = \"gate\"\nlanguage = \"javascript\"\n\
                    hooks = [\"authorizer\", \"enhanced-authenticator\"]\nimports = [\"key-value\", \"http\"]\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!((manifest.language, manifest.engine), (Language::JavaScript, Engine::QuickJs));
        assert_eq!(manifest.hooks, [Hook::EnhancedAuthenticator, Hook::Authorizer].into());
        assert_eq!(manifest.imports, [Import::KeyValue, Import::Http].into());
    }

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for (language, hook) in Language::ALL.iter().zip(Hook::ALL.iter().cycle()) {
            for import in Import::ALL {
                let text = format!(
                    "[plugin]\nname = \"x\"\nlanguage = \"{language}\"\nhooks = [\"{hook}\"]\nimports = [\"{import}\"]\n"
                );
                let manifest = Manifest::parse(&text).unwrap();
                assert_eq!((manifest.language, manifest.hooks), (*language, [*hook].into()));
                assert_eq!(manifest.imports, [import].into());
            }
        }
        for engine in Engine::ALL {
            let text = format!(
                "[plugin]\nname = \"x\"\nlanguage = \"javascript\"\nengine = \"{}\"\nhooks = [\"auditor\"]\n",
                engine.name()
            );
            assert_eq!(Manifest::parse(&text).unwrap().engine, engine);
        }
        let health = "[plugin]\nname = \"x\"\nlanguage = \"c\"\nhooks = [\"health\"]\n";
        assert_eq!(Manifest::parse(health).unwrap().hooks, [Hook::Health].into());
    }

    #[test]
    fn what_a_manifest_has_wrong_is_named() {
        let with = |name: &str, language: &str, hooks: &str, more: &str| {
            problem(&format!(
                "[plugin]\nname = \"{name}\"\nlanguage = \"{language}\"\nhooks = {hooks}\n{more}"
            ))
        };
        assert!(with("../x", "c", "[\"auditor\"]", "").contains("lower-case"));
        assert!(with("", "c", "[\"auditor\"]", "").contains("lower-case"));
        assert!(with("x", "cobol", "[\"auditor\"]", "").contains("cobol"));
        assert!(with("x", "c", "[]", "").contains("at least one hook"));
        assert!(with("x", "c", "[\"gate\"]", "").contains("gate"));
        assert!(with("x", "c", "[\"auditor\"]", "imports = [\"sockets\"]").contains("sockets"));
        assert!(with("x", "c", "[\"auditor\"]", "import = [\"log\"]").contains("unknown field"));
        assert!(with("x", "c", "[\"auditor\"]", "engine = \"quickjs\"").contains("engine is for plugins in"));
        assert!(with("x", "javascript", "[\"auditor\"]", "engine = \"v8\"").contains("v8"));
    }
}
