//! The flags of `tpv explain`.

use super::{DEFAULT_MODEL, DatasetArgs, RunArgs};
use clap::Args;
use std::path::PathBuf;

/// Flags of `tpv explain`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct ExplainArgs {
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or a name in the vector library.
    pub vector: PathBuf,
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// Tokens to list on either side.
    #[arg(long, default_value_t = 12)]
    pub tokens: usize,
    /// Problems to measure the part of </think> on; 0 leaves that out.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    pub problems: usize,
    /// Samples of each problem for that.
    #[arg(long, value_parser = super::positive, default_value_t = 2)]
    pub generations_per_problem: usize,
    /// Random directions of theta's norm to compare with.
    #[arg(long, default_value_t = 5)]
    pub random_directions: u64,
    /// Strength of the push for that.
    #[arg(long, value_parser = super::finite, default_value_t = 15.0, allow_negative_numbers = true)]
    pub alpha: f32,
    /// Token limit of each sample for that.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Where explain.json and the samples go.
    #[arg(long, default_value = "tpv_explain")]
    pub output_dir: PathBuf,
    /// The problems.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}
