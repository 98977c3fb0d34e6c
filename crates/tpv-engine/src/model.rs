//! A model as people meet it: text in, text out, with the decode loop between.

use crate::decode::{DecodeLimits, Decoder, DraftLimits};
use crate::error::{EngineError, Result};
use crate::generation_config::unapplied_notice;
use crate::load::{EmbeddedText, LoadOptions, ModelSource, load_model};
use crate::template::{ChatMessage, ChatOptions, ChatTemplate, PromptTemplate};
use crate::tokenizer::Tokenizer;
use crate::tokenizer_config::{TokenizerConfig, parse_file};
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
    /// `added_tokens.json`, the older place of tokens beyond the vocabulary.
    pub added_tokens: Option<Cow<'static, [u8]>>,
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

impl LimitWishes {
    fn within(self, suitable: DecodeLimits) -> DecodeLimits {
        let drafts = DraftLimits {
            tokens: self.draft_tokens.unwrap_or(suitable.drafts.tokens),
            shared: self.share_drafts,
            ..suitable.drafts
        };
        DecodeLimits { max_batch: self.max_batch.unwrap_or(suitable.max_batch), drafts, ..suitable }
    }
}

impl TextFiles {
    /// The configuration and the tokenizer, with the tokens of all files, and sentences about what could not be followed.
    fn tokenizer(&self) -> Result<(TokenizerConfig, Tokenizer, Vec<String>)> {
        let config = self.tokenizer_config.as_deref().map(TokenizerConfig::from_bytes).transpose()?.unwrap_or_default();
        let config = match self.special_tokens_map.as_deref() {
            Some(map) => config.with_special_tokens(map)?,
            None => config,
        };
        let tokens = config.numbered_tokens(self.added_tokens.as_deref())?;
        let model = self.config.as_deref().map(|json| parse_file("config.json", json)).transpose()?;
        let vocabulary = model.and_then(|model| model.get("vocab_size")?.as_u64()).map(|length| length as usize);
        let tokenizer = Tokenizer::from_bytes(&self.tokenizer)?;
        let (tokenizer, notices) = tokenizer.with_added_tokens(&tokens, &config.special_texts(), vocabulary)?;
        let tokenizer = tokenizer.with_config(&config);
        Ok((config, tokenizer, notices))
    }
}

impl EmbeddedText {
    /// Fills in what `config` does not say. Whether a prompt starts with the token that begins a sequence is followed where
    /// no `tokenizer_config.json` speaks of it.
    fn complete(&self, config: &mut TokenizerConfig, tokenizer: Tokenizer, is_configured: bool) -> Tokenizer {
        let text = |token: Option<u32>| token.and_then(|token| tokenizer.token_text(token));
        *config = std::mem::take(config).with_named_tokens(text(self.bos_token), text(self.eos_token));
        match self.add_bos_token.filter(|_| !is_configured) {
            Some(wanted) => tokenizer.with_bos(config.bos_token(), wanted),
            None => tokenizer,
        }
    }
}

fn refuse_foreign_tokenizer(of_tokenizer: usize, of_model: usize) -> Result<()> {
    if of_tokenizer <= of_model {
        return Ok(());
    }
    Err(EngineError::Tokenizer(format!(
        "the tokenizer knows {of_tokenizer} tokens, the model only {of_model}; they belong to different models"
    )))
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
        let (mut config, tokenizer, mut notices) = text.tokenizer()?;
        let markers = ThinkingMarkers::default();
        tokenizer.end_of_thinking_ids(&markers)?;
        let mut eos = tokenizer.eos_ids(text.generation_config.as_deref(), text.config.as_deref(), Some(&config))?;
        if let Some(json) = text.generation_config.as_deref() {
            notices.extend(unapplied_notice(json)?);
        }
        let loaded = load_model(source, options)?;
        if eos.is_empty() {
            eos.extend(loaded.text.eos_token);
        }
        let tokenizer = Arc::new(loaded.text.complete(&mut config, tokenizer, text.tokenizer_config.is_some()));
        let think_end = tokenizer.end_of_thinking_ids(&markers)?;
        let spec = loaded.engine.spec().clone();
        refuse_foreign_tokenizer(tokenizer.vocab_size(), spec.vocab_size)?;
        notices.splice(0..0, loaded.notices);
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
        let decoder = Decoder::new(loaded.engine, Arc::new(vocabulary), wishes.within(loaded.limits));
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
        prompt.phase = PhaseTracker::after_prompt(&self.markers, after_the_words(&prompt.text, messages, render));
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

/// What a chat template wrote after the last words of a conversation, which may speak of `<think>` without opening a thought.
/// These may be part of what the template writes ("hi" is in "<think>"), so other words are put in their place to see where
/// they end: in the place of all words, since templates may write a message elsewhere than in its turn; where that changes
/// what the template does, of the last message's alone. The whole text where that cannot be seen, and where nothing is
/// written after an assistant's words, which then go on.
fn after_the_words<'a>(
    text: &'a str,
    messages: &[ChatMessage],
    render: impl Fn(&[ChatMessage]) -> Option<String>,
) -> &'a str {
    let Some((last, before)) = messages.split_last() else { return text };
    let hidden = |message: &ChatMessage| ChatMessage { content: SENTINEL.into(), ..message.clone() };
    let without_thinking = |message| ChatMessage { reasoning_content: None, ..hidden(message) };
    let all: Vec<ChatMessage> = messages.iter().map(without_thinking).collect();
    let last_alone: Vec<ChatMessage> = before.iter().cloned().chain([hidden(last)]).collect();
    let written_after = |messages: &Vec<ChatMessage>| {
        let rendered = render(messages)?;
        let end = &rendered[rendered.rfind(SENTINEL)? + SENTINEL.len()..];
        text.ends_with(end).then_some(end.len())
    };
    match [all, last_alone].iter().find_map(written_after) {
        Some(length) if length > 0 || last.role != "assistant" => &text[text.len() - length..],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_words_open_and_hide_no_thought_whoever_is_last() {
        let talk = |end: &str, messages: &[(&str, &str)]| {
            let source = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}\
                          {% for m in messages %}{% if m.role != 'system' %}<|{{ m.role[0] }}|>{{ m.content }}{% endif %}{% endfor %}";
            let template = ChatTemplate::new(&format!("{source}{end}"), &TokenizerConfig::default()).unwrap();
            let messages: Vec<_> = messages.iter().map(|(role, words)| ChatMessage::new(*role, *words)).collect();
            let render = |messages: &[ChatMessage]| template.render(messages, &ChatOptions::default()).ok();
            after_the_words(&render(&messages).unwrap(), &messages, render).to_owned()
        };
        let told = [("system", "Write <think> first."), ("assistant", "<think>hm</think>2")];
        for last in [("tool", "3"), ("developer", "Go on."), ("system", "Go on."), ("assistant", "</think>")] {
            assert_eq!(talk("<|a|>", &[told[0], told[1], last]), "<|a|>", "{last:?}");
            assert_eq!(talk("<|a|><think>", &[told[0], told[1], last]), "<|a|><think>", "{last:?}");
        }
        assert_eq!(talk("<|a|>", &[("user", "<think>?"), ("system", "S")]), "<|a|>", "system words come first here");
        assert!(talk("", &[("user", "?"), ("assistant", "<think>So")]).ends_with("<|a|><think>So"), "it goes on");
    }

    #[test]
    fn words_of_a_user_open_and_hide_no_thought() {
        let after = |source: &str, role: &str, words: &str| {
            let template = ChatTemplate::new(source, &TokenizerConfig::default()).unwrap();
            let messages = [ChatMessage::new("system", "Think."), ChatMessage::new(role, words)];
            let render = |messages: &[ChatMessage]| template.render(messages, &ChatOptions::default()).ok();
            after_the_words(&render(&messages).unwrap(), &messages, render).to_owned()
        };
        let plain = "{% for m in messages %}<|{{ m.role[0] }}|>{{ m.content | trim }}{% endfor %}<|a|>";
        let thinks = format!("{plain}<think>");
        assert_eq!(after(plain, "user", " What does <think> mean? "), "<|a|>");
        for words in ["Why?", "hi", "think", "<think>", "i", "a", ""] {
            assert_eq!(after(&thinks, "user", words), "<|a|><think>", "{words:?}");
        }
        for role in ["tool", "developer", "system"] {
            assert_eq!(after(plain, role, "What does <think> mean?"), "<|a|>", "{role}");
            assert_eq!(after(&thinks, role, "</think> ends it."), "<|a|><think>", "{role}");
        }
        let picky = "{% if messages[-1].content == 'a' %}{{ messages[-1].content }}<think>{% endif %}";
        assert_eq!(after(picky, "user", "a"), "a<think>", "a template that writes other things for other words");
        assert_eq!(after(&plain.replace("<|a|>", ""), "assistant", "<think>So"), "<|s|>Think.<|a|><think>So");
    }
}
