//! Loading: fingerprints, notices, and refusals in one sentence.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::path::Path;

use common::{folder, load, with_options};
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::kv::PAGE_TOKENS;
use tpv_engine::load::{LoadOptions, ModelSource, load_model};

fn copy_model(name: &str, to: &Path) {
    for file in std::fs::read_dir(folder(name)).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_fingerprint_belongs_to_the_weights_and_not_to_their_place() {
    let config = include_bytes!("golden/llama/config.json");
    let weights = include_bytes!("golden/llama/model.safetensors");
    let embedded = load_model(&ModelSource::Embedded { config, weights }, &LoadOptions::default()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    copy_model("llama", elsewhere.path());
    let copied = load_model(&ModelSource::Folder(elsewhere.path().to_owned()), &LoadOptions::default()).unwrap();
    let own = load("llama").fingerprint;
    assert_eq!(own.len(), 64);
    assert_eq!(own, embedded.fingerprint);
    assert_eq!(own, copied.fingerprint);
    assert_ne!(own, load("llama_yarn_old_keys").fingerprint);
}

#[test]
fn every_matrix_of_every_layer_is_in_a_fingerprint() {
    let scratch = tempfile::tempdir().unwrap();
    copy_model("llama", scratch.path());
    let fingerprint = || {
        let source = ModelSource::Folder(scratch.path().to_owned());
        load_model(&source, &LoadOptions::default()).unwrap().fingerprint
    };
    let own = fingerprint();
    let (config, weights) = (scratch.path().join("config.json"), scratch.path().join("model.safetensors"));
    let text = std::fs::read_to_string(&config).unwrap();
    let mut changed: serde_json::Value = serde_json::from_str(&text).unwrap();
    changed["rms_norm_eps"] = 1e-3.into();
    std::fs::write(&config, changed.to_string()).unwrap();
    assert_ne!(fingerprint(), own);
    std::fs::write(&config, text).unwrap();
    let bytes = std::fs::read(&weights).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
    for name in ["layers.1.mlp.down_proj", "layers.0.self_attn.q_proj", "layers.1.self_attn.k_proj"] {
        let start = header[format!("model.{name}.weight")]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut changed = bytes.clone();
        changed[8 + header_bytes + start + 1] ^= 0x10;
        std::fs::write(&weights, changed).unwrap();
        assert_ne!(fingerprint(), own, "{name}");
    }
    std::fs::write(&weights, bytes).unwrap();
    assert_eq!(fingerprint(), own);
}

#[test]
fn a_head_that_is_called_tied_and_is_another_one_is_used() {
    let scratch = tempfile::tempdir().unwrap();
    copy_model("llama", scratch.path());
    let config = scratch.path().join("config.json");
    let mut changed: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    assert_eq!(changed["tie_word_embeddings"], false);
    changed["tie_word_embeddings"] = true.into();
    std::fs::write(&config, changed.to_string()).unwrap();
    let source = ModelSource::Folder(scratch.path().to_owned());
    let loaded = load_model(&source, &LoadOptions::default()).unwrap();
    let own = load("llama");
    let state: Vec<f32> = (0..own.engine.spec().hidden_size).map(|k| (k as f32).sin()).collect();
    assert_eq!(loaded.engine.project(&state).unwrap(), own.engine.project(&state).unwrap());
    assert!(loaded.notices[0].contains("lm_head.weight of its own"), "{:?}", loaded.notices);
    assert!(load("qwen3_tied_sharded").notices.is_empty());
}

#[test]
fn wishes_that_cannot_be_granted_are_noticed() {
    if cfg!(any(feature = "cuda", feature = "metal")) {
        return;
    }
    let options =
        LoadOptions { device: DeviceChoice::Cuda(0), dtype: Some(DtypeChoice::Bf16), ..LoadOptions::default() };
    let loaded = with_options("llama", &options);
    assert_eq!(loaded.engine.spec().device, "cpu");
    assert_eq!(loaded.engine.spec().dtype, "f32");
    assert!(loaded.notices[0].contains("CUDA") && loaded.notices[1].contains("bf16"), "{:?}", loaded.notices);
    assert!(load("llama").notices.is_empty());
}

#[test]
fn broken_folders_are_refused_with_the_file_that_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path();
    let refused = || {
        let source = ModelSource::Folder(path.to_owned());
        load_model(&source, &LoadOptions::default()).err().expect("it must be refused").to_string()
    };
    assert!(refused().contains("config.json"));
    copy_model("qwen3_tied_sharded", path);
    std::fs::remove_file(path.join("model-00002-of-00003.safetensors")).unwrap();
    assert!(refused().contains("model-00002-of-00003.safetensors"), "{}", refused());
    std::fs::write(path.join("model.safetensors.index.json"), "{}").unwrap();
    assert!(refused().contains("weight_map"), "{}", refused());
    std::fs::write(path.join("config.json"), "no").unwrap();
    assert!(refused().contains("config.json"), "{}", refused());
}

/// A checkpoint of another width than its `config.json` says.
#[test]
fn a_foreign_config_is_refused_by_the_first_tensor_that_differs() {
    let scratch = tempfile::tempdir().unwrap();
    copy_model("llama", scratch.path());
    let path = scratch.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"hidden_size\": 32", "\"hidden_size\": 48");
    std::fs::write(&path, text).unwrap();
    let source = ModelSource::Folder(scratch.path().to_owned());
    let error = load_model(&source, &LoadOptions::default()).err().expect("it must be refused").to_string();
    assert!(error.contains("[48]") && error.contains("[32]"), "{error}");
}

#[test]
fn a_bound_on_the_kv_memory_in_bytes_is_one_in_whole_pages() {
    let per_token = load("llama").engine.kv_bytes_per_token();
    let kv_bytes = Some((per_token * (PAGE_TOKENS + 1)) as u64);
    let loaded = with_options("llama", &LoadOptions { kv_bytes, ..LoadOptions::default() });
    assert_eq!(loaded.engine.kv_tokens(), (0, Some(2 * PAGE_TOKENS)));
}
