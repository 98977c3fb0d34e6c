//! The trait that every engine implements: steps over ragged batches that give final states and logits.
//!
//! An engine holds sequences (their KV caches) and nothing else: it does not sample, knows no text and no phase.
//! A step mixes prefill and decode freely: each input appends any number of tokens to its sequence, and gets the final
//! hidden state (after the last norm) and the logits of as many of its last tokens as it asks for. Tokens that turn out to
//! be wrong can be taken back.

use crate::error::Result;

/// What an engine says about its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The architecture's name as in `config.json`, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Width of the final hidden state, d.
    pub hidden_size: usize,
    /// Length of the logits, V.
    pub vocab_size: usize,
    /// The longest sequence that the positions allow.
    pub max_positions: usize,
    /// The arithmetic that is in use, e.g. `f32`, `q8_0`, `bf16`.
    pub dtype: String,
    /// Where it runs, e.g. `cpu`, `cuda:0`.
    pub device: String,
}

/// Names an open sequence of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Tokens to append to one sequence.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// One or more tokens that follow what the sequence holds.
    pub tokens: &'a [u32],
    /// After how many of the last of these tokens the state and the logits are wanted: none, or up to all of them.
    pub outputs: usize,
}

/// The outputs of a step, one row for each token whose output was wanted, in the order of inputs and tokens. Reused between
/// steps.
#[derive(Debug, Default, Clone)]
pub struct StepOutput {
    /// `[rows, d]`, row-major.
    pub hidden_post_norm: Vec<f32>,
    /// `[rows, V]`, row-major.
    pub logits: Vec<f32>,
}

/// A model that can be stepped. One public conformance suite ([`crate::conformance`]) runs on every implementation.
pub trait Engine: Send {
    /// What model this is.
    fn spec(&self) -> &ModelSpec;

    /// Opens an empty sequence.
    fn open(&mut self) -> Result<SequenceId>;

    /// Opens a sequence that starts with everything `source` holds, without computing it again.
    fn fork(&mut self, source: SequenceId) -> Result<SequenceId>;

    /// Ends a sequence and frees its memory. Unknown sequences are ignored.
    fn close(&mut self, sequence: SequenceId);

    /// Tokens that a sequence holds; 0 if unknown.
    fn length(&self, sequence: SequenceId) -> usize;

    /// Appends tokens to sequences, at most one input for each sequence, and replaces `output` with the rows asked for.
    ///
    /// An error leaves every sequence as it was.
    fn step(&mut self, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()>;

    /// Takes the tokens of a sequence from `length` on back, as if they had never been appended. Unknown sequences and
    /// lengths that are not reached are ignored.
    fn truncate(&mut self, sequence: SequenceId, length: usize);

    /// `W v` with the `lm_head` W, `[V]`: the logit shift that `h + v` means. `v` is `[d]`.
    fn project(&self, v: &[f32]) -> Result<Vec<f32>>;

    /// Bytes of KV memory that one token of one sequence takes.
    fn kv_bytes_per_token(&self) -> usize;

    /// Bytes of weights that one decode step reads: all but the embedding, of which it reads rows. `None` if unknown.
    fn step_bytes(&self) -> Option<usize> {
        None
    }

    /// Tokens of KV memory in use and in all (`None`: bounded by the machine only). Tokens shared by forks count once.
    fn kv_tokens(&self) -> (usize, Option<usize>);

    /// Threads, the calling one included, that [`Engine::side_by_side`] finds awake just now: how many jobs are worth while.
    fn threads_awake(&self) -> usize {
        1
    }

    /// Does each job once: at the same time where the engine has threads for it, else one after the other.
    fn side_by_side(&self, jobs: &mut [&mut (dyn FnMut() + Send)]) {
        jobs.iter_mut().for_each(|job| job());
    }
}
