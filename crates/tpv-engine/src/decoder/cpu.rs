//! The decoder on the CPU: f32 activations on slices, paged KV, f32 or quantised weights.
//!
//! In f32 every row is computed in an order that does not depend on the rest of the batch, so states and logits of a
//! sequence are the same bits alone, among others, and after its tokens were fed in other portions.

use rayon::ThreadPool;
use rayon::prelude::*;

use super::attention::{HeadGroup, HeadPage, attend};
use super::kernels::{add, gate, normalise};
use super::linear::{Inputs, Linear};
use super::paged::{Paged, PagedModel};
use super::rope::Rotary;
use super::source::{EmbeddingTable, LinearShape, WeightSource};
use crate::config::DecoderConfig;
use crate::device::DtypeChoice;
use crate::engine::{ModelSpec, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::kv::{PAGE_TOKENS, Page, PageCopy, PageLedger};

/// Multiply-adds of a step below which one thread does it all.
const SERIAL_STEP: usize = 1 << 21;

/// The weights of one layer.
#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Linear,
    mlp_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    /// Latest tokens that a token sees.
    window: Option<usize>,
}

impl Layer {
    fn load(source: &impl WeightSource, config: &DecoderConfig, dtype: DtypeChoice, index: usize) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let linear = |part: &str, outputs, inputs, bias| {
            source.linear(&name(part), LinearShape { outputs, inputs, bias, dtype })
        };
        let head_norm = |part: &str| {
            config
                .qk_norm
                .then(|| source.vector(&name(&format!("self_attn.{part}.weight")), config.head_dim))
                .transpose()
        };
        let (d, inner) = (config.hidden_size, config.intermediate_size);
        let (q_width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        Ok(Self {
            attention_norm: source.vector(&name("input_layernorm.weight"), d)?,
            query: linear("self_attn.q_proj", q_width, d, config.qkv_bias)?,
            key: linear("self_attn.k_proj", kv_width, d, config.qkv_bias)?,
            value: linear("self_attn.v_proj", kv_width, d, config.qkv_bias)?,
            query_norm: head_norm("q_norm")?,
            key_norm: head_norm("k_norm")?,
            output: linear("self_attn.o_proj", d, q_width, config.output_bias)?,
            mlp_norm: source.vector(&name("post_attention_layernorm.weight"), d)?,
            gate: linear("mlp.gate_proj", inner, d, config.mlp_bias)?,
            up: linear("mlp.up_proj", inner, d, config.mlp_bias)?,
            down: linear("mlp.down_proj", d, inner, config.mlp_bias)?,
            window: config.windows[index],
        })
    }
}

/// KV memory: page `p` is [layers, kv_heads, (head_dim x PAGE_TOKENS keys, PAGE_TOKENS x head_dim values)].
#[derive(Debug)]
struct PageStore {
    pages: Vec<Vec<f32>>,
    kv_heads: usize,
    head_dim: usize,
    page_size: usize,
}

impl PageStore {
    fn new(config: &DecoderConfig) -> Self {
        let page_size = config.layers * config.kv_heads * 2 * config.head_dim * PAGE_TOKENS;
        Self { pages: Vec::new(), kv_heads: config.kv_heads, head_dim: config.head_dim, page_size }
    }

    /// Makes sure that the pages exist.
    fn provide(&mut self, pages: &[Page]) {
        for &page in pages {
            if self.pages.len() <= page {
                self.pages.resize(page + 1, Vec::new());
            }
            self.pages[page].resize(self.page_size, 0.0);
        }
    }

    fn copy(&mut self, copy: PageCopy) {
        let from = self.pages[copy.from].clone();
        self.provide(&[copy.to]);
        self.pages[copy.to] = from;
    }

    fn half(&self) -> usize {
        self.head_dim * PAGE_TOKENS
    }

    fn head(&self, page: Page, layer: usize, head: usize) -> HeadPage<'_> {
        let start = (layer * self.kv_heads + head) * 2 * self.half();
        let (keys, values) = self.pages[page][start..start + 2 * self.half()].split_at(self.half());
        HeadPage { keys, values }
    }

    /// Writes one token's keys and values, [kv_heads, head_dim] each.
    fn write(&mut self, page: Page, layer: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let (half, width) = (self.half(), self.head_dim);
        let heads = self.pages[page][layer * self.kv_heads * 2 * half..].chunks_exact_mut(2 * half);
        for ((block, key), value) in heads.zip(keys.chunks_exact(width)).zip(values.chunks_exact(width)) {
            let (key_block, value_block) = block.split_at_mut(half);
            for (to, &from) in key_block[slot..].iter_mut().step_by(PAGE_TOKENS).zip(key) {
                *to = from;
            }
            value_block[slot * width..][..width].copy_from_slice(value);
        }
    }
}

/// One token of a step.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Index of its sequence among the step's inputs.
    input: usize,
    position: usize,
    wants_output: bool,
}

/// Activations of a step, kept between steps for their memory.
#[derive(Debug, Default)]
struct Scratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// The weights and the shape: everything that a step only reads.
#[derive(Debug)]
struct Model {
    config: DecoderConfig,
    rotary: Rotary,
    embedding: EmbeddingTable,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Linear,
}

/// How a decoder is to be built.
#[derive(Debug, Clone)]
pub(crate) struct CpuOptions {
    /// Arithmetic of weights that are not quantised in their file.
    pub dtype: DtypeChoice,
    /// The arithmetic's name for users.
    pub dtype_name: String,
    /// Bound on the KV memory, in tokens.
    pub kv_tokens: Option<usize>,
    pub threads: usize,
}

/// A decoder on the CPU.
#[derive(Debug)]
pub(crate) struct CpuDecoder {
    model: Model,
    store: PageStore,
    scratch: Scratch,
    threads: ThreadPool,
}

impl CpuDecoder {
    /// Loads the weights.
    pub fn load(config: DecoderConfig, source: &impl WeightSource, options: CpuOptions) -> Result<Paged<Self>> {
        let CpuOptions { dtype, dtype_name, kv_tokens, threads } = options;
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| EngineError::Request(format!("{threads} threads could not be started ({error})")))?;
        let spec = ModelSpec {
            architecture: config.architecture.clone(),
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            max_positions: config.max_positions,
            dtype: dtype_name,
            device: "cpu".to_owned(),
        };
        let store = PageStore::new(&config);
        let model = Model::load(config, source, dtype)?;
        Ok(Paged::new(spec, kv_tokens, Self { model, store, scratch: Scratch::default(), threads }))
    }
}

impl CpuDecoder {
    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        let Model { embedding, layers, head, .. } = &self.model;
        let layers = layers.iter().flat_map(|layer| {
            let Layer { query, key, value, output, gate, up, down, .. } = layer;
            [query, key, value, output, gate, up, down]
        });
        embedding.bytes() + layers.chain([head]).map(Linear::bytes).sum::<usize>()
    }
}

/// The rows of a step, `[T]`.
fn rows(ledger: &PageLedger, inputs: &[StepInput<'_>]) -> Vec<Row> {
    let rows = inputs.iter().enumerate().flat_map(|(index, input)| {
        let start = ledger.length(input.sequence);
        (0..input.tokens.len()).map(move |offset| Row {
            input: index,
            position: start + offset,
            wants_output: input.wants_output && offset + 1 == input.tokens.len(),
        })
    });
    rows.collect()
}

impl PagedModel for CpuDecoder {
    fn make_room(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], copies: &[PageCopy]) -> Result<()> {
        copies.iter().for_each(|&copy| self.store.copy(copy));
        inputs.iter().for_each(|input| self.store.provide(ledger.pages(input.sequence)));
        Ok(())
    }

    fn forward(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()> {
        let rows = rows(ledger, inputs);
        let tokens: Vec<u32> = inputs.iter().flat_map(|input| input.tokens).copied().collect();
        let pages: Vec<&[Page]> = inputs.iter().map(|input| ledger.pages(input.sequence)).collect();
        let is_small = rows.len() * self.model.products_per_token() < SERIAL_STEP;
        let (model, store, scratch) = (&self.model, &mut self.store, &mut self.scratch);
        let forward = || model.forward(&tokens, rows, &pages, store, scratch, output);
        if is_small || self.threads.current_num_threads() == 1 { forward() } else { self.threads.install(forward) }
    }

    fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        self.model.head.apply(&Inputs::new(v, v.len()), &mut logits)?;
        Ok(logits)
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.model.config.kv_entries_per_token() * size_of::<f32>()
    }
}

impl Model {
    fn load(config: DecoderConfig, source: &impl WeightSource, dtype: DtypeChoice) -> Result<Self> {
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let head = if config.tied_head { "model.embed_tokens" } else { "lm_head" };
        let head_shape = LinearShape { outputs: vocab, inputs: width, bias: false, dtype };
        Ok(Self {
            rotary: Rotary::new(&config),
            embedding: source.embedding(vocab, width)?,
            layers: (0..config.layers).map(|i| Layer::load(source, &config, dtype, i)).collect::<Result<_>>()?,
            final_norm: source.vector("model.norm.weight", width)?,
            head: source.linear(head, head_shape)?,
            config,
        })
    }

    /// Multiply-adds of the linear layers for one token.
    fn products_per_token(&self) -> usize {
        let config = &self.config;
        let attention = 2 * config.hidden_size * config.head_dim * (config.heads + config.kv_heads);
        config.layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    }

    fn forward(
        &self,
        tokens: &[u32],
        mut rows: Vec<Row>,
        pages: &[&[Page]],
        store: &mut PageStore,
        scratch: &mut Scratch,
        output: &mut StepOutput,
    ) -> Result<()> {
        output.hidden_post_norm.clear();
        output.logits.clear();
        self.embedding.look_up(tokens, self.config.hidden_size, &mut scratch.x)?;
        self.find_angles(&rows, scratch);
        for (index, layer) in self.layers.iter().enumerate() {
            self.project_heads(layer, scratch)?;
            write_pages(&rows, pages, index, store, scratch);
            if index + 1 == self.layers.len() {
                self.keep_output_rows(&mut rows, scratch);
                if rows.is_empty() {
                    return Ok(());
                }
            }
            self.attend(index, &rows, pages, store, scratch);
            let width = self.config.heads * self.config.head_dim;
            layer.output.apply(&Inputs::new(&scratch.attended, width), &mut scratch.out)?;
            add(&mut scratch.x, &scratch.out);
            self.mlp(layer, scratch)?;
        }
        output.hidden_post_norm.clone_from(&scratch.x);
        normalise(&mut output.hidden_post_norm, &self.final_norm, self.config.norm_epsilon);
        self.head.apply(&Inputs::new(&output.hidden_post_norm, self.config.hidden_size), &mut output.logits)
    }

    fn find_angles(&self, rows: &[Row], scratch: &mut Scratch) {
        let half = self.config.head_dim / 2;
        scratch.cos.resize(rows.len() * half, 0.0);
        scratch.sin.resize(rows.len() * half, 0.0);
        let angles = scratch.cos.chunks_exact_mut(half).zip(scratch.sin.chunks_exact_mut(half));
        for (row, (cos, sin)) in rows.iter().zip(angles) {
            self.rotary.angles(row.position, cos, sin);
        }
    }

    /// Queries (scaled for the softmax), keys and values of all rows.
    fn project_heads(&self, layer: &Layer, scratch: &mut Scratch) -> Result<()> {
        let epsilon = self.config.norm_epsilon;
        scratch.normed.clone_from(&scratch.x);
        normalise(&mut scratch.normed, &layer.attention_norm, epsilon);
        let inputs = Inputs::new(&scratch.normed, self.config.hidden_size);
        layer.query.apply(&inputs, &mut scratch.queries)?;
        layer.key.apply(&inputs, &mut scratch.keys)?;
        layer.value.apply(&inputs, &mut scratch.values)?;
        if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
            normalise(&mut scratch.queries, query_norm, epsilon);
            normalise(&mut scratch.keys, key_norm, epsilon);
        }
        self.turn(&mut scratch.queries, &scratch.cos, &scratch.sin);
        self.turn(&mut scratch.keys, &scratch.cos, &scratch.sin);
        let scale = 1.0 / (self.config.head_dim as f32).sqrt();
        scratch.queries.iter_mut().for_each(|q| *q *= scale);
        Ok(())
    }

    /// Turns all heads of all rows; `heads` is `[rows, heads, head_dim]`.
    fn turn(&self, heads: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = self.config.head_dim / 2;
        let rows = cos.len() / half;
        let row_width = heads.len() / rows;
        for (row, heads) in heads.chunks_exact_mut(row_width).enumerate() {
            let at = row * half..(row + 1) * half;
            for head in heads.chunks_exact_mut(2 * half) {
                self.rotary.turn(head, &cos[at.clone()], &sin[at.clone()]);
            }
        }
    }

    /// Past the last layer's keys and values only rows that want output matter.
    fn keep_output_rows(&self, rows: &mut Vec<Row>, scratch: &mut Scratch) {
        let wanted: Vec<bool> = rows.iter().map(|row| row.wants_output).collect();
        keep(&mut scratch.x, &wanted);
        keep(&mut scratch.queries, &wanted);
        rows.retain(|row| row.wants_output);
    }

    fn attend(&self, index: usize, rows: &[Row], pages: &[&[Page]], store: &PageStore, scratch: &mut Scratch) {
        let Scratch { attended, queries, .. } = scratch;
        let (head_dim, kv_heads) = (self.config.head_dim, self.config.kv_heads);
        let width = self.config.group() * head_dim;
        attended.resize(queries.len(), 0.0);
        let attend_one = |(item, (queries, out)): (usize, (&[f32], &mut [f32]))| {
            let (row, head) = (&rows[item / kv_heads], item % kv_heads);
            let end = row.position + 1;
            let first = self.layers[index].window.map_or(0, |window| end.saturating_sub(window));
            let group = HeadGroup { queries, head_dim, first, end };
            attend(&group, |page| store.head(pages[row.input][page], index, head), out);
        };
        if rayon::current_thread_index().is_some() {
            let items = queries.par_chunks_exact(width).zip(attended.par_chunks_exact_mut(width));
            items.enumerate().with_min_len(8).for_each(attend_one);
        } else {
            let items = queries.chunks_exact(width).zip(attended.chunks_exact_mut(width));
            items.enumerate().for_each(attend_one);
        }
    }

    fn mlp(&self, layer: &Layer, scratch: &mut Scratch) -> Result<()> {
        scratch.normed.clone_from(&scratch.x);
        normalise(&mut scratch.normed, &layer.mlp_norm, self.config.norm_epsilon);
        let inputs = Inputs::new(&scratch.normed, self.config.hidden_size);
        layer.gate.apply(&inputs, &mut scratch.gate)?;
        layer.up.apply(&inputs, &mut scratch.up)?;
        gate(&mut scratch.gate, &scratch.up);
        layer.down.apply(&Inputs::new(&scratch.gate, self.config.intermediate_size), &mut scratch.out)?;
        add(&mut scratch.x, &scratch.out);
        Ok(())
    }
}

fn write_pages(rows: &[Row], pages: &[&[Page]], layer: usize, store: &mut PageStore, scratch: &Scratch) {
    let width = scratch.keys.len() / rows.len();
    let tokens = scratch.keys.chunks_exact(width).zip(scratch.values.chunks_exact(width));
    for (row, (keys, values)) in rows.iter().zip(tokens) {
        let page = pages[row.input][row.position / PAGE_TOKENS];
        store.write(page, layer, row.position % PAGE_TOKENS, keys, values);
    }
}

/// Keeps the wanted rows of a matrix with `wanted.len()` rows.
fn keep(matrix: &mut Vec<f32>, wanted: &[bool]) {
    let width = matrix.len() / wanted.len();
    let mut kept = 0;
    for (row, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
        matrix.copy_within(row * width..(row + 1) * width, kept * width);
        kept += 1;
    }
    matrix.truncate(kept * width);
}
