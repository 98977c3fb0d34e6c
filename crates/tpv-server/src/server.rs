//! The server's life: listen, load, serve, stop.

use crate::app::{App, Ready, ReadyVector};
use crate::config::{ConfigError, ServerConfig};
use crate::connection::Connections;
use crate::routes::router;
use crate::worker::Worker;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tpv_core::policy::PolicyContext;
use tpv_core::policy::scale::unmeasured_logits_per_alpha;
use tpv_core::vector::ProgressVector;
use tpv_engine::error::EngineError;
use tpv_engine::model::TextModel;
use tpv_engine::prepared_vector::PreparedVector;

/// How long the last bytes may take to their readers once the decode loop has ended.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// The least KV memory in tokens: a short question with a short thought.
const LEAST_KV_TOKENS: usize = 256;

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Something that it was told cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is not loopback, and nothing says who may call.
    #[error(
        "{0} can be reached from other machines; give an API key (--api_key_file or TPV_API_KEY), or --no_auth to let everybody in"
    )]
    Open(SocketAddr),
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}; choose another --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The KV memory is too small for any conversation.
    #[error(
        "the KV memory holds {tokens} tokens, and a server needs {LEAST_KV_TOKENS} at least; give more with --kv_memory"
    )]
    KvMemory {
        /// What it holds.
        tokens: usize,
    },
    /// The runtime did not start.
    #[error("the network runtime cannot start: {0}")]
    Runtime(std::io::Error),
    /// The vector cannot be used with the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What is served.
pub struct Served {
    /// The model.
    pub model: TextModel,
    /// Its vector; without one there is neither progress nor control.
    pub vector: Option<ServedVector>,
}

/// A vector with what belongs to it.
pub struct ServedVector {
    /// The vector; its width must be the model's.
    pub vector: ProgressVector,
    /// What the user should know, e.g. that it was made for another model.
    pub warnings: Vec<String>,
}

/// A server that listens, and refuses with 503 until it has a model.
pub struct Server {
    app: Arc<App>,
    connections: Connections,
    runtime: Runtime,
    address: SocketAddr,
}

impl Server {
    /// Listens; the model comes with [`Server::load`].
    pub fn start(config: ServerConfig) -> Result<Self, ServerError> {
        config.check()?;
        let address = config.address;
        let locked = config.access.api_key.is_some() || config.access.open_to_all;
        if !address.ip().is_loopback() && !locked {
            return Err(ServerError::Open(address));
        }
        let listen = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(ServerError::Runtime)?;
        let connections = Connections::new(config.limits.max_connections_per_client);
        let app = Arc::new(App::new(config));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(listen)?
        };
        runtime.spawn(connections.clone().accept(listener, Arc::clone(&app), router(Arc::clone(&app))));
        Ok(Self { app, connections, runtime, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes a model; from now on requests are let in.
    pub fn load(self, served: Served) -> Result<LoadedServer, ServerError> {
        let Served { model, vector } = served;
        let vector = vector.map(|vector| ready_vector(vector, &model)).transpose()?;
        let TextModel { identity, decoder, prompts, .. } = model;
        if let Some(tokens) = decoder.kv_tokens().1.filter(|&tokens| tokens < LEAST_KV_TOKENS) {
            return Err(ServerError::KvMemory { tokens });
        }
        let (commands, receiver) = mpsc::channel();
        let without_vector = || PolicyContext::without_vector(&prompts.think_end);
        let policies = vector.as_ref().map_or_else(without_vector, |vector| vector.prepared.context.clone());
        let spec = decoder.spec();
        // A sample may become no longer than the KV memory.
        let max_positions = spec.max_positions.min(decoder.kv_tokens().1.unwrap_or(usize::MAX));
        self.app.set_ready(Ready {
            prompts,
            identity,
            dtype: format!("{} on {}", spec.dtype, spec.device),
            max_positions,
            policies,
            commands,
            vector,
        });
        let worker = Worker::new(decoder, receiver, Arc::clone(&self.app.metrics));
        Ok(LoadedServer { server: self, worker })
    }
}

/// A server with a model.
pub struct LoadedServer {
    server: Server,
    worker: Worker,
}

impl LoadedServer {
    /// Serves on this thread until `should_stop` holds; what is under way then gets the time of
    /// [`Limits::grace`](crate::config::Limits::grace), unless `must_stop` holds before.
    pub fn run(self, should_stop: impl Fn() -> bool, must_stop: impl Fn() -> bool) {
        let Server { app, connections, runtime, .. } = self.server;
        let stop = || {
            let stops = should_stop();
            if stops {
                app.stop();
            }
            stops
        };
        self.worker.run(stop, must_stop, app.config.limits);
        runtime.block_on(connections.ended(LAST_BYTES));
        runtime.shutdown_background();
    }
}

fn ready_vector(served: ServedVector, model: &TextModel) -> Result<ReadyVector, EngineError> {
    let ServedVector { vector, warnings } = served;
    let prepared = PreparedVector::new(&vector, model)?;
    Ok(ReadyVector {
        think_end_shift: unmeasured_logits_per_alpha(&prepared.shift, model.prompts.think_end[0]),
        theta_norm: vector.theta.iter().map(|value| value * value).sum::<f32>().sqrt(),
        prepared,
        efforts: vector.efforts,
        info: vector.info,
        warnings,
    })
}
