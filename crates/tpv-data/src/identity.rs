//! Whether two files belong to the same model and tokenizer.

use crate::error::{DataError, Result};
use std::path::Path;
use tpv_core::vector::ModelIdentity;

/// Refuses a file of another model, width or tokenizer than those `before` it, by name. What one side does not know is
/// not compared.
pub fn check_same_model(path: &Path, model: &ModelIdentity, before: &ModelIdentity) -> Result<()> {
    match difference(model, before) {
        None => Ok(()),
        Some(what) => Err(DataError::mismatch(path, what, "put together what was recorded with one model")),
    }
}

fn difference(model: &ModelIdentity, before: &ModelIdentity) -> Option<String> {
    let (name, other) = (display_name(model), display_name(before));
    if model.hidden_size != before.hidden_size {
        let (width, wanted) = (model.hidden_size, before.hidden_size);
        return Some(format!("its states are of {name} and have width {width}, those before it of {other}, {wanted}"));
    }
    let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && !a.eq_ignore_ascii_case(b);
    let fingerprints_known = !model.fingerprint.is_empty() && !before.fingerprint.is_empty();
    let other_model = match fingerprints_known {
        true => differ(&model.fingerprint, &before.fingerprint),
        false => differ(&model.name, &before.name),
    };
    if other_model {
        return Some(format!("its states are of {name}, those before it of {other}"));
    }
    differ(&model.tokenizer_sha256, &before.tokenizer_sha256).then(|| {
        let (hash, wanted) = (short(&model.tokenizer_sha256), short(&before.tokenizer_sha256));
        format!("its tokenizer ({hash}) is not that of those before it ({wanted})")
    })
}

/// A model's name with its revision or fingerprint.
pub fn display_name(model: &ModelIdentity) -> String {
    let name = if model.name.is_empty() { "an unknown model" } else { &model.name };
    match (&model.revision, model.fingerprint.as_str()) {
        (Some(revision), _) => format!("{name} (revision {})", short(revision)),
        (None, "") => name.into(),
        (None, fingerprint) => format!("{name} (fingerprint {})", short(fingerprint)),
    }
}

/// The beginning of a fingerprint or a revision, enough to tell models apart by eye.
pub fn short(text: &str) -> String {
    text.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, fingerprint: &str, tokenizer: &str) -> ModelIdentity {
        ModelIdentity {
            name: name.into(),
            hidden_size: 3,
            fingerprint: fingerprint.into(),
            tokenizer_sha256: tokenizer.into(),
            ..ModelIdentity::default()
        }
    }

    #[test]
    fn another_model_width_or_tokenizer_is_named() {
        let known = model("a", "f1", "t1");
        for same in [known.clone(), model("copy/of-a", "f1", "t1"), model("A", "", "")] {
            check_same_model(Path::new("x"), &same, &known).unwrap();
        }
        let wide = ModelIdentity { hidden_size: 4, ..known.clone() };
        for (other, part) in [
            (model("b", "f2", "t1"), "its states are of b (fingerprint f2), those before it of a (fingerprint f1)"),
            (model("b", "", ""), "its states are of b, those before it of a"),
            (model("a", "f1", "t2"), "its tokenizer (t2) is not that of those before it (t1)"),
            (wide, "have width 4, those before it of a (fingerprint f1), 3"),
        ] {
            let text = check_same_model(Path::new("x"), &other, &known).unwrap_err().to_string();
            assert!(text.starts_with("x: ") && text.contains(part), "{text}");
        }
    }
}
