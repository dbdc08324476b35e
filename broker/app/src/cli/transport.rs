//! Flags that `mqgate pub` and `mqgate sub` share, named as Mosquitto's clients name them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use mqgate_client::cli::CommandError;
use mqgate_client::{ConnectError, ConnectOptions, TlsOptions, TlsVersion};
use mqgate_codec::{ProtocolVersion, QoS};

use crate::exit::{Exit, Failure};

#[derive(clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct TransportArgs {
    /// Host
    #[arg(short = 'h', long, default_value = "localhost")]
    host: String,
    /// Port; without it 8883 with TLS and 1883 without
    #[arg(short = 'p', long)]
    port: Option<u16>,
    /// Client id; without it the broker chooses one
    #[arg(short = 'i', long)]
    id: Option<String>,
    /// User name
    #[arg(short = 'u', long)]
    username: Option<String>,
    /// Password
    #[arg(short = 'P', long, requires = "username", env = "MQGATE_PASSWORD", hide_env_values = true)]
    pw: Option<String>,
    /// MQTT version: 5 (mqttv5), 311 (mqttv311) or 31 (mqttv31)
    #[arg(short = 'V', long = "protocol-version", default_value = "5", value_parser = version)]
    protocol_version: ProtocolVersion,
    /// Keep-alive, seconds
    #[arg(short = 'k', long, default_value_t = 60)]
    keepalive: u16,
    /// Keep the session; needs --id
    #[arg(short = 'c', long = "disable-clean-session", requires = "id")]
    disable_clean_session: bool,
    /// Seconds the session outlives the connection, with -c (MQTT 5.0)
    #[arg(short = 'x', long, default_value_t = 3600)]
    session_expiry_interval: u32,
    /// PEM file of the CAs that are trusted: turns TLS on
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// PEM file of the client's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file of the client's key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Do not check the server's certificate. Whoever stands in between reads along
    #[arg(long)]
    insecure: bool,
    /// Only this TLS version: tlsv1.2 or tlsv1.3
    #[arg(long, value_parser = tls_version)]
    tls_version: Option<TlsVersion>,
    /// Topic of the will
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, value_name = "TEXT", requires = "will_topic", default_value = "")]
    will_payload: String,
    /// QoS of the will
    #[arg(long, value_name = "QOS", value_parser = qos, default_value = "0")]
    will_qos: QoS,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
}

impl TransportArgs {
    pub fn options(self) -> ConnectOptions {
        let tls = self.cafile.is_some() || self.cert.is_some() || self.insecure || self.tls_version.is_some();
        let mut options = ConnectOptions::new(self.host, self.port.unwrap_or(if tls { 8883 } else { 1883 }));
        if tls {
            let mut tls = TlsOptions::new();
            tls.ca_file = self.cafile;
            tls.cert_file = self.cert;
            tls.key_file = self.key;
            tls.insecure = self.insecure;
            tls.version = self.tls_version;
            options.tls = Some(tls);
        }
        options.version = self.protocol_version;
        options.client_id = self.id.unwrap_or_default().into();
        options.clean_start = !self.disable_clean_session;
        if self.disable_clean_session {
            options.properties.session_expiry_interval = Some(self.session_expiry_interval);
        }
        options.keep_alive = Duration::from_secs(u64::from(self.keepalive));
        options.user_name = self.username.map(Into::into);
        options.password = self.pw.map(|password| password.into_bytes().into());
        if let Some(topic) = self.will_topic {
            options.set_will(topic, self.will_payload.into_bytes(), self.will_qos, self.will_retain);
        }
        options
    }
}

fn version(text: &str) -> Result<ProtocolVersion, String> {
    match text.trim_start_matches("mqttv") {
        "5" | "5.0" => Ok(ProtocolVersion::V5),
        "311" | "3.1.1" => Ok(ProtocolVersion::V3_1_1),
        "31" | "3.1" => Ok(ProtocolVersion::V3_1),
        _ => Err(String::from("the versions are 5, 311 and 31")),
    }
}

fn tls_version(text: &str) -> Result<TlsVersion, String> {
    match text.trim_start_matches("tlsv") {
        "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        _ => Err(String::from("the versions are tlsv1.2 and tlsv1.3")),
    }
}

pub fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err(String::from("the levels are 0, 1 and 2")),
    }
}

/// Runs the client on this thread.
pub fn block_on(work: impl Future<Output = Result<(), CommandError>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(|error| Failure::new(exit_of(&error), error.to_string()).into())
}

/// A refusal is the broker's answer; everything else means that there was none.
fn exit_of(error: &CommandError) -> Exit {
    let answered = |error: &ConnectError| error.reason_code().is_some() || error.return_code().is_some();
    match error {
        CommandError::Connect(error) if !answered(error) => Exit::Unavailable,
        CommandError::Connect(_)
        | CommandError::Client(_)
        | CommandError::NotPublished { .. }
        | CommandError::NotSubscribed { .. }
        | CommandError::Disconnected { .. }
        | CommandError::Input(_) => Exit::Refused,
    }
}
