//! From a wish to samples in the decode loop: prompts, policies, and the ticket that cancels them when nobody waits.

use crate::admission::Room;
use crate::app::{App, Ready};
use crate::error::ApiError;
use crate::policy;
use crate::request::{Input, PromptInput, Wish};
use crate::worker::{Command, SampleEvent};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tpv_core::policy::{Alpha, Constant, Policy};
use tpv_core::reading::{BlindReader, Reader};
use tpv_core::sampling::sample_seed;
use tpv_core::text::shortened;
use tpv_engine::decode::{PromptRequest, SampleId, SampleRequest, StopText};
use tpv_engine::error::EngineError;
use tpv_engine::model::{Prompt, PromptStyle};
use tpv_engine::template::ChatOptions;

/// Events of one sample that may wait for a slow reader; one that falls further behind loses its samples.
const EVENTS_AHEAD: usize = 2048;

/// The right to samples in the decode loop: dropping it cancels those that have not ended.
pub struct Ticket {
    /// What the samples work for.
    pub app: Arc<App>,
    /// Names the answer.
    pub id: String,
    ids: Vec<SampleId>,
    /// Whether the answer is no longer waited for because it is complete or was given up on this side.
    ended: bool,
    _room: Arc<Room>,
}

impl Ticket {
    /// A ticket without samples.
    pub fn new(app: Arc<App>, id: String, room: Arc<Room>) -> Self {
        Self { app, id, ids: Vec::new(), ended: false, _room: room }
    }

    /// Starts the samples of a wish; their events come through the receiver.
    pub async fn submit(&mut self, wish: &Wish, prompts: Vec<Prompt>) -> Result<mpsc::Receiver<SampleEvent>, ApiError> {
        let started = self.start(wish, prompts).await;
        self.ended = started.is_err(); // refused on this side
        started
    }

    async fn start(&mut self, wish: &Wish, prompts: Vec<Prompt>) -> Result<mpsc::Receiver<SampleEvent>, ApiError> {
        let app = Arc::clone(&self.app);
        let ready = app.ready()?;
        let seed = wish.seed.unwrap_or_else(random);
        let stop_texts: Arc<[StopText]> = wish.stop_texts.iter().map(|text| StopText::new(text)).collect();
        let (sender, events) = mpsc::channel(EVENTS_AHEAD * prompts.len() * wish.samples);
        for (number, prompt) in prompts.into_iter().enumerate() {
            let samples = (0..wish.samples).map(|sample| {
                let seed = sample_seed(seed, number as u64, sample as u64);
                let request = sample_request(ready, wish, &prompt, seed, app.config.limits.max_new_tokens)?;
                Ok(SampleRequest { stop_texts: Arc::clone(&stop_texts), ..request })
            });
            let samples = samples.collect::<Result<_, _>>()?;
            let request = PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples };
            let (accepted, answer) = oneshot::channel();
            let first_choice = number * wish.samples;
            let command = Command::Submit { request, first_choice, events: sender.clone(), accepted };
            ready.commands.send(command).map_err(|_| ApiError::stopping())?;
            self.ids.extend(answer.await.map_err(|_| ApiError::stopping())?.map_err(refused)?);
        }
        self.app.running().insert(self.id.clone(), self.ids.clone());
        Ok(events)
    }

    /// The answer is complete, or was given up on this side.
    pub fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.app.running().remove(&self.id);
        if !self.ended {
            self.app.metrics.disconnect();
        }
        if let Some(commands) = self.app.commands().filter(|_| !self.ids.is_empty()) {
            let _ = commands.send(Command::Cancel(std::mem::take(&mut self.ids))); // the loop may have ended
        }
    }
}

/// A number that nobody can guess: the standard library seeds its hash tables with one.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn sample_request(
    ready: &Ready,
    wish: &Wish,
    prompt: &Prompt,
    seed: u64,
    max_new_tokens: usize,
) -> Result<SampleRequest, ApiError> {
    let room = ready.max_positions - prompt.tokens.len();
    let asked = wish.max_tokens.map_or(max_new_tokens, |asked| asked.min(max_new_tokens));
    let reader: Box<dyn Reader> = match &ready.vector {
        Some(vector) => Box::new(vector.prepared.reading.reader(None)),
        None => Box::new(BlindReader),
    };
    Ok(SampleRequest {
        shift: ready.vector.as_ref().map(|vector| Arc::clone(&vector.prepared.shift)),
        reader,
        policy: policy_of(ready, wish)?,
        logit_bias: wish.logit_bias.clone(),
        // A plain completion's text is all of one kind.
        stop_in_thinking: matches!(wish.input, Input::Completion(_)),
        ..SampleRequest::new(wish.sampling, seed, asked.min(room))
    })
}

/// Refuses biases on tokens that there are not.
pub fn check_bias(ready: &Ready, wish: &Wish) -> Result<(), ApiError> {
    let size = ready.identity.vocab_size;
    match wish.logit_bias.iter().find(|(token, _)| *token as usize >= size) {
        Some((token, _)) => {
            let message = format!("logit_bias: token {token} is outside the vocabulary of {size} tokens");
            Err(ApiError::field("logit_bias", message))
        }
        None => Ok(()),
    }
}

/// The policy that a wish asks for: one by name goes before an effort, which must be known all the same.
pub fn policy_of(ready: &Ready, wish: &Wish) -> Result<Box<dyn Policy>, ApiError> {
    let of_effort = wish.effort.as_ref().map(|effort| effort_policy(ready, effort)).transpose()?;
    let named = wish.policy.as_ref().map(|text| policy::parse("tpv.policy", text, &ready.policies)).transpose()?;
    Ok(named.or(of_effort).unwrap_or_else(|| Box::new(Constant::default())))
}

/// The policy of an effort level; `medium` is the model as it is unless the vector says otherwise.
fn effort_policy(ready: &Ready, effort: &str) -> Result<Box<dyn Policy>, ApiError> {
    let levels = &ready.policies.efforts;
    match levels.get(effort) {
        Some(&alpha) => Ok(Box::new(Constant(Alpha(alpha)))),
        None if effort == "medium" => Ok(Box::new(Constant::default())),
        None => {
            let known: Vec<&str> = levels.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "medium only".into() } else { known.join(", ") };
            let effort = shortened(effort);
            let message = format!("reasoning_effort \"{effort}\" is no level of this vector ({known}); use tpv.policy");
            Err(ApiError::field("reasoning_effort", message))
        }
    }
}

/// Prompts of a wish.
pub fn prompt_count(wish: &Wish) -> usize {
    match &wish.input {
        Input::Chat(_) => 1,
        Input::Completion(inputs) => inputs.len(),
    }
}

/// The prompts of a wish, made where nothing else waits for them, one wish after the other: long ones take seconds. Turn and
/// room are held until they are made, also where the client has left meanwhile.
pub async fn prompts(app: &Arc<App>, wish: &Arc<Wish>, room: Arc<Room>) -> Result<Vec<Prompt>, ApiError> {
    let turn = Arc::clone(&app.tokenising).acquire_owned().await.map_err(|_| ApiError::stopping())?;
    let (app, wish) = (Arc::clone(app), Arc::clone(wish));
    let make = move || {
        let _held = (turn, room);
        make_prompts(app.ready()?, &wish)
    };
    let made = tokio::task::spawn_blocking(make).await;
    made.unwrap_or_else(|error| Err(ApiError::internal(error.to_string())))
}

/// Refuses a text that is too long however it is cut into tokens, before anybody cuts it.
fn refuse_too_long(ready: &Ready, field: &str, bytes: usize) -> Result<(), ApiError> {
    let least = ready.prompts.least_tokens(bytes);
    if least < ready.max_positions { Ok(()) } else { Err(too_long(ready, field, &format!("at least {least}"))) }
}

fn too_long(ready: &Ready, field: &str, found: &str) -> ApiError {
    let most = ready.max_positions;
    let message =
        format!("{field}: {found} tokens leave no room for an answer; model and KV memory have {most} positions");
    ApiError { code: "context_length_exceeded", ..ApiError::field(field, message) }
}

/// The prompts of a wish; each leaves room for an answer.
fn make_prompts(ready: &Ready, wish: &Wish) -> Result<Vec<Prompt>, ApiError> {
    match &wish.input {
        Input::Chat(messages) => {
            // Of earlier messages a template may leave something out.
            refuse_too_long(ready, "messages", messages.last().map_or(0, |message| message.content.len()))?;
        }
        Input::Completion(inputs) => {
            let longest = inputs.iter().map(|input| if let PromptInput::Text(text) = input { text.len() } else { 0 });
            refuse_too_long(ready, "prompt", longest.max().unwrap_or(0))?;
        }
    }
    let (field, prompts) = match &wish.input {
        Input::Chat(messages) => {
            let prompt = if ready.prompts.has_chat_template() {
                ready.prompts.chat(messages, &ChatOptions::default())
            } else {
                let last = messages.last().map_or("", |message| message.content.as_str());
                ready.prompts.prompt(&PromptStyle::Template(Default::default()), last)
            };
            ("messages", vec![prompt])
        }
        Input::Completion(inputs) => ("prompt", inputs.iter().map(|input| completion_prompt(ready, input)).collect()),
    };
    let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>();
    let prompts = prompts.map_err(|error| ApiError::field(field, error.to_string()))?;
    if let Some(long) = prompts.iter().find(|prompt| prompt.tokens.len() >= ready.max_positions) {
        return Err(too_long(ready, field, &long.tokens.len().to_string()));
    }
    Ok(prompts)
}

fn completion_prompt(ready: &Ready, input: &PromptInput) -> Result<Prompt, EngineError> {
    match input {
        PromptInput::Text(text) => ready.prompts.tokenise(text.clone(), true),
        PromptInput::Tokens(tokens) => {
            let size = ready.identity.vocab_size;
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= size) {
                let message = format!("token {token} is outside the vocabulary of {size} tokens");
                return Err(EngineError::Request(message));
            }
            let text = ready.prompts.tokenizer.decode(tokens);
            let phase = tpv_core::phase::PhaseTracker::after_prompt(&ready.prompts.markers, &text);
            Ok(Prompt { text, tokens: tokens.clone(), phase })
        }
    }
}

/// A refusal of the decode loop: the request is at fault, unless the memory is full.
fn refused(error: EngineError) -> ApiError {
    match error {
        EngineError::Request(message) => ApiError::field("prompt", message),
        EngineError::KvMemoryFull { .. } => ApiError::busy("overloaded", error.to_string()),
        other => ApiError::internal(other.to_string()),
    }
}
