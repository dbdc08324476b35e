//! Certificates of servers: chain and private key, as they are stored.

use serde::{Deserialize, Serialize};

use crate::time::UnixMillis;

/// A server's certificate chain and private key, kept under a name in a namespace.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerBundle {
    pub namespace: String,
    pub name: String,
    /// A bundle that is not enabled keeps its places in listeners and is served by none.
    pub enabled: bool,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub revision: u64,
    /// The server's own certificate, then its issuers'.
    pub chain_pem: String,
    pub key_pem: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Without the secrets.
impl std::fmt::Debug for ServerBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBundle")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("enabled", &self.enabled)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
