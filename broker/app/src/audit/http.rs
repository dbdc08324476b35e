//! Records over HTTP: to a webhook, signed, and to a collector of OpenTelemetry logs (OTLP in its JSON encoding).
//!
//! A batch that was answered with a success is safe; any other answer, and none, has it sent again. Redirects are not
//! followed, and no proxy of the environment is used: what is sent is secret.

use std::time::Duration;

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mqgate_client::TlsOptions;
use mqgate_server::audit::sinks::{Format, Item, Outlet, OutletError, OutletFuture, format};
use mqgate_server::clock;
use sha2::Sha256;
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts};

use crate::config::model::AuditSink;
use crate::secret;

/// Answers are read as far as this.
const ANSWER_LIMIT: u64 = 64 << 10;

/// A webhook.
#[derive(Clone)]
pub struct WebhookOutlet {
    post: Post,
    format: Format,
    key: Option<Vec<u8>>,
    log: String,
}

/// A collector.
pub struct OtlpOutlet {
    post: Post,
    log: String,
}

#[derive(Clone)]
struct Post {
    agent: ureq::Agent,
    url: String,
    headers: Vec<(String, String)>,
}

impl Post {
    /// Reads secrets and files.
    fn new(url: &str, sink: &AuditSink) -> Result<Self> {
        let mut agent = ureq::Agent::config_builder();
        if url.starts_with("https://") {
            agent = agent.tls_config(tls(sink)?).https_only(true);
        }
        let agent = agent
            .timeout_global(Some(sink.timeout.0))
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .into();
        let headers = sink.headers.iter().map(|(name, value)| {
            Ok((name.clone(), secret::resolve(value).with_context(|| format!("headers.{name}"))?))
        });
        Ok(Self { agent, url: url.to_owned(), headers: headers.collect::<Result<_>>()? })
    }

    /// Blocks. The body of a success.
    fn send(&self, media_type: &str, more: &[(&str, String)], body: &[u8]) -> Result<Vec<u8>, OutletError> {
        let mut request = self.agent.post(&self.url).header("Content-Type", media_type);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in more {
            request = request.header(*name, value);
        }
        let mut response = request.send(body).map_err(OutletError::new)?;
        let status = response.status().as_u16();
        let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let answer = response.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec().unwrap_or_default();
        match status {
            200..=299 => Ok(answer),
            _ => {
                let words: String = String::from_utf8_lossy(&answer).chars().take(200).collect();
                Err(OutletError {
                    problem: format!("the answer is {status}: {words}"),
                    retry_after,
                    is_too_much: status == 413,
                })
            }
        }
    }
}

/// Whom to trust, and what to show.
fn tls(sink: &AuditSink) -> Result<ureq::tls::TlsConfig> {
    let options = super::tls_options(&sink.tls)?;
    options.prepare_https()?;
    let ca = match &sink.tls.cacertfile {
        Some(file) => std::fs::read(file).with_context(|| format!("the CA file {}", file.display()))?,
        None => Vec::new(),
    };
    let mut tls = ureq::tls::TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates(&ca)?));
    if let Some(identity) = identity(&options)? {
        tls = tls.client_cert(Some(identity));
    }
    Ok(tls.build())
}

fn identity(options: &TlsOptions) -> Result<Option<ClientCert>> {
    let (Some(certificate), Some(key)) = (&options.cert_file, &options.key_pem) else { return Ok(None) };
    let certificate = std::fs::read(certificate).context("the certificate")?;
    let key = ureq::tls::PrivateKey::from_pem(key)?;
    Ok(Some(ClientCert::new_with_certs(&certificates(&certificate)?, key)))
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

/// `t=SECONDS,v1=HEX`: HMAC-SHA-256 over the seconds, a full stop and the body. Receivers check the time, too, so that
/// nobody repeats an old request.
fn signature(key: &[u8], seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

impl WebhookOutlet {
    pub fn new(url: &str, sink: &AuditSink, format: Format, log: &str) -> Result<Self> {
        let key = sink.secret.as_deref().map(secret::resolve).transpose().context("secret")?;
        let key = key.map(String::into_bytes);
        Ok(Self { post: Post::new(url, sink)?, format, key, log: log.to_owned() })
    }

    /// Blocks. Publishes a signed checkpoint of the log.
    pub fn publish(&self, note: &str) -> Result<(), OutletError> {
        self.send(
            "text/plain; charset=utf-8",
            vec![("X-Mqgate-Kind", String::from("checkpoint"))],
            note.as_bytes(),
        )
    }

    fn send(
        &self,
        media_type: &str,
        mut more: Vec<(&'static str, String)>,
        body: &[u8],
    ) -> Result<(), OutletError> {
        if let Some(key) = &self.key {
            more.push(("X-Mqgate-Signature", signature(key, clock::now().seconds().0, body)));
        }
        more.push(("X-Mqgate-Log", self.log.clone()));
        self.post.send(media_type, &more, body).map(drop)
    }
}

impl Outlet for WebhookOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        let mut body = Vec::new();
        for item in items {
            body.extend_from_slice(&self.format.write(&item.line));
            body.push(b'\n');
        }
        let first = items.first().map_or(0, |item| item.sequence);
        let last = items.last().map_or(0, |item| item.sequence);
        let this = self.clone();
        Box::pin(async move {
            let send = move || {
                let more = vec![
                    ("X-Mqgate-Kind", String::from("records")),
                    // The same batch sent again has the same key.
                    ("Idempotency-Key", format!("{}-{first}-{last}", this.log)),
                    ("X-Mqgate-First-Seq", first.to_string()),
                    ("X-Mqgate-Last-Seq", last.to_string()),
                ];
                this.send(this.format.media_type(), more, &body)
            };
            match tokio::task::spawn_blocking(send).await {
                Ok(sent) => sent.map(|()| last),
                Err(error) => Err(OutletError::new(error)),
            }
        })
    }
}

impl OtlpOutlet {
    pub fn new(url: &str, sink: &AuditSink, log: &str) -> Result<Self> {
        Ok(Self { post: Post::new(url, sink)?, log: log.to_owned() })
    }
}

impl Outlet for OtlpOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        let body = format::otlp(items.iter().map(|item| &*item.line), &self.log).to_string();
        let last = items.last().map_or(0, |item| item.sequence);
        let post = self.post.clone();
        Box::pin(async move {
            let send = move || post.send("application/json", &[], body.as_bytes());
            let answer = match tokio::task::spawn_blocking(send).await {
                Ok(sent) => sent?,
                Err(error) => return Err(OutletError::new(error)),
            };
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            let partial = &answer["partialSuccess"];
            // 64-bit numbers are text in this encoding; a lenient collector writes a number.
            let rejected = partial["rejectedLogRecords"].as_str().and_then(|text| text.parse().ok());
            match rejected.or_else(|| partial["rejectedLogRecords"].as_i64()).unwrap_or(0) {
                ..=0 => Ok(last),
                rejected => {
                    let why = partial["errorMessage"].as_str().unwrap_or_default();
                    Err(OutletError::new(format!("the collector rejected {rejected} records: {why}")))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked with `printf '1700000000.{"seq":1}\n' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn a_signature_is_over_time_and_body() {
        let signed = signature(b"key", 1_700_000_000, b"{\"seq\":1}\n");
        assert_eq!(signed, SIGNED);
        assert_ne!(signature(b"key", 1_700_000_001, b"{\"seq\":1}\n")[13..], signed[13..]);
        assert_ne!(signature(b"yek", 1_700_000_000, b"{\"seq\":1}\n"), signed);
    }

    const SIGNED: &str = "t=1700000000,v1=a11ff0284f594eddb818a947dda2edae91d661110669d51e0d6b997ed65caae2";
}
