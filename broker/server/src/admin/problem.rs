//! Errors as `application/problem+json` (RFC 9457) with a stable `code`.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mqgate_identity::registry::StorageError;
use mqgate_identity::registry::rules::RuleError;

use crate::registry::RegistryError;
use crate::retirement::RetirementError;
use crate::trust::TrustError;

/// One error for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable; for programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// Further members, by name.
    pub more: Vec<(&'static str, serde_json::Value)>,
    note: Note,
}

/// What the audit log needs to know of a problem; travels beside the response.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    /// To be written down. With what was to be changed, where the path does not say it.
    Due { target: Option<String> },
    /// Its own record was written.
    Written,
}

/// A problem on its way out, for who writes refusals down.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub code: &'static str,
    pub detail: String,
    pub target: Option<String>,
    pub written: bool,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), more: Vec::new(), note: Note::Due { target: None } }
    }

    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.more.push((name, value.into()));
        self
    }

    /// What was to be changed, for the audit log.
    #[must_use]
    pub fn about(mut self, target: impl Into<String>) -> Self {
        self.note = Note::Due { target: Some(target.into()) };
        self
    }

    /// The audit log has a record that says more than this.
    #[must_use]
    pub fn written_down(mut self) -> Self {
        self.note = Note::Written;
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        let mut response = (self.status, body.to_string()).into_response();
        let (target, written) = match self.note {
            Note::Due { target } => (target, false),
            Note::Written => (None, true),
        };
        response.extensions_mut().insert(Refused { code: self.code, detail: self.detail, target, written });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer realm=\"mqgate\""),
            );
        }
        response
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let (status, code) = match &error {
            RegistryError::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            RegistryError::Rule(rule) => rule_code(rule),
            RegistryError::Certificate(_) | RegistryError::Pem(_) => {
                (StatusCode::BAD_REQUEST, "bad_certificate")
            }
            RegistryError::NoPath(rejection) => (StatusCode::UNPROCESSABLE_ENTITY, rejection.reason.as_str()),
            RegistryError::Trust(TrustError::NameTaken(_)) => (StatusCode::CONFLICT, "name_taken"),
            RegistryError::Trust(TrustError::TooMany { .. }) => (StatusCode::CONFLICT, "too_many_cas"),
            RegistryError::Trust(TrustError::Anchor(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_ca"),
            RegistryError::Retiring => (StatusCode::CONFLICT, "ca_in_transition"),
            RegistryError::SameCa => (StatusCode::CONFLICT, "same_ca"),
            RegistryError::Retirement(RetirementError::TooMany(_)) => {
                (StatusCode::CONFLICT, "too_many_transitions")
            }
            RegistryError::Retirement(RetirementError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "transitions_unavailable")
            }
            RegistryError::Configured => (StatusCode::CONFLICT, "ca_configured"),
            RegistryError::DeviceExists(_) => (StatusCode::CONFLICT, "device_exists"),
            RegistryError::TooManyActive { .. } => (StatusCode::CONFLICT, "too_many_active_certificates"),
            RegistryError::Storage(StorageError::Unavailable(_) | StorageError::Corrupt(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, error.code())
            }
            RegistryError::Storage(StorageError::BadCursor) => (StatusCode::BAD_REQUEST, error.code()),
            RegistryError::Storage(_) => (StatusCode::CONFLICT, error.code()),
            RegistryError::Audit(_) => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
        };
        let mut problem = Self::new(status, code, error.to_string());
        if let RegistryError::NoPath(rejection) = &error
            && !problem.detail.contains(&rejection.detail)
        {
            problem.detail = format!("{}: {}", problem.detail, rejection.detail);
        }
        problem
    }
}

fn rule_code(rule: &RuleError) -> (StatusCode, &'static str) {
    let status = match rule.is_bad_input() {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::CONFLICT,
    };
    (status, rule.code())
}

pub(super) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing under this path")
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has other methods")
}
