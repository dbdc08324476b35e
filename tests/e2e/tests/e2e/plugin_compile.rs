//! The child in which the broker compiles a component: what it may use up, what it has of the broker, and when it ends.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mqgate_client::Client;
use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, eventually};

use crate::plugin_lifecycle::test_guest;

/// For what takes a moment, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// An unsigned number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], leb(content.len()), content.to_vec()].concat()
}

/// A component with nothing in it but functions that take long to compile.
fn tedious(functions: usize) -> Vec<u8> {
    // a = (a * b ^ a) rotated by b; b = a * a ^ b.
    let step = [0x20, 0, 0x20, 1, 0x6c, 0x20, 0, 0x73, 0x20, 1, 0x77, 0x21, 0];
    let other = [0x20, 0, 0x20, 0, 0x6c, 0x20, 1, 0x73, 0x21, 1];
    let mut body = vec![0];
    for _ in 0..500 {
        body.extend(step);
        body.extend(other);
    }
    body.extend([0x20, 0, 0x0b]);
    let body = [leb(body.len()), body].concat();
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // One type: two i32 make one.
    module.extend(section(1, &[1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]));
    module.extend(section(3, &[leb(functions), vec![0; functions]].concat()));
    module.extend(section(10, &[leb(functions), body.repeat(functions)].concat()));
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    component.extend(section(1, &module));
    component
}

fn write(broker: &Broker, name: &str, component: &[u8]) -> String {
    let file = broker.folder.join(name);
    fs::write(&file, component).expect("the test's folder is writable");
    file.display().to_string()
}

/// Components of which machine code is kept.
fn kept(broker: &Broker) -> usize {
    fs::read_dir(broker.folder.join("data/components")).expect("the cache").count()
}

fn refusal(broker: &Broker, file: &str) -> String {
    let output = broker.admin().try_run(&["plugin", "load", file, "--name", "tedious"]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn what_is_too_much_for_the_compiler_is_refused_and_nothing_else_happens() {
    let mut broker = Broker::builder()
        .config("[plugin_host.compile]\ncpu = \"120s\"\nmemory = \"4 GiB\"")
        .with_bundled_plugins()
        .start()
        .await;
    let device = broker.pki.device("device-1");
    Client::connect(broker.options("x", &device)).await.expect("the plugins were compiled by children");
    let before = kept(&broker);
    assert_eq!(before, 3);

    for (tight, limit) in [
        (r#"cpu = "1s""#, "plugin_host.compile.cpu"),
        (r#"memory = "64 MiB""#, "plugin_host.compile.memory"),
        (r#"time = "300ms""#, "plugin_host.compile.time"),
    ] {
        broker.rewrite(|text| {
            let (head, rest) = text.split_once("[plugin_host.compile]\n").expect("the test wrote it");
            let rest = rest.split_once("\n\n").expect("tables follow").1;
            format!("{head}[plugin_host.compile]\n{tight}\n\n{rest}")
        });
        // Those that are kept need no compiler: it could not make them within these limits.
        broker.kill_and_restart();
        let admin = broker.admin();
        let chain = admin.json(&["plugin", "list"]);
        let file = write(&broker, "tedious.wasm", &tedious(2_000));
        let said = refusal(&broker, &file);
        assert!(said.contains("compile") && said.contains(limit) && said.contains("Raise"), "{said}");
        assert_eq!(admin.json(&["plugin", "list"]), chain, "{limit}");
        Client::connect(broker.options("x", &device)).await.expect("the others go on");
        let is_written = |line: &serde_json::Value| {
            line["outcome"] == "failure" && line["fields"]["detail"].to_string().contains(limit)
        };
        broker.audited(limit, is_written).await;
    }
    assert_eq!(kept(&broker), before, "nothing is kept of what was refused");
    // What was compiled once is loaded under another name without a child.
    let admin = broker.admin();
    let bundled = xtask::components::path("cert-acl").expect("it was built").display().to_string();
    admin.run(&["plugin", "load", &bundled, "--name", "again"]);
    let series = "mqgate_plugin_compile_seconds_count{plugin=\"again\"}";
    assert!(admin.metric(series).abs() < f64::EPSILON);
}

/// The child of a process, once there is one.
fn child_of(parent: u32) -> u32 {
    let begun = Instant::now();
    loop {
        let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
        let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let child = numbers.find(|number| {
            let process = Path::new("/proc").join(number.to_string());
            field(&process, 4).is_some_and(|of| of == parent.to_string())
        });
        if let Some(child) = child {
            return child;
        }
        assert!(begun.elapsed() < PATIENCE, "no child compiles");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A field of `/proc/PID/stat`, counted from 1 as the manual does; those after the name alone.
fn field(process: &Path, number: usize) -> Option<String> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit(") ").next()?.split(' ').nth(number - 3).map(str::to_owned)
}

/// It has not ended, reaped or not.
fn is_running(process: &Path) -> bool {
    field(process, 3).is_some_and(|state| !matches!(&*state, "Z" | "X"))
}

fn soft_limit(process: &Path, name: &str) -> Option<u64> {
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn niceness(process: &Path) -> Option<i64> {
    field(process, 19)?.parse().ok()
}

#[tokio::test]
async fn a_child_that_compiles_has_little_and_ends_with_its_broker() {
    let mut broker = Broker::builder().with_plugin("p", &test_guest(), "").start().await;
    let own = Path::new("/proc").join(broker.pid().to_string());
    let file = write(&broker, "tedious.wasm", &tedious(2_000));
    let admin = broker.admin();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| admin.try_run(&["plugin", "load", &file, "--name", "tedious"]));
        let process = Path::new("/proc").join(child_of(broker.pid()).to_string());
        // Once it is confined; it compiles for seconds after that.
        let begun = Instant::now();
        while soft_limit(&process, "Max cpu time") != Some(120) {
            assert!(begun.elapsed() < PATIENCE && is_running(&process), "it is never confined");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(soft_limit(&process, "Max address space"), Some(4 << 30));
        assert_eq!(soft_limit(&process, "Max file size"), Some(0));
        assert_eq!(soft_limit(&process, "Max core file size"), Some(0));
        assert_eq!(niceness(&process), niceness(&own).map(|nice| (nice + 10).min(19)));
        let environment = fs::read_to_string(process.join("environ")).expect("it runs");
        assert_eq!(environment, "RAYON_NUM_THREADS=4\0");
        let mut open: Vec<_> = fs::read_dir(process.join("fd"))
            .expect("it runs")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .collect();
        open.sort_unstable();
        assert_eq!(open, [0, 1, 2]);
        broker.kill();
        let begun = Instant::now();
        while is_running(&process) {
            assert!(begun.elapsed() < PATIENCE, "it outlives its broker");
            std::thread::sleep(Duration::from_millis(1));
        }
        let _: std::process::Output = loading.join().expect("no panic");
    });
}

/// What the broker was started with is not handed on: a descriptor that is open when the child begins is closed.
#[tokio::test]
async fn a_child_closes_what_it_inherits() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").expect("it is ours");
    let script = format!(
        "exec 7< {}; exec {} plugin-compile --memory 4294967296 --cpu 60 --reservation 67108864 --parent {}",
        secret.display(),
        mqgate().display(),
        std::process::id()
    );
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let process = Path::new("/proc").join(child.id().to_string());
    eventually("it is confined, and waits for a component", async || {
        (soft_limit(&process, "Max cpu time") == Some(60)).then_some(())
    })
    .await;
    let held = fs::read_dir(process.join("fd")).expect("it runs").flatten();
    let held: Vec<_> = held.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(!held.contains(&secret), "{held:?}");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    // Nobody else's child compiles.
    let output = std::process::Command::new(mqgate())
        .args([
            "plugin-compile",
            "--memory",
            "4294967296",
            "--cpu",
            "60",
            "--reservation",
            "0",
            "--parent",
            "1",
        ])
        .output()
        .expect("mqgate was built");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("its parent is gone"), "{said}");
    let help = std::process::Command::new(mqgate()).arg("--help").output().expect("it runs");
    assert!(!String::from_utf8_lossy(&help.stdout).contains("plugin-compile"), "it is nobody's command");
}

#[test]
fn a_tedious_component_has_the_form_of_one() {
    let component = tedious(1);
    assert!(component.starts_with(b"\0asm\x0d\0\x01\0"));
    assert_eq!(leb(300), [0xac, 2]);
}
