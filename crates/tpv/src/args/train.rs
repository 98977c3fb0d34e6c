//! The flags of `tpv train`.

use clap::Args;
use std::path::PathBuf;

/// Flags of `tpv train`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct TrainArgs {
    /// The folder with dataset.json.
    #[arg(long, default_value = "llama_math_tpv_dataset")]
    pub input_dir: PathBuf,
    /// Where the vector and its figures go.
    #[arg(long, default_value = "tpv_model")]
    pub output_dir: PathBuf,
    /// Ridge strength.
    #[arg(long, default_value_t = 1e-10)]
    pub epsilon: f64,
    /// Fit theta with an intercept; reads better, but is useless as a direction to push along.
    #[arg(long)]
    pub intercept: bool,
    /// Accepted for compatibility; the fit runs on the CPU.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}
