//! Policies by their names in requests, refused with the field's name.

use crate::error::ApiError;
use tpv_core::policy::{Policy, PolicyContext, PolicySpec};

/// Largest strength that a request may ask for by number; beyond it no model says anything but noise.
pub const MOST_ALPHA: f32 = 1000.0;

/// Reads a policy such as `deadline:tokens=256`.
pub fn parse(field: &str, text: &str, context: &PolicyContext) -> Result<Box<dyn Policy>, ApiError> {
    let policy = text.parse::<PolicySpec>().and_then(|spec| spec.build(context));
    policy.map_err(|error| ApiError::field(field, format!("{field}: {error}")))
}
