//! The decoder on the CPU: f32 activations on slices, paged KV, f32 or quantised weights.
//!
//! In f32 every row is computed in an order that does not depend on the rest of the batch, so states and logits of a
//! sequence are the same bits alone, among others, and after its tokens were fed in other portions.

use std::ops::Range;

use candle_core::Device;
use rayon::prelude::*;

use super::attention::{Query, attend};
use super::crew::Crew;
use super::division::{Work, divide};
use super::kernels::{add, gate, normalise};
use super::linear::{Inputs, Linear, Workers};
use super::paged::{Paged, PagedModel};
use super::pages::{PageStore, SequencePages};
use super::rope::Rotary;
use super::source::{EmbeddingTable, LinearShape, WeightSource};
use crate::config::DecoderConfig;
use crate::device::{DtypeChoice, fitting_tokens};
use crate::engine::{ModelSpec, StepInput, StepOutput};
use crate::error::Result;
use crate::kv::{PAGE_TOKENS, PageCopy, PageLedger};

/// Bytes of weights up to which each thread takes sequences of its own through all layers: every thread then reads all
/// weights, which costs little where they stay in the last cache, and no thread waits for another within a step.
const CACHED_WEIGHTS: usize = 16 << 20;

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

/// One token of a step.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Index of its sequence among the part's sequences.
    sequence: usize,
    position: usize,
    wants_output: bool,
}

/// Sequences that go through all layers together.
struct Part<'a> {
    tokens: Vec<u32>,
    rows: Vec<Row>,
    sequences: Vec<SequencePages<'a>>,
    workers: Workers,
}

/// What a part is computed in and into, kept between steps for its memory.
#[derive(Debug, Default)]
struct Workspace {
    scratch: Scratch,
    output: StepOutput,
}

/// Activations of a part.
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
    /// Bound on the KV memory, in tokens; `None`: by the memory that is free once the weights are loaded.
    pub kv_tokens: Option<usize>,
    pub threads: usize,
}

/// A decoder on the CPU.
#[derive(Debug)]
pub(crate) struct CpuDecoder {
    model: Model,
    weight_bytes: usize,
    store: PageStore,
    /// One for each part of a step.
    workspaces: Vec<Workspace>,
    crew: Crew,
}

impl CpuDecoder {
    /// Loads the weights.
    pub fn load(config: DecoderConfig, source: &impl WeightSource, options: CpuOptions) -> Result<Paged<Self>> {
        let CpuOptions { dtype, dtype_name, kv_tokens, threads } = options;
        let crew = Crew::new(threads)?;
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
        let model = Self { weight_bytes: model.weight_bytes(), model, store, workspaces: Vec::new(), crew };
        let fitting = || fitting_tokens(&Device::Cpu, model.kv_bytes_per_token());
        Ok(Paged::new(spec, kv_tokens.or_else(fitting), model))
    }
}

/// The rows of some inputs, `[T]`.
fn rows(ledger: &PageLedger, inputs: &[&StepInput<'_>]) -> Vec<Row> {
    let rows = inputs.iter().enumerate().flat_map(|(sequence, input)| {
        let start = ledger.length(input.sequence);
        (0..input.tokens.len()).map(move |offset| Row {
            sequence,
            position: start + offset,
            wants_output: offset + input.outputs >= input.tokens.len(),
        })
    });
    rows.collect()
}

impl CpuDecoder {
    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Whether the weights may stay in the processor's last cache.
    pub fn is_cached(&self) -> bool {
        self.weight_bytes <= CACHED_WEIGHTS
    }

    /// Puts the rows of the parts, whose inputs are at these places, into the order of the inputs.
    fn join(&self, inputs: &[StepInput<'_>], places: &[Vec<usize>], output: &mut StepOutput) {
        let rows_of = |place: usize| {
            let first = inputs[..place].iter().map(|input| input.outputs).sum::<usize>();
            first..first + inputs[place].outputs
        };
        let (d, v) = (self.model.config.hidden_size, self.model.config.vocab_size);
        let rows = inputs.iter().map(|input| input.outputs).sum::<usize>();
        output.hidden_post_norm.resize(rows * d, 0.0);
        output.logits.resize(rows * v, 0.0);
        for (places, Workspace { output: part, .. }) in places.iter().zip(&self.workspaces) {
            let rows = places.iter().copied().flat_map(rows_of);
            for ((row, state), logits) in
                rows.zip(part.hidden_post_norm.chunks_exact(d)).zip(part.logits.chunks_exact(v))
            {
                output.hidden_post_norm[row * d..(row + 1) * d].copy_from_slice(state);
                output.logits[row * v..(row + 1) * v].copy_from_slice(logits);
            }
        }
    }

    /// See [`divide`].
    fn cut(&self, ledger: &PageLedger, inputs: &[StepInput<'_>]) -> (Vec<Vec<usize>>, Workers) {
        let work = |input: &StepInput<'_>| self.model.work(ledger.length(input.sequence), input);
        let work: Vec<Work> = inputs.iter().map(work).collect();
        divide(&work, self.crew.threads(), self.is_cached())
    }
}

impl PagedModel for CpuDecoder {
    fn make_room(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], copies: &[PageCopy]) -> Result<()> {
        copies.iter().try_for_each(|&copy| self.store.copy(copy))?;
        inputs.iter().try_for_each(|input| self.store.provide(ledger.pages(input.sequence)))
    }

    fn forward(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()> {
        let (places, workers) = self.cut(ledger, inputs);
        let pages_of = |input: &StepInput<'_>| ledger.pages(input.sequence);
        let mut pages = self.store.pages();
        let written = |input| Some(pages.written(pages_of(input), ledger.length(input.sequence) / PAGE_TOKENS));
        let mut written: Vec<_> = inputs.iter().map(written).collect();
        let shared = pages.shared();
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(places.len());
        for places in &places {
            let inputs: Vec<&StepInput<'_>> = places.iter().map(|&place| &inputs[place]).collect();
            let written = places.iter().map(|&place| written[place].take().expect("each input is in one part"));
            let sequences = inputs.iter().zip(written);
            let sequences =
                sequences.map(|(input, written)| SequencePages { shared: &shared, pages: pages_of(input), written });
            parts.push(Part {
                tokens: inputs.iter().flat_map(|input| input.tokens).copied().collect(),
                rows: rows(ledger, &inputs),
                sequences: sequences.collect(),
                workers,
            });
        }
        self.workspaces.resize_with(parts.len().max(self.workspaces.len()), Workspace::default);
        let (model, workspaces) = (&self.model, &mut self.workspaces[..parts.len()]);
        let result = match (&mut parts[..], workers) {
            ([part], Workers::One) => model.forward(part, &mut workspaces[0]),
            ([part], Workers::All) => self.crew.install(|| model.forward(part, &mut workspaces[0])),
            (parts, _) => {
                let mut results: Vec<Result<()>> = parts.iter().map(|_| Ok(())).collect();
                let jobs = parts.iter_mut().zip(workspaces).zip(&mut results);
                self.crew
                    .work(jobs.map(|((part, workspace), result)| move || *result = model.forward(part, workspace)));
                results.into_iter().collect()
            }
        };
        result?;
        if let [workspace] = &mut self.workspaces[..places.len()] {
            std::mem::swap(output, &mut workspace.output);
        } else {
            self.join(inputs, &places, output);
        }
        Ok(())
    }

    fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        self.model.head.apply(&Inputs::new(v, v.len(), Workers::One), &mut logits)?;
        Ok(logits)
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.model.config.kv_entries_per_token() * size_of::<f32>()
    }

    fn step_bytes(&self) -> usize {
        self.weight_bytes - self.model.embedding.bytes()
    }

    fn threads_awake(&self) -> usize {
        if self.crew.is_awake() { self.crew.threads() } else { 1 }
    }

    fn side_by_side(&self, jobs: &mut [&mut (dyn FnMut() + Send)]) {
        self.crew.work(jobs.iter_mut());
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

    fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            let Layer { query, key, value, output, gate, up, down, .. } = layer;
            [query, key, value, output, gate, up, down]
        });
        self.embedding.bytes() + layers.chain([&self.head]).map(Linear::bytes).sum::<usize>()
    }

    /// What an input takes that follows `length` other tokens.
    fn work(&self, length: usize, input: &StepInput<'_>) -> Work {
        let (config, tokens) = (&self.config, input.tokens.len());
        let (d, seen) = (config.hidden_size, length + tokens);
        let projections = 2 * d * config.head_dim * (config.heads + config.kv_heads);
        let attention = 2 * config.heads * config.head_dim * seen;
        let layer = projections + attention + 3 * d * config.intermediate_size;
        Work {
            multiply_adds: (tokens * config.layers * layer + input.outputs * d * config.vocab_size) as f64,
            numbers_read: (config.kv_entries_per_token() * seen) as f64,
        }
    }

    fn forward(&self, part: &mut Part<'_>, workspace: &mut Workspace) -> Result<()> {
        let (Workspace { scratch, output }, workers) = (workspace, part.workers);
        output.hidden_post_norm.clear();
        output.logits.clear();
        self.embedding.look_up(&part.tokens, self.config.hidden_size, &mut scratch.x)?;
        self.find_angles(&part.rows, scratch);
        for (index, layer) in self.layers.iter().enumerate() {
            self.project_heads(layer, scratch, workers)?;
            part.write_pages(index, scratch);
            if index + 1 == self.layers.len() {
                self.keep_output_rows(&mut part.rows, scratch);
                if part.rows.is_empty() {
                    return Ok(());
                }
            }
            self.attend(index, part, scratch);
            let width = self.config.heads * self.config.head_dim;
            layer.output.apply(&Inputs::new(&scratch.attended, width, workers), &mut scratch.out)?;
            add(&mut scratch.x, &scratch.out);
            self.mlp(layer, scratch, workers)?;
        }
        output.hidden_post_norm.clone_from(&scratch.x);
        normalise(&mut output.hidden_post_norm, &self.final_norm, self.config.norm_epsilon);
        let inputs = Inputs::new(&output.hidden_post_norm, self.config.hidden_size, workers);
        self.head.apply(&inputs, &mut output.logits)
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
    fn project_heads(&self, layer: &Layer, scratch: &mut Scratch, workers: Workers) -> Result<()> {
        let epsilon = self.config.norm_epsilon;
        scratch.normed.clone_from(&scratch.x);
        normalise(&mut scratch.normed, &layer.attention_norm, epsilon);
        let inputs = Inputs::new(&scratch.normed, self.config.hidden_size, workers);
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

    fn attend(&self, index: usize, part: &Part<'_>, scratch: &mut Scratch) {
        let (Scratch { attended, queries, .. }, Part { rows, sequences, .. }) = (scratch, part);
        let (head_dim, kv_heads) = (self.config.head_dim, self.config.kv_heads);
        let (group, window) = (self.config.group(), self.layers[index].window);
        let width = group * head_dim;
        attended.resize(queries.len(), 0.0);
        let seen = |row: &Row| window.map_or(0, |window| (row.position + 1).saturating_sub(window))..row.position + 1;
        match part.workers {
            Workers::All => {
                let items = queries.par_chunks_exact(width).zip(attended.par_chunks_exact_mut(width));
                items.enumerate().with_min_len(8).for_each(|(place, item)| {
                    let (row, head) = (&rows[place / kv_heads], place % kv_heads);
                    let mut queries: Vec<Query<'_>> = heads(head_dim, seen(row), item).collect();
                    attend(&mut queries, |page| sequences[row.sequence].head(page, index, head));
                });
            }
            Workers::One => {
                // Head by head, so that rows that share pages find them in the cache.
                for head in 0..kv_heads {
                    let items = queries.chunks_exact(width).zip(attended.chunks_exact_mut(width));
                    let of_head = rows.iter().zip(items.skip(head).step_by(kv_heads));
                    let mut queries: Vec<Query<'_>> =
                        of_head.flat_map(|(row, item)| heads(head_dim, seen(row), item)).collect();
                    let mut rest = &mut queries[..];
                    for rows in rows.chunk_by(|a, b| a.sequence == b.sequence) {
                        let queries =
                            rest.split_off_mut(..rows.len() * group).expect("each row has a group of queries");
                        attend(queries, |page| sequences[rows[0].sequence].head(page, index, head));
                    }
                }
            }
        }
    }

    fn mlp(&self, layer: &Layer, scratch: &mut Scratch, workers: Workers) -> Result<()> {
        scratch.normed.clone_from(&scratch.x);
        normalise(&mut scratch.normed, &layer.mlp_norm, self.config.norm_epsilon);
        let inputs = Inputs::new(&scratch.normed, self.config.hidden_size, workers);
        layer.gate.apply(&inputs, &mut scratch.gate)?;
        layer.up.apply(&inputs, &mut scratch.up)?;
        gate(&mut scratch.gate, &scratch.up);
        let inputs = Inputs::new(&scratch.gate, self.config.intermediate_size, workers);
        layer.down.apply(&inputs, &mut scratch.out)?;
        add(&mut scratch.x, &scratch.out);
        Ok(())
    }
}

impl Part<'_> {
    /// Writes the keys and values of all rows.
    fn write_pages(&mut self, layer: usize, scratch: &Scratch) {
        let width = scratch.keys.len() / self.rows.len();
        let tokens = scratch.keys.chunks_exact(width).zip(scratch.values.chunks_exact(width));
        for (row, (keys, values)) in self.rows.iter().zip(tokens) {
            self.sequences[row.sequence].write(row.position, layer, keys, values);
        }
    }
}

/// The queries of a row that share a key/value head, and their results: `[group, head_dim]` each.
fn heads<'a>(
    head_dim: usize,
    seen: Range<usize>,
    (queries, out): (&'a [f32], &'a mut [f32]),
) -> impl Iterator<Item = Query<'a>> {
    let heads = queries.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
    heads.map(move |(query, out)| Query { query, out, seen: seen.clone() })
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
