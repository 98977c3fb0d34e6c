//! What the decode loop needs to know of a tokenizer: the bytes of each token and the tokens that end things.

use crate::tokenizer::Tokenizer;
use std::sync::Arc;

/// The tokens of a model as the decode loop sees them.
pub trait Vocabulary: Send + Sync {
    /// The bytes that a token stands for; empty for an unknown id.
    fn token_bytes(&self, token: u32) -> &[u8];

    /// Whether this token ends the sequence.
    fn is_end_of_sequence(&self, token: u32) -> bool;

    /// The tokens that write `</think>`, in order; what is forced when thinking must end.
    fn think_end_tokens(&self) -> &[u32];

    /// The tokens that write "Wait", in order; what is forced when a thought is to go on. Where there are none, nothing is.
    fn wait_tokens(&self) -> &[u32];
}

/// The vocabulary of a checkpoint.
pub struct ModelVocabulary {
    tokenizer: Arc<Tokenizer>,
    end_of_sequence: Vec<u32>,
    think_end: Vec<u32>,
    wait: Vec<u32>,
}

impl ModelVocabulary {
    /// A tokenizer with the tokens that end a sequence and those that write `</think>` and "Wait".
    pub fn new(tokenizer: Arc<Tokenizer>, end_of_sequence: Vec<u32>, think_end: Vec<u32>, wait: Vec<u32>) -> Self {
        Self { tokenizer, end_of_sequence, think_end, wait }
    }
}

impl Vocabulary for ModelVocabulary {
    fn token_bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.token_bytes(token)
    }

    fn is_end_of_sequence(&self, token: u32) -> bool {
        self.end_of_sequence.contains(&token)
    }

    fn think_end_tokens(&self) -> &[u32] {
        &self.think_end
    }

    fn wait_tokens(&self) -> &[u32] {
        &self.wait
    }
}
