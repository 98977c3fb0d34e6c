//! Loading: fingerprints, notices, and refusals in one sentence.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::path::Path;

use common::{folder, load, on_cpu, with_options};
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::kv::PAGE_TOKENS;
use tpv_engine::load::{LoadOptions, ModelSource, load_model};
use tpv_engine::model::{LimitWishes, TextFiles, TextModel};

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
    let embedded = load_model(&ModelSource::Embedded { config, weights }, &on_cpu()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    copy_model("llama", elsewhere.path());
    let copied = load_model(&ModelSource::Folder(elsewhere.path().to_owned()), &on_cpu()).unwrap();
    let own = load("llama").fingerprint;
    assert_eq!(own.len(), 64);
    assert_eq!(own, embedded.fingerprint);
    assert_eq!(own, copied.fingerprint);
    assert_ne!(own, load("llama_yarn_old_keys").fingerprint);
}

/// The header of a safetensors file, and where its data begins.
fn header(bytes: &[u8]) -> (serde_json::Value, usize) {
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..start]).unwrap(), start)
}

fn shape(bytes: &[u8], name: &str) -> Vec<usize> {
    serde_json::from_value(header(bytes).0[name]["shape"].clone()).unwrap()
}

fn last_row(bytes: &[u8], name: &str) -> usize {
    shape(bytes, &format!("model.{name}.weight"))[0] - 1
}

/// The file with another number at the start of a row of a tensor, whose entries have two or four bytes.
fn with_entry_changed(bytes: &[u8], name: &str, row: usize) -> Vec<u8> {
    let (header, start) = header(bytes);
    let offsets: [usize; 2] = serde_json::from_value(header[name]["data_offsets"].clone()).unwrap();
    let row_bytes = (offsets[1] - offsets[0]) / shape(bytes, name)[0];
    let entry_bytes = if header[name]["dtype"] == "F32" { 4 } else { 2 };
    let mut changed = bytes.to_vec();
    changed[start + offsets[0] + row * row_bytes + entry_bytes - 1] ^= 0x10;
    changed
}

#[test]
fn biases_and_all_norms_are_in_a_fingerprint() {
    for name in ["llama_llama3_biased_tied", "qwen2_window", "qwen3_tied_sharded"] {
        let scratch = tempfile::tempdir().unwrap();
        copy_model(name, scratch.path());
        let fingerprint = || {
            let source = ModelSource::Folder(scratch.path().to_owned());
            load_model(&source, &on_cpu()).unwrap().fingerprint
        };
        let own = fingerprint();
        let mut tried = 0;
        for file in std::fs::read_dir(scratch.path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "safetensors") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let (header, _) = header(&bytes);
            let tensors = header.as_object().unwrap().keys().filter(|key| *key != "__metadata__");
            for tensor in tensors.filter(|tensor| shape(&bytes, tensor).len() == 1) {
                std::fs::write(&path, with_entry_changed(&bytes, tensor, shape(&bytes, tensor)[0] - 1)).unwrap();
                assert_ne!(fingerprint(), own, "{name} {tensor}");
                tried += 1;
            }
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(tried >= 11, "{name}: {tried} vectors");
    }
}

#[test]
fn every_matrix_of_every_layer_is_in_a_fingerprint() {
    let scratch = tempfile::tempdir().unwrap();
    copy_model("llama", scratch.path());
    let fingerprint = || {
        let source = ModelSource::Folder(scratch.path().to_owned());
        load_model(&source, &on_cpu()).unwrap().fingerprint
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
    for name in ["layers.1.mlp.down_proj", "layers.0.self_attn.q_proj", "layers.1.self_attn.k_proj"] {
        for row in [0, last_row(&bytes, name)] {
            std::fs::write(&weights, with_entry_changed(&bytes, &format!("model.{name}.weight"), row)).unwrap();
            assert_ne!(fingerprint(), own, "{name} {row}");
        }
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
    let loaded = load_model(&source, &on_cpu()).unwrap();
    let own = load("llama");
    let state: Vec<f32> = (0..own.engine.spec().hidden_size).map(|k| (k as f32).sin()).collect();
    assert_eq!(loaded.engine.project(&state).unwrap(), own.engine.project(&state).unwrap());
    assert!(loaded.notices[0].contains("lm_head.weight of its own"), "{:?}", loaded.notices);
    assert!(load("qwen3_tied_sharded").notices.is_empty());
}

/// The embedding of a golden model, stored a second time as `lm_head.weight`, or with one row changed.
#[test]
fn any_row_makes_a_head_another_one_and_another_shape_is_refused() {
    let name = "llama_llama3_biased_tied";
    let scratch = tempfile::tempdir().unwrap();
    copy_model(name, scratch.path());
    let weights = scratch.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let embedding = file.tensor("model.embed_tokens.weight").unwrap();
    let load_with = |data: &[u8], shape: Vec<usize>| {
        let head = safetensors::tensor::TensorView::new(embedding.dtype(), shape, data).unwrap();
        let tensors = file.tensors().into_iter().chain([("lm_head.weight".to_owned(), head)]);
        std::fs::write(&weights, safetensors::serialize(tensors, None).unwrap()).unwrap();
        load_model(&ModelSource::Folder(scratch.path().to_owned()), &on_cpu())
    };
    let shape = embedding.shape().to_vec();
    let row_bytes = embedding.data().len() / shape[0];
    let same = load_with(embedding.data(), shape.clone()).unwrap();
    assert!(same.notices.is_empty(), "{:?}", same.notices);
    let state: Vec<f32> = (0..shape[1]).map(|k| (k as f32).sin()).collect();
    let own = same.engine.project(&state).unwrap();
    for row in [0, 1, 7, shape[0] - 1] {
        let mut data = embedding.data().to_vec();
        data[(row + 1) * row_bytes - 1] ^= 0x80;
        let other = load_with(&data, shape.clone()).unwrap();
        assert!(other.notices[0].contains("lm_head.weight of its own"), "{:?}", other.notices);
        let logits = other.engine.project(&state).unwrap();
        assert!(logits.iter().zip(&own).enumerate().all(|(at, (new, old))| (new != old) == (at == row)), "row {row}");
    }
    let longer = [embedding.data(), &embedding.data()[..row_bytes]].concat();
    let error = load_with(&longer, vec![shape[0] + 1, shape[1]]).err().unwrap().to_string();
    assert!(error.contains("`lm_head.weight` is [97, 32], config.json means [96, 32]"), "{error}");
}

#[test]
fn wishes_that_cannot_be_granted_are_noticed() {
    if cfg!(any(feature = "cuda", feature = "metal")) {
        return;
    }
    let options = LoadOptions { device: DeviceChoice::Cuda(0), dtype: Some(DtypeChoice::Bf16), ..on_cpu() };
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
        load_model(&source, &on_cpu()).err().expect("it must be refused").to_string()
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
    let error = load_model(&source, &on_cpu()).err().expect("it must be refused").to_string();
    assert!(error.contains("[48]") && error.contains("[32]"), "{error}");
}

#[test]
fn a_bound_on_the_kv_memory_in_bytes_is_one_in_whole_pages() {
    let per_token = load("llama").engine.kv_bytes_per_token();
    let kv_bytes = Some((per_token * (PAGE_TOKENS + 1)) as u64);
    let loaded = with_options("llama", &LoadOptions { kv_bytes, ..on_cpu() });
    assert_eq!(loaded.engine.kv_tokens(), (0, Some(2 * PAGE_TOKENS)));
}

#[test]
fn what_the_text_files_ask_for_in_vain_is_noticed() {
    let source = ModelSource::Embedded { config: tpv_thinker::CONFIG, weights: tpv_thinker::WEIGHTS };
    let load = |generation: &'static str, config: &'static [u8]| {
        let text = TextFiles {
            tokenizer: tpv_thinker::TOKENIZER.into(),
            generation_config: Some(generation.as_bytes().into()),
            config: Some(config.into()),
            added_tokens: Some(br#"{"[PAD]": 596, "<think>": 2}"#.as_slice().into()),
            ..TextFiles::default()
        };
        TextModel::load("m", None, &source, &text, &on_cpu(), LimitWishes::default())
    };
    let notices = load(r#"{"repetition_penalty": 1.1}"#, tpv_thinker::CONFIG).unwrap().notices;
    assert!(
        notices.iter().any(|notice| notice.contains("asks for repetition_penalty = 1.1: not applied")),
        "{notices:?}"
    );
    assert!(
        notices.iter().any(|notice| notice.contains("\"[PAD]\" is 596, which the model does not have")),
        "{notices:?}"
    );
    let notices = load(r#"{"repetition_penalty": 1.0, "eos_token_id": 1}"#, tpv_thinker::CONFIG).unwrap().notices;
    assert!(!notices.iter().any(|notice| notice.contains("generation_config")), "{notices:?}");
    let error = load("{}", br#"{"foo": Infinity}"#).err().unwrap().to_string();
    assert!(error.starts_with("config.json: is not JSON"), "{error}");
}
