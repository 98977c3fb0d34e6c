//! What a checkpoint's `generation_config.json` asks of transformers' `generate` beyond temperature, top-p and top-k.

use crate::error::Result;
use crate::tokenizer_config::parse_file;
use serde_json::Value;

/// When a field changes what `generate` writes.
#[derive(Clone, Copy)]
enum Acts {
    /// As a number other than this one.
    Unless(f64),
    /// As a number above this one.
    Above(f64),
    /// As anything but `null`, `false` and an empty list.
    Given,
}

/// The fields that nothing here applies.
const UNAPPLIED: [(&str, Acts); 20] = [
    ("repetition_penalty", Acts::Unless(1.0)),
    ("no_repeat_ngram_size", Acts::Above(0.0)),
    ("min_length", Acts::Above(0.0)),
    ("min_new_tokens", Acts::Above(0.0)),
    ("suppress_tokens", Acts::Given),
    ("begin_suppress_tokens", Acts::Given),
    ("bad_words_ids", Acts::Given),
    ("sequence_bias", Acts::Given),
    ("forced_bos_token_id", Acts::Given),
    ("forced_eos_token_id", Acts::Given),
    ("forced_decoder_ids", Acts::Given),
    ("stop_strings", Acts::Given),
    ("exponential_decay_length_penalty", Acts::Given),
    ("guidance_scale", Acts::Unless(1.0)),
    ("num_beams", Acts::Above(1.0)),
    ("typical_p", Acts::Unless(1.0)),
    ("min_p", Acts::Above(0.0)),
    ("top_h", Acts::Above(0.0)),
    ("epsilon_cutoff", Acts::Above(0.0)),
    ("eta_cutoff", Acts::Above(0.0)),
];

impl Acts {
    fn with(self, value: &Value) -> bool {
        match (self, value.as_f64()) {
            (Self::Unless(usual), Some(number)) => number != usual,
            (Self::Above(bound), Some(number)) => number > bound,
            _ => match value {
                Value::Null | Value::Bool(false) => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(entries) => !entries.is_empty(),
                _ => true,
            },
        }
    }
}

/// A sentence that names the fields that transformers would follow and this program does not; `None` where there are none.
pub fn unapplied_notice(json: &[u8]) -> Result<Option<String>> {
    let file = parse_file("generation_config.json", json)?;
    let acting = UNAPPLIED.iter().filter_map(|(key, acts)| {
        let value = file.get(key).filter(|value| acts.with(value))?;
        Some(if value.is_number() { format!("{key} = {value}") } else { (*key).to_owned() })
    });
    let acting: Vec<String> = acting.collect();
    Ok((!acting.is_empty()).then(|| {
        format!(
            "generation_config.json asks for {}: not applied here, so transformers writes other texts",
            acting.join(", ")
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_transformers_would_follow_is_named() {
        let notice = |json: &str| unapplied_notice(json.as_bytes()).unwrap();
        let plain = r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.0,
            "no_repeat_ngram_size": 0, "suppress_tokens": null, "bad_words_ids": [], "min_new_tokens": null, "num_beams": 1,
            "forced_eos_token_id": null, "min_length": 0, "eos_token_id": [1, 2]}"#;
        assert_eq!(notice(plain), None);
        let acting = r#"{"repetition_penalty": 1.05, "no_repeat_ngram_size": 3, "suppress_tokens": [5],
            "begin_suppress_tokens": [5], "bad_words_ids": [[6]], "min_new_tokens": 4, "min_length": 9,
            "forced_bos_token_id": 0}"#;
        let said = notice(acting).unwrap();
        assert!(
            said.starts_with("generation_config.json asks for repetition_penalty = 1.05, no_repeat_ngram_size = 3, ")
        );
        let keys: serde_json::Map<String, Value> = serde_json::from_str(acting).unwrap();
        assert!(keys.keys().all(|key| said.contains(key)), "{said}");
        let broken = unapplied_notice(b"{\"top_p\": NaN}").unwrap_err().to_string();
        assert!(broken.starts_with("generation_config.json: is not JSON"), "{broken}");
    }
}
