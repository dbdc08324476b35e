//! Components that a child compiles: how many at once, what is kept, and what a child that fails leaves untouched.

use std::path::Path;
use std::time::Duration;

use mqgate_plugin_host::{Change, CompileLimits, CompilerProgram, HostSettings, Stage};

use crate::fixture::{Fixture, device_id};
use crate::guest::accepts_as;

/// Bytes before the machine code in a file of the cache: eight that name it, and a checksum.
const HEADER: usize = 8 + 16;

fn shell(script: &str) -> Option<CompilerProgram> {
    Some(CompilerProgram { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] })
}

fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A file with the machine code of a component, made by a host that compiles itself.
async fn machine_code(component: Vec<u8>, folder: &Path) -> std::path::PathBuf {
    let cache = folder.join("of-another");
    let settings = HostSettings { cache_dir: Some(cache.clone()), ..HostSettings::default() };
    Fixture::with(settings, Vec::new()).load("p", component).await.expect("it compiles");
    let file = std::fs::read_dir(&cache).expect("the cache").flatten().next().expect("it was kept").path();
    let code = std::fs::read(file).expect("it is ours");
    let plain = folder.join("code");
    std::fs::write(&plain, &code[HEADER..]).expect("writes");
    plain
}

#[tokio::test]
async fn what_a_child_compiled_is_kept_and_the_next_load_needs_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = machine_code(accepts_as("d"), folder.path()).await;
    let (started, cache) = (folder.path().join("started"), folder.path().join("compiled"));
    let script = format!("echo + >> {}; cat > /dev/null; exec cat {}", started.display(), code.display());
    let host = || HostSettings {
        cache_dir: Some(cache.clone()),
        compiler: shell(&script),
        ..HostSettings::default()
    };
    let fixture = Fixture::with(host(), Vec::new());
    fixture.load("p", accepts_as("d")).await.expect("loads");
    assert_eq!(device_id(fixture.authenticate("p", "l").await), "d");
    assert_eq!(std::fs::read_dir(&cache).expect("the cache").count(), 1);
    fixture.load("q", accepts_as("d")).await.expect("the same component");
    let again = Fixture::with(host(), Vec::new());
    again.load("p", accepts_as("d")).await.expect("loads after a restart");
    assert_eq!(lines(&started).len(), 1);
    assert_eq!(fixture.metric("mqgate_plugin_compile_seconds_count{plugin=\"p\"}"), Some(1.0));
}

#[tokio::test]
async fn a_child_that_fails_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = machine_code(accepts_as("d"), folder.path()).await;
    // The first is compiled; of those that come after it none.
    let first = folder.path().join("first");
    let script = format!(
        "ulimit -c 0; if [ -e {0} ]; then kill -XCPU $$; fi; touch {0}; cat > /dev/null; exec cat {1}",
        first.display(),
        code.display()
    );
    let cache = folder.path().join("compiled");
    let settings = HostSettings {
        cache_dir: Some(cache.clone()),
        compiler: shell(&script),
        compile: CompileLimits { cpu: Duration::from_secs(7), ..CompileLimits::default() },
        ..HostSettings::default()
    };
    let fixture = Fixture::with(settings, Vec::new());
    fixture.load("good", accepts_as("d")).await.expect("loads");
    let before = fixture.host.hooks().load_full();
    let loaded = fixture.load("bad", accepts_as("another")).await.expect_err("it took too long");
    let swapped = fixture.host.swap("good", Change::by("test").to(accepts_as("another"))).await;
    let inspected =
        fixture.host.inspect(mqgate_plugin_host::Source::Bytes(accepts_as("another").into())).await;
    for error in [loaded, swapped.expect_err("likewise"), inspected.expect_err("likewise")] {
        assert_eq!(error.stage, Stage::Compile, "{error}");
        assert!(error.message.contains("7 s of computing"), "{error}");
        assert!(error.message.contains("plugin_host.compile.cpu"), "{error}");
    }
    let after = fixture.host.hooks().load_full();
    assert_eq!((before.generation, before.members.len()), (after.generation, after.members.len()));
    assert_eq!(device_id(fixture.authenticate("good", "l").await), "d");
    assert_eq!(std::fs::read_dir(&cache).expect("the cache").count(), 1, "nothing is kept of what failed");
}

#[tokio::test]
async fn what_is_not_for_this_engine_is_refused() {
    let compiler = shell("cat > /dev/null; echo this is no machine code");
    let fixture = Fixture::with(HostSettings { compiler, ..HostSettings::default() }, Vec::new());
    let error = fixture.load("p", accepts_as("d")).await.expect_err("refused");
    assert_eq!(error.stage, Stage::Compile, "{error}");
    assert!(fixture.host.list().is_empty());
}

#[tokio::test]
async fn two_are_compiled_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let script = format!("echo + >> {0}; sleep 0.2; echo - >> {0}; echo no >&2; exit 1", log.display());
    let fixture =
        Fixture::with(HostSettings { compiler: shell(&script), ..HostSettings::default() }, Vec::new());
    let inspect = |number: usize| {
        let component = accepts_as(&format!("d{number}"));
        let host = std::sync::Arc::clone(&fixture.host);
        tokio::spawn(async move { host.inspect(mqgate_plugin_host::Source::Bytes(component.into())).await })
    };
    let asked: Vec<_> = (0..6).map(inspect).collect();
    for one in asked {
        let error = one.await.expect("no panic").expect_err("refused");
        assert_eq!(error.message, "no");
    }
    let (mut running, mut most) = (0_i32, 0);
    for line in lines(&log) {
        running += if line == "+" { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!((running, most), (0, 2));
}

#[tokio::test]
async fn a_load_that_is_given_up_ends_its_child() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid = folder.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid.display());
    let fixture =
        Fixture::with(HostSettings { compiler: shell(&script), ..HostSettings::default() }, Vec::new());
    let loading = tokio::spawn({
        let host = std::sync::Arc::clone(&fixture.host);
        async move { host.inspect(mqgate_plugin_host::Source::Bytes(accepts_as("d").into())).await }
    });
    let patient = async {
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let process = format!("/proc/{}", lines(&pid)[0]);
        assert!(Path::new(&process).exists());
        loading.abort();
        while Path::new(&process).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patient).await.expect("it is ended");
}
