//! Why a request of a plugin has no answer.

use std::error::Error;
use std::io;

/// Says no more than the plugin may know: which address a name has is not for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No rule allows the destination.
    Denied,
    /// The name has no address that may be reached.
    Prohibited,
    /// All connections are taken.
    TooMany,
    /// The body was not finished by whoever began it.
    Unfinished,
    Invalid,
    NotFound,
    LookupTimeout,
    ConnectionRefused,
    Unreachable,
    ConnectTimeout,
    Certificate,
    Tls,
    ResponseTimeout,
    HeadersTooLarge,
    BodyTooLarge,
    Protocol,
    Terminated,
}

impl Failure {
    /// A guard stopped it, not the network.
    pub(crate) const fn is_refusal(self) -> bool {
        match self {
            Self::Denied | Self::Prohibited | Self::TooMany | Self::HeadersTooLarge | Self::BodyTooLarge => {
                true
            }
            Self::Unfinished
            | Self::Invalid
            | Self::NotFound
            | Self::LookupTimeout
            | Self::ConnectionRefused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::Certificate
            | Self::Tls
            | Self::ResponseTimeout
            | Self::Protocol
            | Self::Terminated => false,
        }
    }

    pub(crate) fn of(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::HeadersTooLarge
        } else if error.is_parse() {
            Self::Protocol
        } else {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
            match cause.map(Self::of_tls) {
                Some(found @ (Self::Certificate | Self::Tls)) => found,
                _ => Self::Terminated,
            }
        }
    }

    /// What a connection that was to be encrypted failed of.
    pub(crate) fn of_tls(error: &io::Error) -> Self {
        match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::Certificate
            }
            Some(_) => Self::Tls,
            None => Self::Terminated,
        }
    }
}
