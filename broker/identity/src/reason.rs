//! The closed set of stable reason codes: what audit records, metrics and `mqgate` print.

/// Why something was allowed, refused or failed. The text of each is stable: it is the `reason` label of
/// metrics and the `reason` of audit records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Ok,
    // TLS handshake
    TlsVersionUnsupported,
    TlsNoSharedCipher,
    TlsNoPeerCert,
    TlsSniRequired,
    TlsSniUnknown,
    TlsHandshakeTimeout,
    TlsProtocol,
    // certificate evaluation
    CertMalformed,
    CertV1,
    CertCaAsLeaf,
    CertDepth,
    CertUnknownCa,
    CertExpired,
    CertNotYetValid,
    CertPurpose,
    CertSigAlg,
    CertBadSignature,
    CertNameConstraint,
    CertTooLarge,
    // registry
    CertNotRegistered,
    CertPending,
    CertInactive,
    CertRevoked,
    CertTombstoned,
    CertSuperseded,
    CaInactive,
    ProvisionRateLimited,
    ProvisionQuota,
    ProvisionDenied,
    RegistryUnavailable,
    // plugins and admission
    PluginDenied,
    PluginUnavailable,
    PluginTimeout,
    PluginSaturated,
    PluginInvalid,
    AuditUnavailable,
    AllAbstained,
    NotAuthorized,
    ClientIdMismatch,
    ClientIdInvalid,
    BadCredentials,
    Banned,
    AclDenied,
    // sessions
    TakenOver,
    AdminAction,
    KeepAliveTimeout,
    ProtocolError,
    MalformedPacket,
    QuotaExceeded,
    PacketTooLarge,
    ServerShuttingDown,
    ConnectTimeout,
    UnsupportedProtocolVersion,
    ServerBusy,
    Other,
}

impl Reason {
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::TlsVersionUnsupported,
        Self::TlsNoSharedCipher,
        Self::TlsNoPeerCert,
        Self::TlsSniRequired,
        Self::TlsSniUnknown,
        Self::TlsHandshakeTimeout,
        Self::TlsProtocol,
        Self::CertMalformed,
        Self::CertV1,
        Self::CertCaAsLeaf,
        Self::CertDepth,
        Self::CertUnknownCa,
        Self::CertExpired,
        Self::CertNotYetValid,
        Self::CertPurpose,
        Self::CertSigAlg,
        Self::CertBadSignature,
        Self::CertNameConstraint,
        Self::CertTooLarge,
        Self::CertNotRegistered,
        Self::CertPending,
        Self::CertInactive,
        Self::CertRevoked,
        Self::CertTombstoned,
        Self::CertSuperseded,
        Self::CaInactive,
        Self::ProvisionRateLimited,
        Self::ProvisionQuota,
        Self::ProvisionDenied,
        Self::RegistryUnavailable,
        Self::PluginDenied,
        Self::PluginUnavailable,
        Self::PluginTimeout,
        Self::PluginSaturated,
        Self::PluginInvalid,
        Self::AuditUnavailable,
        Self::AllAbstained,
        Self::NotAuthorized,
        Self::ClientIdMismatch,
        Self::ClientIdInvalid,
        Self::BadCredentials,
        Self::Banned,
        Self::AclDenied,
        Self::TakenOver,
        Self::AdminAction,
        Self::KeepAliveTimeout,
        Self::ProtocolError,
        Self::MalformedPacket,
        Self::QuotaExceeded,
        Self::PacketTooLarge,
        Self::ServerShuttingDown,
        Self::ConnectTimeout,
        Self::UnsupportedProtocolVersion,
        Self::ServerBusy,
        Self::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::TlsVersionUnsupported => "tls_version_unsupported",
            Self::TlsNoSharedCipher => "tls_no_shared_cipher",
            Self::TlsNoPeerCert => "tls_no_peer_cert",
            Self::TlsSniRequired => "tls_sni_required",
            Self::TlsSniUnknown => "tls_sni_unknown",
            Self::TlsHandshakeTimeout => "tls_handshake_timeout",
            Self::TlsProtocol => "tls_protocol",
            Self::CertMalformed => "cert_malformed",
            Self::CertV1 => "cert_v1",
            Self::CertCaAsLeaf => "cert_ca_as_leaf",
            Self::CertDepth => "cert_depth",
            Self::CertUnknownCa => "cert_unknown_ca",
            Self::CertExpired => "cert_expired",
            Self::CertNotYetValid => "cert_not_yet_valid",
            Self::CertPurpose => "cert_purpose",
            Self::CertSigAlg => "cert_sig_alg",
            Self::CertBadSignature => "cert_bad_signature",
            Self::CertNameConstraint => "cert_name_constraint",
            Self::CertTooLarge => "cert_too_large",
            Self::CertNotRegistered => "cert_not_registered",
            Self::CertPending => "cert_pending",
            Self::CertInactive => "cert_inactive",
            Self::CertRevoked => "cert_revoked",
            Self::CertTombstoned => "cert_tombstoned",
            Self::CertSuperseded => "cert_superseded",
            Self::CaInactive => "ca_inactive",
            Self::ProvisionRateLimited => "provision_rate_limited",
            Self::ProvisionQuota => "provision_quota",
            Self::ProvisionDenied => "provision_denied",
            Self::RegistryUnavailable => "registry_unavailable",
            Self::PluginDenied => "plugin_denied",
            Self::PluginUnavailable => "plugin_unavailable",
            Self::PluginTimeout => "plugin_timeout",
            Self::PluginSaturated => "plugin_saturated",
            Self::PluginInvalid => "plugin_invalid",
            Self::AuditUnavailable => "audit_unavailable",
            Self::AllAbstained => "all_abstained",
            Self::NotAuthorized => "not_authorized",
            Self::ClientIdMismatch => "clientid_mismatch",
            Self::ClientIdInvalid => "clientid_invalid",
            Self::BadCredentials => "bad_credentials",
            Self::Banned => "banned",
            Self::AclDenied => "acl_denied",
            Self::TakenOver => "taken_over",
            Self::AdminAction => "admin_action",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::ProtocolError => "protocol_error",
            Self::MalformedPacket => "malformed_packet",
            Self::QuotaExceeded => "quota_exceeded",
            Self::PacketTooLarge => "packet_too_large",
            Self::ServerShuttingDown => "server_shutting_down",
            Self::ConnectTimeout => "connect_timeout",
            Self::UnsupportedProtocolVersion => "unsupported_protocol_version",
            Self::ServerBusy => "server_busy",
            Self::Other => "other",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_text() {
        let mut texts: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Reason::ALL.len());
    }
}
