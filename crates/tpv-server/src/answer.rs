//! Answering a completion: prompts, samples, and their events on the way back to the client.

use crate::app::{App, Ready, Room, json_body, unix_secs};
use crate::error::ApiError;
use crate::http::{Request, Response};
use crate::policy;
use crate::request::{self, Input, PromptInput, Wish};
use crate::response::{AnswerWriter, Envelope, Form};
use crate::worker::{Command, Guarded, SampleEvent};
use serde_json::Value;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tpv_core::phase::Phase;
use tpv_core::policy::{Alpha, Constant, Policy};
use tpv_core::reading::{BlindReader, Reader};
use tpv_core::sampling::sample_seed;
use tpv_engine::decode::{IntervenePhase, PromptRequest, SampleId, SampleRequest};
use tpv_engine::error::EngineError;
use tpv_engine::model::Prompt;
use tpv_engine::template::ChatOptions;

/// Chunks that wait for a slow reader before the answer's own task waits too; the decode loop never does.
const CHUNKS_AHEAD: usize = 64;

/// Answers `/v1/chat/completions` and `/v1/completions`.
pub async fn answer(app: &Arc<App>, request: &Request, form: Form) -> Result<Response, ApiError> {
    let ready = app.ready()?;
    let body = json_body(request)?;
    let wish = match form {
        Form::Chat => request::chat(&body, &app.config)?,
        Form::Completion => request::completion(&body, &app.config)?,
    };
    let prompts = prompts(ready, &wish)?;
    policy_of(ready, &wish)?;
    let room = app.admit(request.client, prompts.len() * wish.samples)?;
    let prompt_tokens = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let phases: Vec<Phase> =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.phase.next_phase(), wish.samples)).collect();
    let envelope = Envelope {
        id: answer_id(form),
        created: unix_secs(),
        model: app.config.model_name.clone(),
        form,
        progress: wish.progress,
        include_usage: wish.include_usage,
        reasoning_fields: app.config.reasoning_fields,
    };
    let mut ticket =
        Ticket { app: Arc::clone(app), id: envelope.id.clone(), ids: Vec::new(), done: false, _room: room };
    let (sender, events) = mpsc::unbounded_channel();
    submit(ready, &wish, prompts, sender, &mut ticket).await?;
    app.running().insert(ticket.id.clone(), ticket.ids.clone());
    let writer = AnswerWriter::new(envelope, &ready.prompts.markers, &phases, prompt_tokens);
    let deadline = Instant::now() + app.config.limits.request_time;
    let under_way = UnderWay { ticket, events, writer, deadline };
    if wish.stream { Ok(under_way.stream()) } else { under_way.whole().await }
}

/// An answer under way.
struct UnderWay {
    ticket: Ticket,
    events: mpsc::UnboundedReceiver<SampleEvent>,
    writer: AnswerWriter,
    deadline: Instant,
}

impl UnderWay {
    async fn whole(mut self) -> Result<Response, ApiError> {
        while !self.writer.is_complete() {
            self.next_chunks().await?;
        }
        self.complete();
        Ok(Response::json(200, &self.writer.whole()))
    }

    fn stream(self) -> Response {
        let (items, receiver) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(self.pump(items));
        Response::events(receiver)
    }

    /// Sends chunks until the answer is complete or the client has left.
    async fn pump(mut self, items: mpsc::Sender<String>) {
        if send_all(&items, self.writer.opening()).await.is_err() {
            return;
        }
        while !self.writer.is_complete() {
            let chunks = tokio::select! {
                chunks = self.next_chunks() => chunks,
                () = items.closed() => return,
            };
            let sent = match chunks {
                Ok(chunks) => send_all(&items, chunks).await,
                Err(error) => {
                    let _ = send_all(&items, [error.body()]).await;
                    break;
                }
            };
            if sent.is_err() {
                return;
            }
        }
        if self.writer.is_complete() {
            self.complete();
            let _ = send_all(&items, self.writer.usage_chunk()).await;
        }
        let _ = items.send("data: [DONE]\n\n".into()).await; // the client may have left just now
    }

    async fn next_chunks(&mut self) -> Result<Vec<Value>, ApiError> {
        match timeout_at(self.deadline, self.events.recv()).await {
            Ok(Some(event)) => self.writer.push(event),
            Ok(None) => Err(ApiError::internal("the decode loop has ended")),
            Err(_) => {
                let seconds = self.ticket.app.config.limits.request_time.as_secs();
                Err(ApiError::new(504, "time_limit", format!("the answer was not complete after {seconds} s")))
            }
        }
    }

    fn complete(&mut self) {
        self.ticket.done = true;
        self.writer.progress_before_end().for_each(|progress| self.ticket.app.metrics.think_end(progress));
    }
}

async fn send_all(
    items: &mpsc::Sender<String>,
    chunks: impl IntoIterator<Item = Value>,
) -> Result<(), mpsc::error::SendError<String>> {
    for chunk in chunks {
        items.send(format!("data: {chunk}\n\n")).await?;
    }
    Ok(())
}

/// The right to samples in the decode loop: dropping it cancels them.
struct Ticket {
    app: Arc<App>,
    id: String,
    ids: Vec<SampleId>,
    done: bool,
    _room: Room,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.app.running().remove(&self.id);
        if self.done || self.ids.is_empty() {
            return;
        }
        self.app.metrics.disconnect();
        if let Ok(ready) = self.app.ready() {
            let _ = ready.commands.send(Command::Cancel(std::mem::take(&mut self.ids))); // the loop may have ended
        }
    }
}

async fn submit(
    ready: &Ready,
    wish: &Wish,
    prompts: Vec<Prompt>,
    events: mpsc::UnboundedSender<SampleEvent>,
    ticket: &mut Ticket,
) -> Result<(), ApiError> {
    let seed = wish.seed.unwrap_or_else(random);
    for (number, prompt) in prompts.into_iter().enumerate() {
        let samples = (0..wish.samples).map(|sample| {
            let seed = sample_seed(seed, number as u64, sample as u64);
            sample_request(ready, wish, &prompt, seed, &ticket.app)
        });
        let samples = samples.collect::<Result<_, _>>()?;
        let request = PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples };
        let (accepted, answer) = oneshot::channel();
        let first_choice = number * wish.samples;
        let command = Command::Submit { request, first_choice, events: events.clone(), accepted };
        let ended = || ApiError::busy("stopping", "the server is stopping");
        ready.commands.send(command).map_err(|_| ended())?;
        ticket.ids.extend(answer.await.map_err(|_| ended())?.map_err(refused)?);
    }
    Ok(())
}

fn sample_request(
    ready: &Ready,
    wish: &Wish,
    prompt: &Prompt,
    seed: u64,
    app: &App,
) -> Result<SampleRequest, ApiError> {
    let room = ready.max_positions - prompt.tokens.len();
    let asked = wish.max_tokens.unwrap_or(app.config.limits.max_new_tokens);
    let reader: Box<dyn Reader> = match &ready.vector {
        Some(vector) => Box::new(vector.reading.reader(None)),
        None => Box::new(BlindReader),
    };
    Ok(SampleRequest {
        sampling: wish.sampling,
        seed,
        max_new_tokens: asked.min(room),
        shift: ready.vector.as_ref().map(|vector| Arc::clone(&vector.shift)),
        intervene: IntervenePhase::Thinking,
        reader: Box::new(Guarded::new(reader)),
        policy: Box::new(Guarded::new(policy_of(ready, wish)?)),
        logit_bias: wish.logit_bias.clone(),
        stop_texts: wish.stop_texts.clone(),
    })
}

fn policy_of(ready: &Ready, wish: &Wish) -> Result<Box<dyn Policy>, ApiError> {
    match (&wish.policy, &wish.effort) {
        (Some(text), _) => policy::parse("tpv.policy", text, &ready.policies),
        (None, Some(effort)) => effort_policy(ready, effort),
        (None, None) => Ok(Box::new(Constant::default())),
    }
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
            let message = format!("reasoning_effort \"{effort}\" is no level of this vector ({known}); use tpv.policy");
            Err(ApiError::field("reasoning_effort", message))
        }
    }
}

fn prompts(ready: &Ready, wish: &Wish) -> Result<Vec<Prompt>, ApiError> {
    let (field, prompts) = match &wish.input {
        Input::Chat(messages) => {
            let prompt = if ready.prompts.has_chat_template() {
                ready.prompts.chat(messages, &ChatOptions::default())
            } else {
                let last = messages.last().map_or("", |message| message.content.as_str());
                ready.prompts.prompt(&tpv_engine::model::PromptStyle::Template(Default::default()), last)
            };
            ("messages", vec![prompt])
        }
        Input::Completion(inputs) => ("prompt", inputs.iter().map(|input| completion_prompt(ready, input)).collect()),
    };
    let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>();
    let prompts = prompts.map_err(|error| ApiError::field(field, error.to_string()))?;
    if let Some(long) = prompts.iter().find(|prompt| prompt.tokens.len() >= ready.max_positions) {
        let (found, most) = (long.tokens.len(), ready.max_positions);
        let message = format!("{field}: {found} tokens leave no room for an answer; the model has {most} positions");
        return Err(ApiError { code: "context_length_exceeded", ..ApiError::field(field, message) });
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

fn answer_id(form: Form) -> String {
    let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
    format!("{prefix}-{:016x}{:016x}", random(), random())
}

/// A number that nobody can guess: the standard library seeds its hash tables with one.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
