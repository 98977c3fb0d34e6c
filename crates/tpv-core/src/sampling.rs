//! Choosing the next token from logits: greedy, temperature, top-k, top-p; one seed per (run, problem, generation).
//!
//! Given logits `l` in R^V, a shift `s` in R^V with its strength `alpha`, and a few single biases `b`, a token is drawn from
//!
//! ```text
//! scores = l + alpha * s + b        p_i  ~  exp((scores_i - max scores) / temperature)
//! ```
//!
//! cut to the `top_k` most probable tokens, then to the nucleus of `top_p` among those.
//!
//! Promises:
//! - `alpha == 0` and no shift are the same bit for bit.
//! - One random number is used per sampled token, whatever the parameters; greedy choice uses none.
//! - Tokens are ranked by score, the lower id first among equals. Probabilities are whole numbers (in units of 2^-44 of
//!   the best token's), so sums are exact and the choice cannot depend on the order in which anything was added up.
//!   Tokens whose weight rounds to no unit cannot be drawn; for any vocabulary under 2^19 tokens they make up less than
//!   2^-25 of the probability.
//! - The vocabulary is never sorted, and shifted scores are never written down: each pass adds the shift as it reads. Greedy
//!   choice is one pass; sampling is two, then a partial selection among the tokens near the top, found through the
//!   greatest score of each block.

use crate::seed;
use pulp::{Arch, Simd, WithSimd};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Divides the logits; 0 means greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens with at least this probability, the token that crosses the bound included; 1 keeps all.
    pub top_p: f32,
    /// Only the k most probable tokens; 0 keeps all.
    pub top_k: usize,
}

impl SamplingParams {
    /// Always the most probable token; the lowest id among equals.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };

    /// Whether the numbers make sense: a finite temperature of at least 0 and `0 < top_p <= 1`.
    pub fn validate(&self) -> Result<(), SamplingError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(SamplingError::Temperature(self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplingError::TopP(self.top_p));
        }
        Ok(())
    }
}

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// Negative, infinite or NaN.
    #[error("the temperature is {0}; it must be a finite number of at least 0 (0 means greedy)")]
    Temperature(f32),
    /// Outside (0, 1].
    #[error("top-p is {0}; it must be above 0 and at most 1 (1 keeps all tokens)")]
    TopP(f32),
    /// Infinite or NaN.
    #[error("alpha is {0}; it must be a finite number")]
    Alpha(f32),
    /// The shift was made for another vocabulary.
    #[error("the shift has {got} entries, but the model has {expected} logits")]
    ShiftLength {
        /// Number of logits, V.
        expected: usize,
        /// Length of the shift.
        got: usize,
    },
    /// A bias names a token that does not exist.
    #[error("a bias names token {token}, but the model has {vocab_size} logits")]
    BiasToken {
        /// The token named.
        token: u32,
        /// Number of logits, V.
        vocab_size: usize,
    },
    /// A logit, shift or bias is not a number.
    #[error("the score of token {token} is not a number")]
    NotANumber {
        /// The first such token.
        token: u32,
    },
    /// There are no logits, or all are minus infinity.
    #[error("no token can be chosen: all {vocab_size} logits are minus infinity")]
    NoCandidate {
        /// Number of logits, V.
        vocab_size: usize,
    },
}

/// The seed of one sample: a function of the run's seed, the problem's index and the generation's number alone, so that a
/// trace depends neither on the batch it was drawn in nor on the order. The mapping is fixed: SplitMix64 steps, each
/// xor-ing in the next number.
pub fn sample_seed(run_seed: u64, problem_index: u64, generation: u64) -> u64 {
    seed::combine(&[run_seed, problem_index, generation])
}

/// Draws the tokens of one sequence.
///
/// ```
/// use tpv_core::sampling::{Sampler, SamplingParams, sample_seed};
/// let mut sampler = Sampler::new(SamplingParams::GREEDY, sample_seed(42, 0, 0))?;
/// let (logits, shift) = ([0.5, 1.0, -2.0], [0.0, -1.0, 0.0]);
/// assert_eq!(sampler.sample(&logits, None, &[])?, 1);
/// assert_eq!(sampler.sample(&logits, Some((2.0, &shift)), &[])?, 0);
/// assert_eq!(sampler.sample(&logits, None, &[(2, 9.0)])?, 2);
/// # Ok::<(), tpv_core::sampling::SamplingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    generator: Pcg64,
    /// Logits with shift and biases, `[V]`; empty until there is a bias.
    scores: Vec<f32>,
    /// The greatest score of each block of the vocabulary.
    block_maxima: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler whose draws are determined by `seed`, which [`sample_seed`] makes.
    pub fn new(params: SamplingParams, seed: u64) -> Result<Self, SamplingError> {
        params.validate()?;
        let (scores, block_maxima, candidates) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { params, generator: seed::generator(seed), scores, block_maxima, candidates })
    }

    /// Chooses a token from `logits [V]`, optionally pushed along `shift = (alpha, W theta [V])` and with single `bias`es
    /// `(token, value)` added. A logit of minus infinity stays out whatever the shift says; an infinite bias replaces the score.
    pub fn sample(
        &mut self,
        logits: &[f32],
        shift: Option<(f32, &[f32])>,
        bias: &[(u32, f32)],
    ) -> Result<u32, SamplingError> {
        let scores = Scores::new(logits, shift)?;
        if bias.is_empty() {
            return self.choose(scores);
        }
        let mut buffer = std::mem::take(&mut self.scores);
        let token = scores.write(&mut buffer, bias).and_then(|()| self.choose(Scores::plain(&buffer)));
        self.scores = buffer;
        token
    }

    fn choose(&mut self, scores: Scores<'_>) -> Result<u32, SamplingError> {
        let best = scores.best(&mut self.block_maxima)?;
        if self.params.temperature == 0.0 {
            return Ok(scores.first_of(best));
        }
        let random = self.generator.next_u64();
        if best.score == f32::INFINITY {
            return Ok(pick_certain(scores, random));
        }
        let scale = Scale { max: best.score, temperature: self.params.temperature };
        Ok(self.draw(scores, scale, random))
    }

    /// Draws from scores whose maximum is finite.
    fn draw(&mut self, scores: Scores<'_>, scale: Scale, random: u64) -> u32 {
        let SamplingParams { top_p, top_k, .. } = self.params;
        if top_k > 0 {
            self.collect(scores, scale, |found| found.len() >= top_k);
            keep_best(&mut self.candidates, top_k);
            let total = mass(&self.candidates);
            return pick(&mut self.candidates, nucleus_bound(total, top_p), random);
        }
        let total = self.total_weight(scores, scale);
        if top_p < 1.0 {
            let bound = nucleus_bound(total, top_p);
            self.collect(scores, scale, |found| mass(found) >= bound);
            return pick(&mut self.candidates, bound, random);
        }
        let target = scaled(random, total);
        self.collect(scores, scale, |found| mass(found) > target);
        let at = crossing(&mut self.candidates, target);
        self.candidates[at].token
    }

    /// The exact sum of the weights of all tokens; blocks that carry none are passed over.
    fn total_weight(&self, scores: Scores<'_>, scale: Scale) -> u64 {
        let floor = scale.floor(DEEPEST);
        let mut total = 0;
        scores.visit(|block| self.block_maxima[block] >= floor, |_, block| total += scale.block_weight(block));
        total
    }

    /// Gathers the tokens near the top, reaching deeper until there are enough or all that carry weight are there.
    fn collect(&mut self, scores: Scores<'_>, scale: Scale, enough: impl Fn(&[Candidate]) -> bool) {
        let Self { candidates, block_maxima, .. } = self;
        for depth in [4.0, 6.0, 8.0, 10.0, 12.0, 16.0, DEEPEST] {
            let floor = scale.floor(depth);
            candidates.clear();
            scores.visit(
                |block| block_maxima[block] >= floor,
                |first, block| {
                    let near_top = block.iter().zip(first..).filter(|(score, _)| **score >= floor);
                    candidates.extend(near_top.map(|(&score, token)| {
                        let weight = weight(scale.exponent(score));
                        Candidate { score, token, weight }
                    }));
                },
            );
            if enough(candidates) {
                return;
            }
        }
    }
}

/// Tokens that are looked at together.
const BLOCK: usize = 1024;

/// Logits and what is added to all of them. A sum is made when it is read, a block at a time.
#[derive(Debug, Clone, Copy)]
struct Scores<'a> {
    logits: &'a [f32],
    shift: Option<(f32, &'a [f32])>,
}

/// The greatest score and the first token of the first block that holds it.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f32,
    block: usize,
}

impl<'a> Scores<'a> {
    fn new(logits: &'a [f32], shift: Option<(f32, &'a [f32])>) -> Result<Self, SamplingError> {
        match shift {
            Some((0.0, _)) => Ok(Self::plain(logits)),
            Some((alpha, _)) if !alpha.is_finite() => Err(SamplingError::Alpha(alpha)),
            Some((_, shift)) if shift.len() != logits.len() => {
                Err(SamplingError::ShiftLength { expected: logits.len(), got: shift.len() })
            }
            _ => Ok(Self { logits, shift }),
        }
    }

    fn plain(logits: &'a [f32]) -> Self {
        Self { logits, shift: None }
    }

    /// Shows the wanted blocks in ascending order, each with its first token.
    fn visit(self, wanted: impl Fn(usize) -> bool, mut show: impl FnMut(u32, &[f32])) {
        let mut buffer = [0.0; BLOCK];
        for (block, first) in (0..self.logits.len()).step_by(BLOCK).enumerate() {
            if wanted(block) {
                show(first as u32, self.block(first, &mut buffer));
            }
        }
    }

    /// The scores from token `first` on, a block at most.
    fn block<'b>(self, first: usize, buffer: &'b mut [f32; BLOCK]) -> &'b [f32]
    where
        'a: 'b,
    {
        let logits = &self.logits[first..(first + BLOCK).min(self.logits.len())];
        let Some((alpha, shift)) = self.shift else { return logits };
        let block = &mut buffer[..logits.len()];
        Arch::new().dispatch(AddShift { logits, alpha, shift: &shift[first..], block });
        block
    }

    /// The greatest score; an error when there is none above minus infinity or one is not a number.
    fn best(self, block_maxima: &mut Vec<f32>) -> Result<Best, SamplingError> {
        let mut best = Best { score: f32::NEG_INFINITY, block: 0 };
        let mut broken = None;
        block_maxima.clear();
        self.visit(
            |_| true,
            |first, block| {
                let max = block_max(block);
                block_maxima.push(max.unwrap_or(f32::NAN));
                match max {
                    Some(score) if score > best.score => best = Best { score, block: first as usize },
                    Some(_) => {}
                    None => broken = broken.or(Some(first as usize)),
                }
            },
        );
        if let Some(first) = broken {
            let block = self.block(first, &mut [0.0; BLOCK]).iter().position(|score| score.is_nan()).unwrap_or(0);
            return Err(SamplingError::NotANumber { token: (first + block) as u32 });
        }
        if best.score == f32::NEG_INFINITY {
            return Err(SamplingError::NoCandidate { vocab_size: self.logits.len() });
        }
        Ok(best)
    }

    /// The lowest token with the greatest score.
    fn first_of(self, best: Best) -> u32 {
        let position =
            Arch::new().dispatch(Find { scores: self.block(best.block, &mut [0.0; BLOCK]), wanted: best.score });
        (best.block + position.expect("the score was taken from this block")) as u32
    }

    /// Writes all scores to `buffer` and adds the biases.
    fn write(self, buffer: &mut Vec<f32>, bias: &[(u32, f32)]) -> Result<(), SamplingError> {
        buffer.clear();
        self.visit(|_| true, |_, block| buffer.extend_from_slice(block));
        let vocab_size = self.logits.len();
        for &(token, value) in bias {
            let score = buffer.get_mut(token as usize).ok_or(SamplingError::BiasToken { token, vocab_size })?;
            *score = if value.is_infinite() { value } else { *score + value };
        }
        Ok(())
    }
}

/// `block = logits + alpha * shift`, by the widest vectors that the machine has.
struct AddShift<'a, 'b> {
    logits: &'a [f32],
    alpha: f32,
    shift: &'a [f32],
    block: &'b mut [f32],
}

impl WithSimd for AddShift<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((score, &logit), &s) in self.block.iter_mut().zip(self.logits).zip(self.shift) {
            // The bounds keep an overflowing product from meeting a logit of minus infinity as plus infinity.
            *score = logit + (self.alpha * s).clamp(f32::MIN, f32::MAX);
        }
    }
}

/// The place of the first score that is the wanted one.
struct Find<'a> {
    scores: &'a [f32],
    wanted: f32,
}

impl WithSimd for Find<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Option<usize> {
        let Self { scores, wanted } = self;
        for (first, chunk) in (0..).step_by(32).zip(scores.chunks(32)) {
            let mut found = 0;
            for score in chunk {
                found |= u32::from(*score == wanted);
            }
            if found != 0 {
                return chunk.iter().position(|score| *score == wanted).map(|place| first + place);
            }
        }
        None
    }
}

/// The greatest of some scores; `None` when one is not a number.
fn block_max(scores: &[f32]) -> Option<f32> {
    let (sixteens, tail) = scores.as_chunks::<16>();
    let mut best = [f32::NEG_INFINITY; 16];
    let mut broken = [false; 16];
    for sixteen in sixteens {
        for lane in 0..16 {
            broken[lane] |= sixteen[lane].is_nan();
            best[lane] = if sixteen[lane] > best[lane] { sixteen[lane] } else { best[lane] };
        }
    }
    for (lane, &score) in tail.iter().enumerate() {
        broken[lane] |= score.is_nan();
        best[lane] = best[lane].max(score);
    }
    (!broken.contains(&true)).then(|| best.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// One of the tokens that are certain (plus infinity), each as likely as the others.
fn pick_certain(scores: Scores<'_>, random: u64) -> u32 {
    let mut certain = Vec::new();
    scores.visit(
        |_| true,
        |first, block| {
            let tokens = block.iter().zip(first..).filter(|(score, _)| **score == f32::INFINITY);
            certain.extend(tokens.map(|(_, token)| token));
        },
    );
    certain[scaled(random, certain.len() as u64) as usize]
}

/// Natural logs below the best token at which a weight is certainly below half a unit: 2^-45 = e^-31.2.
const DEEPEST: f32 = 32.0;
/// Tokens that a vocabulary may have, so that the sum of their weights fits 64 bits.
pub const MOST_TOKENS: usize = 1 << 19;

/// The weight of the best token.
const WEIGHT_UNITS: f32 = (1u64 << 44) as f32;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    token: u32,
    /// Probability in units of 2^-44 of the best token's.
    weight: u64,
}

impl Candidate {
    /// More probable first, the lower id among equals.
    fn rank(&self, other: &Self) -> Ordering {
        let by_score = other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal);
        by_score.then(self.token.cmp(&other.token))
    }
}

/// How scores become exponents of at most 0.
#[derive(Debug, Clone, Copy)]
struct Scale {
    max: f32,
    temperature: f32,
}

impl Scale {
    #[inline(always)]
    fn exponent(self, score: f32) -> f32 {
        (score - self.max) / self.temperature
    }

    /// The score of a token `depth` natural logs less probable than the best.
    fn floor(self, depth: f32) -> f32 {
        self.max - depth * self.temperature
    }

    /// The exact sum of the weights of some tokens, by the widest vectors that the machine has.
    fn block_weight(self, scores: &[f32]) -> u64 {
        Arch::new().dispatch(BlockWeight { scale: self, scores })
    }
}

struct BlockWeight<'a> {
    scale: Scale,
    scores: &'a [f32],
}

impl WithSimd for BlockWeight<'_> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u64 {
        let mut block = [0f32; 64];
        let mut total = 0;
        for chunk in self.scores.chunks(block.len()) {
            for (power, &score) in block.iter_mut().zip(chunk) {
                *power = exp_nonpositive(self.scale.exponent(score));
            }
            total += block[..chunk.len()].iter().map(|&power| units(power)).sum::<u64>();
        }
        total
    }
}

fn weight(exponent: f32) -> u64 {
    units(exp_nonpositive(exponent))
}

/// A power of at most 1 as a whole number of units. Adding 2^52 rounds to a whole number, which is then the mantissa: the same
/// as a cast, but it vectorises.
#[inline(always)]
fn units(power: f32) -> u64 {
    const TWO_TO_52: u64 = 1 << 52;
    (f64::from(power * WEIGHT_UNITS) + TWO_TO_52 as f64).to_bits() & (TWO_TO_52 - 1)
}

/// `e^x` for `x <= 0` within 2e-7 relative, flushed to about 1e-37 below -85. Plain additions and multiplications, so it
/// vectorises and gives the same bits everywhere, which a platform's `exp` does not.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few bits, so that `n * LN2_HIGH` is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > -85.0 { x } else { -85.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let power = series.into_iter().reduce(|sum, coefficient| sum * r + coefficient).unwrap_or(1.0);
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    power * two_to_n
}

/// `floor(total * random / 2^64)`: uniform in `0..total`.
fn scaled(random: u64, total: u64) -> u64 {
    ((u128::from(random) * u128::from(total)) >> 64) as u64
}

fn mass(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The mass that the nucleus must reach: at least 1, so that the best token is always in.
fn nucleus_bound(total: u64, top_p: f32) -> u64 {
    let bound = (total as f64 * f64::from(top_p)).ceil() as u64;
    bound.clamp(1, total)
}

fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, Candidate::rank);
        candidates.truncate(count);
    }
}

/// Draws within the nucleus: the best candidates up to and including the one that reaches `bound`.
fn pick(candidates: &mut [Candidate], bound: u64, random: u64) -> u32 {
    let last = crossing(candidates, bound - 1);
    let nucleus = &mut candidates[..=last];
    let target = scaled(random, mass(nucleus));
    let at = crossing(nucleus, target);
    nucleus[at].token
}

/// Reorders so that the candidate at the returned place is the one, in rank order, at which the cumulative weight first
/// exceeds `target`, and all before it rank higher. The total weight must exceed `target`. Linear time on average.
fn crossing(candidates: &mut [Candidate], mut target: u64) -> usize {
    let (mut start, mut end) = (0, candidates.len());
    while end - start > 1 {
        let part = &mut candidates[start..end];
        let middle = part.len() / 2;
        part.select_nth_unstable_by(middle, Candidate::rank);
        let before = mass(&part[..middle]);
        if before > target {
            end = start + middle;
        } else {
            target -= before;
            start += middle;
        }
    }
    start
}

/// The entropy of `softmax(logits)` divided by `ln V`: 0 when one token is certain, 1 when all are equally likely. NaN when
/// there is no distribution (a NaN among the logits, or all minus infinity).
///
/// ```
/// use tpv_core::sampling::normalised_entropy;
/// assert!((normalised_entropy(&[3.0; 8]) - 1.0).abs() < 1e-6);
/// assert!(normalised_entropy(&[100.0, 0.0, 0.0]) < 1e-6);
/// ```
pub fn normalised_entropy(logits: &[f32]) -> f32 {
    let Ok(Best { score: max, .. }) = Scores::plain(logits).best(&mut Vec::new()) else { return f32::NAN };
    if logits.len() == 1 {
        return 0.0;
    }
    let log_vocab = (logits.len() as f64).ln();
    if max == f32::INFINITY {
        let certain = logits.iter().filter(|&&logit| logit == max).count();
        return ((certain as f64).ln() / log_vocab) as f32;
    }
    // With x = l - max, Z = sum e^x:  H = ln Z - (sum x e^x) / Z.
    let (total, weighted) = exponential_sums(logits, max);
    ((total.ln() - weighted / total) / log_vocab).clamp(0.0, 1.0) as f32
}

/// `(sum e^x, sum x e^x)` over `x = logit - max`, each block of 64 in f32 lanes, the blocks in f64.
fn exponential_sums(logits: &[f32], max: f32) -> (f64, f64) {
    let (mut total, mut weighted) = (0.0, 0.0);
    for chunk in logits.chunks(64) {
        let mut lanes = [(0f32, 0f32); 8];
        for eight in chunk.chunks(8) {
            for (lane, &logit) in lanes.iter_mut().zip(eight) {
                let x = (logit - max).max(-85.0);
                let power = exp_nonpositive(x);
                *lane = (lane.0 + power, lane.1 + x * power);
            }
        }
        for (power, x_power) in lanes {
            total += f64::from(power);
            weighted += f64::from(x_power);
        }
    }
    (total, weighted)
}
