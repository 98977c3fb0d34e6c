//! How tokens are drawn.

use clap::Args;
use tpv_core::sampling::SamplingParams;

/// How tokens are drawn.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case", next_help_heading = "Sampling")]
pub struct DrawArgs {
    /// Divides the logits; 0 is greedy.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.6)]
    pub temperature: f32,
    /// Sample (True) or always take the most probable token (False).
    #[arg(long, num_args = 0..=1, default_value = "True", default_missing_value = "True", value_parser = parse_bool, action = clap::ArgAction::Set)]
    pub do_sample: bool,
    /// Keep the most probable tokens up to this probability.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    pub top_k: usize,
}

impl DrawArgs {
    /// The parameters of the sampler.
    pub fn params(&self) -> SamplingParams {
        if self.do_sample {
            SamplingParams { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k }
        } else {
            SamplingParams::GREEDY
        }
    }
}

/// How tokens are drawn, the same ones each time.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case", next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// How tokens are drawn.
    #[command(flatten)]
    pub draws: DrawArgs,
    /// Determines every draw.
    #[arg(long, allow_negative_numbers = true, default_value_t = 42)]
    pub seed: u64,
}

impl SamplingArgs {
    /// The parameters of the sampler.
    pub fn params(&self) -> SamplingParams {
        self.draws.params()
    }
}

/// What the flags say where nothing is asked, as in the Python scripts.
impl Default for SamplingArgs {
    fn default() -> Self {
        Self { draws: DrawArgs { temperature: 0.6, do_sample: true, top_p: 0.95, top_k: 0 }, seed: 42 }
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("say True or False".into()),
    }
}
