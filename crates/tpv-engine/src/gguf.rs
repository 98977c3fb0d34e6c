//! Checkpoints in GGUF files: metadata to a decoder's shape, tensors as they are quantised.
//!
//! Files of the llama architecture hold the rows of Q and K in an order for which neighbouring entries of a head turn
//! together; Qwen2 and Qwen3 files keep the order of Hugging Face. The tokenizer is not taken from here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tpv_core::quiet::quietly;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device};

use crate::config::{DecoderConfig, LARGEST_COUNT, RopeConfig, RopePairing, RopeScaling};
use crate::decoder::{EmbeddingTable, Linear, LinearShape, WeightSource};
use crate::error::{EngineError, Result, tensor_problem};
use crate::gguf_header::unknown_type;
use crate::load::EmbeddedText;
use crate::weights::file_error;

/// An open GGUF file.
pub(crate) struct GgufFile {
    path: PathBuf,
    content: Content,
    file: Mutex<File>,
    /// Whether quantised tensors are widened to f32.
    widen: bool,
}

impl GgufFile {
    /// Opens a file; `widen` turns quantised tensors into f32.
    pub fn open(path: &Path, widen: bool) -> Result<Self> {
        let cannot = |error| file_error(path, format!("cannot be read ({error})"));
        let mut file = File::open(path).map_err(cannot)?;
        // The library divides by an alignment of 0.
        let read = quietly(|| Content::read(&mut file)).ok_or_else(|| {
            file_error(path, "not a whole GGUF file (its header contradicts itself); copy or download it again")
        })?;
        let content = read.map_err(|error| match unknown_type(&mut BufReader::new(&mut file)) {
            Some(unknown) => file_error(path, unknown.to_string()),
            None => file_error(path, format!("not a whole GGUF file ({})", tensor_problem(&error))),
        })?;
        Ok(Self { path: path.to_owned(), content, file: Mutex::new(file), widen })
    }

    /// The shape that the metadata describes.
    pub fn config(&self) -> Result<DecoderConfig> {
        let config = self.read_config().map_err(|error| match error {
            EngineError::Unsupported(problem) => file_error(&self.path, format!("unsupported model: {problem}")),
            other => other,
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The number format of most of the linear layers' weights, e.g. `q4_k`.
    pub fn dtype_name(&self) -> String {
        let mut counts = BTreeMap::<String, usize>::new();
        for (name, info) in &self.content.tensor_infos {
            if name.starts_with("blk.") && info.shape.rank() == 2 {
                *counts.entry(format!("{:?}", info.ggml_dtype).to_lowercase()).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map_or(String::new(), |(name, _)| name);
        // The library writes Q4K for what users know as q4_k.
        most.strip_suffix('k').map_or(most.clone(), |bits| format!("{bits}_k"))
    }

    /// Whether the linear layers are quantised.
    pub fn is_quantised(&self) -> bool {
        !matches!(self.dtype_name().as_str(), "f32" | "f16" | "bf16")
    }

    fn read_config(&self) -> Result<DecoderConfig> {
        let kind = self.text("general.architecture")?;
        let keys = Metadata { values: &self.content.metadata, prefix: &kind };
        let (architecture, pairing) = match kind.as_str() {
            "llama" => ("LlamaForCausalLM", RopePairing::Neighbours),
            "qwen2" => ("Qwen2ForCausalLM", RopePairing::Halves),
            "qwen3" => ("Qwen3ForCausalLM", RopePairing::Halves),
            other => return Err(EngineError::Unsupported(format!("`general.architecture` = {other}"))),
        };
        if keys.count("expert_count")?.is_some_and(|count| count > 0) {
            return Err(EngineError::Unsupported(format!("`{kind}.expert_count` above 0")));
        }
        if keys.value("attention.causal").is_some_and(|value| matches!(value.to_bool(), Ok(false))) {
            let problem = format!("`{kind}.attention.causal` = false: its tokens see those behind them too");
            return Err(EngineError::Unsupported(problem));
        }
        let hidden_size = keys.required("embedding_length")?;
        let heads = keys.required("attention.head_count")?;
        let head_dim = keys.count("attention.key_length")?.unwrap_or(hidden_size / heads.max(1));
        if keys.count("rope.dimension_count")?.is_some_and(|width| width != head_dim) {
            return Err(EngineError::Unsupported(format!("`{kind}.rope.dimension_count` other than the head's width")));
        }
        let layers = keys.required("block_count")?;
        let max_positions = keys.required("context_length")?;
        Ok(DecoderConfig {
            architecture: architecture.to_owned(),
            hidden_size,
            intermediate_size: keys.required("feed_forward_length")?,
            layers,
            heads,
            kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            vocab_size: self.vocabulary()?,
            max_positions,
            norm_epsilon: keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            qkv_bias: self.has("blk.0.attn_q.bias"),
            output_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_gate.bias"),
            qk_norm: self.has("blk.0.attn_q_norm.weight"),
            tied_head: !self.has("output.weight"),
            rope: RopeConfig {
                theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
                scaling: self.scaling(&keys, max_positions, head_dim)?,
                pairing,
            },
            windows: vec![None; layers],
        })
    }

    /// As llama.cpp reads it: a factor without a kind is a linear one, under its older name too, 0 stands for none, and the
    /// file's own factors are multiplied with it.
    fn scaling(&self, keys: &Metadata<'_>, max_positions: usize, head_dim: usize) -> Result<RopeScaling> {
        let factor = match keys.number("rope.scaling.factor")? {
            Some(factor) => factor,
            None => keys.number("rope.scale_linear")?.unwrap_or(1.0),
        };
        let factor = if factor == 0.0 { 1.0 } else { factor };
        let kind = keys.value("rope.scaling.type").map(|value| value.to_string().map_or("not a text", String::as_str));
        let own =
            self.has("rope_freqs.weight").then(|| self.widened("rope_freqs.weight", &[head_dim / 2])).transpose()?;
        match (kind, own) {
            (Some("none"), None) => Ok(RopeScaling::None),
            (Some("none"), Some(own)) => Ok(RopeScaling::Factors(own)),
            (None | Some("linear"), None) if factor == 1.0 => Ok(RopeScaling::None),
            (None | Some("linear"), None) => Ok(RopeScaling::Linear { factor }),
            (None | Some("linear"), Some(own)) => {
                Ok(RopeScaling::Factors(own.iter().map(|own| own * factor as f32).collect()))
            }
            (Some("yarn"), None) => yarn(keys, factor, max_positions),
            (Some("yarn"), Some(_)) => {
                Err(EngineError::Unsupported("`rope.scaling.type` = yarn beside `rope_freqs.weight`".to_owned()))
            }
            (Some(other), _) => Err(EngineError::Unsupported(format!("`rope.scaling.type` = {other}"))),
        }
    }

    /// What the metadata say of the model's text.
    pub fn embedded_text(&self) -> EmbeddedText {
        let value = |key: &str| self.content.metadata.get(key);
        EmbeddedText {
            bos_token: value("tokenizer.ggml.bos_token_id").and_then(|value| value.to_u32().ok()),
            eos_token: value("tokenizer.ggml.eos_token_id").and_then(|value| value.to_u32().ok()),
            add_bos_token: value("tokenizer.ggml.add_bos_token").and_then(|value| value.to_bool().ok()),
            chat_template: value("tokenizer.chat_template").and_then(|value| value.to_string().ok()).cloned(),
        }
    }

    fn text(&self, key: &str) -> Result<String> {
        let value = self.content.metadata.get(key).and_then(|value| value.to_string().ok());
        value.cloned().ok_or_else(|| EngineError::Unsupported(format!("the metadata lack `{key}`")))
    }

    fn vocabulary(&self) -> Result<usize> {
        let table = self.content.tensor_infos.get("token_embd.weight");
        let rows = table.and_then(|info| info.shape.dims().first().copied());
        rows.ok_or_else(|| file_error(&self.path, "no tensor `token_embd.weight`"))
    }

    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<QTensor> {
        let problem = |problem: String| file_error(&self.path, problem);
        let info = self.content.tensor_infos.get(name).ok_or_else(|| problem(format!("no tensor `{name}`")))?;
        if info.shape.dims() != shape {
            return Err(problem(format!("tensor `{name}` is {:?}, the metadata mean {shape:?}", info.shape.dims())));
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.content
            .tensor(&mut *file, name, &Device::Cpu)
            .map_err(|error| problem(format!("tensor `{name}` cannot be read ({})", tensor_problem(&error))))
    }

    fn widened(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, shape)?.dequantize(&Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }
}

impl WeightSource for GgufFile {
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.widened(&gguf_name(name), shape)
    }

    fn row(&self, name: &str, shape: [usize; 2], row: usize) -> Result<Vec<f32>> {
        let name = gguf_name(name);
        let problem = |problem: &dyn std::fmt::Display| file_error(&self.path, format!("tensor `{name}` {problem}"));
        let info = self.content.tensor_infos.get(&name).ok_or_else(|| problem(&"is missing"))?;
        let dtype = info.ggml_dtype;
        if info.shape.dims() != shape || !shape[1].is_multiple_of(dtype.block_size()) {
            return Err(problem(&format!("is {:?}, the metadata mean {shape:?}", info.shape.dims())));
        }
        let mut bytes = vec![0; shape[1] / dtype.block_size() * dtype.type_size()];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let place = info.offset.saturating_add((row * bytes.len()) as u64);
        let start = self.content.tensor_data_offset.saturating_add(place);
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| problem(&format!("cannot be read ({error})")))?;
        let row = qtensor_from_ggml(dtype, &bytes, vec![1, shape[1]], &Device::Cpu)?.dequantize(&Device::Cpu)?;
        Ok(row.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    fn linear(&self, name: &str, shape: LinearShape) -> Result<Linear> {
        let LinearShape { outputs, inputs, bias, dtype } = shape;
        let weight = gguf_name(&format!("{name}.weight"));
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), outputs)).transpose()?;
        let tensor = self.tensor(&weight, &[outputs, inputs])?;
        let is_quantised = !matches!(tensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        if is_quantised && !self.widen {
            return Linear::quantised(tensor, bias);
        }
        let floats: Vec<f32> = tensor.dequantize(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Linear::from_rows((outputs, inputs), dtype, bias, |first, rows| {
            rows.copy_from_slice(&floats[first * inputs..][..rows.len()]);
            Ok(())
        })
    }

    fn embedding(&self, vocab: usize, width: usize) -> Result<EmbeddingTable> {
        let tensor = self.tensor("token_embd.weight", &[vocab, width])?;
        Ok(match tensor.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                EmbeddingTable::Dense(self.widened("token_embd.weight", &[vocab, width])?)
            }
            _ => EmbeddingTable::Quantised(QMatMul::from_qtensor(tensor)?),
        })
    }
}

fn yarn(keys: &Metadata<'_>, factor: f64, max_positions: usize) -> Result<RopeScaling> {
    let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(max_positions);
    let stretch = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor: stretch * keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0),
        beta_fast: keys.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        original_max_positions: original as f64,
        truncate: true,
    })
}

/// GGUF's name for a tensor of a Hugging Face checkpoint.
fn gguf_name(name: &str) -> String {
    const PARTS: [(&str, &str); 15] = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("model.layers.", "blk."),
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
        ("self_attn.q_proj.", "attn_q."),
        ("self_attn.k_proj.", "attn_k."),
        ("self_attn.v_proj.", "attn_v."),
        ("self_attn.o_proj.", "attn_output."),
        ("self_attn.q_norm.", "attn_q_norm."),
        ("self_attn.k_norm.", "attn_k_norm."),
        ("mlp.gate_proj.", "ffn_gate."),
        ("mlp.up_proj.", "ffn_up."),
        ("mlp.down_proj.", "ffn_down."),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The metadata of one architecture.
struct Metadata<'a> {
    values: &'a std::collections::HashMap<String, Value>,
    prefix: &'a str,
}

impl Metadata<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(&format!("{}.{key}", self.prefix))
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        let wrong =
            || EngineError::Unsupported(format!("`{}.{key}` is not one whole number of a sensible size", self.prefix));
        let count = |value: &Value| match value {
            Value::I32(count) => usize::try_from(*count).map_err(|_| wrong()),
            other => other.to_u64().ok().and_then(|count| usize::try_from(count).ok()).ok_or_else(wrong),
        };
        match self.value(key).map(count).transpose()? {
            Some(count) if count > LARGEST_COUNT => Err(wrong()),
            count => Ok(count),
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        let lacks = || EngineError::Unsupported(format!("the metadata lack `{}.{key}`", self.prefix));
        self.count(key)?.ok_or_else(lacks)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let wrong = || EngineError::Unsupported(format!("`{}.{key}` is not a number", self.prefix));
        let number = |value: &Value| match value {
            Value::F64(number) => Ok(*number),
            other => other.to_f32().map(f64::from).map_err(|_| wrong()),
        };
        self.value(key).map(number).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::gguf_name;

    #[test]
    fn names_are_translated() {
        assert_eq!(gguf_name("model.layers.11.self_attn.k_norm.weight"), "blk.11.attn_k_norm.weight");
        assert_eq!(gguf_name("model.layers.0.post_attention_layernorm.weight"), "blk.0.ffn_norm.weight");
        assert_eq!(gguf_name("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(gguf_name("lm_head.weight"), "output.weight");
        assert_eq!(gguf_name("model.norm.weight"), "output_norm.weight");
    }
}
