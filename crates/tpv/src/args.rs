//! The command line: the flags of the Python scripts, in their spelling, and a few more.

mod serve;

pub use serve::{ReasoningArg, ServeArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use tpv_core::policy::{PolicySpec, Throttle};
use tpv_core::sampling::SamplingParams;
use tpv_data::run::StatesDtype;

/// The prompt of the paper's scripts.
pub const DEFAULT_TEMPLATE: &str =
    "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}.\n<think>\n";
/// The model of the paper's scripts.
pub const DEFAULT_MODEL: &str = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B";

/// The vector of the paper's scripts.
pub const DEFAULT_VECTOR: &str = "tpv_model/tpv_linear_weights.npy";

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
    #[command(after_help = "Example: tpv train --input_dir dataset --output_dir vector")]
    Train(TrainArgs),
    /// Run with and without the push along the vector, on the same problems and seeds.
    #[command(
        after_help = "Example: tpv intervene --model thinker --intervention_vector_path vector --dataset thinker --problem_start_idx 200 --problem_end_idx 220 --alpha 15,25"
    )]
    Intervene(InterveneArgs),
    /// Ask a model and watch how far its thinking is; without a prompt, a session.
    #[command(after_help = "Example: tpv run \"What is 3 + 4 - 2?\"")]
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
    #[command(after_help = "Example: tpv race --alpha 15")]
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

/// How a model is run.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case", next_help_heading = "Model")]
pub struct RunArgs {
    /// The tokenizer's folder or hub name, if it is not the model's.
    #[arg(long)]
    pub tokenizer_name_or_path: Option<String>,
    /// The hub's branch, tag or commit.
    #[arg(long)]
    pub revision: Option<String>,
    /// Where to run: auto, cpu, cuda, cuda:1, metal.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// The arithmetic; auto takes q8_0 on CPUs where the shapes allow, f32 for small models, the checkpoint's own on GPUs.
    #[arg(long, alias = "torch_dtype", value_enum, ignore_case = true, default_value = "auto")]
    pub dtype: Dtype,
    /// CPU threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Most samples in flight at once.
    #[arg(long, default_value_t = 32)]
    pub max_batch: usize,
    /// Memory for keys and values, e.g. 8GiB or 500MB; unbounded by default.
    #[arg(long, value_parser = parse_bytes)]
    pub kv_memory: Option<u64>,
}

/// Arithmetic by the names of torch and of GGUF.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtype {
    /// What suits the device and the model.
    Auto,
    /// 32-bit floats: the reference.
    #[value(alias = "float32")]
    F32,
    /// 16-bit floats.
    #[value(alias = "float16")]
    F16,
    /// Brain floats.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 8-bit integers with one scale for 32 weights.
    #[value(name = "q8_0")]
    Q8_0,
}

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
    /// The prompt, with {problem} for the problem and {{ }} for braces.
    #[arg(long, default_value = DEFAULT_TEMPLATE, hide_default_value = true)]
    pub prompt_template: String,
    /// Make prompts with the checkpoint's own chat template instead.
    #[arg(long)]
    pub chat_template: bool,
}

/// How tokens are drawn.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case", next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Divides the logits; 0 is greedy.
    #[arg(long, default_value_t = 0.6)]
    pub temperature: f32,
    /// Sample (True) or always take the most probable token (False).
    #[arg(long, num_args = 0..=1, default_value = "True", default_missing_value = "True", value_parser = parse_bool, action = clap::ArgAction::Set)]
    pub do_sample: bool,
    /// Keep the most probable tokens up to this probability.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Determines every draw.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

impl SamplingArgs {
    /// The parameters of the sampler.
    pub fn params(&self) -> SamplingParams {
        if self.do_sample {
            SamplingParams { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k }
        } else {
            SamplingParams::GREEDY
        }
    }
}

/// Flags of `tpv generate`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct GenerateArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// Token limit of each generation, thinking and answer together.
    #[arg(long, default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// The first problem's index.
    #[arg(long, default_value_t = 0)]
    pub start_problem_index: usize,
    /// The index after the last problem's.
    #[arg(long, default_value_t = 30)]
    pub end_problem_index: usize,
    /// Samples of each problem.
    #[arg(long, default_value_t = 5)]
    pub generations_per_problem: usize,
    /// Where the traces go; a run that is there already goes on.
    #[arg(long, default_value = "llama_model_results_batched")]
    pub output_dir: PathBuf,
    /// Precision of the states on disk.
    #[arg(long, value_enum, default_value = "f16")]
    pub states_dtype: StatesPrecision,
    /// Which states to keep.
    #[arg(long, value_enum, default_value = "all")]
    pub keep_states: KeepStates,
    /// The problems.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// The draws.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Precision of states on disk.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatesPrecision {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

impl From<StatesPrecision> for StatesDtype {
    fn from(precision: StatesPrecision) -> Self {
        match precision {
            StatesPrecision::F16 => Self::F16,
            StatesPrecision::F32 => Self::F32,
        }
    }
}

/// Which states of a generation are kept.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepStates {
    /// Those of all generated tokens.
    All,
    /// Those of the thinking alone.
    Thinking,
}

/// Flags of `tpv prepare`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct PrepareArgs {
    /// A folder of traces, of `tpv generate` or of the Python scripts.
    #[arg(long, default_value = "llama_model_results_batched")]
    pub input_dir: PathBuf,
    /// Where dataset.json goes.
    #[arg(long, default_value = "llama_math_tpv_dataset")]
    pub output_dir: PathBuf,
    /// Determines the split.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Share of the problems that train.
    #[arg(long, default_value_t = 0.8)]
    pub train_split_ratio: f64,
    /// How the problems are split.
    #[arg(long, value_enum, default_value = "hash")]
    pub split: SplitMethod,
    /// The text that ends the thinking (folders of the Python scripts).
    #[arg(long, default_value = "</think>")]
    pub end_of_thinking_token: String,
}

/// How problems are split.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitMethod {
    /// By a hash of seed and index: a problem keeps its side when others are added.
    Hash,
    /// Exactly as the Python scripts split them.
    Reference,
}

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

/// Flags of `tpv intervene`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct InterveneArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model", default_value = DEFAULT_MODEL)]
    pub model_name_or_path: String,
    /// tpv.safetensors, a .npy vector, or the folder that `tpv train` wrote; where the default is not there, the library's
    /// vector of the model, else the bundled one.
    #[arg(long, alias = "tpv", default_value = DEFAULT_VECTOR)]
    pub intervention_vector_path: PathBuf,
    /// Where the responses go.
    #[arg(long, default_value = "llama_intervention_responses")]
    pub output_generations_dir: PathBuf,
    /// A name for the task, part of the output's path.
    #[arg(long, default_value = "math500")]
    pub task_name: String,
    /// The first problem's index.
    #[arg(long, default_value_t = 30)]
    pub problem_start_idx: usize,
    /// The index after the last problem's.
    #[arg(long, default_value_t = 31)]
    pub problem_end_idx: usize,
    /// Strengths of the push, separated by commas; 0 always runs beside them.
    #[arg(
        long,
        value_delimiter = ',',
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
    #[arg(long, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Samples of each problem and alpha (with --temperature above 0).
    #[arg(long, default_value_t = 1)]
    pub generations_per_problem: usize,
    /// Push while thinking only, or on every token as the Python scripts do.
    #[arg(long, value_enum, default_value = "thinking")]
    pub intervene_phase: PhaseArg,
    /// Divides the logits; 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the most probable tokens up to this probability.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Determines every draw.
    #[arg(long, default_value_t = 42)]
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

/// Which vector.
#[derive(Args, Clone, Default)]
#[command(rename_all = "snake_case")]
pub struct TpvArgs {
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or a name in the vector library; by default the
    /// library's vector of the model, else the bundled one.
    #[arg(long, alias = "intervention_vector_path")]
    pub tpv: Option<String>,
}

/// How a question becomes a prompt.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct StyleArgs {
    /// The prompt, with {problem} for the question and {{ }} for braces.
    #[arg(long, default_value = DEFAULT_TEMPLATE, hide_default_value = true)]
    pub prompt_template: String,
    /// Make the prompt with the checkpoint's own chat template instead.
    #[arg(long)]
    pub chat_template: bool,
}

/// What `tpv evaluate` measures.
#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
pub enum EvaluateCommand {
    /// Readings of recorded thoughts: errors and coverage, against baselines that look at no state.
    #[command(after_help = "Example: tpv evaluate reading --input_dir traces")]
    Reading(EvaluateReadingArgs),
}

/// Flags of `tpv evaluate reading`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct EvaluateReadingArgs {
    /// A folder of traces, or the data set that `tpv prepare` made of one (then its training problems are left out).
    #[arg(long, default_value = "llama_model_results_batched")]
    pub input_dir: PathBuf,
    /// The vector.
    #[command(flatten)]
    pub tpv: TpvArgs,
    /// Resamples of the bootstrap.
    #[arg(long, default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

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
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0)]
    pub alpha: f32,
    /// A policy in place of a constant alpha, such as deadline:tokens=256 or budget:256.
    #[arg(long, conflicts_with = "alpha")]
    pub policy: Option<PolicySpec>,
    /// Token limit, thinking and answer together.
    #[arg(long, default_value_t = 4096)]
    pub max_new_tokens: usize,
    /// At most this many tokens a second, to watch small models; 0 is full speed. By default the bundled toy model is
    /// slowed down at a terminal.
    #[arg(long)]
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

/// The prompt that asks to be brief.
pub const BRIEF_TEMPLATE: &str =
    "{problem}\nPlease reason step by step, be brief, and put your final answer within \\boxed{{}}.\n<think>\n";

/// Flags of `tpv sweep`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct SweepArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// tpv.safetensors, a .npy vector, or the folder that `tpv train` wrote.
    #[arg(long, alias = "intervention_vector_path", default_value = "tpv_model")]
    pub tpv: PathBuf,
    /// A policy to compare, such as constant:15, deadline:tokens={budget} or think-end:1; may be given many times. A
    /// direction may follow: constant:15@pattern, @random:SEED, @end-only, @without-end.
    #[arg(long)]
    pub policy: Vec<String>,
    /// Budgets of thinking tokens.
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024")]
    pub budgets: Vec<u32>,
    /// Also run everything with the prompt that asks to be brief.
    #[arg(long)]
    pub brief: bool,
    /// That prompt.
    #[arg(long, default_value = BRIEF_TEMPLATE, hide_default_value = true)]
    pub brief_template: String,
    /// The first problem's index.
    #[arg(long, default_value_t = 0)]
    pub problem_start_idx: usize,
    /// The index after the last problem's; all problems by default.
    #[arg(long)]
    pub problem_end_idx: Option<usize>,
    /// Samples of each problem and policy.
    #[arg(long, default_value_t = 2)]
    pub generations_per_problem: usize,
    /// Token limit of each sample, thinking and answer together: what "uncapped" means.
    #[arg(long, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Choose effort levels among the constant alphas that are run, and write them into the vector; use validation problems.
    #[arg(long)]
    pub write_efforts: bool,
    /// Where results and figures go; a sweep that is there already goes on.
    #[arg(long, default_value = "tpv_sweep")]
    pub output_dir: PathBuf,
    /// The problems.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// The draws.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

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
    #[arg(long, allow_negative_numbers = true, default_value_t = 15.0)]
    pub alpha: f32,
    /// Token limit, thinking and answer together.
    #[arg(long, default_value_t = 4096)]
    pub max_new_tokens: usize,
    /// At most this many tokens a second, to watch small models; 0 is full speed.
    #[arg(long)]
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

/// Flags of `tpv learn`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct LearnArgs {
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    pub model: String,
    /// math500, gsm8k, thinker, or the path of a .jsonl or .parquet file; math500 by default.
    #[arg(long)]
    pub dataset: Option<String>,
    /// How many problems, from the first.
    #[arg(long, default_value_t = 100)]
    pub problems: usize,
    /// Samples of each problem.
    #[arg(long, default_value_t = 2)]
    pub generations_per_problem: usize,
    /// Token limit of each sample.
    #[arg(long, default_value_t = 4096)]
    pub max_new_tokens: usize,
    /// The vector's name in the library; one of that name is replaced.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Where the traces go; by default beside the library.
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
    /// Only say what it will cost.
    #[arg(long)]
    pub dry_run: bool,
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

/// What `tpv vectors` does.
#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
pub enum VectorsCommand {
    /// Every vector with its model.
    List,
    /// Where a vector comes from.
    Show(VectorNameArgs),
    /// Add a vector: a file, a folder, a .npy, or org/repo on the hub.
    Import(VectorImportArgs),
    /// Remove a vector.
    Remove(VectorNameArgs),
}

/// Names a vector of the library.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct VectorNameArgs {
    /// Its name.
    #[arg(default_value = "default")]
    pub name: String,
    /// Its model, where several have a vector of that name.
    #[arg(long)]
    pub model: Option<String>,
}

/// Flags of `tpv vectors import`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct VectorImportArgs {
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or org/repo on the hub.
    pub source: String,
    /// The model it belongs to; needed where the file does not say, checked where it does.
    #[arg(long)]
    pub model: Option<String>,
    /// Its name in the library.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Replace a vector of that name.
    #[arg(long)]
    pub replace: bool,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `tpv explain`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct ExplainArgs {
    /// tpv.safetensors, a .npy vector, or the folder that `tpv train` wrote.
    pub vector: PathBuf,
    /// A hub name, a folder, a .gguf file, or thinker for the bundled toy model.
    #[arg(long, alias = "model_name_or_path", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// Tokens to list on either side.
    #[arg(long, default_value_t = 12)]
    pub tokens: usize,
    /// Problems to measure the part of </think> on; 0 leaves that out.
    #[arg(long, default_value_t = 0)]
    pub problems: usize,
    /// Strength of the push for that.
    #[arg(long, default_value_t = 15.0, allow_negative_numbers = true)]
    pub alpha: f32,
    /// Token limit of each sample for that.
    #[arg(long, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Where explain.json and the samples go.
    #[arg(long, default_value = "tpv_explain")]
    pub output_dir: PathBuf,
    /// The problems.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `tpv report`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct ReportArgs {
    /// A folder with what `tpv train`, `tpv sweep` or `tpv explain` wrote.
    pub folder: PathBuf,
}

/// Flags of `tpv demo`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct DemoArgs {
    /// Where the traces, the vector and the responses go.
    #[arg(long, default_value = "tpv_demo")]
    pub output_dir: PathBuf,
    /// The strength to compare with 0.
    #[arg(long, default_value_t = 15.0, allow_negative_numbers = true)]
    pub alpha: f32,
    /// Problems that the vector is fitted on.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(2..=200), hide = true)]
    pub fit_problems: u16,
    /// Problems that it is tried on.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=200), hide = true)]
    pub try_problems: u16,
}

/// Flags of `tpv bench`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct BenchArgs {
    /// Shapes with random weights (0.5b, 1.5b, 1.5b-8-layers, 7b, 8b, 32b) or models.
    #[arg(default_value = "thinker")]
    pub models: Vec<String>,
    /// Sequences that decode together, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    pub batch: Vec<usize>,
    /// Length of the prompt that is read.
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Decode steps of each measurement.
    #[arg(long, default_value_t = 32)]
    pub steps: usize,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
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

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("say True or False".into()),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 =
        digits.trim().parse().map_err(|_| "say a number with a unit, such as 8GiB or 500MB".to_owned())?;
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1048576.0,
        "gib" => 1073741824.0,
        unit => return Err(format!("unknown unit {unit}; use MB, GB, MiB or GiB")),
    };
    if number.is_finite() && number > 0.0 { Ok((number * unit) as u64) } else { Err("it must be above zero".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
        assert_eq!(
            (generate.max_new_tokens, generate.end_problem_index, generate.generations_per_problem),
            (1024, 30, 5)
        );
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

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("1.5MB"), Ok(1_500_000));
        assert!(parse_bytes("many").is_err() && parse_bytes("-1GB").is_err() && parse_bytes("3 parsecs").is_err());
    }
}
