//! The tokenizer on the vocabularies of known model families, rebuilt small: same patterns, same decoders, few tokens.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;
use tpv_core::phase::{Phase, PhaseTracker, ThinkingMarkers};
use tpv_engine::text_stream::TextStream;
use tpv_engine::tokenizer::Tokenizer;
use tpv_engine::tokenizer_config::TokenizerConfig;

/// How Qwen 2 and 3, QwQ and R1-Distill-Qwen split text.
const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Llama 3 and R1-Distill-Llama split text.
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "single_word": false,
           "lstrip": false, "rstrip": false, "normalized": false})
}

/// The thinker's vocabulary under another splitting pattern, with other added tokens.
fn byte_level(pattern: &str, added: &[(&str, bool)], normalizer: Value) -> Vec<u8> {
    let mut file: Value = serde_json::from_slice(tpv_thinker::TOKENIZER).unwrap();
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
    file["post_processor"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    file["normalizer"] = normalizer;
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    for gone in ["<|bos|>", "<|eos|>", "<think>", "</think>"] {
        let id = vocab.remove(gone).unwrap();
        vocab.insert(format!("unused{id}"), id);
    }
    let first = vocab.len();
    let tokens = added.iter().enumerate().map(|(at, (content, special))| added_token(first + at, content, *special));
    file["added_tokens"] = tokens.collect();
    serde_json::to_vec(&file).unwrap()
}

/// A SentencePiece vocabulary as the Llama 2 family writes it: a dummy space in front, bytes for what is not in it.
fn sentence_piece(with_bytes: bool) -> Vec<u8> {
    let pieces = ["<unk>", "<s>", "</s>"].into_iter().map(String::from);
    let bytes = (0..if with_bytes { 256 } else { 0 }).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ["▁", "a", "b", "c", "é", "▁a", "ab", "▁ab"].into_iter().map(String::from);
    let vocab: serde_json::Map<String, Value> =
        pieces.chain(bytes).chain(letters).enumerate().map(|(id, piece)| (piece, json!(id))).collect();
    let special = [added_token(0, "<unk>", true), added_token(1, "<s>", true), added_token(2, "</s>", true)];
    serde_json::to_vec(&json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": with_bytes,
                  "ignore_merges": false, "vocab": vocab,
                  "merges": [["▁", "a"], ["a", "b"], ["▁", "ab"]]}
    }))
    .unwrap()
}

fn load(json: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(json).unwrap()
}

static THINKER: LazyLock<Tokenizer> = LazyLock::new(|| load(tpv_thinker::TOKENIZER));
static QWEN: LazyLock<Tokenizer> = LazyLock::new(|| {
    let added = [("<｜end▁of▁sentence｜>", true), ("<think>", false), ("</think>", false)];
    load(&byte_level(QWEN_PATTERN, &added, json!({"type": "NFC"})))
});
static LLAMA3: LazyLock<Tokenizer> = LazyLock::new(|| {
    let added = [("<|begin_of_text|>", true), ("<|eot_id|>", true)];
    load(&byte_level(LLAMA3_PATTERN, &added, Value::Null))
});
static SENTENCE_PIECE: LazyLock<Tokenizer> = LazyLock::new(|| load(&sentence_piece(true)));

#[test]
fn the_prompt_starts_with_bos_and_its_markers_are_single_tokens() {
    let ids = THINKER.encode("Anna\n<think>\n", true).unwrap();
    assert_eq!(ids[0], 0);
    assert_eq!(ids[ids.len() - 2], 2);
    assert_eq!(THINKER.encode("Anna\n<think>\n", false).unwrap(), ids[1..]);
    assert_eq!(THINKER.decode(&ids), "<|bos|>Anna\n<think>\n");
    assert!(THINKER.is_special(0) && !THINKER.is_special(40) && !THINKER.is_special(u32::MAX));
}

#[test]
fn bytes_of_byte_level_tokens_are_exact() {
    for byte in 0u8..=255 {
        let alone = (0..QWEN.vocab_size() as u32).filter(|&id| QWEN.token_bytes(id) == [byte]).count();
        assert_eq!(alone, 1, "byte {byte:#x}");
    }
    let eos = QWEN.token_id("<｜end▁of▁sentence｜>").unwrap();
    assert_eq!(QWEN.token_bytes(eos), "<｜end▁of▁sentence｜>".as_bytes());
    assert_eq!(QWEN.token_bytes(u32::MAX), b"");
}

#[test]
fn bytes_of_sentence_piece_tokens_are_exact() {
    let bytes = |token: &str| SENTENCE_PIECE.token_bytes(SENTENCE_PIECE.token_id(token).unwrap()).to_vec();
    assert_eq!(bytes("▁ab"), b" ab");
    assert_eq!(bytes("<0xE2>"), [0xE2]);
    assert_eq!(bytes("é"), "é".as_bytes());
    assert_eq!(bytes("</s>"), b"</s>");
    let ids = SENTENCE_PIECE.encode("ab€", false).unwrap();
    assert_eq!(SENTENCE_PIECE.decode(&ids), " ab€"); // with the space that this family puts in front
}

#[test]
fn patterns_of_known_families_split_numbers_and_words_as_they_should() {
    for text in ["2024", "I'LL wait…\r\n\n  \tx  ", "naïve 東京 🧮\u{200d}🔥", "a  b   c", "  "] {
        for tokenizer in [&*QWEN, &*LLAMA3] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap()), text);
        }
    }
    assert_eq!(QWEN.encode("2024", false).unwrap().len(), 4);
    // "a  b": the first space stands alone, the second goes with the word.
    let ids = QWEN.encode("a  b", false).unwrap();
    let starts_word = ids.iter().any(|&id| QWEN.token_bytes(id).starts_with(b" "));
    assert!(starts_word && !ids.iter().any(|&id| QWEN.token_bytes(id) == b"  "));
}

#[test]
fn a_long_run_of_spaces_loses_nothing() {
    let text = format!("a{}b\n{}", " ".repeat(200_000), "\n".repeat(50_000));
    for tokenizer in [&*QWEN, &*LLAMA3, &*THINKER] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text, false).unwrap()).len(), text.len());
    }
}

#[test]
fn the_configuration_can_ask_for_bos_and_forbid_it() {
    let bos = LLAMA3.token_id("<|begin_of_text|>").unwrap();
    let config = |json: &str| TokenizerConfig::from_bytes(json.as_bytes()).unwrap();
    let asked = r#"{"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true,
                    "bos_token": {"content": "<|begin_of_text|>"}}"#;
    let asks = LLAMA3.clone().with_config(&config(asked));
    assert_eq!(asks.encode("x", true).unwrap()[0], bos);
    assert_ne!(asks.encode("x", false).unwrap()[0], bos);
    let forbidden = r#"{"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false, "bos_token": "<|bos|>"}"#;
    let forbids = THINKER.clone().with_config(&config(forbidden));
    assert_eq!(forbids.encode("x", true).unwrap(), THINKER.encode("x", false).unwrap());
    let ignored = forbidden.replace("LlamaTokenizerFast", "PreTrainedTokenizerFast");
    let ignores = THINKER.clone().with_config(&config(&ignored));
    assert_eq!(ignores.encode("x", true).unwrap()[0], 0);
    // The ids of transformers 4.57 for texts that hold the token themselves.
    let ids = |tokenizer: &Tokenizer| ["<|bos|>a", "a", ""].map(|text| tokenizer.encode(text, true).unwrap());
    assert_eq!(ids(&forbids), [vec![0, 68], vec![68], vec![]]);
    let asked = forbidden.replace("false", "true");
    assert_eq!(ids(&THINKER.clone().with_config(&config(&asked))), [vec![0, 0, 68], vec![0, 68], vec![0]]);
    let mut file: Value = serde_json::from_slice(tpv_thinker::TOKENIZER).unwrap();
    file["post_processor"] = Value::Null;
    let plain = load(file.to_string().as_bytes());
    assert_eq!(ids(&plain.clone().with_config(&config(&asked))), [vec![0, 0, 68], vec![0, 68], vec![0]]);
    assert_eq!(ids(&plain.clone().with_config(&config(forbidden))), [vec![0, 68], vec![68], vec![]]);
    // Classes on which transformers does not build the rule anew.
    for class in ["Qwen2Tokenizer", "PreTrainedTokenizerFast", "GPT2TokenizerFast"] {
        let asked = asked.replace("LlamaTokenizerFast", class);
        assert_eq!(ids(&plain.clone().with_config(&config(&asked))), [vec![0, 68], vec![68], vec![]], "{class}");
    }
    for class in ["LlamaTokenizer", "CodeLlamaTokenizerFast", "GemmaTokenizerFast", "CohereTokenizerFast"] {
        let asked = asked.replace("LlamaTokenizerFast", class);
        assert_eq!(plain.clone().with_config(&config(&asked)).encode("a", true).unwrap(), [0, 68], "{class}");
    }
}

/// The ids are those of transformers 4.57 and 5.24.
#[test]
fn tokens_of_other_files_are_one_number_where_it_is_known() {
    let plain = r#""lstrip": false, "rstrip": false, "single_word": false, "normalized": false, "special": false"#;
    let strips =
        plain.replace(r#""lstrip": false"#, r#""lstrip": true"#).replace(r#""special": false"#, r#""special": true"#);
    let with = |decoder: &str, more: &str, added: Option<&str>, vocabulary: Option<usize>| {
        let json = format!(r#"{{"added_tokens_decoder": {{{decoder}}}{more}}}"#);
        let config = TokenizerConfig::from_bytes(json.as_bytes()).unwrap();
        let tokens = config.numbered_tokens(added.map(str::as_bytes)).unwrap();
        let (tokenizer, notices) =
            THINKER.clone().with_added_tokens(&tokens, &config.special_texts(), vocabulary).unwrap();
        (["a<tool> b<fn>c", "a <tool>b"].map(|text| tokenizer.encode(text, true).unwrap()), notices, tokenizer)
    };
    let decoder = format!(r#""596": {{"content": "<tool>", {strips}}}, "597": {{"content": "<fn>", {plain}}}"#);
    let (ids, notices, tokenizer) = with(&decoder, "", None, Some(598));
    assert_eq!(ids, [vec![0, 68, 596, 335, 597, 70], vec![0, 68, 596, 69]]);
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!((tokenizer.token_bytes(596), tokenizer.vocab_size()), (&b"<tool>"[..], 598));
    assert!(tokenizer.is_special(596) && !tokenizer.is_special(597));
    assert_ne!(tokenizer.sha256(), THINKER.sha256());
    let (ids, notices, _) = with("", "", Some(r#"{"<fn>": 597, "<tool>": 596}"#), None);
    assert_eq!(ids, [vec![0, 68, 596, 335, 597, 70], vec![0, 68, 224, 596, 69]]);
    assert!(notices.is_empty(), "{notices:?}");
    let own =
        format!(r#""2": {{"content": "<think>", {}}}"#, plain.replace(r#""special": false"#, r#""special": true"#));
    let (split, notices, tokenizer) = with(&own, "", Some(r#"{"</think>": 3}"#), None);
    assert!(notices.is_empty() && split.iter().flatten().all(|id| *id < 596));
    assert_eq!(tokenizer.sha256(), THINKER.sha256());
    let greedy = own.replace(r#""rstrip": false"#, r#""rstrip": true"#);
    assert_eq!(with(&greedy, "", None, None).2.encode("<think>  \na", true).unwrap(), [0, 2, 68]);
    assert_eq!(tokenizer.encode("<think>  \na", true).unwrap(), [0, 2, 224, 224, 202, 68]);
    for (decoder, more, vocabulary, said) in [
        (decoder.replace("597", "3"), "", None, "\"<fn>\" is 3, but the next number after tokenizer.json is 596"),
        (own.replace("\"2\"", "\"597\""), "", None, "\"<think>\" is 2 in tokenizer.json, not 597"),
        (decoder.clone(), "", Some(597), "\"<fn>\" is 597, which the model does not have"),
        (
            String::new(),
            r#", "additional_special_tokens": ["<tool>", "<think>"]"#,
            None,
            "read as plain text: \"<tool>\"",
        ),
        (String::new(), r#", "extra_special_tokens": {"a": "<tool>"}"#, None, "read as plain text: \"<tool>\""),
    ] {
        let (ids, notices, _) = with(&decoder, more, None, vocabulary);
        assert!(notices.len() == 1 && notices[0].contains(said), "{notices:?}");
        assert!(notices[0].starts_with("tokenizer_config.json or added_tokens.json"), "{notices:?}");
        assert!(!ids[0].contains(&597));
    }
    assert_eq!(with("", "", None, None).0, split);
}

#[test]
fn the_first_source_that_names_an_end_is_followed() {
    let config = TokenizerConfig::from_bytes(tpv_thinker::TOKENIZER_CONFIG).unwrap();
    let ids = |generation: Option<&str>, model: Option<&str>| {
        THINKER.eos_ids(generation.map(str::as_bytes), model.map(str::as_bytes), Some(&config)).unwrap()
    };
    assert_eq!(ids(Some(r#"{"eos_token_id": [5, 6]}"#), Some(r#"{"eos_token_id": 7}"#)), [5, 6]);
    assert_eq!(ids(Some("{}"), Some(r#"{"eos_token_id": 7}"#)), [7]);
    assert_eq!(ids(None, Some(r#"{"eos_token_id": null}"#)), [1]);
    assert!(THINKER.eos_ids(None, None, None).unwrap().is_empty());
}

#[test]
fn the_end_of_thinking_is_one_token_or_several_or_an_error() {
    let markers = ThinkingMarkers::default();
    assert_eq!(THINKER.end_of_thinking_ids(&markers).unwrap(), [3]);
    assert_eq!(THINKER.end_of_thinking_notice(&markers).unwrap(), None);
    let several = LLAMA3.end_of_thinking_ids(&markers).unwrap();
    assert!(several.len() > 1);
    assert_eq!(LLAMA3.decode(&several), "</think>");
    assert!(LLAMA3.end_of_thinking_notice(&markers).unwrap().unwrap().contains("tokens in this tokenizer"));
    let spelled = SENTENCE_PIECE.end_of_thinking_ids(&markers).unwrap();
    assert_eq!(SENTENCE_PIECE.decode(&spelled), "</think>"); // without the space that encoding puts in front
    let error = load(&sentence_piece(false)).end_of_thinking_ids(&markers).unwrap_err().to_string();
    assert!(error.contains("\"</think>\"") && error.contains("reasoning model"), "{error}");
}

#[test]
fn the_phase_is_followed_whether_the_marker_is_one_token_or_several() {
    for tokenizer in [&*THINKER, &*QWEN, &*LLAMA3, &*SENTENCE_PIECE] {
        let mut tracker = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "Why?\n<think>\n");
        let ids = tokenizer.encode("ab c. Wait, 7 < 9</think>\n\nSo: 42", false).unwrap();
        let phases: Vec<Phase> = ids.iter().map(|&id| tracker.push(tokenizer.token_bytes(id))).collect();
        let thinking = tracker.thinking_tokens();
        assert!(tracker.thinking_ended());
        assert!(phases[..thinking].iter().all(|&phase| phase == Phase::Thinking));
        assert!(phases.len() > thinking && phases[thinking..].iter().all(|&phase| phase == Phase::Answer));
        assert!(tokenizer.decode(&ids[..thinking]).contains("</think>"));
        assert!(!tokenizer.decode(&ids[..thinking - 1]).contains("</think>"));
    }
}

#[test]
fn the_sha256_is_that_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, tpv_thinker::TOKENIZER).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(tokenizer.sha256(), "1d2c8deaeeca285cfbf32cac856415fd99cb8177221ba421710cd54213d48832");
}

fn texts() -> impl Strategy<Value = String> {
    let awkward = ["👩‍👩‍👧", "e\u{301}", "한국", "</think>", "<think>", "'S", "½", "ﬁ", "𝔘", "\u{FFFD}", "12 345"];
    let piece =
        prop_oneof!["\\PC{0,6}", "[ \\n\\t]{0,4}", prop::sample::select(awkward.to_vec()).prop_map(String::from)];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = TextStream::default();
    let mut text = String::new();
    for &id in ids {
        text.push_str(stream.push(tokenizer.token_bytes(id)));
    }
    text + stream.finish()
}

proptest! {
    #[test]
    fn a_text_comes_back_from_its_tokens(text in texts()) {
        for tokenizer in [&*THINKER, &*LLAMA3] {
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text.clone());
            prop_assert_eq!(streamed(tokenizer, &ids), text.clone());
        }
    }

    #[test]
    fn any_tokens_stream_to_their_decoding(ids in prop::collection::vec(0u32..700, 0..60)) {
        for tokenizer in [&*THINKER, &*QWEN, &*SENTENCE_PIECE] {
            prop_assert_eq!(streamed(tokenizer, &ids), tokenizer.decode(&ids));
        }
    }
}
