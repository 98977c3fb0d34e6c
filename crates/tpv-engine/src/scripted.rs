//! A scripted engine for tests: every token follows from a function of the sequence so far.
//!
//! Its states are `h = 16 e_next + progress e_V` in R^(V+1) and its head is `W = [I | c]`, where the last column `c` is
//! 1 for the end-of-thinking token and 0 elsewhere. So `theta = e_V` reads the scripted progress exactly, and pushing
//! by alpha raises the end-of-thinking logit by alpha: from 16 on, thinking ends at once under greedy decoding.

use crate::engine::{Engine, ModelSpec, SequenceId, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::vocabulary::Vocabulary;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much the scripted token's logit stands above the others.
pub const SCRIPTED_LOGIT: f32 = 16.0;

/// What the scripted model does after a sequence of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScriptedStep {
    /// The token that it prefers.
    pub next: u32,
    /// What theta reads.
    pub progress: f32,
}

type Script = Box<dyn Fn(&[u32]) -> ScriptedStep + Send>;

/// An engine whose model is a function from the tokens so far to the next one.
pub struct ScriptedEngine {
    spec: ModelSpec,
    think_end: u32,
    script: Script,
    sequences: BTreeMap<SequenceId, Vec<u32>>,
    next_id: u64,
    capacity: Option<usize>,
    tokens_read: Arc<AtomicUsize>,
}

impl ScriptedEngine {
    /// An engine with `vocab_size` tokens.
    pub fn new(vocab_size: usize, think_end: u32, script: impl Fn(&[u32]) -> ScriptedStep + Send + 'static) -> Self {
        let spec = ModelSpec {
            architecture: "Scripted".into(),
            hidden_size: vocab_size + 1,
            vocab_size,
            max_positions: 1 << 20,
            dtype: "f32".into(),
            device: "cpu".into(),
        };
        let script = Box::new(script);
        let (sequences, tokens_read) = (BTreeMap::new(), Arc::default());
        Self { spec, think_end, script, sequences, next_id: 0, capacity: None, tokens_read }
    }

    /// Bounds the KV memory to this many tokens.
    pub fn with_capacity(mut self, tokens: usize) -> Self {
        self.capacity = Some(tokens);
        self
    }

    /// How many tokens the engine was given so far.
    pub fn tokens_read(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.tokens_read)
    }

    /// The vector that reads the scripted progress, `[d]`.
    pub fn theta(&self) -> Vec<f32> {
        let mut theta = vec![0.0; self.spec.hidden_size];
        theta[self.spec.vocab_size] = 1.0;
        theta
    }

    fn append(&mut self, input: &StepInput<'_>) -> Result<()> {
        let unknown = || EngineError::Request(format!("sequence {} is not open", input.sequence.0));
        let vocab_size = self.spec.vocab_size;
        let tokens = self.sequences.get_mut(&input.sequence).ok_or_else(unknown)?;
        if input.tokens.is_empty() || input.tokens.iter().any(|&token| token as usize >= vocab_size) {
            return Err(EngineError::Request("a step needs one or more tokens of the vocabulary".into()));
        }
        if input.outputs > input.tokens.len() {
            return Err(EngineError::Request("a step has no more outputs than tokens".into()));
        }
        tokens.extend_from_slice(input.tokens);
        self.tokens_read.fetch_add(input.tokens.len(), Ordering::Relaxed);
        Ok(())
    }

    fn hidden(&self, tokens: &[u32]) -> Vec<f32> {
        let step = (self.script)(tokens);
        let mut hidden = vec![0.0; self.spec.hidden_size];
        hidden[step.next as usize] = SCRIPTED_LOGIT;
        hidden[self.spec.vocab_size] = step.progress;
        hidden
    }
}

impl Engine for ScriptedEngine {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn open(&mut self) -> Result<SequenceId> {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, Vec::new());
        Ok(id)
    }

    fn fork(&mut self, source: SequenceId) -> Result<SequenceId> {
        let unknown = || EngineError::Request(format!("sequence {} is not open", source.0));
        let tokens = self.sequences.get(&source).ok_or_else(unknown)?.clone();
        let id = self.open()?;
        self.sequences.insert(id, tokens);
        Ok(id)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn length(&self, sequence: SequenceId) -> usize {
        self.sequences.get(&sequence).map_or(0, Vec::len)
    }

    fn step(&mut self, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()> {
        let before = self.sequences.clone();
        let new_tokens: usize = inputs.iter().map(|input| input.tokens.len()).sum();
        if let Some(capacity) = self.capacity.filter(|&capacity| self.kv_tokens().0 + new_tokens > capacity) {
            return Err(EngineError::KvMemoryFull { tokens: capacity });
        }
        if let Err(error) = inputs.iter().try_for_each(|input| self.append(input)) {
            self.sequences = before;
            return Err(error);
        }
        output.hidden_post_norm.clear();
        output.logits.clear();
        for input in inputs {
            let length = self.length(input.sequence);
            for length in length + 1 - input.outputs..=length {
                let hidden = self.hidden(&self.sequences[&input.sequence][..length]);
                output.logits.extend(self.project(&hidden)?);
                output.hidden_post_norm.extend(hidden);
            }
        }
        Ok(())
    }

    fn truncate(&mut self, sequence: SequenceId, length: usize) {
        if let Some(tokens) = self.sequences.get_mut(&sequence) {
            tokens.truncate(length);
        }
    }

    fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        if v.len() != self.spec.hidden_size {
            let (found, expected) = (v.len(), self.spec.hidden_size);
            return Err(EngineError::Request(format!("a vector of width {found} for a model of width {expected}")));
        }
        let mut logits = v[..self.spec.vocab_size].to_vec();
        logits[self.think_end as usize] += v[self.spec.vocab_size];
        Ok(logits)
    }

    fn kv_bytes_per_token(&self) -> usize {
        size_of::<u32>()
    }

    fn kv_tokens(&self) -> (usize, Option<usize>) {
        (self.sequences.values().map(Vec::len).sum(), self.capacity)
    }
}

/// A vocabulary of made-up tokens for the scripted engine.
#[derive(Debug, Clone)]
pub struct ScriptedVocabulary {
    tokens: Vec<Vec<u8>>,
    end_of_sequence: u32,
    think_end: Vec<u32>,
    wait: Vec<u32>,
}

impl ScriptedVocabulary {
    /// The token ids are the texts' places; `think_end` are the tokens that write `</think>`. Where "Wait" is a text, it can be forced.
    pub fn new(texts: &[&str], end_of_sequence: u32, think_end: &[u32]) -> Self {
        let tokens = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let wait = texts.iter().position(|&text| text == "Wait").map(|place| place as u32);
        Self { tokens, end_of_sequence, think_end: think_end.to_vec(), wait: wait.into_iter().collect() }
    }
}

impl Vocabulary for ScriptedVocabulary {
    fn token_bytes(&self, token: u32) -> &[u8] {
        self.tokens.get(token as usize).map_or(&[], Vec::as_slice)
    }

    fn is_end_of_sequence(&self, token: u32) -> bool {
        token == self.end_of_sequence
    }

    fn think_end_tokens(&self) -> &[u32] {
        &self.think_end
    }

    fn wait_tokens(&self) -> &[u32] {
        &self.wait
    }
}
