//! GGUF files written from the golden models give the golden traces.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use common::{Golden, argmax, device, folder, largest_relative_error, on_cpu};
use serde_json::Value as Json;
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::engine::{Engine, StepInput, StepOutput};
use tpv_engine::load::{LoadOptions, Loaded, ModelSource, load_model};
use tpv_engine::model::{LimitWishes, TextFiles, TextModel};
use tpv_engine::template::{ChatMessage, ChatOptions};

/// What a converter does: names, the llama architecture's order of rows in Q and K, and its rotary factors.
struct Converter {
    kind: &'static str,
    heads: usize,
    kv_heads: usize,
    extra: Vec<(&'static str, Value)>,
    rope_factors: Option<Vec<f32>>,
}

/// A chat template as llama models have it.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}<think>";

impl Converter {
    fn name(&self, name: &str) -> String {
        let mut out = name.replace("model.layers.", "blk.");
        for (from, to) in [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("post_attention_layernorm", "ffn_norm"),
            ("input_layernorm", "attn_norm"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.", "ffn_"),
            ("self_attn.", "attn_"),
            ("_proj", ""),
        ] {
            out = out.replace(from, to);
        }
        out
    }

    /// Row `2 i + t` of a head is row `t * half + i` of the original.
    fn reorder(&self, name: &str, tensor: Tensor) -> Tensor {
        let heads = match (self.kind, name.contains("q_proj"), name.contains("k_proj")) {
            ("llama", true, _) => self.heads,
            ("llama", _, true) => self.kv_heads,
            _ => return tensor,
        };
        let shape = tensor.shape().clone();
        let half = shape.dims()[0] / heads / 2;
        let width = shape.elem_count() / shape.dims()[0];
        let split = tensor.reshape((heads, 2, half, width)).unwrap();
        split.transpose(1, 2).unwrap().contiguous().unwrap().reshape(shape).unwrap()
    }

    fn write(&self, golden: &str, path: &Path, dtype: GgmlDType) {
        let mut tensors: HashMap<String, QTensor> = HashMap::new();
        for file in std::fs::read_dir(folder(golden)).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "safetensors") {
                for (name, tensor) in candle_core::safetensors::load(&file, &Device::Cpu).unwrap() {
                    let tensor = self.reorder(&name, tensor.to_dtype(DType::F32).unwrap());
                    let dtype = if tensor.rank() == 2 { dtype } else { GgmlDType::F32 };
                    tensors.insert(self.name(&name), QTensor::quantize(&tensor, dtype).unwrap());
                }
            }
        }
        if let Some(factors) = &self.rope_factors {
            let tensor = Tensor::new(factors.as_slice(), &Device::Cpu).unwrap();
            tensors.insert("rope_freqs.weight".into(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap());
        }
        let metadata = self.metadata();
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let own = [
            ("embedding_length", Value::U32(32)),
            ("feed_forward_length", Value::U32(64)),
            ("block_count", Value::U32(3)),
            ("context_length", Value::U32(256)),
            ("attention.head_count", Value::U32(self.heads as u32)),
            ("attention.head_count_kv", Value::U32(self.kv_heads as u32)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ];
        let replaced = |key: &str| self.extra.iter().any(|(other, _)| *other == key);
        let own = own.iter().filter(|(key, _)| !replaced(key)).chain(&self.extra);
        let name =
            |key: &str| if key.starts_with("tokenizer.") { key.to_owned() } else { format!("{}.{key}", self.kind) };
        let own = own.map(|(key, value)| (name(key), value.clone()));
        let architecture = ("general.architecture".to_owned(), Value::String(self.kind.to_owned()));
        own.chain([architecture]).collect()
    }
}

/// The factors that converters store for llama3 scaling with factor 8, low 1, high 4, original 64, base 5e5, width 8.
fn llama3_factors() -> Vec<f32> {
    let factor = |i: i32| {
        let wavelength = 2.0 * std::f64::consts::PI * 5e5f64.powf(f64::from(2 * i) / 8.0);
        let smooth = (64.0 / wavelength - 1.0) / 3.0;
        match smooth {
            1.0.. => 1.0,
            0.0.. => 1.0 / ((1.0 - smooth) / 8.0 + smooth),
            _ => 8.0,
        }
    };
    (0..4).map(|i| factor(i) as f32).collect()
}

fn converters() -> Vec<(&'static str, Converter)> {
    let converter = |kind, theta, extra: Vec<(&'static str, Value)>| Converter {
        kind,
        heads: 4,
        kv_heads: 2,
        extra: [vec![("rope.freq_base", Value::F32(theta))], extra].concat(),
        rope_factors: None,
    };
    let yarn = vec![
        ("rope.scaling.type", Value::String("yarn".into())),
        ("rope.scaling.factor", Value::F32(4.0)),
        ("rope.scaling.original_context_length", Value::U32(64)),
    ];
    vec![
        ("llama", converter("llama", 1e4, vec![])),
        ("llama_yarn_old_keys", converter("llama", 1e4, yarn)),
        (
            "llama_llama3_biased_tied",
            Converter { rope_factors: Some(llama3_factors()), ..converter("llama", 5e5, vec![]) },
        ),
        ("qwen2_window_off_old_keys", converter("qwen2", 1e6, vec![])),
        ("qwen3_tied_sharded", converter("qwen3", 1e6, vec![("attention.key_length", Value::U32(16))])),
    ]
}

fn load(path: PathBuf, dtype: Option<DtypeChoice>) -> Loaded {
    load_on(DeviceChoice::Cpu, path, dtype)
}

fn load_on(device: DeviceChoice, path: PathBuf, dtype: Option<DtypeChoice>) -> Loaded {
    load_model(&ModelSource::Gguf(path), &LoadOptions { dtype, device, ..on_cpu() }).unwrap()
}

/// Largest relative error of the state after the longest prompt, and the greedy tokens after it.
fn trace(engine: &mut dyn Engine, golden: &Golden) -> (f32, Vec<u32>) {
    let sequence = engine.open().unwrap();
    let mut output = StepOutput::default();
    let mut portion = golden.prompts[2].clone();
    let mut tokens = Vec::new();
    let mut error = 0.0;
    while tokens.len() < golden.plain[2].tokens.len() {
        engine.step(&[StepInput { sequence, tokens: &portion, outputs: 1 }], &mut output).unwrap();
        if tokens.is_empty() {
            error = largest_relative_error(&output.hidden_post_norm, &golden.plain[2].states[0]);
        }
        portion = vec![argmax(&output.logits)];
        tokens.extend(&portion);
    }
    (error, tokens)
}

#[test]
fn f32_files_give_the_golden_traces() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, converter) in converters() {
        let golden = Golden::read(name);
        let path = scratch.path().join(format!("{name}.gguf"));
        converter.write(name, &path, GgmlDType::F32);
        let (error, tokens) = trace(load_on(device(), path, Some(DtypeChoice::F32)).engine.as_mut(), &golden);
        assert!(error < 1e-4, "{name}: {error}");
        assert_eq!(tokens, golden.plain[2].tokens, "{name}");
    }
}

/// Widened to f32, a Q8_0 file computes with the very weights that it holds; as it is, activations are rounded too.
#[test]
fn quantised_files_run_as_they_are_or_widened() {
    let scratch = tempfile::tempdir().unwrap();
    let (name, converter) = converters().remove(0);
    let golden = Golden::read(name);
    let path = scratch.path().join("model.gguf");
    converter.write(name, &path, GgmlDType::Q8_0);
    let mut quantised = load(path.clone(), None);
    let mut widened = load(path.clone(), Some(DtypeChoice::F32));
    assert_eq!(quantised.engine.spec().dtype, "q8_0");
    assert_eq!(widened.engine.spec().dtype, "f32");
    let (as_it_is, _) = trace(quantised.engine.as_mut(), &golden);
    let (as_f32, _) = trace(widened.engine.as_mut(), &golden);
    assert!(as_it_is < 0.1 && as_f32 < 0.1 && as_f32 > 1e-4, "{as_it_is} {as_f32}");
    let halved = load(path, Some(DtypeChoice::F16));
    assert!(halved.notices[0].contains("q8_0"), "{:?}", halved.notices);
}

#[test]
fn gpus_compute_with_half_floats_made_of_a_quantised_file() {
    if device() == DeviceChoice::Cpu {
        return eprintln!("skipped: TPV_TEST_DEVICE names no GPU");
    }
    let scratch = tempfile::tempdir().unwrap();
    let (name, converter) = converters().remove(0);
    let path = scratch.path().join("model.gguf");
    converter.write(name, &path, GgmlDType::Q8_0);
    let mut loaded = load_on(device(), path, None);
    assert!(["bf16", "f16"].contains(&loaded.engine.spec().dtype.as_str()), "{:?}", loaded.engine.spec());
    let (error, _) = trace(loaded.engine.as_mut(), &Golden::read(name));
    assert!(error < 0.1, "{error}");
}

#[test]
fn damaged_and_foreign_files_are_refused_with_their_path() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let refused = || {
        let source = ModelSource::Gguf(path.clone());
        load_model(&source, &on_cpu()).err().expect("it must be refused").to_string()
    };
    assert!(refused().contains("model.gguf"));
    std::fs::write(&path, b"<html>").unwrap();
    assert!(refused().contains("not a whole GGUF file"));
    let (name, mut converter) = converters().remove(0);
    converter.write(name, &path, GgmlDType::F32);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(refused().contains("model.gguf"), "{}", refused());
    converter.kind = "gemma";
    converter.write(name, &path, GgmlDType::F32);
    assert!(refused().contains("gemma"));
}

#[test]
fn the_tokenizer_is_looked_for_beside_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let source = ModelSource::Gguf(scratch.path().join("model.gguf"));
    assert!(source.tokenizer_path().unwrap().unwrap_err().to_string().contains("tokenizer.json"));
    std::fs::write(scratch.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(source.tokenizer_path().unwrap().unwrap(), scratch.path().join("tokenizer.json"));
}

/// The state after the longest golden prompt.
fn last_state(mut loaded: Loaded, golden: &Golden) -> Vec<f32> {
    let sequence = loaded.engine.open().unwrap();
    let mut output = StepOutput::default();
    let input = [StepInput { sequence, tokens: &golden.prompts[2], outputs: 1 }];
    loaded.engine.step(&input, &mut output).unwrap();
    output.hidden_post_norm
}

/// llama.cpp takes a factor without a kind for a linear one, knows an older name of it, and multiplies the file's own
/// factors with it. Without them it is the linear scaling of transformers.
#[test]
fn rotary_factors_are_read_as_llama_cpp_reads_them() {
    let scratch = tempfile::tempdir().unwrap();
    let golden = Golden::read("llama");
    let path = scratch.path().join("model.gguf");
    let scaled = |extra: &[(&'static str, Value)], rope_factors: Option<Vec<f32>>| {
        let (name, mut converter) = converters().remove(0);
        converter.extra.extend(extra.iter().cloned());
        Converter { rope_factors, ..converter }.write(name, &path, GgmlDType::F32);
        last_state(load(path.clone(), None), &golden)
    };
    for file in ["model.safetensors", "config.json"] {
        std::fs::copy(folder("llama").join(file), scratch.path().join(file)).unwrap();
    }
    let config = scratch.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"rope_type\": \"default\"", "\"rope_type\": \"linear\", \"factor\": 4.0"))
        .unwrap();
    let source = ModelSource::Folder(scratch.path().to_owned());
    let linear = last_state(load_model(&source, &on_cpu()).unwrap(), &golden);
    let factor = ("rope.scaling.factor", Value::F32(4.0));
    let kind = |kind: &str| ("rope.scaling.type", Value::String(kind.into()));
    let plain = scaled(&[], None);
    assert!(largest_relative_error(&plain, &linear) > 1e-2);
    for extra in
        [vec![factor.clone()], vec![factor.clone(), kind("linear")], vec![("rope.scale_linear", Value::F32(4.0))]]
    {
        let error = largest_relative_error(&scaled(&extra, None), &linear);
        assert!(error < 1e-5, "{extra:?}: {error}");
    }
    assert_eq!(scaled(&[factor.clone(), kind("none")], None), plain);
    let own = vec![1.0, 2.0, 3.0, 4.0];
    let by_hand = scaled(&[], Some(vec![4.0, 8.0, 12.0, 16.0]));
    assert_eq!(scaled(std::slice::from_ref(&factor), Some(own.clone())), by_hand);
    assert_ne!(scaled(&[], Some(own)), by_hand);
}

#[test]
fn what_the_decoder_does_not_do_is_refused_by_key() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let refused = |extra: &[(&'static str, Value)], rope_factors: Option<Vec<f32>>| {
        let (name, mut converter) = converters().remove(0);
        converter.extra.extend(extra.iter().cloned());
        Converter { rope_factors, ..converter }.write(name, &path, GgmlDType::F32);
        load_model(&ModelSource::Gguf(path.clone()), &on_cpu()).err().unwrap().to_string()
    };
    assert!(refused(&[("attention.causal", Value::Bool(false))], None).contains("`llama.attention.causal` = false"));
    let yarn = [("rope.scaling.type", Value::String("yarn".into())), ("rope.scaling.factor", Value::F32(4.0))];
    assert!(refused(&yarn, Some(vec![1.0; 4])).contains("yarn beside `rope_freqs.weight`"));
}

/// The type of the first tensor in the file's list is overwritten.
#[test]
fn a_type_that_is_not_read_is_named_with_its_tensor() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let (name, converter) = converters().remove(0);
    converter.write(name, &path, GgmlDType::F32);
    let mut bytes = std::fs::read(&path).unwrap();
    let tensor = b"blk.1.attn_q.weight";
    let at = bytes.windows(tensor.len()).position(|window| window == tensor).unwrap() + tensor.len();
    bytes[at + 4 + 2 * 8] = 23;
    std::fs::write(&path, bytes).unwrap();
    let error = load_model(&ModelSource::Gguf(path), &on_cpu()).err().unwrap().to_string();
    assert!(error.contains("tensor `blk.1.attn_q.weight` has the type 23 (IQ4_XS)"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_file_has_the_fingerprint_of_the_checkpoint_that_it_was_made_from() {
    let scratch = tempfile::tempdir().unwrap();
    for at in [0, 3, 4] {
        let (name, converter) = converters().remove(at);
        let path = scratch.path().join("model.gguf");
        converter.write(name, &path, GgmlDType::F32);
        assert_eq!(load(path, None).fingerprint, common::load(name).fingerprint, "{name}");
    }
}

/// Only what `tokenizer.json` does not say is taken from the file: which tokens stand at both ends of a sequence.
#[test]
fn a_template_in_the_file_writes_the_tokens_that_the_file_names() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let write = |tokens: &[(&'static str, Value)]| {
        let shape =
            [("embedding_length", 192), ("feed_forward_length", 512), ("block_count", 4), ("context_length", 2048)];
        let shape = shape.iter().map(|(key, count)| (*key, Value::U32(*count)));
        let template = [("tokenizer.chat_template", Value::String(TEMPLATE.into()))];
        let extra = shape.chain(template).chain(tokens.iter().cloned()).collect();
        let thinker = Converter { kind: "llama", heads: 6, kv_heads: 6, extra, rope_factors: None };
        thinker.write("../../../../thinker/model", &path, GgmlDType::F32);
    };
    let prompts = |tokenizer: &Json, tokenizer_config: Option<&'static [u8]>| {
        let tokenizer = Cow::Owned(serde_json::to_vec(tokenizer).unwrap());
        let text =
            TextFiles { tokenizer, tokenizer_config: tokenizer_config.map(Cow::Borrowed), ..TextFiles::default() };
        let source = ModelSource::Gguf(path.clone());
        let options = on_cpu();
        let model = TextModel::load("m", None, &source, &text, &options, LimitWishes::default()).unwrap();
        let chat = model.prompts.chat(&[ChatMessage::new("user", "Hi")], &ChatOptions::default()).unwrap();
        let plain = model.prompts.tokenise("Hi".into(), true).unwrap();
        (chat.text, chat.tokens[0], plain.tokens)
    };
    let with_bos: Json = serde_json::from_slice(tpv_thinker::TOKENIZER).unwrap();
    let mut without_bos = with_bos.clone();
    without_bos["post_processor"] = Json::Null;
    let named = [("tokenizer.ggml.bos_token_id", Value::U32(0)), ("tokenizer.ggml.eos_token_id", Value::U32(1))];
    write(&named);
    let (text, first, plain) = prompts(&without_bos, None);
    assert_eq!((text.as_str(), first), ("<|bos|>Hi<|eos|><think>", 0));
    assert_ne!(plain[0], 0, "the file does not say that a prompt starts with it");
    let (text, ..) = prompts(&without_bos, Some(br#"{"bos_token": "<think>"}"#));
    assert_eq!(text, "<think>Hi<|eos|><think>", "the tokenizer's own configuration comes first");
    write(&[&named[..], &[("tokenizer.ggml.add_bos_token", Value::Bool(true))]].concat());
    assert_eq!(prompts(&without_bos, None).2, [&[0], &plain[..]].concat());
    assert_eq!(prompts(&without_bos, Some(b"{}")).2, plain);
    write(&[&named[..], &[("tokenizer.ggml.add_bos_token", Value::Bool(false))]].concat());
    assert_eq!(prompts(&with_bos, None).2, plain);
}
