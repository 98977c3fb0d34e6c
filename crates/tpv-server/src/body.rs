//! Reading a request's body: JSON of at most so many bytes, within the time that a client may take to send it.

use crate::app::App;
use crate::error::ApiError;
use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use futures_util::StreamExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a refused body is read on, so that the client sees the refusal rather than a broken connection.
const DRAIN: Duration = Duration::from_secs(1);

/// A body, parsed.
pub struct JsonBody(pub Value);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let limits = app.config.limits;
        let too_slow = |_| ApiError::new(408, "request_timeout", "the request took too long to arrive");
        let bytes = timeout(limits.transfer_time, read(request.into_body(), limits.max_body_bytes));
        let bytes = bytes.await.map_err(too_slow)??;
        let no_json = |error| ApiError::new(400, "invalid_json", format!("the body is no JSON: {error}"));
        serde_json::from_slice(&bytes).map(Self).map_err(no_json)
    }
}

/// The body of a request for new work, which is not waited for once the server stops.
pub struct NewWork(pub Value);

impl FromRequest<Arc<App>> for NewWork {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        tokio::select! {
            body = JsonBody::from_request(request, app) => body.map(|JsonBody(value)| Self(value)),
            () = app.stopped() => Err(ApiError::stopping()),
        }
    }
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let broken = |error| ApiError::new(400, "malformed_request", format!("the body cannot be read: {error}"));
        let piece = piece.map_err(broken)?;
        if bytes.len() + piece.len() > limit {
            drop(bytes);
            drain(pieces).await;
            return Err(ApiError::new(413, "body_too_large", format!("the body is longer than {limit} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Reads to the end for a moment and keeps nothing.
async fn drain(mut pieces: BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = pieces.next().await {} };
    let _ = timeout(DRAIN, rest).await; // refused either way
}
