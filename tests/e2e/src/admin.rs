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

    /// `mqgate {arguments}` against this broker, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(mqgate());
        command
            .args(arguments)
            .env("MQGATE_CONFIG", &self.config)
            .env("MQGATE_URL", format!("http://127.0.0.1:{}", self.port))
            .env(
                "MQGATE_TOKEN",
                std::fs::read_to_string(&self.token).expect("the broker wrote its token").trim(),
            );
        command
    }

    /// How it ended.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("mqgate was built")
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

    /// A request as it is, with the administrator's token and more headers; status, headers and JSON of the answer.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, ureq::http::HeaderMap, Value) {
        let token = std::fs::read_to_string(&self.token).expect("the broker wrote its token");
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}/api/v1{path}", self.port))
            .header("Authorization", format!("Bearer {}", token.trim()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        if !body.is_empty() {
            request = request.header("Content-Type", "application/json");
        }
        let request = request.body(body).expect("a request");
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let answer = agent.run(request).expect("the admin listener answers");
        let (head, mut body) = answer.into_parts();
        let text = body.read_to_string().expect("answers are UTF-8");
        (head.status.as_u16(), head.headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The administrator's own.
    pub fn token(&self) -> String {
        std::fs::read_to_string(&self.token).expect("the broker wrote its token").trim().to_owned()
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
