//! `cargo xtask spec`: every normative statement of MQTT 3.1.1 and 5.0, where it is implemented, and the tests that
//! prove it.
//!
//! The tables are in tests/conformance. A test names what it proves by a tag in a comment: `[MQTT-3.1.2-22]` is MQTT
//! 5.0, `[MQTT 3.1.1: MQTT-3.1.2-24]` the older one, and `;` parts the two. Tags and tables have to agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::process::{say, step};

#[derive(clap::Args, Default)]
pub struct Options {
    /// Enter into the tables which tests carry which tag.
    #[arg(long)]
    update: bool,
    /// Print this many statements at random, with code and tests: for breaking the one and seeing the others fail.
    #[arg(long)]
    draw: Option<usize>,
    /// What the draw depends on.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The versions, and the files of their tables.
const TABLES: [(Version, &str); 2] =
    [(Version::V3, "tests/conformance/mqtt-3.1.1.toml"), (Version::V5, "tests/conformance/mqtt-5.0.toml")];
/// How many statements there are: none may get lost.
const STATEMENTS: [usize; 2] = [141, 251];
const SOURCES: [&str; 2] = ["broker/", "tests/"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3,
    V5,
}

/// `MQTT-3.1.2-22`, by its numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id(Vec<u32>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    binds: Binds,
    /// In our words.
    says: String,
    /// `path` or `path#function`.
    #[serde(default)]
    code: Vec<String>,
    /// `path#test`.
    #[serde(default)]
    tests: BTreeSet<String>,
    /// Why it does not apply.
    why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Binds {
    Client,
    Server,
    Both,
}

type Table = BTreeMap<Id, Statement>;
/// Tests by statement.
type Tags = BTreeMap<(Version, Id), BTreeSet<String>>;

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V3 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5.0",
        })
    }
}

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let (section, number) = text.strip_prefix("MQTT-")?.rsplit_once('-')?;
        let numbers = section.split('.').chain([number]).map(|part| part.parse().ok());
        numbers.collect::<Option<Vec<u32>>>().filter(|numbers| numbers.len() == 4).map(Self)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let section: Vec<_> = self.0[..3].iter().map(ToString::to_string).collect();
        write!(f, "MQTT-{}-{}", section.join("."), self.0[3])
    }
}

impl Statement {
    /// Whether a test has to prove it.
    fn binds_us(&self) -> bool {
        self.binds != Binds::Client && self.why.is_none()
    }
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    step("normative statements of MQTT");
    let root = crate::root();
    let (tags, stale) = tags(&root)?;
    let mut findings = stale;
    let mut drawn = Vec::new();
    for ((version, path), expected) in TABLES.into_iter().zip(STATEMENTS) {
        let mut table = read(&root.join(path))?;
        if options.update {
            for (id, statement) in &mut table {
                statement.tests = tags.get(&(version, id.clone())).cloned().unwrap_or_default();
            }
            std::fs::write(root.join(path), written(&table))?;
        }
        findings.extend(check(&root, version, path, &table, expected, &tags));
        let ours: Vec<_> = table.values().filter(|statement| statement.binds_us()).collect();
        let proved = ours.iter().filter(|statement| !statement.tests.is_empty()).count();
        let clients = table.values().filter(|statement| statement.binds == Binds::Client).count();
        say(&format!(
            "{version}: {proved} of {} statements that bind a server are proved ({} %); {clients} bind clients only, {} do not apply",
            ours.len(),
            proved * 100 / ours.len().max(1),
            table.len() - ours.len() - clients,
        ));
        let tested = table.into_iter().filter(|(_, statement)| !statement.tests.is_empty());
        drawn.extend(tested.map(|(id, statement)| (version, id, statement)));
    }
    for (version, id, statement) in draw(drawn, options.draw.unwrap_or(0), options.seed) {
        say(&format!("{version} {id}: {}", statement.says));
        statement.code.iter().for_each(|code| say(&format!("  code {code}")));
        statement.tests.iter().for_each(|test| say(&format!("  test {test}")));
    }
    findings.iter().for_each(|finding| say(finding));
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

/// Everything that is wrong, for `tidy`.
pub fn findings() -> anyhow::Result<Vec<String>> {
    let root = crate::root();
    let (tags, mut findings) = tags(&root)?;
    for ((version, path), expected) in TABLES.into_iter().zip(STATEMENTS) {
        findings.extend(check(&root, version, path, &read(&root.join(path))?, expected, &tags));
    }
    Ok(findings)
}

fn read(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let rows: BTreeMap<String, Statement> =
        toml::from_str(&text).with_context(|| path.display().to_string())?;
    rows.into_iter()
        .map(|(name, row)| {
            let id = Id::parse(&name).with_context(|| format!("{}: {name} is no id", path.display()))?;
            Ok((id, row))
        })
        .collect()
}

fn written(table: &Table) -> String {
    let list = |name: &str, entries: &mut dyn Iterator<Item = &String>| {
        let entries: Vec<_> = entries.map(|entry| format!("{entry:?}")).collect();
        match entries.len() {
            0 => String::new(),
            1 => format!("{name} = [{}]\n", entries[0]),
            _ => format!("{name} = [\n    {},\n]\n", entries.join(",\n    ")),
        }
    };
    let rows: Vec<_> = table
        .iter()
        .map(|(id, row)| {
            let binds = format!("{:?}", row.binds).to_lowercase();
            let mut text = format!("[\"{id}\"]\nbinds = \"{binds}\"\nsays = {:?}\n", row.says);
            text += &list("code", &mut row.code.iter());
            text += &list("tests", &mut row.tests.iter());
            text += &row.why.iter().map(|why| format!("why = {why:?}\n")).collect::<String>();
            text
        })
        .collect();
    rows.join("\n")
}

fn check(
    root: &Path,
    version: Version,
    path: &str,
    table: &Table,
    expected: usize,
    tags: &Tags,
) -> Vec<String> {
    let mut findings = Vec::new();
    if table.len() != expected {
        findings.push(format!("{path}: {} statements, but {version} has {expected}", table.len()));
    }
    for (id, statement) in table {
        let mut say = |what: String| findings.push(format!("{path}: {id}: {what}"));
        let tagged = tags.get(&(version, id.clone())).cloned().unwrap_or_default();
        for test in statement.tests.difference(&tagged) {
            say(format!("{test} is no test with this tag; `cargo xtask spec --update` renews the table"));
        }
        for test in tagged.difference(&statement.tests) {
            say(format!("{test} is missing; `cargo xtask spec --update` enters it"));
        }
        if statement.binds_us() && tagged.is_empty() {
            say(format!("no test proves it: {}", statement.says));
        }
        if statement.binds_us() && statement.code.is_empty() {
            say("nothing says where it is implemented".to_owned());
        }
        for code in &statement.code {
            let (file, function) = code.split_once('#').unwrap_or((code, ""));
            let text = std::fs::read_to_string(root.join(file));
            let there = match (&text, function) {
                (_, "") => root.join(file).exists(),
                (Ok(text), function) => {
                    text.contains(&format!("fn {function}(")) || text.contains(&format!("fn {function}<"))
                }
                (Err(_), _) => false,
            };
            if !there {
                say(format!("{code} is not there"));
            }
        }
    }
    for (tagged, id) in tags.keys() {
        if *tagged == version && !table.contains_key(id) {
            findings.push(format!("{path}: {id} is no statement of {version}, but a test carries it"));
        }
    }
    findings
}

/// The tags of all tests, and tags that cannot be read.
fn tags(root: &Path) -> anyhow::Result<(Tags, Vec<String>)> {
    let (mut tags, mut stale) = (Tags::new(), Vec::new());
    for path in crate::tidy::tracked_files()? {
        let ours = path.ends_with(".rs") && SOURCES.iter().any(|folder| path.starts_with(folder));
        if !ours || path.starts_with("tests/xtask/") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        for (name, region) in tests(&text) {
            for tag in tagged(&region) {
                match tag {
                    Ok(tag) => {
                        tags.entry(tag).or_default().insert(format!("{path}#{name}"));
                    }
                    Err(text) => stale.push(format!("{path}: {name}: {text} is no id of a statement")),
                }
            }
        }
    }
    Ok((tags, stale))
}

/// Every test of a file: its name, and its text with the comments above it.
fn tests(text: &str) -> Vec<(String, String)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(rest) = code.strip_prefix("fn ").or_else(|| code.strip_prefix("async fn ")) else {
            continue;
        };
        let head = lines[..at]
            .iter()
            .rposition(|line| !["//", "#["].iter().any(|start| line.trim_start().starts_with(start)))
            .map_or(0, |before| before + 1);
        let is_test = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("#[test]") || line.starts_with("#[tokio::test")
        };
        if !lines[head..at].iter().any(is_test) {
            continue;
        }
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[at..].iter().position(|line| *line == end).unwrap_or(lines.len() - at - 1);
        found.push((name, lines[head..=at + length].join("\n")));
    }
    found
}

/// The tags of a text: in brackets, for MQTT 5.0 unless they say otherwise.
fn tagged(text: &str) -> Vec<Result<(Version, Id), String>> {
    // A list may go on in the next line of a comment.
    let text: String =
        text.lines().map(|line| line.trim().trim_start_matches('/')).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for bracket in text.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(inner, _)| inner) {
        if !bracket.starts_with("MQTT") {
            continue;
        }
        for part in bracket.split(';') {
            let part = part.trim();
            let (version, ids) = match part.strip_prefix("MQTT 3.1.1") {
                Some(ids) => (Version::V3, ids),
                None => (Version::V5, part),
            };
            let words = ids.split(|c: char| c.is_whitespace() || matches!(c, ',' | ':'));
            for word in words.filter(|word| word.starts_with("MQTT-")) {
                found.push(Id::parse(word).map(|id| (version, id)).ok_or_else(|| word.to_owned()));
            }
        }
    }
    found
}

/// `count` of them, the same for the same seed.
fn draw<T>(mut from: Vec<T>, count: usize, mut seed: u64) -> Vec<T> {
    let mut drawn = Vec::new();
    while drawn.len() < count && !from.is_empty() {
        // SplitMix64.
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut lot = seed;
        lot = (lot ^ (lot >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        lot = (lot ^ (lot >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        lot ^= lot >> 31;
        let at = (lot % from.len() as u64) as usize;
        drawn.push(from.swap_remove(at));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    #[test]
    fn tags_are_found_where_a_test_carries_them() {
        let text = "\
// [MQTT-1.1.1-1] is of no test.
fn helper() {}

/// [MQTT-3.1.2-22; MQTT 3.1.1: MQTT-3.1.2-24,
/// MQTT-3.1.2-25]
#[test]
fn one() {
    // See [MQTT 5.0, 3.1] and [MQTT-4.7.1-1].
}

    #[tokio::test(start_paused = true)]
    async fn two() {
        let _ = 1; // [MQTT-oops]
    }
";
        let found = tests(text);
        assert_eq!(found.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(
            tagged(&found[0].1),
            [
                Ok((Version::V5, id("MQTT-3.1.2-22"))),
                Ok((Version::V3, id("MQTT-3.1.2-24"))),
                Ok((Version::V3, id("MQTT-3.1.2-25"))),
                Ok((Version::V5, id("MQTT-4.7.1-1"))),
            ]
        );
        assert_eq!(tagged(&found[1].1), [Err("MQTT-oops".to_owned())]);
    }

    #[test]
    fn gaps_and_stale_references_are_findings() {
        let root = crate::root();
        let statement = |code: &str, test: Option<&str>| Statement {
            binds: Binds::Server,
            says: "x".into(),
            code: vec![code.into()],
            tests: test.map(str::to_owned).into_iter().collect(),
            why: None,
        };
        let tags = Tags::from([((Version::V5, id("MQTT-1.1.1-1")), ["a.rs#t".to_owned()].into())]);
        let findings = |statement: Statement| {
            let table = Table::from([(id("MQTT-1.1.1-1"), statement)]);
            check(&root, Version::V5, "table", &table, 1, &tags)
        };
        let here = "tests/xtask/src/spec.rs#gaps_and_stale_references_are_findings";
        assert_eq!(findings(statement(here, Some("a.rs#t"))), Vec::<String>::new());
        assert_eq!(findings(statement("tests/xtask/src/spec.rs#no_such", Some("a.rs#t"))).len(), 1);
        assert_eq!(findings(statement(here, Some("a.rs#gone"))).len(), 2, "one too many, one missing");
        let untested = Table::from([(id("MQTT-1.1.1-2"), statement(here, None))]);
        assert_eq!(check(&root, Version::V5, "table", &untested, 2, &tags).len(), 3, "count, gap, stray tag");
    }

    #[test]
    fn the_tables_agree_with_the_tree() {
        assert_eq!(findings().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_draw_depends_on_its_seed_alone() {
        let from = || (0..100).collect::<Vec<_>>();
        assert_eq!(draw(from(), 20, 7), draw(from(), 20, 7));
        assert_ne!(draw(from(), 20, 7), draw(from(), 20, 8));
        assert_eq!(draw(from(), 200, 7).len(), 100);
    }
}
