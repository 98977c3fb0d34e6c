//! The flags of `tpv intervene`.

use super::{DEFAULT_MODEL, DEFAULT_VECTOR, DatasetArgs, RunArgs};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tpv_core::policy::Throttle;

/// Flags of `tpv intervene`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct InterveneArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model", default_value = DEFAULT_MODEL)]
    pub model_name_or_path: String,
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or a name in the vector library; where the default is
    /// not there, the library's vector of the model, else the bundled one.
    #[arg(long, alias = "tpv", default_value = DEFAULT_VECTOR)]
    pub intervention_vector_path: PathBuf,
    /// Where the responses go.
    #[arg(long, default_value = "llama_intervention_responses")]
    pub output_generations_dir: PathBuf,
    /// A name for the task, part of the output's path.
    #[arg(long, default_value = "math500")]
    pub task_name: String,
    /// The first problem's index.
    #[arg(long, alias = "start_problem_index", default_value_t = 30)]
    pub problem_start_idx: usize,
    /// The index after the last problem's.
    #[arg(long, alias = "end_problem_index", default_value_t = 31)]
    pub problem_end_idx: usize,
    /// Strengths of the push, separated by commas; 0 always runs beside them.
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = super::spaced,
        allow_negative_numbers = true,
        default_value = "100.0",
        default_value_if("policy", clap::builder::ArgPredicate::IsPresent, None)
    )]
    pub alpha: Vec<f32>,
    /// A policy to run beside them, such as deadline:tokens=256, entropy:base=10,range=10,k=100,u=0.02, budget:256 or
    /// think-end:2; may be given many times. A direction may follow, as in constant:15@random:1.
    #[arg(long)]
    pub policy: Vec<Throttle>,
    /// Token limit of each generation, thinking and answer together.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Samples of each problem and alpha (with --temperature above 0).
    #[arg(long, value_parser = super::positive, default_value_t = 1)]
    pub generations_per_problem: usize,
    /// Push while thinking only, or on every token as the Python scripts do.
    #[arg(long, value_enum, default_value = "thinking")]
    pub intervene_phase: PhaseArg,
    /// Divides the logits; 0 is greedy.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the most probable tokens up to this probability.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    pub top_k: usize,
    /// Determines every draw.
    #[arg(long, allow_negative_numbers = true, default_value_t = 42)]
    pub seed: u64,
    /// The problems.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// When to push.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PhaseArg {
    /// While thinking.
    Thinking,
    /// On every token.
    All,
}
