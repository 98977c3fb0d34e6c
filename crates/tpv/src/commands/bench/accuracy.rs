//! What another arithmetic changes: states, logits and greedy tokens of two engines over the same made-up sequences.
//!
//! The first engine chooses the tokens, greedily; the second is fed the same ones, so that every position compares like
//! with like.

use super::made_up_tokens;
use anyhow::Result;
use serde::Serialize;
use tpv_engine::engine::{Engine, SequenceId, StepInput, StepOutput};

/// Sequences that are compared.
const SEQUENCES: usize = 8;
/// Tokens of each prompt.
const PROMPT_TOKENS: usize = 32;
/// Positions compared in each sequence.
const POSITIONS: usize = 32;

/// How far two engines are apart.
#[derive(Debug, Clone, Serialize)]
pub struct Accuracy {
    /// The other engine's arithmetic.
    pub other_dtype: String,
    /// `|h - h'| / |h'|` of the final states, with h' of the other engine: median over positions.
    pub state_error: f64,
    /// The greatest.
    pub state_error_max: f64,
    /// The same of the logits, each row without its mean, which no probability depends on.
    pub logit_error: f64,
    /// The greatest.
    pub logit_error_max: f64,
    /// Share of positions at which both prefer the same token.
    pub greedy_agreement: f64,
    /// Positions compared.
    pub positions: usize,
    /// The greatest difference of a logit of the measured engine between a sequence alone and among the others.
    pub batch_deviation: f64,
}

impl Accuracy {
    /// The figures in words.
    pub fn sentence(&self, model: &str, dtype: &str) -> String {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        format!(
            "{model}: {dtype} against {} over {} positions: states differ by {} (at most {}), logits by {} (at most {}), \
             the same token is preferred at {}; in a batch logits move by {:e}",
            self.other_dtype,
            self.positions,
            percent(self.state_error),
            percent(self.state_error_max),
            percent(self.logit_error),
            percent(self.logit_error_max),
            percent(self.greedy_agreement),
            self.batch_deviation
        )
    }
}

/// Compares `engine` with `other`.
pub fn compare(engine: &mut dyn Engine, other: &mut dyn Engine) -> Result<Accuracy> {
    let mut ours = Batch::open(engine)?;
    let mut theirs = Batch::open(other)?;
    let mut alone = Batch::open_first(engine)?;
    let (mut states, mut logits, mut agreed, mut batch_deviation) = (Vec::new(), Vec::new(), 0, 0.0f64);
    let mut portions = prompts(engine);
    for _ in 0..POSITIONS {
        ours.step(engine, &portions)?;
        theirs.step(other, &portions)?;
        alone.step(engine, &portions[..1])?;
        let vocab_size = engine.spec().vocab_size;
        batch_deviation = batch_deviation.max(greatest_difference(&alone.output.logits, &ours.output.logits));
        let width = engine.spec().hidden_size;
        let pairs = ours.output.hidden_post_norm.chunks(width).zip(theirs.output.hidden_post_norm.chunks(width));
        states.extend(pairs.map(|(h, other)| relative_error(h, other, 0.0, 0.0)));
        portions.clear();
        for (own, other) in ours.output.logits.chunks(vocab_size).zip(theirs.output.logits.chunks(vocab_size)) {
            logits.push(relative_error(own, other, mean(own), mean(other)));
            agreed += usize::from(best(own) == best(other));
            portions.push(vec![best(own)]);
        }
    }
    ours.close(engine);
    alone.close(engine);
    theirs.close(other);
    let positions = states.len();
    states.sort_by(f64::total_cmp);
    logits.sort_by(f64::total_cmp);
    Ok(Accuracy {
        other_dtype: other.spec().dtype.clone(),
        state_error: states[positions / 2],
        state_error_max: states[positions - 1],
        logit_error: logits[positions / 2],
        logit_error_max: logits[positions - 1],
        greedy_agreement: agreed as f64 / positions as f64,
        positions,
        batch_deviation,
    })
}

fn prompts(engine: &dyn Engine) -> Vec<Vec<u32>> {
    (0..SEQUENCES).map(|seed| made_up_tokens(engine.spec(), seed, PROMPT_TOKENS)).collect()
}

/// Sequences of one engine that take their steps together.
struct Batch {
    sequences: Vec<SequenceId>,
    output: StepOutput,
}

impl Batch {
    fn open(engine: &mut dyn Engine) -> Result<Self> {
        let sequences = (0..SEQUENCES).map(|_| engine.open()).collect::<Result<_, _>>()?;
        Ok(Self { sequences, output: StepOutput::default() })
    }

    fn open_first(engine: &mut dyn Engine) -> Result<Self> {
        Ok(Self { sequences: vec![engine.open()?], output: StepOutput::default() })
    }

    fn step(&mut self, engine: &mut dyn Engine, portions: &[Vec<u32>]) -> Result<()> {
        let inputs = self.sequences.iter().zip(portions);
        let inputs: Vec<_> = inputs.map(|(&sequence, tokens)| StepInput { sequence, tokens, outputs: 1 }).collect();
        Ok(engine.step(&inputs, &mut self.output)?)
    }

    fn close(self, engine: &mut dyn Engine) {
        self.sequences.into_iter().for_each(|sequence| engine.close(sequence));
    }
}

/// `|a - b| / |b|` after the given numbers are taken off.
fn relative_error(a: &[f32], b: &[f32], mean_a: f64, mean_b: f64) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a) - mean_a, f64::from(*b) - mean_b);
        error += (a - b).powi(2);
        size += b.powi(2);
    }
    (error / size).sqrt()
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}

fn greatest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

fn best(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (token, &logit)| if logit > best.1 { (token, logit) } else { best });
    best.0 as u32
}
