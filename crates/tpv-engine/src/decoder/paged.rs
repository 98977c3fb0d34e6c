//! An engine over paged KV memory: the book of sequences, which every decoder shares.
//!
//! A model computes; the sequences, their pages and the rules of [`Engine`] are kept here, once.

use crate::engine::{Engine, ModelSpec, SequenceId, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::kv::{PageCopy, PageLedger};

/// What a decoder has to bring.
pub(crate) trait PagedModel: Send {
    /// Makes the pages of the step's sequences exist and copies those that were shared.
    fn make_room(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], copies: &[PageCopy]) -> Result<()>;

    /// Computes a step of at least one input, whose pages exist: replaces `output` with the rows asked for.
    fn forward(&mut self, ledger: &PageLedger, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()>;

    /// `W v` for `v` `[d]`; see [`Engine::project`].
    fn project(&self, v: &[f32]) -> Result<Vec<f32>>;

    /// See [`Engine::kv_bytes_per_token`].
    fn kv_bytes_per_token(&self) -> usize;

    /// See [`Engine::step_bytes`].
    fn step_bytes(&self) -> usize;

    /// See [`Engine::threads_awake`].
    fn threads_awake(&self) -> usize {
        1
    }

    /// See [`Engine::side_by_side`].
    fn side_by_side(&self, jobs: &mut [&mut (dyn FnMut() + Send)]) {
        jobs.iter_mut().for_each(|job| job());
    }
}

/// A model with its sequences.
#[derive(Debug)]
pub(crate) struct Paged<M> {
    spec: ModelSpec,
    ledger: PageLedger,
    model: M,
}

impl<M: PagedModel> Paged<M> {
    /// An engine with room for this many tokens.
    pub fn new(spec: ModelSpec, kv_tokens: Option<usize>, model: M) -> Self {
        Self { spec, ledger: PageLedger::new(kv_tokens), model }
    }

    /// The model alone.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The model alone, to damage it.
    #[cfg(test)]
    pub fn model_mut(&mut self) -> &mut M {
        &mut self.model
    }

    fn compute(&mut self, inputs: &[StepInput<'_>], copies: &[PageCopy], output: &mut StepOutput) -> Result<()> {
        self.model.make_room(&self.ledger, inputs, copies)?;
        self.model.forward(&self.ledger, inputs, output)
    }
}

impl<M: PagedModel> Engine for Paged<M> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn open(&mut self) -> Result<SequenceId> {
        Ok(self.ledger.open())
    }

    fn fork(&mut self, source: SequenceId) -> Result<SequenceId> {
        self.ledger.fork(source)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.ledger.close(sequence);
    }

    fn length(&self, sequence: SequenceId) -> usize {
        self.ledger.length(sequence)
    }

    fn step(&mut self, inputs: &[StepInput<'_>], output: &mut StepOutput) -> Result<()> {
        self.ledger.check(inputs, &self.spec)?;
        if inputs.is_empty() {
            *output = StepOutput::default();
            return Ok(());
        }
        let wanted: Vec<_> = inputs.iter().map(|input| (input.sequence, input.tokens.len())).collect();
        let copies = self.ledger.reserve(&wanted)?;
        let result = self.compute(inputs, &copies, output);
        match result {
            Ok(()) => wanted.into_iter().for_each(|(sequence, tokens)| self.ledger.advance(sequence, tokens)),
            Err(_) => self.ledger.take_back(&wanted, &copies),
        }
        result
    }

    fn truncate(&mut self, sequence: SequenceId, length: usize) {
        self.ledger.truncate(sequence, length);
    }

    fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        if v.len() != self.spec.hidden_size {
            let problem = format!("a vector of width {} for a model of width {}", v.len(), self.spec.hidden_size);
            return Err(EngineError::Request(problem));
        }
        self.model.project(v)
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.model.kv_bytes_per_token()
    }

    fn step_bytes(&self) -> Option<usize> {
        Some(self.model.step_bytes())
    }

    fn kv_tokens(&self) -> (usize, Option<usize>) {
        self.ledger.tokens()
    }

    fn threads_awake(&self) -> usize {
        self.model.threads_awake()
    }

    fn side_by_side(&self, jobs: &mut [&mut (dyn FnMut() + Send)]) {
        self.model.side_by_side(jobs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::PAGE_TOKENS;

    /// Computes zeros, unless it is broken.
    struct Breakable {
        broken: bool,
    }

    impl PagedModel for Breakable {
        fn make_room(&mut self, _: &PageLedger, _: &[StepInput<'_>], _: &[PageCopy]) -> Result<()> {
            Ok(())
        }

        fn forward(&mut self, _: &PageLedger, _: &[StepInput<'_>], _: &mut StepOutput) -> Result<()> {
            if self.broken { Err(EngineError::Request("broken on purpose".into())) } else { Ok(()) }
        }

        fn project(&self, _: &[f32]) -> Result<Vec<f32>> {
            Ok(Vec::new())
        }

        fn kv_bytes_per_token(&self) -> usize {
            1
        }

        fn step_bytes(&self) -> usize {
            1
        }
    }

    #[test]
    fn a_step_that_fails_takes_no_memory_and_no_tokens() {
        let spec = ModelSpec {
            architecture: "none".into(),
            hidden_size: 1,
            vocab_size: 2,
            max_positions: 8 * PAGE_TOKENS,
            dtype: "f32".into(),
            device: "cpu".into(),
        };
        let mut engine = Paged::new(spec, Some(4 * PAGE_TOKENS), Breakable { broken: false });
        let mut output = StepOutput::default();
        let prompt = engine.open().unwrap();
        let prompt_tokens = [0; PAGE_TOKENS + 3];
        engine.step(&[StepInput { sequence: prompt, tokens: &prompt_tokens, outputs: 0 }], &mut output).unwrap();
        let fork = engine.fork(prompt).unwrap();
        let tokens = [1; PAGE_TOKENS];
        let inputs = [prompt, fork].map(|sequence| StepInput { sequence, tokens: &tokens, outputs: 1 });
        let before = (engine.kv_tokens(), engine.ledger.pages(fork).to_vec());
        engine.model_mut().broken = true;
        for _ in 0..3 {
            assert!(engine.step(&inputs[1..], &mut output).is_err());
            assert_eq!((engine.kv_tokens(), engine.ledger.pages(fork).to_vec()), before);
            assert_eq!([prompt, fork].map(|sequence| engine.length(sequence)), [prompt_tokens.len(); 2]);
        }
        engine.model_mut().broken = false;
        engine.step(&inputs[1..], &mut output).unwrap();
        assert_eq!(engine.length(fork), 2 * PAGE_TOKENS + 3);
    }
}
