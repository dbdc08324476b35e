//! Other material under the name of a bundle: what was there before stays valid beside it for a while.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::names;
use mqgate_identity::registry::ServerBundle;

use super::{
    BundleError, BundleInfo, BundleMaterial, Bundles, Known, blocking, finished, has, key, not_found, read,
    source,
};
use crate::admin::ADMIN_TLS;
use crate::clock;
use crate::retirement::{self, Begun, OldMaterial, Retirement, Retiring};
use crate::tls::{BoundCertificate, CertificateSource, ServerCertificate};

/// What was replaced, and stays valid as long as its transition runs.
pub(super) struct Old {
    transition: String,
    certificate: ServerCertificate,
}

impl Bundles {
    /// Other material under the same name; every listener that has it serves the new one from now on. For its grace
    /// the old one is shown to who asks for a name that only it has, or cannot use the new one's key.
    pub async fn replace(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        material: BundleMaterial,
        grace: Option<Duration>,
        actor: &str,
    ) -> Result<(BundleInfo, Option<Retiring>), BundleError> {
        let (this, key, actor) = (Arc::clone(self), key(namespace, name), actor.to_owned());
        finished(async move { this.replace_with(&key, material, grace, &actor).await }).await
    }

    async fn replace_with(
        &self,
        key: &(String, String),
        material: BundleMaterial,
        grace: Option<Duration>,
        actor: &str,
    ) -> Result<(BundleInfo, Option<Retiring>), BundleError> {
        let _writing = self.writing.lock().await;
        self.audit.check()?;
        let known = self.state().bundles.get(key).cloned().ok_or_else(|| not_found(&key.0, &key.1))?;
        let record = ServerBundle {
            chain_pem: material.chain,
            key_pem: material.key,
            password: material.password,
            revision: known.record.revision + 1,
            updated_at: clock::now(),
            ..known.record.clone()
        };
        let to_read = record.clone();
        let certificate = blocking(&self.storage, move |_| Ok(read(&to_read)?)).await?;
        let is_other =
            certificate.facts().certificate_fingerprint != known.certificate.facts().certificate_fingerprint;
        let retirement = self.retirement.get().filter(|_| is_other && known.record.enabled);
        let begun = match &retirement {
            Some(retirement) => self.begin_retirement(&**retirement, &known, grace, actor)?,
            None => None,
        };
        let old = begun
            .as_ref()
            .and_then(|begun| begun.retiring.as_ref())
            .map(|retiring| Old { transition: retiring.id.clone(), certificate: known.certificate.clone() });
        let retiring = begun.as_ref().and_then(|begun| begun.retiring.clone());
        let event = names::SERVER_CERT_REPLACED;
        let replaced = self.put(record, Some(known.record.revision), old, event, actor).await;
        if let (Some(retirement), Some(begun)) = (retirement, begun) {
            match &replaced {
                // It was served before it could not be written down.
                Ok(_) | Err(BundleError::Audit(_)) => retirement.finish(begun),
                Err(_) => retirement.take_back(begun),
            }
        }
        Ok((replaced?, retiring))
    }

    /// What listeners show is to stay valid; what nobody shows has no transition.
    fn begin_retirement(
        &self,
        retirement: &dyn Retirement,
        known: &Known,
        grace: Option<Duration>,
        actor: &str,
    ) -> Result<Option<Begun>, BundleError> {
        let (record, facts) = (&known.record, known.certificate.facts());
        let source = source(record);
        let (mut listeners, mut server_names) = (Vec::new(), Vec::new());
        // The admin API has no transitions: who speaks to it is no client, and nobody would end them there.
        for (listener, tls) in self.state().listeners.iter().filter(|(name, _)| *name != ADMIN_TLS) {
            for bound in tls.current().certificates().iter().filter(|bound| bound.source == source) {
                listeners.push(listener.clone());
                server_names.extend(bound.names.iter().cloned());
            }
        }
        for names in [&mut listeners, &mut server_names] {
            names.sort();
            names.dedup();
        }
        if listeners.is_empty() {
            return Ok(None);
        }
        let old = retirement::Old {
            what: OldMaterial::Server {
                key: &record.key_pem,
                password: record.password.as_deref(),
                server_names: &server_names,
            },
            name: &source.to_string(),
            fingerprint: facts.certificate_fingerprint,
            subject: &facts.subject.display,
            not_after: facts.not_after,
            pem: &record.chain_pem,
            listeners: &listeners,
        };
        Ok(Some(retirement.begin(&old, grace, actor)?))
    }

    /// The same; `old` is shown beside what comes of it.
    pub(super) fn apply_beside(
        &self,
        source: &CertificateSource,
        old: Option<&Old>,
        change: impl Fn(&mut BoundCertificate),
    ) -> Result<(), BundleError> {
        let listeners = self.state().listeners.clone();
        for (name, tls) in listeners {
            if !has(&tls, source) {
                continue;
            }
            let before = tls.update(|set| {
                let mut next = set.certificates().changed(source, &change);
                let place = set.certificates().iter().find(|bound| bound.source == *source);
                if let (Some(old), Some(place)) = (old.filter(|_| name != ADMIN_TLS), place) {
                    let source = CertificateSource::Retired { transition: old.transition.clone() };
                    let retired = BoundCertificate::new(source, old.certificate.clone());
                    next = next.with(BoundCertificate { names: place.names.clone(), ..retired });
                }
                set.with_certificates(next)
            })?;
            self.metrics.note_certificates(&name, Some(before.certificates()), tls.current().certificates());
        }
        Ok(())
    }
}
