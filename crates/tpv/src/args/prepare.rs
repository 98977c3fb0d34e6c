//! The flags of `tpv prepare`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Flags of `tpv prepare`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct PrepareArgs {
    /// A folder of traces, of `tpv generate` or of the Python scripts.
    #[arg(long, default_value = "llama_model_results_batched")]
    pub input_dir: PathBuf,
    /// Where dataset.json goes.
    #[arg(long, default_value = "llama_math_tpv_dataset")]
    pub output_dir: PathBuf,
    /// Determines the split.
    #[arg(long, allow_negative_numbers = true, default_value_t = 42)]
    pub seed: u64,
    /// Share of the problems that train.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.8)]
    pub train_split_ratio: f64,
    /// How the problems are split.
    #[arg(long, value_enum, default_value = "hash")]
    pub split: SplitMethod,
    /// The text that ends the thinking (folders of the Python scripts).
    #[arg(long, default_value = "</think>")]
    pub end_of_thinking_token: String,
}

/// How problems are split.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitMethod {
    /// By a hash of seed and index: a problem keeps its side when others are added.
    Hash,
    /// Exactly as the Python scripts split them.
    Reference,
}
