//! GGUF files written from the golden models give the golden traces.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use common::{Golden, argmax, folder, largest_relative_error};
use tpv_engine::device::DtypeChoice;
use tpv_engine::engine::{Engine, StepInput, StepOutput};
use tpv_engine::load::{LoadOptions, Loaded, ModelSource, load_model};

/// What a converter does: names, the llama architecture's order of rows in Q and K, and its rotary factors.
struct Converter {
    kind: &'static str,
    heads: usize,
    kv_heads: usize,
    extra: Vec<(&'static str, Value)>,
    rope_factors: Option<Vec<f32>>,
}

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
        let own = own.iter().chain(&self.extra).map(|(key, value)| (format!("{}.{key}", self.kind), value.clone()));
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
    load_model(&ModelSource::Gguf(path), &LoadOptions { dtype, ..LoadOptions::default() }).unwrap()
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
        let (error, tokens) = trace(load(path, None).engine.as_mut(), &golden);
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
fn damaged_and_foreign_files_are_refused_with_their_path() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let refused = || {
        let source = ModelSource::Gguf(path.clone());
        load_model(&source, &LoadOptions::default()).err().expect("it must be refused").to_string()
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
