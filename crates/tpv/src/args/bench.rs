//! The flags of `tpv bench`.

use super::{Dtype, RunArgs};
use clap::Args;

/// Flags of `tpv bench`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct BenchArgs {
    /// Shapes with random weights (0.5b, 1.5b, 1.5b-8-layers, 7b, 8b, 32b) or models.
    #[arg(default_value = "thinker")]
    pub models: Vec<String>,
    /// Sequences that decode together, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = super::positive, default_value = "1,8,32")]
    pub batch: Vec<usize>,
    /// Length of the prompt that is read.
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Decode steps of each measurement, bare and monitored each; quick steps are repeated for three seconds.
    #[arg(long, default_value_t = 32)]
    pub steps: usize,
    /// Another arithmetic whose states, logits and greedy tokens are compared on made-up prompts.
    #[arg(long, value_enum, ignore_case = true)]
    pub compare: Option<Dtype>,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}
