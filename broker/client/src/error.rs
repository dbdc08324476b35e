//! What can go wrong, said so that the reader knows what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mqgate_codec::{
    ConnAck, ConnAckCode, ConnectReturnCode, DecodeError, EncodeError, PacketType, ReasonCode, TopicError,
};
use rustls::AlertDescription;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("the topic of the will {0}")]
    WillTopic(TopicError),
    #[error("the CONNECT packet cannot be written: {0}")]
    Encode(#[from] EncodeError),
    #[error("cannot connect to {host}:{port}: {source}; is the broker running, and is the port right?")]
    Tcp { host: String, port: u16, source: io::Error },
    #[error("the TLS handshake with {host}:{port} failed: {source}{}", hint(source))]
    Handshake { host: String, port: u16, source: io::Error },
    #[error("the connection broke before the server answered: {source}{}", hint(source))]
    Io { source: io::Error },
    #[error("the server closed the connection without an answer to CONNECT")]
    Closed,
    #[error("no connection after {0:?}")]
    Timeout(Duration),
    #[error("the server's answer is not MQTT: {0}")]
    Decode(#[from] DecodeError),
    #[error("the server answered CONNECT with {0}")]
    Unexpected(PacketType),
    #[error("the server refused the connection: {}", refusal(.0))]
    Refused(Box<ConnAck>),
}

impl ConnectError {
    /// The server's reason, if it refused with one; that of a 3.1.1 server in the words of MQTT 5.0.
    pub fn reason_code(&self) -> Option<ReasonCode> {
        match self {
            Self::Refused(connack) => Some(connack.code.reason()),
            _ => None,
        }
    }

    /// The reason of a 3.1.1 server.
    pub fn return_code(&self) -> Option<ConnectReturnCode> {
        match self {
            Self::Refused(connack) => match connack.code {
                ConnAckCode::V3(code) => Some(code),
                ConnAckCode::V5(_) => None,
            },
            _ => None,
        }
    }

    /// What the server's TLS said last, if it ended the connection so.
    pub fn tls_alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Handshake { source, .. } | Self::Io { source } => match rustls_error(source)? {
                rustls::Error::AlertReceived(alert) => Some(*alert),
                _ => None,
            },
            _ => None,
        }
    }
}

fn refusal(connack: &ConnAck) -> String {
    let code = match connack.code {
        ConnAckCode::V3(code) => format!("{} (return code {})", code.reason().name(), code as u8),
        ConnAckCode::V5(reason) => reason.to_string(),
    };
    match &connack.properties.reason_string {
        Some(text) => format!("{code}: {text}"),
        None => code,
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What to do about a TLS failure.
fn hint(error: &io::Error) -> &'static str {
    use rustls::{CertificateError as Certificate, Error};
    match rustls_error(error) {
        // A wrong signature is what another CA of the same name looks like.
        Some(Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature)) => {
            "; the CA file does not hold the CA that signed the server's certificate"
        }
        Some(Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )) => {
            "; the server's certificate is for another name: connect by that name, or give it as server name"
        }
        Some(Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. })) => {
            "; the server's certificate has expired"
        }
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; the server wants a client certificate: give one with its key"
        }
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied,
        )) => "; the server does not accept this client certificate",
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => {
            "; the server does not speak this version of TLS"
        }
        Some(Error::InvalidMessage(_)) => "; is this port really a TLS listener?",
        _ => "",
    }
}

/// What is wrong with [`crate::TlsOptions`].
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} {path}: {source}", path = path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} {from} is not PEM: {message}")]
    Pem { what: &'static str, from: String, message: String },
    #[error("{what} {from} holds no {wanted}; expected a PEM section of that kind")]
    Nothing { what: &'static str, from: String, wanted: &'static str },
    #[error("the CA certificate in {from} cannot be used: {source}")]
    Ca { from: String, source: rustls::Error },
    #[error("no CA is given to check the server with: give a CA file, or ask for an insecure connection")]
    NoCa,
    #[error("a client certificate needs its private key, and a key its certificate: only {given} is given")]
    HalfIdentity { given: &'static str },
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
    #[error("the private key does not belong to the client certificate")]
    KeyMismatch,
    #[error("{0:?} is not a host name or an IP address")]
    ServerName(String),
    #[error("{0}")]
    Config(rustls::Error),
}

/// Why an operation of a connected client did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the connection is closed{}", reason.map(|reason| format!(": {reason}")).unwrap_or_default())]
    Closed { reason: Option<ReasonCode> },
    #[error("the topic name {0}")]
    TopicName(TopicError),
    #[error("the topic filter {0}")]
    TopicFilter(TopicError),
    #[error("the packet cannot be written: {0}")]
    Encode(#[from] EncodeError),
    #[error("the server said in CONNACK that it does not take this: {0}")]
    NotSupported(ReasonCode),
}

/// Why a [`crate::RawConnection`] sent or received nothing.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer's bytes are not a packet: {0}")]
    Decode(#[from] DecodeError),
    #[error("the packet cannot be written: {0}")]
    Encode(#[from] EncodeError),
}
