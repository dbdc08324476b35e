//! The running broker, from a command's side: where it is, the token, and what its answers mean.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mqgate_client::TlsOptions;
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts};

use crate::config::check::bind_address;
use crate::config::{Config, Inputs};
use crate::exit::{Exit, Failure};

/// Options of every command that speaks to the running broker.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoteArgs {
    /// Address of the admin API, http:// or https://; without it, that of the configuration
    #[arg(long, visible_alias = "api", value_name = "URL", env = "MQGATE_URL", hide_env_values = true)]
    url: Option<String>,
    /// The admin token; without it, that of the token file
    #[arg(long, value_name = "TOKEN", env = "MQGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// PEM file of the CAs that the certificate of an https:// address may be of; without it, what the configuration has
    #[arg(long, value_name = "FILE", env = "MQGATE_CACERT", hide_env_values = true)]
    cacert: Option<PathBuf>,
    /// PEM file of the operator's certificate, where the admin API wants one
    #[arg(
        long,
        value_name = "FILE",
        requires = "client_key",
        env = "MQGATE_CLIENT_CERT",
        hide_env_values = true
    )]
    client_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(
        long,
        value_name = "FILE",
        requires = "client_cert",
        env = "MQGATE_CLIENT_KEY",
        hide_env_values = true
    )]
    client_key: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of commands that change something.
#[derive(Debug, Clone, clap::Args)]
pub struct ChangeArgs {
    /// Only say what it would do; prints JSON
    #[arg(long)]
    dry_run: bool,
}

impl ChangeArgs {
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The path, with what was asked for.
    pub fn path(&self, path: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        if self.dry_run { format!("{path}{separator}dry_run=true") } else { path.to_owned() }
    }
}

/// A connection to the admin API.
pub struct Remote {
    agent: ureq::Agent,
    url: String,
    token: String,
}

/// Loading a component compiles it, which takes its time.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Largest answer that is read.
const ANSWER_LIMIT: u64 = 256 << 20;

impl Remote {
    pub fn new(args: &RemoteArgs, config: Option<&Path>) -> Result<Self> {
        // An operator's certificate may be right enough.
        let shows_certificate = args.client_cert.is_some();
        let loaded = match (&args.url, &args.token) {
            (Some(url), Some(_)) if args.cacert.is_some() || !is_https(url) => None,
            _ => Some(crate::run::effective(&Inputs::gather(config)?)?),
        };
        let config = loaded.as_ref();
        let url = match (&args.url, config) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(config)) => {
                endpoint(&config.endpoints_file(), &config.admin.bind).unwrap_or_else(|| {
                    let scheme = if config.admin.tls.is_some() { "https" } else { "http" };
                    format!("{scheme}://{}", config.admin.bind)
                })
            }
            (None, None) => return Err(Failure::new(Exit::Internal, "no address").into()),
        };
        if !url.starts_with("http://") && !is_https(&url) {
            return Err(
                Failure::new(Exit::Usage, format!("`{url}` is no http:// or https:// address")).into()
            );
        }
        let token = match (&args.token, config) {
            (Some(token), _) => token.trim().to_owned(),
            (None, Some(config)) => match read_token(&config.token_file()) {
                Err(_) if shows_certificate => String::new(),
                read => read?,
            },
            (None, None) => String::new(),
        };
        let mut agent = ureq::Agent::config_builder();
        if is_https(&url) {
            agent = agent.tls_config(tls(args, config)?).https_only(true);
        }
        let agent = agent
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            // The token goes to the broker and nowhere else.
            .proxy(None)
            .max_redirects(0)
            .build()
            .into();
        Ok(Self { agent, url, token })
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.answer(self.authorized(self.agent.get(self.at(path))).call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(self.authorized(self.agent.post(self.at(path))).send_json(body))
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(self.authorized(self.agent.put(self.at(path))).send_json(body))
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(self.authorized(self.agent.patch(self.at(path))).send_json(body))
    }

    pub fn delete(&self, path: &str) -> Result<Value> {
        self.answer(self.authorized(self.agent.delete(self.at(path))).call())
    }

    /// A page that is text.
    pub fn text(&self, path: &str) -> Result<String> {
        let bytes = self.bytes(self.authorized(self.agent.get(self.at(path))).call())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Text that goes on until somebody ends it; `after`: where the last stream ended.
    pub fn stream(&self, path: &str, after: Option<&str>) -> Result<impl std::io::Read + use<>> {
        let mut request = self.authorized(self.agent.get(self.at(path)));
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let request = request.config().timeout_global(None).timeout_recv_response(Some(TIMEOUT)).build();
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        match response.status().is_success() {
            true => Ok(response.into_body().into_reader()),
            false => Err(match self.bytes(Ok(response)) {
                Err(error) => error,
                Ok(_) => Failure::new(Exit::Internal, "a refusal without a reason").into(),
            }),
        }
    }

    /// `POST` or `PUT` of a component.
    pub fn upload(&self, method: &str, path: &str, bytes: &[u8]) -> Result<Value> {
        self.send(method, path, "application/wasm", bytes)
    }

    /// What is under a path, if there is something.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.authorized(self.agent.get(self.at(path))).call();
        match answer {
            Ok(answer) if answer.status() == ureq::http::StatusCode::NOT_FOUND => Ok(None),
            answer => self.answer(answer).map(Some),
        }
    }

    /// A request with bytes of this kind.
    pub fn send(&self, method: &str, path: &str, media: &str, bytes: &[u8]) -> Result<Value> {
        let request =
            if method == "PUT" { self.agent.put(self.at(path)) } else { self.agent.post(self.at(path)) };
        let request = self.authorized(request).header("Content-Type", media);
        self.answer(request.send(bytes))
    }

    /// An answer that may be longer than memory: read as it comes, for as long as it takes.
    pub fn read(&self, path: &str) -> Result<impl std::io::Read> {
        let request = self.authorized(self.agent.get(self.at(path)));
        let request = request.config().timeout_global(None).timeout_recv_response(Some(TIMEOUT)).build();
        let answer = request.call();
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(answer.into_body().into_reader()),
            answer => {
                self.bytes(answer)?;
                Err(Failure::new(Exit::Internal, "a failure that is none").into())
            }
        }
    }

    /// Every item of a list, page by page.
    pub fn all(&self, path: &str) -> Result<Vec<Value>> {
        self.first(path, usize::MAX)
    }

    /// The first items of a list, page by page.
    pub fn first(&self, path: &str, most: usize) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = match after.as_str() {
                "" => self.get(path)?,
                after => self.get(&format!("{path}{separator}after={after}"))?,
            };
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            items.truncate(most);
            match page["next"].as_str() {
                Some(next) if next != after && items.len() < most => next.clone_into(&mut after),
                _ => return Ok(items),
            }
        }
    }

    fn at(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.url)
    }

    /// Without a token the operator's certificate has to do.
    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match self.token.as_str() {
            "" => request,
            token => request.header("Authorization", format!("Bearer {token}")),
        }
    }

    fn answer(&self, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bytes(result)?).unwrap_or(Value::Null))
    }

    fn bytes(&self, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>> {
        let mut response = result.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let bytes = response
            .body_mut()
            .with_config()
            .limit(ANSWER_LIMIT)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return Ok(bytes);
        }
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let detail = value["detail"].as_str().unwrap_or("the answer is not the one of an mqgate broker");
        let exit = match status.as_u16() {
            401 => Exit::Forbidden,
            503 => Exit::Unavailable,
            _ => Exit::Refused,
        };
        let mut message = match (value["code"].as_str(), value["stage"].as_str()) {
            (Some(code), Some(stage)) => format!("{detail}\n  ({code}, stage {stage})"),
            (Some(code), None) => format!("{detail} ({code})"),
            (None, _) => format!("{} answered {status}: {detail}", self.url),
        };
        if exit == Exit::Forbidden {
            message.push_str("\n  help: give the right one with --token or MQGATE_TOKEN, or name the broker's own configuration with --config");
        }
        Err(Failure::new(exit, message).into())
    }

    fn unreachable(&self, error: &ureq::Error) -> anyhow::Error {
        Failure::unavailable(format!(
            "no broker answers at {}: {error}\n  help: start it with `mqgate run`, or say where it is with --url or --config",
            self.url
        ))
        .into()
    }
}

fn is_https(url: &str) -> bool {
    url.starts_with("https://")
}

/// Whom to trust, and what to show.
fn tls(args: &RemoteArgs, config: Option<&Config>) -> Result<ureq::tls::TlsConfig> {
    let unusable = |what: &str| Failure::new(Exit::Usage, what.to_owned());
    let trusted = match &args.cacert {
        Some(file) => read_file(file)?,
        None => config.map(own_certificates).unwrap_or_default(),
    };
    if trusted.is_empty() {
        let what = "no CA is known that the admin API's certificate could be of\n  help: name one with --cacert or \
                    MQGATE_CACERT, or the broker's own configuration with --config";
        return Err(unusable(what).into());
    }
    let mut options = TlsOptions::new();
    options.ca_pem = Some(trusted.clone());
    options.cert_file.clone_from(&args.client_cert);
    options.key_file.clone_from(&args.client_key);
    options.prepare_https().map_err(|error| unusable(&error.to_string()))?;
    let mut tls =
        ureq::tls::TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates(&trusted)?));
    if let (Some(certificate), Some(key)) = (&args.client_cert, &args.client_key) {
        let key = ureq::tls::PrivateKey::from_pem(&read_file(key)?)?;
        tls =
            tls.client_cert(Some(ClientCert::new_with_certs(&certificates(&read_file(certificate)?)?, key)));
    }
    Ok(tls.build())
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            found.push(certificate);
        }
    }
    Ok(found)
}

/// What a broker of this configuration shows, or what signed it: on its own machine nobody has to be told. A certificate
/// whose CA is not in its file needs `--cacert`.
fn own_certificates(config: &Config) -> Vec<u8> {
    let Some(tls) = &config.admin.tls else { return Vec::new() };
    let listener = tls.as_listener();
    let mut files: Vec<PathBuf> = listener.files().into_iter().map(|files| files.certfile).collect();
    files.push(config.node.data_dir.join("builtin").join("ca.pem"));
    let mut pem = Vec::new();
    for text in files.iter().filter_map(|file| std::fs::read(file).ok()) {
        pem.extend(text);
        pem.push(b'\n');
    }
    pem
}

/// The address that a running broker wrote down. One that was killed leaves its file behind: the token must
/// not go to whoever has the port now. Nor to another machine that the configuration does not name.
fn endpoint(file: &Path, configured: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let pid = i32::try_from(value["pid"].as_i64()?).ok().filter(|pid| *pid > 0)?;
    let alive = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    if alive == Err(nix::errno::Errno::ESRCH) {
        return None;
    }
    let address: SocketAddr = value["admin"].as_str()?.parse().ok()?;
    let known = bind_address(configured).is_ok_and(|known| {
        known.ip() == address.ip() && (known.port() == 0 || known.port() == address.port())
    });
    let scheme = if value["admin_tls"] == true { "https" } else { "http" };
    (known || address.ip().is_loopback()).then(|| format!("{scheme}://{address}"))
}

fn read_token(file: &PathBuf) -> Result<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(Failure::new(
            Exit::Forbidden,
            format!(
                "the token file {} cannot be read: {error}\n  help: the broker makes it when it starts; use the broker's \
                 configuration (--config), or give the token with --token or MQGATE_TOKEN",
                file.display()
            ),
        )
        .into()),
    }
}

/// One segment of a path, with everything else escaped.
pub fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// A path with the query parameters that have a value.
pub fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
    let given: Vec<String> = given.collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

/// Reads a file that the user named.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Failure::refused(format!("{} cannot be read: {error}", path.display())))
        .context("nothing was sent")
        .map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => failure.into(),
            Err(error) => error,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_this_machine_or_where_the_configuration_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("endpoints.json");
        for (address, configured, taken) in [
            ("127.0.0.1:40000", "127.0.0.1:0", true),
            ("[::1]:40000", "127.0.0.1:18083", true),
            ("192.0.2.7:18083", "192.0.2.7:18083", true),
            ("192.0.2.7:40000", "192.0.2.7:0", true),
            ("192.0.2.7:40000", "192.0.2.7:18083", false),
            ("192.0.2.7:18083", "127.0.0.1:18083", false),
            ("evil.example:18083", "127.0.0.1:18083", false),
        ] {
            for (tls, scheme) in [(false, "http"), (true, "https")] {
                let known =
                    serde_json::json!({ "pid": std::process::id(), "admin": address, "admin_tls": tls });
                std::fs::write(&file, known.to_string()).expect("written");
                let expected = taken.then(|| format!("{scheme}://{address}"));
                assert_eq!(endpoint(&file, configured), expected, "{address} {configured}");
            }
        }
    }
}
