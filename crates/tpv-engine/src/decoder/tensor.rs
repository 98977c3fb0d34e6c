//! The decoder in tensor operations, for GPUs: everything stays on the device but tokens in and rows out.
//!
//! At small batches a step takes as long as its kernels take to start, so what can run as one kernel does: query, key and
//! value are one product, as are gate and up, and one rotation turns and scales all heads (see [`Plan`]). Keys and values of
//! a layer are one tensor [2 * kv_heads, rows, head_dim] of pages, keys first, written and read at once. Sequences that
//! add one token attend together over gathered rows, padded to the longest; sequences that add more attend one by one. A
//! sequence that attends alone and whose pages follow each other is read where it lies.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim, swiglu};
use candle_nn::rotary_emb::rope_thd;

use super::paged::{Paged, PagedModel};
use super::rope::Rotary;
use super::source::WeightSource;
use crate::config::{DecoderConfig, RopePairing};
use crate::device::{device_name, fitting_tokens, keep_shapes};
use crate::engine::{ModelSpec, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::kv::{PAGE_TOKENS, Page, PageCopy, PageLedger};

/// Positions up to which steps of single tokens keep their shapes on the device: there are two for each number of sequences
/// and of pages.
const KEPT_SHAPES_POSITIONS: usize = 8192;

/// `x W^T + b`.
#[derive(Debug)]
struct Projection {
    /// A view `[inputs, outputs]` of `[outputs, inputs]`.
    weights: Tensor,
    bias: Option<Tensor>,
}

impl Projection {
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = x.matmul(&self.weights)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Puts weights on the device.
struct Loader<'a, S> {
    source: &'a S,
    config: &'a DecoderConfig,
    device: &'a Device,
    dtype: DType,
}

impl<S: WeightSource> Loader<'_, S> {
    fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Tensor> {
        self.tensor(self.source.vector(name, width)?, &[width])
    }

    /// Projections of the same inputs, `(name, outputs)` each, as one.
    fn projections(&self, parts: &[(String, usize)], inputs: usize, bias: bool) -> Result<Projection> {
        let load = |suffix: &str, row: &[usize]| {
            let part = |(name, outputs): &(String, usize)| {
                let shape = [&[*outputs], row].concat();
                let mut values = self.source.floats(&format!("{name}.{suffix}"), &shape)?;
                if self.config.rope.pairing == RopePairing::Neighbours && is_turned(name) {
                    values = part_neighbours(&values, self.config.head_dim, values.len() / outputs);
                }
                Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?)
            };
            let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
            Ok::<_, EngineError>(Tensor::cat(&parts, 0)?.to_device(self.device)?)
        };
        let bias = bias.then(|| load("bias", &[])).transpose()?;
        Ok(Projection { weights: load("weight", &[inputs])?.t()?, bias })
    }
}

/// Whether a projection's heads are turned by the rotary embedding.
fn is_turned(name: &str) -> bool {
    name.ends_with("q_proj") || name.ends_with("k_proj")
}

/// Reorders the rows of every head from pairs (2i, 2i + 1) to pairs (i, i + half); rows are `width` long.
fn part_neighbours(rows: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let heads = rows.chunks_exact(head_dim * width);
    let reordered = heads.flat_map(|head| {
        (0..head_dim).flat_map(move |row| {
            let from = 2 * (row % half) + row / half;
            &head[from * width..(from + 1) * width]
        })
    });
    reordered.copied().collect()
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    /// Heads of the queries, then of the keys, then of the values.
    query_key_value: Projection,
    /// Weights of the norms of queries and keys, `[heads + kv_heads, head_dim]`.
    head_norms: Option<Tensor>,
    output: Projection,
    mlp_norm: Tensor,
    gate_up: Projection,
    down: Projection,
    window: Option<usize>,
}

impl Layer {
    fn load<S: WeightSource>(loader: &Loader<'_, S>, index: usize) -> Result<Self> {
        let config = loader.config;
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (d, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q_width, kv_width) = (config.heads * head_dim, config.kv_heads * head_dim);
        let projections = |parts: &[(&str, usize)], inputs, bias| {
            let parts: Vec<_> = parts.iter().map(|&(part, outputs)| (name(part), outputs)).collect();
            loader.projections(&parts, inputs, bias)
        };
        let query_key_value =
            [("self_attn.q_proj", q_width), ("self_attn.k_proj", kv_width), ("self_attn.v_proj", kv_width)];
        let head_norm = |part: &str, heads: usize| {
            Ok::<_, EngineError>(loader.norm(&name(part), head_dim)?.broadcast_as((heads, head_dim))?)
        };
        let head_norms = config.qk_norm.then(|| {
            let queries = head_norm("self_attn.q_norm.weight", config.heads)?;
            let keys = head_norm("self_attn.k_norm.weight", config.kv_heads)?;
            Ok::<_, EngineError>(Tensor::cat(&[queries, keys], 0)?)
        });
        Ok(Self {
            attention_norm: loader.norm(&name("input_layernorm.weight"), d)?,
            query_key_value: projections(&query_key_value, d, config.qkv_bias)?,
            head_norms: head_norms.transpose()?,
            output: projections(&[("self_attn.o_proj", d)], q_width, config.output_bias)?,
            mlp_norm: loader.norm(&name("post_attention_layernorm.weight"), d)?,
            gate_up: projections(&[("mlp.gate_proj", inner), ("mlp.up_proj", inner)], d, config.mlp_bias)?,
            down: projections(&[("mlp.down_proj", d)], inner, config.mlp_bias)?,
            window: config.windows[index],
        })
    }
}

/// Keys and values of all layers, grown by doubling up to their bound.
#[derive(Debug)]
struct TensorPages {
    /// For each layer keys, then values, [2 * kv_heads, rows, head_dim].
    layers: Vec<Tensor>,
    rows: usize,
    /// Most rows that will ever be asked for.
    most_rows: usize,
}

impl TensorPages {
    fn new(config: &DecoderConfig, device: &Device, dtype: DType, kv_tokens: Option<usize>) -> Result<Self> {
        let empty = |_| Tensor::zeros((2 * config.kv_heads, PAGE_TOKENS, config.head_dim), dtype, device);
        let layers = (0..config.layers).map(empty).collect::<candle_core::Result<_>>()?;
        let most_rows = kv_tokens.map_or(usize::MAX, |tokens| tokens.next_multiple_of(PAGE_TOKENS));
        Ok(Self { layers, rows: PAGE_TOKENS, most_rows })
    }

    fn provide(&mut self, rows: usize) -> Result<()> {
        if rows <= self.rows {
            return Ok(());
        }
        let rows = rows.next_power_of_two().min(self.most_rows.max(rows));
        for tensor in &mut self.layers {
            let (heads, _, width) = tensor.dims3()?;
            let larger = Tensor::zeros((heads, rows, width), tensor.dtype(), tensor.device())?;
            larger.slice_set(tensor, 1, 0)?;
            *tensor = larger;
        }
        self.rows = rows;
        Ok(())
    }

    fn copy(&self, copy: PageCopy) -> Result<()> {
        for tensor in &self.layers {
            let page = tensor.narrow(1, copy.from * PAGE_TOKENS, PAGE_TOKENS)?.copy()?;
            tensor.slice_set(&page.contiguous()?, 1, copy.to * PAGE_TOKENS)?;
        }
        Ok(())
    }
}

/// Where the keys and values of a group lie in the pool.
#[derive(Debug)]
enum Seen {
    /// One sequence whose rows follow each other from here on: they are read where they are.
    InPlace(usize),
    /// Rows of all sequences, [sequences * seen], which are brought together.
    Gathered(Tensor),
}

/// Rows of a step that attend together: `[sequences, tokens]` rows over `seen` positions each.
#[derive(Debug)]
struct Group {
    /// First row of the step.
    start: usize,
    sequences: usize,
    tokens: usize,
    seen: usize,
    rows: Seen,
    /// For each distinct window 0 or -inf, `[1, sequences, tokens, seen]`; `None` where every row sees every position.
    masks: Vec<(Option<usize>, Option<Tensor>)>,
}

impl Group {
    /// `members` are (pages, tokens held before the step).
    fn new(
        start: usize,
        tokens: usize,
        members: &[(&[Page], usize)],
        windows: &[Option<usize>],
        device: &Device,
    ) -> Result<Self> {
        let longest = members.iter().map(|(_, length)| length + tokens).max().unwrap_or(0);
        let (rows, seen) = match members {
            [(pages, _)] if pages.is_sorted_by(|a, b| a + 1 == *b) => (Seen::InPlace(pages[0] * PAGE_TOKENS), longest),
            _ => {
                let seen = longest.next_multiple_of(PAGE_TOKENS);
                let rows: Vec<u32> = members.iter().flat_map(|member| pool_rows(*member, tokens, seen)).collect();
                (Seen::Gathered(Tensor::new(rows, device)?), seen)
            }
        };
        let mut kinds = windows.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        let lengths: Vec<usize> = members.iter().map(|(_, length)| *length).collect();
        let mask = |window: Option<usize>| -> Result<Option<Tensor>> {
            let mask = mask(&lengths, tokens, seen, window);
            let hides = mask.iter().any(|&hidden| hidden != 0.0);
            Ok(if hides { Some(Tensor::from_vec(mask, (1, members.len(), tokens, seen), device)?) } else { None })
        };
        let masks = kinds.into_iter().map(|window| Ok((window, mask(window)?))).collect::<Result<_>>()?;
        Ok(Self { start, sequences: members.len(), tokens, seen, rows, masks })
    }

    /// Whether the shapes that its kernels are told come again: those that are padded do, and those without a mask are not
    /// told of positions.
    fn has_shapes_that_come_again(&self) -> bool {
        let padded = matches!(self.rows, Seen::Gathered(_)) || self.masks.iter().all(|(_, mask)| mask.is_none());
        self.tokens == 1 && padded && self.seen <= KEPT_SHAPES_POSITIONS
    }

    fn mask(&self, window: Option<usize>) -> Result<Option<&Tensor>> {
        let found = self.masks.iter().find(|(known, _)| *known == window);
        found.map(|(_, mask)| mask.as_ref()).ok_or_else(|| EngineError::Request("a layer without a mask".to_owned()))
    }

    /// Keys, then values, [2 * kv_heads, sequences, seen, head_dim].
    fn read(&self, pool: &Tensor) -> Result<Tensor> {
        match &self.rows {
            Seen::InPlace(first) => Ok(pool.narrow(1, *first, self.seen)?.unsqueeze(1)?),
            Seen::Gathered(rows) => {
                let (heads, _, width) = pool.dims3()?;
                Ok(pool.index_select(rows, 1)?.reshape((heads, self.sequences, self.seen, width))?)
            }
        }
    }
}

/// The pool rows of a sequence's positions. Behind its end it reads its own last row again: what is masked there must be a
/// number, and what others left in the pool need not be.
fn pool_rows((pages, length): (&[Page], usize), tokens: usize, seen: usize) -> impl Iterator<Item = u32> {
    let positions = (0..seen).map(move |position| position.min(length + tokens - 1));
    positions.map(|position| (pages[position / PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS) as u32)
}

/// 0 where a row sees a position, else -inf, `[sequences, tokens, seen]`.
fn mask(lengths: &[usize], tokens: usize, seen: usize, window: Option<usize>) -> Vec<f32> {
    let rows = lengths.iter().flat_map(|length| (0..tokens).map(move |token| length + token + 1));
    let row = |end: usize| {
        let first = window.map_or(0, |window| end.saturating_sub(window));
        (0..seen).map(move |position| if (first..end).contains(&position) { 0.0 } else { f32::NEG_INFINITY })
    };
    rows.flat_map(row).collect()
}

/// Everything about a step that its layers share.
///
/// The angles are those of each row's heads, so that one rotation does for queries, keys and values: queries are scaled by
/// `1 / sqrt(head_dim)` on the way, values stay as they are.
#[derive(Debug)]
struct Plan {
    tokens: Tensor,
    /// `[T * (heads + 2 * kv_heads), head_dim / 2]`
    cos: Tensor,
    sin: Tensor,
    /// Consecutive rows of the step that go to consecutive pool rows: (step row, pool row, count).
    runs: Vec<(usize, usize, usize)>,
    /// Pool row of every step row.
    targets: Vec<u32>,
    groups: Vec<Group>,
    /// Rows that want output, in input order; `None` where there are none. On the device beforehand, since a copy from the
    /// host waits for all that was started.
    wanted: Option<Tensor>,
}

/// A decoder in tensor operations.
#[derive(Debug)]
pub(crate) struct TensorDecoder {
    config: DecoderConfig,
    rotary: Rotary,
    device: Device,
    dtype: DType,
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: Tensor,
    head: Projection,
    /// For each head of a row whether it is a query (0), a key (1) or a value (2).
    head_kinds: Tensor,
    /// The weights of a norm that has none, `[head_dim]`.
    head_ones: Tensor,
    pages: TensorPages,
}

impl TensorDecoder {
    /// Loads the weights onto the device.
    pub fn load(
        config: DecoderConfig,
        source: &impl WeightSource,
        device: Device,
        dtype: DType,
        kv_tokens: Option<usize>,
    ) -> Result<Paged<Self>> {
        let loader = Loader { source, config: &config, device: &device, dtype };
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let table = loader.source.floats("model.embed_tokens.weight", &[vocab, width])?;
        let embedding = loader.tensor(table, &[vocab, width])?;
        let head = if config.tied_head {
            Projection { weights: embedding.t()?, bias: None }
        } else {
            loader.projections(&[("lm_head".to_owned(), vocab)], width, false)?
        };
        let layers = (0..config.layers).map(|index| Layer::load(&loader, index)).collect::<Result<_>>()?;
        let final_norm = loader.norm("model.norm.weight", width)?;
        let spec = ModelSpec {
            architecture: config.architecture.clone(),
            hidden_size: width,
            vocab_size: vocab,
            max_positions: config.max_positions,
            dtype: dtype.as_str().to_owned(),
            device: device_name(&device),
        };
        let rotary = Rotary::new(&config);
        let bytes_per_token = config.kv_entries_per_token() * dtype.size_in_bytes();
        let kv_tokens = kv_tokens.or_else(|| fitting_tokens(&device, bytes_per_token));
        let pages = TensorPages::new(&config, &device, dtype, kv_tokens)?;
        let kinds = [vec![0u32; config.heads], vec![1; config.kv_heads], vec![2; config.kv_heads]].concat();
        let head_kinds = Tensor::new(kinds, &device)?;
        let head_ones = Tensor::ones(config.head_dim, dtype, &device)?;
        let model =
            Self { rotary, device, dtype, embedding, layers, final_norm, head, head_kinds, head_ones, pages, config };
        Ok(Paged::new(spec, kv_tokens, model))
    }

    /// Single tokens first, so that they attend as one group.
    fn plan(&self, ledger: &PageLedger, inputs: &[StepInput<'_>]) -> Result<Plan> {
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&index| inputs[index].tokens.len() > 1);
        let singles = order.iter().filter(|&&index| inputs[index].tokens.len() == 1).count();
        let member = |index: usize| (ledger.pages(inputs[index].sequence), ledger.length(inputs[index].sequence));
        let mut groups = Vec::new();
        let mut group = |start, tokens, members: &[usize]| -> Result<()> {
            let members: Vec<_> = members.iter().map(|&index| member(index)).collect();
            groups.push(Group::new(start, tokens, &members, &self.config.windows, &self.device)?);
            Ok(())
        };
        if singles > 0 {
            group(0, 1, &order[..singles])?;
        }
        let mut row = 0;
        let mut wanted = vec![0..0; inputs.len()];
        let (mut tokens, mut positions, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for &index in &order {
            let (input, (pages, length)) = (&inputs[index], member(index));
            if input.tokens.len() > 1 {
                group(row, input.tokens.len(), &[index])?;
            }
            let own = length..length + input.tokens.len();
            targets.extend(own.clone().map(|at| (pages[at / PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS) as u32));
            positions.extend(own);
            tokens.extend_from_slice(input.tokens);
            row += input.tokens.len();
            wanted[index] = (row - input.outputs) as u32..row as u32;
        }
        let (cos, sin) = self.angles(&positions)?;
        let tokens = Tensor::new(tokens, &self.device)?;
        let wanted: Vec<u32> = wanted.into_iter().flatten().collect();
        let wanted = if wanted.is_empty() { None } else { Some(Tensor::new(wanted, &self.device)?) };
        Ok(Plan { tokens, cos, sin, runs: runs(&targets), targets, groups, wanted })
    }

    /// See [`Plan`].
    fn angles(&self, positions: &[usize]) -> Result<(Tensor, Tensor)> {
        let half = self.config.head_dim / 2;
        let scale = 1.0 / (self.config.head_dim as f32).sqrt();
        let (mut cos, mut sin) = (vec![0.0; half], vec![0.0; half]);
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for &position in positions {
            self.rotary.angles(position, &mut cos, &mut sin);
            for (all, own, of_value) in [(&mut cosines, &cos, 1.0), (&mut sines, &sin, 0.0)] {
                all.extend(own.iter().map(|x| x * scale));
                all.extend_from_slice(own);
                all.extend(std::iter::repeat_n(of_value, half));
            }
        }
        let of_heads = |of_kinds: Vec<f32>| {
            let of_kinds = Tensor::from_vec(of_kinds, (positions.len(), 3, half), &self.device)?;
            of_kinds.to_dtype(self.dtype)?.index_select(&self.head_kinds, 1)?.reshape(((), half))
        };
        Ok((of_heads(cosines)?, of_heads(sines)?))
    }

    fn run(&self, plan: &Plan, output: &mut StepOutput) -> Result<()> {
        let mut x = self.embedding.index_select(&plan.tokens, 0)?;
        let scatter = self.scatter_index(plan)?;
        let shapes_come_again = plan.groups.iter().all(Group::has_shapes_that_come_again);
        let _kept = if shapes_come_again { keep_shapes(&self.device) } else { None };
        for (index, layer) in self.layers.iter().enumerate() {
            let attended = self.attend(layer, index, &x, plan, scatter.as_ref())?;
            x = (x + layer.output.apply(&attended)?)?;
            let normed = self.norm(&x, &layer.mlp_norm)?;
            x = (x + layer.down.apply(&swiglu(&layer.gate_up.apply(&normed)?)?)?)?;
        }
        let Some(wanted) = &plan.wanted else {
            return Ok(());
        };
        let hidden = self.norm(&x.index_select(wanted, 0)?, &self.final_norm)?;
        output.logits = host(&self.head.apply(&hidden)?)?;
        output.hidden_post_norm = host(&hidden)?;
        Ok(())
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(rms_norm(x, weight, self.config.norm_epsilon as f32)?)
    }

    /// The pool row of every entry of [2 * kv_heads, T, head_dim], where rows are too scattered to be copied in runs.
    fn scatter_index(&self, plan: &Plan) -> Result<Option<Tensor>> {
        let rows = plan.targets.len();
        if plan.runs.len() <= 1 + rows / 16 {
            return Ok(None);
        }
        let index = Tensor::new(plan.targets.as_slice(), &self.device)?.reshape((1, rows, 1))?;
        Ok(Some(index.broadcast_as((2 * self.config.kv_heads, rows, self.config.head_dim))?.contiguous()?))
    }

    /// Attention of all rows, [T, heads * head_dim].
    fn attend(&self, layer: &Layer, index: usize, x: &Tensor, plan: &Plan, scatter: Option<&Tensor>) -> Result<Tensor> {
        let (heads, kv_heads, width) = (self.config.heads, self.config.kv_heads, self.config.head_dim);
        let (rows, all_heads) = (x.dim(0)?, heads + 2 * kv_heads);
        let normed = self.norm(x, &layer.attention_norm)?;
        let mut all = layer.query_key_value.apply(&normed)?.reshape((rows, all_heads, width))?;
        if let Some(weights) = &layer.head_norms {
            let turning = self.norm(&all, &self.head_ones)?.narrow(1, 0, heads + kv_heads)?.broadcast_mul(weights)?;
            all = Tensor::cat(&[&turning, &all.narrow(1, heads + kv_heads, kv_heads)?], 1)?;
        }
        let turned = rope_thd(&all.reshape((1, rows * all_heads, 1, width))?, &plan.cos, &plan.sin)?;
        let turned = turned.reshape((rows, all_heads, width))?;
        let (q, added) = (turned.narrow(1, 0, heads)?, turned.narrow(1, heads, 2 * kv_heads)?);
        let pool = &self.pages.layers[index];
        write(pool, &added.transpose(0, 1)?.contiguous()?, plan, scatter)?;
        let parts = plan.groups.iter().map(|group| self.attend_group(group, &q, pool, layer.window));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        if let [part] = parts.as_slice() { Ok(part.clone()) } else { Ok(Tensor::cat(&parts, 0)?) }
    }

    /// Attention of a group's rows, [rows, heads * head_dim]; of `q` [T, heads, head_dim].
    fn attend_group(&self, group: &Group, q: &Tensor, pool: &Tensor, window: Option<usize>) -> Result<Tensor> {
        let (kv_heads, share, width) = (self.config.kv_heads, self.config.group(), self.config.head_dim);
        let (sequences, tokens, seen) = (group.sequences, group.tokens, group.seen);
        let read = group.read(pool)?;
        let (keys, values) = (read.narrow(0, 0, kv_heads)?, read.narrow(0, kv_heads, kv_heads)?);
        let q = q.narrow(0, group.start, sequences * tokens)?;
        let q = q.reshape((sequences * tokens, kv_heads, share, width))?.transpose(0, 1)?.contiguous()?;
        let q = q.reshape((kv_heads, sequences, tokens * share, width))?;
        let scores = q.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let mut scores = scores.reshape((kv_heads, sequences, tokens, share, seen))?;
        if let Some(mask) = group.mask(window)? {
            scores = scores.broadcast_add(&mask.unsqueeze(3)?)?;
        }
        let weights = softmax_last_dim(&scores)?.to_dtype(self.dtype)?;
        let weights = weights.reshape((kv_heads, sequences, tokens * share, seen))?;
        let attended = weights.matmul(&values)?;
        let attended = attended.reshape((kv_heads, sequences, tokens, share, width))?.permute((1, 2, 0, 3, 4))?;
        Ok(attended.reshape((sequences * tokens, kv_heads * share * width))?)
    }
}

/// Writes [2 * kv_heads, T, head_dim] into the pool.
fn write(pool: &Tensor, rows: &Tensor, plan: &Plan, scatter: Option<&Tensor>) -> Result<()> {
    if let Some(index) = scatter {
        return Ok(pool.scatter_set(index, rows, 1)?);
    }
    for &(from, to, count) in &plan.runs {
        pool.slice_set(&rows.narrow(1, from, count)?.contiguous()?, 1, to)?;
    }
    Ok(())
}

/// Consecutive targets as (index, target, count).
fn runs(targets: &[u32]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (index, &target) in targets.iter().enumerate() {
        match runs.last_mut() {
            Some((_, first, count)) if *first + *count == target as usize => *count += 1,
            _ => runs.push((index, target as usize, 1)),
        }
    }
    runs
}

fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

impl PagedModel for TensorDecoder {
    fn make_room(&mut self, ledger: &PageLedger, _: &[StepInput<'_>], copies: &[PageCopy]) -> Result<()> {
        self.pages.provide(ledger.page_count() * PAGE_TOKENS)?;
        copies.iter().try_for_each(|&copy| self.pages.copy(copy))
    }

    fn forward(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()> {
        output.hidden_post_norm.clear();
        output.logits.clear();
        self.run(&self.plan(ledger, inputs)?, output)
    }

    fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        let v = Tensor::from_slice(v, (1, v.len()), &self.device)?.to_dtype(self.dtype)?;
        host(&self.head.apply(&v)?)
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.config.kv_entries_per_token() * self.dtype.size_in_bytes()
    }

    fn step_bytes(&self) -> usize {
        self.config.weights_per_step() * self.dtype.size_in_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Tolerance, check_engine};
    use crate::decoder::{CpuDecoder, CpuOptions, EmbeddingTable, Linear, LinearShape};
    use crate::device::DtypeChoice;
    use crate::engine::Engine;
    use crate::random::RandomWeights;

    /// Small decoders with every switch on in turn.
    fn configs() -> Vec<DecoderConfig> {
        let base = r#""hidden_size":48,"intermediate_size":80,"num_hidden_layers":3,"num_attention_heads":4,
            "num_key_value_heads":2,"head_dim":16,"vocab_size":100,"max_position_embeddings":512"#;
        let config = |rest: &str| DecoderConfig::from_json(format!("{{{base},{rest}}}").as_bytes()).unwrap();
        let mut neighbours = config(r#""model_type":"llama","attention_bias":true,"mlp_bias":true"#);
        neighbours.rope.pairing = RopePairing::Neighbours;
        vec![
            neighbours,
            config(r#""model_type":"qwen2","use_sliding_window":true,"sliding_window":20,"max_window_layers":1"#),
            config(r#""model_type":"qwen3","tie_word_embeddings":true"#),
        ]
    }

    /// [`RandomWeights`] whose norms are not all ones.
    struct UnevenNorms;

    impl WeightSource for UnevenNorms {
        fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            let mut values = RandomWeights.floats(name, shape)?;
            if name.ends_with("norm.weight") {
                let seed = name.bytes().map(f32::from).sum::<f32>();
                values.iter_mut().enumerate().for_each(|(k, value)| *value += 0.4 * (seed + k as f32).sin());
            }
            Ok(values)
        }

        fn linear(&self, name: &str, shape: LinearShape) -> Result<Linear> {
            RandomWeights.linear(name, shape)
        }

        fn embedding(&self, vocab: usize, width: usize) -> Result<EmbeddingTable> {
            RandomWeights.embedding(vocab, width)
        }
    }

    fn tensor_decoder(config: &DecoderConfig, dtype: DType) -> Box<dyn Engine> {
        Box::new(TensorDecoder::load(config.clone(), &UnevenNorms, Device::Cpu, dtype, None).unwrap())
    }

    fn cpu_decoder(config: &DecoderConfig) -> Box<dyn Engine> {
        let options = CpuOptions { dtype: DtypeChoice::F32, dtype_name: "f32".to_owned(), kv_tokens: None, threads: 1 };
        Box::new(CpuDecoder::load(config.clone(), &UnevenNorms, options).unwrap())
    }

    /// A ragged step with forks, prompts and single tokens mixed; outputs of two steps.
    fn run(engine: &mut dyn Engine) -> Vec<f32> {
        let tokens = |seed: u32, length: u32| (0..length).map(|i| (seed * 31 + i * 17) % 100).collect::<Vec<u32>>();
        let mut output = StepOutput::default();
        let mut all = Vec::new();
        let prompt = engine.open().unwrap();
        let whole = tokens(1, 45);
        engine.step(&[StepInput { sequence: prompt, tokens: &whole, outputs: 1 }], &mut output).unwrap();
        all.append(&mut output.logits);
        let (fork, other) = (engine.fork(prompt).unwrap(), engine.open().unwrap());
        let parts = [tokens(2, 70), tokens(3, 1), tokens(4, 1)];
        for _ in 0..3 {
            let sequences = [other, prompt, fork].into_iter().zip(&parts);
            let inputs: Vec<_> =
                sequences.map(|(sequence, tokens)| StepInput { sequence, tokens, outputs: 1 }).collect();
            engine.step(&inputs, &mut output).unwrap();
            all.append(&mut output.logits);
            all.append(&mut output.hidden_post_norm);
        }
        all
    }

    #[test]
    fn both_decoders_agree() {
        // bf16 has 8 bits; some dozens of roundings lie between tokens and logits.
        for (config, (dtype, tolerance)) in
            configs().iter().flat_map(|config| [(DType::F32, 1e-4), (DType::BF16, 5e-2)].map(|kind| (config, kind)))
        {
            let expected = run(cpu_decoder(config).as_mut());
            let got = run(tensor_decoder(config, dtype).as_mut());
            assert_eq!(got.len(), expected.len());
            let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let apart =
                got.iter().zip(&expected).fold(0.0f32, |apart, (got, expected)| apart.max((got - expected).abs()));
            assert!(apart < tolerance * most, "{} in {dtype:?}: {apart} of {most}", config.architecture);
        }
    }

    #[test]
    fn the_tensor_decoder_is_an_engine() {
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 90 + 2).collect();
        for config in configs() {
            let close = Tolerance { batch: 1e-4, chunk: 1e-4, head: 1e-5 };
            check_engine(&mut || tensor_decoder(&config, DType::F32), &tokens, close);
        }
    }

    #[test]
    fn what_others_left_in_the_pool_is_not_read() {
        for config in configs() {
            let load =
                || TensorDecoder::load(config.clone(), &RandomWeights, Device::Cpu, DType::F32, Some(512)).unwrap();
            let (mut clean, mut tainted) = (load(), load());
            let pages = &mut tainted.model_mut().pages;
            pages.provide(512).unwrap();
            for tensor in &mut pages.layers {
                *tensor = tensor.affine(0.0, f64::NAN).unwrap();
            }
            let expected = run(&mut clean);
            assert!(expected.iter().all(|value| value.is_finite()));
            assert_eq!(run(&mut tainted), expected, "{}", config.architecture);
        }
    }

    #[test]
    fn the_pool_ends_at_its_bound() {
        let (config, bound) = (configs().remove(0), 5 * PAGE_TOKENS);
        let mut pages = TensorPages::new(&config, &Device::Cpu, DType::F32, Some(bound - 1)).unwrap();
        for (wanted, rows) in [(2, 2), (3, 4), (5, 5)] {
            pages.provide(wanted * PAGE_TOKENS).unwrap();
            assert_eq!((pages.rows, pages.layers[0].dims()[1]), (rows * PAGE_TOKENS, rows * PAGE_TOKENS));
        }
    }

    #[test]
    fn consecutive_rows_are_one_run() {
        assert_eq!(runs(&[4, 5, 6, 9, 2, 3]), vec![(0, 4, 3), (3, 9, 1), (4, 2, 2)]);
    }
}
