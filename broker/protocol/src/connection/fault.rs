//! What a client can do wrong, and who hears what about it.

use mqgate_codec::{DecodeError, ReasonCode};
use mqgate_identity::reason::Reason;

/// Ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Malformed(DecodeError),
    #[error("no CONNECT in time")]
    ConnectTimeout,
    #[error("the first packet is not CONNECT")]
    NotConnect,
    #[error("a second CONNECT")]
    SecondConnect,
    #[error("a packet that only a server sends")]
    ServerPacket,
    #[error("the client identifier is empty, but the session is to be kept")]
    ClientIdEmpty,
    #[error("the client identifier is too long")]
    ClientIdTooLong,
    #[error("MQTT 3.1 is not spoken here")]
    Mqtt31,
    #[error("something else than AUTH before CONNACK")]
    NotAuth,
    #[error("the authentication method is not that of CONNECT")]
    AuthenticationMethodChanged,
    #[error("no AUTH in time")]
    AuthenticationTimeout,
    #[error("what the authentication needs does not fit the client's maximum packet size")]
    AuthTooLarge,
    #[error("AUTH where none is expected")]
    UnexpectedAuth,
    #[error("the permit does not cover the will")]
    WillDenied,
    #[error("no packet for one and a half keep-alives")]
    KeepAlive,
    #[error("the QoS is above the maximum")]
    QosNotSupported,
    #[error("retained messages are not available")]
    RetainNotSupported,
    #[error("the payload is not the UTF-8 text that it is said to be")]
    PayloadFormat,
    #[error("CONNACK does not fit the client's maximum packet size")]
    ConnAckTooLarge,
    #[error("more unacknowledged messages than the receive maximum")]
    ReceiveMaximumExceeded,
    #[error("a topic alias of 0 or above the maximum")]
    TopicAliasInvalid,
    #[error("a topic alias that was not set")]
    TopicAliasUnknown,
    #[error("a session that was to end with the connection cannot be kept")]
    SessionExpiryRevived,
    #[error("the permit does not cover the topic")]
    PublishDenied,
}

/// Whether a connection that this side ends for `reason` ends because the client has no right to be here any
/// more: nothing is published for it then, and nothing sent to it.
pub const fn bars(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::ServerShuttingDown | Reason::TakenOver | Reason::AdminAction | Reason::KeepAliveTimeout
    )
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Initiator {
    Client,
    Server,
    Network,
}

impl Fault {
    /// What the client hears.
    pub const fn code(self) -> ReasonCode {
        match self {
            // No `_` arm: a new fault must choose its code.
            Self::Malformed(error) => error.reason(),
            Self::ConnectTimeout
            | Self::NotConnect
            | Self::SecondConnect
            | Self::ServerPacket
            | Self::NotAuth
            | Self::AuthenticationMethodChanged
            | Self::UnexpectedAuth
            | Self::TopicAliasUnknown
            | Self::SessionExpiryRevived => ReasonCode::PROTOCOL_ERROR,
            Self::Mqtt31 => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::AuthenticationTimeout => ReasonCode::NOT_AUTHORIZED,
            Self::AuthTooLarge | Self::ConnAckTooLarge => ReasonCode::PACKET_TOO_LARGE,
            Self::PayloadFormat => ReasonCode::PAYLOAD_FORMAT_INVALID,
            Self::ClientIdEmpty | Self::ClientIdTooLong => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::WillDenied | Self::PublishDenied => ReasonCode::NOT_AUTHORIZED,
            Self::KeepAlive => ReasonCode::KEEP_ALIVE_TIMEOUT,
            Self::QosNotSupported => ReasonCode::QOS_NOT_SUPPORTED,
            Self::RetainNotSupported => ReasonCode::RETAIN_NOT_SUPPORTED,
            Self::ReceiveMaximumExceeded => ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
            Self::TopicAliasInvalid => ReasonCode::TOPIC_ALIAS_INVALID,
        }
    }

    /// What the auditor reads.
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed(error) => match error.reason() {
                ReasonCode::PACKET_TOO_LARGE => Reason::PacketTooLarge,
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => Reason::UnsupportedProtocolVersion,
                ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => Reason::ClientIdInvalid,
                ReasonCode::PROTOCOL_ERROR => Reason::ProtocolError,
                ReasonCode::QUOTA_EXCEEDED => Reason::QuotaExceeded,
                _ => Reason::MalformedPacket,
            },
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::ClientIdEmpty | Self::ClientIdTooLong => Reason::ClientIdInvalid,
            Self::WillDenied | Self::PublishDenied => Reason::AclDenied,
            Self::KeepAlive => Reason::KeepAliveTimeout,
            Self::Mqtt31 => Reason::UnsupportedProtocolVersion,
            Self::AuthenticationTimeout => Reason::BadCredentials,
            Self::AuthTooLarge | Self::ConnAckTooLarge => Reason::PacketTooLarge,
            Self::NotAuth
            | Self::AuthenticationMethodChanged
            | Self::PayloadFormat
            | Self::NotConnect
            | Self::SecondConnect
            | Self::ServerPacket
            | Self::UnexpectedAuth
            | Self::QosNotSupported
            | Self::RetainNotSupported
            | Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::TopicAliasUnknown
            | Self::SessionExpiryRevived => Reason::ProtocolError,
        }
    }
}
