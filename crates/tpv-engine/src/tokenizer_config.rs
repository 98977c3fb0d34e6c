//! What the small JSON files of a checkpoint say about its text: the special tokens, where a sequence ends, and the
//! chat template.

use crate::error::{EngineError, Result};
use serde::Deserialize;
use serde_json::Value;

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
    /// The chat template: one text, or several with names.
    #[serde(default)]
    chat_template: Option<NamedTemplates>,
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
        }
        let map: Map = serde_json::from_slice(json)
            .map_err(|error| EngineError::Tokenizer(format!("special_tokens_map.json cannot be used: {error}")))?;
        self.bos_token = self.bos_token.or(map.bos_token);
        self.eos_token = self.eos_token.or(map.eos_token);
        Ok(self)
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

/// The `eos_token_id` of a `generation_config.json` or `config.json`: a number, a list of numbers, or nothing.
pub fn eos_token_ids(file_name: &str, json: &[u8]) -> Result<Vec<u32>> {
    let wrong = |problem: String| EngineError::Tokenizer(format!("{file_name}: {problem}"));
    let file: Value = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
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
            assert!(ids(wrong).unwrap_err().to_string().contains("config.json"), "{wrong}");
        }
    }
}
