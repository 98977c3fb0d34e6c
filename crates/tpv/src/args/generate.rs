//! The flags of `tpv generate`.

use super::{DEFAULT_MODEL, DatasetArgs, RunArgs, SamplingArgs};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tpv_core::split::Shard;
use tpv_data::run::StatesDtype;

/// Flags of `tpv generate`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct GenerateArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// Token limit of each generation, thinking and answer together.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// The first problem's index.
    #[arg(long, alias = "problem_start_idx", default_value_t = 0)]
    pub start_problem_index: usize,
    /// The index after the last problem's; by default 30, or all problems where there are fewer.
    #[arg(long, alias = "problem_end_idx")]
    pub end_problem_index: Option<usize>,
    /// Samples of each problem.
    #[arg(long, value_parser = super::positive, default_value_t = 5)]
    pub generations_per_problem: usize,
    /// Where the traces go; a run that is there already goes on.
    #[arg(long, default_value = "llama_model_results_batched")]
    pub output_dir: PathBuf,
    /// Precision of the states on disk.
    #[arg(long, value_enum, default_value = "f16")]
    pub states_dtype: StatesPrecision,
    /// Which states to keep; none needs --fit.
    #[arg(long, value_enum, default_value = "all")]
    pub keep_states: KeepStates,
    /// Sum up the states for `tpv train` while sampling.
    #[arg(long)]
    pub fit: bool,
    /// Do a part of the problems, such as 2/4, in a folder of its own or in one that all shards share.
    #[arg(long)]
    pub shard: Option<Shard>,
    /// The problems.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// The draws.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Precision of states on disk.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatesPrecision {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

impl From<StatesPrecision> for StatesDtype {
    fn from(precision: StatesPrecision) -> Self {
        match precision {
            StatesPrecision::F16 => Self::F16,
            StatesPrecision::F32 => Self::F32,
        }
    }
}

/// Which states of a generation are kept.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepStates {
    /// Those of all generated tokens.
    All,
    /// Those of the thinking alone.
    Thinking,
    /// None: a problem's states leave the disk as soon as its sums are on it.
    None,
}

impl GenerateArgs {
    /// The index after the last problem's, in a data set of so many problems.
    pub fn end(&self, problems: usize) -> usize {
        const USUAL: usize = 30;
        self.end_problem_index.unwrap_or(USUAL.min(problems))
    }
}
