//! Errors as `application/problem+json` (RFC 9457) with a stable `code`.

mod codes;

pub use self::codes::Code;
use crate::registry::RegistryError;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// One error for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable; for programs. The status goes with it.
    pub code: Code,
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
    pub code: Code,
    pub detail: String,
    pub target: Option<String>,
    pub written: bool,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), more: Vec::new(), note: Note::Due { target: None } }
    }

    pub fn status(&self) -> StatusCode {
        self.code.status()
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
        let status = self.status();
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "code": self.code.as_str(),
            "detail": self.detail,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        let mut response = (status, body.to_string()).into_response();
        let (target, written) = match self.note {
            Note::Due { target } => (target, false),
            Note::Written => (None, true),
        };
        response.extensions_mut().insert(Refused { code: self.code, detail: self.detail, target, written });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer realm=\"mqgate\""),
            );
        }
        response
    }
}

/// A body that is not the JSON it should be.
pub fn bad_json(rejection: &JsonRejection) -> Problem {
    let code = match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => Code::BadBody,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::MediaType,
        _ => Code::BadJson,
    };
    Problem::new(code, rejection.body_text())
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let code = match &error {
            RegistryError::NoPath(_) => Some(Code::CertificateRefused),
            error => Code::from_word(error.code()),
        };
        // A test sees to it that every word of the registry's is a code.
        let problem = Self::new(code.unwrap_or(Code::Refused), error.to_string());
        match error {
            RegistryError::NoPath(rejection) => {
                let detail = match problem.detail.contains(&rejection.detail) {
                    true => problem.detail,
                    false => format!("{}: {}", problem.detail, rejection.detail),
                };
                Self { detail, ..problem }.with("reason", rejection.reason.as_str())
            }
            _ => problem,
        }
    }
}

pub(super) async fn not_found() -> Problem {
    Problem::new(
        Code::NoSuchPath,
        "there is nothing under this path; `GET /api/v1/openapi.json` lists what there is",
    )
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path has other methods")
}
