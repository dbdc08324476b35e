//! What a change of a bundle would come to, without making it.

use std::sync::Arc;

use mqgate_identity::registry::ServerBundle;

use super::{
    BundleError, BundleInfo, BundleMaterial, Bundles, Known, blocking, check_name, info, key, not_found,
    read, source,
};
use crate::clock;
use crate::tls::CertificateSource;

impl Bundles {
    /// A new bundle of this material.
    pub async fn try_add(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        material: BundleMaterial,
    ) -> Result<BundleInfo, BundleError> {
        check_name(namespace)?;
        check_name(name)?;
        if self.state().bundles.contains_key(&key(namespace, name)) {
            return Err(BundleError::Exists { namespace: namespace.to_owned(), name: name.to_owned() });
        }
        self.check_limit(1 + self.files_in_use())?;
        let now = clock::now();
        self.read_whole(ServerBundle {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            enabled: true,
            created_at: now,
            updated_at: now,
            revision: 1,
            chain_pem: material.chain,
            key_pem: material.key,
            password: material.password,
        })
        .await
    }

    /// Other material under a name.
    pub async fn try_replace(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        material: BundleMaterial,
    ) -> Result<BundleInfo, BundleError> {
        let known = self.state().bundles.get(&key(namespace, name)).cloned();
        let record = known.ok_or_else(|| not_found(namespace, name))?.record;
        self.read_whole(ServerBundle {
            chain_pem: material.chain,
            key_pem: material.key,
            password: material.password,
            revision: record.revision + 1,
            ..record
        })
        .await
    }

    async fn read_whole(&self, record: ServerBundle) -> Result<BundleInfo, BundleError> {
        let known = blocking(&self.storage, move |_| {
            let certificate = read(&record)?;
            Ok::<_, BundleError>(Known { record, certificate })
        })
        .await?;
        Ok(info(&self.state(), &known))
    }

    /// Whether nothing would be left without a certificate.
    pub fn try_disable(&self, namespace: &str, name: &str) -> Result<(), BundleError> {
        let known = self.state().bundles.get(&key(namespace, name)).cloned();
        self.check_not_last(&source(&known.ok_or_else(|| not_found(namespace, name))?.record))
    }

    pub fn try_disable_builtin(&self) -> Result<(), BundleError> {
        self.builtin()?;
        self.check_not_last(&CertificateSource::Builtin)
    }
}
