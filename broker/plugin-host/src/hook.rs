//! The hooks of the ABI by name.

/// An interface of `mqgate:plugin` that a plugin can export to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    Authenticator,
    EnhancedAuthenticator,
    Registrar,
    Authorizer,
    Auditor,
}

impl Hook {
    pub(crate) const ALL: [Self; 5] =
        [Self::Authenticator, Self::EnhancedAuthenticator, Self::Registrar, Self::Authorizer, Self::Auditor];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Authenticator => "authenticator",
            Self::EnhancedAuthenticator => "enhanced-authenticator",
            Self::Registrar => "registrar",
            Self::Authorizer => "authorizer",
            Self::Auditor => "auditor",
        }
    }
}
