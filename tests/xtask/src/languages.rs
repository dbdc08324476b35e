//! `cargo xtask languages`: what a plugin costs in each language, as the table of docs/plugins/languages.md: the same
//! decision (`plugins/cert-core`), built and asked in the host. Building is measured here, the rest by the benchmark
//! `broker/plugin-host/benches/languages.rs`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use mqgate_plugin_build::files::write_atomically;
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::project::{Project, Tools};
use serde::Deserialize;

use crate::bench::write_between;
use crate::process::{cargo, say, step};

/// Folders below `plugins/cert-core`, and what a reader calls them.
const LANGUAGES: [(&str, &str); 6] = [
    ("rust", "Rust"),
    ("c", "C"),
    ("javascript", "JavaScript (QuickJS)"),
    ("starlingmonkey", "JavaScript (StarlingMonkey)"),
    ("python", "Python (CPython)"),
    ("go", "Go"),
];
const PAGE: &str = "docs/plugins/languages.md";
#[derive(clap::Args)]
pub struct Options {
    /// Write the table into docs/plugins/languages.md; without it, it is printed
    #[arg(long)]
    write: bool,
    /// A debug build of the host: quickly built, and no figures to quote
    #[arg(long)]
    debug: bool,
    /// Only these: rust, c, javascript, starlingmonkey, python, go
    #[arg(long, value_delimiter = ',', conflicts_with = "write")]
    only: Vec<String>,
}

/// How long a component takes to be built: with nothing but the tool chain there, and once more after its source changed.
struct Build {
    component: PathBuf,
    first: Duration,
    again: Duration,
}

/// A line of the benchmark.
#[derive(Debug, Deserialize)]
struct Figures {
    language: String,
    bytes: u64,
    compiled_ms: f64,
    loaded_ms: f64,
    fresh_us: f64,
    reused_us: f64,
    memory_bytes: f64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    for name in &options.only {
        ensure!(LANGUAGES.iter().any(|(known, _)| known == name), "there is no {name:?} among them");
    }
    let mut builds = Vec::new();
    for (folder, _) in LANGUAGES {
        if options.only.is_empty() || options.only.iter().any(|name| name == folder) {
            step(&format!("cert-core in {folder} is built, twice"));
            builds.push((folder, build(folder)?));
        }
    }
    step(if options.debug { "calls, with a debug build of the host" } else { "calls" });
    let figures = figures(&builds, options.debug)?;
    let table = table(&builds, &figures, options.debug)?;
    if !options.write {
        say(&table);
        return Ok(());
    }
    write_between(&crate::root().join(PAGE), "languages", &table)?;
    say(&format!("{PAGE} is written"));
    Ok(())
}

fn build(folder: &str) -> anyhow::Result<Build> {
    let project = Project::open(&crate::root().join("plugins/cert-core").join(folder))?;
    let progress = Progress::new(&say);
    let tools = Tools::find(&project.manifest, &progress)?;
    let work = crate::root().join("target/languages").join(folder);
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let once = || -> anyhow::Result<(Vec<u8>, Duration)> {
        let begun = Instant::now();
        let (component, _) = project.component(&tools, &work, &progress)?;
        Ok((component, begun.elapsed()))
    };
    let (_, first) = once()?;
    touch(&project.folder)?;
    let (bytes, again) = once()?;
    let component = work.join("component.wasm");
    write_atomically(&component, &bytes)?;
    Ok(Build { component, first, again })
}

/// Every source is as if it had just been saved.
fn touch(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            touch(&path)?;
        } else if path
            .extension()
            .is_some_and(|kind| ["rs", "c", "js", "py", "go"].iter().any(|one| kind == *one))
        {
            fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now())?;
        }
    }
    Ok(())
}

fn figures(builds: &[(&str, Build)], debug: bool) -> anyhow::Result<Vec<Figures>> {
    let mut command = cargo();
    command.args(["bench", "--locked", "--workspace", "--bench", "languages"]);
    if debug {
        command.args(["--profile", "dev"]);
    }
    command.arg("--");
    command.args(builds.iter().map(|(folder, build)| format!("{folder}={}", build.component.display())));
    let output = command.stderr(Stdio::inherit()).output().context("cargo does not run")?;
    ensure!(output.status.success(), "the benchmark failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn table(builds: &[(&str, Build)], figures: &[Figures], debug: bool) -> anyhow::Result<String> {
    let mut text = String::from(
        "| language | component | build, first | build, again | compile | load | call, fresh | call, reused | memory |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (folder, build) in builds {
        let of = figures.iter().find(|figures| figures.language == *folder);
        let of = of.with_context(|| format!("the benchmark says nothing of {folder}"))?;
        let title = LANGUAGES.iter().find(|(name, _)| name == folder).map_or(*folder, |(_, title)| title);
        writeln!(
            text,
            "| {title} | {} | {:.1} s | {:.1} s | {} | {} | {} | {} | {} |",
            size(of.bytes as f64),
            build.first.as_secs_f64(),
            build.again.as_secs_f64(),
            time(of.compiled_ms * 1e3),
            time(of.loaded_ms * 1e3),
            time(of.fresh_us),
            time(of.reused_us),
            size(of.memory_bytes),
        )?;
    }
    let build = if debug { "a debug build: no figures to quote" } else { "an optimised build" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(text, "\nThe host is {build}, on {cores} cores of {}.", std::env::consts::ARCH)?;
    Ok(text)
}

/// Microseconds, with three digits.
fn time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.*} µs", usize::from(micros < 100.0)),
        ..1e6 => format!("{:.*} ms", usize::from(micros < 1e5), micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

fn size(bytes: f64) -> String {
    let kib = bytes / 1024.0;
    if kib < 1024.0 { format!("{kib:.0} KiB") } else { format!("{:.1} MiB", kib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_at_a_glance() {
        assert_eq!(
            [4.25, 432.0, 1_832.0, 912_345.0, 8_200_000.0].map(time),
            ["4.2 µs", "432 µs", "1.8 ms", "912 ms", "8.2 s"]
        );
        assert_eq!([22_000.0, 18_400_000.0].map(size), ["21 KiB", "17.5 MiB"]);
    }

    #[test]
    fn a_row_is_made_of_both_measurements() {
        let build = Build {
            component: PathBuf::new(),
            first: Duration::from_millis(1_500),
            again: Duration::from_millis(100),
        };
        let line = r#"{"language":"c","bytes":34473,"compiled_ms":21.0,"loaded_ms":0.5,"fresh_us":19.0,"reused_us":2.0,"memory_bytes":131072.0}"#;
        let figures = [serde_json::from_str(line).unwrap()];
        let table = table(&[("c", build)], &figures, false).unwrap();
        assert!(
            table.contains("| C | 34 KiB | 1.5 s | 0.1 s | 21.0 ms | 500 µs | 19.0 µs | 2.0 µs | 128 KiB |"),
            "{table}"
        );
        assert!(table.contains("an optimised build"));
    }
}
