//! Who may ask: the API key, and the names under which the server may be called.
//!
//! A page that a browser shows can make the browser call servers on the same machine. Two checks keep it out: the `Origin`
//! must be this server's own or listed, and the `Host` must not be a foreign name that was made to point here (DNS
//! rebinding). Plain addresses cannot be rebound, so they are always fine as `Host`.

use crate::config::Access;
use crate::error::ApiError;
use crate::page;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Version, header};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// Refuses requests that may not be answered.
pub fn check(request: &Request, access: &Access) -> Result<(), ApiError> {
    let headers = request.headers();
    check_host(headers, request.version(), access)?;
    check_origin(headers, access)?;
    if request.method() == Method::OPTIONS || is_open(request.uri().path()) {
        return Ok(());
    }
    check_key(headers, access)
}

/// The origin that may read the answer, if the request names one that is allowed.
pub fn allowed_origin<'a>(headers: &'a HeaderMap, access: &Access) -> Option<&'a HeaderValue> {
    headers.get(header::ORIGIN).filter(|origin| access.allowed_origins.iter().any(|allowed| allowed == *origin))
}

/// What everybody who may call at all sees: the page, and whether the server lives.
fn is_open(path: &str) -> bool {
    path == "/health" || page::is_page(path)
}

/// A header as text; empty if it is absent or no text.
fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn check_host(headers: &HeaderMap, version: Version, access: &Access) -> Result<(), ApiError> {
    if version == Version::HTTP_10 && !headers.contains_key(header::HOST) {
        return Ok(()); // no browser asks in this way; health checks do
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) if !host.is_empty() => host_name(host),
        _ => return Err(ApiError::new(400, "malformed_request", "a request must name its Host, and only once")),
    };
    let local = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    let listed = access.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
    if local || listed || host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let message = format!("the server may not be called as \"{host}\"; start it with --allow_host {host} to permit it");
    Err(ApiError::new(403, "host_not_allowed", message))
}

/// A `Host` without its port and without the brackets of an IPv6 address.
fn host_name(host: &str) -> &str {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split(']').next().unwrap_or(inner);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn check_origin(headers: &HeaderMap, access: &Access) -> Result<(), ApiError> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let host = text(headers, header::HOST);
    let own = text(headers, header::ORIGIN).split_once("://").is_some_and(|(_, origin)| origin == host);
    if own || allowed_origin(headers, access).is_some() {
        return Ok(());
    }
    let message = "pages of other origins may not call this server; start it with --allow_origin to permit one";
    Err(ApiError::new(403, "origin_not_allowed", message))
}

fn check_key(headers: &HeaderMap, access: &Access) -> Result<(), ApiError> {
    let Some(key) = &access.api_key else { return Ok(()) };
    let (scheme, given) = text(headers, header::AUTHORIZATION).split_once(' ').unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") && bool::from(given.as_bytes().ct_eq(key.as_bytes())) {
        return Ok(());
    }
    Err(ApiError::new(401, "invalid_api_key", "the API key is missing or wrong; send it as Authorization: Bearer KEY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, headers: &[(&str, &str)]) -> Request {
        let request = headers.iter().fold(Request::post(path), |request, &(name, value)| request.header(name, value));
        request.body(axum::body::Body::empty()).unwrap()
    }

    fn status(headers: &[(&str, &str)], access: &Access) -> u16 {
        check(&request("/v1/models", headers), access).map_or_else(|error| error.status, |()| 200)
    }

    #[test]
    fn foreign_names_are_refused_and_addresses_are_not() {
        let access = Access { allowed_hosts: vec!["gpu.example.org".into()], ..Access::default() };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "10.0.0.7", "gpu.example.org:80"] {
            assert_eq!(status(&[("host", host)], &access), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ":80"] {
            assert_eq!(status(&[("host", host)], &access), 403, "{host}");
        }
        for headers in [&[][..], &[("host", "")], &[("host", "localhost"), ("host", "localhost")]] {
            assert_eq!(status(headers, &access), 400, "{headers:?}");
        }
    }

    #[test]
    fn only_the_own_and_listed_origins_may_call() {
        let access = Access { allowed_origins: vec!["https://chat.example".into()], ..Access::default() };
        let with = |origin| status(&[("host", "localhost:8080"), ("origin", origin)], &access);
        assert_eq!(with("http://localhost:8080"), 200);
        assert_eq!(with("https://chat.example"), 200);
        for origin in ["http://localhost:9999", "https://evil.example", "null", "https://chat.example.evil"] {
            assert_eq!(with(origin), 403, "{origin}");
        }
    }

    #[test]
    fn the_key_opens_everything_but_the_open_paths() {
        let access = Access { api_key: Some("secret".into()), ..Access::default() };
        let with = |value| status(&[("host", "localhost"), ("authorization", value)], &access);
        assert_eq!((with("Bearer secret"), with("bearer secret"), with("BEARER secret")), (200, 200, 200));
        for value in ["Bearer Secret", "Bearer secret1", "secret", "Basic secret", "Bearer "] {
            assert_eq!(with(value), 401, "{value}");
        }
        assert!(check(&request("/health", &[("host", "localhost")]), &access).is_ok());
        assert!(check(&request("/metrics", &[("host", "localhost")]), &access).is_err());
    }
}
