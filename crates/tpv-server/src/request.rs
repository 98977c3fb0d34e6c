//! From a request's body to a wish that the worker can grant, or to a refusal that names the field.

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::fields::Fields;
use serde_json::Value;
use tpv_core::sampling::SamplingParams;
use tpv_engine::template::ChatMessage;

/// Most samples for one request.
const MOST_SAMPLES: usize = 16;
const MOST_STOP_TEXTS: usize = 16;
const MOST_BIASES: usize = 1024;
const MOST_MESSAGES: usize = 1024;
const MOST_PROMPTS: usize = 16;

/// What the model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A conversation.
    Chat(Vec<ChatMessage>),
    /// Texts or token lists to go on from.
    Completion(Vec<PromptInput>),
}

/// One prompt of a plain completion.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptInput {
    /// As text.
    Text(String),
    /// As tokens.
    Tokens(Vec<u32>),
}

/// A request, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// What the model is asked.
    pub input: Input,
    /// Samples for each prompt.
    pub samples: usize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Determines the draws; random without it.
    pub seed: Option<u64>,
    /// Tokens to generate at most.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop_texts: Vec<String>,
    /// Added to logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with the token counts.
    pub include_usage: bool,
    /// Whether the stream carries progress.
    pub progress: bool,
    /// The policy asked for.
    pub policy: Option<String>,
    /// The effort asked for.
    pub effort: Option<String>,
}

/// Reads the body of `/v1/chat/completions`.
pub fn chat(body: &Value, config: &ServerConfig) -> Result<Wish, ApiError> {
    let fields = Fields::of_body(body)?;
    wish(fields, Input::Chat(messages(fields)?), config)
}

/// Reads the body of `/v1/completions`.
pub fn completion(body: &Value, config: &ServerConfig) -> Result<Wish, ApiError> {
    let fields = Fields::of_body(body)?;
    wish(fields, Input::Completion(prompts(fields)?), config)
}

fn wish(fields: Fields<'_>, input: Input, config: &ServerConfig) -> Result<Wish, ApiError> {
    if let Some(model) = fields.text("model")?
        && model != config.model_name
    {
        return Err(ApiError::no_such_model(model, &config.model_name));
    }
    fields.refuse_unsupported()?;
    // A chat's template writes the special tokens; a plain completion begins with them.
    let has_special_tokens = matches!(input, Input::Completion(_));
    if fields.get("add_special_tokens").is_some_and(|wanted| *wanted != Value::Bool(has_special_tokens)) {
        return Err(fields.error("add_special_tokens", &format!("must be {has_special_tokens} here")));
    }
    let max_tokens = match fields.count("max_completion_tokens", 1..=usize::MAX)? {
        Some(tokens) => Some(tokens),
        None => fields.count("max_tokens", 1..=usize::MAX)?,
    };
    let stream_options = fields.object("stream_options", "stream_options.")?;
    let tpv = fields.object("tpv", "tpv.")?;
    tpv.map_or(Ok(()), |tpv| tpv.only(&["progress", "policy"]))?;
    Ok(Wish {
        input,
        samples: fields.count("n", 1..=MOST_SAMPLES)?.unwrap_or(1),
        sampling: sampling(fields, config.sampling)?,
        seed: seed(fields)?,
        max_tokens,
        stop_texts: stop_texts(fields)?,
        logit_bias: logit_bias(fields)?,
        stream: fields.flag("stream")?,
        include_usage: stream_options.map_or(Ok(false), |options| options.flag("include_usage"))?,
        progress: tpv.map_or(Ok(false), |tpv| tpv.flag("progress"))?,
        policy: tpv.map_or(Ok(None), |tpv| tpv.text("policy"))?.map(str::to_owned),
        effort: fields.text("reasoning_effort")?.map(str::to_owned),
    })
}

fn sampling(fields: Fields<'_>, default: SamplingParams) -> Result<SamplingParams, ApiError> {
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p);
    if top_p <= 0.0 {
        return Err(fields.error("top_p", "must be above 0 and at most 1"));
    }
    Ok(SamplingParams {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        top_p,
        top_k: match fields.get("top_k").and_then(serde_json::Value::as_i64) {
            Some(-1) => 0, // as vLLM writes it
            _ => fields.count("top_k", 0..=usize::MAX)?.unwrap_or(default.top_k),
        },
    })
}

fn seed(fields: Fields<'_>) -> Result<Option<u64>, ApiError> {
    let whole = |value: &Value| {
        let number = value.as_i64().map(i64::cast_unsigned).or(value.as_u64());
        number.ok_or_else(|| fields.error("seed", "must be a whole number of 64 bits"))
    };
    fields.get("seed").map(whole).transpose()
}

fn stop_texts(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let error = || fields.error("stop", &format!("must be a string or a list of at most {MOST_STOP_TEXTS} strings"));
    match fields.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) if list.len() <= MOST_STOP_TEXTS => {
            list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(error)).collect()
        }
        Some(_) => Err(error()),
    }
}

fn logit_bias(fields: Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let error =
        || fields.error("logit_bias", &format!("must map at most {MOST_BIASES} token ids to numbers from -100 to 100"));
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let map = value.as_object().filter(|map| map.len() <= MOST_BIASES).ok_or_else(error)?;
    let bias = |(token, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| bias.abs() <= 100.0)?;
        Some((token.parse().ok()?, bias as f32))
    };
    map.iter().map(|entry| bias(entry).ok_or_else(error)).collect()
}

fn messages(fields: Fields<'_>) -> Result<Vec<ChatMessage>, ApiError> {
    let error = || fields.error("messages", &format!("must be a list of 1 to {MOST_MESSAGES} messages"));
    let list = fields.get("messages").and_then(Value::as_array).ok_or_else(error)?;
    if list.is_empty() || list.len() > MOST_MESSAGES {
        return Err(error());
    }
    list.iter().enumerate().map(|(number, value)| message(number, value)).collect()
}

fn message(number: usize, value: &Value) -> Result<ChatMessage, ApiError> {
    let error = |name: &str, must: &str| {
        let field = format!("messages[{number}]{name}");
        ApiError::field(&field, format!("{field} {must}"))
    };
    let prefix = format!("messages[{number}].");
    let fields = Fields::of_item(value, &prefix).ok_or_else(|| error("", "must be an object with role and content"))?;
    fields.refuse_unsupported_in_message()?;
    let role = value["role"].as_str().ok_or_else(|| error(".role", "must be a string"))?;
    let role = match role {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role,
        _ => return Err(error(".role", "must be system, developer, user, assistant or tool")),
    };
    let content = content(&value["content"])
        .ok_or_else(|| error(".content", "must be a string or a list of parts of the type text"))?;
    let reasoning = ["reasoning_content", "reasoning"].iter().find_map(|name| value[*name].as_str());
    Ok(ChatMessage { role: role.into(), content, reasoning_content: reasoning.map(str::to_owned) })
}

/// A message's text: a string, or the text parts of a list.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| (part["type"] == "text").then(|| part["text"].as_str().map(str::to_owned))?;
            parts.iter().map(text).collect::<Option<Vec<String>>>().map(|texts| texts.concat())
        }
        _ => None,
    }
}

fn prompts(fields: Fields<'_>) -> Result<Vec<PromptInput>, ApiError> {
    let must = format!("must be a string, a list of token ids, or a list of at most {MOST_PROMPTS} of either");
    let error = || fields.error("prompt", &must);
    match fields.get("prompt") {
        Some(Value::String(text)) => Ok(vec![PromptInput::Text(text.clone())]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            Ok(vec![PromptInput::Tokens(tokens(list).ok_or_else(error)?)])
        }
        Some(Value::Array(list)) if (1..=MOST_PROMPTS).contains(&list.len()) => {
            let prompt = |value: &Value| match value {
                Value::String(text) => Some(PromptInput::Text(text.clone())),
                Value::Array(list) => tokens(list).map(PromptInput::Tokens),
                _ => None,
            };
            list.iter().map(|value| prompt(value).ok_or_else(error)).collect()
        }
        _ => Err(error()),
    }
}

fn tokens(list: &[Value]) -> Option<Vec<u32>> {
    list.iter().map(|token| u32::try_from(token.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<Wish, ApiError> {
        chat(&body, &ServerConfig::default())
    }

    fn with(name: &str, value: Value) -> Result<Wish, ApiError> {
        let mut body = json!({ "messages": [{ "role": "user", "content": "1 + 1?" }] });
        body[name] = value;
        parse(body)
    }

    #[test]
    fn every_field_arrives() {
        let wish = parse(json!({
            "model": "thinker",
            "messages": [
                { "role": "developer", "content": "Be brief." },
                { "role": "user", "content": [{ "type": "text", "text": "1 + " }, { "type": "text", "text": "1?" }] },
                { "role": "assistant", "content": "2", "reasoning": "Easy.", "tool_calls": [], "refusal": null },
            ],
            "n": 3, "temperature": 0, "top_p": 0.5, "seed": -1, "max_tokens": 9, "max_completion_tokens": 7, "stop": ["a", "b"],
            "logit_bias": { "5": -100 }, "stream": true, "stream_options": { "include_usage": true },
            "tpv": { "progress": true, "policy": "constant:15" }, "reasoning_effort": "low", "user": "somebody",
        }))
        .unwrap();
        let Input::Chat(messages) = &wish.input else { panic!("a conversation") };
        assert_eq!(messages[0].role, "system");
        assert_eq!(messages[1].content, "1 + 1?");
        assert_eq!(messages[2].reasoning_content.as_deref(), Some("Easy."));
        assert_eq!((wish.samples, wish.max_tokens, wish.seed), (3, Some(7), Some(u64::MAX)));
        assert_eq!(wish.sampling, SamplingParams { temperature: 0.0, top_p: 0.5, top_k: 0 });
        assert_eq!((wish.stop_texts, wish.logit_bias), (vec!["a".to_string(), "b".into()], vec![(5, -100.0)]));
        assert!(wish.stream && wish.include_usage && wish.progress);
        assert_eq!((wish.policy.as_deref(), wish.effort.as_deref()), (Some("constant:15"), Some("low")));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (name, value, field) in [
            ("temperature", json!(-1), "temperature"),
            ("temperature", json!("hot"), "temperature"),
            ("top_p", json!(0), "top_p"),
            ("n", json!(0), "n"),
            ("max_tokens", json!(1.5), "max_tokens"),
            ("max_tokens", json!(0), "max_tokens"),
            ("add_special_tokens", json!(true), "add_special_tokens"),
            ("stop", json!([1]), "stop"),
            ("logit_bias", json!({ "x": 1 }), "logit_bias"),
            ("stream", json!("yes"), "stream"),
            ("stream_options", json!({ "include_usage": 1 }), "stream_options.include_usage"),
            ("tpv", json!({ "progress": "yes" }), "tpv.progress"),
            ("tpv", json!(true), "tpv"),
            ("tpv", json!({ "progres": true }), "tpv.progres"),
            ("seed", json!(0.5), "seed"),
            ("tools", json!([{}]), "tools"),
            ("response_format", json!({ "type": "json_object" }), "response_format"),
            ("messages", json!([]), "messages"),
            ("messages", json!([{ "role": "user", "content": 3 }]), "messages[0].content"),
            ("messages", json!([{ "role": "king", "content": "" }]), "messages[0].role"),
            (
                "messages",
                json!([{ "role": "user" }, { "role": "assistant", "tool_calls": [{}] }]),
                "messages[1].tool_calls",
            ),
            (
                "messages",
                json!([{ "role": "assistant", "function_call": { "name": "f" } }]),
                "messages[0].function_call",
            ),
            ("messages", json!([{ "role": "assistant", "refusal": "No." }]), "messages[0].refusal"),
            ("messages", json!([{ "role": "assistant", "audio": { "id": "a" } }]), "messages[0].audio"),
        ] {
            let error = with(name, value.clone()).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{name}: {value}");
            assert_eq!(error.status, 400);
        }
        assert_eq!(with("model", json!("gpt-5")).unwrap_err().status, 404);
        assert_eq!(parse(json!([])).unwrap_err().status, 400);
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let parse = |prompt: Value| completion(&json!({ "prompt": prompt }), &ServerConfig::default()).unwrap().input;
        let text = |text: &str| PromptInput::Text(text.into());
        assert_eq!(parse(json!("a")), Input::Completion(vec![text("a")]));
        assert_eq!(parse(json!(["a", "b"])), Input::Completion(vec![text("a"), text("b")]));
        assert_eq!(parse(json!([1, 2])), Input::Completion(vec![PromptInput::Tokens(vec![1, 2])]));
        assert_eq!(
            parse(json!([[1], [2]])),
            Input::Completion([[1], [2]].map(|t| PromptInput::Tokens(t.into())).into())
        );
        assert!(completion(&json!({ "prompt": [1, "a"] }), &ServerConfig::default()).is_err());
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,5}", inner, 0..4)
                    .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn hostile_values_are_refused_with_a_status_and_never_panic(
            name in prop::sample::select(vec!["model", "messages", "n", "stop", "seed", "logit_bias", "tpv", "stream_options", "top_k", "prompt"]),
            value in json_value(),
        ) {
            let mut body = json!({ "messages": [{ "role": "user", "content": "?" }], "prompt": "?" });
            body[name] = value;
            for result in [chat(&body, &ServerConfig::default()), completion(&body, &ServerConfig::default())] {
                if let Err(error) = result {
                    prop_assert!([400, 404].contains(&error.status));
                    prop_assert!(error.field.is_some());
                }
            }
        }
    }
}
