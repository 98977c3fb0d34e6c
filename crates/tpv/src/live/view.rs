//! The three ways to look at a running prompt: on a terminal, as plain text, as JSON lines.

use super::exchange::{Update, Wish};
use super::ink::InkLine;
use super::line::{Stage, Status, thought_for};
use super::screen::{Screen, Style};
use super::terminal::{Key, RawMode, keys};
use super::text::{MarkerFilter, harmless};
use crate::console::Console;
use anyhow::Result;
use serde::Serialize;
use std::io::Stdout;
use std::time::{Duration, Instant};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::Phase;
use tpv_core::policy::{Alpha, Constant, PolicySpec};
use tpv_core::vector::ModelIdentity;

/// How often the live line is drawn at most.
const REDRAW: Duration = Duration::from_millis(40);
/// How often a plain line comes.
const PLAIN_LINE: Duration = Duration::from_secs(5);
/// What the keys do.
const KEYS: &str = "↑↓ alpha, e answer now, q stop";
const KEYS_WITHOUT_PUSH: &str = "e answer now, q stop";
/// What one press of a key changes alpha by.
const ALPHA_STEP: f32 = 5.0;

/// Shows what a prompt's samples do.
pub trait View {
    /// Takes news.
    fn update(&mut self, update: &Update) -> Result<()>;

    /// Draws what has changed; `last` once nothing more comes.
    fn refresh(&mut self, last: bool) -> Result<()>;

    /// What the user has asked for since the last call.
    fn wishes(&mut self) -> Result<Vec<Wish>> {
        Ok(Vec::new())
    }
}

/// What can be pushed, as the user sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Throttle {
    /// The strength; changed by keys.
    pub alpha: f32,
    /// The policy in place of a constant strength, until a key is pressed.
    pub policy: Option<String>,
}

impl Throttle {
    /// `alpha` is what was applied to the newest token.
    fn text(&self, alpha: f32) -> String {
        match &self.policy {
            Some(policy) => format!("alpha {alpha:.0} ({policy})"),
            None => format!("alpha {}", self.alpha),
        }
    }

    /// From a policy, the strength goes on from what was applied last.
    fn turn(&mut self, change: f32, applied: f32) -> Wish {
        self.alpha = if self.policy.is_some() { applied.round() } else { self.alpha } + change;
        self.policy = None;
        let alpha = Alpha(self.alpha);
        Wish::Policy(Box::new(move || Box::new(Constant(alpha))))
    }
}

/// What has been seen of one sample.
struct Followed {
    status: Status,
    thought: MarkerFilter,
    thinking_from: Option<f64>,
    /// Seconds of thinking so far, and its tokens.
    thinking: (f64, u32),
    thought_ended: bool,
    throttle: Option<Throttle>,
    applied_alpha: f32,
}

impl Followed {
    fn new(markers_end: &str, throttle: Option<Throttle>, has_vector: bool) -> Self {
        let policy = throttle.as_ref().map(|throttle| throttle.text(0.0));
        Self {
            status: Status { stage: Stage::Queued, policy, has_vector, keys: None },
            thought: MarkerFilter::new(markers_end),
            thinking_from: None,
            thinking: (0.0, 0),
            thought_ended: false,
            throttle,
            applied_alpha: 0.0,
        }
    }

    fn turn(&mut self, change: f32) -> Option<Wish> {
        let wish = self.throttle.as_mut()?.turn(change, self.applied_alpha);
        self.status.policy = self.throttle.as_ref().map(|throttle| throttle.text(self.applied_alpha));
        Some(wish)
    }

    /// Takes a token; the text of the thought or the answer that it adds.
    fn token(&mut self, event: &TokenEvent) -> String {
        self.status.stage = Stage::Generating(event.clone());
        if event.phase == Phase::Thinking {
            let from = *self.thinking_from.get_or_insert(event.elapsed_secs);
            self.thinking = (event.elapsed_secs - from, event.thinking_tokens);
            self.applied_alpha = event.alpha;
            self.status.policy = self.throttle.as_ref().map(|throttle| throttle.text(event.alpha));
            return self.thought.push(&event.text);
        }
        event.text.clone()
    }

    /// The line about the thought, once: when the first token of the answer comes, or at the end.
    fn thought_line(&mut self) -> Option<String> {
        let due = !self.thought_ended && self.thinking.1 > 0;
        self.thought_ended = true;
        due.then(|| thought_for(self.thinking.0, self.thinking.1))
    }
}

/// Why the text stops, where that is not plain.
fn remark(event: &FinishEvent) -> Option<String> {
    match event.reason {
        FinishReason::Stop | FinishReason::StopText => None,
        FinishReason::Length => Some(format!(
            "stopped at {} tokens{}: the limit of --max_new_tokens, or of the model's context",
            event.generated_tokens,
            if event.thinking_ended { "" } else { " before the thinking ended" }
        )),
        FinishReason::Cancelled => Some("stopped".into()),
        FinishReason::Failed => None, // it is an error
    }
}

/// A live line under the streaming text.
pub struct TerminalView<'a> {
    console: &'a Console,
    screen: Screen<Stdout>,
    followed: Followed,
    pending: String,
    drawn: Instant,
    /// Set by Ctrl-C.
    pub interrupted: bool,
    _raw: RawMode,
}

impl<'a> TerminalView<'a> {
    /// Takes the terminal over until it is dropped.
    pub fn new(console: &'a Console, end: &str, throttle: Option<Throttle>, has_vector: bool) -> Result<Self> {
        let mut followed = Followed::new(end, throttle, has_vector);
        followed.status.keys = Some(if followed.throttle.is_some() { KEYS } else { KEYS_WITHOUT_PUSH });
        Ok(Self {
            console,
            screen: Screen::new(std::io::stdout(), console.width(), console.styled()),
            followed,
            pending: String::new(),
            drawn: Instant::now(),
            interrupted: false,
            _raw: RawMode::enter()?,
        })
    }

    /// What can be pushed now, after all keys.
    pub fn throttle(&self) -> Option<&Throttle> {
        self.followed.throttle.as_ref()
    }

    fn draw(&mut self) -> Result<()> {
        self.screen.resize(self.console.width())?;
        let style = if self.followed.thought_ended { Style::Plain } else { Style::Dim };
        let line = self.followed.status.render(self.screen.line_width());
        let text = std::mem::take(&mut self.pending);
        self.screen.update(&text, style, &line)?;
        self.drawn = Instant::now();
        Ok(())
    }

    fn end_thought(&mut self) -> Result<()> {
        self.pending.push_str(&self.followed.thought.finish());
        let text = std::mem::take(&mut self.pending);
        if !self.followed.thought_ended && !text.is_empty() {
            self.screen.update(text.trim_end(), Style::Dim, &InkLine::default())?;
        }
        if let Some(line) = self.followed.thought_line() {
            self.screen.note(&line)?;
        }
        Ok(())
    }

    fn token(&mut self, event: &TokenEvent) -> Result<()> {
        if event.phase == Phase::Answer && !self.followed.thought_ended {
            self.end_thought()?;
        }
        let text = self.followed.token(event);
        self.pending.push_str(&text);
        Ok(())
    }

    fn wish(&mut self, key: Key) -> Result<Option<Wish>> {
        let turned = match key {
            Key::Up => ALPHA_STEP,
            Key::Down => -ALPHA_STEP,
            Key::EndThinking => return Ok(Some(Wish::EndThinking)),
            Key::Quit => return Ok(Some(Wish::Cancel)),
            Key::Interrupt => {
                self.interrupted = true;
                return Ok(Some(Wish::Cancel));
            }
            Key::Resized => {
                self.draw()?;
                return Ok(None);
            }
        };
        Ok(self.followed.turn(turned))
    }
}

impl View for TerminalView<'_> {
    fn update(&mut self, update: &Update) -> Result<()> {
        match update {
            Update::Prompt { read, total, .. } => {
                self.followed.status.stage = Stage::ReadingPrompt { read: *read, total: *total };
                Ok(())
            }
            Update::Token(_, event) => self.token(event),
            Update::Finish(_, event) => {
                if !self.followed.thought_ended {
                    self.end_thought()?;
                }
                let text = std::mem::take(&mut self.pending);
                self.screen.update(text.trim_end(), Style::Plain, &InkLine::default())?;
                Ok(self.screen.note(&remark(event).unwrap_or_default())?)
            }
        }
    }

    fn refresh(&mut self, last: bool) -> Result<()> {
        if last {
            return Ok(self.screen.finish()?);
        }
        if self.drawn.elapsed() >= REDRAW { self.draw() } else { Ok(()) }
    }

    fn wishes(&mut self) -> Result<Vec<Wish>> {
        let mut wishes = Vec::new();
        for key in keys()? {
            wishes.extend(self.wish(key)?);
        }
        Ok(wishes)
    }
}

/// The answer on stdout; a line about the thinking every five seconds on stderr.
pub struct PlainView<'a> {
    console: &'a Console,
    followed: Followed,
    answer: String,
    last_line: Instant,
}

impl<'a> PlainView<'a> {
    /// A view of a prompt that is about to be run.
    pub fn new(console: &'a Console, end: &str, throttle: Option<Throttle>, has_vector: bool) -> Self {
        let followed = Followed::new(end, throttle, has_vector);
        Self { console, followed, answer: String::new(), last_line: Instant::now() }
    }
}

impl View for PlainView<'_> {
    fn update(&mut self, update: &Update) -> Result<()> {
        match update {
            Update::Prompt { read, total, .. } => {
                self.followed.status.stage = Stage::ReadingPrompt { read: *read, total: *total };
            }
            Update::Token(_, event) => {
                let text = self.followed.token(event);
                if event.phase == Phase::Answer {
                    self.followed.thought_line().into_iter().for_each(|line| self.console.say(line));
                    self.answer.push_str(&text);
                }
            }
            Update::Finish(_, event) => {
                self.followed.thought_line().into_iter().for_each(|line| self.console.say(line));
                let answer = harmless(self.answer.trim());
                if !answer.is_empty() {
                    self.console.print(answer);
                }
                remark(event).into_iter().for_each(|remark| self.console.say(remark));
            }
        }
        Ok(())
    }

    fn refresh(&mut self, last: bool) -> Result<()> {
        if !last && self.last_line.elapsed() >= PLAIN_LINE {
            self.last_line = Instant::now();
            self.console.say(self.followed.status.render(usize::MAX).plain());
        }
        Ok(())
    }
}

/// Every event as a JSON line on stdout; `docs/events.md` describes them.
pub struct JsonView<'a> {
    console: &'a Console,
}

/// The data of a `start` line.
#[derive(Serialize)]
pub struct Start<'a> {
    /// The model.
    pub model: &'a ModelIdentity,
    /// Where the vector comes from; none without one.
    pub vector: Option<&'a str>,
    /// The whole prompt as text.
    pub prompt: &'a str,
    /// Its length in tokens.
    pub prompt_tokens: usize,
    /// The strength asked for.
    pub alpha: f32,
    /// The policy asked for, if one was named.
    pub policy: Option<&'a PolicySpec>,
    /// The seed asked for.
    pub seed: u64,
}

/// An event with the number of its sample, 0 where there is one alone.
#[derive(Serialize)]
struct OfSample<'a, E> {
    sample: usize,
    #[serde(flatten)]
    event: &'a E,
}

/// The data of a `prompt` line.
#[derive(Serialize)]
struct PromptProgress {
    read_tokens: usize,
    prompt_tokens: usize,
}

impl<'a> JsonView<'a> {
    /// A view of a prompt that is about to be run.
    pub fn new(console: &'a Console) -> Self {
        Self { console }
    }
}

impl View for JsonView<'_> {
    fn update(&mut self, update: &Update) -> Result<()> {
        match update {
            Update::Prompt { sample, read, total } => {
                let event = &PromptProgress { read_tokens: *read, prompt_tokens: *total };
                self.console.emit("prompt", &OfSample { sample: *sample, event });
            }
            Update::Token(sample, event) => self.console.emit("token", &OfSample { sample: *sample, event }),
            Update::Finish(sample, event) => self.console.emit("finish", &OfSample { sample: *sample, event }),
        }
        Ok(())
    }

    fn refresh(&mut self, _: bool) -> Result<()> {
        Ok(())
    }
}
