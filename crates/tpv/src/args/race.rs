//! The flags of `tpv race`.

use super::{RunArgs, SamplingArgs, StyleArgs, TpvArgs};
use clap::Args;

/// Flags of `tpv race`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct RaceArgs {
    /// The question; by default one for the bundled toy model.
    pub prompt: Option<String>,
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = "thinker")]
    pub model: String,
    /// The vector.
    #[command(flatten)]
    pub tpv: TpvArgs,
    /// The strength to race against 0.
    #[arg(long, value_parser = super::finite, allow_negative_numbers = true, default_value_t = 15.0)]
    pub alpha: f32,
    /// Token limit, thinking and answer together.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 4096)]
    pub max_new_tokens: usize,
    /// At most this many tokens a second, to watch small models; 0 is full speed.
    #[arg(long, value_parser = super::pace)]
    pub pace: Option<f64>,
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
