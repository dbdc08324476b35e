//! Mosquitto as a broker beside ours: its own folder, its own port, stopped when dropped.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use mqgate_client::ConnectOptions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Identity, tools};

pub struct Mosquitto {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// With a listener that anybody may use; everything it has acknowledged it has written down.
    pub async fn start(more: &str) -> Option<Self> {
        Self::with_listener("allow_anonymous true", more).await
    }

    /// That asks for certificates of the CA.
    pub async fn with_tls(server: &Identity, ca: &Path) -> Option<Self> {
        let listener = format!(
            "allow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
            ca.display(),
            server.certificate.display(),
            server.key.display(),
        );
        Self::with_listener(&listener, "").await
    }

    async fn with_listener(listener: &str, more: &str) -> Option<Self> {
        tools::mosquitto_broker()?;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        // It cannot be asked for a port of the system's choice.
        let port = free_port();
        let text = format!(
            "listener {port} 127.0.0.1\n{listener}\npersistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true\nuser root\nmax_queued_messages 0\n{more}\n",
            folder.path().display()
        );
        fs::write(folder.path().join("mosquitto.conf"), text).expect("the test's folder is writable");
        let mut mosquitto = Self { folder, port, child: None };
        mosquitto.run().await;
        Some(mosquitto)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it without a chance to tidy up.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it was ours");
        }
    }

    /// It does nothing any more, and its connections stay.
    pub fn freeze(&self) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
        kill(pid, Signal::SIGSTOP).expect("it was ours");
    }

    /// Starts it again on the same folder and port.
    pub async fn run(&mut self) {
        let mut command = tools::mosquitto_broker().expect("it was there before");
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf"));
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
        let port = self.port;
        crate::eventually("Mosquitto's listener", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        })
        .await;
    }

    pub fn options(&self, client_id: &str) -> ConnectOptions {
        let mut options = ConnectOptions::new("127.0.0.1", self.port);
        options.client_id = client_id.into();
        options.connect_timeout = Duration::from_secs(10);
        options
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One that nobody has now.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    socket.local_addr().expect("it is bound").port()
}
