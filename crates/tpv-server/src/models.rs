//! What is served: the model, and the vector with its figures and warnings.

use crate::app::{App, Ready, ReadyVector};
use crate::error::ApiError;
use crate::progress::plain;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tpv_core::sampling::SamplingParams;

/// Answers `/v1/models`.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let model = model(&app, app.ready()?);
    Ok(Json(json!({ "object": "list", "data": [model] })))
}

/// Answers `/v1/models/NAME`.
pub async fn one(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::new(400, "malformed_request", "the name of the model is no text"))?;
    let ready = app.ready()?;
    if name != app.config.model_name {
        return Err(ApiError::no_such_model(&name, &app.config.model_name));
    }
    Ok(Json(model(&app, ready)))
}

fn model(app: &App, ready: &Ready) -> Value {
    json!({
        "id": app.config.model_name,
        "object": "model",
        "created": app.started_unix_secs,
        "owned_by": "tpv",
        "max_model_len": ready.max_positions,
        "tpv": {
            "version": tpv_core::event::EVENT_VERSION,
            "dtype": ready.dtype,
            "hidden_size": ready.identity.hidden_size,
            "fingerprint": ready.identity.fingerprint,
            "sampling": sampling(app.config.sampling),
            "examples": app.config.examples,
            "vector": ready.vector.as_ref().map(vector),
        },
    })
}

fn sampling(params: SamplingParams) -> Value {
    json!({ "temperature": plain(params.temperature), "top_p": plain(params.top_p), "top_k": params.top_k })
}

fn vector(vector: &ReadyVector) -> Value {
    json!({
        "model": vector.info.model.name,
        "dataset": vector.info.dataset,
        "traces": vector.info.traces,
        "rows": vector.info.rows,
        "figures": vector.info.figures,
        "calibrated": vector.prepared.reading.is_calibrated(),
        "efforts": vector.efforts.iter().map(|(level, &alpha)| (level.as_str(), plain(alpha))).collect::<BTreeMap<_, _>>(),
        "theta_norm": plain(vector.theta_norm),
        "think_end_shift_per_alpha": plain(vector.think_end_shift),
        "warnings": vector.warnings,
    })
}
