//! Shell scripts in the place of the child: what its parent makes of how it ends.

use std::path::Path;

use super::*;

fn by(script: &str) -> ByChild {
    // A shell that traps itself leaves no core.
    let script = format!("ulimit -c 0; {script}");
    ByChild {
        program: CompilerProgram { program: "/bin/sh".into(), arguments: vec!["-c".into(), script] },
        limits: CompileLimits::default(),
        reservation: 64 << 20,
    }
}

fn compiled(compiler: &ByChild, component: &[u8]) -> Result<String, String> {
    let (_wanted, job) = job();
    let code = compiler.compile(component, job).map_err(|error| {
        assert_eq!(error.stage, Stage::Compile);
        assert!(error.message.lines().count() <= 3, "{error}");
        error.message
    })?;
    Ok(String::from_utf8(code).expect("the scripts write text"))
}

#[test]
fn what_the_child_writes_is_the_machine_code() {
    // More than a pipe holds, both ways at once.
    let large = "x".repeat(1 << 20);
    assert_eq!(compiled(&by("exec cat"), large.as_bytes()), Ok(large));
}

#[test]
fn a_child_has_nothing_of_the_brokers_environment() {
    assert_eq!(compiled(&by("cat /proc/$$/environ"), b""), Ok("RAYON_NUM_THREADS=4\0".into()));
    assert_eq!(compiled(&by("pwd"), b""), Ok("/\n".into()));
    let terms = ChildTerms { memory: 4 << 30, cpu: 120, reservation: 64 << 20, parent: std::process::id() };
    assert_eq!(compiled(&by("echo \"$0 $*\""), b""), Ok(format!("{}\n", terms.arguments().join(" "))));
}

#[test]
fn the_limit_that_bit_is_named_with_the_way_out() {
    for (script, words) in [
        ("kill -XCPU $$", &["120 s of computing", "plugin_host.compile.cpu", "Raise that limit"][..]),
        (
            "echo 'memory allocation of 5 bytes failed' >&2; kill -ABRT $$",
            &["4294967296 bytes", "plugin_host.compile.memory"],
        ),
        ("echo 'Cannot allocate memory (os error 12)' >&2; exit 1", &["plugin_host.compile.memory"]),
        ("echo 'out of memory' >&2; exit 1", &["plugin_host.compile.memory"]),
        ("echo 'Os { code: 11, kind: WouldBlock }' >&2; exit 101", &["plugin_host.compile.memory"]),
        ("echo 'unknown section' >&2; exit 1", &["unknown section"]),
        ("echo 'a panic' >&2; exit 101", &["exit status: 101", "a panic"]),
        ("kill -SEGV $$", &["SIGSEGV"]),
        ("exit 3", &["exit status: 3"]),
    ] {
        let said = compiled(&by(script), b"five!").expect_err(script);
        for word in words {
            assert!(said.contains(word), "{script}: {word:?} is not in: {said}");
        }
    }
    assert_eq!(compiled(&by("echo 'unknown section' >&2; exit 1"), b""), Err("unknown section".into()));
    let none = ByChild {
        program: CompilerProgram { program: "/nowhere".into(), arguments: Vec::new() },
        ..by("exit 0")
    };
    assert!(compiled(&none, b"").is_err_and(|said| said.contains("/nowhere")));
}

#[test]
fn a_child_that_talks_without_end_is_not_waited_for_by_its_talk() {
    let said = compiled(&by("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1"), b"").expect_err("refused");
    assert!(said.len() < 2048, "{}", said.len());
}

#[test]
fn there_is_an_end_to_machine_code() {
    assert_eq!(read_most(&b"abc"[..], 3), Some(b"abc".to_vec()));
    assert_eq!(read_most(&b"abcd"[..], 3), None);
    // Few bytes do not become many.
    let endless = by("exec cat /dev/zero");
    let said = compiled(&endless, b"five!").expect_err("it does not end by itself");
    assert!(said.contains("over 8388688 bytes, and it has 5"), "{said}");
}

#[test]
fn computing_time_is_counted_in_whole_seconds() {
    for (cpu, seconds) in [(Duration::ZERO, 1), (Duration::from_millis(1001), 2), (Duration::from_secs(3), 3)]
    {
        assert_eq!(CompileLimits { cpu, ..CompileLimits::default() }.cpu_seconds(), seconds, "{cpu:?}");
    }
}

/// A script that says who it is and does not end.
fn endless(file: &Path) -> String {
    format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", file.display())
}

/// The process, once it runs.
fn process(file: &Path) -> String {
    let begun = Instant::now();
    loop {
        match std::fs::read_to_string(file) {
            Ok(number) => return format!("/proc/{}", number.trim()),
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_child_that_does_not_end_is_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let mut compiler = by(&endless(&file));
    compiler.limits.time = Duration::from_millis(500);
    let said = compiled(&compiler, b"").expect_err("too long");
    assert!(said.contains("plugin_host.compile.time") && said.contains("500ms"), "{said}");
    // It may have been ended before it came so far.
    if file.exists() {
        assert!(!Path::new(&process(&file)).exists());
    }
    let closed = ByChild { limits: compiler.limits, ..by("exec >&-; exec sleep 600") };
    let said = compiled(&closed, b"").expect_err("it closes its output and stays");
    assert!(said.contains("plugin_host.compile.time"), "{said}");
}

#[test]
fn a_child_that_nobody_waits_for_is_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let compiler = by(&endless(&file));
    let (wanted, job) = job();
    std::thread::scope(|scope| {
        let compiling = scope.spawn(|| compiler.compile(b"", job));
        let process = process(&file);
        assert!(Path::new(&process).exists());
        drop(wanted);
        let said = compiling.join().expect("no panic").expect_err("nobody waits").message;
        assert!(said.contains("nobody waits"), "{said}");
        assert!(!Path::new(&process).exists());
    });
}
