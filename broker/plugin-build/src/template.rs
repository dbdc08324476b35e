//! `mqgate plugin new`: a project that builds, works and has tests, in any of the languages. Everything it needs of
//! mqgate is written into it, so it builds wherever it is taken.
//!
//! A template is a folder of files under `templates/LANGUAGE`. A file named `x.in` becomes `x`. Lines between one
//! that holds `mqgate:if HOOK…` and one that holds `mqgate:end` stay if the project has one of these hooks; `@NAME@`,
//! `@TYPE@` and `@SNAKE@` are the project's name as it is, in CamelCase and in snake_case, `@HOOKS@` its hooks, and
//! `@QUESTION@` the part of a case that asks the first of them anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::embedded::{self, LICENSE, PLUGINS_LOCK, PLUGINS_WORKSPACE, SDK, TEMPLATES, WIT};
use crate::manifest::{Hook, Import, Language, Manifest, check_name};

/// What a new project is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: String,
    pub language: Language,
    pub hooks: BTreeSet<Hook>,
}

/// Writes the project into `folder`, which must not be there or be empty. The files it wrote, relative.
pub fn write(wanted: &Wanted, folder: &Path) -> Result<Vec<PathBuf>> {
    check_name(&wanted.name)?;
    ensure!(
        wanted.hooks.iter().any(|hook| *hook != Hook::Health),
        "health is the self-test of a plugin that decides something: name another hook, too"
    );
    let empty = folder.read_dir().map_or(true, |mut entries| entries.next().is_none());
    ensure!(empty, "{} is there already, and not empty", folder.display());

    let mut files = vec![
        (PathBuf::from("plugin.toml"), manifest(wanted)),
        (PathBuf::from(".gitignore"), String::from("/target/\n__pycache__/\n")),
    ];
    let prefix = format!("{}/", wanted.language);
    for (path, text) in TEMPLATES {
        let Some(path) = path.strip_prefix("all/").or_else(|| path.strip_prefix(&prefix)) else { continue };
        let path = path.strip_suffix(".in").unwrap_or(path);
        if path.starts_with("cases/") && question(wanted).is_none() {
            continue;
        }
        let text = fill(text, wanted);
        // A file that is one hook's is empty without that hook.
        if !text.is_empty() {
            files.push((PathBuf::from(path), text));
        }
    }
    for (path, text) in WIT {
        files.push((Path::new("mqgate/wit").join(path), (*text).to_owned()));
    }
    files.push((PathBuf::from("mqgate/LICENSE"), LICENSE.to_owned()));
    if wanted.language == Language::Rust {
        for (path, text) in SDK.iter().filter(|(path, _)| path.starts_with("src/")) {
            files.push((Path::new("mqgate/plugin-sdk").join(path), (*text).to_owned()));
        }
        files.push((PathBuf::from("mqgate/plugin-sdk/Cargo.toml"), sdk_manifest()?));
        // The versions that the SDK is tested with. Cargo takes out what this project does not use.
        files.push((PathBuf::from("Cargo.lock"), PLUGINS_LOCK.to_owned()));
    }
    for (path, text) in &files {
        let file = folder.join(path);
        let parent = file.parent().expect("it was joined to a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&file, text))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    // What was written is what a build will read.
    Manifest::read(folder)?;
    let mut names: Vec<PathBuf> = files.into_iter().map(|(path, _)| path).collect();
    names.sort();
    Ok(names)
}

fn manifest(wanted: &Wanted) -> String {
    let hooks: Vec<String> = wanted.hooks.iter().map(|hook| format!("\"{hook}\"")).collect();
    let imports: Vec<&str> = Import::ALL.iter().map(|import| import.name()).collect();
    format!(
        "[plugin]\n\
         name = \"{}\"\n\
         language = \"{}\"\n\
         # What the component exports; the broker asks it for these.\n\
         hooks = [{}]\n\
         # What the component may import: {}.\n\
         # All but log need an operator's grant, and a component that imports more than stands here does not build.\n\
         imports = [\"log\"]\n",
        wanted.name,
        wanted.language,
        hooks.join(", "),
        imports.join(", "),
    )
}

/// The SDK's own manifest, free of the workspace that it has in mqgate's repository.
fn sdk_manifest() -> Result<String> {
    let mut package: toml::Table =
        embedded::text(SDK, "Cargo.toml").parse().context("plugin-sdk/Cargo.toml")?;
    let workspace: toml::Table = PLUGINS_WORKSPACE.parse().context("plugins/Cargo.toml")?;
    let workspace = workspace.get("workspace").context("plugins/Cargo.toml is a workspace")?;
    package.remove("lints");
    let own = package.get_mut("package").and_then(toml::Value::as_table_mut).context("it is a package")?;
    own.remove("workspace");
    for (section, of) in [("package", "package"), ("dependencies", "dependencies")] {
        let Some(table) = package.get_mut(section).and_then(toml::Value::as_table_mut) else { continue };
        for (name, value) in table.iter_mut() {
            let inherits = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            if inherits {
                let meant = workspace.get(of).and_then(|of| of.get(name));
                *value = meant.with_context(|| format!("the workspace has no {name}"))?.clone();
            }
        }
    }
    let head = "# mqgate's plugin SDK, as it was when this project was made: part of the project, so that it builds anywhere.\n";
    Ok(format!("{head}{}", toml::to_string(&package)?))
}

/// How a case asks the first of the hooks that cases can ask; nothing where there is none.
fn question(wanted: &Wanted) -> Option<&'static str> {
    wanted.hooks.iter().find_map(|hook| match hook {
        Hook::Authenticator => Some(r#""hook": "authenticator""#),
        Hook::EnhancedAuthenticator => {
            Some(r#""hook": "enhanced-authenticator", "exchange": {"method": "PIN"}"#)
        }
        Hook::Registrar => Some(r#""hook": "registrar""#),
        Hook::Authorizer => Some(r#""hook": "authorizer", "identity": "device-1""#),
        Hook::Auditor | Hook::Health => None,
    })
}

/// The hooks a line asks for.
fn condition(line: &str) -> Option<impl Iterator<Item = &str>> {
    let (_, rest) = line.split_once("mqgate:if ")?;
    Some(rest.split_whitespace())
}

fn fill(text: &str, wanted: &Wanted) -> String {
    let mut out = String::new();
    let mut shown = true;
    for line in text.lines() {
        if let Some(mut names) = condition(line) {
            shown = names.any(|name| wanted.hooks.iter().any(|hook| hook.name() == name));
        } else if line.contains("mqgate:end") {
            shown = true;
        } else if shown {
            out.push_str(line);
            out.push('\n');
        }
    }
    let hooks: Vec<String> = wanted.hooks.iter().map(|hook| hook.name().replace('-', "_")).collect();
    out.replace("@NAME@", &wanted.name)
        .replace("@TYPE@", &camel(&wanted.name))
        .replace("@SNAKE@", &wanted.name.replace('-', "_"))
        .replace("@HOOKS@", &hooks.join(", "))
        .replace("@QUESTION@", question(wanted).unwrap_or_default())
}

fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hooks that the template of a language has code for.
    fn hooks(language: Language) -> Vec<Hook> {
        let folder = format!("{language}/");
        let has = |hook: Hook| {
            TEMPLATES.iter().filter(|(path, _)| path.starts_with(&folder)).any(|(_, text)| {
                text.lines().filter_map(condition).any(|mut names| names.any(|name| name == hook.name()))
            })
        };
        Hook::ALL.into_iter().filter(|hook| has(*hook)).collect()
    }

    fn wanted(language: Language, hooks: &[Hook]) -> Wanted {
        Wanted { name: "my-gate".into(), language, hooks: hooks.iter().copied().collect() }
    }

    #[test]
    fn a_file_holds_the_parts_of_the_projects_hooks() {
        let text = "a @TYPE@\n// mqgate:if authorizer\nb\n// mqgate:end\n# mqgate:if auditor authenticator\nc @SNAKE@\n# mqgate:end\nd @HOOKS@\n";
        let fill = |hooks: &[Hook]| fill(text, &wanted(Language::C, hooks));
        assert_eq!(fill(&[Hook::Authorizer]), "a MyGate\nb\nd authorizer\n");
        assert_eq!(fill(&[Hook::Auditor]), "a MyGate\nc my_gate\nd auditor\n");
        assert_eq!(
            fill(&[Hook::Authenticator, Hook::Authorizer]),
            "a MyGate\nb\nc my_gate\nd authenticator, authorizer\n"
        );
    }

    #[test]
    fn every_language_has_every_hook() {
        for language in Language::ALL {
            assert_eq!(hooks(language), Hook::ALL, "{language}");
        }
    }

    /// Each asks what its hook can be asked, and an auditor nobody can ask.
    #[test]
    fn a_project_has_cases_for_its_hooks() {
        let folder = tempfile::tempdir().unwrap();
        for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::Health) {
            let project = folder.path().join(hook.name());
            write(&wanted(Language::C, &[hook, Hook::Health]), &project).unwrap();
            let cases = fs::read_to_string(project.join("cases/gate.ndjson")).unwrap_or_default();
            assert_eq!(project.join("cases").exists(), hook != Hook::Auditor, "{hook}");
            let asked: Vec<&str> = cases.lines().filter(|line| line.contains("\"hook\"")).collect();
            assert!(asked.len() >= 2 || hook == Hook::Auditor, "{cases}");
            for line in asked {
                assert!(line.contains(&format!("\"hook\": \"{hook}\"")), "{hook}: {line}");
            }
        }
    }

    #[test]
    fn a_project_is_written_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        for language in Language::ALL {
            let project = folder.path().join(language.name());
            let files = write(&wanted(language, &[Hook::Authenticator]), &project).unwrap();
            for file in ["plugin.toml", "README.md", "mqgate/wit/hooks.wit", "cases/gate.ndjson"] {
                assert!(files.contains(&PathBuf::from(file)), "{language}: {files:?}");
            }
            assert_eq!(Manifest::read(&project).unwrap().language, language);
            for file in &files {
                let text = fs::read_to_string(project.join(file)).unwrap();
                assert!(
                    !file.starts_with("mqgate") || !text.contains("mqgate:if"),
                    "{language}: {}",
                    file.display()
                );
                let left =
                    ["mqgate:if", "mqgate:end", "@NAME@", "@TYPE@", "@SNAKE@", "@HOOKS@", "@QUESTION@"];
                assert!(!left.iter().any(|left| text.contains(left)), "{language}: {}", file.display());
            }
            let again = write(&wanted(language, &[Hook::Authenticator]), &project).unwrap_err().to_string();
            assert!(again.contains("not empty"), "{again}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_and_a_self_test_of_nothing_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut wrong = wanted(Language::Rust, &[Hook::Authenticator]);
        wrong.name = "../x".into();
        assert!(write(&wrong, &folder.path().join("x")).unwrap_err().to_string().contains("lower-case"));
        let health = wanted(Language::Go, &[Hook::Health]);
        let error = write(&health, &folder.path().join("y")).unwrap_err().to_string();
        assert!(error.contains("name another hook"), "{error}");
        assert!(!folder.path().join("y").exists());
    }

    #[test]
    fn the_sdk_stands_on_its_own() {
        let text = sdk_manifest().unwrap();
        assert!(!text.contains("workspace"), "{text}");
        assert!(text.contains("[dependencies.serde]") || text.contains("serde = "), "{text}");
        assert!(text.contains("license = \"Apache-2.0\""), "{text}");
    }
}
