//! The flags of `tpv evaluate`.

use super::TpvArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What `tpv evaluate` measures.
#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
pub enum EvaluateCommand {
    /// Readings of recorded thoughts: errors and coverage, against baselines that look at no state.
    #[command(after_help = "Example: tpv evaluate reading --input_dir traces")]
    Reading(EvaluateReadingArgs),
}

/// Flags of `tpv evaluate reading`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct EvaluateReadingArgs {
    /// A folder of traces, or the data set that `tpv prepare` made of one (then its training problems are left out).
    #[arg(long, default_value = "llama_model_results_batched")]
    pub input_dir: PathBuf,
    /// The vector.
    #[command(flatten)]
    pub tpv: TpvArgs,
    /// Resamples of the bootstrap, at least 100.
    #[arg(long, value_parser = super::resamples, default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the bootstrap.
    #[arg(long, allow_negative_numbers = true, default_value_t = 42)]
    pub seed: u64,
}
