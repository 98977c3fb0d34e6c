//! Writing answers: chunks of a stream and whole completions, in OpenAI's shape.
//!
//! For each choice: a chunk with the role, chunks with text, a chunk with the reason for the end. Then, if asked for, the
//! one chunk without choices, which carries the token counts. All chunks have the same id. `tpv` objects appear only where
//! the request asked for them.

use crate::config::ReasoningFields;
use crate::error::ApiError;
use crate::progress::ProgressWriter;
use crate::thought::{Piece, ThoughtSplitter};
use crate::worker::SampleEvent;
use serde_json::{Map, Value, json};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::{Phase, ThinkingMarkers};

/// Which of the two ways of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Messages in, a message out.
    Chat,
    /// Text in, text out, the thinking's markers included.
    Completion,
}

/// What all parts of an answer have in common.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Names the answer.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Which way was asked.
    pub form: Form,
    /// Whether `tpv` objects are wanted.
    pub progress: bool,
    /// Whether the stream ends with the token counts.
    pub include_usage: bool,
    /// The fields that carry the thinking.
    pub reasoning_fields: ReasoningFields,
}

/// Writes one answer.
pub struct AnswerWriter {
    envelope: Envelope,
    choices: Vec<Choice>,
    prompt_tokens: usize,
}

struct Choice {
    splitter: Option<ThoughtSplitter>,
    progress: ProgressWriter,
    reasoning: String,
    content: String,
    end: Option<FinishEvent>,
}

impl AnswerWriter {
    /// An answer with one choice for each of `phases`, which the prompts leave behind.
    pub fn new(envelope: Envelope, markers: &ThinkingMarkers, phases: &[Phase], prompt_tokens: usize) -> Self {
        let splitter = |&phase| (envelope.form == Form::Chat).then(|| ThoughtSplitter::new(markers.clone(), phase));
        let choice = |phase| Choice {
            splitter: splitter(phase),
            progress: ProgressWriter::default(),
            reasoning: String::new(),
            content: String::new(),
            end: None,
        };
        let choices = phases.iter().map(choice).collect();
        Self { envelope, choices, prompt_tokens }
    }

    /// The chunks that come before any token.
    pub fn opening(&self) -> Vec<Value> {
        match self.envelope.form {
            Form::Completion => Vec::new(),
            Form::Chat => {
                let delta = json!({ "role": "assistant", "content": "" });
                (0..self.choices.len()).map(|index| self.chunk(index, delta.clone(), Value::Null, None)).collect()
            }
        }
    }

    /// Takes an event and returns the chunks that it means; an error if the sample failed.
    pub fn push(&mut self, event: SampleEvent) -> Result<Vec<Value>, ApiError> {
        match event {
            SampleEvent::Token(index, event) => Ok(self.token(index, &event).into_iter().collect()),
            SampleEvent::Finish(index, event) => self.finish(index, event),
            SampleEvent::Lost(error) => Err(error),
        }
    }

    /// Whether all choices have ended.
    pub fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.end.is_some())
    }

    /// For each choice whose thinking ended: the last progress before.
    pub fn progress_before_end(&self) -> impl Iterator<Item = f32> {
        let ended = self.choices.iter().filter(|choice| choice.end.as_ref().is_some_and(|end| end.thinking_ended));
        ended.filter_map(|choice| choice.progress.progress_before_end())
    }

    /// The chunk with the token counts, if asked for.
    pub fn usage_chunk(&self) -> Option<Value> {
        self.envelope.include_usage.then(|| {
            let mut chunk = self.head(true);
            chunk.insert("choices".into(), json!([]));
            chunk.insert("usage".into(), self.usage());
            Value::Object(chunk)
        })
    }

    /// The whole answer, once complete.
    pub fn whole(&self) -> Value {
        let mut answer = self.head(false);
        let choices = self.choices.iter().enumerate().map(|(index, choice)| self.whole_choice(index, choice));
        answer.insert("choices".into(), choices.collect());
        answer.insert("usage".into(), self.usage());
        if self.envelope.progress {
            answer.insert("tpv".into(), self.summaries());
        }
        Value::Object(answer)
    }

    fn token(&mut self, index: usize, event: &TokenEvent) -> Option<Value> {
        let choice = &mut self.choices[index];
        choice.progress.push(event);
        let piece = choice.split(&event.text, false);
        let tpv = self.envelope.progress.then(|| ProgressWriter::token(event));
        let empty = piece == Piece::default();
        (!empty || tpv.is_some()).then(|| self.text_chunk(index, piece, tpv))
    }

    fn finish(&mut self, index: usize, event: FinishEvent) -> Result<Vec<Value>, ApiError> {
        if let FinishReason::Failed | FinishReason::Cancelled = event.reason {
            let why = event.error.unwrap_or_else(|| "the request was stopped".into());
            return Err(ApiError::internal(why));
        }
        let rest = self.choices[index].split("", true);
        let mut chunks = Vec::new();
        if rest != Piece::default() {
            chunks.push(self.text_chunk(index, rest, None));
        }
        let tpv = self.envelope.progress.then(|| self.choices[index].progress.summary(&event));
        let reason = finish_reason(event.reason);
        self.choices[index].end = Some(event);
        chunks.push(self.chunk(index, json!({}), reason.into(), tpv));
        Ok(chunks)
    }

    fn text_chunk(&self, index: usize, piece: Piece, tpv: Option<Value>) -> Value {
        let mut delta = Map::new();
        if !piece.reasoning.is_empty() {
            for name in self.envelope.reasoning_fields.names() {
                delta.insert((*name).into(), piece.reasoning.clone().into());
            }
        }
        if !piece.content.is_empty() {
            delta.insert("content".into(), piece.content.into());
        }
        self.chunk(index, Value::Object(delta), Value::Null, tpv)
    }

    fn chunk(&self, index: usize, delta: Value, finish_reason: Value, tpv: Option<Value>) -> Value {
        let choice = match self.envelope.form {
            Form::Chat => json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason }),
            Form::Completion => {
                let text = delta["content"].as_str().unwrap_or_default();
                json!({ "index": index, "text": text, "logprobs": null, "finish_reason": finish_reason })
            }
        };
        let mut chunk = self.head(true);
        chunk.insert("choices".into(), json!([choice]));
        if self.envelope.include_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        if let Some(tpv) = tpv {
            chunk.insert("tpv".into(), tpv);
        }
        Value::Object(chunk)
    }

    fn head(&self, streamed: bool) -> Map<String, Value> {
        let object = match (self.envelope.form, streamed) {
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Chat, false) => "chat.completion",
            (Form::Completion, _) => "text_completion",
        };
        let Envelope { id, created, model, .. } = &self.envelope;
        let head = json!({ "id": id, "object": object, "created": created, "model": model });
        let Value::Object(head) = head else { unreachable!("written as an object") };
        head
    }

    fn whole_choice(&self, index: usize, choice: &Choice) -> Value {
        let reason = choice.end.as_ref().map(|end| finish_reason(end.reason));
        if self.envelope.form == Form::Completion {
            return json!({ "index": index, "text": choice.content, "logprobs": null, "finish_reason": reason });
        }
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), choice.content.as_str().into());
        for name in self.envelope.reasoning_fields.names() {
            message.insert((*name).into(), choice.reasoning.as_str().into());
        }
        json!({ "index": index, "message": message, "logprobs": null, "finish_reason": reason })
    }

    fn summaries(&self) -> Value {
        let summary = |choice: &Choice| {
            let end = choice.end.as_ref();
            end.map_or(Value::Null, |end| choice.progress.summary(end)["summary"].clone())
        };
        let summaries: Value = self.choices.iter().map(summary).collect();
        json!({ "version": tpv_core::event::EVENT_VERSION, "summaries": summaries })
    }

    fn usage(&self) -> Value {
        let sum = |count: fn(&FinishEvent) -> u32| -> u64 {
            self.choices.iter().filter_map(|choice| choice.end.as_ref()).map(|end| u64::from(count(end))).sum()
        };
        let (completion, reasoning) = (sum(|end| end.generated_tokens), sum(|end| end.thinking_tokens));
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens as u64 + completion,
            "completion_tokens_details": { "reasoning_tokens": reasoning },
        })
    }
}

impl Choice {
    fn split(&mut self, text: &str, is_last: bool) -> Piece {
        let piece = match &mut self.splitter {
            Some(splitter) => splitter.push(text, is_last),
            None => Piece { reasoning: String::new(), content: text.to_owned() },
        };
        self.reasoning += &piece.reasoning;
        self.content += &piece.content;
        piece
    }
}

fn finish_reason(reason: FinishReason) -> &'static str {
    if reason == FinishReason::Length { "length" } else { "stop" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope(progress: bool, include_usage: bool) -> Envelope {
        Envelope {
            id: "chatcmpl-1".into(),
            created: 7,
            model: "thinker".into(),
            form: Form::Chat,
            progress,
            include_usage,
            reasoning_fields: ReasoningFields::Both,
        }
    }

    fn token(index: u32, text: &str) -> TokenEvent {
        TokenEvent {
            index,
            token: 0,
            text: text.into(),
            phase: Phase::Thinking,
            thinking_tokens: index + 1,
            reading: None,
            alpha: 0.0,
            forced: false,
            elapsed_secs: f64::from(index) / 100.0,
            tokens_per_sec: None,
            remaining_secs: None,
        }
    }

    fn finish(tokens: u32) -> FinishEvent {
        FinishEvent { generated_tokens: tokens, thinking_tokens: tokens / 2, ..FinishEvent::empty(FinishReason::Stop) }
    }

    proptest! {
        #[test]
        fn a_stream_keeps_its_promises_however_the_text_is_cut(
            parts in prop::collection::vec(prop::sample::select(vec!["</think>", "</thi", "nk>", "é", "🙂🙂", "word ", "\n", ""]), 1..30),
            progress: bool,
            usage: bool,
            choices in 1usize..4,
        ) {
            let mut writer = AnswerWriter::new(envelope(progress, usage), &ThinkingMarkers::default(), &vec![Phase::Thinking; choices], 5);
            let mut chunks = writer.opening();
            for (number, text) in parts.iter().enumerate() {
                for choice in 0..choices {
                    chunks.extend(writer.push(SampleEvent::Token(choice, token(number as u32, text))).unwrap());
                }
            }
            for choice in 0..choices {
                prop_assert!(!writer.is_complete());
                chunks.extend(writer.push(SampleEvent::Finish(choice, finish(parts.len() as u32))).unwrap());
            }
            prop_assert!(writer.is_complete());
            for chunk in &chunks {
                prop_assert_eq!(&chunk["id"], "chatcmpl-1");
                prop_assert_eq!(chunk["choices"].as_array().unwrap().len(), 1);
                prop_assert!(progress || chunk.get("tpv").is_none());
            }
            let whole = writer.whole();
            for choice in 0..choices {
                let of_choice = || chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == choice);
                let joined = |name: &str| of_choice().filter_map(|chunk| chunk["choices"][0]["delta"][name].as_str()).collect::<String>();
                let (reasoning, content) = (joined("reasoning"), joined("content"));
                prop_assert_eq!(&reasoning, &joined("reasoning_content"));
                prop_assert!(!reasoning.contains("</think>") && !content.contains("</think>"));
                prop_assert_eq!(whole["choices"][choice]["message"]["content"].as_str(), Some(content.as_str()));
                prop_assert_eq!(whole["choices"][choice]["message"]["reasoning"].as_str(), Some(reasoning.as_str()));
                let reasons: Vec<bool> = of_choice().map(|chunk| chunk["choices"][0]["finish_reason"].is_string()).collect();
                prop_assert!(reasons.iter().rev().skip(1).all(|ended| !ended) && reasons.last() == Some(&true));
            }
            prop_assert_eq!(writer.usage_chunk().is_some(), usage);
            let total = (parts.len() * choices) as u64;
            prop_assert_eq!(whole["usage"]["completion_tokens"].as_u64(), Some(total));
        }
    }
}
