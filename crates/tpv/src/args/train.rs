//! The flags of `tpv train`.

use clap::Args;
use std::path::PathBuf;

/// Flags of `tpv train`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct TrainArgs {
    /// Data sets of `tpv prepare`, or folders with the sums of `tpv generate --fit`: several are trained on as one.
    #[arg(conflicts_with = "input_dir")]
    pub folders: Vec<PathBuf>,
    /// The folder, where there is only one.
    #[arg(long, default_value = "llama_math_tpv_dataset")]
    pub input_dir: PathBuf,
    /// Where the vector and its figures go.
    #[arg(long, default_value = "tpv_model")]
    pub output_dir: PathBuf,
    /// Ridge strength.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1e-10)]
    pub epsilon: f64,
    /// Fit theta with an intercept; reads better, but is useless as a direction to push along.
    #[arg(long)]
    pub intercept: bool,
    /// Accepted for compatibility; the fit runs on the CPU.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Problems that the fit has not seen, for a validation run that finds the effort levels low, medium and high: math500,
    /// gsm8k, thinker, or the path of a .jsonl or .parquet file. Without it the vector gets no levels.
    #[arg(long)]
    pub effort_dataset: Option<String>,
    /// How many of them at most, from the first; the level high is only shown by 150 or more.
    #[arg(long, value_parser = super::effort_problems, default_value_t = 200)]
    pub effort_problems: usize,
    /// The model of that run, if it is not where the traces' model was.
    #[arg(long, alias = "model_name_or_path")]
    pub model: Option<String>,
    /// The tokenizer's folder or hub name of that run, if it is not the model's.
    #[arg(long)]
    pub tokenizer_name_or_path: Option<String>,
    /// Seed of the bootstrap.
    #[arg(long, allow_negative_numbers = true, default_value_t = 42)]
    pub seed: u64,
}

impl TrainArgs {
    /// What to train on.
    pub fn inputs(&self) -> &[PathBuf] {
        if self.folders.is_empty() { std::slice::from_ref(&self.input_dir) } else { &self.folders }
    }
}
