//! Connections: as many at once as there is room for, not all of one client, each ended when its client takes too long or
//! the server stops.
//!
//! No TLS, no HTTP/2, no compression. A client may take [`Limits::transfer_time`](crate::config::Limits::transfer_time)
//! for the head of its next request, and the same time without reading a byte of what it is sent; then its connection
//! is closed. What is sent is made only when there is room for it, so a slow reader holds one buffer and no more. A client
//! that leaves, which is one that closes its side, drops the future or the stream that works for it.

use crate::app::App;
use crate::config::Limits;
use crate::socket::{Socket, closed};
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// What a client gets that has all of its connections: its request is not read.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The room for connections.
#[derive(Clone)]
pub struct Connections {
    room: Arc<Semaphore>,
    shares: Arc<Shares>,
}

/// How many connections each client address has.
struct Shares {
    /// As [`Limits::max_connections_per_client`].
    most: Option<usize>,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place among those of its client, given back when dropped.
struct Share {
    shares: Arc<Shares>,
    client: IpAddr,
}

impl Shares {
    /// A place for one more connection, if the client may have it.
    fn take(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let client = client.to_canonical();
        let default = if client.is_loopback() { usize::MAX } else { Limits::SHARE_OF_CONNECTIONS };
        let mut taken = self.lock();
        let count = taken.entry(client).or_default();
        if *count >= self.most.unwrap_or(default) {
            return None;
        }
        *count += 1;
        Some(Share { shares: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

impl Connections {
    /// Room for all, and for the one that is waited for; `most_per_client` as [`Limits::max_connections_per_client`].
    pub fn new(most_per_client: Option<usize>) -> Self {
        let shares = Shares { most: most_per_client, taken: Mutex::default() };
        Self { room: Arc::new(Semaphore::new(MOST_CONNECTIONS as usize + 1)), shares: Arc::new(shares) }
    }

    /// Accepts clients for ever.
    pub async fn accept(self, listener: TcpListener, app: Arc<App>, router: Router) {
        loop {
            let permit = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
            let Ok((stream, client)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Some(share) = self.shares.take(client.ip()) else {
                app.metrics.refuse();
                let _ = stream.try_write(TOO_MANY); // nobody waits for a client that takes too much
                continue;
            };
            let work = serve(stream, client, Arc::clone(&app), router.clone());
            tokio::spawn(async move {
                work.await;
                drop((share, permit));
            });
        }
    }

    /// Waits until every connection has ended, but no longer than `limit`.
    pub async fn ended(&self, limit: Duration) {
        let _ = timeout(limit, self.room.acquire_many(MOST_CONNECTIONS)).await; // the rest is cut off
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(most: Option<usize>) -> Arc<Shares> {
        Arc::new(Shares { most, taken: Mutex::default() })
    }

    #[test]
    fn a_client_has_its_share_and_gives_it_back() {
        let (shares, one, other) = (shares(Some(2)), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [shares.take(one).unwrap(), shares.take(one).unwrap()];
        assert!(shares.take(one).is_none() && shares.take(other).is_some());
        drop(held);
        assert!(shares.take(one).is_some() && shares.lock().is_empty());
    }

    #[test]
    fn proxies_on_this_machine_are_many_clients_and_no_others() {
        let shares = shares(None);
        for (address, most) in [("10.0.0.1", 256), ("2001:db8::1", 256), ("127.0.0.1", 2000), ("::1", 2000)] {
            let held: Vec<Share> = (0..2000).map_while(|_| shares.take(address.parse().unwrap())).collect();
            assert_eq!(held.len(), most, "{address}");
        }
        let mapped: Vec<Share> = (0..300).map_while(|_| shares.take("::ffff:10.0.0.1".parse().unwrap())).collect();
        assert_eq!(mapped.len(), 256);
        assert!(shares.take("10.0.0.1".parse().unwrap()).is_none(), "one client by two names");
    }
}
