//! Which device a certificate belongs to, and whether this session may be opened in its name.

use std::borrow::Cow;

use mqgate_plugin_sdk::certificate::Field;
use mqgate_plugin_sdk::select::{Source, SourceError};
use mqgate_plugin_sdk::template::{ExpandError, plain};
use mqgate_plugin_sdk::types::{ClientCertificate, ConnackReason, Connection, Denial, Identity};

use crate::config::Config;

/// Bytes of the longest client id that a broker assigns.
const LONGEST_CLIENT_ID: usize = 256;

/// Which client ids a device may use.
#[derive(Debug)]
pub enum ClientId {
    Any,
    EqualsDeviceId,
    /// The device id, or the device id, the separator and anything.
    StartsWithDeviceId {
        separator: String,
    },
}

impl Config {
    /// The device of `certificate`: the first source that has a value decides, usable or not.
    pub fn identity(&self, certificate: &ClientCertificate) -> Result<Identity, Denial> {
        let refused = |error: SourceError| refuse(error.to_string());
        let device_id = Source::first(&self.device_id, certificate).map_err(refused)?;
        let mut identity = Identity::new(device_id.ok_or_else(|| refuse("the certificate names no device"))?);
        if let Some(tenant) = &self.tenant {
            let tenant = tenant.value(certificate).map_err(refused)?;
            identity.tenant = Some(tenant.ok_or_else(|| refuse("the certificate names no tenant"))?);
        }
        Ok(identity)
    }

    /// Client id and user name must fit the device.
    pub fn check_session(&self, on: &Connection, device_id: &str) -> Result<(), Denial> {
        plain(device_id).map_err(|why| refuse(format!("the device id {why}")))?;
        self.check_client_id(&on.connect.client_id, device_id)?;
        self.check_room(on, device_id)?;
        self.check_user_name(on, device_id)
    }

    /// A client id to be assigned must not be too long for the broker. A shortened one could be another device's.
    fn check_room(&self, on: &Connection, device_id: &str) -> Result<(), Denial> {
        match self.assigned_client_id(on, device_id) {
            Some(assigned) if assigned.len() > LONGEST_CLIENT_ID => Err(Denial::new(
                ConnackReason::ClientIdentifierNotValid,
                format!(
                    "the client sent no client id, and the device id of {} bytes leaves no room for an assigned one",
                    device_id.len()
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// The client id for a client that sent none. One that sent its own gets none: what is not used must not be too long either.
    pub fn assigned_client_id(&self, on: &Connection, device_id: &str) -> Option<String> {
        if !on.connect.client_id.is_empty() {
            return None;
        }
        match &self.client_id {
            ClientId::Any => None,
            ClientId::EqualsDeviceId => Some(device_id.to_owned()),
            ClientId::StartsWithDeviceId { separator } => {
                Some(format!("{device_id}{separator}{}", on.trace_id))
            }
        }
    }

    fn check_client_id(&self, client_id: &str, device_id: &str) -> Result<(), Denial> {
        let fits = match &self.client_id {
            ClientId::Any => true,
            ClientId::EqualsDeviceId => client_id == device_id,
            ClientId::StartsWithDeviceId { separator } => {
                // Otherwise `a` could take the sessions of the device `a:b`.
                if device_id.contains(separator.as_str()) {
                    return Err(refuse(format!("the device id holds the separator {separator:?}")));
                }
                let rest = client_id.strip_prefix(device_id);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(separator.as_str()))
            }
        };
        if fits || client_id.is_empty() {
            return Ok(());
        }
        let detail = format!("client id {client_id:?} does not belong to device {device_id:?}");
        Err(Denial::new(ConnackReason::ClientIdentifierNotValid, detail))
    }

    fn check_user_name(&self, on: &Connection, device_id: &str) -> Result<(), Denial> {
        let Some(template) = &self.user_name else { return Ok(()) };
        let expected = template.expand(|name| {
            Ok(match name {
                "device-id" => Some(Cow::Borrowed(device_id)),
                "client-id" => {
                    Some(on.connect.client_id.as_str().into()).filter(|id: &Cow<'_, str>| !id.is_empty())
                }
                name => field_of(on, name)?,
            })
        });
        let expected = expected.map_err(|refusal: Refusal| refusal.0)?;
        if on.connect.user_name.as_deref() == Some(expected.as_str()) {
            return Ok(());
        }
        let detail = format!("the user name of device {device_id:?} is not {expected:?}");
        Err(Denial::new(ConnackReason::BadUserNameOrPassword, detail))
    }
}

/// The one value of the certificate field `name`.
pub fn field_of<'c>(on: &'c Connection, name: &str) -> Result<Option<Cow<'c, str>>, Refusal> {
    match (Field::parse(name), &on.certificate) {
        (Some(field), Some(certificate)) => {
            field.single(certificate).map_err(|error| Refusal(refuse(error.to_string())))
        }
        (None, _) | (_, None) => Ok(None),
    }
}

/// A refusal on the way through a template.
pub struct Refusal(pub Denial);

impl From<ExpandError> for Refusal {
    fn from(error: ExpandError) -> Self {
        Self(refuse(error.to_string()))
    }
}

pub fn refuse(detail: impl Into<String>) -> Denial {
    Denial::new(ConnackReason::NotAuthorized, detail)
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;
    use mqgate_plugin_sdk::types::NameAttribute;

    use super::*;

    fn config(json: &str) -> Config {
        Config::read(&testing::context(json)).ok().unwrap()
    }

    fn device(config: &str, certificate: &ClientCertificate) -> Result<String, String> {
        let identity = self::config(config).identity(certificate);
        identity.map(|identity| identity.device_id).map_err(|denial| denial.audit_detail.unwrap())
    }

    #[test]
    fn a_hostile_name_is_no_device() {
        for hostile in ["#", "+", "a/b", "", "a\0b", "$SYS", "${client-id}", "a\nb", "device/+/x"] {
            let refused = device("{}", &testing::certificate(&[("cn", hostile)]));
            assert!(refused.is_err(), "{hostile:?} became {refused:?}");
        }
        assert!(device("{}", &testing::certificate(&[])).is_err());
        let two = testing::certificate(&[("cn", "device-1"), ("cn", "device-2")]);
        assert_eq!(device("{}", &two).unwrap_err(), "the certificate has 2 values for cn");
        let mut opaque = testing::certificate(&[("cn", "device-1")]);
        opaque.leaf.subject.attributes.push(NameAttribute {
            oid: "2.5.4.3".into(),
            text: None,
            raw: vec![0xff],
        });
        assert_eq!(device("{}", &opaque).unwrap_err(), "cn of the certificate is not plain text");
    }

    #[test]
    fn a_tenant_that_was_asked_for_must_be_there() {
        let config = config(r#"{"tenant": "o"}"#);
        let named = config.identity(&testing::certificate(&[("cn", "d"), ("o", "acme")])).unwrap();
        assert_eq!(named.tenant.as_deref(), Some("acme"));
        assert!(config.identity(&testing::certificate(&[("cn", "d")])).is_err());
        assert!(config.identity(&testing::certificate(&[("cn", "d"), ("o", "a/+")])).is_err());
    }

    #[test]
    fn client_ids_follow_the_rule() {
        let check = |config: &str, client_id: &str, device: &str| {
            self::config(config).check_client_id(client_id, device).map_err(|denial| denial.reason)
        };
        let invalid = Err(ConnackReason::ClientIdentifierNotValid);
        assert_eq!(check("{}", "whatever", "a"), Ok(()));

        const EQUAL: &str = r#"{"client-id": "equals-device-id"}"#;
        assert_eq!(check(EQUAL, "a", "a"), Ok(()));
        assert_eq!(check(EQUAL, "", "a"), Ok(()));
        assert_eq!(check(EQUAL, "ab", "a"), invalid);

        const PREFIX: &str = r#"{"client-id": "starts-with-device-id"}"#;
        assert_eq!(check(PREFIX, "a", "a"), Ok(()));
        assert_eq!(check(PREFIX, "a:1", "a"), Ok(()));
        assert_eq!(check(PREFIX, "ab", "a"), invalid);
        assert_eq!(check(PREFIX, "b:a", "a"), invalid);
        assert_eq!(check(PREFIX, "a:b:1", "a:b"), Err(ConnackReason::NotAuthorized));
    }

    #[test]
    fn an_empty_client_id_is_replaced_by_one_that_fits() {
        let mut on = testing::connection(None);
        on.connect.client_id.clear();
        let assigned = |json: &str| config(json).assigned_client_id(&on, "a");
        assert_eq!(assigned("{}"), None);
        assert_eq!(assigned(r#"{"client-id": "equals-device-id"}"#).unwrap(), "a");
        let prefixed = assigned(r#"{"client-id": "starts-with-device-id"}"#).unwrap();
        assert_eq!(prefixed, "a:0123456789abcdef0123456789abcdef");
        on.connect.client_id = "a".into();
        assert_eq!(config(r#"{"client-id": "starts-with-device-id"}"#).assigned_client_id(&on, "a"), None);
    }

    #[test]
    fn a_device_id_that_leaves_no_room_for_an_assigned_client_id_is_refused() {
        const PREFIX: &str = r#"{"client-id": "starts-with-device-id"}"#;
        let check = |config: &str, client_id: &str, length: usize| {
            let mut on = testing::connection(None);
            on.connect.client_id = client_id.into();
            let checked = self::config(config).check_session(&on, &"d".repeat(length));
            checked.map_err(|denial| (denial.reason, denial.audit_detail.unwrap()))
        };
        assert_eq!(check(PREFIX, "", 223), Ok(()));
        let (reason, detail) = check(PREFIX, "", 224).unwrap_err();
        assert_eq!(reason, ConnackReason::ClientIdentifierNotValid);
        assert!(detail.contains("the device id of 224 bytes leaves no room"), "{detail}");
        // One that it sends itself has room, and so has one that is the device id alone.
        assert_eq!(check(PREFIX, &"d".repeat(256), 256), Ok(()));
        assert_eq!(check(r#"{"client-id": "equals-device-id"}"#, "", 256), Ok(()));
        assert_eq!(check("{}", "", 256), Ok(()));
    }

    #[test]
    fn a_required_user_name_must_be_exactly_that() {
        let config = config(r#"{"require-username-matches": "${device-id}@${o}"}"#);
        let mut on = testing::connection(Some(testing::certificate(&[("cn", "d"), ("o", "acme")])));
        let check = |on: &Connection| config.check_session(on, "d").map_err(|denial| denial.reason);
        assert_eq!(check(&on), Err(ConnackReason::BadUserNameOrPassword));
        on.connect.user_name = Some("d@acme".into());
        assert_eq!(check(&on), Ok(()));
        on.connect.user_name = Some("d@acme2".into());
        assert_eq!(check(&on), Err(ConnackReason::BadUserNameOrPassword));
        // No value to compare with: nobody matches.
        on.certificate = Some(testing::certificate(&[("cn", "d")]));
        assert_eq!(check(&on), Err(ConnackReason::NotAuthorized));
    }
}
