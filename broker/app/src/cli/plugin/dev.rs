//! `mqgate plugin dev`: whenever a file of the project is saved, its component is built and swapped into a running
//! broker. A version that does not build, or that the broker refuses, changes nothing: the one before goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use mqgate_plugin_build::project::{Built, Project};
use serde_json::{Map, Value};

use super::{ConfigArgs, project, put, words};
use crate::cli::output::{complain, say, text};
use crate::cli::remote::{Remote, RemoteArgs, read_file, segment};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin dev
  mqgate plugin dev my-gate --name my-gate --config-json '{\"blocked\": [\"device-2\"]}'
  mqgate plugin dev my-gate --once

A plugin that the broker does not have yet is loaded, before all others unless --last is given; one that it has is swapped, and
keeps its place. It stays when this command ends: `mqgate plugin unload` takes it out.")]
pub struct Args {
    /// The project's folder; without it, this one
    folder: Option<PathBuf>,
    /// The plugin's name in the broker; without it, the project's
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Where it may send requests, such as https://policy.example.com:443; several times for several
    #[arg(long, value_name = "DESTINATION")]
    http_allow: Vec<String>,
    /// Have it asked after all others
    #[arg(long)]
    last: bool,
    /// Build and swap once, and watch nothing
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// How often the project's files are looked at.
const LOOK: Duration = Duration::from_millis(100);

pub fn run(args: Args, config: Option<&Path>) -> Result<()> {
    let folder = project::folder(args.folder.clone());
    // What is wrong with the command itself is said once, and not at every save.
    let opened = Project::open(&folder)?;
    let remote = Remote::new(&args.remote, config)?;
    args.config.read()?;
    let mut seen = Snapshot::of(&opened.folder);
    let first = turn(&args, &opened.folder, &remote, None);
    if args.once {
        return first;
    }
    report(first);
    say(format!(
        "watching {}; Ctrl-C ends this, and leaves the plugin where it is",
        opened.folder.display()
    ))?;
    loop {
        thread::sleep(LOOK);
        let now = Snapshot::of(&opened.folder);
        if now == seen {
            continue;
        }
        // An editor may write several files, or one in several steps.
        let settled = settled(&opened.folder, now);
        let saved = settled.newest_since(&seen);
        seen = settled;
        report(turn(&args, &opened.folder, &remote, saved));
    }
}

fn report(outcome: Result<()>) {
    if let Err(error) = outcome {
        complain(&error);
        project::progress_line("nothing was changed; waiting for the next save");
    }
}

/// One build, and what becomes of it. `saved`: when the change was made.
fn turn(args: &Args, folder: &Path, remote: &Remote, saved: Option<SystemTime>) -> Result<()> {
    let project = Project::open(folder)?;
    let built = project::build(&project)?;
    let name = args.name.as_ref().unwrap_or(&project.manifest.name);
    let done = bring(args, &project, &built, name, remote)?;
    let took = saved.and_then(|saved| saved.elapsed().ok());
    let took = took.map_or_else(String::new, |took| format!(", {} ms after the save", took.as_millis()));
    say(format!("{done}: {name} is live{took}"))
}

/// Loads the component, or puts it in place of the one that runs.
fn bring(args: &Args, project: &Project, built: &Built, name: &str, remote: &Remote) -> Result<&'static str> {
    let path = format!("/plugins/{}", segment(name));
    let running = remote.find(&path)?;
    let uploaded = remote.upload("POST", "/plugin-components", &read_file(&built.path)?)?;
    let mut body = Map::new();
    put(&mut body, "digest", Some(text(&uploaded, "digest")));
    put(&mut body, "config", args.config.read()?);
    put(&mut body, "grant", words(project::grants(&project.manifest)));
    if running.is_some() {
        remote.put(&path, &Value::Object(body))?;
        return Ok("swapped");
    }
    put(&mut body, "name", Some(name));
    put(&mut body, "position", Some(if args.last { "last" } else { "first" }));
    let http = words(args.http_allow.clone()).map(|allow| serde_json::json!({ "allow": allow }));
    put(&mut body, "http", http);
    remote.post("/plugins", &Value::Object(body))?;
    Ok("loaded")
}

/// The files of a project, with what tells whether they changed.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot(BTreeMap<PathBuf, (u64, SystemTime)>);

impl Snapshot {
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(folder, &mut files);
        Self(files)
    }

    /// When the latest of the changes since `before` was made. That a file is gone has no time.
    fn newest_since(&self, before: &Self) -> Option<SystemTime> {
        let changed = self.0.iter().filter(|(path, now)| before.0.get(*path) != Some(now));
        changed.map(|(_, (_, at))| *at).max()
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, (u64, SystemTime)>) {
    // A file that vanishes meanwhile is gone, no more.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // What builds write, and what editors keep beside a file while it is open.
        let passed = ["target", "node_modules", "__pycache__", "Cargo.lock"].contains(&name.as_ref());
        if passed || name.starts_with('.') || name.ends_with('~') || name.ends_with(".swp") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            collect(&entry.path(), files);
        } else if let Ok(at) = metadata.modified() {
            files.insert(entry.path(), (metadata.len(), at));
        }
    }
}

/// The files once they stay as they are.
fn settled(folder: &Path, mut now: Snapshot) -> Snapshot {
    loop {
        thread::sleep(LOOK / 2);
        let next = Snapshot::of(folder);
        if next == now {
            return now;
        }
        now = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_seen_and_what_a_build_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = folder.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("src/plugin.c", "one");
        write("plugin.toml", "x");
        let first = Snapshot::of(folder.path());
        assert_eq!(first.0.len(), 2);
        for left in
            ["target/x.wasm", "src/__pycache__/x.pyc", "src/.plugin.c.swp", "src/plugin.c~", "Cargo.lock"]
        {
            write(left, "x");
        }
        assert_eq!(Snapshot::of(folder.path()), first);
        assert_eq!(first.newest_since(&first), None);

        write("src/plugin.c", "other");
        let second = settled(folder.path(), Snapshot::of(folder.path()));
        assert_ne!(second, first);
        assert_eq!(second.newest_since(&first), Some(second.0[&folder.path().join("src/plugin.c")].1));

        fs::remove_file(folder.path().join("src/plugin.c")).unwrap();
        let third = Snapshot::of(folder.path());
        assert_ne!(third, second);
        assert_eq!(third.newest_since(&second), None);
    }
}
