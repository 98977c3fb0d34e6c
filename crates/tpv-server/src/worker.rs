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
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::policy::Policy;
use tpv_engine::decode::{DecodeSink, Decoder, PromptRequest, SampleId};
use tpv_engine::error::EngineError;

/// How long the loop waits for commands before it looks whether it should stop.
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
    /// When its last token came, in seconds after the submission.
    last_token_secs: Option<f64>,
    /// `None` once its reader has left or was too slow.
    events: Option<mpsc::Sender<SampleEvent>>,
}

impl Worker {
    /// A loop over `decoder` that obeys `commands`.
    pub fn new(decoder: Decoder, commands: blocking::Receiver<Command>, metrics: Arc<Metrics>) -> Self {
        let routes = Routes { by_sample: HashMap::new(), left: Vec::new(), metrics: Arc::clone(&metrics) };
        Self { decoder, commands, routes, metrics }
    }

    /// Works until `should_stop` holds, then for at most [`Limits::grace`] longer on what is under way, or until `must_stop`
    /// holds.
    pub fn run(mut self, should_stop: impl Fn() -> bool, must_stop: impl Fn() -> bool, limits: Limits) {
        let mut deadline: Option<Instant> = None;
        let mut next_step = Instant::now();
        loop {
            self.obey(next_step);
            if deadline.is_none() && should_stop() {
                deadline = Some(Instant::now() + limits.grace);
            }
            let is_over = |deadline| self.routes.by_sample.is_empty() || Instant::now() >= deadline || must_stop();
            if deadline.is_some_and(is_over) {
                return self.end_all(&ApiError::stopping());
            }
            let started = Instant::now();
            if started < next_step {
                continue;
            }
            self.step();
            // The first step after a pause comes at once.
            let pause = if self.routes.by_sample.is_empty() { Duration::ZERO } else { limits.step_time };
            next_step = started + pause;
        }
    }

    /// Does what is asked, and waits for it a while if nothing else is to be done before the next step.
    fn obey(&mut self, next_step: Instant) {
        let is_idle = self.decoder.samples_in_flight() == 0;
        let wait = if is_idle { IDLE } else { IDLE.min(next_step.saturating_duration_since(Instant::now())) };
        if let Ok(command) = self.commands.recv_timeout(wait) {
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
                    let choice = first_choice + number;
                    let route = Route { choice, last_token_secs: None, events: Some(events.clone()) };
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
        self.metrics.set_load(&self.decoder);
    }

    /// Gives up everything under way; the loop itself goes on.
    fn fail_all(&mut self, why: &ApiError) {
        let ids: Vec<SampleId> = self.routes.by_sample.keys().copied().collect();
        ids.iter().for_each(|&id| self.decoder.cancel(id));
        self.end_all(why);
    }

    fn end_all(&mut self, why: &ApiError) {
        for (_, route) in self.routes.by_sample.drain() {
            self.metrics.lose();
            route.send(SampleEvent::Lost(why.clone()));
        }
    }
}

impl Route {
    /// Whether the event was taken: the reader may have left, or be too slow.
    fn send(&self, event: SampleEvent) -> bool {
        self.events.as_ref().is_some_and(|events| events.try_send(event).is_ok())
    }
}

impl DecodeSink for Routes {
    fn token(&mut self, sample: SampleId, event: TokenEvent) {
        let Some(route) = self.by_sample.get_mut(&sample) else { return };
        let before = route.last_token_secs.replace(event.elapsed_secs);
        self.metrics.token(&event, before.map(|before| event.elapsed_secs - before));
        if route.events.is_some() && !route.send(SampleEvent::Token(route.choice, event)) {
            route.events = None;
            self.left.push(sample);
        }
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        let Some(route) = self.by_sample.remove(&sample) else { return };
        self.metrics.finish(&event);
        route.send(SampleEvent::Finish(route.choice, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpv_core::event::FinishReason;
    use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
    use tpv_core::policy::{Constant, Control, Observation};

    use tpv_core::sampling::SamplingParams;
    use tpv_engine::decode::{DecodeLimits, SampleRequest};
    use tpv_engine::scripted::{ScriptedEngine, ScriptedStep, ScriptedVocabulary};

    const TEXTS: [&str; 4] = ["hm ", "</think>", "42", ""];

    fn decoder() -> Decoder {
        let script = |tokens: &[u32]| ScriptedStep { next: if tokens.len() < 9 { 0 } else { 3 }, progress: 0.5 };
        let engine = ScriptedEngine::new(TEXTS.len(), 1, script);
        Decoder::new(Box::new(engine), Arc::new(ScriptedVocabulary::new(&TEXTS, 3, &[1])), DecodeLimits::default())
    }

    struct Breaking;

    impl Policy for Breaking {
        fn control(&mut self, _: &Observation<'_>) -> Control {
            panic!("broken on purpose")
        }
    }

    /// Works through one request for each policy; their events, with room for `ahead` of each.
    fn events(policies: Vec<Box<dyn Policy>>, ahead: usize) -> Vec<Vec<SampleEvent>> {
        let (commands, receiver) = blocking::channel();
        let submit = |policy: Box<dyn Policy>| {
            let sample = SampleRequest { policy, ..SampleRequest::new(SamplingParams::GREEDY, 0, 50) };
            let phase = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "<think>");
            let request = PromptRequest { tokens: vec![2], phase, samples: vec![sample] };
            let (sender, events) = mpsc::channel(ahead);
            let (accepted, answer) = oneshot::channel();
            commands.send(Command::Submit { request, first_choice: 0, events: sender, accepted }).unwrap();
            (events, answer)
        };
        let waiting: Vec<_> = policies.into_iter().map(submit).collect();
        Worker::new(decoder(), receiver, Arc::default()).run(|| true, || false, Limits::default());
        let all = |(mut events, _answer): (mpsc::Receiver<SampleEvent>, _)| {
            std::iter::from_fn(|| events.try_recv().ok()).collect()
        };
        waiting.into_iter().map(all).collect()
    }

    fn tokens(events: &[SampleEvent]) -> Vec<u32> {
        let token =
            |event: &SampleEvent| if let SampleEvent::Token(_, event) = event { Some(event.token) } else { None };
        events.iter().filter_map(token).collect()
    }

    fn reason(events: &[SampleEvent]) -> Option<FinishReason> {
        if let Some(SampleEvent::Finish(_, event)) = events.last() { Some(event.reason) } else { None }
    }

    #[test]
    fn a_request_that_panics_costs_nobody_else_anything() {
        let alone = events(vec![Box::new(Constant::default())], 100);
        let both = events(vec![Box::new(Breaking), Box::new(Constant::default())], 100);
        assert_eq!(reason(&both[0]), Some(FinishReason::Failed));
        assert_eq!(reason(&both[1]), Some(FinishReason::Stop));
        assert_eq!(tokens(&both[1]), tokens(&alone[0]));
        assert_eq!(tokens(&both[1]).len(), 9);
    }

    #[test]
    fn a_queue_that_nobody_empties_ends_its_sample_alone() {
        let both = events(vec![Box::new(Constant::default()), Box::new(Constant::default())], 3);
        assert_eq!((tokens(&both[0]).len(), reason(&both[0])), (3, None));
        let roomy = events(vec![Box::new(Constant::default())], 100);
        assert_eq!(reason(&roomy[0]), Some(FinishReason::Stop));
    }
}
