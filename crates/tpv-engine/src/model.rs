//! A model as people meet it: text in, text out, with the decode loop between.

use crate::decode::{DecodeLimits, Decoder, DraftLimits};
use crate::error::{EngineError, Result};
use crate::load::{LoadOptions, ModelSource, load_model};
use crate::template::{ChatMessage, ChatOptions, ChatTemplate, PromptTemplate};
use crate::tokenizer::Tokenizer;
use crate::tokenizer_config::TokenizerConfig;
use crate::vocabulary::ModelVocabulary;
use std::borrow::Cow;
use std::sync::Arc;
use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
use tpv_core::vector::ModelIdentity;

/// The files of a checkpoint that speak of text, as bytes.
#[derive(Debug, Clone, Default)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Cow<'static, [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Cow<'static, [u8]>>,
    /// `generation_config.json`.
    pub generation_config: Option<Cow<'static, [u8]>>,
    /// `config.json`.
    pub config: Option<Cow<'static, [u8]>>,
    /// `special_tokens_map.json`, for what the others do not say.
    pub special_tokens_map: Option<Cow<'static, [u8]>>,
    /// `chat_template.jinja`, which comes before the template in `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

/// How a problem becomes a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptStyle {
    /// A text with `{problem}` in it.
    Template(PromptTemplate),
    /// The checkpoint's own chat template.
    Chat(ChatOptions),
}

/// A prompt, ready for the decode loop.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// As text.
    pub text: String,
    /// As tokens.
    pub tokens: Vec<u32>,
    /// The phase that it leaves behind: inside the thinking if it opens `<think>`.
    pub phase: PhaseTracker,
}

/// A loaded model with its tokenizer and its decode loop.
pub struct TextModel {
    /// Which model it is.
    pub identity: ModelIdentity,
    /// The decode loop over its engine.
    pub decoder: Decoder,
    /// The part that makes prompts; cheap to share with other threads.
    pub prompts: Arc<Prompter>,
    /// Sentences for the user about wishes that could not be granted.
    pub notices: Vec<String>,
}

/// Makes prompts for a model.
pub struct Prompter {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The texts around a thought.
    pub markers: ThinkingMarkers,
    /// The tokens that write `</think>`.
    pub think_end: Vec<u32>,
    chat_template: Option<ChatTemplate>,
}

/// Limits of the decode loop that are asked for; what is not asked for suits the model and the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct LimitWishes {
    /// Most samples in flight at once.
    pub max_batch: Option<usize>,
    /// Most tokens guessed for a sample in one step.
    pub draft_tokens: Option<usize>,
    /// Whether samples guess from what others wrote, and not from their own text alone.
    pub share_drafts: bool,
}

impl TextModel {
    /// Loads a model; `name` and `revision` go into its identity.
    pub fn load(
        name: &str,
        revision: Option<String>,
        source: &ModelSource,
        text: &TextFiles,
        options: &LoadOptions,
        wishes: LimitWishes,
    ) -> Result<Self> {
        let config = text.tokenizer_config.as_deref().map(TokenizerConfig::from_bytes).transpose()?;
        let config = match text.special_tokens_map.as_deref() {
            Some(map) => Some(config.unwrap_or_default().with_special_tokens(map)?),
            None => config,
        };
        let tokenizer = Tokenizer::from_bytes(&text.tokenizer)?;
        let tokenizer = Arc::new(if let Some(config) = &config { tokenizer.with_config(config) } else { tokenizer });
        let markers = ThinkingMarkers::default();
        let think_end = tokenizer.end_of_thinking_ids(&markers)?;
        let mut eos = tokenizer.eos_ids(text.generation_config.as_deref(), text.config.as_deref(), config.as_ref())?;
        let loaded = load_model(source, options)?;
        if eos.is_empty() {
            eos.extend(loaded.text.eos_token);
        }
        let spec = loaded.engine.spec().clone();
        if tokenizer.vocab_size() > spec.vocab_size {
            let message = format!(
                "the tokenizer knows {} tokens, the model only {}; they belong to different models",
                tokenizer.vocab_size(),
                spec.vocab_size
            );
            return Err(EngineError::Tokenizer(message));
        }
        let mut notices = loaded.notices;
        notices.extend(tokenizer.end_of_thinking_notice(&markers)?);
        if eos.is_empty() {
            notices.push("the checkpoint names no end-of-sequence token: answers end at the token limit".into());
        }
        let identity = ModelIdentity {
            name: name.into(),
            revision,
            hidden_size: spec.hidden_size,
            vocab_size: spec.vocab_size,
            tokenizer_sha256: tokenizer.sha256().into(),
            fingerprint: loaded.fingerprint,
        };
        let wait = tokenizer.ids_that_write("Wait")?;
        if wait.is_none() {
            notices.push("no tokens write \"Wait\": deadlines with wait=yes do not wait".into());
        }
        let vocabulary = ModelVocabulary::new(Arc::clone(&tokenizer), eos, think_end.clone(), wait.unwrap_or_default());
        let suitable = loaded.limits;
        let drafts = DraftLimits {
            tokens: wishes.draft_tokens.unwrap_or(suitable.drafts.tokens),
            shared: wishes.share_drafts,
            ..suitable.drafts
        };
        let max_batch = wishes.max_batch.unwrap_or(suitable.max_batch);
        let limits = DecodeLimits { max_batch, drafts, ..suitable };
        let decoder = Decoder::new(loaded.engine, Arc::new(vocabulary), limits);
        let config = config.unwrap_or_default();
        let chat_template = match ChatTemplate::from_checkpoint(text.chat_template.as_deref(), &config)? {
            None => loaded.text.chat_template.and_then(|source| {
                let usable = ChatTemplate::new(&source, &config);
                usable.inspect_err(|error| notices.push(format!("the chat template in the .gguf file: {error}"))).ok()
            }),
            found => found,
        };
        let prompts = Arc::new(Prompter { tokenizer, markers, think_end, chat_template });
        Ok(Self { identity, decoder, prompts, notices })
    }
}

impl Prompter {
    /// The prompt for one problem.
    pub fn prompt(&self, style: &PromptStyle, problem: &str) -> Result<Prompt> {
        match style {
            PromptStyle::Template(template) => self.tokenise(template.render(problem), true),
            PromptStyle::Chat(options) => self.chat(&[ChatMessage::new("user", problem)], options),
        }
    }

    /// The prompt for a conversation, through the checkpoint's chat template.
    pub fn chat(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<Prompt> {
        let missing = || EngineError::ChatTemplate("the checkpoint has none; use a prompt template instead".into());
        let template = self.chat_template.as_ref().ok_or_else(missing)?;
        let mut prompt = self.tokenise(template.render(messages, options)?, false)?;
        let render = |messages: &[ChatMessage]| template.render(messages, options).ok();
        prompt.phase = PhaseTracker::after_prompt(&self.markers, after_the_user(&prompt.text, messages, render));
        Ok(prompt)
    }

    /// Tokens that a text of so many bytes has at least, however it is cut.
    pub fn least_tokens(&self, bytes: usize) -> usize {
        bytes / self.tokenizer.most_bytes_per_token()
    }

    /// Whether the checkpoint brings a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// See [`ChatTemplate::sha256`].
    pub fn chat_template_sha256(&self) -> Option<&str> {
        self.chat_template.as_ref().map(ChatTemplate::sha256)
    }

    /// A prompt from a text; a chat template writes the special tokens itself, any other text gets them added.
    pub fn tokenise(&self, text: String, add_special_tokens: bool) -> Result<Prompt> {
        let tokens = self.tokenizer.encode(&text, add_special_tokens)?;
        let phase = PhaseTracker::after_prompt(&self.markers, &text);
        Ok(Prompt { text, tokens, phase })
    }
}

/// Words that no template writes.
const SENTINEL: &str = "7305518264907153";

/// What a chat template wrote after the last user's words, which may speak of `<think>` without opening a thought. These may
/// be part of what the template writes ("hi" is in "<think>"), so other words are put in their place to see where they end.
/// The whole text where that cannot be seen.
fn after_the_user<'a>(
    text: &'a str,
    messages: &[ChatMessage],
    render: impl FnOnce(&[ChatMessage]) -> Option<String>,
) -> &'a str {
    let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "user") else { return text };
    let mut messages = before.to_vec();
    messages.push(ChatMessage { content: SENTINEL.into(), ..last.clone() });
    let rendered = render(&messages).unwrap_or_default();
    let end = rendered.rfind(SENTINEL).map(|start| &rendered[start + SENTINEL.len()..]);
    let start = end.filter(|end| text.ends_with(end)).map_or(0, |end| text.len() - end.len());
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_user_open_and_hide_no_thought() {
        let after = |source: &str, role: &str, words: &str| {
            let template = ChatTemplate::new(source, &TokenizerConfig::default()).unwrap();
            let messages = [ChatMessage::new("system", "Think."), ChatMessage::new(role, words)];
            let render = |messages: &[ChatMessage]| template.render(messages, &ChatOptions::default()).ok();
            after_the_user(&render(&messages).unwrap(), &messages, render).to_owned()
        };
        let plain = "{% for m in messages %}<|{{ m.role[0] }}|>{{ m.content | trim }}{% endfor %}<|a|>";
        let thinks = format!("{plain}<think>");
        assert_eq!(after(plain, "user", " What does <think> mean? "), "<|a|>");
        for words in ["Why?", "hi", "think", "<think>", "i", "a", ""] {
            assert_eq!(after(&thinks, "user", words), "<|a|><think>", "{words:?}");
        }
        let picky = "{% if messages[-1].content == 'a' %}{{ messages[-1].content }}<think>{% endif %}";
        assert_eq!(after(picky, "user", "a"), "a<think>", "a template that writes other things for other words");
        assert_eq!(after(&plain.replace("<|a|>", ""), "assistant", "<think>So"), "<|s|>Think.<|a|><think>So");
    }
}
