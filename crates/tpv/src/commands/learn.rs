//! `tpv learn`: the vector of any model in one command: generate, prepare, train with calibration, into the library.
//!
//! Every step goes on from what an interrupted run has left.

use super::{generate, prepare, train};
use crate::args::{
    DatasetArgs, GenerateArgs, KeepStates, LEAST_EFFORT_PROBLEMS, LearnArgs, PrepareArgs, SplitMethod, StatesPrecision,
    TrainArgs,
};
use crate::console::Console;
use crate::fitting_prompts::{NO_ROOM, fitting_prompt};
use crate::model::{THINKER, open_dataset, open_model, prompt_style};
use crate::sweep::effort::{ARMS, EffortRun, require_answers};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::sampling::sample_seed;
use tpv_data::library::{DEFAULT_NAME, VectorLibrary, check_name};
use tpv_data::problems::Problem;
use tpv_data::run::{RUN_FILE, RunConfig};
use tpv_data::trace::TraceStore;
use tpv_data::vector::VectorFile;
use tpv_engine::decode::{DecodeSink, PromptRequest, SampleId, SampleRequest};
use tpv_engine::model::TextModel;

/// Tokens of each sample that the speed is measured on.
const PROBE_TOKENS: usize = 12;

/// Squares of doubles, as wide as the states, that `tpv train` holds at most: the sums of six folds, of all of them and of
/// all but one; beside these the system that is solved and its eigenvectors, with as much to work in.
const TRAINING_SQUARES: u64 = 11;

/// What learning will cost at most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Samples still to be drawn.
    pub samples: usize,
    /// Samples that an earlier run has left.
    pub samples_there: usize,
    /// Tokens, if no sample ends before its limit.
    pub most_tokens: u64,
    /// Measured on a few tokens of a full batch.
    pub tokens_per_sec: f64,
    /// Seconds, if no sample ends before its limit.
    pub most_secs: f64,
    /// Bytes of states on disk, if no sample ends before its limit.
    pub most_bytes: u64,
    /// Bytes of memory for the sums of `tpv train`.
    pub training_bytes: u64,
    /// Where the traces go.
    pub folder: PathBuf,
}

/// Runs the command.
pub fn run(args: &LearnArgs, console: &Console) -> Result<()> {
    let library = VectorLibrary::of_user();
    check_name(&args.name)?;
    let generate_args = generate_args(args);
    let problems = open_dataset(&generate_args.dataset, console)?;
    let all = problems.problems.len();
    let chosen = problems.select(0, args.problems.min(all))?;
    if chosen.len() < args.problems {
        console.notice(format!("data set {} has {all} problems, so no more are learned from", problems.name));
    }
    generate::check(&generate_args)?;
    let further = &problems.problems[chosen.len()..];
    let further = &further[..further.len().min(args.effort_problems)];
    if further.len() < args.effort_problems.min(LEAST_EFFORT_PROBLEMS) {
        bail!(
            "data set {} leaves {} of its {all} problems for effort levels, and fewer than {LEAST_EFFORT_PROBLEMS} show none; \
             give fewer --problems, or no --effort_problems",
            problems.name,
            further.len()
        );
    }
    require_answers(&problems.name, further, &generate_args.dataset)?;
    let mut model = open_model(&args.model, &args.run, console)?;
    // Learning with other settings is another run, and has a folder of its own.
    let run = generate::run_config(&generate_args, &problems, &model);
    let work = args.output_dir.clone().unwrap_or_else(|| {
        library
            .folder()
            .parent()
            .unwrap_or(Path::new("."))
            .join("learn")
            .join(&model.identity.fingerprint)
            .join(run.digest())
    });
    let generate_args =
        GenerateArgs { output_dir: work.join("traces"), end_problem_index: Some(chosen.len()), ..generate_args };
    let there = problems_there(&generate_args.output_dir, &run, chosen)?;
    let cost = cost(&generate_args, chosen, there, &mut model, &work, console)?;
    show_cost(&cost, console);
    if !further.is_empty() {
        let samples = further.len() * args.generations_per_problem * ARMS;
        console.print(format!("the effort levels take {samples} further samples, of which no states are kept"));
    }
    if args.dry_run {
        return Ok(());
    }
    generate::run_with(&generate_args, &problems, &mut model, console)?;
    drop(model);
    let (dataset, vector) = (work.join("dataset"), work.join("vector"));
    // The folder may hold more problems, of an earlier time.
    let prepare_args = prepare_args(&generate_args.output_dir, &dataset, args.sampling.seed);
    prepare::run_within(&prepare_args, chosen.len(), console)?;
    train::run(&train_args(&dataset, &vector, args.sampling.seed), console)?;
    // Into the library before its levels are looked for, which may take longer than all before.
    let entry = library.put(&args.name, &VectorFile::load(&vector)?, true)?;
    if find_levels(args, &generate_args, further, &vector, &work, console)
        .with_context(|| format!("the vector is in the library as {}, without effort levels", entry.name))?
    {
        library.put(&args.name, &VectorFile::load(&vector)?, true)?;
    }
    let wanted = if entry.name == DEFAULT_NAME { String::new() } else { format!(" --tpv {}", entry.name) };
    console.print(format!(
        "the vector is in the library as {} ({}); `tpv run --model {}{wanted}` uses it\n\
         the traces in {} are no longer needed",
        entry.name,
        entry.path.display(),
        args.model,
        work.display()
    ));
    Ok(())
}

/// Finds effort levels on the problems after those that were learned from; false where there are none.
fn find_levels(
    args: &LearnArgs,
    learned: &GenerateArgs,
    problems: &[Problem],
    vector: &Path,
    work: &Path,
    console: &Console,
) -> Result<bool> {
    if problems.is_empty() {
        console.notice("the vector has no effort levels (low, medium, high): --effort_problems 150 finds them");
        return Ok(false);
    }
    let run = EffortRun {
        model: args.model.clone(),
        vector,
        dataset: learned.dataset.clone(),
        problems: problems.iter().map(|problem| problem.index).collect(),
        generations_per_problem: args.generations_per_problem,
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.clone(),
        run: args.run.clone(),
        output_dir: work.join("efforts"),
    };
    run.write(console)?;
    Ok(true)
}

fn generate_args(args: &LearnArgs) -> GenerateArgs {
    let default = if args.model == THINKER { THINKER } else { "math500" };
    GenerateArgs {
        model: args.model.clone(),
        max_new_tokens: args.max_new_tokens,
        start_problem_index: 0,
        end_problem_index: Some(args.problems),
        generations_per_problem: args.generations_per_problem,
        output_dir: PathBuf::new(),
        states_dtype: StatesPrecision::F16,
        keep_states: KeepStates::Thinking,
        fit: false,
        shard: None,
        dataset: DatasetArgs {
            dataset: args.dataset.clone().unwrap_or_else(|| default.into()),
            problem_field: None,
            answer_field: None,
            style: args.style.clone(),
        },
        sampling: args.sampling.clone(),
        run: args.run.clone(),
    }
}

fn prepare_args(traces: &Path, dataset: &Path, seed: u64) -> PrepareArgs {
    PrepareArgs {
        input_dir: traces.into(),
        output_dir: dataset.into(),
        seed,
        train_split_ratio: 0.8,
        split: SplitMethod::Hash,
        end_of_thinking_token: "</think>".into(),
    }
}

fn train_args(dataset: &Path, vector: &Path, seed: u64) -> TrainArgs {
    TrainArgs {
        folders: Vec::new(),
        input_dir: dataset.into(),
        output_dir: vector.into(),
        epsilon: 1e-10,
        intercept: false,
        device: "cpu".into(),
        effort_dataset: None,
        effort_problems: 0,
        model: None,
        tokenizer_name_or_path: None,
        seed,
    }
}

fn cost(
    args: &GenerateArgs,
    problems: &[Problem],
    problems_there: usize,
    model: &mut TextModel,
    folder: &Path,
    console: &Console,
) -> Result<Cost> {
    let samples_there = problems_there * args.generations_per_problem;
    let samples = problems.len() * args.generations_per_problem - samples_there;
    let most_tokens = (samples * args.max_new_tokens) as u64;
    let tokens_per_sec = measure_speed(args, problems, samples.max(1), model, console)?;
    let width = model.identity.hidden_size as u64;
    Ok(Cost {
        samples,
        samples_there,
        most_tokens,
        tokens_per_sec,
        most_secs: most_tokens as f64 / tokens_per_sec,
        most_bytes: most_tokens * width * 2,
        training_bytes: TRAINING_SQUARES * width * width * 8,
        folder: folder.into(),
    })
}

/// Problems whose samples are all there already, of the same run.
fn problems_there(traces: &Path, run: &RunConfig, problems: &[Problem]) -> Result<usize> {
    if !traces.join(RUN_FILE).is_file() {
        return Ok(0);
    }
    let store = TraceStore::open_same(traces, run)?;
    Ok(problems.iter().filter(|problem| store.is_complete(problem.index)).count())
}

#[derive(Default)]
struct Count(u64);

impl DecodeSink for Count {
    fn token(&mut self, _: SampleId, _: TokenEvent) {
        self.0 += 1;
    }

    fn finish(&mut self, _: SampleId, _: FinishEvent) {}
}

/// Tokens per second of a full batch, without the reading of its prompt.
fn measure_speed(
    args: &GenerateArgs,
    problems: &[Problem],
    samples: usize,
    model: &mut TextModel,
    console: &Console,
) -> Result<f64> {
    let style = prompt_style(&args.dataset.style)?;
    let prompts = problems.iter().map(|problem| fitting_prompt(problem, &style, model, console));
    let prompt = prompts.filter_map(Result::transpose).next().context(NO_ROOM)??;
    let sample = |number: usize| {
        let seed = sample_seed(args.sampling.seed, 0, number as u64);
        SampleRequest::new(args.sampling.params(), seed, PROBE_TOKENS)
    };
    let samples = (0..samples.min(model.decoder.max_batch())).map(sample).collect();
    model.decoder.submit(PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples })?;
    let mut count = Count::default();
    while count.0 == 0 && model.decoder.step(&mut count)? {}
    let (before, started) = (count.0, Instant::now());
    while model.decoder.step(&mut count)? {}
    Ok(((count.0 - before) as f64 / started.elapsed().as_secs_f64().max(1e-9)).max(1e-3))
}

fn show_cost(cost: &Cost, console: &Console) {
    console.emit("cost", cost);
    if cost.samples_there > 0 {
        console.print(format!("{} samples are there already, from an earlier run", cost.samples_there));
    }
    console.print(format!(
        "{} samples, at most {} tokens; at {:.0} tok/s, as just measured, at most {:.0} min\n\
         at most {:.0} MB of states in {}, and {:.0} MB of memory for the fit",
        cost.samples,
        cost.most_tokens,
        cost.tokens_per_sec,
        (cost.most_secs / 60.0).ceil(),
        cost.most_bytes as f64 / 1e6,
        cost.folder.display(),
        cost.training_bytes as f64 / 1e6,
    ));
}
