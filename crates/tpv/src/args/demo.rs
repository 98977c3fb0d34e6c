//! The flags of `tpv demo`.

use clap::Args;
use std::path::PathBuf;

/// Flags of `tpv demo`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct DemoArgs {
    /// Where the traces, the vector and the responses go.
    #[arg(long, default_value = "tpv_demo")]
    pub output_dir: PathBuf,
    /// The strength to compare with 0.
    #[arg(long, value_parser = super::finite, default_value_t = 15.0, allow_negative_numbers = true)]
    pub alpha: f32,
    /// Problems that the vector is fitted on.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(2..=200), hide = true)]
    pub fit_problems: u16,
    /// Problems that it is tried on.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=200), hide = true)]
    pub try_problems: u16,
}
