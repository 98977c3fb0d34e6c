//! What all connections share, and which path leads where.

use crate::answer;
use crate::config::ServerConfig;
use crate::control;
use crate::error::ApiError;
use crate::guard;
use crate::http::{Request, Response};
use crate::metrics::Metrics;
use crate::models;
use crate::page;
use crate::response::Form;
use crate::worker::Command;
use serde_json::Value;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tpv_core::policy::PolicyContext;
use tpv_core::reading::ReadingModel;
use tpv_core::vector::{ModelIdentity, VectorInfo};
use tpv_engine::decode::SampleId;
use tpv_engine::model::Prompter;

/// What all connections share.
pub struct App {
    /// What was decided before the start.
    pub config: ServerConfig,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Seconds since 1970 at the start.
    pub started_unix_secs: u64,
    ready: OnceLock<Ready>,
    stopping: AtomicBool,
    running: Mutex<HashMap<String, Vec<SampleId>>>,
    admitted: Mutex<Admitted>,
}

/// What is there once the model is loaded.
pub struct Ready {
    /// Makes prompts.
    pub prompts: Arc<Prompter>,
    /// Which model it is.
    pub identity: ModelIdentity,
    /// The arithmetic, and where it runs.
    pub dtype: String,
    /// The longest sequence, prompt included.
    pub max_positions: usize,
    /// What policies must know of model and vector.
    pub policies: PolicyContext,
    /// The way to the decode loop.
    pub commands: Sender<Command>,
    /// The vector, if there is one.
    pub vector: Option<ReadyVector>,
}

/// A vector in use.
pub struct ReadyVector {
    /// Makes readers.
    pub reading: Arc<ReadingModel>,
    /// `W theta`, `[V]`.
    pub shift: Arc<[f32]>,
    /// What one unit of alpha adds to the logit of `</think>`, less what it adds to a logit on average.
    pub think_end_shift: f32,
    /// `|theta|`.
    pub theta_norm: f32,
    /// Effort levels.
    pub efforts: std::collections::BTreeMap<String, f32>,
    /// Where it comes from.
    pub info: VectorInfo,
    /// What the user should know about it.
    pub warnings: Vec<String>,
}

#[derive(Default)]
struct Admitted {
    samples: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl App {
    /// A server without a model.
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config,
            metrics: Arc::default(),
            started_unix_secs: unix_secs(),
            ready: OnceLock::new(),
            stopping: AtomicBool::new(false),
            running: Mutex::default(),
            admitted: Mutex::default(),
        }
    }

    /// The model is there.
    pub fn set_ready(&self, ready: Ready) {
        // A second model would be a second call, and there is only one.
        let _ = self.ready.set(ready);
    }

    /// The model, or a refusal while there is none.
    pub fn ready(&self) -> Result<&Ready, ApiError> {
        if self.is_stopping() {
            return Err(ApiError::busy("stopping", "the server is stopping"));
        }
        self.ready.get().ok_or_else(|| ApiError::busy("loading", "the model is still loading; try again in a moment"))
    }

    /// No new work from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether no new work is taken.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The samples of the answers under way, by the answers' ids.
    pub fn running(&self) -> MutexGuard<'_, HashMap<String, Vec<SampleId>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for samples of a client, or says why there is none.
    pub fn admit(self: &Arc<Self>, client: IpAddr, samples: usize) -> Result<Room, ApiError> {
        let limits = self.config.limits;
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = admitted.by_client.get(&client).copied().unwrap_or(0);
        let error = if admitted.samples + samples > limits.max_batch + limits.max_queue {
            ApiError::busy("overloaded", "all slots are taken and the queue is full; try again in a moment")
        } else if of_client + samples > limits.max_per_client {
            ApiError::too_many(limits.max_per_client)
        } else {
            admitted.samples += samples;
            admitted.by_client.insert(client, of_client + samples);
            return Ok(Room { app: Arc::clone(self), client, samples });
        };
        self.metrics.refuse();
        Err(error)
    }
}

/// Room for samples, given back when dropped.
pub struct Room {
    app: Arc<App>,
    client: IpAddr,
    samples: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut admitted = self.app.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.samples -= self.samples;
        if let Some(count) = admitted.by_client.get_mut(&self.client) {
            *count -= self.samples;
            if *count == 0 {
                admitted.by_client.remove(&self.client);
            }
        }
    }
}

/// Answers a request.
pub async fn handle(app: Arc<App>, request: Request) -> Response {
    let origin = guard::allowed_origin(&request, &app.config.access).map(str::to_owned);
    let response = match guard::check(&request, &app.config.access) {
        Err(error) => error.into(),
        Ok(()) if request.method == "OPTIONS" => preflight(),
        Ok(()) => route(&app, request).await.unwrap_or_else(Response::from),
    };
    let response = response.header("x-content-type-options", "nosniff");
    match origin {
        Some(origin) => response.header("access-control-allow-origin", origin).header("vary", "Origin"),
        None => response,
    }
}

fn preflight() -> Response {
    Response::new(204, "text/plain", "")
        .header("access-control-allow-methods", "GET, POST")
        .header("access-control-allow-headers", "authorization, content-type")
        .header("access-control-max-age", "600")
}

async fn route(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let path = request.path.clone();
    match (request.method.as_str(), path.as_str()) {
        ("POST", "/v1/chat/completions") => answer::answer(app, &request, Form::Chat).await,
        ("POST", "/v1/completions") => answer::answer(app, &request, Form::Completion).await,
        ("POST", "/v1/chat/completions/control") => control::control(app, &request).await,
        ("GET", "/v1/models") => models::list(app),
        ("GET", "/health") => app.ready().map(|_| Response::json(200, &serde_json::json!({ "status": "ok" }))),
        ("GET", "/metrics") => Ok(Response::new(200, "text/plain; version=0.0.4", app.metrics.render())),
        ("GET", _) if page::file(&path).is_some() => Ok(page::response(&path)),
        ("GET", _) if path.starts_with("/v1/models/") => models::one(app, &path["/v1/models/".len()..]),
        (_, "/v1/chat/completions" | "/v1/completions" | "/v1/chat/completions/control") => Err(method("POST")),
        (_, "/" | "/v1/models" | "/health" | "/metrics") => Err(method("GET")),
        _ => Err(ApiError::new(404, "not_found", format!("there is nothing at {path}; the API is under /v1"))),
    }
}

fn method(allowed: &str) -> ApiError {
    ApiError::new(405, "method_not_allowed", format!("use {allowed} here"))
}

/// The body of a request as JSON.
pub fn json_body(request: &Request) -> Result<Value, ApiError> {
    serde_json::from_slice(&request.body)
        .map_err(|error| ApiError::new(400, "invalid_json", format!("the body is no JSON: {error}")))
}

/// Seconds since 1970.
pub fn unix_secs() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
