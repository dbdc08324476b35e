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
    // proxies and WebSocket, before MQTT
    ProxyHeader,
    WebSocketRefused,
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
    CertPolicy,
    CertTooLarge,
    CertRevokedCrl,
    CrlUnknown,
    CrlStale,
    // registry
    CertNotRegistered,
    CertPending,
    CertInactive,
    CertRevoked,
    CertTombstoned,
    CertSuperseded,
    CertQuarantined,
    KeyCompromised,
    /// One certificate on two devices.
    CloneDetected,
    CaInactive,
    ProvisionRateLimited,
    ProvisionQuota,
    ProvisionDenied,
    RegistryUnavailable,
    /// The machine's clock shows a time that cannot be.
    ClockInsane,
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
        Self::ProxyHeader,
        Self::WebSocketRefused,
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
        Self::CertPolicy,
        Self::CertTooLarge,
        Self::CertRevokedCrl,
        Self::CrlUnknown,
        Self::CrlStale,
        Self::CertNotRegistered,
        Self::CertPending,
        Self::CertInactive,
        Self::CertRevoked,
        Self::CertTombstoned,
        Self::CertSuperseded,
        Self::CertQuarantined,
        Self::KeyCompromised,
        Self::CloneDetected,
        Self::CaInactive,
        Self::ProvisionRateLimited,
        Self::ProvisionQuota,
        Self::ProvisionDenied,
        Self::RegistryUnavailable,
        Self::ClockInsane,
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
            Self::ProxyHeader => "proxy_header",
            Self::WebSocketRefused => "websocket_refused",
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
            Self::CertPolicy => "cert_policy",
            Self::CertTooLarge => "cert_too_large",
            Self::CertRevokedCrl => "cert_revoked_crl",
            Self::CrlUnknown => "crl_unknown",
            Self::CrlStale => "crl_stale",
            Self::CertNotRegistered => "cert_not_registered",
            Self::CertPending => "cert_pending",
            Self::CertInactive => "cert_inactive",
            Self::CertRevoked => "cert_revoked",
            Self::CertTombstoned => "cert_tombstoned",
            Self::CertSuperseded => "cert_superseded",
            Self::CertQuarantined => "cert_quarantined",
            Self::KeyCompromised => "key_compromised",
            Self::CloneDetected => "clone_detected",
            Self::CaInactive => "ca_inactive",
            Self::ProvisionRateLimited => "provision_rate_limited",
            Self::ProvisionQuota => "provision_quota",
            Self::ProvisionDenied => "provision_denied",
            Self::RegistryUnavailable => "registry_unavailable",
            Self::ClockInsane => "clock_insane",
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
    /// What it means, for readers; Markdown. In brackets what an MQTT 5.0 client hears.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Ok => "nothing is wrong",
            Self::TlsVersionUnsupported => {
                "the client and the broker have no TLS version in common; the handshake failed before any certificate mattered"
            }
            Self::TlsNoSharedCipher => "they have no cipher suite, group or signature scheme in common",
            Self::TlsNoPeerCert => "a certificate is required and none came",
            Self::TlsSniRequired => "with `strict_sni`: the client named no server",
            Self::TlsSniUnknown => "with `strict_sni`: the client named a server that no certificate is for",
            Self::TlsHandshakeTimeout => "not finished within `handshake_timeout`",
            Self::TlsProtocol => "the handshake broke the rules of TLS, or was broken off",
            Self::ProxyHeader => {
                "a PROXY protocol header from somebody who is no proxy, none from a proxy, or one that cannot be read; `detail` in `fields` says which"
            }
            Self::WebSocketRefused => {
                "the HTTP request was not one for MQTT over WebSocket; `detail` says why"
            }
            Self::CertMalformed => "not a certificate that can be read",
            Self::CertV1 => "X.509 v1 where `x509_v1_leaf = \"deny\"`",
            Self::CertCaAsLeaf => "a CA's own certificate",
            Self::CertDepth => "more intermediates than `depth`",
            Self::CertUnknownCa => {
                "no path to a trusted CA; the hint `missing_intermediate` says when only a link is missing"
            }
            Self::CertExpired => "after its validity, or that of a CA on the path",
            Self::CertNotYetValid => "before its validity, or that of a CA on the path",
            Self::CertPurpose => {
                "a usage on the path that does not allow it (`extended_key_usage`, key usage, CA:FALSE)"
            }
            Self::CertSigAlg => "SHA-1 or a weak key",
            Self::CertBadSignature => "a signature that does not hold",
            Self::CertNameConstraint => "a name outside a CA's constraints",
            Self::CertPolicy => "no certificate policy where a CA on the path demands one",
            Self::CertTooLarge => "more than 10 certificates or 64 KiB",
            Self::CertRevokedCrl => "its CA, or one above it, has put it on a revocation list",
            Self::CrlUnknown => "no revocation list is about it (`crl.unknown`)",
            Self::CrlStale => "the revocation list about it should have been replaced (`crl.stale`)",
            Self::CertNotRegistered => "valid, and not in the registry [0x87]",
            Self::CertPending => "waits for its operator [0x87, with the user property `retry-after`]",
            Self::CertInactive => "in the registry, and switched off [0x87]",
            Self::CertRevoked => "in the registry, and revoked [0x87]",
            Self::CertTombstoned => "deleted from the registry, and not to come back [0x87]",
            Self::CertSuperseded => "another certificate of the device took its place [0x87]",
            Self::CertQuarantined => "kept out for a while (docs/registry.md) [0x87]",
            Self::KeyCompromised => {
                "a new certificate with the key of one that was revoked because the key is known to others [0x87]"
            }
            Self::CloneDetected => {
                "the certificate is on two devices, and `sharing.policy` says no [0x87; 0x8E for who was there before]"
            }
            Self::CaInactive => "its CA is no longer trusted [0x87]",
            Self::ProvisionRateLimited => "the registrar, or a limit of it, says: later [0x9F]",
            Self::ProvisionQuota => "the registrar, or a limit of it, says: enough [0x97]",
            Self::ProvisionDenied => "the registrar said no [0x87]",
            Self::RegistryUnavailable => "the registry does not answer: nobody is let in on a guess [0x88]",
            Self::ClockInsane => {
                "the machine's clock cannot be right: nobody registers by himself, and with `clock.when_wrong = \"deny\"` nobody gets in [0x88]"
            }
            Self::PluginDenied => "a plugin refused; its detail in `fields` [the plugin's choice]",
            Self::PluginUnavailable => "a plugin gave no answer at all [0x88]",
            Self::PluginTimeout => "a plugin gave no answer in time [0x88]",
            Self::PluginSaturated => "too many calls of plugins at once [0x89]",
            Self::PluginInvalid => "a plugin gave nonsense for an answer [0x88]",
            Self::AuditUnavailable => {
                "the audit log does not take the record: what cannot be written down does not happen [0x88]"
            }
            Self::AllAbstained => "nobody in the chain said yes [0x87]",
            Self::NotAuthorized => "a grant was withdrawn, or something that is needed is missing [0x87]",
            Self::ClientIdMismatch => "the certificate is bound to another client id [0x85]",
            Self::ClientIdInvalid => "the client id cannot be used [0x85]",
            Self::BadCredentials => "the user name or the password is wrong [0x86]",
            Self::Banned => "a ban is about this client [0x8A]",
            Self::AclDenied => "no rule of the permit allows the topic [0x87]",
            Self::TakenOver => "the same client id connected again [0x8E]",
            Self::AdminAction => "an operator wanted it [0x98]",
            Self::KeepAliveTimeout => "silence for one and a half keep-alives [0x8D]",
            Self::ProtocolError => "a packet that the protocol does not allow there [0x82]",
            Self::MalformedPacket => "bytes that are no packet [0x81]",
            Self::QuotaExceeded => "a limit of the broker [0x97]",
            Self::PacketTooLarge => "a packet larger than the limit [0x95]",
            Self::ServerShuttingDown => "the broker ends [0x8B]",
            Self::ConnectTimeout => "no CONNECT in time",
            Self::UnsupportedProtocolVersion => "neither MQTT 3.1.1 nor 5.0 [0x84]",
            Self::ServerBusy => "too many connections, or too much to do, at once [0x89]",
            Self::Other => "none of these; `fields` has the words",
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
