//! The decoder on the CPU: f32 activations on slices, paged KV, f32 or quantised weights.
//!
//! In f32 every row is computed in an order that does not depend on the rest of the batch, so states and logits of a
//! sequence are the same bits alone, among others, and after its tokens were fed in other portions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::attention::{HeadGroup, attend};
use super::kernels::{add, gate, normalise};
use super::linear::{Inputs, Linear, Workers};
use super::paged::{Paged, PagedModel};
use super::pages::{PageStore, SequencePages, TakenPages};
use super::rope::Rotary;
use super::source::{EmbeddingTable, LinearShape, WeightSource};
use crate::config::DecoderConfig;
use crate::device::DtypeChoice;
use crate::engine::{ModelSpec, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::kv::{PAGE_TOKENS, PageCopy, PageLedger};

/// Multiply-adds of a step below which one thread does it all.
const SERIAL_STEP: usize = 1 << 21;

/// Bytes of weights up to which each thread takes sequences of its own through all layers: every thread then reads all
/// weights, which costs little where they stay in the last cache, and no thread waits for another within a step.
const CACHED_WEIGHTS: usize = 16 << 20;

/// The heaviest part of a step may exceed the even share by this, or all threads work on every product together.
const MOST_UNEVEN: f64 = 1.3;

/// How long a thread waits awake for the other parts of a step.
const PATIENCE: Duration = Duration::from_micros(100);

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
    /// Bound on the KV memory, in tokens.
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
    threads: ThreadPool,
    /// Steps that were begun in parts.
    steps: Arc<AtomicUsize>,
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
        Ok(Paged::new(
            spec,
            kv_tokens,
            Self {
                weight_bytes: model.weight_bytes(),
                model,
                store,
                workspaces: Vec::new(),
                threads,
                steps: Arc::default(),
            },
        ))
    }
}

/// The rows of some inputs, `[T]`.
fn rows(ledger: &PageLedger, inputs: &[StepInput<'_>]) -> Vec<Row> {
    let rows = inputs.iter().enumerate().flat_map(|(sequence, input)| {
        let start = ledger.length(input.sequence);
        (0..input.tokens.len()).map(move |offset| Row {
            sequence,
            position: start + offset,
            wants_output: input.wants_output && offset + 1 == input.tokens.len(),
        })
    });
    rows.collect()
}

/// Cuts numbers into `count` runs with sums as even as their order allows; the lengths of the runs.
fn even_runs(costs: &[f64], count: usize) -> Vec<usize> {
    let total: f64 = costs.iter().sum();
    let (mut lengths, mut run, mut sum) = (Vec::new(), 0, 0.0);
    for &cost in costs {
        // A run ends where its end would be less even with this number than without it.
        let goal = total * (lengths.len() + 1) as f64 / count as f64;
        if run > 0 && lengths.len() + 1 < count && sum + cost / 2.0 > goal {
            lengths.push(std::mem::take(&mut run));
        }
        run += 1;
        sum += cost;
    }
    lengths.push(run);
    lengths
}

/// Computes each part on a thread of its own, the first on the calling one.
fn side_by_side(
    threads: &ThreadPool,
    model: &Model,
    parts: &mut [Part<'_>],
    workspaces: &mut [Workspace],
) -> Result<()> {
    let mut results: Vec<Result<()>> = parts.iter().map(|_| Ok(())).collect();
    let working = AtomicUsize::new(parts.len());
    threads.in_place_scope(|scope| {
        let mut jobs = parts.iter_mut().zip(workspaces).zip(&mut results).map(|((part, workspace), result)| {
            let working = &working;
            move || {
                *result = model.forward(part, workspace);
                working.fetch_sub(1, Ordering::Release);
            }
        });
        let own = jobs.next();
        jobs.for_each(|mut job| scope.spawn(move |_| job()));
        own.into_iter().for_each(|mut job| job());
        // Parts end at nearly the same time; to sleep and be woken would take longer than to wait for the others.
        let start = Instant::now();
        while working.load(Ordering::Acquire) > 0 && start.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
    });
    results.into_iter().collect()
}

impl CpuDecoder {
    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Keeps the threads of the pool awake until the next step, if it comes soon: they would have to be woken for it.
    fn stay_awake(&self) {
        let step = self.steps.load(Ordering::Acquire);
        for _ in 1..self.threads.current_num_threads() {
            let steps = Arc::clone(&self.steps);
            self.threads.spawn(move || {
                let start = Instant::now();
                while steps.load(Ordering::Acquire) == step && start.elapsed() < PATIENCE {
                    std::hint::spin_loop();
                }
            });
        }
    }

    /// Bytes of weights that a step reads.
    pub fn step_bytes(&self) -> usize {
        self.weight_bytes - self.model.embedding.bytes()
    }

    /// Whether the weights may stay in the processor's last cache.
    pub fn is_cached(&self) -> bool {
        self.weight_bytes <= CACHED_WEIGHTS
    }

    /// How many inputs each part of a step takes, and who computes a part.
    fn cut(&self, ledger: &PageLedger, inputs: &[StepInput<'_>]) -> (Vec<usize>, Workers) {
        let threads = self.threads.current_num_threads();
        let costs: Vec<f64> =
            inputs.iter().map(|input| self.model.cost(ledger.length(input.sequence), input)).collect();
        let total: f64 = costs.iter().sum();
        if threads == 1 || total < SERIAL_STEP as f64 {
            return (vec![inputs.len()], Workers::One);
        }
        if self.is_cached() {
            let lengths = even_runs(&costs, threads);
            let mut rest = costs.as_slice();
            let sums = lengths
                .iter()
                .map(|&length| rest.split_off(..length).expect("the lengths are of these costs").iter().sum::<f64>());
            let heaviest = sums.fold(0.0, f64::max);
            if heaviest * threads as f64 <= total * MOST_UNEVEN {
                return (lengths, Workers::One);
            }
        }
        (vec![inputs.len()], Workers::All)
    }
}

impl PagedModel for CpuDecoder {
    fn make_room(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], copies: &[PageCopy]) -> Result<()> {
        copies.iter().for_each(|&copy| self.store.copy(copy));
        inputs.iter().for_each(|input| self.store.provide(ledger.pages(input.sequence)));
        Ok(())
    }

    fn forward(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()> {
        let (lengths, workers) = self.cut(ledger, inputs);
        let pages_of = |input: &StepInput<'_>| ledger.pages(input.sequence);
        let take = |input| self.store.take(pages_of(input), ledger.length(input.sequence) / PAGE_TOKENS);
        let mut taken = inputs.iter().map(take).collect::<Vec<TakenPages>>().into_iter();
        let mut rest = inputs;
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(lengths.len());
        for length in lengths {
            let inputs = rest.split_off(..length).expect("the parts are of these inputs");
            let sequences = inputs.iter().zip(&mut taken);
            let sequences =
                sequences.map(|(input, taken)| SequencePages { store: &self.store, pages: pages_of(input), taken });
            parts.push(Part {
                tokens: inputs.iter().flat_map(|input| input.tokens).copied().collect(),
                rows: rows(ledger, inputs),
                sequences: sequences.collect(),
                workers,
            });
        }
        self.workspaces.resize_with(parts.len().max(self.workspaces.len()), Workspace::default);
        let (model, workspaces) = (&self.model, &mut self.workspaces[..parts.len()]);
        let result = match (&mut parts[..], workers) {
            ([part], Workers::One) => model.forward(part, &mut workspaces[0]),
            ([part], Workers::All) => self.threads.install(|| model.forward(part, &mut workspaces[0])),
            (parts, _) => {
                self.steps.fetch_add(1, Ordering::Release);
                let result = side_by_side(&self.threads, model, parts, workspaces);
                self.stay_awake();
                result
            }
        };
        let count = parts.len();
        let taken: Vec<TakenPages> = parts.into_iter().flat_map(|part| part.sequences).map(|it| it.taken).collect();
        inputs.iter().zip(taken).for_each(|(input, taken)| self.store.put_back(pages_of(input), taken));
        let (first, others) = self.workspaces[..count].split_first_mut().expect("a step has at least one part");
        std::mem::swap(output, &mut first.output);
        for Workspace { output: part, .. } in others {
            output.hidden_post_norm.extend_from_slice(&part.hidden_post_norm);
            output.logits.extend_from_slice(&part.logits);
        }
        result
    }

    fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        self.model.head.apply(&Inputs::new(v, v.len(), Workers::One), &mut logits)?;
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

    fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            let Layer { query, key, value, output, gate, up, down, .. } = layer;
            [query, key, value, output, gate, up, down]
        });
        self.embedding.bytes() + layers.chain([&self.head]).map(Linear::bytes).sum::<usize>()
    }

    /// Multiply-adds of the linear layers for one token.
    fn products_per_token(&self) -> usize {
        let config = &self.config;
        let attention = 2 * config.hidden_size * config.head_dim * (config.heads + config.kv_heads);
        config.layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    }

    /// Multiply-adds of an input of a sequence of so many tokens.
    fn cost(&self, length: usize, input: &StepInput<'_>) -> f64 {
        let (config, tokens) = (&self.config, input.tokens.len());
        let attention = 2 * config.layers * config.heads * config.head_dim * (length + tokens);
        (tokens * (self.products_per_token() + attention)) as f64
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
        let width = self.config.group() * head_dim;
        attended.resize(queries.len(), 0.0);
        let attend_one = |(item, (queries, out)): (usize, (&[f32], &mut [f32]))| {
            let (row, head) = (&rows[item / kv_heads], item % kv_heads);
            let end = row.position + 1;
            let first = self.layers[index].window.map_or(0, |window| end.saturating_sub(window));
            let group = HeadGroup { queries, head_dim, first, end };
            attend(&group, |page| sequences[row.sequence].head(page, index, head), out);
        };
        match part.workers {
            Workers::All => {
                let items = queries.par_chunks_exact(width).zip(attended.par_chunks_exact_mut(width));
                items.enumerate().with_min_len(8).for_each(attend_one);
            }
            Workers::One => {
                // Head by head, so that rows that share pages find them in the cache.
                for head in 0..kv_heads {
                    for item in (head..rows.len() * kv_heads).step_by(kv_heads) {
                        let at = item * width..(item + 1) * width;
                        attend_one((item, (&queries[at.clone()], &mut attended[at])));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_even_as_their_order_allows() {
        assert_eq!(even_runs(&[1.0; 8], 2), [4, 4]);
        assert_eq!(even_runs(&[1.0; 7], 2).iter().sum::<usize>(), 7);
        assert_eq!(even_runs(&[5.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2), [1, 5]);
        assert_eq!(even_runs(&[1.0, 1.0, 10.0], 2), [2, 1]);
        assert_eq!(even_runs(&[1.0], 4), [1]);
        assert_eq!(even_runs(&[1.0; 12], 3), [4, 4, 4]);
    }
}
