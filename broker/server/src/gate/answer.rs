//! From a reason to what the client is told. Total, and never more than the client may know.

use bytestring::ByteString;
use mqgate_codec::ReasonCode;
use mqgate_identity::hooks::{ConnackReason, Denial};
use mqgate_identity::reason::Reason;

use super::Refusal;

/// Longest Reason String or Server Reference sent, in bytes.
const LONGEST_STRING: usize = 1024;

pub(super) fn refusal(
    reason: Reason,
    denial: Option<&Denial>,
    retry_after: Option<u32>,
    send_reason_string: bool,
) -> Refusal {
    let text = |text: Option<&String>| text.and_then(|text| sendable(text));
    Refusal {
        reason,
        code: denial.map_or_else(|| connack_code(reason), |denial| denial_code(denial.reason)),
        reason_string: denial
            .filter(|_| send_reason_string)
            .and_then(|denial| text(denial.client_message.as_ref())),
        // Only these two codes go with a Server Reference. [MQTT 5.0, 3.2.2.3.16]
        server_reference: denial
            .filter(|denial| {
                matches!(denial.reason, ConnackReason::UseAnotherServer | ConnackReason::ServerMoved)
            })
            .and_then(|denial| text(denial.server_reference.as_ref())),
        retry_after,
    }
}

/// A string a packet may carry; too long or with control characters it is not sent.
fn sendable(text: &str) -> Option<ByteString> {
    let fine = !text.is_empty() && text.len() <= LONGEST_STRING && !text.chars().any(char::is_control);
    fine.then(|| ByteString::from(text))
}

/// What a denial is called in metrics and audit records.
pub(super) const fn denial_reason(denial: &Denial) -> Reason {
    match denial.reason {
        ConnackReason::BadUserNameOrPassword | ConnackReason::BadAuthenticationMethod => {
            Reason::BadCredentials
        }
        ConnackReason::Banned => Reason::Banned,
        ConnackReason::ClientIdentifierNotValid => Reason::ClientIdInvalid,
        ConnackReason::QuotaExceeded => Reason::QuotaExceeded,
        ConnackReason::ConnectionRateExceeded
        | ConnackReason::UnspecifiedError
        | ConnackReason::ImplementationSpecificError
        | ConnackReason::NotAuthorized
        | ConnackReason::ServerUnavailable
        | ConnackReason::ServerBusy
        | ConnackReason::UseAnotherServer
        | ConnackReason::ServerMoved => Reason::PluginDenied,
    }
}

/// The same, where it was a registrar that said no.
pub(super) const fn provision_reason(denial: &Denial) -> Reason {
    match denial.reason {
        ConnackReason::QuotaExceeded => Reason::ProvisionQuota,
        ConnackReason::ConnectionRateExceeded => Reason::ProvisionRateLimited,
        ConnackReason::Banned => Reason::Banned,
        ConnackReason::UnspecifiedError
        | ConnackReason::ImplementationSpecificError
        | ConnackReason::ClientIdentifierNotValid
        | ConnackReason::BadUserNameOrPassword
        | ConnackReason::NotAuthorized
        | ConnackReason::ServerUnavailable
        | ConnackReason::ServerBusy
        | ConnackReason::BadAuthenticationMethod
        | ConnackReason::UseAnotherServer
        | ConnackReason::ServerMoved => Reason::ProvisionDenied,
    }
}

const fn denial_code(reason: ConnackReason) -> ReasonCode {
    match reason {
        ConnackReason::UnspecifiedError => ReasonCode::UNSPECIFIED_ERROR,
        ConnackReason::ImplementationSpecificError => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        ConnackReason::ClientIdentifierNotValid => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        ConnackReason::BadUserNameOrPassword => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        ConnackReason::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
        ConnackReason::ServerUnavailable => ReasonCode::SERVER_UNAVAILABLE,
        ConnackReason::ServerBusy => ReasonCode::SERVER_BUSY,
        ConnackReason::Banned => ReasonCode::BANNED,
        ConnackReason::BadAuthenticationMethod => ReasonCode::BAD_AUTHENTICATION_METHOD,
        ConnackReason::QuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
        ConnackReason::UseAnotherServer => ReasonCode::USE_ANOTHER_SERVER,
        ConnackReason::ServerMoved => ReasonCode::SERVER_MOVED,
        ConnackReason::ConnectionRateExceeded => ReasonCode::CONNECTION_RATE_EXCEEDED,
    }
}

/// The CONNACK code a refusal without a plugin's own choice is answered with.
pub const fn connack_code(reason: Reason) -> ReasonCode {
    match reason {
        // No `_` arm: a new reason must choose its code.
        Reason::Ok => ReasonCode::SUCCESS,
        Reason::TlsVersionUnsupported
        | Reason::TlsNoSharedCipher
        | Reason::TlsNoPeerCert
        | Reason::TlsSniRequired
        | Reason::TlsSniUnknown
        | Reason::TlsHandshakeTimeout
        | Reason::TlsProtocol
        | Reason::ProxyHeader
        | Reason::WebSocketRefused
        | Reason::CertMalformed
        | Reason::CertV1
        | Reason::CertCaAsLeaf
        | Reason::CertDepth
        | Reason::CertUnknownCa
        | Reason::CertExpired
        | Reason::CertNotYetValid
        | Reason::CertPurpose
        | Reason::CertSigAlg
        | Reason::CertBadSignature
        | Reason::CertNameConstraint
        | Reason::CertPolicy
        | Reason::CertTooLarge
        | Reason::CertRevokedCrl
        | Reason::CrlUnknown
        | Reason::CrlStale
        | Reason::CertNotRegistered
        | Reason::CertPending
        | Reason::CertInactive
        | Reason::CertRevoked
        | Reason::CertTombstoned
        | Reason::CertSuperseded
        | Reason::CertQuarantined
        | Reason::KeyCompromised
        | Reason::CloneDetected
        | Reason::CaInactive
        | Reason::ProvisionDenied
        | Reason::PluginDenied
        | Reason::AllAbstained
        | Reason::NotAuthorized
        | Reason::AclDenied => ReasonCode::NOT_AUTHORIZED,
        Reason::ProvisionRateLimited => ReasonCode::CONNECTION_RATE_EXCEEDED,
        Reason::ProvisionQuota | Reason::QuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
        Reason::RegistryUnavailable
        | Reason::ClockInsane
        | Reason::PluginUnavailable
        | Reason::PluginTimeout
        | Reason::PluginInvalid
        | Reason::AuditUnavailable
        | Reason::Other => ReasonCode::SERVER_UNAVAILABLE,
        Reason::PluginSaturated | Reason::ServerBusy => ReasonCode::SERVER_BUSY,
        Reason::ClientIdMismatch | Reason::ClientIdInvalid => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        Reason::BadCredentials => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        Reason::Banned => ReasonCode::BANNED,
        Reason::TakenOver => ReasonCode::SESSION_TAKEN_OVER,
        Reason::AdminAction => ReasonCode::ADMINISTRATIVE_ACTION,
        Reason::KeepAliveTimeout => ReasonCode::KEEP_ALIVE_TIMEOUT,
        Reason::ProtocolError | Reason::ConnectTimeout => ReasonCode::PROTOCOL_ERROR,
        Reason::MalformedPacket => ReasonCode::MALFORMED_PACKET,
        Reason::PacketTooLarge => ReasonCode::PACKET_TOO_LARGE,
        Reason::ServerShuttingDown => ReasonCode::SERVER_SHUTTING_DOWN,
        Reason::UnsupportedProtocolVersion => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
    }
}
