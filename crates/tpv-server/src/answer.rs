//! Answering a completion: its events on the way back to the client, whole or as a stream.

use crate::app::{App, unix_secs};
use crate::body::NewWork;
use crate::error::ApiError;
use crate::request::{self, Wish};
use crate::response::{AnswerWriter, Envelope, Form};
use crate::submission::{Ticket, check_bias, policy_of, prompt_count, prompts, random};
use crate::worker::SampleEvent;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tpv_core::phase::Phase;

/// Answers `/v1/chat/completions`.
pub async fn chat(
    State(app): State<Arc<App>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    NewWork(body): NewWork,
) -> Result<Response, ApiError> {
    let wish = request::chat(&body, &app.config)?;
    answer(app, client.ip(), wish, Form::Chat).await
}

/// Answers `/v1/completions`.
pub async fn completion(
    State(app): State<Arc<App>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    NewWork(body): NewWork,
) -> Result<Response, ApiError> {
    let wish = request::completion(&body, &app.config)?;
    answer(app, client.ip(), wish, Form::Completion).await
}

async fn answer(app: Arc<App>, client: IpAddr, wish: Wish, form: Form) -> Result<Response, ApiError> {
    let (ready, wish) = (app.ready()?, Arc::new(wish));
    policy_of(ready, &wish)?;
    check_bias(ready, &wish)?;
    let samples = prompt_count(&wish) * wish.samples;
    app.admission.check(samples)?;
    let room = app.admission.admit(client, samples).inspect_err(|_| app.metrics.refuse())?;
    let (room, id) = (Arc::new(room), answer_id(form));
    let mut ticket = Ticket::new(Arc::clone(&app), id.clone(), Arc::clone(&room));
    let prompts = prompts(&app, &wish, room).await.inspect_err(|_| ticket.end())?;
    let prompt_tokens = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let phases: Vec<Phase> =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.phase.next_phase(), wish.samples)).collect();
    let envelope = Envelope {
        id,
        created: unix_secs(),
        model: app.config.model_name.clone(),
        form,
        progress: wish.progress,
        include_usage: wish.include_usage,
        reasoning_fields: app.config.reasoning_fields,
    };
    let events = ticket.submit(&wish, prompts).await?;
    let writer = AnswerWriter::new(envelope, &ready.prompts.markers, &phases, prompt_tokens);
    let deadline = Instant::now() + app.config.limits.request_time;
    let under_way = UnderWay { ticket, events, writer, deadline };
    if wish.stream { Ok(under_way.stream()) } else { under_way.whole().await }
}

/// An answer under way. Whoever holds it waits for it: dropping it cancels its samples.
struct UnderWay {
    ticket: Ticket,
    events: mpsc::Receiver<SampleEvent>,
    writer: AnswerWriter,
    deadline: Instant,
}

impl UnderWay {
    async fn whole(mut self) -> Result<Response, ApiError> {
        while !self.writer.is_complete() {
            self.next_chunks().await?;
        }
        Ok(Json(self.writer.whole()).into_response())
    }

    fn stream(self) -> Response {
        let keep_alive = KeepAlive::new().interval(self.ticket.app.config.limits.keep_alive).text("still here");
        let opening = self.writer.opening().iter().map(Value::to_string).collect();
        let chunks = Chunks { under_way: self, waiting: opening, ended: false };
        let events = Sse::new(stream::unfold(chunks, Chunks::next)).keep_alive(keep_alive);
        ([("x-accel-buffering", "no")], events).into_response()
    }

    /// The chunks of the next event.
    async fn next_chunks(&mut self) -> Result<Vec<Value>, ApiError> {
        let chunks = match timeout_at(self.deadline, self.events.recv()).await {
            Ok(Some(event)) => self.writer.push(event),
            Ok(None) => {
                Err(ApiError::new(408, "slow_reader", "the answer was read so slowly that its end was given up"))
            }
            Err(_) => {
                let seconds = self.ticket.app.config.limits.request_time.as_secs();
                Err(ApiError::new(504, "time_limit", format!("the answer was not complete after {seconds} s")))
            }
        };
        if self.writer.is_complete() {
            self.writer.progress_before_end().for_each(|progress| self.ticket.app.metrics.think_end(progress));
        }
        if chunks.is_err() || self.writer.is_complete() {
            self.ticket.end();
        }
        chunks
    }
}

/// The data of a stream's events, made when the connection has room for them.
struct Chunks {
    under_way: UnderWay,
    waiting: VecDeque<String>,
    ended: bool,
}

impl Chunks {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        while self.waiting.is_empty() && !self.ended {
            self.read().await;
        }
        let data = self.waiting.pop_front()?;
        Some((Ok(Event::default().data(data)), self))
    }

    async fn read(&mut self) {
        let chunks = self.under_way.next_chunks().await;
        let writer = &self.under_way.writer;
        self.ended = chunks.is_err() || writer.is_complete();
        let chunks = chunks.unwrap_or_else(|error| vec![error.body()]);
        self.waiting.extend(chunks.iter().map(Value::to_string));
        if writer.is_complete() {
            self.waiting.extend(writer.usage_chunk().iter().map(Value::to_string));
        }
        if self.ended {
            self.waiting.push_back("[DONE]".into());
        }
    }
}

fn answer_id(form: Form) -> String {
    let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
    format!("{prefix}-{:016x}{:016x}", random(), random())
}
