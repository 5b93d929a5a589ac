//! The page at `/`: a chat in the browser, without outside assets.
//!
//! Text of models is untrusted, so the page makes nodes of it and never HTML, and
//! [`CONTENT_SECURITY_POLICY`] allows no script but the page's own.

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

/// What the browser may load and run.
pub const CONTENT_SECURITY_POLICY: &str = include_str!("../web/csp.txt");

/// Paths, types and contents of the page's files.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html", include_str!("../web/index.html")),
    ("/web/style.css", "text/css", include_str!("../web/style.css")),
    ("/web/app.js", "text/javascript", include_str!("../web/app.js")),
    ("/web/api.js", "text/javascript", include_str!("../web/api.js")),
    ("/web/markdown.js", "text/javascript", include_str!("../web/markdown.js")),
];

/// The page's routes, for a server with any state.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.trim().to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        // A newer server has a newer page.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::{FILES, routes};

    /// Each file comes with its type and the policy, and names only files that there are.
    #[tokio::test]
    async fn files_come_with_the_policy() {
        for (path, kind, text) in FILES {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = routes::<()>().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let header = |name| response.headers()[name].to_str().unwrap().to_owned();
            assert!(header("content-type").starts_with(kind));
            assert!(header("content-security-policy").contains("default-src 'none'"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, text);
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{path}");
            for name in text.split("/web/").skip(1) {
                let name = name.split('"').next().unwrap();
                assert!(FILES.iter().any(|(path, ..)| *path == format!("/web/{name}")), "{name}");
            }
        }
    }
}
