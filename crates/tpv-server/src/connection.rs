//! One connection: HTTP/1.1 requests in, responses and event streams out.
//!
//! Deliberately small: no TLS, no HTTP/2, no compression, no trailers. A request whose length is ambiguous (two lengths, a
//! length beside chunks, an unknown transfer coding) is refused and the connection closed, so that nothing can be
//! smuggled. While a response is made or streamed, the connection is watched: when the client leaves, the work is dropped.

use crate::config::Limits;
use crate::error::ApiError;
use crate::http::{Body, Request, Response, reason};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

const MOST_HEAD_BYTES: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// Bytes of further requests that a client may send ahead.
const MOST_AHEAD_BYTES: usize = 64 << 10;

/// A connection with one client.
pub struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// Bytes that were read and not used.
    buffer: Vec<u8>,
    client: IpAddr,
    limits: Limits,
}

/// Why no request could be read.
enum ReadError {
    /// The client left or the connection broke; there is nobody to answer.
    Gone,
    /// The request is refused, and what follows it cannot be understood.
    Refused(ApiError),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The start of a request, and how its body comes.
struct Head {
    request: Request,
    length: BodyLength,
    keep_alive: bool,
    http_10: bool,
    expects_continue: bool,
}

enum BodyLength {
    Bytes(usize),
    Chunks,
}

impl Connection {
    /// Takes an accepted stream.
    pub fn new(stream: TcpStream, client: IpAddr, limits: Limits) -> Self {
        // Without it small writes wait for the client's acknowledgement; a failure costs speed alone.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        Self { reader, writer, buffer: Vec::new(), client, limits }
    }

    /// Answers requests until the client leaves, says something that cannot be understood, or `stopping` holds.
    pub async fn serve<F>(mut self, handle: impl Fn(Request) -> F, stopping: impl Fn() -> bool)
    where
        F: Future<Output = Response>,
    {
        loop {
            let head = match self.read_request().await {
                Ok(head) => head,
                Err(ReadError::Gone) => return,
                Err(ReadError::Refused(error)) => return self.refuse(error).await,
            };
            let Some(response) = self.watched(handle(head.request)).await else { return };
            let keep_alive = head.keep_alive && !stopping();
            if self.write(response, keep_alive, head.http_10).await.is_err() || !keep_alive {
                return;
            }
        }
    }

    async fn read_request(&mut self) -> Result<Head, ReadError> {
        let limit = self.limits.transfer_time;
        let mut head = match timeout(limit, self.read_head()).await {
            Ok(head) => head?,
            Err(_) if self.buffer.is_empty() => return Err(ReadError::Gone),
            Err(_) => return Err(too_slow()),
        };
        if head.expects_continue {
            self.writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = match head.length {
            BodyLength::Bytes(length) => timeout(limit, self.read_bytes(length)).await,
            BodyLength::Chunks => timeout(limit, self.read_chunks()).await,
        };
        head.request.body = body.map_err(|_| too_slow())??;
        Ok(head)
    }

    async fn read_head(&mut self) -> Result<Head, ReadError> {
        loop {
            if let Some((head, length)) = parse_head(&self.buffer, self.client, &self.limits)? {
                self.buffer.drain(..length);
                return Ok(head);
            }
            if self.buffer.len() > MOST_HEAD_BYTES {
                let message = format!("the request's head is longer than {MOST_HEAD_BYTES} bytes");
                return Err(ReadError::Refused(ApiError::new(431, "head_too_large", message)));
            }
            self.fill().await?;
        }
    }

    /// Reads what is there; an error at the end of the stream.
    async fn fill(&mut self) -> io::Result<()> {
        match self.reader.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn read_bytes(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read_line(&mut self) -> Result<String, ReadError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > 256 {
                return Err(malformed("a chunk's length cannot be read"));
            }
            self.fill().await?;
        }
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let length = usize::from_str_radix(digits, 16).ok().filter(|_| plain);
            let length = length.ok_or_else(|| malformed("a chunk's length cannot be read"))?;
            if length > self.limits.max_body_bytes - body.len() {
                return Err(too_large(self.limits.max_body_bytes));
            }
            if length == 0 {
                while !self.read_line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.read_bytes(length).await?);
            if !self.read_line().await?.is_empty() {
                return Err(malformed("a chunk is longer than its length says"));
            }
        }
    }

    /// Runs the work unless the client leaves before it is done.
    async fn watched<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            result = work => Some(result),
            () = until_gone(&mut self.reader, &mut self.buffer) => None,
        }
    }

    async fn write(&mut self, response: Response, keep_alive: bool, http_10: bool) -> io::Result<()> {
        let limit = self.limits.transfer_time;
        let Response { status, headers, body } = response;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !keep_alive || (http_10 && matches!(body, Body::Events(_))) {
            head += "connection: close\r\n";
        }
        match body {
            Body::Full(bytes) => {
                head += &format!("content-length: {}\r\n\r\n", bytes.len());
                let message = [head.as_bytes(), &bytes].concat();
                write_within(&mut self.writer, &message, limit).await
            }
            Body::Events(mut items) => {
                head += if http_10 { "\r\n" } else { "transfer-encoding: chunked\r\n\r\n" };
                write_within(&mut self.writer, head.as_bytes(), limit).await?;
                self.write_events(&mut items, http_10).await
            }
        }
    }

    async fn write_events(&mut self, items: &mut tokio::sync::mpsc::Receiver<String>, http_10: bool) -> io::Result<()> {
        let Limits { transfer_time, keep_alive, .. } = self.limits;
        loop {
            let item = tokio::select! {
                biased;
                item = timeout(keep_alive, items.recv()) => item,
                () = until_gone(&mut self.reader, &mut self.buffer) => return Err(io::ErrorKind::ConnectionReset.into()),
            };
            let mut text = match item {
                Ok(Some(text)) => text,
                Ok(None) => break,
                Err(_) => ": still here\n\n".to_owned(),
            };
            // What is ready goes out together.
            while text.len() < 16 << 10
                && let Ok(next) = items.try_recv()
            {
                text += &next;
            }
            let chunk = if http_10 { text } else { format!("{:x}\r\n{text}\r\n", text.len()) };
            write_within(&mut self.writer, chunk.as_bytes(), transfer_time).await?;
        }
        if http_10 {
            return Err(io::ErrorKind::ConnectionAborted.into()); // closing marks the end
        }
        write_within(&mut self.writer, b"0\r\n\r\n", transfer_time).await
    }

    /// Answers, and gives the client a moment to read the answer before the connection closes.
    async fn refuse(&mut self, error: ApiError) {
        if self.write(error.into(), false, false).await.is_err() {
            return;
        }
        let _ = self.writer.shutdown().await;
        let drain = async {
            let mut scrap = [0; 4096];
            while self.reader.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
        };
        let _ = timeout(Duration::from_secs(1), drain).await;
    }
}

async fn write_within(writer: &mut OwnedWriteHalf, bytes: &[u8], limit: Duration) -> io::Result<()> {
    timeout(limit, writer.write_all(bytes)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Ends when the client has left, or has sent more ahead than is kept.
async fn until_gone(reader: &mut OwnedReadHalf, buffer: &mut Vec<u8>) {
    while buffer.len() < MOST_AHEAD_BYTES {
        if !reader.read_buf(buffer).await.is_ok_and(|read| read > 0) {
            return;
        }
    }
}

fn malformed(message: &str) -> ReadError {
    ReadError::Refused(ApiError::new(400, "malformed_request", message))
}

fn too_slow() -> ReadError {
    ReadError::Refused(ApiError::new(408, "request_timeout", "the request took too long to arrive"))
}

fn too_large(limit: usize) -> ReadError {
    let message = format!("the body is longer than {limit} bytes");
    ReadError::Refused(ApiError::new(413, "body_too_large", message))
}

/// The head at the start of `bytes` and its length; `None` if it is not complete.
fn parse_head(bytes: &[u8], client: IpAddr, limits: &Limits) -> Result<Option<(Head, usize)>, ReadError> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed.parse(bytes).map_err(|error| match error {
        httparse::Error::TooManyHeaders => {
            let message = format!("the request has more than {MOST_HEADERS} headers");
            ReadError::Refused(ApiError::new(431, "head_too_large", message))
        }
        error => malformed(&format!("this is no HTTP/1.1 request: {error}")),
    })?;
    let httparse::Status::Complete(length) = status else { return Ok(None) };
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let target = parsed.path.unwrap_or("/");
    let path = target.split('?').next().unwrap_or("/").to_owned();
    let http_10 = parsed.version == Some(0);
    let method = parsed.method.unwrap_or_default().to_owned();
    let request = Request { method, path, headers, body: Vec::new(), client };
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    let keep_alive = if http_10 { connection.contains("keep-alive") } else { !connection.contains("close") };
    let expects_continue = request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    let length_of_body = body_length(&request, limits)?;
    Ok(Some((Head { request, length: length_of_body, keep_alive, http_10, expects_continue }, length)))
}

fn body_length(request: &Request, limits: &Limits) -> Result<BodyLength, ReadError> {
    let all = |name: &str| request.headers.iter().filter(|(header, _)| header == name).count();
    match (request.header("transfer-encoding"), request.header("content-length")) {
        (Some(_), Some(_)) => Err(malformed("a request has either a length or chunks")),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && all("transfer-encoding") == 1 => {
            Ok(BodyLength::Chunks)
        }
        (Some(_), None) => Err(malformed("the only transfer coding known here is chunked")),
        (None, None) => Ok(BodyLength::Bytes(0)),
        (None, Some(digits)) => {
            let plain = all("content-length") == 1 && digits.bytes().all(|digit| digit.is_ascii_digit());
            let length = digits.parse::<usize>().ok().filter(|_| plain);
            let length = length.ok_or_else(|| malformed("the content-length is not one whole number"))?;
            if length > limits.max_body_bytes {
                Err(too_large(limits.max_body_bytes))
            } else {
                Ok(BodyLength::Bytes(length))
            }
        }
    }
}
