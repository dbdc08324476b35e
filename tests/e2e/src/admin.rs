//! The administrator's side: the `mqgate` commands, and the pages that are read over HTTP.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::broker::mqgate;

pub struct Admin {
    port: u16,
    config: PathBuf,
    token: PathBuf,
}

impl Admin {
    pub fn new(port: u16, config: PathBuf, token: PathBuf) -> Self {
        Self { port, config, token }
    }

    /// `mqgate {arguments}` against this broker; how it ended.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        Command::new(mqgate())
            .args(arguments)
            .env("MQGATE_CONFIG", &self.config)
            .env("MQGATE_URL", format!("http://127.0.0.1:{}", self.port))
            .env(
                "MQGATE_TOKEN",
                std::fs::read_to_string(&self.token).expect("the broker wrote its token").trim(),
            )
            .output()
            .expect("mqgate was built")
    }

    /// Like [`Self::try_run`]; panics unless it succeeds.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(
            output.status.success(),
            "mqgate {arguments:?} ended with {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("mqgate prints UTF-8")
    }

    /// `mqgate {arguments} --json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// A page without a token; its status and text.
    pub fn page(&self, path: &str) -> (u16, String) {
        let mut answer = ureq::get(format!("http://127.0.0.1:{}{path}", self.port))
            .config()
            .http_status_as_error(false)
            .build()
            .call()
            .expect("the admin listener answers");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("pages are UTF-8"))
    }

    /// The value of a series of `/metrics`, written as there; 0 when it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.page("/metrics");
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_default()
    }
}
