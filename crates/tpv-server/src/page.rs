//! The page, embedded: no build step, nothing from elsewhere, and a policy that forbids everything else.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// One of the page's files.
#[derive(Clone, Copy)]
pub struct PageFile {
    /// Where it is asked for.
    pub path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

/// All of the page's files.
pub const FILES: [PageFile; 10] = [
    file("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    file("/favicon.svg", "image/svg+xml", include_str!("page/favicon.svg")),
    file("/page/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    file("/page/main.js", SCRIPT, include_str!("page/main.js")),
    file("/page/lane.js", SCRIPT, include_str!("page/lane.js")),
    file("/page/trace.js", SCRIPT, include_str!("page/trace.js")),
    file("/page/vector.js", SCRIPT, include_str!("page/vector.js")),
    file("/page/export.js", SCRIPT, include_str!("page/export.js")),
    file("/page/api.js", SCRIPT, include_str!("page/api.js")),
    file("/page/dom.js", SCRIPT, include_str!("page/dom.js")),
];

const fn file(path: &'static str, content_type: &'static str, text: &'static str) -> PageFile {
    PageFile { path, content_type, text }
}

/// Whether a path is one of the page's.
pub fn is_page(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

impl PageFile {
    /// The file with the headers that keep it to itself.
    pub async fn response(self) -> impl IntoResponse {
        let headers: [(HeaderName, &str); 4] = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, self.text)
    }
}
