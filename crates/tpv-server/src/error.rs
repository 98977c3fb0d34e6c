//! Refusals in the shape that OpenAI's clients understand: status, type, code, and the field that is wrong.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tpv_core::text::shortened;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// One sentence for people.
    pub message: String,
    /// The field that is wrong.
    pub field: Option<String>,
    /// A word for programs.
    pub code: &'static str,
    /// Seconds after which another try makes sense.
    pub retry_after_secs: Option<u64>,
}

impl ApiError {
    /// A refusal with this status.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), field: None, code, retry_after_secs: None }
    }

    /// A field whose value cannot be used: 400.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(400, "invalid_value", message) }
    }

    /// A model that is not here: 404.
    pub fn no_such_model(asked: &str, here: &str) -> Self {
        let message = format!("the model \"{}\" is not served here; this is \"{here}\"", shortened(asked));
        Self { field: Some("model".into()), ..Self::new(404, "model_not_found", message) }
    }

    /// An answer that is not under way: 404.
    pub fn no_such_answer(id: &str) -> Self {
        let message = format!("no answer {} is under way", shortened(id));
        Self { field: Some("id".into()), ..Self::new(404, "not_found", message) }
    }

    /// No room now: 503 and when to come back.
    pub fn busy(code: &'static str, message: impl Into<String>) -> Self {
        Self { retry_after_secs: Some(1), ..Self::new(503, code, message) }
    }

    /// No new work, and what is under way was given up: 503.
    pub fn stopping() -> Self {
        Self::busy("stopping", "the server is stopping")
    }

    /// This client has enough requests under way: 429.
    pub fn too_many(limit: usize) -> Self {
        let message = format!("{limit} samples of this client are under way already; wait for one to end");
        Self { retry_after_secs: Some(1), ..Self::new(429, "rate_limit_exceeded", message) }
    }

    /// Something broke on this side: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "internal_error", message)
    }

    /// The body: OpenAI's `{"error": {message, type, param, code}}`.
    pub fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind(), "param": self.field, "code": self.code } })
    }

    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.status).expect("every status here is written as a number of three digits");
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
