//! From `mqgate plugin new` to a client that is refused, and from a save to a version that is live.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use mqgate_client::Client;
use mqgate_codec::ReasonCode;
use mqgate_e2e::{Broker, Identity};

/// `mqgate plugin dev` while it runs, and what it says.
struct Dev {
    process: Child,
    lines: Receiver<String>,
}

impl Dev {
    fn start(broker: &Broker, project: &Path) -> Self {
        let blocked = r#"{"blocked": ["device-2"]}"#;
        let project = project.display().to_string();
        let mut command = broker.admin().command(&["plugin", "dev", &project, "--config-json", blocked]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = mpsc::channel();
        let stdout: Box<dyn Read + Send> = Box::new(process.stdout.take().unwrap());
        let stderr: Box<dyn Read + Send> = Box::new(process.stderr.take().unwrap());
        for stream in [stdout, stderr] {
            let said = said.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = said.send(line);
                }
            });
        }
        Self { process, lines }
    }

    /// The next line that holds `text`. The first build may fetch a compiler.
    fn says(&self, text: &str) -> String {
        let mut before = String::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(300)) {
            if line.contains(text) {
                return line;
            }
            before.push_str(&line);
            before.push('\n');
        }
        panic!("it did not say {text:?} but\n{before}")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn admitted(broker: &Broker, device: &Identity) -> Result<(), Option<ReasonCode>> {
    Client::connect(broker.options("", device)).await.map(drop).map_err(|error| error.reason_code())
}

#[tokio::test]
async fn a_save_is_live_and_one_that_does_not_build_changes_nothing() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let (one, two) = (broker.pki.device("device-1"), broker.pki.device("device-2"));
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("my-gate");
    let hooks = "authenticator,authorizer";
    let shown = project.display().to_string();
    broker.admin().run(&["plugin", "new", "--lang", "c", "--hook", hooks, "my-gate", "--dir", &shown]);
    assert_eq!(admitted(&broker, &two).await, Ok(()));

    let dev = Dev::start(&broker, &project);
    dev.says("loaded: my-gate is live");
    dev.says("watching");
    assert_eq!(admitted(&broker, &one).await, Ok(()));
    assert_eq!(admitted(&broker, &two).await, Err(Some(ReasonCode::NOT_AUTHORIZED)));

    let source = project.join("src/plugin.c");
    let right = fs::read_to_string(&source).unwrap();
    fs::write(&source, right.replace("!holds(&blocked, name)", "!holds(&blocked, name")).unwrap();
    dev.says("expected ')'");
    dev.says("nothing was changed");
    assert_eq!(admitted(&broker, &one).await, Ok(()));
    assert_eq!(admitted(&broker, &two).await, Err(Some(ReasonCode::NOT_AUTHORIZED)));

    // Now it is the other way round.
    fs::write(&source, right.replace("!holds(&blocked, name)", "holds(&blocked, name)")).unwrap();
    let line = dev.says("swapped: my-gate is live");
    assert!(line.contains("ms after the save"), "{line}");
    assert_eq!(admitted(&broker, &one).await, Err(Some(ReasonCode::NOT_AUTHORIZED)));
    assert_eq!(admitted(&broker, &two).await, Ok(()));
}
