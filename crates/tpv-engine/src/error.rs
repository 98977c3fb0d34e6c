//! What can go wrong while a model is loaded or run.

use std::path::PathBuf;

/// The error of this crate. Messages say what was expected and what was found; the binary adds the next step.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file of the checkpoint is missing, unreadable or damaged.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint asks for something that this engine does not do.
    #[error("unsupported model: {0}")]
    Unsupported(String),
    /// The tokenizer cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template cannot be used.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A step was asked for that the model cannot take.
    #[error("{0}")]
    Request(String),
    /// No KV memory is left for another token; something must end first.
    #[error("the KV memory is full ({tokens} tokens)")]
    KvMemoryFull {
        /// Tokens that fit.
        tokens: usize,
    },
    /// The tensor library failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Shorthand for results of this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
