//! Errors as clients see them: a status and the OpenAI API's error object.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ferrum_engine::AdmissionError;
use serde_json::{Value, json};

/// A request that is not answered as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// A word for programs, such as `context_length_exceeded`.
    pub code: Option<&'static str>,
    /// The field of the request that is at fault.
    pub param: Option<String>,
    /// What is wrong, for people.
    pub message: String,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u64>,
}

/// The result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error of this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        ApiError { status, code: None, param: None, message, retry_after: None }
    }

    /// 400: the request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: the field `param` makes no sense.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError { param: Some(param.into()), ..ApiError::invalid(message) }
    }

    /// 400: the field `param` asks for what Ferrum does not do.
    pub fn unsupported(param: impl Into<String>, what: &str) -> Self {
        let param = param.into();
        let message = format!("{param}: {what} is not supported");
        ApiError { code: Some("unsupported_value"), ..ApiError::field(param, message) }
    }

    /// 429: no place is free.
    pub fn busy(message: impl Into<String>, retry_after: u64) -> Self {
        ApiError {
            code: Some("rate_limit_exceeded"),
            retry_after: Some(retry_after),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// 503: the server is about to stop, or its engine did.
    pub fn unavailable(message: impl Into<String>) -> Self {
        ApiError { retry_after: Some(5), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// 500: it went wrong on this side.
    pub fn internal(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The kind of error, in the words of the OpenAI API.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        json!({
            "error": {
                "message": self.message,
                "type": self.kind(),
                "param": self.param,
                "code": self.code,
            }
        })
    }

    /// The body of the answer in Anthropic's API.
    pub fn to_anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            413 => "request_too_large",
            500 => "api_error",
            503 => "overloaded_error",
            _ => self.kind(),
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }
}

impl From<AdmissionError> for ApiError {
    fn from(error: AdmissionError) -> Self {
        let mut out = ApiError::invalid(error.to_string());
        match error {
            AdmissionError::Context { .. } | AdmissionError::Cache { .. } => {
                out.code = Some("context_length_exceeded");
            }
            AdmissionError::EmptyPrompt | AdmissionError::Vocabulary { .. } => {
                out.param = Some("prompt".into());
            }
            AdmissionError::NoTokens => out.param = Some("max_tokens".into()),
            AdmissionError::Sampling(error) => out.param = Some(error.field.into()),
            AdmissionError::Logprobs { .. } => out.param = Some("logprobs".into()),
            // They are set here for this model, so this is no mistake of the client.
            AdmissionError::Adapter { .. }
            | AdmissionError::Constraint { .. }
            | AdmissionError::Reasoning => out.status = StatusCode::INTERNAL_SERVER_ERROR,
            AdmissionError::EmptyStopString => out.param = Some("stop".into()),
        }
        out
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(self.to_json());
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // Browsers then ask for the key, which is how the page at `/` gets it.
            let realm = HeaderValue::from_static("Basic realm=\"ferrum: the password is the key\"");
            headers.insert(header::WWW_AUTHENTICATE, realm);
        }
        // For the layers that write the error in another API's words.
        response.extensions_mut().insert(self);
        response
    }
}
