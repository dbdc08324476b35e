//! What a token may be for: scopes, and roles, which are names for sets of them. Both are closed lists.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! scopes {
    ($($variant:ident = $word:literal: $meaning:literal;)+) => {
        /// What a route needs, and a token has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Scope {
            $($variant,)+
        }

        impl Scope {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// For the reference.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }
        }
    };
}

scopes! {
    StatusRead = "status:read": "version, listeners, readiness";
    ClientsRead = "clients:read": "who is connected, and who is slow";
    ClientsKick = "clients:kick": "disconnect clients";
    SessionsRead = "sessions:read": "sessions and their subscriptions";
    SessionsWrite = "sessions:write": "delete sessions, add and remove their subscriptions";
    MessagesRead = "messages:read": "retained and delayed messages, payloads included";
    MessagesWrite = "messages:write": "delete retained messages, take delayed ones back";
    MessagesPublish = "messages:publish": "publish to any topic";
    BansRead = "bans:read": "who is kept out";
    BansWrite = "bans:write": "ban, and lift bans";
    TracesRead = "traces:read": "traces, which may hold payloads";
    TracesWrite = "traces:write": "start, stop and delete traces; record and fetch calls of plugins";
    CertsRead = "certs:read": "device certificates";
    CertsWrite = "certs:write": "register, activate, deactivate, delete device certificates";
    CertsRevoke = "certs:revoke": "revoke device certificates";
    CasRead = "cas:read": "CAs";
    CasWrite = "cas:write": "register CAs that prove possession of their key, change them, remove them";
    CasRevoke = "cas:revoke": "revoke CAs";
    CasUnproven = "cas:unproven": "register a CA without proof of possession of its key";
    CrlsRead = "crls:read": "revocation lists";
    CrlsWrite = "crls:write": "have revocation lists fetched again";
    ServerCertsRead = "server-certs:read": "certificates of the server (never their keys)";
    ServerCertsWrite = "server-certs:write": "add, replace, enable, remove certificates of the server";
    PluginsRead = "plugins:read": "components in the broker";
    PluginsWrite = "plugins:write": "load, swap, unload components: whoever may decides who gets in";
    AuditRead = "audit:read": "the audit log";
    AuditVerify = "audit:verify": "check the audit log's chain and proofs";
    AuditWrite = "audit:write": "policy, retention and findings of the audit log";
    ConfigRead = "config:read": "the configuration in force, listeners, transitions";
    ConfigWrite = "config:write": "reload, change listeners, end transitions";
    BridgesRead = "bridges:read": "bridges and how they are";
    BridgesWrite = "bridges:write": "start, stop, reconnect bridges";
    EventsRead = "events:read": "the stream of events";
    TokensRead = "tokens:read": "API tokens (never the secret)";
    TokensWrite = "tokens:write": "create and revoke API tokens, with no more rights than the own ones";
}

macro_rules! roles {
    ($($variant:ident = $word:literal: $meaning:literal;)+) => {
        /// A name for a set of scopes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Role {
            $($variant,)+
        }

        impl Role {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// For the reference.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }
        }
    };
}

roles! {
    Admin = "admin": "everything";
    Operator = "operator": "day-to-day work: everything but tokens, plugins, the configuration, and CAs without proof";
    Registrar = "registrar": "CAs and device certificates";
    Auditor = "auditor": "reads everything, checks the audit log, changes nothing";
    Viewer = "viewer": "sees clients, sessions, certificates and health; no payloads, no configuration, no audit log";
}

impl Role {
    pub fn has(self, scope: Scope) -> bool {
        let reads = scope.as_str().ends_with(":read");
        match self {
            Self::Admin => true,
            Self::Operator => !matches!(
                scope,
                Scope::TokensRead
                    | Scope::TokensWrite
                    | Scope::PluginsWrite
                    | Scope::ConfigWrite
                    | Scope::AuditWrite
                    | Scope::CasUnproven
            ),
            Self::Registrar => matches!(
                scope,
                Scope::StatusRead
                    | Scope::EventsRead
                    | Scope::CertsRead
                    | Scope::CertsWrite
                    | Scope::CertsRevoke
                    | Scope::CasRead
                    | Scope::CasWrite
                    | Scope::CasRevoke
                    | Scope::CrlsRead
                    | Scope::CrlsWrite
            ),
            Self::Auditor => reads || scope == Scope::AuditVerify,
            Self::Viewer => {
                reads
                    && !matches!(
                        scope,
                        Scope::MessagesRead
                            | Scope::TracesRead
                            | Scope::ConfigRead
                            | Scope::AuditRead
                            | Scope::TokensRead
                    )
            }
        }
    }
}

/// No scope or role is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} `{word}`; there are {known}")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
    known: String,
}

macro_rules! words {
    ($type:ident, $what:literal) => {
        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or_else(|| UnknownWord {
                    what: $what,
                    word: text.chars().take(64).collect(),
                    known: Self::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let words: Vec<&str> = Self::ALL.iter().map(|one| one.as_str()).collect();
                json_schema!({ "type": "string", "enum": words })
            }
        }
    };
}

words!(Scope, "scope");
words!(Role, "role");

/// What somebody may do: the scopes of the roles, and single ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    pub roles: Vec<Role>,
    pub scopes: Vec<Scope>,
}

impl Grants {
    pub fn everything() -> Self {
        Self { roles: vec![Role::Admin], scopes: Vec::new() }
    }

    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.roles.iter().any(|role| role.has(scope))
    }

    /// The first scope of `other` that these do not have.
    pub fn lacks(&self, other: &Self) -> Option<Scope> {
        Scope::ALL.iter().copied().find(|scope| other.has(*scope) && !self.has(*scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_strangers_are_refused_by_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(*scope));
        }
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(*role));
        }
        let refused = "certs:praise".parse::<Scope>().expect_err("no such scope").to_string();
        assert!(refused.contains("`certs:praise`") && refused.contains("certs:revoke"), "{refused}");
    }

    #[test]
    fn what_decides_who_gets_in_is_the_administrators() {
        for scope in [Scope::TokensWrite, Scope::PluginsWrite, Scope::ConfigWrite, Scope::CasUnproven] {
            let has: Vec<_> = Role::ALL.iter().filter(|role| role.has(scope)).collect();
            assert_eq!(has, [&Role::Admin], "{scope}");
        }
        for role in [Role::Auditor, Role::Viewer] {
            let changes = Scope::ALL.iter().filter(|scope| {
                role.has(**scope) && !scope.as_str().ends_with(":read") && **scope != Scope::AuditVerify
            });
            assert_eq!(changes.count(), 0, "{role}");
        }
        assert!(!Role::Viewer.has(Scope::TracesRead) && !Role::Viewer.has(Scope::MessagesRead));
    }

    #[test]
    fn nobody_has_more_than_was_given() {
        let registrar = Grants { roles: vec![Role::Registrar], scopes: vec![Scope::BansRead] };
        assert!(registrar.has(Scope::CertsRevoke) && registrar.has(Scope::BansRead));
        assert!(!registrar.has(Scope::BansWrite) && !Grants::default().has(Scope::StatusRead));
        assert_eq!(Grants::everything().lacks(&registrar), None);
        assert_eq!(
            registrar.lacks(&Grants { roles: vec![], scopes: vec![Scope::CasUnproven] }),
            Some(Scope::CasUnproven)
        );
    }
}
