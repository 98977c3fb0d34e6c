//! What the small JSON files of a checkpoint say about its text: the special and added tokens, where a sequence ends, and
//! the chat template.

use crate::config::not_json;
use crate::error::{EngineError, Result};
use crate::weights::file_error;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The fields of `tokenizer_config.json` that matter here; everything else in the file is ignored.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TokenizerConfig {
    /// The class that transformers would load.
    #[serde(default)]
    pub tokenizer_class: Option<String>,
    /// Whether a prompt starts with the beginning-of-sequence token; `None` leaves it to `tokenizer.json`.
    #[serde(default)]
    pub add_bos_token: Option<bool>,
    /// The beginning-of-sequence token.
    #[serde(default)]
    bos_token: Option<TokenName>,
    /// The end-of-sequence token.
    #[serde(default)]
    eos_token: Option<TokenName>,
    /// The token that fills short sequences.
    #[serde(default)]
    pad_token: Option<TokenName>,
    /// Tokens beyond those of the vocabulary, by their numbers.
    #[serde(default)]
    added_tokens_decoder: Option<BTreeMap<String, NumberedToken>>,
    /// Tokens that are special without another name; `extra_special_tokens` in later files.
    #[serde(default)]
    additional_special_tokens: Option<Value>,
    #[serde(default)]
    extra_special_tokens: Option<Value>,
    /// The chat template: one text, or several with names.
    #[serde(default)]
    chat_template: Option<NamedTemplates>,
}

/// A token that stands for its own text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NumberedToken {
    /// The text.
    pub content: String,
    /// Whether it takes the spaces before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it takes the spaces behind it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is found as a whole word alone.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it is looked for in the normalised text.
    #[serde(default)]
    pub normalized: bool,
    /// Whether it is no text to show.
    #[serde(default)]
    pub special: bool,
    /// Whether nothing but its text is known, as in `added_tokens.json`.
    #[serde(skip)]
    pub is_bare: bool,
}

/// A special token is written as its text or as an object that holds it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TokenName {
    Text(String),
    Added { content: String },
}

impl TokenName {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

/// A checkpoint has one chat template, or a list of them with names.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum NamedTemplates {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Debug, Clone, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    /// Reads the bytes of a `tokenizer_config.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json)
            .map_err(|error| EngineError::Tokenizer(format!("tokenizer_config.json cannot be used: {error}")))
    }

    /// Takes the special tokens that it does not name from the bytes of a `special_tokens_map.json`.
    pub fn with_special_tokens(mut self, json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Map {
            #[serde(default)]
            bos_token: Option<TokenName>,
            #[serde(default)]
            eos_token: Option<TokenName>,
            #[serde(default)]
            pad_token: Option<TokenName>,
            #[serde(default)]
            additional_special_tokens: Option<Value>,
        }
        let map: Map = serde_json::from_slice(json)
            .map_err(|error| EngineError::Tokenizer(format!("special_tokens_map.json cannot be used: {error}")))?;
        self.bos_token = self.bos_token.or(map.bos_token);
        self.eos_token = self.eos_token.or(map.eos_token);
        self.pad_token = self.pad_token.or(map.pad_token);
        self.additional_special_tokens = self.additional_special_tokens.or(map.additional_special_tokens);
        Ok(self)
    }

    /// Takes the tokens at the ends of a sequence, where it names none.
    pub fn with_named_tokens(mut self, bos_token: Option<String>, eos_token: Option<String>) -> Self {
        self.bos_token = self.bos_token.or(bos_token.map(TokenName::Text));
        self.eos_token = self.eos_token.or(eos_token.map(TokenName::Text));
        self
    }

    /// The tokens with a number that stand here and not only in `tokenizer.json`, in the order of their numbers; those of an
    /// `added_tokens.json` too, whose bytes are given.
    pub fn numbered_tokens(&self, added_tokens: Option<&[u8]>) -> Result<BTreeMap<u32, NumberedToken>> {
        let wrong = |file: &str, number: &str| file_error(Path::new(file), format!("{number} is no number of a token"));
        let mut tokens = BTreeMap::new();
        let special = self.special_texts();
        let map = added_tokens.map(|json| parse_file("added_tokens.json", json)).transpose()?.unwrap_or_default();
        for (content, id) in map.as_object().into_iter().flatten() {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| wrong("added_tokens.json", &id.to_string()))?;
            let special = special.contains(content);
            let content = content.clone();
            let token = NumberedToken { content, special, is_bare: true, ..NumberedToken::default() };
            tokens.insert(number, token);
        }
        for (id, token) in self.added_tokens_decoder.iter().flatten() {
            let number = id.parse().map_err(|_| wrong("tokenizer_config.json", &format!("{id:?}")))?;
            tokens.insert(number, token.clone());
        }
        Ok(tokens)
    }

    /// The texts of the special tokens that have no other name.
    pub fn special_texts(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().or(value.get("content").and_then(Value::as_str)).map(str::to_owned);
        let lists = [&self.additional_special_tokens, &self.extra_special_tokens].into_iter().flatten();
        let texts = lists.flat_map(|list| match list {
            Value::Array(list) => list.iter().filter_map(text).collect(),
            Value::Object(named) => named.values().filter_map(text).collect(),
            _ => Vec::new(),
        });
        texts.collect()
    }

    /// The text of the token that fills short sequences.
    pub fn pad_token(&self) -> Option<&str> {
        self.pad_token.as_ref().map(TokenName::text)
    }

    /// The text of the beginning-of-sequence token.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_ref().map(TokenName::text)
    }

    /// The text of the end-of-sequence token.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_ref().map(TokenName::text)
    }

    /// The chat template: the only one, else the one named `default`.
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            NamedTemplates::One(template) => Some(template),
            NamedTemplates::Several(list) => {
                list.iter().find(|named| named.name == "default").map(|named| named.template.as_str())
            }
        }
    }
}

/// One of the small JSON files; an error names it.
pub(crate) fn parse_file(file_name: &str, json: &[u8]) -> Result<Value> {
    serde_json::from_slice(json).map_err(|error| file_error(Path::new(file_name), not_json(&error)))
}

/// The `eos_token_id` of a `generation_config.json` or `config.json`: a number, a list of numbers, or nothing.
pub fn eos_token_ids(file_name: &str, json: &[u8]) -> Result<Vec<u32>> {
    let wrong = |problem: String| file_error(Path::new(file_name), problem);
    let file = parse_file(file_name, json)?;
    let as_id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong(format!("eos_token_id should hold token numbers but holds {value}")))
    };
    match file.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(as_id).collect(),
        Some(id) => Ok(vec![as_id(id)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_special_tokens_map_fills_what_is_missing() {
        let config = TokenizerConfig::from_bytes(br#"{"bos_token": "<s>"}"#).unwrap();
        let map = br#"{"bos_token": "<other>", "eos_token": {"content": "</s>"}, "additional_special_tokens": ["x"]}"#;
        let config = config.with_special_tokens(map).unwrap();
        assert_eq!((config.bos_token(), config.eos_token()), (Some("<s>"), Some("</s>")));
        assert!(TokenizerConfig::default().with_special_tokens(b"[").is_err());
    }

    #[test]
    fn tokens_with_numbers_are_gathered_from_both_files() {
        let json = br#"{"added_tokens_decoder": {"7": {"content": "<b>", "rstrip": true, "special": true}},
                        "additional_special_tokens": ["<a>", {"content": "<c>"}], "extra_special_tokens": {"x": "<d>"}}"#;
        let config = TokenizerConfig::from_bytes(json).unwrap();
        assert_eq!(config.special_texts(), ["<a>", "<c>", "<d>"]);
        let tokens = config.numbered_tokens(Some(br#"{"<a>": 9, "<old>": 7, "<plain>": 8}"#)).unwrap();
        let told: Vec<_> = tokens.iter().map(|(id, token)| (*id, token.content.as_str(), token.special)).collect();
        assert_eq!(told, [(7, "<b>", true), (8, "<plain>", false), (9, "<a>", true)]);
        assert!(tokens[&7].rstrip && !tokens[&7].lstrip);
        let wrong = config.numbered_tokens(Some(br#"{"<a>": -1}"#)).unwrap_err().to_string();
        assert!(wrong.starts_with("added_tokens.json: -1"), "{wrong}");
    }

    #[test]
    fn tokens_are_read_as_texts_and_as_objects() {
        let json = br#"{"bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": false},
                        "eos_token": "</s>", "pad_token": null, "model_max_length": 1e30}"#;
        let config = TokenizerConfig::from_bytes(json).unwrap();
        assert_eq!((config.bos_token(), config.eos_token()), (Some("<s>"), Some("</s>")));
        assert_eq!(config.add_bos_token, None);
        assert_eq!(config.chat_template(), None);
    }

    #[test]
    fn the_template_named_default_is_chosen_from_a_list() {
        let json =
            br#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
        assert_eq!(TokenizerConfig::from_bytes(json).unwrap().chat_template(), Some("D"));
        let json = br#"{"bos_token": null, "chat_template": "C"}"#;
        assert_eq!(TokenizerConfig::from_bytes(json).unwrap().chat_template(), Some("C"));
    }

    #[test]
    fn ends_are_a_number_or_a_list_or_missing() {
        let ids = |json: &str| eos_token_ids("config.json", json.as_bytes());
        assert_eq!(ids(r#"{"eos_token_id": 7}"#).unwrap(), [7]);
        assert_eq!(ids(r#"{"eos_token_id": [128001, 128008]}"#).unwrap(), [128001, 128008]);
        assert!(ids(r#"{"eos_token_id": null}"#).unwrap().is_empty());
        assert!(ids("{}").unwrap().is_empty());
        for wrong in [r#"{"eos_token_id": -1}"#, r#"{"eos_token_id": "x"}"#, r#"{"eos_token_id": [4294967296]}"#, "{"] {
            assert!(ids(wrong).unwrap_err().to_string().starts_with("config.json: "), "{wrong}");
        }
        let infinite = ids(r#"{"foo": Infinity}"#).unwrap_err().to_string();
        assert!(infinite.contains("`Infinity` and `NaN`"), "{infinite}");
    }
}
