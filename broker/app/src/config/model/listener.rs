//! Keys of a listener: transport, address, what clients must show.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{FileCertificate, ManagedCertificate, Names, SessionResumption, TlsVersions};
use super::{AllowDeny, ListenerChain, Ocsp, ProxyIdentity, ProxyProtocol, Quic, Rates, WebSocket};
use crate::config::units::{Size, Span};
use crate::secret;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Transport: `tls` or, without any protection of what is sent, `tcp`; `wss` and `ws` are the same with WebSocket. `quic` is TLS 1.3 over UDP:
    /// one stream of each connection carries MQTT; no session is resumed, and nothing is sent before the handshake is over.
    #[serde(rename = "type")]
    pub kind: Transport,
    /// Address and port, for example `"0.0.0.0:8883"` or `"[::]:8883"`. Port 0 takes a free one.
    /// `"unix:/run/mqgate.sock"` is a Unix socket, for the types `tcp` and `ws`.
    pub bind: String,
    /// Whether clients need a certificate: `one-way` (none is asked for), `mutual` (one of a trusted CA), or
    /// `per-device` (and each certificate must be in the registry). Only for `tls`. The default is `mutual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<AuthMode>,
    /// What happens in mode `per-device` with a valid certificate that the registry does not know: `auto` asks
    /// the chain's registrars, and refuses if there is none; `manual` refuses until `mqgate cert register`.
    pub registration: Registration,
    /// EMQX's name for the same thing: `verify_peer` asks for a client certificate, `verify_none` does not.
    /// Must not contradict `auth_mode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// In mode `mutual`: refuse a client without a certificate. With `false` it may connect, and the chain judges it by
    /// other means; a bad certificate is refused in any case. The default is `true`, and `false` in mode `one-way`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_if_no_peer_cert: Option<bool>,
    /// Certificate of the server, PEM: its own, then those of the CAs that signed it. A `tls` listener that names no
    /// certificate has the built-in one, which clients trust by `builtin/ca.pem` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certfile: Option<PathBuf>,
    /// Private key of the server, PEM (PKCS #8, PKCS #1 or SEC 1): RSA, ECDSA or Ed25519, encrypted or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    /// Password of `keyfile`, if it is encrypted: the text, `"file://PATH"` (its first line), or `"env:NAME"` (an
    /// environment variable).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// More certificates in files. A client gets the one for the server name that it asks for: exactly that name, then
    /// a wildcard for its first label; else the first, which is `certfile`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<FileCertificate>,
    /// More certificates, kept by the broker (`mqgate server-cert`), after those in files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub managed_certs: Vec<ManagedCertificate>,
    /// Whether the built-in certificate is served, after all others. The default is `true` only where there is no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin_certificate: Option<bool>,
    /// Refuse clients that ask for a server name which no certificate has (alert `unrecognized_name`), or for none
    /// (`missing_extension`), instead of giving them the first.
    pub strict_sni: bool,
    pub ocsp: Ocsp,
    /// CA certificates that clients' certificates may lead to, PEM, one or many. CAs added with
    /// `mqgate ca add` are trusted too, in every mode that asks for a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacertfile: Option<PathBuf>,
    /// More files like `cacertfile`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cacertfiles: Vec<PathBuf>,
    /// TLS versions: a list, one, or a range as in `{ min = "1.2", max = "1.3" }`. What lies between is spoken, too.
    pub versions: TlsVersions,
    /// Cipher suites in order of preference, by the names of OpenSSL or IANA. Without it: three of TLS 1.3, six of 1.2.
    #[serde(skip_serializing_if = "is_empty")]
    pub ciphers: Names,
    /// Key-exchange groups in order of preference. Without it: X25519MLKEM768, X25519, secp256r1, secp384r1.
    #[serde(skip_serializing_if = "is_empty")]
    pub groups: Names,
    /// Whether our order of cipher suites counts, or the client's.
    pub honor_cipher_order: bool,
    /// How many intermediates may stand between a client's certificate and a trusted CA: 0 to 6.
    pub depth: u8,
    /// X.509 version 1 certificates of clients, as `openssl x509 -req` makes without `-extfile`: `allow` takes them
    /// as plain end-entity certificates, `deny` refuses them.
    pub x509_v1_leaf: AllowDeny,
    /// Take a certificate that becomes valid within this time: devices' factories have clocks too.
    pub clock_skew: Span,
    /// Take a certificate that expired no longer ago than this, on any place of the path.
    pub expiry_skew: Span,
    /// Extended key usages, one of which a client's certificate must have: `clientAuth`, `serverAuth`, …, or an object
    /// identifier (`"1.3.6.1.4.1.99999.1"`). `anyExtendedKeyUsage` in a certificate stands for each of them. CAs on the
    /// path that have the extension must allow it too. An empty list: any usage will do.
    pub extended_key_usage: Vec<String>,
    /// Clients' certificates without that extension: by RFC 5280 they are for any use.
    pub extended_key_usage_absent: AllowDeny,
    /// A CA's own certificate as a client's.
    pub ca_as_leaf: AllowDeny,
    /// Hold certificates to the form that RFC 5280 asks of those who make them (critical basic constraints, key
    /// identifiers, proper dates and serial numbers, …): `openssl verify -x509_strict`, and a little more. Much that
    /// the openssl command line makes by default falls short of it.
    pub x509_strict: bool,
    /// Shortest RSA key on the path: 2048 to 8192 bits. Signatures with SHA-1 or MD5 are never taken.
    pub min_rsa_bits: u32,
    /// Look clients' certificates up in the revocation lists of `[crl]`.
    #[serde(alias = "enable_crl_check")]
    pub crl_check: bool,
    /// Time for the TLS handshake.
    pub handshake_timeout: Span,
    /// Whether TLS sessions may be resumed: `off`, `tickets` (the client keeps the session, encrypted), `cache` (the
    /// broker does). Certificates are judged again in any case. The default is `tickets` in mode `one-way`, else `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_resumption: Option<SessionResumption>,
    /// Sessions kept by `session_resumption = "cache"`.
    pub session_cache_size: u32,
    /// Connections at the same time; more wait in the kernel's queue.
    pub max_connections: u32,
    /// TLS handshakes at the same time; more wait.
    pub max_handshakes: u32,
    /// Connections of one IPv4 address, or one IPv6 network of 64 bits, whose TLS handshake or WebSocket request is not
    /// finished; more are closed. Does not hold for this machine itself.
    pub max_handshakes_per_source: u32,
    /// Whether refused and dismissed MQTT 5.0 clients are sent a reason in words.
    pub send_reason_string: bool,
    /// Whether clients of MQTT 3.1 (`MQIsdp`), which is older than 3.1.1, are taken.
    pub mqtt_3_1: bool,
    /// The kernel's queue of connections that are not accepted yet. Its own limit (`net.core.somaxconn`) holds as well.
    pub backlog: u16,
    /// Send small packets at once, and not only when those before them were acknowledged (TCP_NODELAY).
    pub nodelay: bool,
    /// Memory of the kernel for what a client has not taken yet (SO_SNDBUF); `"0 B"` lets the kernel decide, which may
    /// give some MiB to a client that takes nothing.
    pub send_buffer: Size,
    /// Let other processes of the same user listen on the address too (SO_REUSEPORT); the kernel deals connections out.
    pub reuse_port: bool,
    /// Let `[::]` take IPv4 as well; otherwise IPv4 is a listener of its own.
    pub dual_stack: bool,
    /// Permissions of a Unix socket, in octal digits: who may write to it may connect.
    pub unix_mode: UnixMode,
    /// Proxies in front of the listener that say at the beginning of each connection whose it is: the PROXY protocol,
    /// versions 1 and 2. Without this table nobody may say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// MQTT over WebSocket, for the types `ws` and `wss`.
    pub websocket: WebSocket,
    /// MQTT over QUIC, for the type `quic`.
    pub quic: Quic,
    pub rates: Rates,
    /// How the members of the chain come to a decision about its clients, where not as `policy.chain` says.
    pub chain: ListenerChain,
}

/// Permissions in octal digits, for example `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct UnixMode(pub u32);

impl TryFrom<String> for UnixMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode @ ..=0o777) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self(mode)),
            _ => {
                Err(format!("`{text}` is not a mode: write three or four octal digits, for example \"0660\""))
            }
        }
    }
}

impl From<UnixMode> for String {
    fn from(mode: UnixMode) -> Self {
        format!("{:04o}", mode.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    #[default]
    #[serde(alias = "ssl")]
    Tls,
    Tcp,
    Ws,
    Wss,
    Quic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    #[serde(alias = "one_way")]
    OneWay,
    #[default]
    Mutual,
    #[serde(alias = "per_device")]
    PerDevice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Registration {
    #[default]
    Auto,
    Manual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    VerifyNone,
    VerifyPeer,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            kind: Transport::Tls,
            bind: String::from("127.0.0.1:8883"),
            auth_mode: None,
            registration: Registration::Auto,
            verify: None,
            fail_if_no_peer_cert: None,
            certfile: None,
            keyfile: None,
            cacertfile: None,
            cacertfiles: Vec::new(),
            password: None,
            certificates: Vec::new(),
            managed_certs: Vec::new(),
            builtin_certificate: None,
            strict_sni: false,
            ocsp: Ocsp::default(),
            versions: TlsVersions::default(),
            ciphers: Names::default(),
            groups: Names::default(),
            honor_cipher_order: true,
            depth: 6,
            x509_v1_leaf: AllowDeny::Allow,
            clock_skew: Span::secs(300),
            expiry_skew: Span::secs(0),
            extended_key_usage: vec![String::from("clientAuth")],
            extended_key_usage_absent: AllowDeny::Allow,
            ca_as_leaf: AllowDeny::Deny,
            x509_strict: false,
            min_rsa_bits: 2048,
            crl_check: false,
            handshake_timeout: Span::secs(15),
            session_resumption: None,
            session_cache_size: 4096,
            max_connections: 100_000,
            max_handshakes: 256,
            max_handshakes_per_source: 64,
            send_reason_string: true,
            mqtt_3_1: true,
            backlog: 1024,
            nodelay: true,
            send_buffer: Size(0),
            reuse_port: false,
            dual_stack: false,
            unix_mode: UnixMode(0o660),
            proxy_protocol: None,
            websocket: WebSocket::default(),
            quic: Quic::default(),
            rates: Rates::default(),
            chain: ListenerChain::default(),
        }
    }
}

impl Transport {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }

    /// Whether TLS ends here.
    pub const fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss | Self::Quic)
    }

    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl Listener {
    /// Whether clients' certificates are judged here: of its own TLS, or handed on by a proxy.
    pub fn has_certificates(&self) -> bool {
        let handed_on = |proxy: &ProxyProtocol| proxy.identity == ProxyIdentity::Certificate;
        self.kind.has_tls() || self.proxy_protocol.as_ref().is_some_and(handed_on)
    }

    /// What `auth_mode` and `verify` say together; [`crate::config::check`] has refused contradictions.
    pub fn mode(&self) -> AuthMode {
        match (self.auth_mode, self.verify) {
            (Some(mode), _) => mode,
            (None, Some(Verify::VerifyNone)) => AuthMode::OneWay,
            (None, Some(Verify::VerifyPeer) | None) => AuthMode::Mutual,
        }
    }

    /// Whether a client without a certificate is refused in the handshake.
    pub fn certificate_required(&self) -> bool {
        match self.mode() {
            AuthMode::OneWay => false,
            AuthMode::Mutual => self.fail_if_no_peer_cert.unwrap_or(true),
            AuthMode::PerDevice => true,
        }
    }

    /// The pairs of files, in order: `certfile` first.
    pub fn files(&self) -> Vec<FileCertificate> {
        let first =
            self.certfile.as_ref().zip(self.keyfile.as_ref()).map(|(certfile, keyfile)| FileCertificate {
                certfile: certfile.clone(),
                keyfile: keyfile.clone(),
                password: self.password.clone(),
                sni: None,
            });
        first.into_iter().chain(self.certificates.iter().cloned()).collect()
    }

    /// Every file that is read for it: certificates, keys, the passwords of keys, CAs.
    pub fn every_file(&self) -> impl Iterator<Item = PathBuf> {
        let more = self.certificates.iter().flat_map(|files| [&files.certfile, &files.keyfile]);
        let issuers = self.ocsp.enable.then_some(self.ocsp.issuer_pem.as_ref()).flatten();
        let files =
            self.certfile.iter().chain(&self.keyfile).chain(more).chain(self.ca_files()).chain(issuers);
        let passwords =
            self.password.iter().chain(self.certificates.iter().flat_map(|files| &files.password));
        files.cloned().chain(passwords.filter_map(|password| secret::file(password).map(PathBuf::from)))
    }

    /// The key of one of them, below the listener.
    pub fn file_key(&self, index: usize) -> String {
        match (index, self.certfile.is_some()) {
            (0, true) => String::from("certfile"),
            (index, first) => format!("certificates[{}].certfile", index - usize::from(first)),
        }
    }

    /// Whether the built-in certificate is among those of this listener.
    pub fn has_builtin(&self) -> bool {
        let others =
            self.certfile.is_some() || !self.certificates.is_empty() || !self.managed_certs.is_empty();
        self.kind.has_tls() && self.builtin_certificate.unwrap_or(!others)
    }

    /// Every file of CA certificates.
    pub fn ca_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.cacertfile.iter().chain(&self.cacertfiles)
    }
}

fn is_empty(names: &Names) -> bool {
    names.0.is_empty()
}
