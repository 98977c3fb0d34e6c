//! The command line: the flags of the Python scripts, in their spelling, and a few more.
//!
//! One file for each command; groups of flags that several commands share are named by their subject.

mod bench;
mod demo;
mod engine;
mod evaluate;
mod explain;
mod generate;
mod intervene;
mod learn;
mod prepare;
mod problems;
mod race;
mod report;
mod run;
mod sampling;
mod serve;
mod sweep;
mod train;
mod vector;
mod vectors;

pub use bench::BenchArgs;
pub use demo::DemoArgs;
pub use engine::{Dtype, RunArgs};
pub use evaluate::{EvaluateCommand, EvaluateReadingArgs};
pub use explain::ExplainArgs;
pub use generate::{GenerateArgs, KeepStates, StatesPrecision};
pub use intervene::{InterveneArgs, PhaseArg};
pub use learn::LearnArgs;
pub use prepare::{PrepareArgs, SplitMethod};
pub use problems::{BRIEF_TEMPLATE, DatasetArgs, StyleArgs};
pub use race::RaceArgs;
pub use report::ReportArgs;
pub use run::AskArgs;
pub use sampling::{DrawArgs, SamplingArgs};
pub use serve::{ReasoningArg, ServeArgs};
pub use sweep::SweepArgs;
pub use train::TrainArgs;
pub use vector::{DEFAULT_VECTOR, DEFAULT_VECTOR_FOLDER, TpvArgs};
pub use vectors::{VectorImportArgs, VectorNameArgs, VectorsCommand};

use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// A number of samples, problems or sequences, which take memory; 0 is for whoever uses it to refuse.
fn count(text: &str) -> Result<usize, String> {
    const MOST: usize = 1_000_000;
    let count = text.parse().map_err(|error| format!("{error}"))?;
    if count <= MOST { Ok(count) } else { Err(format!("more than {MOST}")) }
}

/// At least one.
fn positive(text: &str) -> Result<usize, String> {
    match count(text)? {
        0 => Err("at least 1".into()),
        count => Ok(count),
    }
}

/// A limit of tokens: more than any model has positions is a slip of the keyboard.
fn token_limit(text: &str) -> Result<usize, String> {
    const MOST: usize = 100_000_000;
    match text.parse().map_err(|error| format!("{error}"))? {
        0 => Err("at least 1".into()),
        tokens if tokens > MOST => Err(format!("more than {MOST}")),
        tokens => Ok(tokens),
    }
}

/// A strength.
fn finite(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|error| format!("{error}"))?;
    if value.is_finite() { Ok(value) } else { Err("not a finite number".into()) }
}

/// None, or as many problems as can show the least of the effort levels.
fn effort_problems(text: &str) -> Result<usize, String> {
    match count(text)? {
        1..LEAST_EFFORT_PROBLEMS => Err(format!(
            "fewer than {LEAST_EFFORT_PROBLEMS} problems can show no effort level; give 30 (low), 60 (medium) or 150 (high), or 0"
        )),
        count => Ok(count),
    }
}

/// Problems that the least of the effort levels takes to be shown.
pub const LEAST_EFFORT_PROBLEMS: usize = 30;

/// Resamples of which a twentieth lies outside an interval.
fn resamples(text: &str) -> Result<usize, String> {
    match count(text)? {
        0..100 => Err("at least 100".into()),
        count => Ok(count),
    }
}

/// A strength of a list, which may have spaces between its numbers.
fn spaced(text: &str) -> Result<f32, String> {
    text.trim().parse().map_err(|error| format!("{error}"))
}

/// The slowest pace in tokens per second, so that keys and clients that leave are always heard.
const LEAST_PACE: f64 = 0.5;

/// Tokens a second; 0 is full speed.
fn pace(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let is_pace = value == 0.0 || (value.is_finite() && value >= LEAST_PACE);
    if is_pace { Ok(value) } else { Err(format!("not a finite number of at least {LEAST_PACE}, or 0")) }
}

/// The model of the paper's scripts.
pub const DEFAULT_MODEL: &str = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B";

/// How far a reasoning model's thinking is, and a throttle for it.
///
/// Four steps make and use a thinking progress vector: generate (sample and record states), prepare (label and split),
/// train (fit the vector), intervene (push along it). `tpv demo` runs all four on the bundled toy model.
/// Flags may be written with underscores, as in the paper's scripts, or with hyphens.
#[derive(Parser)]
#[command(name = "tpv", version, rename_all = "snake_case", after_help = "Example: tpv demo")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print data as JSON lines for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
pub enum Command {
    /// Sample thoughts and record the final hidden states.
    #[command(
        after_help = "Example: tpv generate --model thinker --dataset thinker --end_problem_index 30 --output_dir traces"
    )]
    Generate(GenerateArgs),
    /// Label the thinking tokens j/N and split the problems into train and test.
    #[command(after_help = "Example: tpv prepare --input_dir traces --output_dir dataset")]
    Prepare(PrepareArgs),
    /// Fit the vector, measure it on the held-out problems, refit on everything.
    #[command(after_help = "Examples: tpv train --input_dir dataset --output_dir vector
          tpv train traces_1 traces_2 traces_3 --output_dir vector")]
    Train(TrainArgs),
    /// Run with and without the push along the vector, on the same problems and seeds.
    #[command(
        after_help = "Example: tpv intervene --model thinker --intervention_vector_path vector --dataset thinker --problem_start_idx 200 --problem_end_idx 220 --alpha 15,25"
    )]
    Intervene(InterveneArgs),
    /// Ask a model and watch how far its thinking is; without a prompt, a session.
    #[command(after_help = "Example: tpv run \"Bob has 2 pens. Day 1: finds 3. How many pens does Bob have now?\"")]
    Run(AskArgs),
    /// Say what a vector does to the tokens, and how much of it is </think> alone.
    #[command(after_help = "Example: tpv explain vector --model thinker --dataset thinker --problems 40")]
    Explain(ExplainArgs),
    /// Draw what a folder holds as one web page with its pictures and tables.
    #[command(after_help = "Example: tpv report sweep")]
    Report(ReportArgs),
    /// Compare policies on the same problems and seeds, at many budgets.
    #[command(
        after_help = "Example: tpv sweep --model thinker --tpv vector --dataset thinker --problem_start_idx 200 --policy constant:15 --policy deadline:tokens={budget} --output_dir sweep"
    )]
    Sweep(SweepArgs),
    /// Measure against baselines.
    #[command(subcommand, after_help = "Example: tpv evaluate reading --input_dir traces")]
    Evaluate(EvaluateCommand),
    /// Race the same problem and seed at alpha 0 against another alpha.
    #[command(after_help = "Example: tpv race --alpha 15 --seed 1")]
    Race(RaceArgs),
    /// Make the vector of a model: generate, prepare, train and calibrate, into the vector library; resumable.
    #[command(after_help = "Example: tpv learn deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --dry_run")]
    Learn(LearnArgs),
    /// The vector library: list, show, import, remove.
    #[command(subcommand, after_help = "Example: tpv vectors list")]
    Vectors(VectorsCommand),
    /// Serve a model through an OpenAI-compatible API, with a page that shows its progress.
    #[command(after_help = "Example: tpv serve")]
    Serve(ServeArgs),
    /// All four steps on the bundled toy model, in under a minute.
    #[command(after_help = "Example: tpv demo")]
    Demo(DemoArgs),
    /// Measure this machine: prompt reading, decoding, and what monitoring and control cost.
    #[command(after_help = "Example: tpv bench 1.5b 7b --dtype q8_0 --batch 1,8,32")]
    Bench(BenchArgs),
}

/// Makes `--some-flag` the same as `--some_flag`; what follows `--` stays as it is.
pub fn with_underscores(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    let rewrite = |arg: OsString| {
        literal |= arg == "--";
        match arg.to_str() {
            Some(text) if !literal && text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                format!("--{}{value}", name[2..].replace('-', "_")).into()
            }
            _ => arg,
        }
    };
    args.into_iter().map(rewrite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use tpv_core::sampling::SamplingParams;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_underscores(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_python_scripts_are_accepted() {
        for line in [
            "tpv generate --model m --max_new_tokens 1024 --dataset gsm8k --start_problem_index 0 --end_problem_index 30 \
             --generations_per_problem 5 --output_dir o --prompt_template {problem} --temperature 0.6 --do_sample True \
             --top_p 0.95 --seed 42",
            "tpv prepare --input_dir i --output_dir o --seed 42 --train_split_ratio 0.8 --end_of_thinking_token </think>",
            "tpv train --input_dir i --output_dir o --epsilon 1e-10 --device cuda",
            "tpv intervene --model_name_or_path m --tokenizer_name_or_path t --intervention_vector_path v.npy --dataset math500 \
             --output_generations_dir o --task_name math500 --problem_start_idx 30 --problem_end_idx 31 --alpha 100.0 \
             --max_new_tokens 2048 --device auto --torch_dtype float16",
            "tpv generate --max-new-tokens 5 --do-sample=False",
        ] {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(parse(&line).is_ok(), "{line}: {}", parse(&line).err().unwrap());
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_python_scripts() {
        let Command::Generate(generate) = parse("tpv generate").unwrap().command else { panic!("another command") };
        assert_eq!((generate.max_new_tokens, generate.end(500), generate.generations_per_problem), (1024, 30, 5));
        let sampling = SamplingParams { temperature: 0.6, top_p: 0.95, top_k: 0 };
        assert_eq!((generate.sampling.params(), generate.sampling.seed), (sampling, 42));
        let Command::Intervene(intervene) = parse("tpv intervene").unwrap().command else { panic!("another command") };
        assert_eq!((intervene.alpha.as_slice(), intervene.max_new_tokens), ([100.0].as_slice(), 2048));
        assert_eq!((intervene.problem_start_idx, intervene.problem_end_idx), (30, 31));
    }

    #[test]
    fn values_and_what_follows_two_hyphens_keep_theirs() {
        let args = ["tpv", "--a-b=c-d", "--e-f", "g-h", "--", "--i-j"].map(OsString::from);
        assert_eq!(with_underscores(args), ["tpv", "--a_b=c-d", "--e_f", "g-h", "--", "--i-j"]);
    }
}
