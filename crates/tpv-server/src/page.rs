//! The page, embedded: three files, no build step, nothing from elsewhere, and a policy that forbids everything else.

use crate::http::Response;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The type and content of one of the page's files.
pub fn file(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/" => Some(("text/html; charset=utf-8", include_str!("page/index.html"))),
        "/page.js" => Some(("text/javascript; charset=utf-8", include_str!("page/page.js"))),
        "/page.css" => Some(("text/css; charset=utf-8", include_str!("page/page.css"))),
        "/favicon.svg" => Some(("image/svg+xml", include_str!("page/favicon.svg"))),
        _ => None,
    }
}

/// One of the page's files with the headers that keep it to itself.
pub fn response(path: &str) -> Response {
    let (content_type, text) = file(path).expect("asked for only where there is a file");
    Response::new(200, content_type, text)
        .header("content-security-policy", POLICY)
        .header("referrer-policy", "no-referrer")
        .header("cache-control", "no-cache")
}
