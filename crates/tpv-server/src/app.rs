//! What all connections share: the model once it is there, what is under way, and whether the server stops.

use crate::admission::Admission;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::worker::Command;
use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Semaphore, watch};
use tpv_core::policy::PolicyContext;
use tpv_core::vector::{ModelIdentity, VectorInfo};
use tpv_engine::decode::SampleId;
use tpv_engine::model::Prompter;
use tpv_engine::prepared_vector::PreparedVector;

/// What all connections share.
pub struct App {
    /// What was decided before the start.
    pub config: ServerConfig,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Seconds since 1970 at the start.
    pub started_unix_secs: u64,
    /// Room for samples.
    pub admission: Arc<Admission>,
    /// The right to make prompts.
    pub tokenising: Arc<Semaphore>,
    ready: OnceLock<Ready>,
    stopping: watch::Sender<bool>,
    running: Mutex<HashMap<String, Vec<SampleId>>>,
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
    /// What is made of it for the model.
    pub prepared: PreparedVector,
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

impl App {
    /// A server without a model.
    pub fn new(config: ServerConfig) -> Self {
        Self {
            metrics: Arc::default(),
            started_unix_secs: unix_secs(),
            admission: Admission::new(config.limits),
            tokenising: Arc::new(Semaphore::new(1)),
            config,
            ready: OnceLock::new(),
            stopping: watch::Sender::new(false),
            running: Mutex::default(),
        }
    }

    /// The model is there.
    pub fn set_ready(&self, ready: Ready) {
        // A second model would be a second call, and there is only one.
        let _ = self.ready.set(ready);
    }

    /// The model for new work, or a refusal while there is none.
    pub fn ready(&self) -> Result<&Ready, ApiError> {
        if self.is_stopping() { Err(ApiError::stopping()) } else { self.loaded() }
    }

    /// The model, also for what is under way while the server stops.
    pub fn loaded(&self) -> Result<&Ready, ApiError> {
        self.ready.get().ok_or_else(|| ApiError::busy("loading", "the model is still loading; try again in a moment"))
    }

    /// The way to the decode loop, if there is one.
    pub fn commands(&self) -> Option<&Sender<Command>> {
        self.ready.get().map(|ready| &ready.commands)
    }

    /// No new work from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether no new work is taken.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until no new work is taken.
    pub async fn stopped(&self) {
        let _ = self.stopping.subscribe().wait_for(|&stopping| stopping).await; // the sender lives as long as `self`
    }

    /// The samples of the answers under way, by the answers' ids.
    pub fn running(&self) -> MutexGuard<'_, HashMap<String, Vec<SampleId>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
pub fn unix_secs() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
