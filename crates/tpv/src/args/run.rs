//! The flags of `tpv run`.

use super::{RunArgs, SamplingArgs, StyleArgs, TpvArgs};
use clap::Args;
use tpv_core::policy::PolicySpec;

/// Flags of `tpv run`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct AskArgs {
    /// The question; - or nothing reads it from stdin, or starts a session at a terminal.
    pub prompt: Option<String>,
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = "thinker")]
    pub model: String,
    /// The vector.
    #[command(flatten)]
    pub tpv: TpvArgs,
    /// Strength of the push; 0 does nothing, negative values slow down.
    #[arg(long, value_parser = super::finite, allow_negative_numbers = true, default_value_t = 0.0)]
    pub alpha: f32,
    /// A policy in place of a constant alpha, such as deadline:tokens=256 or budget:256.
    #[arg(long, conflicts_with = "alpha")]
    pub policy: Option<PolicySpec>,
    /// Token limit, thinking and answer together.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 4096)]
    pub max_new_tokens: usize,
    /// At most this many tokens a second, to watch small models; 0 is full speed. By default the bundled toy model is
    /// slowed down at a terminal.
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
