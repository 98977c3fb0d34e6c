//! Reading a JSON object field by field, so that a refusal can name the field.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

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
        let must = || format!("must be a whole number from {} to {}", bounds.start(), bounds.end());
        let count = |value: &Value| {
            let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
            number.filter(|number| bounds.contains(number)).ok_or_else(|| self.error(name, &must()))
        };
        self.get(name).map(count).transpose()
    }

    /// Refuses fields that would change the result and that this server does not know how to obey.
    pub fn refuse(&self, names: &[&str]) -> Result<(), ApiError> {
        let asks = |value: &Value| match value {
            Value::Bool(wanted) => *wanted,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty() && text != "none",
            Value::Null => false,
        };
        match names.iter().find(|name| self.get(name).is_some_and(asks)) {
            Some(name) => Err(self.error(name, "is not supported by this server; leave it out")),
            None => Ok(()),
        }
    }
}
