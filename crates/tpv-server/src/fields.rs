//! Reading a JSON object field by field, so that a refusal can name the field.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use tpv_core::text::shortened;

/// The fields of a JSON object; `null` counts as absent.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of a request's body.
    pub fn of_body(body: &'a Value) -> Result<Self, ApiError> {
        match body {
            Value::Object(map) => Ok(Self { map, prefix: "" }),
            _ => Err(ApiError::new(400, "invalid_json", "the body must be a JSON object")),
        }
    }

    /// The fields of an object in a list; `prefix` as below. None if it is something else.
    pub fn of_item(item: &'a Value, prefix: &'a str) -> Option<Self> {
        item.as_object().map(|map| Self { map, prefix })
    }

    /// The fields of an object that is itself a field; `prefix` stands before their names, e.g. `tpv.`.
    pub fn object(&self, name: &str, prefix: &'a str) -> Result<Option<Fields<'a>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map, prefix })),
            Some(_) => Err(self.error(name, "must be an object")),
        }
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The refusal of a field: its name and what it must be.
    pub fn error(&self, name: &str, must: &str) -> ApiError {
        let field = format!("{}{name}", self.prefix);
        ApiError::field(&field, format!("{field} {must}"))
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        let text = |value: &'a Value| value.as_str().ok_or_else(|| self.error(name, "must be a string"));
        self.get(name).map(text).transpose()
    }

    /// `true` or `false`; `false` where absent.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.error(name, "must be true or false")),
        }
    }

    /// A number within bounds.
    pub fn number(&self, name: &str, bounds: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let must = || format!("must be a number from {} to {}", bounds.start(), bounds.end());
        let number = |value: &Value| {
            let number = value.as_f64().filter(|number| bounds.contains(number));
            number.map(|number| number as f32).ok_or_else(|| self.error(name, &must()))
        };
        self.get(name).map(number).transpose()
    }

    /// A whole number within bounds.
    pub fn count(&self, name: &str, bounds: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        let must = || match bounds.end() {
            &usize::MAX => format!("must be a whole number of at least {}", bounds.start()),
            most => format!("must be a whole number from {} to {most}", bounds.start()),
        };
        let count = |value: &Value| {
            let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
            number.filter(|number| bounds.contains(number)).ok_or_else(|| self.error(name, &must()))
        };
        self.get(name).map(count).transpose()
    }

    /// Refuses names that mean nothing here.
    pub fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.map.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(self.error(shortened(name), &format!("is unknown; the fields are {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    /// Refuses fields that would change the answer and that this server does not know how to obey, unless their value leaves
    /// the answer as it is.
    pub fn refuse_unsupported(&self) -> Result<(), ApiError> {
        self.refuse(is_unsupported)
    }

    /// The same for the fields of a message.
    pub fn refuse_unsupported_in_message(&self) -> Result<(), ApiError> {
        self.refuse(|name| UNSUPPORTED_IN_MESSAGES.contains(&name))
    }

    fn refuse(&self, is_unsupported: impl Fn(&str) -> bool) -> Result<(), ApiError> {
        let asks = |(name, value): &(&String, &Value)| is_unsupported(name) && !is_neutral(name, value);
        match self.map.iter().find(asks) {
            Some((name, _)) => Err(self.error(shortened(name), "is not supported by this server; leave it out")),
            None => Ok(()),
        }
    }
}

/// Fields of OpenAI, vLLM, llama.cpp and others that would change the answer; beside them, all that begin with `guided_`.
const UNSUPPORTED: [&str; 63] = [
    "add_generation_prompt",
    "allowed_token_ids",
    "audio",
    "bad_words",
    "best_of",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "dry_multiplier",
    "dynatemp_range",
    "echo",
    "enable_thinking",
    "frequency_penalty",
    "function_call",
    "functions",
    "grammar",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "json_schema",
    "length_penalty",
    "logits_processors",
    "logprobs",
    "max_thinking_tokens",
    "min_length",
    "min_p",
    "min_tokens",
    "mirostat",
    "modalities",
    "n_predict",
    "n_probs",
    "presence_penalty",
    "prompt_logprobs",
    "reasoning",
    "reasoning_budget",
    "reasoning_format",
    "regex",
    "repeat_penalty",
    "repetition_penalty",
    "response_format",
    "samplers",
    "skip_special_tokens",
    "stop_token_ids",
    "structural_tag",
    "structured_outputs",
    "suffix",
    "t_max_predict_ms",
    "thinking",
    "thinking_budget",
    "thinking_budget_tokens",
    "thinking_token_budget",
    "tool_choice",
    "tools",
    "top_a",
    "top_logprobs",
    "top_n_sigma",
    "truncate_prompt_tokens",
    "typical_p",
    "use_beam_search",
    "verbosity",
    "web_search_options",
    "xtc_probability",
];

/// Parts of a message that no prompt here would show.
const UNSUPPORTED_IN_MESSAGES: [&str; 4] = ["audio", "function_call", "refusal", "tool_calls"];

fn is_unsupported(name: &str) -> bool {
    name.starts_with("guided_") || UNSUPPORTED.contains(&name)
}

/// Whether a field with this value leaves the answer as it is.
fn is_neutral(name: &str, value: &Value) -> bool {
    match (name, value) {
        (
            "best_of" | "length_penalty" | "repeat_penalty" | "repetition_penalty" | "typical_p",
            Value::Number(number),
        ) => number.as_f64() == Some(1.0),
        (
            "max_thinking_tokens"
            | "n_predict"
            | "reasoning_budget"
            | "t_max_predict_ms"
            | "thinking_budget"
            | "thinking_budget_tokens"
            | "thinking_token_budget",
            Value::Number(number),
        ) => number.as_f64() == Some(-1.0),
        ("reasoning_format", Value::String(format)) => format == "auto",
        // To OpenAI and vLLM 0 asks for the token that was drawn.
        ("logprobs" | "prompt_logprobs", Value::Number(_)) => false,
        (
            "add_generation_prompt"
            | "enable_thinking"
            | "include_reasoning"
            | "reasoning"
            | "skip_special_tokens"
            | "thinking",
            value,
        ) if !value.is_object() => value.is_null() || *value == Value::Bool(true),
        ("function_call" | "tool_choice", Value::String(choice)) => matches!(choice.as_str(), "none" | "auto"),
        ("modalities", Value::Array(list)) => list.iter().all(|kind| kind == "text"),
        ("response_format", Value::Object(_)) => value["type"] == "text",
        ("verbosity", Value::String(level)) => level == "medium",
        (_, Value::Null) => true,
        (_, Value::Bool(wanted)) => !wanted,
        (_, Value::Number(number)) => number.as_f64() == Some(0.0),
        (_, Value::String(text)) => text.is_empty(),
        (_, Value::Array(list)) => list.is_empty(),
        (_, Value::Object(map)) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(body: Value) -> Option<String> {
        Fields::of_body(&body).unwrap().refuse_unsupported().err().and_then(|error| error.field)
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (name, value) in [
            ("tool_choice", json!("required")),
            ("tool_choice", json!({ "type": "function" })),
            ("function_call", json!({ "name": "f" })),
            ("functions", json!([{}])),
            ("tools", json!([{}])),
            ("modalities", json!(["text", "audio"])),
            ("min_p", json!(0.1)),
            ("repetition_penalty", json!(1.1)),
            ("repetition_penalty", json!(0)),
            ("min_tokens", json!(5)),
            ("ignore_eos", json!(true)),
            ("stop_token_ids", json!([7])),
            ("guided_json", json!({ "type": "object" })),
            ("guided_regex", json!("a+")),
            ("chat_template_kwargs", json!({ "enable_thinking": false })),
            ("response_format", json!({ "type": "json_object" })),
            ("response_format", json!({})),
            ("logprobs", json!(true)),
            ("logprobs", json!(0)),
            ("prompt_logprobs", json!(0)),
            ("top_logprobs", json!(3)),
            ("echo", json!(true)),
            ("suffix", json!("end")),
            ("best_of", json!(2)),
            ("n_predict", json!(3)),
            ("n_predict", json!(0)),
            ("thinking_token_budget", json!(5)),
            ("include_reasoning", json!(false)),
            ("reasoning", json!(false)),
            ("thinking", json!({ "type": "disabled" })),
            ("enable_thinking", json!(0)),
            ("max_thinking_tokens", json!(0)),
            ("reasoning_budget", json!(0)),
            ("thinking_budget", json!(0)),
            ("skip_special_tokens", json!(false)),
            ("reasoning_format", json!("none")),
        ] {
            assert_eq!(refused(json!({ name: value.clone() })).as_deref(), Some(name), "{value}");
        }
    }

    #[test]
    fn neutral_values_and_what_changes_nothing_are_let_by() {
        for body in [
            json!({ "tool_choice": "auto", "function_call": "none", "tools": [], "functions": null, "modalities": ["text"] }),
            json!({ "min_p": 0, "repetition_penalty": 1.0, "min_tokens": 0, "ignore_eos": false, "stop_token_ids": [] }),
            json!({ "guided_json": null, "chat_template_kwargs": {}, "response_format": { "type": "text" }, "best_of": 1 }),
            json!({ "logprobs": null, "prompt_logprobs": null }),
            json!({ "logprobs": false, "top_logprobs": 0, "presence_penalty": 0.0, "echo": false, "suffix": "" }),
            json!({ "n_predict": -1, "reasoning_budget": -1, "thinking": true, "reasoning": {}, "include_reasoning": true, "reasoning_format": "auto", "n_probs": 0, "samplers": [] }),
            json!({ "user": "somebody", "metadata": { "a": "b" }, "store": true, "service_tier": "auto", "made_up": 7 }),
        ] {
            assert_eq!(refused(body.clone()), None, "{body}");
        }
    }
}
