//! Requests and responses as values: the part of HTTP/1.1 that an API and a page need.

use std::net::IpAddr;
use tokio::sync::mpsc;

/// A request, read completely.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, empty if there is none.
    pub body: Vec<u8>,
    /// The client's address.
    pub client: IpAddr,
}

impl Request {
    /// The first header of this name, which must be in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// What is sent after the head.
#[derive(Debug)]
pub enum Body {
    /// Known beforehand.
    Full(Vec<u8>),
    /// Server-sent events, one item after another until the sender is dropped.
    Events(mpsc::Receiver<String>),
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case, with their values.
    pub headers: Vec<(&'static str, String)>,
    /// What follows.
    pub body: Body,
}

impl Response {
    /// A response with a body of this type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, body: Body::Full(body.into()) }
    }

    /// A JSON document.
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    /// A stream of server-sent events.
    pub fn events(items: mpsc::Receiver<String>) -> Self {
        let headers = [("content-type", "text/event-stream"), ("x-accel-buffering", "no")];
        Self {
            status: 200,
            headers: headers.map(|(name, value)| (name, value.into())).into(),
            body: Body::Events(items),
        }
        .header("cache-control", "no-cache")
    }

    /// The same with one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The words that go with a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}
