//! A small HTTP client over `ureq`: time limits, the platform's certificates, errors in words.

use std::io::Read;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use crate::config::HubConfig;
use crate::error::{HubError, Result};

/// The longest that a server may make us wait before the next request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An answer whose body is still to be read.
pub(crate) type Response = ureq::http::Response<Body>;

/// A header of a request.
pub(crate) type Header<'a> = (&'a str, String);

/// The client that all requests of one [`crate::Hub`] go through.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
}

impl Client {
    pub(crate) fn new(config: &HubConfig) -> Self {
        let limits = &config.network;
        // The platform's roots, not a built-in list: company networks add their own.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .proxy(config.proxy.clone())
            .http_status_as_error(false)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.response))
            .timeout_per_read(Some(limits.stall))
            .timeout_per_write(Some(limits.stall))
            // A connection that idled through a long hash is often dead; make a new one.
            .max_idle_age(Duration::from_secs(3))
            .user_agent(concat!("ferrum/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Client { agent }
    }

    /// Sends a GET. Statuses are not errors here; an error means that no answer came.
    pub(crate) fn get(&self, url: &str, headers: &[Header<'_>]) -> Result<Response> {
        send(self.agent.get(url), url, headers)
    }

    /// Sends a HEAD and does not follow where the answer points.
    pub(crate) fn head(&self, url: &str, headers: &[Header<'_>]) -> Result<Response> {
        send(self.agent.head(url).config().max_redirects(0).build(), url, headers)
    }

    /// The body of a successful GET of at most `limit` bytes, with its content type.
    pub(crate) fn get_text(
        &self,
        url: &str,
        headers: &[Header<'_>],
        limit: u64,
    ) -> Result<(String, String)> {
        let response = self.get(url, headers)?;
        check_status(&response, url)?;
        let content_type = header(&response, "content-type").unwrap_or_default().to_string();
        Ok((content_type, read_text(response, url, limit)?))
    }
}

fn send(
    mut request: RequestBuilder<WithoutBody>,
    url: &str,
    headers: &[Header<'_>],
) -> Result<Response> {
    // Compressed transfers would make lengths and ranges mean something else.
    request = request.header("Accept-Encoding", "identity");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request
        .call()
        .map_err(|error| HubError::Connect { host: host(url).to_string(), why: reason(&error) })
}

/// The body of an answer, of at most `limit` bytes.
pub(crate) fn read_text(response: Response, url: &str, limit: u64) -> Result<String> {
    let bad = |why: String| HubError::Answer { host: host(url).to_string(), why };
    let mut text = String::new();
    let mut body = response.into_body().into_reader().take(limit + 1);
    body.read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    if text.len() as u64 > limit {
        return Err(bad(format!("it is longer than {limit} bytes")));
    }
    Ok(text)
}

/// An error for any status that is not 2xx.
pub(crate) fn check_status(response: &Response, url: &str) -> Result<()> {
    if response.status().is_success() {
        return Ok(());
    }
    let what = shown(url).rsplit('/').find(|p| !p.is_empty()).unwrap_or("it").to_string();
    Err(HubError::Status { host: host(url).to_string(), what, status: response.status().as_u16() })
}

/// A header of an answer, if it is there and is text.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// How long an answer asks to wait (`Retry-After` in seconds, RFC 9110 §10.2.3), within reason.
pub(crate) fn retry_after(response: &Response) -> Duration {
    let asked = header(response, "retry-after").and_then(|v| v.trim().parse().ok());
    Duration::from_secs(asked.unwrap_or(0)).min(LONGEST_WAIT)
}

/// Whether a status says that the same request may succeed later.
pub(crate) fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// The host and port of an address, without a user or a password.
pub(crate) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// An address fit for messages: no user, no password, no query (signed addresses carry keys).
pub(crate) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::from("…") };
    let path = rest.find('/').map_or("", |slash| &rest[slash..]);
    let path = path.split(['?', '#']).next().unwrap_or("");
    format!("{scheme}://{}{path}", host(url))
}

/// Resolves a link found on a page (RFC 3986 §5, as far as links of an index need it).
pub(crate) fn join(base: &str, link: &str) -> String {
    let link = link.split('#').next().unwrap_or(link);
    if link.contains("://") {
        return link.to_string();
    }
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    if let Some(rest) = link.strip_prefix("//") {
        return format!("{}{rest}", &base[..scheme_end]);
    }
    let root_end = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    let (root, path) = base.split_at(root_end);
    if link.starts_with('/') {
        return format!("{root}{link}");
    }
    let path = path.split(['?', '#']).next().unwrap_or("");
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    parts.pop(); // the last component is the page itself
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    format!("{root}/{}", parts.join("/"))
}

/// A network error in words.
pub(crate) fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(what) => match what {
            ureq::Timeout::Resolve => "its address could not be found in time".into(),
            ureq::Timeout::Connect => "no connection in time".into(),
            _ => "no answer in time".into(),
        },
        ureq::Error::HostNotFound => "its address could not be found".into(),
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_resolve() {
        let base = "https://h.example:8/simple/name/";
        for (link, want) in [
            ("https://f.example/a.whl#sha256=00", "https://f.example/a.whl"),
            ("//f.example/a.whl", "https://f.example/a.whl"),
            ("/p/a.whl", "https://h.example:8/p/a.whl"),
            ("a.whl", "https://h.example:8/simple/name/a.whl"),
            ("../../p/./a.whl", "https://h.example:8/p/a.whl"),
            ("../../../../a.whl", "https://h.example:8/a.whl"),
        ] {
            assert_eq!(join(base, link), want, "{link}");
        }
        assert_eq!(join("https://h.example", "a.whl"), "https://h.example/a.whl");
    }

    #[test]
    fn messages_hide_what_is_secret() {
        let url = "https://user:pass@h.example:8/p/a.whl?key=1#x";
        assert_eq!(host(url), "h.example:8");
        assert_eq!(shown(url), "https://h.example:8/p/a.whl");
        assert_eq!(shown("https://h.example?key=1"), "https://h.example");
    }
}
