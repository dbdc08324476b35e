//! The hooks of the ABI by name.

/// An interface of `mqgate:plugin` that a plugin can export to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    Authenticator,
    Registrar,
    Authorizer,
    Auditor,
}

impl Hook {
    pub(crate) const ALL: [Self; 4] = [Self::Authenticator, Self::Registrar, Self::Authorizer, Self::Auditor];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Authenticator => "authenticator",
            Self::Registrar => "registrar",
            Self::Authorizer => "authorizer",
            Self::Auditor => "auditor",
        }
    }
}
