//! Who may ask: API keys on every route but `/health` and `/ready`, and a guard against pages of
//! other sites.
//!
//! A key comes as `Authorization: Bearer`, as `x-api-key` (Anthropic's clients), or as the password
//! of `Authorization: Basic`, for which browsers ask their user.
//!
//! Without keys, a server on the loopback address could still be used by any web page that its
//! user opens. So a request that names an origin must come from the server's own, and the server
//! must be called by an address, as `localhost` or by a name that it was given: a site that points
//! its own name at 127.0.0.1 is refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::config::ServerConfig;
use crate::error::{ApiError, ApiResult};

/// The routes that need no key: what supervisors and load balancers ask.
const OPEN: [&str; 2] = ["/health", "/ready"];

/// The keys of a server.
#[derive(Debug)]
pub struct Gate {
    keys: Vec<Key>,
    host_names: Vec<String>,
    /// Who asks where there are no keys.
    nobody: Tenant,
}

#[derive(Debug)]
struct Key {
    /// Keys are compared by their digests: these are of one length, so the time that a comparison
    /// takes says nothing of the key.
    digest: [u8; 32],
    tenant: Tenant,
}

/// On whose behalf a request runs.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its place among all tenants.
    pub number: usize,
    /// Separates the prefix caches of tenants.
    secret: Option<[u8; 32]>,
    /// One permit for each request that may wait or run.
    pub places: Arc<Semaphore>,
    /// How many may.
    pub limit: usize,
}

impl Tenant {
    fn new(number: usize, secret: Option<[u8; 32]>, places: Option<usize>) -> Self {
        let limit = places.unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Tenant { number, secret, places: Arc::new(Semaphore::new(limit)), limit }
    }

    /// A tenant without a secret and without a limit.
    #[cfg(test)]
    pub fn numbered(number: usize) -> Self {
        Tenant::new(number, None, None)
    }

    /// A place for a request.
    pub fn place(&self) -> ApiResult<OwnedSemaphorePermit> {
        let message = "too many requests with this API key at once";
        self.places.clone().try_acquire_owned().map_err(|_| ApiError::busy(message, 1))
    }

    /// The salt of the tenant's prefix cache; `extra` divides it further.
    pub fn cache_salt(&self, extra: Option<&str>) -> u64 {
        if self.secret.is_none() && extra.is_none() {
            return 0;
        }
        let mut hash = Sha256::new();
        hash.update(self.secret.unwrap_or_default());
        hash.update(extra.unwrap_or_default());
        let digest = hash.finalize();
        u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
    }
}

impl Gate {
    /// The gate that `config` describes.
    pub fn new(config: &ServerConfig) -> Self {
        let keys = config.api_keys.iter().enumerate().map(|(number, key)| {
            let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
            Key { digest, tenant: Tenant::new(number, Some(digest), config.per_key) }
        });
        Gate {
            keys: keys.collect(),
            host_names: config.host_names.clone(),
            nobody: Tenant::new(0, None, None),
        }
    }

    /// How many tenants there are.
    pub fn tenants(&self) -> usize {
        self.keys.len().max(1)
    }

    /// Who asks, if they may.
    fn admit(&self, headers: &HeaderMap) -> ApiResult<Tenant> {
        if self.keys.is_empty() {
            self.refuse_other_sites(headers)?;
            return Ok(self.nobody.clone());
        }
        let Some(given) = given_key(headers) else {
            let message = "an API key is needed: Authorization: Bearer KEY";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, message));
        };
        let digest: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        let mut found = None;
        // No early end: the time must not tell which key was nearly right.
        for key in &self.keys {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(&key.tenant);
            }
        }
        found.cloned().ok_or_else(|| ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(StatusCode::UNAUTHORIZED, "the API key is not valid")
        })
    }

    fn refuse_other_sites(&self, headers: &HeaderMap) -> ApiResult<()> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        let name = host_name(host);
        let known = name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.host_names.iter().any(|known| name.eq_ignore_ascii_case(known));
        if !known && headers.contains_key(header::HOST) {
            let message = format!("'{name}' is not a name of this server (see --host-name)");
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let own = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        if own.is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        let message = "pages of other sites may not use this server without an API key";
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }
}

/// The key in a request's headers.
fn given_key(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(key) = text("x-api-key") {
        return Some(key.to_string());
    }
    let (scheme, value) = text("authorization")?.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.to_string());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
        return Some(pair.split_once(':')?.1.to_string());
    }
    None
}

/// A `Host` without its port.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Lets through who may ask, and says who it is.
pub async fn check(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match app.gate.admit(request.headers()) {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn gate(keys: &[&str]) -> Gate {
        let api_keys = keys.iter().map(|key| key.to_string()).collect();
        let host_names = vec!["box.lan".to_string()];
        Gate::new(&ServerConfig { api_keys, host_names, ..ServerConfig::default() })
    }

    #[test]
    fn keys_by_three_ways() {
        let gate = gate(&["one", "two:2"]);
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for (name, value) in [
            ("authorization", "Bearer one".to_string()),
            ("authorization", "bearer two:2".to_string()),
            ("x-api-key", "two:2".to_string()),
            ("authorization", basic("me:one")),
            ("authorization", basic(":two:2")),
        ] {
            assert!(gate.admit(&headers(&[(name, &value)])).is_ok(), "{name}: {value}");
        }
        for (name, value) in [
            ("authorization", "Bearer on".to_string()),
            ("authorization", "Bearer one2".to_string()),
            ("authorization", "one".to_string()),
            ("authorization", "Basic !".to_string()),
            ("authorization", basic("one")),
            ("x-api-key", String::new()),
            ("cookie", "one".to_string()),
        ] {
            let error = gate.admit(&headers(&[(name, &value)])).unwrap_err();
            assert_eq!(error.status, StatusCode::UNAUTHORIZED, "{name}: {value}");
        }
    }

    #[test]
    fn tenants_share_no_cache() {
        let gate = gate(&["one", "two"]);
        let salt = |key: &str, extra| {
            gate.admit(&headers(&[("x-api-key", key)])).unwrap().cache_salt(extra)
        };
        assert_eq!(salt("one", None), salt("one", None));
        assert_ne!(salt("one", None), salt("two", None));
        assert_ne!(salt("one", None), salt("one", Some("a")));
        assert_eq!(Tenant::new(0, None, None).cache_salt(None), 0);
    }

    #[test]
    fn other_sites_are_refused_without_keys() {
        let gate = gate(&[]);
        let admit = |list: &[(&'static str, &str)]| gate.admit(&headers(list)).is_ok();
        assert!(admit(&[]));
        assert!(admit(&[("host", "127.0.0.1:8080")]));
        assert!(admit(&[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")]));
        assert!(admit(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]));
        assert!(admit(&[("host", "box.lan:8080")]));
        assert!(!admit(&[("host", "evil.example:8080")]));
        assert!(!admit(&[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")]));
        assert!(!admit(&[("host", "127.0.0.1:8080"), ("origin", "null")]));
        assert!(!admit(&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:9")]));
    }
}
