//! Which problems, and how a question becomes a prompt.

use clap::Args;
use tpv_engine::template::DEFAULT_PROMPT_TEMPLATE;

/// The prompt that asks to be brief.
pub const BRIEF_TEMPLATE: &str =
    "{problem}\nPlease reason step by step, be brief, and put your final answer within \\boxed{{}}.\n<think>\n";

/// Which problems.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case", next_help_heading = "Problems")]
pub struct DatasetArgs {
    /// math500, gsm8k, thinker, or the path of a .jsonl or .parquet file.
    #[arg(long, default_value = "math500")]
    pub dataset: String,
    /// The field that holds the problem, for files.
    #[arg(long)]
    pub problem_field: Option<String>,
    /// The field that holds the gold answer, for files.
    #[arg(long)]
    pub answer_field: Option<String>,
    /// The prompts.
    #[command(flatten)]
    pub style: StyleArgs,
}

/// How a problem becomes a prompt.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct StyleArgs {
    /// The prompt, with {problem} for the problem and {{ }} for braces.
    #[arg(long, default_value = DEFAULT_PROMPT_TEMPLATE, hide_default_value = true)]
    pub prompt_template: String,
    /// Make the prompt with the checkpoint's own chat template instead.
    #[arg(long, conflicts_with = "prompt_template")]
    pub chat_template: bool,
}

impl StyleArgs {
    /// The template; none where the checkpoint's own one is used.
    pub fn template(&self) -> Option<&str> {
        (!self.chat_template).then_some(&self.prompt_template)
    }
}
