//! Reason Codes of MQTT 5.0 (section 2.4) and Connect Return codes of MQTT 3.1.1 (section 3.2.2.3).

use crate::PacketType;

/// One byte that tells the result of an operation; 0x80 and above is a failure.
///
/// The same byte has different names in different packets (0x00 is Success, Normal disconnection and
/// Granted QoS 0), so this is a byte with named constants and not an enum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReasonCode(pub u8);

impl ReasonCode {
    pub const SUCCESS: Self = Self(0x00);
    pub const GRANTED_QOS_1: Self = Self(0x01);
    pub const GRANTED_QOS_2: Self = Self(0x02);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const CONTINUE_AUTHENTICATION: Self = Self(0x18);
    pub const RE_AUTHENTICATE: Self = Self(0x19);
    pub const UNSPECIFIED_ERROR: Self = Self(0x80);
    pub const MALFORMED_PACKET: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION_SPECIFIC_ERROR: Self = Self(0x83);
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self(0x84);
    pub const CLIENT_IDENTIFIER_NOT_VALID: Self = Self(0x85);
    pub const BAD_USER_NAME_OR_PASSWORD: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub const SERVER_BUSY: Self = Self(0x89);
    pub const BANNED: Self = Self(0x8A);
    pub const SERVER_SHUTTING_DOWN: Self = Self(0x8B);
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8C);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);
    pub const TOPIC_FILTER_INVALID: Self = Self(0x8F);
    pub const TOPIC_NAME_INVALID: Self = Self(0x90);
    pub const PACKET_IDENTIFIER_IN_USE: Self = Self(0x91);
    pub const PACKET_IDENTIFIER_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const MESSAGE_RATE_TOO_HIGH: Self = Self(0x96);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const ADMINISTRATIVE_ACTION: Self = Self(0x98);
    pub const PAYLOAD_FORMAT_INVALID: Self = Self(0x99);
    pub const RETAIN_NOT_SUPPORTED: Self = Self(0x9A);
    pub const QOS_NOT_SUPPORTED: Self = Self(0x9B);
    pub const USE_ANOTHER_SERVER: Self = Self(0x9C);
    pub const SERVER_MOVED: Self = Self(0x9D);
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Self = Self(0x9E);
    pub const CONNECTION_RATE_EXCEEDED: Self = Self(0x9F);
    pub const MAXIMUM_CONNECT_TIME: Self = Self(0xA0);
    pub const SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED: Self = Self(0xA1);
    pub const WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED: Self = Self(0xA2);

    /// Whether this tells a failure. [MQTT 5.0, 2.4]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The specification's name. 0x00, 0x01 and 0x02 have others in some packets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SUCCESS => "Success",
            Self::GRANTED_QOS_1 => "Granted QoS 1",
            Self::GRANTED_QOS_2 => "Granted QoS 2",
            Self::DISCONNECT_WITH_WILL => "Disconnect with Will Message",
            Self::NO_MATCHING_SUBSCRIBERS => "No matching subscribers",
            Self::NO_SUBSCRIPTION_EXISTED => "No subscription existed",
            Self::CONTINUE_AUTHENTICATION => "Continue authentication",
            Self::RE_AUTHENTICATE => "Re-authenticate",
            Self::UNSPECIFIED_ERROR => "Unspecified error",
            Self::MALFORMED_PACKET => "Malformed packet",
            Self::PROTOCOL_ERROR => "Protocol error",
            Self::IMPLEMENTATION_SPECIFIC_ERROR => "Implementation specific error",
            Self::UNSUPPORTED_PROTOCOL_VERSION => "Unsupported protocol version",
            Self::CLIENT_IDENTIFIER_NOT_VALID => "Client identifier not valid",
            Self::BAD_USER_NAME_OR_PASSWORD => "Bad user name or password",
            Self::NOT_AUTHORIZED => "Not authorized",
            Self::SERVER_UNAVAILABLE => "Server unavailable",
            Self::SERVER_BUSY => "Server busy",
            Self::BANNED => "Banned",
            Self::SERVER_SHUTTING_DOWN => "Server shutting down",
            Self::BAD_AUTHENTICATION_METHOD => "Bad authentication method",
            Self::KEEP_ALIVE_TIMEOUT => "Keep alive timeout",
            Self::SESSION_TAKEN_OVER => "Session taken over",
            Self::TOPIC_FILTER_INVALID => "Topic filter invalid",
            Self::TOPIC_NAME_INVALID => "Topic name invalid",
            Self::PACKET_IDENTIFIER_IN_USE => "Packet identifier in use",
            Self::PACKET_IDENTIFIER_NOT_FOUND => "Packet identifier not found",
            Self::RECEIVE_MAXIMUM_EXCEEDED => "Receive maximum exceeded",
            Self::TOPIC_ALIAS_INVALID => "Topic alias invalid",
            Self::PACKET_TOO_LARGE => "Packet too large",
            Self::MESSAGE_RATE_TOO_HIGH => "Message rate too high",
            Self::QUOTA_EXCEEDED => "Quota exceeded",
            Self::ADMINISTRATIVE_ACTION => "Administrative action",
            Self::PAYLOAD_FORMAT_INVALID => "Payload format invalid",
            Self::RETAIN_NOT_SUPPORTED => "Retain not supported",
            Self::QOS_NOT_SUPPORTED => "QoS not supported",
            Self::USE_ANOTHER_SERVER => "Use another server",
            Self::SERVER_MOVED => "Server moved",
            Self::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED => "Shared subscriptions not supported",
            Self::CONNECTION_RATE_EXCEEDED => "Connection rate exceeded",
            Self::MAXIMUM_CONNECT_TIME => "Maximum connect time",
            Self::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED => "Subscription identifiers not supported",
            Self::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED => "Wildcard subscriptions not supported",
            Self(_) => "Unknown reason code",
        }
    }

    /// Whether `packet` may carry this code. [MQTT-3.2.2-8, MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.6.2-1,
    /// MQTT-3.7.2-1, MQTT-3.9.3-2, MQTT-3.11.3-2, MQTT-3.14.2-1, MQTT-3.15.2-1]
    pub const fn is_allowed_in(self, packet: PacketType) -> bool {
        match packet {
            PacketType::ConnAck => {
                matches!(self.0, 0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            PacketType::PubAck | PacketType::PubRec => {
                matches!(self.0, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::PubRel | PacketType::PubComp => matches!(self.0, 0 | 0x92),
            PacketType::SubAck => {
                matches!(self.0, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            PacketType::UnsubAck => matches!(self.0, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            PacketType::Disconnect => matches!(
                self.0,
                0 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2
            ),
            PacketType::Auth => matches!(self.0, 0 | 0x18 | 0x19),
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::PingReq
            | PacketType::PingResp => false,
        }
    }
}

impl std::fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReasonCode(0x{:02X})", self.0)
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.0)
    }
}

/// The six answers a 3.1.1 client can get to its CONNECT. [MQTT 3.1.1, table 3.1]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectReturnCode {
    Accepted = 0,
    UnacceptableProtocolVersion = 1,
    IdentifierRejected = 2,
    ServerUnavailable = 3,
    BadUserNameOrPassword = 4,
    NotAuthorized = 5,
}

impl ConnectReturnCode {
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::UnacceptableProtocolVersion,
        Self::IdentifierRejected,
        Self::ServerUnavailable,
        Self::BadUserNameOrPassword,
        Self::NotAuthorized,
    ];

    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The nearest word that a 3.1.1 client has for `reason`. `None` where there is none: the connection
    /// is closed without a CONNACK then. [MQTT 3.1.1, 3.2.2.3]
    pub fn for_reason(reason: ReasonCode) -> Option<Self> {
        Some(match reason {
            ReasonCode::SUCCESS => Self::Accepted,
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => Self::UnacceptableProtocolVersion,
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => Self::IdentifierRejected,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => Self::BadUserNameOrPassword,
            ReasonCode::NOT_AUTHORIZED
            | ReasonCode::BANNED
            | ReasonCode::BAD_AUTHENTICATION_METHOD
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::RETAIN_NOT_SUPPORTED
            | ReasonCode::QOS_NOT_SUPPORTED => Self::NotAuthorized,
            ReasonCode::UNSPECIFIED_ERROR
            | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
            | ReasonCode::SERVER_UNAVAILABLE
            | ReasonCode::SERVER_BUSY
            | ReasonCode::SERVER_SHUTTING_DOWN
            | ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::USE_ANOTHER_SERVER
            | ReasonCode::SERVER_MOVED
            | ReasonCode::CONNECTION_RATE_EXCEEDED => Self::ServerUnavailable,
            // Malformed packets and protocol errors: closed without a word. [MQTT-3.1.4-1, MQTT-4.8.0-1]
            _ => return None,
        })
    }

    /// The MQTT 5.0 code that says the same.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Accepted => ReasonCode::SUCCESS,
            Self::UnacceptableProtocolVersion => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::IdentifierRejected => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::ServerUnavailable => ReasonCode::SERVER_UNAVAILABLE,
            Self::BadUserNameOrPassword => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            Self::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_code_has_a_text_of_its_own() {
        let named: Vec<_> =
            (0..=u8::MAX).map(ReasonCode).filter(|code| code.name() != "Unknown reason code").collect();
        let names: std::collections::BTreeSet<_> = named.iter().map(|code| code.name()).collect();
        assert_eq!(named.len(), names.len());
        assert_eq!(named.len(), 43);
        assert_eq!(ReasonCode::NOT_AUTHORIZED.to_string(), "Not authorized (0x87)");
    }

    #[test]
    fn return_codes_survive_the_way_through_reason_codes() {
        for code in ConnectReturnCode::ALL {
            assert_eq!(ConnectReturnCode::for_reason(code.reason()), Some(code));
            assert_eq!(ConnectReturnCode::from_byte(code as u8), Some(code));
        }
        assert_eq!(ConnectReturnCode::from_byte(6), None);
        assert_eq!(ConnectReturnCode::for_reason(ReasonCode::MALFORMED_PACKET), None);
    }
}
