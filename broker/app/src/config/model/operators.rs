//! Keys of operators who are known by their certificate.

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_server::admin::{Grants, Operator, OperatorCertificate, Role, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An operator whose certificate has rights of its own: whoever shows it needs no token. It has to be one that a CA of
/// `admin.tls.cacertfile` vouches for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminOperator {
    /// As the audit log names it.
    pub name: String,
    /// SHA-256 of the certificate; or `subject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The certificate's whole subject as `mqgate pki inspect` prints it, for example `"CN=alice,O=Operators"`; or
    /// `fingerprint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `admin`, `operator`, `registrar`, `auditor` or `viewer`: docs/api.md says what each may do.
    #[schemars(with = "Vec<String>")]
    pub roles: Vec<Role>,
    /// Single rights besides, for example `"certs:revoke"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub scopes: Vec<Scope>,
}

impl AdminOperator {
    /// What the admin API goes by; or the key that is wrong, and what is wrong with it.
    pub fn checked(&self) -> Result<Operator, (&'static str, String)> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(plain) {
            let what = "a name of 1 to 64 letters, digits, `-`, `_`, `.`, `@` is needed for the audit log";
            return Err(("name", what.to_owned()));
        }
        if self.roles.is_empty() && self.scopes.is_empty() {
            return Err(("roles", String::from("without a role or a scope the operator may do nothing")));
        }
        let whose = match (&self.fingerprint, &self.subject) {
            (Some(text), None) => OperatorCertificate::Fingerprint(
                CertificateFingerprint::from_hex(text)
                    .ok_or_else(|| ("fingerprint", String::from("a SHA-256 has 64 hex digits")))?,
            ),
            (None, Some(subject)) if !subject.is_empty() => OperatorCertificate::Subject(subject.clone()),
            _ => {
                return Err(("fingerprint", String::from("give `fingerprint` or `subject`, one of the two")));
            }
        };
        let grants = Grants { roles: self.roles.clone(), scopes: self.scopes.clone() };
        Ok(Operator { name: self.name.clone(), whose, grants })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_has_one_certificate_and_something_to_do() {
        let good = AdminOperator {
            name: "alice".into(),
            subject: Some("CN=alice".into()),
            roles: vec![Role::Viewer],
            ..AdminOperator::default()
        };
        assert!(good.checked().is_ok());
        let fingerprint = Some("ab".repeat(32));
        for (wrong, key) in [
            (AdminOperator { name: "a b".into(), ..good.clone() }, "name"),
            (AdminOperator { roles: vec![], ..good.clone() }, "roles"),
            (AdminOperator { subject: None, ..good.clone() }, "fingerprint"),
            (AdminOperator { subject: Some(String::new()), ..good.clone() }, "fingerprint"),
            (AdminOperator { fingerprint, ..good.clone() }, "fingerprint"),
            (AdminOperator { subject: None, fingerprint: Some("ab".into()), ..good }, "fingerprint"),
        ] {
            assert_eq!(wrong.checked().unwrap_err().0, key, "{wrong:?}");
        }
    }
}
