//! Whether a certificate is an X.509-SVID: the rules of the X.509-SVID specification for leaf certificates, sections 2 to 5.
//! That its chain leads to a trust anchor, and when it expires, is the broker's business.

use mqgate_plugin_sdk::certificate::{Field, anchor};
use mqgate_plugin_sdk::types::{Certificate, Connection, GeneralName, KeyUsage, TrustAnchor};

use crate::id::{SpiffeId, is_claimed};

pub struct Svid<'c> {
    pub id: SpiffeId<'c>,
    /// The SPIFFE ID as it stands in the certificate.
    pub uri: &'c str,
    pub anchor: &'c TrustAnchor,
}

impl<'c> Svid<'c> {
    /// `None` where there is no certificate that a trust anchor vouches for, or none that claims to be one.
    pub fn of(on: &'c Connection) -> Result<Option<Self>, String> {
        let Some(certificate) = &on.certificate else { return Ok(None) };
        let Some(anchor) = anchor(certificate) else { return Ok(None) };
        // A name that did not decode may be the second URI that the first hides.
        Field::SanUri.values(certificate).map_err(|error| error.to_string())?;
        let leaf = &certificate.leaf;
        let uris: Vec<&'c str> = leaf
            .subject_alt_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::Uri(uri) => Some(uri.as_str()),
                _ => None,
            })
            .collect();
        if !uris.iter().any(|uri| is_claimed(uri)) {
            return Ok(None);
        }
        // Section 2: exactly one URI, whatever the others are.
        let [uri] = uris[..] else {
            return Err(format!("an X.509-SVID has one URI; this certificate has {}", uris.len()));
        };
        // Printed shortened: the audit record has room for less than a long one takes.
        let id = SpiffeId::parse(uri)
            .map_err(|why| format!("the URI {:?} {why}", uri.chars().take(256).collect::<String>()))?;
        is_leaf(leaf)?;
        // Section 2: the ID of a leaf has a path; one without belongs to a trust domain's authority.
        if id.segments().next().is_none() {
            return Err(format!("{uri} is a trust domain and no workload: it has no path"));
        }
        Ok(Some(Self { id, uri, anchor }))
    }
}

/// Section 5.2: what signs certificates is no leaf.
fn is_leaf(certificate: &Certificate) -> Result<(), String> {
    if certificate.is_ca {
        return Err("the certificate is that of a CA".into());
    }
    let usage = certificate.key_usage.unwrap_or(KeyUsage::DIGITAL_SIGNATURE);
    for (bit, name) in [(KeyUsage::KEY_CERT_SIGN, "keyCertSign"), (KeyUsage::CRL_SIGN, "cRLSign")] {
        if usage.contains(bit) {
            return Err(format!("the key of the certificate is for {name}"));
        }
    }
    // Section 4.3.
    if !usage.contains(KeyUsage::DIGITAL_SIGNATURE) {
        return Err("the key of the certificate is not for digitalSignature".into());
    }
    Ok(())
}
