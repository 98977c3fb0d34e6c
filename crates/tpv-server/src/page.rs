//! The page, embedded: no build step, nothing from elsewhere, and a policy that forbids everything else.

use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The paths of the page's files.
pub const PATHS: [&str; 4] = ["/", "/page.js", "/page.css", "/favicon.svg"];

/// Answers with one of the page's files.
pub async fn serve(uri: Uri) -> Response {
    let (content_type, text) = file(uri.path());
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// The type and content of a file; of the page itself for any other path.
fn file(path: &str) -> (&'static str, &'static str) {
    match path {
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/favicon.svg" => ("image/svg+xml", include_str!("page/favicon.svg")),
        _ => ("text/html; charset=utf-8", include_str!("page/index.html")),
    }
}
