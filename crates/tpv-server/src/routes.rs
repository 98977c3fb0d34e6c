//! Which path leads where, and what every answer goes through.

use crate::answer;
use crate::app::App;
use crate::control;
use crate::error::ApiError;
use crate::guard;
use crate::models;
use crate::page;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;
use tpv_core::text::shortened;

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
const CONTROL: &str = "/v1/chat/completions/control";

/// All paths.
pub fn router(app: Arc<App>) -> Router {
    let router = Router::new()
        .route(CHAT, post(answer::chat))
        .route(COMPLETION, post(answer::completion))
        .route(CONTROL, post(control::control))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/health", get(health))
        .route("/metrics", get(metrics));
    let router =
        page::FILES.into_iter().fold(router, |router, file| router.route(file.path, get(move || file.response())));
    router
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&app), guarded))
        .with_state(app)
}

/// Lets in who may come, and puts on every answer what browsers must be told.
async fn guarded(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let access = &app.config.access;
    let origin = guard::allowed_origin(request.headers(), access).cloned();
    let mut response = match guard::check(&request, access) {
        Err(error) => error.into_response(),
        Ok(()) if request.method() == Method::OPTIONS => preflight(request.headers()),
        Ok(()) => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        headers.insert(header::VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers"));
    }
    response
}

/// Clients send headers of their own, so an allowed origin may send what it asks for.
fn preflight(asked: &HeaderMap) -> Response {
    let usual = HeaderValue::from_static("authorization, content-type");
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST")),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(usual),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn health(State(app): State<Arc<App>>) -> Result<axum::Json<Value>, ApiError> {
    app.ready().map(|_| axum::Json(json!({ "status": "ok" })))
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render())
}

async fn nowhere(uri: Uri) -> ApiError {
    ApiError::new(404, "not_found", format!("there is nothing at {}; the API is under /v1", shortened(uri.path())))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let other = if [CHAT, COMPLETION, CONTROL].contains(&uri.path()) { "POST" } else { "GET" };
    let method = shortened(method.as_str());
    ApiError::new(
        405,
        "method_not_allowed",
        format!("{} does not take {method}; use {other} here", shortened(uri.path())),
    )
}
