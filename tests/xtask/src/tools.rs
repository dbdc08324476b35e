//! The real clients that the end-to-end tests talk through, fetched without touching the system.
//!
//! On Debian and its relatives the packages are downloaded with apt (which checks their signatures) and
//! unpacked under `target/tools`: no root is needed, no service starts, nothing is left behind. What is on
//! the `PATH` already is used as it is.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{output, run};

/// A tool and where it comes from.
struct Tool {
    /// The program that is looked for.
    program: &'static str,
    /// An argument with which it exits successfully.
    probe: &'static str,
    packages: Packages,
    /// What a person would install elsewhere.
    elsewhere: &'static str,
    /// The tests that cannot run without it.
    tests: &'static str,
}

/// Where Debian has it.
enum Packages {
    /// These hold it and the libraries it needs.
    Only(&'static [&'static str]),
    /// This one, and what it depends on and is not installed here.
    WithDependencies(&'static str),
}

const TOOLS: &[Tool] = &[
    Tool {
        program: "mosquitto_pub",
        probe: "--version",
        packages: Packages::Only(&["mosquitto-clients", "libmosquitto1", "libcjson1"]),
        elsewhere: "Eclipse Mosquitto's clients (Debian: mosquitto-clients)",
        tests: "real_clients::mosquitto_*",
    },
    Tool {
        program: "mosquitto",
        probe: "-h",
        packages: Packages::Only(&["mosquitto", "libmosquitto1", "libcjson1", "libdlt2", "libwrap0"]),
        elsewhere: "Eclipse Mosquitto (Debian: mosquitto)",
        tests: "bridge::mosquitto_*",
    },
    Tool {
        program: "promtool",
        probe: "--version",
        packages: Packages::Only(&["prometheus"]),
        elsewhere: "Prometheus (Debian: prometheus)",
        tests: "metrics::promtool_*",
    },
    Tool {
        program: "openssl",
        probe: "version",
        packages: Packages::Only(&["openssl"]),
        elsewhere: "OpenSSL's command line (Debian: openssl)",
        tests: "seed_commands::*",
    },
    Tool {
        program: "nginx",
        probe: "-v",
        packages: Packages::Only(&["nginx"]),
        elsewhere: "nginx (Debian: nginx)",
        tests: "proxies::nginx_*",
    },
    Tool {
        program: "haproxy",
        probe: "-v",
        packages: Packages::WithDependencies("haproxy"),
        elsewhere: "HAProxy 2.6 or later (Debian: haproxy)",
        tests: "haproxy::*",
    },
    Tool {
        program: "chromium-headless-shell",
        probe: "--version",
        packages: Packages::WithDependencies("chromium-headless-shell"),
        elsewhere: "Chromium without a window (Debian: chromium-headless-shell)",
        tests: "browser::*",
    },
    Tool {
        program: "certutil",
        probe: "-H",
        packages: Packages::WithDependencies("libnss3-tools"),
        elsewhere: "NSS's certutil (Debian: libnss3-tools)",
        tests: "browser::*",
    },
];

/// paho-mqtt and aiomqtt with their hashes: wheels from PyPI, unchanged since they were looked at.
const PAHO: &str =
    "paho-mqtt==2.1.0 --hash=sha256:6db9ba9b34ed5bc6b6e3812718c7e06e2fd7444540df2455d2c51bd58808feee
aiomqtt==2.5.1 --hash=sha256:fd58c3593160e4d475d90ce911cdfc4239cd64de96b0ba22edf6c86bd7afa278
";

/// Schemathesis and all that it needs. Without hashes: some have another wheel for each Python.
const SCHEMATHESIS: &str = include_str!("schemathesis.txt");

/// MQTT.js, from npm, which checks what it fetches against the registry's hashes.
const MQTT_JS: &str = "mqtt@5.16.0";

/// What was found, for the environment of the tests.
pub struct Tools {
    path: OsString,
    /// Folders of libraries, as `LD_LIBRARY_PATH` wants them.
    libraries: OsString,
    python: Option<PathBuf>,
    schemathesis: Option<PathBuf>,
    /// The folder `node_modules`.
    node_modules: Option<PathBuf>,
    missing: Vec<(&'static str, &'static str)>,
}

/// Finds each tool, or fetches it. Never fails because one cannot be had: the tests that need it say so.
pub fn prepare(say: &dyn Fn(&str)) -> anyhow::Result<Tools> {
    let folder = crate::root().join("target/tools");
    fs::create_dir_all(&folder)?;
    let unpacked = folder.join("debian");
    let libraries = debian_libraries();
    // Chromium's own folder first: what stands in `usr/bin` is a script that looks below `/usr`.
    let own = ["usr/lib/chromium", "usr/bin", "usr/sbin"];
    let mut directories: Vec<PathBuf> = own.iter().map(|folder| unpacked.join(folder)).collect();
    directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut tools = Tools {
        path: std::env::join_paths(directories)?,
        libraries: std::env::join_paths([libraries.clone(), libraries.join("pulseaudio")])?,
        python: None,
        schemathesis: None,
        node_modules: None,
        missing: Vec::new(),
    };
    for tool in TOOLS {
        if tools.works(tool) {
            continue;
        }
        say(&format!("{}: fetching it from Debian's archive", tool.program));
        fetch(&tool.packages, &unpacked);
        if !tools.works(tool) {
            tools.missing.push((tool.elsewhere, tool.tests));
        }
    }
    tools.python = python_with_paho(&folder, say);
    if tools.python.is_none() {
        tools.missing.push((
            "Python 3 with venv, paho-mqtt 2.1.0 and aiomqtt 2.5.1",
            "real_clients::paho_*, transports::*",
        ));
    }
    tools.schemathesis = schemathesis(&folder, say);
    if tools.schemathesis.is_none() {
        tools.missing.push(("Python 3 with venv, and Schemathesis 4", "admin_api::schemathesis_*"));
    }
    tools.node_modules = mqtt_js(&folder, say);
    if tools.node_modules.is_none() {
        tools.missing.push(("Node.js with npm, and mqtt 5", "tls_matrix::mqtt_js_*"));
    }
    let all = TOOLS.len() + 3;
    say(&format!("{} of {all} tools are there", all - tools.missing.len()));
    Ok(tools)
}

impl Tools {
    fn works(&self, tool: &Tool) -> bool {
        let mut command = Command::new(tool.program);
        command.arg(tool.probe).env("PATH", &self.path).env("LD_LIBRARY_PATH", &self.libraries);
        // mosquitto_pub exits with 1 from --version, mosquitto with 3 from -h; that it answers is enough.
        command.output().is_ok_and(|output| output.status.code().is_some_and(|code| code < 4))
    }

    /// Tells the tests where the tools are. With all of them there, or where the caller says so with
    /// `MQGATE_TEST_REQUIRE_TOOLS`, a test may not skip itself.
    pub fn announce_to(&self, command: &mut Command) {
        command.env("PATH", &self.path);
        command.env("MQGATE_TEST_LIBRARIES", &self.libraries);
        if let Some(python) = &self.python {
            command.env("MQGATE_TEST_PYTHON", python);
        }
        if let Some(program) = &self.schemathesis {
            command.env("MQGATE_TEST_SCHEMATHESIS", program);
        }
        if let Some(modules) = &self.node_modules {
            command.env("MQGATE_TEST_NODE_MODULES", modules);
        }
        if self.missing.is_empty() {
            command.env("MQGATE_TEST_REQUIRE_TOOLS", "1");
        }
    }

    pub fn report_missing(&self, say: &dyn Fn(&str)) {
        for (what, tests) in &self.missing {
            say(&format!("skipped: {tests}, because this machine lacks {what}; install it and run again"));
        }
    }
}

/// The broker, for comparisons.
pub fn mosquitto(say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    let unpacked = crate::root().join("target/tools/debian");
    let binary = unpacked.join("usr/sbin/mosquitto");
    if !binary.exists() {
        let packages = &["mosquitto", "libmosquitto1", "libcjson1", "libdlt2", "libwrap0"];
        say(&format!("mosquitto: fetching {} from Debian's archive", packages.join(", ")));
        fs::create_dir_all(&unpacked)?;
        fetch(&Packages::Only(packages), &unpacked);
    }
    if binary.exists() {
        return Ok(binary);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        std::env::split_paths(&path).map(|folder| folder.join("mosquitto")).find(|path| path.exists());
    installed
        .ok_or_else(|| anyhow::anyhow!("mosquitto cannot be fetched; install it, or give mosquitto=PATH"))
}

/// Where the libraries of unpacked packages are.
pub fn debian_libraries() -> PathBuf {
    let target = format!("target/tools/debian/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    crate::root().join(target)
}

impl Packages {
    /// What to download; nothing where apt does not know.
    fn names(&self) -> Option<Vec<String>> {
        let package = match self {
            Self::Only(names) => return Some(names.iter().map(|&name| name.to_owned()).collect()),
            Self::WithDependencies(package) => *package,
        };
        let mut apt = Command::new("apt-get");
        let would_be = output(apt.args(["-s", "--no-install-recommends", "install", package]))?;
        let names = would_be.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        // It may be installed, and not work.
        if names.iter().all(|name| name != package) {
            names.push(package.to_owned());
        }
        Some(names)
    }
}

/// Downloads `packages` and unpacks them below `into`; whether it worked shows when the tool is tried.
fn fetch(packages: &Packages, into: &Path) {
    let downloads = into.join("archives");
    if fs::create_dir_all(&downloads).is_err() {
        return;
    }
    let download = || {
        let Some(names) = packages.names() else { return false };
        let mut apt = Command::new("apt-get");
        apt.arg("-qq").arg("download").args(names).current_dir(&downloads);
        apt.output().is_ok_and(|output| output.status.success())
    };
    // A new machine's package index is absent, or names packages that the archive has replaced since.
    let is_root = || output(Command::new("id").arg("-u")).as_deref() == Some("0\n");
    let update = || run(Command::new("apt-get").args(["-qq", "update"])).is_ok();
    let fetched = download() || is_root() && update() && download();
    if !fetched {
        return;
    }
    for archive in fs::read_dir(&downloads).into_iter().flatten().flatten() {
        let _ = Command::new("dpkg-deb").arg("-x").arg(archive.path()).arg(into).output();
    }
    let _ = fs::remove_dir_all(&downloads);
}

/// A virtual environment with paho-mqtt and aiomqtt, made once.
fn python_with_paho(folder: &Path, say: &dyn Fn(&str)) -> Option<PathBuf> {
    let environment = folder.join("python");
    let python = environment.join("bin/python");
    let has_paho =
        || output(Command::new(&python).args(["-c", "import paho.mqtt.client, aiomqtt"])).is_some();
    if has_paho() {
        return Some(python);
    }
    say("paho-mqtt, aiomqtt: making a Python environment and installing them from PyPI");
    output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let requirements = folder.join("paho-requirements.txt");
    fs::write(&requirements, PAHO).ok()?;
    output(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
                "-r",
            ])
            .arg(&requirements),
    )?;
    has_paho().then_some(python)
}

/// A virtual environment with Schemathesis, made once.
fn schemathesis(folder: &Path, say: &dyn Fn(&str)) -> Option<PathBuf> {
    let environment = folder.join("schemathesis");
    let program = environment.join("bin/schemathesis");
    let requirements = folder.join("schemathesis-requirements.txt");
    let works = || output(Command::new(&program).arg("--version")).is_some();
    // What the file names is what was installed last.
    if fs::read_to_string(&requirements).is_ok_and(|text| text == SCHEMATHESIS) && works() {
        return Some(program);
    }
    say("schemathesis: making a Python environment and installing it from PyPI");
    output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    fs::write(&requirements, SCHEMATHESIS).ok()?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "-r"]).arg(&requirements);
    output(&mut pip)?;
    works().then_some(program)
}

/// A folder with MQTT.js, filled once.
fn mqtt_js(folder: &Path, say: &dyn Fn(&str)) -> Option<PathBuf> {
    let folder = folder.join("node");
    let modules = folder.join("node_modules");
    let works = || {
        let mut node = Command::new("node");
        node.args(["-e", "require('mqtt')"]).env("NODE_PATH", &modules);
        output(&mut node).is_some()
    };
    if works() {
        return Some(modules);
    }
    say("MQTT.js: installing it from npm");
    fs::create_dir_all(&folder).ok()?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix"]);
    output(npm.arg(&folder).arg(MQTT_JS))?;
    works().then_some(modules)
}
