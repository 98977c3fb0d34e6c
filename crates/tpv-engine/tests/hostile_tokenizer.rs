//! Damaged and hostile tokenizer files: one clear sentence, never a panic, never much memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use tpv_core::phase::ThinkingMarkers;
use tpv_engine::error::EngineError;
use tpv_engine::tokenizer::Tokenizer;
use tpv_engine::tokenizer_config::TokenizerConfig;

fn thinker() -> Value {
    serde_json::from_slice(tpv_thinker::TOKENIZER).unwrap()
}

/// The sentence that a file is refused with.
fn refusal(file: &Value) -> String {
    match Tokenizer::from_bytes(&serde_json::to_vec(file).unwrap()) {
        Err(error @ EngineError::Tokenizer(_)) => error.to_string(),
        Err(other) => panic!("an error of the wrong kind: {other}"),
        Ok(_) => panic!("a damaged file was accepted"),
    }
}

#[test]
fn truncated_files_are_refused_wherever_they_end() {
    let whole = tpv_thinker::TOKENIZER;
    for length in (0..whole.len()).step_by(997).chain([1, whole.len() - 1]) {
        assert!(Tokenizer::from_bytes(&whole[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn files_of_another_kind_are_refused() {
    for other in ["null", "[]", "{}", "7", "\"tokenizer\"", "\u{0}", "<html>Access denied</html>"] {
        let error = Tokenizer::from_bytes(other.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("no usable tokenizer.json"), "{error}");
    }
    assert!(Tokenizer::from_bytes(tpv_thinker::WEIGHTS).is_err());
    assert!(Tokenizer::from_bytes(tpv_thinker::CONFIG).is_err());
    assert!(Tokenizer::from_bytes(&[0xFF; 64]).is_err());
}

#[test]
fn fields_of_the_wrong_type_are_refused() {
    for (pointer, wrong) in [
        ("/model/vocab", json!(["a", "b"])),
        ("/model/vocab/!", json!(-1)),
        ("/model/vocab/!", json!("four")),
        ("/model/vocab/!", json!(1u64 << 32)),
        ("/model/merges", json!({"a": "b"})),
        ("/model/merges/0", json!(["not", "known"])),
        ("/model/type", json!("Oracle")),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(((")),
        ("/added_tokens", json!({"<think>": 2})),
        ("/added_tokens/0/id", json!("zero")),
        ("/post_processor", json!({"type": "TemplateProcessing", "single": "$A"})),
        ("/decoder/type", json!(3)),
    ] {
        let mut file = thinker();
        *file.pointer_mut(pointer).unwrap() = wrong.clone();
        let error = refusal(&file);
        assert!(error.len() < 600, "{pointer} = {wrong}: {error}");
    }
}

#[test]
fn parts_that_contradict_each_other_are_refused() {
    let mut file = thinker();
    file["model"]["continuing_subword_prefix"] = json!("▁"); // and no merge starts with it
    assert!(refusal(&file).contains("contradict"));
}

#[test]
fn a_prompt_start_that_names_an_unknown_token_is_refused_when_it_is_used() {
    let mut file = thinker();
    file["post_processor"]["special_tokens"] = json!({});
    let tokenizer = Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap());
    let error = tokenizer.and_then(|tokenizer| tokenizer.encode("Anna", true)).unwrap_err().to_string();
    assert!(error.contains("contradict"), "{error}");
}

#[test]
fn token_numbers_out_of_range_take_no_memory() {
    let mut file = thinker();
    file["model"]["vocab"]["unreachable"] = json!(u32::MAX);
    assert!(refusal(&file).contains("out of range"));
}

#[test]
fn a_vocabulary_without_tokens_is_refused() {
    let mut file = thinker();
    file["model"]["vocab"] = json!({});
    file["model"]["merges"] = json!([]);
    file["added_tokens"] = json!([]);
    file["post_processor"] = Value::Null;
    assert!(refusal(&file).contains("empty"));
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = format!("{{\"model\": {}", "[".repeat(200_000));
    assert!(Tokenizer::from_bytes(deep.as_bytes()).is_err());
    let mut normalizer = Value::Null;
    for _ in 0..100 {
        normalizer = json!({"type": "Sequence", "normalizers": [normalizer]});
    }
    let mut file = thinker();
    file["normalizer"] = normalizer;
    refusal(&file);
}

#[test]
fn decoders_that_lose_bytes_are_refused_by_name() {
    let mut file = thinker();
    file["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
    file["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    assert!(refusal(&file).contains("WordPiece"));
}

#[test]
fn cutting_and_padding_in_the_file_are_ignored() {
    let mut file = thinker();
    file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 1, "pad_type_id": 0, "pad_token": "<|eos|>"});
    let tokenizer = Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap()).unwrap();
    let whole = Tokenizer::from_bytes(tpv_thinker::TOKENIZER).unwrap();
    let text = "Anna has 3 pens. Day 1: gets 2.";
    assert_eq!(tokenizer.encode(text, true).unwrap(), whole.encode(text, true).unwrap());
}

#[test]
fn a_missing_or_huge_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("tokenizer.json");
    let named = |path: &Path| Tokenizer::from_file(path).unwrap_err().to_string();
    assert!(named(&missing).starts_with(&missing.display().to_string()));
    let huge = folder.path().join("huge.json");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap(); // sparse: no bytes on the disk
    assert!(named(&huge).contains("too many"));
    std::fs::write(&missing, b"{").unwrap();
    assert!(named(&missing).starts_with(&missing.display().to_string()));
    assert!(Tokenizer::from_file(folder.path()).is_err());
}

#[test]
fn broken_configurations_are_refused() {
    for broken in ["", "[1]", "{", r#"{"bos_token": 7}"#, r#"{"chat_template": 7}"#, r#"{"add_bos_token": "yes"}"#] {
        let error = TokenizerConfig::from_bytes(broken.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
}

/// Replaces the value at a path of indices, counted modulo what is there.
fn damage(value: &mut Value, path: &[usize], with: &Value) {
    let children = match value {
        Value::Array(list) => list.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    let Some((&step, rest)) = path.split_first().filter(|_| children > 0) else {
        *value = with.clone();
        return;
    };
    match value {
        Value::Array(list) => damage(&mut list[step % children], rest, with),
        Value::Object(fields) => damage(fields.values_mut().nth(step % children).unwrap(), rest, with),
        _ => {}
    }
}

fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..700).prop_map(Value::from),
        prop::sample::select(vec!["", "▁", "Ġ", "\\p{", "(?=a)*", ".*", "ByteFallback", "\u{10FFFF}"])
            .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"type": "Sequence", "pretokenizers": [], "decoders": []})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A file that is damaged in one place is refused, or works without a panic.
    #[test]
    fn one_damaged_field_never_panics(path in prop::collection::vec(any::<usize>(), 1..6), with in junk()) {
        let mut file = thinker();
        damage(&mut file, &path, &with);
        if let Ok(tokenizer) = Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap()) {
            if let Ok(ids) = tokenizer.encode("Anna has 3 pens.\n<think>\n€ </think>", true) {
                tokenizer.decode(&ids);
            }
            let _ = tokenizer.end_of_thinking_ids(&ThinkingMarkers::default());
        }
    }
}
