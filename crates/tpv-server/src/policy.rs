//! Policies by their names in requests.

use crate::error::ApiError;
use tpv_core::policy::{Alpha, Constant, Policy};

/// Largest strength that a request may ask for; beyond it no model says anything but noise.
pub const MOST_ALPHA: f32 = 1000.0;

/// Reads a policy such as `constant:15`.
pub fn parse(field: &str, text: &str) -> Result<Box<dyn Policy>, ApiError> {
    let refuse = || ApiError::field(field, format!("{field} must be off or constant:ALPHA with a number for ALPHA"));
    if text == "off" {
        return Ok(Box::new(Constant(Alpha(0.0))));
    }
    let value = text.strip_prefix("constant:").ok_or_else(refuse)?;
    let value = value.strip_prefix("alpha=").unwrap_or(value);
    let alpha = value.parse::<f32>().ok().filter(|alpha| alpha.abs() <= MOST_ALPHA).ok_or_else(refuse)?;
    Ok(Box::new(Constant(Alpha(alpha))))
}
