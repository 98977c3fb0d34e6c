//! The flags of `tpv learn`.

use super::{RunArgs, SamplingArgs, StyleArgs};
use clap::Args;
use std::path::PathBuf;

/// Flags of `tpv learn`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct LearnArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    pub model: String,
    /// math500, gsm8k, thinker, or the path of a .jsonl or .parquet file; math500 by default.
    #[arg(long)]
    pub dataset: Option<String>,
    /// How many problems, from the first.
    #[arg(long, value_parser = super::positive, default_value_t = 100)]
    pub problems: usize,
    /// Samples of each problem.
    #[arg(long, value_parser = super::positive, default_value_t = 2)]
    pub generations_per_problem: usize,
    /// Further problems, after those, for a validation run of 11 alphas that finds the effort levels low, medium and high;
    /// 0 leaves the levels out. Fewer than 30 show nothing; low needs 30, medium 60, high 150.
    #[arg(long, value_parser = super::effort_problems, default_value_t = 0)]
    pub effort_problems: usize,
    /// Token limit of each sample.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 4096)]
    pub max_new_tokens: usize,
    /// The vector's name in the library; one of that name is replaced.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Where the traces go; by default beside the library.
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
    /// Only say what it will cost.
    #[arg(long)]
    pub dry_run: bool,
    /// The prompt.
    #[command(flatten)]
    pub style: StyleArgs,
    /// The draws.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}
