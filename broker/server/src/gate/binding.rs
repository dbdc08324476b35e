//! Which client id a certificate is bound to, and what becomes of a client that asks for another.

use bytestring::ByteString;
use mqgate_identity::certificate::ClientCertificate;
use mqgate_identity::hooks::{Connection, Registration, Value};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{DeviceCertificate, EventKind, alternative_names, common_name, is_bindable};

use super::Terms;
use super::facts;
use super::judge::{Asked, No};

/// Where the client id of a new certificate is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BindClientId {
    /// It is bound to none.
    #[default]
    None,
    /// The last common name of its subject.
    CommonName,
    /// Its first alternative name that is a DNS name, a URI or an e-mail address.
    AlternativeName,
    /// The one that it comes with; a new one if it comes with none.
    FirstConnect,
}

/// What becomes of a client that asks for another client id than its certificate is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnClientIdMismatch {
    #[default]
    Reject,
    /// It is let in under the one that is bound, and told so.
    Override,
}

/// A registrar's attribute of this name is the client id that the certificate is bound to.
const ATTRIBUTE: &str = "client-id";

/// The client id that a new certificate is bound to, or why there is none although there should be.
pub(super) fn at_registration(
    mode: BindClientId,
    certificate: &ClientCertificate,
    asked: &str,
    registration: &mut Registration,
) -> Result<Option<String>, String> {
    if let Some(at) = registration.attributes.iter().position(|attribute| attribute.name == ATTRIBUTE) {
        return match registration.attributes.remove(at).value {
            Value::Text(text) => usable(text, "the registrar's attribute `client-id`").map(Some),
            _ => Err("the registrar's attribute `client-id` is not a text".to_owned()),
        };
    }
    match mode {
        BindClientId::None => Ok(None),
        BindClientId::CommonName => {
            let name = common_name(&certificate.leaf).ok_or("the certificate has no common name")?;
            usable(name, "the common name").map(Some)
        }
        BindClientId::AlternativeName => {
            let names = alternative_names(&certificate.leaf);
            let name = names.iter().find_map(|name| {
                ["dns:", "uri:", "email:"].into_iter().find_map(|kind| name.strip_prefix(kind))
            });
            let name = name.ok_or("the certificate has no alternative name that could be a client id")?;
            usable(name.to_owned(), "the alternative name").map(Some)
        }
        BindClientId::FirstConnect if asked.is_empty() => Ok(Some(drawn())),
        BindClientId::FirstConnect => usable(asked.to_owned(), "the client id").map(Some),
    }
}

fn usable(text: String, what: &str) -> Result<String, String> {
    if is_bindable(&text) { Ok(text) } else { Err(format!("{what} cannot be a client id")) }
}

/// A client id for one who sent none.
pub(super) fn drawn() -> String {
    format!("mqgate-{}", facts::random_hex())
}

/// Whether a certificate bound to `bound` may be used by a client that asks for `asked`.
pub(super) fn check(bound: &str, asked: &str, on_mismatch: OnClientIdMismatch) -> Result<(), No> {
    if asked == bound || asked.is_empty() || on_mismatch == OnClientIdMismatch::Override {
        return Ok(());
    }
    let mut no =
        No::because(Reason::ClientIdMismatch).detail(format!("the certificate is bound to {bound:?}"));
    no.finding = Some(EventKind::CertBindingViolation);
    Err(no)
}

/// The client id that is asked for is bound to a certificate of another device.
pub(super) fn is_anothers(client_id: &str, owner: &DeviceCertificate) -> No {
    let detail =
        format!("the client id {client_id:?} is bound to certificate {} of another device", owner.id);
    let mut no = No::because(Reason::ClientIdMismatch).detail(detail);
    no.finding = Some(EventKind::CertIdentityConflict);
    no
}

/// A certificate bound to a client id may use no other.
pub(super) fn check_record(
    record: &DeviceCertificate,
    on: &Connection,
    asked: &Asked<'_>,
    on_mismatch: OnClientIdMismatch,
) -> Result<(), No> {
    let Some(bound) = record.client_id.as_deref() else { return Ok(()) };
    let checked = match asked {
        Asked::New { .. } => check(bound, &on.connect.client_id, on_mismatch),
        // It has a session under this one: a binding that was made since bars it.
        Asked::Again { current, .. } if &*current.client_id == bound => Ok(()),
        Asked::Again { current, .. } => check(bound, &current.client_id, OnClientIdMismatch::Reject),
    };
    checked.map_err(|no| no.about(&record.device_id))
}

/// As bound; else as sent; else as the authorizer says; else drawn. And whether a client that sent none is to be told.
pub(super) fn client_id(
    on: &Connection,
    record: Option<&DeviceCertificate>,
    terms: &Terms,
    asked: &Asked<'_>,
) -> (ByteString, bool) {
    if let Asked::Again { current, .. } = asked {
        return (current.client_id.clone(), current.assigned);
    }
    let sent = &on.connect.client_id;
    if let Some(bound) = record.and_then(|record| record.client_id.as_deref()).filter(|id| !id.is_empty()) {
        return (bound.into(), sent.is_empty());
    }
    if !sent.is_empty() {
        return (sent.as_str().into(), false);
    }
    match terms.assigned_client_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => (id.into(), true),
        None => (drawn().into(), true),
    }
}
