//! Live control: another policy for an answer under way, or the end of its thinking.

use crate::app::{App, Ready};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::policy::{self, MOST_ALPHA};
use crate::worker::Command;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;
use tpv_core::policy::Policy;
use tpv_engine::decode::SampleId;

/// What is to change.
struct Change {
    policy: Option<String>,
    end_thinking: bool,
    /// One choice alone.
    choice: Option<usize>,
}

/// Answers `/v1/chat/completions/control`: `{"id", "policy" | "alpha", "end_thinking", "choice"}`.
pub async fn control(State(app): State<Arc<App>>, JsonBody(body): JsonBody) -> Result<Json<Value>, ApiError> {
    let ready = app.loaded()?;
    let fields = Fields::of_body(&body)?;
    let id = fields.text("id")?.ok_or_else(|| fields.error("id", "must be the id of an answer under way"))?;
    let change = change(fields)?;
    let ids = chosen(&app, id, &change)?;
    let samples = ids.into_iter().map(|id| Ok((id, policy(ready, &change)?))).collect::<Result<Vec<_>, ApiError>>()?;
    let (applied, answer) = oneshot::channel();
    let command = Command::Control { samples, end_thinking: change.end_thinking, applied };
    ready.commands.send(command).map_err(|_| ApiError::stopping())?;
    let applied = answer.await.map_err(|_| ApiError::stopping())?;
    Ok(Json(json!({ "id": id, "applied": applied })))
}

fn change(fields: Fields<'_>) -> Result<Change, ApiError> {
    fields.only(&["id", "choice", "alpha", "policy", "end_thinking"])?;
    let most = f64::from(MOST_ALPHA);
    let alpha = fields.number("alpha", -most..=most)?.map(|alpha| format!("constant:{alpha}"));
    let policy = fields.text("policy")?.map(str::to_owned);
    if alpha.is_some() && policy.is_some() {
        return Err(fields.error("alpha", "and policy say the same; give one of them"));
    }
    let policy = policy.or(alpha);
    let end_thinking = fields.flag("end_thinking")?;
    if policy.is_none() && !end_thinking {
        return Err(fields.error("policy", "or alpha or end_thinking must say what is to change"));
    }
    Ok(Change { policy, end_thinking, choice: fields.count("choice", 0..=1023)? })
}

fn policy(ready: &Ready, change: &Change) -> Result<Option<Box<dyn Policy>>, ApiError> {
    let parse = |text: &String| policy::parse("policy", text, &ready.policies);
    change.policy.as_ref().map(parse).transpose()
}

fn chosen(app: &App, id: &str, change: &Change) -> Result<Vec<SampleId>, ApiError> {
    let ids = app.running().get(id).cloned().ok_or_else(|| ApiError::no_such_answer(id))?;
    match change.choice {
        None => Ok(ids),
        Some(choice) => match ids.get(choice) {
            Some(&sample) => Ok(vec![sample]),
            None => Err(ApiError::field("choice", format!("the answer has no choice {choice}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: serde_json::Value) -> Result<Change, ApiError> {
        change(Fields::of_body(&body).unwrap())
    }

    #[test]
    fn alpha_is_a_short_form_of_a_policy() {
        assert_eq!(parse(json!({ "alpha": 12.5 })).unwrap().policy.as_deref(), Some("constant:12.5"));
        assert_eq!(parse(json!({ "policy": "off" })).unwrap().policy.as_deref(), Some("off"));
        assert!(parse(json!({ "end_thinking": true })).unwrap().end_thinking);
        for (body, field) in [
            (json!({}), "policy"),
            (json!({ "alpha": "x" }), "alpha"),
            (json!({ "alpha": 1e9 }), "alpha"),
            (json!({ "policy": "off", "alpha": 3 }), "alpha"),
            (json!({ "alpha": 3, "choice": "first" }), "choice"),
            (json!({ "end_thinking": true, "choise": 1 }), "choise"),
        ] {
            assert_eq!(parse(body).map(drop).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
