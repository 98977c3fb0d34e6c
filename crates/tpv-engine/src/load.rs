//! From a checkpoint to a running engine.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use sha2::{Digest, Sha256};

use crate::config::{DecoderConfig, RopePairing};
use crate::decode::{DecodeLimits, DraftLimits};
use crate::decoder::{CpuDecoder, CpuOptions, TensorDecoder, WeightSource};
use crate::device::{DeviceChoice, DtypeChoice, choose_dtype, last_cache_bytes, open_device, thread_count};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::gguf::GgufFile;
use crate::random::RandomWeights;
use crate::tokenizer::hex;
use crate::weights::{TensorFiles, file_error, read_file};

/// Where a model's files are.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A folder with `config.json` and `model.safetensors`, or an index and shards.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// Files that are part of the program.
    Embedded {
        /// The content of `config.json`.
        config: &'static [u8],
        /// The content of `model.safetensors`.
        weights: &'static [u8],
    },
}

/// How a model is to be run.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The arithmetic; `None`: what suits the device and the model.
    pub dtype: Option<DtypeChoice>,
    /// The device.
    pub device: DeviceChoice,
    /// Threads on the CPU; never more than there are cores.
    pub threads: Option<usize>,
    /// Bound on the KV memory, in tokens. Without this and `kv_bytes`: four fifths of the device's memory that is free
    /// once the weights are loaded.
    pub kv_tokens: Option<usize>,
    /// The same in bytes; the smaller bound holds.
    pub kv_bytes: Option<u64>,
}

impl LoadOptions {
    /// The bound in tokens, for keys and values of so many bytes each.
    fn kv_bound(&self, config: &DecoderConfig, entry_bytes: usize) -> Option<usize> {
        let per_token = config.kv_entries_per_token() * entry_bytes;
        let by_bytes = self.kv_bytes.map(|bytes| (bytes / per_token as u64).max(1) as usize);
        self.kv_tokens.into_iter().chain(by_bytes).min()
    }
}

/// Tokens whose keys and values a sample in flight is reckoned to hold.
const TOKENS_IN_FLIGHT: usize = 1024;

/// Samples for each thread beyond which more gain little.
const MOST_FOR_A_THREAD: usize = 6;

/// Samples in flight that suit a model. Of one that lies in the processor's last cache fewer than usual are better: keys and
/// values of more than fit into half of that cache would push each other and the weights out. Three for each thread are worth
/// it always, and are the answer where the cache's size is unknown; beyond [`MOST_FOR_A_THREAD`] states of more problems wait in
/// memory for little.
fn suitable_batch(is_cached: bool, threads: usize, kv_bytes_per_token: usize, last_cache: Option<usize>) -> usize {
    let usual = DecodeLimits::default().max_batch;
    if !is_cached {
        return usual;
    }
    let fitting = last_cache.map_or(0, |bytes| bytes / 2 / (kv_bytes_per_token * TOKENS_IN_FLIGHT));
    fitting.clamp(3 * threads, MOST_FOR_A_THREAD * threads).clamp(6, usual)
}

/// Rows up to which a step that reads its weights from the memory takes hardly longer: 8 take a third longer than one.
const ROWS_FOR_LITTLE: usize = 8;

/// Drafts that suit a model on a CPU. Where weights come from the memory, rows cost little until there are too many. Where
/// they lie in the cache, half of the time goes to keys and values, which the rows of a sequence read together: there two
/// guesses for each sample were best. What rows cost in formats that the tensor library computes was not measured, so
/// nothing is guessed there unless it is asked for.
fn suitable_drafts(is_cached: bool, dtype: &str) -> DraftLimits {
    let (tokens, rows) = if is_cached { (2, usize::MAX) } else { (ROWS_FOR_LITTLE - 1, ROWS_FOR_LITTLE) };
    let is_measured = [DtypeChoice::F32, DtypeChoice::Q8_0].iter().any(|measured| measured.name() == dtype);
    DraftLimits { tokens: if is_measured { tokens } else { 0 }, rows, shared: false }
}

/// On GPUs nothing is guessed unless it is asked for: there a row may depend on its neighbours in the last bits.
const DRAFTS_ON_GPUS: DraftLimits = DraftLimits { tokens: 0, rows: 32, shared: false };

/// A model that is ready to be stepped.
pub struct Loaded {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Sentences for the user about wishes that could not be granted.
    pub notices: Vec<String>,
    /// SHA-256 in hexadecimal of the model's shape and of some of its weights: the same for the same weights under any
    /// name and in any safetensors layout.
    pub fingerprint: String,
    /// Bytes that the weights take in memory; `None` when they lie on a device.
    pub weight_memory: Option<usize>,
    /// Samples in flight, and drafts, that suit the model and the machine, where nothing else is asked for.
    pub limits: DecodeLimits,
    /// The tokens at both ends of a sequence and the chat template, where the file of the weights names them.
    pub text: EmbeddedText,
}

/// What a GGUF file says of the model's text; everything else of it is taken from the tokenizer's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbeddedText {
    /// The token that begins a sequence.
    pub bos_token: Option<u32>,
    /// The token that ends a sequence.
    pub eos_token: Option<u32>,
    /// Whether a prompt starts with the token that begins a sequence.
    pub add_bos_token: Option<bool>,
    /// The chat template.
    pub chat_template: Option<String>,
}

/// Loads a model.
pub fn load_model(source: &ModelSource, options: &LoadOptions) -> Result<Loaded> {
    match source {
        ModelSource::Folder(folder) => {
            let config = read_config(&folder.join("config.json"))?;
            load_checkpoint(config, &TensorFiles::open_folder(folder)?, options)
        }
        ModelSource::Embedded { config, weights } => {
            load_checkpoint(DecoderConfig::from_json(config)?, &TensorFiles::embedded(weights)?, options)
        }
        ModelSource::Gguf(path) => load_gguf(path, options),
    }
}

/// A model of this shape with random weights, for benchmarks.
pub fn random_model(config: DecoderConfig, options: &LoadOptions) -> Result<Loaded> {
    load_tensors(config, &RandomWeights, options)
}

impl ModelSource {
    /// The folder or file that a user named; `None` for a model that is part of the program.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) | Self::Gguf(path) => Some(path),
            Self::Embedded { .. } => None,
        }
    }

    /// The `tokenizer.json` of the model: in its folder, or beside the GGUF file.
    pub fn tokenizer_path(&self) -> Option<Result<PathBuf>> {
        let (folder, missing) = match self {
            Self::Folder(folder) => (folder.as_path(), "holds no tokenizer.json"),
            Self::Gguf(path) => {
                let problem = "has no tokenizer.json beside it; put the one of the original checkpoint there";
                (path.parent().unwrap_or(Path::new(".")), problem)
            }
            Self::Embedded { .. } => return None,
        };
        let tokenizer = folder.join("tokenizer.json");
        let named = self.path().unwrap_or(folder);
        Some(if tokenizer.is_file() { Ok(tokenizer) } else { Err(file_error(named, missing)) })
    }
}

fn read_config(path: &Path) -> Result<DecoderConfig> {
    DecoderConfig::from_json(&read_file(path)?).map_err(|error| match error {
        EngineError::Unsupported(problem) => file_error(path, format!("unsupported model: {problem}")),
        other => other,
    })
}

fn load_checkpoint(mut config: DecoderConfig, source: &TensorFiles, options: &LoadOptions) -> Result<Loaded> {
    if !has_head_of_its_own(&config, source)? {
        return load_tensors(config, source, options);
    }
    config.tied_head = false;
    let mut loaded = load_tensors(config, source, options)?;
    loaded.notices.push(
        "config.json ties lm_head to the embedding, but the checkpoint has an lm_head.weight of its own: it is used, as \
         transformers 5 does"
            .into(),
    );
    Ok(loaded)
}

fn load_tensors(config: DecoderConfig, source: &impl WeightSource, options: &LoadOptions) -> Result<Loaded> {
    let mut notices = Vec::new();
    let device = open_device(options.device, &mut notices);
    let dtype = choose_dtype(options.dtype, &device, &config, &mut notices)?;
    if !device.is_cpu() {
        return build_on_gpu(config, source, options, (device, dtype), notices);
    }
    build(config, source, options, (dtype, dtype.name().to_owned()), notices)
}

/// Entries of a matrix that are compared at once.
const COMPARED_AT_ONCE: usize = 1 << 20;

/// Whether a head that the config calls tied is stored, and differs from the embedding in any row.
fn has_head_of_its_own(config: &DecoderConfig, source: &TensorFiles) -> Result<bool> {
    if !config.tied_head || !source.has("lm_head.weight") {
        return Ok(false);
    }
    let shape = [config.vocab_size, config.hidden_size];
    let head = source.get("lm_head.weight", &shape)?;
    let embedding = source.get("model.embed_tokens.weight", &shape)?;
    let entries = config.vocab_size * config.hidden_size;
    let (mut left, mut right) = (vec![0.0; COMPARED_AT_ONCE], vec![0.0; COMPARED_AT_ONCE]);
    for start in (0..entries).step_by(COMPARED_AT_ONCE) {
        let count = COMPARED_AT_ONCE.min(entries - start);
        head.copy(start, &mut left[..count])?;
        embedding.copy(start, &mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Quantised files run as they are, unless f32 is asked for.
fn load_gguf(path: &Path, options: &LoadOptions) -> Result<Loaded> {
    let widen = options.dtype == Some(DtypeChoice::F32);
    let file = GgufFile::open(path, widen)?;
    Ok(Loaded { text: file.embedded_text(), ..load_gguf_tensors(&file, widen, options)? })
}

fn load_gguf_tensors(file: &GgufFile, widen: bool, options: &LoadOptions) -> Result<Loaded> {
    let config = file.config()?;
    let mut notices = Vec::new();
    let device = open_device(options.device, &mut notices);
    if widen || !file.is_quantised() || !device.is_cpu() {
        return load_tensors(config, file, options);
    }
    let dtype = choose_dtype(None, &device, &config, &mut notices)?;
    let name = file.dtype_name();
    if let Some(wish) = options.dtype.filter(|wish| wish.name() != name) {
        notices.push(format!("the file's weights are {name}: used as they are, not as {}", wish.name()));
    }
    build(config, file, options, (dtype, name), notices)
}

fn build(
    config: DecoderConfig,
    source: &impl WeightSource,
    options: &LoadOptions,
    (dtype, dtype_name): (DtypeChoice, String),
    notices: Vec<String>,
) -> Result<Loaded> {
    let fingerprint = fingerprint(&config, source)?;
    let threads = thread_count(options.threads);
    let kv_tokens = options.kv_bound(&config, size_of::<f32>());
    let options = CpuOptions { dtype, dtype_name, kv_tokens, threads };
    let engine = CpuDecoder::load(config, source, options)?;
    let weight_memory = Some(engine.model().weight_bytes());
    let is_cached = engine.model().is_cached();
    let max_batch = suitable_batch(is_cached, threads, engine.kv_bytes_per_token(), last_cache_bytes());
    let limits =
        DecodeLimits { max_batch, drafts: suitable_drafts(is_cached, &engine.spec().dtype), ..DecodeLimits::default() };
    let text = EmbeddedText::default();
    Ok(Loaded { engine: Box::new(engine), notices, fingerprint, weight_memory, limits, text })
}

/// On GPUs weights are floats, whatever the file holds.
fn build_on_gpu(
    config: DecoderConfig,
    source: &impl WeightSource,
    options: &LoadOptions,
    (device, dtype): (Device, DtypeChoice),
    notices: Vec<String>,
) -> Result<Loaded> {
    let fingerprint = fingerprint(&config, source)?;
    let dtype = match dtype {
        DtypeChoice::F32 => DType::F32,
        DtypeChoice::F16 => DType::F16,
        DtypeChoice::Bf16 | DtypeChoice::Q8_0 => DType::BF16,
    };
    let kv_tokens = options.kv_bound(&config, dtype.size_in_bytes());
    let engine = TensorDecoder::load(config, source, device, dtype, kv_tokens)?;
    let limits = DecodeLimits { drafts: DRAFTS_ON_GPUS, ..DecodeLimits::default() };
    let (weight_memory, text) = (None, EmbeddedText::default());
    Ok(Loaded { engine: Box::new(engine), notices, fingerprint, weight_memory, limits, text })
}

/// Hashes the shape, all norms and biases, some rows of the embedding and the first and the last row of every other matrix.
/// GGUF files have these rows in the same place.
fn fingerprint(config: &DecoderConfig, source: &impl WeightSource) -> Result<String> {
    let width = config.hidden_size;
    let mut samples = source.vector("model.norm.weight", width)?;
    let step = config.vocab_size.div_ceil(256);
    let tokens: Vec<u32> = (0..config.vocab_size as u32).step_by(step).collect();
    let mut rows = Vec::new();
    source.embedding(config.vocab_size, width)?.look_up(&tokens, width, &mut rows)?;
    samples.extend(rows);
    for layer in 0..config.layers {
        sample_layer(config, source, layer, &mut samples)?;
    }
    if !config.tied_head {
        sample_matrix(source, "lm_head.weight", [config.vocab_size, width], &mut samples)?;
    }
    let mut hash = Sha256::new();
    hash.update(shape_text(config));
    for sample in samples {
        hash.update(sample.to_le_bytes());
    }
    Ok(hex(&hash.finalize()))
}

fn sample_matrix(source: &impl WeightSource, name: &str, shape: [usize; 2], samples: &mut Vec<f32>) -> Result<()> {
    for row in [0, shape[0] - 1] {
        samples.extend(source.row(name, shape, row)?);
    }
    Ok(())
}

fn sample_layer(
    config: &DecoderConfig,
    source: &impl WeightSource,
    layer: usize,
    samples: &mut Vec<f32>,
) -> Result<()> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let (heads, kv_heads) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let matrices = [
        ("self_attn.q_proj", [heads, width], config.qkv_bias),
        ("self_attn.k_proj", [kv_heads, width], config.qkv_bias),
        ("self_attn.v_proj", [kv_heads, width], config.qkv_bias),
        ("self_attn.o_proj", [width, heads], config.output_bias),
        ("mlp.gate_proj", [inner, width], config.mlp_bias),
        ("mlp.up_proj", [inner, width], config.mlp_bias),
        ("mlp.down_proj", [width, inner], config.mlp_bias),
    ];
    let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| (name, width));
    let head_norms = ["self_attn.q_norm", "self_attn.k_norm"].map(|name| (name, config.head_dim));
    for (name, length) in norms.into_iter().chain(head_norms.into_iter().filter(|_| config.qk_norm)) {
        samples.extend(source.vector(&format!("model.layers.{layer}.{name}.weight"), length)?);
    }
    for (name, shape, has_bias) in matrices {
        let name = format!("model.layers.{layer}.{name}");
        sample_matrix(source, &format!("{name}.weight"), shape, samples)?;
        if has_bias {
            samples.extend(in_order(config, &name, source.vector(&format!("{name}.bias"), shape[0])?));
        }
    }
    Ok(())
}

/// The entries of a bias of queries or keys in the order of Hugging Face, whichever entries of a head turn together.
fn in_order(config: &DecoderConfig, name: &str, bias: Vec<f32>) -> Vec<f32> {
    let is_turned = name.ends_with("q_proj") || name.ends_with("k_proj");
    if config.rope.pairing == RopePairing::Halves || !is_turned {
        return bias;
    }
    let half = config.head_dim / 2;
    let place = |entry: usize| entry / config.head_dim * config.head_dim + 2 * (entry % half) + entry / half % 2;
    (0..bias.len()).map(|entry| bias[place(entry)]).collect()
}

fn shape_text(config: &DecoderConfig) -> String {
    let DecoderConfig { architecture, hidden_size, intermediate_size, layers, heads, kv_heads, .. } = config;
    let DecoderConfig { head_dim, vocab_size, norm_epsilon, rope, windows, .. } = config;
    format!(
        "{architecture} {hidden_size} {intermediate_size} {layers} {heads} {kv_heads} {head_dim} {vocab_size} {} {} {:?} {windows:?}",
        *norm_epsilon as f32, rope.theta as f32, rope.scaling
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_made_where_rows_were_measured_to_cost_little() {
        let tokens = |is_cached| ["f32", "q8_0", "q4_k"].map(|dtype| suitable_drafts(is_cached, dtype).tokens);
        assert_eq!([tokens(true), tokens(false)], [[2, 2, 0], [7, 7, 0]]);
    }

    #[test]
    fn biases_of_both_orders_are_one_in_a_fingerprint() {
        let mut config = crate::random::named_shape("0.5b").unwrap();
        (config.head_dim, config.rope.pairing) = (6, RopePairing::Neighbours);
        // Entry 2 i + t of a head is entry 3 t + i of the original, as converters write it.
        let of_file = vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 10.0, 13.0, 11.0, 14.0, 12.0, 15.0];
        let original = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        assert_eq!(in_order(&config, "self_attn.k_proj", of_file.clone()), original);
        assert_eq!(in_order(&config, "self_attn.v_proj", of_file.clone()), of_file);
        config.rope.pairing = RopePairing::Halves;
        assert_eq!(in_order(&config, "self_attn.q_proj", of_file.clone()), of_file);
    }

    #[test]
    fn samples_in_flight_fit_into_the_cache() {
        let toy = |threads, cache| suitable_batch(true, threads, 6144, cache);
        assert_eq!([toy(2, None), toy(2, Some(32 << 20)), toy(4, Some(32 << 20))], [6, 6, 12]);
        assert_eq!([toy(2, Some(96 << 20)), toy(2, Some(480 << 20)), toy(64, None)], [8, 12, 32]);
        assert_eq!(suitable_batch(false, 2, 6144, None), 32, "what comes from the memory is read once for all");
    }
}
