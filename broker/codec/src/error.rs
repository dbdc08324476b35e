//! What can be wrong with bytes that came in, or with a packet that is to go out.

use crate::{PacketType, PropertyId, ProtocolVersion, ReasonCode, TopicError};

/// Why bytes are not an acceptable packet. The connection cannot go on after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a length is written in more than four bytes")]
    LengthTooLong,
    #[error("a length is written in more bytes than it needs")]
    LengthNotMinimal,
    #[error("a packet of {size} bytes is larger than the limit of {limit}")]
    PacketTooLarge { size: usize, limit: u32 },
    #[error("packet type {0} is reserved")]
    ReservedPacketType(u8),
    #[error("the flags of {packet} are {flags:#06b}")]
    ReservedFlags { packet: PacketType, flags: u8 },
    #[error("{0} may not be sent here")]
    UnexpectedPacket(PacketType),
    #[error("the packet ends in the middle of a field")]
    Truncated,
    #[error("the packet goes on after its last field")]
    TrailingBytes,
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("a string holds U+0000")]
    Nul,
    #[error("the protocol name is neither MQTT nor MQIsdp")]
    UnknownProtocolName,
    #[error("protocol level {0} is not supported")]
    UnsupportedProtocolLevel(u8),
    #[error("the connect flags are {0:#010b}")]
    ConnectFlags(u8),
    #[error("there is a password but no user name")]
    PasswordWithoutUserName,
    #[error("the client identifier is empty, but the session is to be kept")]
    ClientIdEmpty,
    #[error("the packet identifier is 0")]
    PacketIdZero,
    #[error("the QoS of a message is 3")]
    QoSReserved,
    #[error("DUP is set on a message of QoS 0")]
    DupWithoutQoS,
    #[error("the topic name {0}")]
    TopicName(TopicError),
    #[error("the topic filter {0}")]
    TopicFilter(TopicError),
    #[error("the topic name has more than {limit} levels")]
    TopicNameTooDeep { limit: u16 },
    #[error("the topic filter has more than {limit} levels")]
    TopicFilterTooDeep { limit: u16 },
    #[error("there is neither a topic name nor a topic alias")]
    TopicMissing,
    #[error("the topic alias is 0")]
    TopicAliasZero,
    #[error("the response topic {0}")]
    ResponseTopic(TopicError),
    #[error("{0} names no topic filter")]
    NoFilters(PacketType),
    #[error("there are more than {limit} topic filters")]
    TooManyFilters { limit: u16 },
    #[error("the subscription options are {0:#010b}")]
    SubscriptionOptionsReserved(u8),
    #[error("the subscription asks for QoS 3 or Retain Handling 3")]
    SubscriptionOptionsValue,
    #[error("No Local is set on a shared subscription")]
    NoLocalOnShared,
    #[error("property {0:#04x} does not exist")]
    UnknownProperty(u8),
    #[error("{property:?} may not be in {packet}")]
    PropertyNotAllowed { packet: PacketType, property: PropertyId },
    #[error("{0:?} is there twice")]
    DuplicateProperty(PropertyId),
    #[error("{0:?} has a value it may not have")]
    PropertyValue(PropertyId),
    #[error("there are more than {limit} user properties")]
    TooManyUserProperties { limit: u16 },
    #[error("there is authentication data but no authentication method")]
    AuthenticationMethodMissing,
    #[error("reason code {reason} may not be in {packet}")]
    ReasonCodeNotAllowed { packet: PacketType, reason: ReasonCode },
    #[error("the flags of CONNACK are {0:#010b}")]
    ConnAckFlags(u8),
    #[error("Session Present is set on a refusal")]
    SessionPresentOnRefusal,
}

impl DecodeError {
    /// What the peer hears, in CONNACK or in DISCONNECT. MQTT 3.1.1 has words for a few of them only.
    pub const fn reason(self) -> ReasonCode {
        match self {
            // Cannot be parsed. [MQTT 5.0, 1.2 "Malformed Packet", 2.2.2.2, 4.13]
            Self::LengthTooLong
            | Self::LengthNotMinimal
            | Self::ReservedPacketType(_)
            | Self::ReservedFlags { .. }
            | Self::Truncated
            | Self::TrailingBytes
            | Self::NotUtf8
            | Self::Nul
            | Self::ConnectFlags(_)
            | Self::PasswordWithoutUserName
            | Self::QoSReserved
            | Self::DupWithoutQoS
            | Self::SubscriptionOptionsReserved(_)
            | Self::UnknownProperty(_)
            | Self::PropertyNotAllowed { .. }
            | Self::ReasonCodeNotAllowed { .. }
            | Self::ConnAckFlags(_) => ReasonCode::MALFORMED_PACKET,
            // Parsed, but against the rules. [MQTT 5.0, 1.2 "Protocol Error"]
            Self::UnexpectedPacket(_)
            | Self::PacketIdZero
            | Self::TopicMissing
            | Self::ResponseTopic(_)
            | Self::NoFilters(_)
            | Self::SubscriptionOptionsValue
            | Self::NoLocalOnShared
            | Self::DuplicateProperty(_)
            | Self::PropertyValue(_)
            | Self::AuthenticationMethodMissing
            | Self::SessionPresentOnRefusal => ReasonCode::PROTOCOL_ERROR,
            Self::PacketTooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            Self::UnknownProtocolName | Self::UnsupportedProtocolLevel(_) => {
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            }
            Self::ClientIdEmpty => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::TopicName(TopicError::Nul | TopicError::NotUtf8)
            | Self::TopicFilter(TopicError::Nul | TopicError::NotUtf8) => ReasonCode::MALFORMED_PACKET,
            Self::TopicName(
                TopicError::Empty
                | TopicError::TooLong
                | TopicError::Wildcard
                | TopicError::Shared
                | TopicError::Exclusive,
            )
            | Self::TopicNameTooDeep { .. } => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicFilter(
                TopicError::Empty
                | TopicError::TooLong
                | TopicError::Wildcard
                | TopicError::Shared
                | TopicError::Exclusive,
            )
            | Self::TopicFilterTooDeep { .. } => ReasonCode::TOPIC_FILTER_INVALID,
            Self::TopicAliasZero => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::TooManyFilters { .. } | Self::TooManyUserProperties { .. } => ReasonCode::QUOTA_EXCEEDED,
        }
    }
}

/// Why a packet cannot be written. Nothing was written then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("a string or binary field is longer than 65,535 bytes")]
    FieldTooLong,
    #[error("a subscription identifier is larger than 268,435,455")]
    SubscriptionIdentifierTooLarge,
    #[error("a packet of {size} bytes is larger than the limit of {limit}")]
    PacketTooLarge { size: usize, limit: u32 },
    #[error("{packet} does not exist in {version:?}, or not in this form")]
    WrongVersion { packet: PacketType, version: ProtocolVersion },
    #[error("a packet identifier must be there exactly when the QoS is above 0")]
    PacketId,
    #[error("there is neither a topic name nor a topic alias")]
    TopicMissing,
    #[error("{0} names no topic filter")]
    NoFilters(PacketType),
}
