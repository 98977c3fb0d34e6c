//! What the decode loop needs to know of a tokenizer: the bytes of each token and the tokens that end things.

/// The tokens of a model as the decode loop sees them.
pub trait Vocabulary: Send + Sync {
    /// The bytes that a token stands for; empty for an unknown id.
    fn token_bytes(&self, token: u32) -> &[u8];

    /// Whether this token ends the sequence.
    fn is_end_of_sequence(&self, token: u32) -> bool;

    /// The tokens that write `</think>`, in order; what is forced when thinking must end.
    fn think_end_tokens(&self) -> &[u32];
}
