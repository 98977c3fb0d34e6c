//! A model whose thoughts have characters two columns wide: the thinker, with other words for its days and stamps.

use serde_json::{Value, json};

/// "Stamps" in the words of [`model`].
pub const PROBLEM: &str = "Ben has 29 邮票. Day 1: buys 2. How many 邮票 does Ben have now?";

/// How the tokenizer spells " stamps" and " 邮票", " day" and " 日": each byte of UTF-8 is a character of its own.
const WORDS: [(&str, &str); 2] = [("Ġstamps", "ĠéĤ®ç¥¨"), ("Ġday", "ĠæĹ¥")];

/// The folder of the model.
pub fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer: Value = serde_json::from_slice(tpv_thinker::TOKENIZER).unwrap();
    WORDS.iter().for_each(|(word, wide)| rename(&mut tokenizer["model"], word, wide));
    let tokenizer = tokenizer.to_string();
    for (name, content) in [
        ("config.json", tpv_thinker::CONFIG),
        ("generation_config.json", tpv_thinker::GENERATION_CONFIG),
        ("tokenizer.json", tokenizer.as_bytes()),
        ("tokenizer_config.json", tpv_thinker::TOKENIZER_CONFIG),
        ("model.safetensors", tpv_thinker::WEIGHTS),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// Gives a token another name; whole words are then looked up before their parts are merged.
fn rename(model: &mut Value, word: &str, wide: &str) {
    let vocabulary = model["vocab"].as_object_mut().unwrap();
    let token = vocabulary.remove(word).unwrap();
    vocabulary.insert(wide.into(), token);
    let parts = |merge: &Value| [0, 1].map(|part| merge[part].as_str().unwrap().to_owned());
    let needs_word = |merge: &Value| parts(merge).contains(&word.to_owned()) || parts(merge).concat() == word;
    model["merges"].as_array_mut().unwrap().retain(|merge| !needs_word(merge));
    model["ignore_merges"] = json!(true);
}
