//! The flags of `tpv sweep`.

use super::{BRIEF_TEMPLATE, DEFAULT_MODEL, DEFAULT_VECTOR_FOLDER, DatasetArgs, RunArgs, SamplingArgs};
use clap::Args;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Flags of `tpv sweep`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct SweepArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or a name in the vector library; where the default is
    /// not there, the library's vector of the model, else the bundled one.
    #[arg(long, alias = "intervention_vector_path", default_value = DEFAULT_VECTOR_FOLDER)]
    pub tpv: PathBuf,
    /// A policy to compare, such as constant:15, deadline:tokens={budget} or think-end:1; may be given many times. A
    /// direction may follow: constant:15@pattern, @random:SEED, @end-only, @without-end. "(brief)" at the end asks for the
    /// brief prompt: "constant:15 (brief)".
    #[arg(long)]
    pub policy: Vec<String>,
    /// Budgets of thinking tokens.
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024")]
    pub budgets: Vec<u32>,
    /// Also run everything with the prompt that asks to be brief.
    #[arg(long)]
    pub brief: bool,
    /// That prompt.
    #[arg(long, default_value = BRIEF_TEMPLATE, hide_default_value = true)]
    pub brief_template: String,
    /// The first problem's index.
    #[arg(long, alias = "start_problem_index", default_value_t = 0)]
    pub problem_start_idx: usize,
    /// The index after the last problem's; all problems by default.
    #[arg(long, alias = "end_problem_index")]
    pub problem_end_idx: Option<usize>,
    /// Problems between them that are not run.
    #[arg(skip)]
    pub left_out: BTreeSet<usize>,
    /// Samples of each problem and policy.
    #[arg(long, value_parser = super::positive, default_value_t = 2)]
    pub generations_per_problem: usize,
    /// Token limit of each sample, thinking and answer together: what "uncapped" means.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Choose effort levels among the constant alphas that are run, and write them into the vector; use validation problems.
    #[arg(long)]
    pub write_efforts: bool,
    /// Where results and figures go; a sweep that is there already goes on.
    #[arg(long, default_value = "tpv_sweep")]
    pub output_dir: PathBuf,
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
