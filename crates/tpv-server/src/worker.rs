//! The one thread that owns the decode loop: commands in, events out.
//!
//! Requests talk to it through channels and never wait for each other. An event goes to the bounded queue of its request;
//! when that is full the sample is cancelled, so a slow reader neither stops the loop nor fills the memory.

use crate::config::Limits;
use crate::error::ApiError;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::policy::{Control, Observation, Policy};
use tpv_core::reading::{Reader, Reading, StateView};
use tpv_engine::decode::{DecodeSink, Decoder, PromptRequest, SampleId};
use tpv_engine::error::EngineError;

/// How long the idle loop sleeps before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(50);

/// Something that happened to a sample.
#[derive(Debug, Clone)]
pub enum SampleEvent {
    /// A token of the choice with this number.
    Token(usize, TokenEvent),
    /// The end of the choice with this number.
    Finish(usize, FinishEvent),
    /// The end of everything that belongs to the request, before its time.
    Lost(ApiError),
}

/// What the loop is asked to do.
pub enum Command {
    /// Start samples; the choices are numbered from `first_choice`.
    Submit {
        /// Prompt and samples.
        request: PromptRequest,
        /// The number of the first sample.
        first_choice: usize,
        /// Where events go.
        events: mpsc::Sender<SampleEvent>,
        /// The samples' ids, or why there are none.
        accepted: oneshot::Sender<Result<Vec<SampleId>, EngineError>>,
    },
    /// Replace the policies of samples and, if asked, end their thinking; answers how many were under way.
    Control {
        /// The samples with their new policies.
        samples: Vec<(SampleId, Option<Box<dyn Policy>>)>,
        /// Close the thinking.
        end_thinking: bool,
        /// How many samples were still under way.
        applied: oneshot::Sender<usize>,
    },
    /// Nobody waits for these any more.
    Cancel(Vec<SampleId>),
}

/// The loop with the addresses of its events.
pub struct Worker {
    decoder: Decoder,
    commands: blocking::Receiver<Command>,
    routes: Routes,
    metrics: Arc<Metrics>,
}

struct Routes {
    by_sample: HashMap<SampleId, Route>,
    /// Samples whose reader has left or is too slow.
    left: Vec<SampleId>,
    metrics: Arc<Metrics>,
}

struct Route {
    choice: usize,
    events: mpsc::Sender<SampleEvent>,
}

impl Worker {
    /// A loop over `decoder` that obeys `commands`.
    pub fn new(decoder: Decoder, commands: blocking::Receiver<Command>, metrics: Arc<Metrics>) -> Self {
        let routes = Routes { by_sample: HashMap::new(), left: Vec::new(), metrics: Arc::clone(&metrics) };
        Self { decoder, commands, routes, metrics }
    }

    /// Works until `should_stop` holds, then for at most [`Limits::grace`] longer on what is under way.
    pub fn run(mut self, should_stop: impl Fn() -> bool, limits: Limits) {
        let mut deadline: Option<Instant> = None;
        loop {
            self.obey();
            if deadline.is_none() && should_stop() {
                deadline = Some(Instant::now() + limits.grace);
            }
            if deadline.is_some_and(|deadline| self.routes.by_sample.is_empty() || Instant::now() >= deadline) {
                return self.end_all(&ApiError::stopping());
            }
            let started = Instant::now();
            self.step();
            if !self.routes.by_sample.is_empty() {
                std::thread::sleep(limits.step_time.saturating_sub(started.elapsed()));
            }
        }
    }

    fn obey(&mut self) {
        if self.decoder.samples_in_flight() == 0
            && let Ok(command) = self.commands.recv_timeout(IDLE)
        {
            self.obey_one(command);
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey_one(command);
        }
    }

    fn obey_one(&mut self, command: Command) {
        match command {
            Command::Submit { request, first_choice, events, accepted } => {
                let result = self.decoder.submit(request);
                for (number, &id) in result.iter().flatten().enumerate() {
                    let route = Route { choice: first_choice + number, events: events.clone() };
                    self.routes.by_sample.insert(id, route);
                }
                if let Err(Ok(ids)) = accepted.send(result) {
                    ids.into_iter().for_each(|id| self.decoder.cancel(id));
                }
            }
            Command::Control { samples, end_thinking, applied } => {
                let mut count = 0;
                for (id, policy) in samples {
                    let known = self.routes.by_sample.contains_key(&id);
                    let replaced = policy.is_none_or(|policy| self.decoder.set_policy(id, policy));
                    let ended = !end_thinking || self.decoder.end_thinking(id);
                    count += usize::from(known && replaced && ended);
                }
                let _ = applied.send(count); // the asker may have left
            }
            Command::Cancel(ids) => ids.into_iter().for_each(|id| self.decoder.cancel(id)),
        }
    }

    fn step(&mut self) {
        let (decoder, routes) = (&mut self.decoder, &mut self.routes);
        match catch_unwind(AssertUnwindSafe(|| decoder.step(routes))) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.fail_all(&ApiError::internal(error.to_string())),
            Err(_) => self.fail_all(&ApiError::internal("a step of the model failed")),
        }
        for id in std::mem::take(&mut self.routes.left) {
            self.decoder.cancel(id);
        }
        self.metrics.set_load(
            self.decoder.samples_in_flight(),
            self.decoder.samples_waiting(),
            self.decoder.kv_tokens(),
        );
    }

    /// Gives up everything under way; the loop itself goes on.
    fn fail_all(&mut self, why: &ApiError) {
        let ids: Vec<SampleId> = self.routes.by_sample.keys().copied().collect();
        ids.iter().for_each(|&id| self.decoder.cancel(id));
        self.end_all(why);
    }

    fn end_all(&mut self, why: &ApiError) {
        for (_, route) in self.routes.by_sample.drain() {
            self.metrics.finish(&FinishEvent::empty(FinishReason::Failed));
            let _ = route.events.try_send(SampleEvent::Lost(why.clone())); // the reader may have left
        }
    }
}

impl DecodeSink for Routes {
    fn token(&mut self, sample: SampleId, event: TokenEvent, _hidden_post_norm: &[f32]) {
        let Some(route) = self.by_sample.get(&sample) else { return };
        self.metrics.token(&event);
        if route.events.try_send(SampleEvent::Token(route.choice, event)).is_err() {
            self.left.push(sample);
        }
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        let Some(route) = self.by_sample.remove(&sample) else { return };
        self.metrics.finish(&event);
        let _ = route.events.try_send(SampleEvent::Finish(route.choice, event)); // the reader may have left
    }
}

/// A reader whose panic costs its own sample the readings and nobody else anything.
pub struct Guarded<T> {
    inner: T,
    failed: AtomicBool,
}

impl<T> Guarded<T> {
    /// Guards a reader or a policy.
    pub fn new(inner: T) -> Self {
        Self { inner, failed: AtomicBool::new(false) }
    }

    fn attempt<R>(&mut self, call: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut self.inner))).ok();
        self.failed.store(result.is_none(), Ordering::Relaxed);
        result
    }
}

impl Reader for Guarded<Box<dyn Reader>> {
    fn read(&mut self, state: StateView<'_>) -> Reading {
        let unread = Reading { position: state.position, ..Reading::default() };
        self.attempt(|reader| reader.read(state)).unwrap_or(unread)
    }
}

impl Policy for Guarded<Box<dyn Policy>> {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        self.attempt(|policy| policy.control(observation)).unwrap_or_default()
    }
}
