//! What can go wrong while a model is loaded or run.

use std::path::PathBuf;

use tpv_core::reading::CalibrationError;

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
    /// A vector's calibration cannot be used.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The tensor library failed.
    #[error("tensor operation failed: {}", tensor_problem(.0))]
    Tensor(#[from] candle_core::Error),
}

/// Shorthand for results of this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An error of the tensor library on one line. Under `RUST_BACKTRACE=1` its own text holds a backtrace.
pub(crate) fn tensor_problem(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => tensor_problem(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", tensor_problem(inner)),
        candle_core::Error::WithPath { inner, path } => format!("{}: {}", path.display(), tensor_problem(inner)),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Error;

    #[test]
    fn an_error_of_the_tensor_library_is_one_line_without_a_backtrace() {
        let inner = Box::new(Error::Msg("unknown dtype".into()));
        let traced = Error::WithBacktrace { inner, backtrace: Box::new(std::backtrace::Backtrace::force_capture()) };
        assert!(traced.to_string().lines().count() > 1);
        let error = EngineError::from(traced.context("while reading"));
        assert_eq!(error.to_string(), "tensor operation failed: while reading: unknown dtype");
    }
}
