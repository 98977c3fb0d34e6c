//! The flags of `tpv serve`.

use super::{DrawArgs, RunArgs, TpvArgs};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Flags of `tpv serve`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct ServeArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(default_value = "thinker")]
    pub model: String,
    /// The address to listen on; others than this machine's own need an API key or --no_auth.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The port; 0 takes any free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The vector.
    #[command(flatten)]
    pub tpv: TpvArgs,
    /// A file with the key that requests must carry as `Authorization: Bearer KEY`.
    #[arg(long, help_heading = "Access")]
    pub api_key_file: Option<PathBuf>,
    /// The key itself, from the environment only, so that no list of processes shows it.
    #[arg(skip = std::env::var("TPV_API_KEY").ok())]
    pub api_key: Option<String>,
    /// Let everybody in who can reach the address, without a key.
    #[arg(long, help_heading = "Access")]
    pub no_auth: bool,
    /// A further name under which the server may be called (again for more).
    #[arg(long, help_heading = "Access")]
    pub allow_host: Vec<String>,
    /// The origin of another page whose scripts may call the server, e.g. https://chat.example.org (again for more).
    #[arg(long, help_heading = "Access")]
    pub allow_origin: Vec<String>,
    /// Samples that may wait for a slot; further requests get status 503.
    #[arg(long, default_value_t = 128, help_heading = "Limits")]
    pub max_queue: usize,
    /// Samples in flight for one client address; further requests get status 429.
    #[arg(long, help_heading = "Limits")]
    pub max_per_client: Option<usize>,
    /// Connections of one client address; by default 256, and for addresses of this machine, behind which proxies are, no limit.
    #[arg(long, help_heading = "Limits")]
    pub max_connections_per_client: Option<usize>,
    /// Bytes of a request's body.
    #[arg(long, default_value_t = 1 << 20, help_heading = "Limits")]
    pub max_body_bytes: usize,
    /// Tokens that one sample may generate, thinking and answer together.
    #[arg(long, value_parser = super::token_limit, allow_negative_numbers = true, default_value_t = 32_768, help_heading = "Limits")]
    pub max_new_tokens: usize,
    /// Seconds that a request may take.
    #[arg(long, default_value_t = 3600, help_heading = "Limits")]
    pub request_secs: u64,
    /// Seconds that running requests may go on after the server was asked to stop.
    #[arg(long, default_value_t = 10, help_heading = "Limits")]
    pub grace_secs: u64,
    /// At most this many tokens a second for each answer, to watch small models; 0 is full speed.
    #[arg(long, value_parser = super::pace, default_value_t = 0.0)]
    pub pace: f64,
    /// The field that carries the thinking.
    #[arg(long, value_enum, default_value = "both")]
    pub reasoning_field: ReasoningArg,
    /// The draws where a request does not say.
    #[command(flatten)]
    pub draws: DrawArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The field that carries the thinking.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "snake_case")]
pub enum ReasoningArg {
    /// `reasoning` and `reasoning_content`.
    Both,
    /// `reasoning`, as vLLM and Ollama send it.
    Reasoning,
    /// `reasoning_content`, as llama.cpp and DeepSeek send it.
    ReasoningContent,
}
