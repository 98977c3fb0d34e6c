//! Connections: as many at once as there is room for, each ended when its client takes too long or the server stops.
//!
//! No TLS, no HTTP/2, no compression. A client may take [`Limits::transfer_time`](crate::config::Limits::transfer_time)
//! for the head of its next request, and the same time without reading a byte of what it is sent; then its connection
//! is closed. What is sent is made only when there is room for it, so a slow reader holds one buffer and no more. A client
//! that leaves, which is one that closes its side, drops the future or the stream that works for it.

use crate::app::App;
use crate::socket::{Socket, closed};
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutWriter;

/// Connections that are held at once; further clients wait in the kernel's queue.
const MOST_CONNECTIONS: u32 = 1024;
/// Bytes of a request's head, and bytes that wait to be sent on one connection.
const BUFFER_BYTES: usize = 32 << 10;
/// Pause after a connection could not be accepted: out of file descriptors, say, and others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The room for connections.
#[derive(Clone)]
pub struct Connections(Arc<Semaphore>);

impl Connections {
    /// Room for all, and for the one that is waited for.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_CONNECTIONS as usize + 1)))
    }

    /// Accepts clients for ever.
    pub async fn accept(self, listener: TcpListener, app: Arc<App>, router: Router) {
        loop {
            let permit = Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
            let Ok((stream, client)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let work = serve(stream, client, Arc::clone(&app), router.clone());
            tokio::spawn(async move {
                work.await;
                drop(permit);
            });
        }
    }

    /// Waits until every connection has ended, but no longer than `limit`.
    pub async fn ended(&self, limit: Duration) {
        let _ = timeout(limit, self.0.acquire_many(MOST_CONNECTIONS)).await; // the rest is cut off
    }
}

/// Serves one client until it leaves, breaks a rule, or the server stops and the answer under way is complete.
async fn serve(mut stream: TcpStream, client: SocketAddr, app: Arc<App>, router: Router) {
    // Without it small writes wait for the client's acknowledgement; a failure costs speed alone.
    let _ = stream.set_nodelay(true);
    tokio::select! {
        biased; // what the client sent before it left is answered where that takes no time
        () = converse(&stream, client, app, router) => {}
        () = closed(&stream) => {}
    }
    let _ = stream.shutdown().await; // the client may have left
}

/// Answers requests one after the other.
async fn converse(stream: &TcpStream, client: SocketAddr, app: Arc<App>, router: Router) {
    let transfer_time = app.config.limits.transfer_time;
    let mut stream = TimeoutWriter::new(Socket(stream));
    stream.set_timeout(Some(transfer_time));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(client));
        router.call(request)
    });
    // Who comes while the server stops is told so, and gets no second answer.
    let late = app.is_stopping();
    let mut builder = http1::Builder::new();
    // Where the end of the client's side is seen beside the reading, it ends what takes time, and not what is ready.
    builder.half_close(cfg!(any(target_os = "linux", target_os = "android")));
    builder.keep_alive(!late).timer(TokioTimer::new()).header_read_timeout(transfer_time).max_buf_size(BUFFER_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
    // An error is a client that left or broke a rule: it is answered where that is possible, and nobody else cares.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = app.stopped(), if !late => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
