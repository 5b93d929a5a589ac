//! Request bodies: JSON into types, with nothing overlooked.
//!
//! A field that nobody reads could change the answer that the client expects, so it is an error
//! that names it, unless it is known to be harmless or is `null`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;

use crate::App;
use crate::auth::Tenant;
use crate::budget::{Budget, Room};
use crate::error::{ApiError, ApiResult};

/// Fields about bookkeeping, which no answer depends on.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "cache_prompt",
];

/// Fields that ask for more output, which does not come: only `false` is harmless.
const ONLY_FALSE: [&str; 2] = ["timings_per_token", "return_progress"];

/// Objects, lists and fields of a body, at most. In memory each takes many times its bytes.
const MAX_NODES: usize = 100_000;

/// Commas of a body, at most: more than any context has tokens.
const MAX_COMMAS: usize = 2_000_000;

/// Time for the rest of a body that is too large.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of a body that every connection may have besides what all of them share: so that large
/// bodies do not keep small ones out.
const SMALL: usize = 16 << 10;

/// The bytes of a JSON request.
#[derive(Default)]
pub struct JsonBody {
    bytes: Bytes,
    /// Its share of what all bodies may take, or all requests that wait for their models.
    room: Option<Room>,
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        let limits = &app.limits;
        let (parts, body) = request.into_parts();
        let tenant = parts.extensions.get::<Tenant>();
        let tenant = tenant.ok_or_else(|| ApiError::internal("nobody knows who asks"))?;
        let media = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if !media.is_some_and(is_json) {
            let message = format!(
                "the body must be JSON with the header Content-Type: application/json, not {}",
                media.unwrap_or("one without a type")
            );
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let reading = read(body, limits.body_bytes, &app.bodies, tenant);
        match tokio::time::timeout(limits.body_timeout, reading).await {
            Ok(body) => {
                let body = body?;
                check_size(&body.bytes)?;
                Ok(body)
            }
            Err(_) => {
                let message = "the body did not come in time";
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
            }
        }
    }
}

/// `application/json`, with or without parameters. Browsers send other types to other sites
/// without asking first, which is why only this one is accepted.
fn is_json(media: &str) -> bool {
    let essence = media.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Fails where the JSON has so many parts that its values would take far more memory than its text.
/// What is not JSON passes or fails; the parser says so later.
fn check_size(bytes: &[u8]) -> ApiResult<()> {
    let (mut nodes, mut commas) = (0, 0);
    let (mut within_string, mut escaped) = (false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = within_string,
            b'"' => within_string = !within_string,
            _ if within_string => {}
            b'{' | b'[' | b':' => nodes += 1,
            b',' => commas += 1,
            _ => {}
        }
    }
    if nodes > MAX_NODES {
        let message = format!("the body has more than {MAX_NODES} objects, lists and fields");
        return Err(ApiError::invalid(message));
    }
    if commas > MAX_COMMAS {
        return Err(ApiError::invalid(format!("the body has more than {MAX_COMMAS} values")));
    }
    Ok(())
}

/// Reads a body of up to `limit` bytes, with room in `all` for those beyond the first few.
async fn read(mut body: Body, limit: usize, all: &Budget, tenant: &Tenant) -> ApiResult<JsonBody> {
    let (mut bytes, mut room) = (Vec::new(), None::<Room>);
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| ApiError::invalid(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let len = bytes.len() + data.len();
        if len > limit {
            drop((bytes, room));
            let _ = tokio::time::timeout(LINGER, discard(body, limit)).await;
            let message = format!("the body has more than {limit} bytes");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let has = room.as_ref().map_or(0, Room::bytes);
        match all.take(tenant, len.saturating_sub(SMALL).saturating_sub(has)) {
            Ok(more) => match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            },
            Err(full) => {
                drop((bytes, room));
                let _ = tokio::time::timeout(LINGER, discard(body, limit)).await;
                return Err(full.refusal("large bodies are being read"));
            }
        }
        bytes.extend_from_slice(&data);
    }
    Ok(JsonBody { bytes: bytes.into(), room })
}

/// Reads what a client that sends too much still sends, up to a bound. A connection that is closed
/// before that is reset, and the client would lose the answer.
async fn discard(mut body: Body, limit: usize) {
    let mut left = limit.saturating_mul(4);
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

impl JsonBody {
    /// A body from elsewhere: for tests and fuzzing.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        JsonBody { bytes: bytes.into(), room: None }
    }

    /// Once it is parsed: lets go of the bytes, and moves what was made of them to the budget of
    /// requests that wait for their models, so that others can be read meanwhile.
    pub fn park(&mut self, parked: &Budget, tenant: &Tenant) -> ApiResult<()> {
        self.bytes = Bytes::new();
        if let Some(room) = &mut self.room {
            let moved = parked.take(tenant, room.bytes());
            *room = moved.map_err(|full| full.refusal("large requests wait for their models"))?;
        }
        Ok(())
    }

    /// Reads the body as a `T`, all of whose fields must be known.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> ApiResult<T> {
        let (value, unknown) = self.read()?;
        self.refuse(unknown)?;
        Ok(value)
    }

    /// Reads the body as an `A` and as a `B`, which share no fields; one of them must know each.
    pub fn parse_both<'a, A: Deserialize<'a>, B: Deserialize<'a>>(&'a self) -> ApiResult<(A, B)> {
        let (a, unknown_a) = self.read::<A>()?;
        let (b, unknown_b) = self.read::<B>()?;
        let unknown_to_b: HashSet<&String> = unknown_b.iter().collect();
        // Within a field only the type that has it can say what is unknown.
        let nested = |path: &&String| path.contains('.');
        let unknown = unknown_a
            .iter()
            .filter(|path| nested(path) || unknown_to_b.contains(path))
            .chain(unknown_b.iter().filter(nested));
        self.refuse(unknown.cloned().collect())?;
        Ok((a, b))
    }

    /// The value, and the paths of the fields that it does not have.
    fn read<'a, T: Deserialize<'a>>(&'a self) -> ApiResult<(T, Vec<String>)> {
        let mut unknown = Vec::new();
        let mut json = serde_json::Deserializer::from_slice(&self.bytes);
        let mut track = serde_path_to_error::Track::new();
        let paths = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let result: Result<T, _> = serde_ignored::deserialize(paths, |path| {
            unknown.push(path.to_string().replace(".?", ""));
        });
        match result.and_then(|value| json.end().map(|()| value)) {
            Ok(value) => Ok((value, unknown)),
            Err(error) if error.is_data() => {
                let path = track.path().to_string();
                let message =
                    if path == "." { format!("{error}") } else { format!("{path}: {error}") };
                Err(ApiError { param: (path != ".").then_some(path), ..ApiError::invalid(message) })
            }
            Err(error) => Err(ApiError::invalid(format!("the body is not valid JSON: {error}"))),
        }
    }

    /// Fails if one of the fields could matter.
    fn refuse(&self, unknown: Vec<String>) -> ApiResult<()> {
        let mut unknown = unknown.into_iter().filter(|path| !HARMLESS.contains(&path.as_str()));
        let Some(first) = unknown.next() else { return Ok(()) };
        let whole: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        match std::iter::once(first).chain(unknown).find(|path| !is_absent(&whole, path)) {
            Some(path) => {
                let message = format!("unknown or unsupported field: {path}");
                Err(ApiError { code: Some("unknown_parameter"), ..ApiError::field(path, message) })
            }
            None => Ok(()),
        }
    }
}

/// Whether the value at `path`, keys and indices joined by dots, is as good as not there: `null`, or
/// `false` where that is the default.
fn is_absent(whole: &Value, path: &str) -> bool {
    let pointer = format!("/{}", path.replace('.', "/"));
    whole.pointer(&pointer).is_some_and(|value| {
        value.is_null() || (ONLY_FALSE.contains(&path) && value == &Value::Bool(false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct A {
        a: u8,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        x: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct B {
        b: Option<u8>,
    }

    fn both(text: &'static str) -> ApiResult<(A, B)> {
        JsonBody::from_bytes(text).parse_both()
    }

    #[test]
    fn each_field_is_known_to_one_type() {
        let (a, b) = both(r#"{"a": 1, "b": 2, "inner": {"x": 3}, "user": "me"}"#).unwrap();
        assert_eq!((a.a, b.b, a.inner.unwrap().x), (1, Some(2), Some(3)));
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let param = |text| both(text).unwrap_err().param.unwrap();
        assert_eq!(param(r#"{"a": 1, "c": 2}"#), "c");
        assert_eq!(param(r#"{"a": 1, "c": null, "d": 0}"#), "d");
        assert_eq!(param(r#"{"a": 1, "inner": {"y": 1}}"#), "inner.y");
        assert!(both(r#"{"a": 1, "c": null, "inner": {"y": null}}"#).is_ok());
    }

    #[test]
    fn output_that_does_not_come_is_refused() {
        assert!(both(r#"{"a": 1, "timings_per_token": false}"#).is_ok());
        for text in
            [r#"{"a": 1, "timings_per_token": true}"#, r#"{"a": 1, "return_progress": true}"#]
        {
            assert!(both(text).unwrap_err().param.is_some(), "{text}");
        }
    }

    #[test]
    fn many_unknown_fields_take_little_time() {
        // By the square of their number it would take minutes.
        let fields: String = (0..200_000).map(|i| format!(", \"u{i}\": null")).collect();
        let body = JsonBody::from_bytes(format!("{{\"a\": 1, \"last\": 0{fields}}}"));
        let start = std::time::Instant::now();
        let error = body.parse_both::<A, B>().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("last"));
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }

    #[test]
    fn bodies_of_many_small_parts_are_refused() {
        let list = |part: &str, count| format!("[{}]", vec![part; count].join(","));
        assert!(check_size(list("{}", MAX_NODES).as_bytes()).is_err());
        assert!(check_size(list("1", MAX_COMMAS + 2).as_bytes()).is_err());
        assert!(check_size(list("{\"a\":1}", MAX_NODES / 2 - 1).as_bytes()).is_ok());
        // Text is not counted.
        let text = serde_json::to_string(&"{[\\\",:".repeat(MAX_COMMAS)).unwrap();
        assert!(check_size(text.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = both(r#"{"a": 1, "inner": {"x": "text"}}"#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("inner.x"), "{error}");
        for text in ["", "{", "[]", r#"{"a": 1} x"#, "{\"a\": 1e999}"] {
            assert_eq!(both(text).unwrap_err().status, StatusCode::BAD_REQUEST, "{text}");
        }
        let deep: String = "[".repeat(100_000);
        assert!(JsonBody::from_bytes(deep).parse::<serde_json::Value>().is_err());
    }

    #[test]
    fn media_types() {
        assert!(is_json("application/json") && is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("text/plain") && !is_json("application/json-lines"));
    }
}
