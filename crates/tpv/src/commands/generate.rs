//! `tpv generate`: samples thoughts and records the final hidden states in the trace store.
//!
//! Several problems are in flight at once; a problem is written when all its generations are there, so a run that is
//! stopped or killed goes on where it was. The draws depend on (seed, problem, generation) alone. With `--fit` the sums for
//! `tpv train` are made on the way (see [`crate::streaming_fit`]).

use crate::answers::judge;
use crate::args::{GenerateArgs, KeepStates, RunArgs};
use crate::console::Console;
use crate::fitting_prompts::{NO_ROOM, fitting_prompt};
use crate::model::{SAME_GENERATIONS, advice_on_failure, open_dataset, open_model, pin_clock, prompt_style};
use crate::recorder::{KeptStates, Recorder, Recording};
use crate::streaming_fit::StreamingFit;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tpv_core::event::{FinishEvent, FinishReason};
use tpv_core::sampling::sample_seed;
use tpv_data::problems::{Problem, ProblemSet};
use tpv_data::run::RunConfig;
use tpv_data::source::{TraceSource, count_reasons};
use tpv_data::states::{Spill, StateLog};
use tpv_data::sums::SumsRecord;
use tpv_data::timings::{ProblemTimes, TraceTimes};
use tpv_data::trace::{Generation, GenerationRecord, ProblemTraces, TraceStore};
use tpv_engine::decode::{PromptRequest, SampleRequest};
use tpv_engine::model::{Prompt, PromptStyle, TextModel};

/// What a run did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GenerateSummary {
    /// Problems asked for.
    pub problems: usize,
    /// Problems that were there already.
    pub skipped: usize,
    /// Samples drawn in this run.
    pub samples: usize,
    /// Samples whose thinking ended.
    pub thinking_ended: usize,
    /// Samples with the right answer, of those with a gold answer.
    pub correct: usize,
    /// Problems whose prompt leaves no room for an answer; nothing of them is recorded.
    pub too_long: usize,
    /// Tokens generated in this run.
    pub tokens: u64,
    /// Tokens that were guessed ahead in this run.
    pub tokens_guessed: u64,
    /// Guesses that were right.
    pub guesses_right: u64,
    /// Seconds that the sampling took.
    pub elapsed_secs: f64,
    /// The most bytes of states that were in memory at a time: a buffer for each problem in flight, and where each state is.
    pub peak_state_bytes: usize,
    /// The most bytes of states that were in temporary files at a time: those of problems that were not yet complete.
    pub peak_spilled_bytes: u64,
    /// What is in the sums, with `--fit`.
    pub fit: Option<FitSummary>,
}

/// What is in a run's sums.
#[derive(Debug, Clone, Serialize)]
pub struct FitSummary {
    /// The file.
    pub file: PathBuf,
    /// Problems.
    pub problems: usize,
    /// Thoughts.
    pub thoughts: usize,
    /// States.
    pub states: usize,
    /// Bytes of memory that the sums took.
    pub bytes: usize,
    /// Thoughts that were left out, by reason.
    pub left_out: BTreeMap<String, usize>,
}

impl FitSummary {
    fn of(file: PathBuf, record: &SumsRecord, bytes: usize) -> Self {
        Self {
            file,
            bytes,
            problems: record.problems.len(),
            thoughts: record.thoughts.len(),
            states: record.thoughts.iter().map(|thought| thought.thinking_tokens).sum(),
            left_out: count_reasons(&record.left_out),
        }
    }
}

/// Runs the command.
pub fn run(args: &GenerateArgs, console: &Console) -> Result<GenerateSummary> {
    check(args)?;
    let problems = open_dataset(&args.dataset, console)?;
    problems.select(args.start_problem_index, args.end(problems.problems.len()))?;
    let run = RunArgs { collects_traces: true, ..args.run.clone() };
    let mut model = open_model(&args.model, &run, console)?;
    run_with(args, &problems, &mut model, console)
}

/// Refuses flags that no problem and no model could make sense of.
pub fn check(args: &GenerateArgs) -> Result<()> {
    if args.keep_states == KeepStates::None && !args.fit {
        bail!("--keep_states none leaves nothing to fit a vector on; add --fit to sum the states up before they go");
    }
    Ok(args.sampling.params().validate()?)
}

/// Runs the command with problems and a model that are loaded.
pub fn run_with(
    args: &GenerateArgs,
    problems: &ProblemSet,
    model: &mut TextModel,
    console: &Console,
) -> Result<GenerateSummary> {
    check(args)?;
    if args.sampling.params().temperature == 0.0 && args.generations_per_problem > 1 {
        console.notice(SAME_GENERATIONS);
    }
    let of_shard = |problem: &&Problem| args.shard.is_none_or(|shard| shard.holds(problem.index as u64));
    let range = problems.select(args.start_problem_index, args.end(problems.problems.len()))?;
    let chosen: Vec<&Problem> = range.iter().filter(of_shard).collect();
    let mut style = prompt_style(&args.dataset.style)?;
    let clock_unix_secs = pin_clock(&mut style, None);
    let config = RunConfig { clock_unix_secs, ..run_config(args, problems, model) };
    let store = TraceStore::create(&args.output_dir, &config)?;
    pin_clock(&mut style, store.run().clock_unix_secs);
    for left_out in store.left_out() {
        console
            .notice(format!("{}: {}; what this run needs of it is generated again", left_out.trace, left_out.reason));
    }
    chosen.iter().try_for_each(|problem| refuse_another_problem(&store, problem))?;
    let indexes = chosen.iter().map(|problem| problem.index);
    let fit = args.fit.then(|| StreamingFit::open(&store, args.shard, indexes)).transpose()?;
    let lacks_states = |problem: usize| fit.as_ref().is_some_and(|fit| fit.lacks(&store, problem));
    let is_missing = |problem: usize| !store.is_complete(problem) || lacks_states(problem);
    let missing: Vec<&Problem> = chosen.iter().copied().filter(|problem| is_missing(problem.index)).collect();
    let skipped = chosen.len() - missing.len();
    if chosen.is_empty() && args.shard.is_some() {
        console.notice("none of these problems belongs to this shard");
    }
    if skipped > 0 {
        console.say(format!("{skipped} of {} problems are in {} already", chosen.len(), args.output_dir.display()));
    }
    let summary = GenerateSummary { problems: chosen.len(), skipped, ..GenerateSummary::default() };
    let spill = Spill::new(store.folder());
    let mut run = Run { args, store, spill, style, recorder: Recorder::new(), open: BTreeMap::new(), fit, summary };
    run.sample_all(&missing, model, console)?;
    run.finish_fit(console)?;
    if !chosen.is_empty() && run.summary.too_long == chosen.len() {
        bail!(NO_ROOM);
    }
    report(&run.summary, args, console);
    Ok(run.summary)
}

/// Refuses a problem that the folder knows with other words or another answer: the data set has changed, or another one has
/// the same name.
fn refuse_another_problem(store: &TraceStore, problem: &Problem) -> Result<()> {
    if store.of_problem(problem.index).next().is_none() {
        return Ok(());
    }
    let record = store.record(problem.index)?;
    let differs = match (record.problem_text == problem.text, record.gold == problem.answer) {
        (true, true) => return Ok(()),
        (false, _) => "is another one",
        (true, false) => "has another answer",
    };
    let (path, index) = (store.problem_path(problem.index), problem.index);
    bail!(
        "{}: problem {index} {differs} in the data set now; give the data set of that run, or choose another folder",
        path.display()
    )
}

/// What `run.json` says of a run, but for the time.
pub fn run_config(args: &GenerateArgs, problems: &ProblemSet, model: &TextModel) -> RunConfig {
    let chat_template = model.prompts.chat_template_sha256().filter(|_| args.dataset.style.chat_template);
    RunConfig {
        model: model.identity.clone(),
        dtype: model.decoder.spec().dtype.clone(),
        dataset: problems.name.clone(),
        dataset_fingerprint: Some(problems.fingerprint()),
        prompt_template: args.dataset.style.template().map(str::to_owned),
        chat_template: args.dataset.style.chat_template,
        chat_template_sha256: chat_template.map(str::to_owned),
        sampling: args.sampling.params(),
        seed: args.sampling.seed,
        max_new_tokens: args.max_new_tokens,
        generations_per_problem: args.generations_per_problem,
        states_dtype: args.states_dtype.into(),
        thinking_only: args.keep_states != KeepStates::All,
        states_kept: args.keep_states != KeepStates::None,
        ..RunConfig::default()
    }
}

/// A problem whose generations are under way.
struct OpenProblem<'a> {
    problem: &'a Problem,
    prompt: Prompt,
    /// Where the states of all its generations are.
    states: Arc<StateLog>,
    generations: Vec<Option<Generation>>,
    timings: Vec<TraceTimes>,
}

struct Run<'a> {
    args: &'a GenerateArgs,
    store: TraceStore,
    spill: Arc<Spill>,
    style: PromptStyle,
    recorder: Recorder<(usize, usize)>,
    open: BTreeMap<usize, OpenProblem<'a>>,
    fit: Option<StreamingFit>,
    summary: GenerateSummary,
}

impl<'a> Run<'a> {
    fn sample_all(&mut self, problems: &[&'a Problem], model: &mut TextModel, console: &Console) -> Result<()> {
        let (started, drafts_before) = (Instant::now(), model.decoder.draft_counts());
        let bar = console.bar((problems.len() * self.args.generations_per_problem) as u64, "generate");
        let mut waiting = problems.iter();
        loop {
            console.check_interrupted()?;
            while model.decoder.samples_waiting() < self.args.generations_per_problem {
                let Some(problem) = waiting.next() else { break };
                if !self.submit(problem, model, console)? {
                    bar.inc(self.args.generations_per_problem as u64);
                }
            }
            let more = model.decoder.step(&mut self.recorder)?;
            self.count_states();
            for ((problem, generation), recording, finish) in self.recorder.take_finished() {
                bar.inc(1);
                self.finish((problem, generation), recording, finish, model)?;
            }
            if let Some(fit) = &mut self.fit {
                fit.advance(&mut self.store, console)?;
            }
            let speed = self.recorder.tokens as f64 / started.elapsed().as_secs_f64();
            bar.set_message(format!("{speed:.0} tok/s"));
            if !more && waiting.len() == 0 {
                break;
            }
        }
        bar.finish_and_clear();
        self.summary.tokens = self.recorder.tokens;
        self.summary.elapsed_secs = started.elapsed().as_secs_f64();
        let drafts = model.decoder.draft_counts();
        self.summary.tokens_guessed = drafts.guessed - drafts_before.guessed;
        self.summary.guesses_right = drafts.right - drafts_before.right;
        Ok(())
    }

    /// Counts the bytes of the states that are held now.
    fn count_states(&mut self) {
        let (mut memory, mut spilled) = (self.recorder.state_bytes(), 0);
        for open in self.open.values() {
            let finished = open.generations.iter().flatten().map(|it| it.states.bytes_in_memory());
            memory += finished.sum::<usize>() + open.states.bytes_in_memory();
            spilled += open.states.bytes_in_file();
        }
        self.summary.peak_state_bytes = self.summary.peak_state_bytes.max(memory);
        self.summary.peak_spilled_bytes = self.summary.peak_spilled_bytes.max(spilled);
    }

    fn finish_fit(&mut self, console: &Console) -> Result<()> {
        if let Some(mut fit) = self.fit.take() {
            fit.advance(&mut self.store, console)?;
            let bytes = fit.peak_bytes();
            let (file, record) = fit.finish(&mut self.store)?;
            self.summary.fit = Some(FitSummary::of(file, &record, bytes));
        }
        Ok(())
    }

    /// Hands a problem to the decode loop; one whose prompt fills the model's positions is passed over.
    fn submit(&mut self, problem: &'a Problem, model: &mut TextModel, console: &Console) -> Result<bool> {
        let Some(prompt) = fitting_prompt(problem, &self.style, model, console)? else {
            self.summary.too_long += 1;
            self.fit.iter_mut().for_each(|fit| fit.pass_over(problem.index));
            return Ok(false);
        };
        let count = self.args.generations_per_problem;
        let RunConfig { states_dtype, thinking_only, model: ref identity, .. } = *self.store.run();
        let states = self.spill.log(states_dtype, identity.hidden_size);
        let kept: Vec<Arc<KeptStates>> = (0..count).map(|_| KeptStates::new(states.writer(), thinking_only)).collect();
        let samples =
            kept.iter().cloned().enumerate().map(|(generation, kept)| self.sample(problem.index, generation, kept));
        let (tokens, phase, samples) = (prompt.tokens.clone(), prompt.phase.clone(), samples.collect());
        let request = PromptRequest { tokens, phase, samples };
        let ids = model.decoder.submit(request).with_context(|| format!("problem {}", problem.index))?;
        for (generation, (id, kept)) in ids.into_iter().zip(kept).enumerate() {
            self.recorder.start(id, (problem.index, generation), Some(kept));
        }
        let generations = (0..count).map(|_| None).collect();
        let open = OpenProblem { problem, prompt, states, generations, timings: Vec::new() };
        self.open.insert(problem.index, open);
        Ok(true)
    }

    fn sample(&self, problem: usize, generation: usize, kept: Arc<KeptStates>) -> SampleRequest {
        let seed = sample_seed(self.args.sampling.seed, problem as u64, generation as u64);
        SampleRequest {
            states: Some(kept),
            ..SampleRequest::new(self.args.sampling.params(), seed, self.args.max_new_tokens)
        }
    }

    fn finish(
        &mut self,
        (problem, generation): (usize, usize),
        recording: Recording,
        finish: FinishEvent,
        model: &TextModel,
    ) -> Result<()> {
        let (states, first_state) = recording.states.as_ref().expect("the states of every sample are kept").take()?;
        if finish.reason == FinishReason::Failed {
            let why = finish.error.unwrap_or_default();
            let advice = advice_on_failure(&model.decoder.spec().dtype);
            bail!("problem {problem}, generation {generation}: {why}; {advice}");
        }
        let open = self.open.get_mut(&problem).expect("a problem stays open until all its generations are there");
        let record = record(&recording, first_state, &finish, open.problem.answer.as_deref());
        self.summary.samples += 1;
        self.summary.thinking_ended += usize::from(finish.thinking_ended);
        self.summary.correct += usize::from(record.correct == Some(true));
        let Recording { token_ids, thinking_secs, .. } = recording;
        open.generations[generation] = Some(Generation { record, token_ids, states });
        open.timings.push(TraceTimes::new(generation, finish, thinking_secs));
        if open.timings.len() == open.generations.len() {
            let open = self.open.remove(&problem).expect("it was found above");
            self.write(open)?;
        }
        Ok(())
    }

    fn write(&mut self, open: OpenProblem<'_>) -> Result<()> {
        let times = ProblemTimes { problem: open.problem.index, generations: open.timings };
        self.store.write(&ProblemTraces {
            problem: open.problem.index,
            problem_text: open.problem.text.clone(),
            gold: open.problem.answer.clone(),
            prompt: open.prompt.text,
            prompt_token_ids: open.prompt.tokens,
            generations: open.generations.into_iter().flatten().collect(),
        })?;
        Ok(times.append(self.store.folder())?)
    }
}

fn record(recording: &Recording, first_state: usize, finish: &FinishEvent, gold: Option<&str>) -> GenerationRecord {
    let (answer, correct) = judge(recording, finish, gold);
    GenerationRecord {
        text: recording.text(),
        finish_reason: finish.reason,
        first_state,
        thinking_start: recording.thinking_start.unwrap_or(0),
        thinking_tokens: finish.thinking_tokens as usize,
        thinking_ended: finish.thinking_ended,
        answer,
        correct,
    }
}

fn report(summary: &GenerateSummary, args: &GenerateArgs, console: &Console) {
    console.emit("generate", summary);
    let GenerateSummary { samples, thinking_ended, tokens, elapsed_secs, .. } = summary;
    let speed = *tokens as f64 / elapsed_secs.max(1e-9);
    console.print(match samples {
        0 => "nothing was left to do".to_owned(),
        _ => format!(
            "{samples} samples of {} problems, {thinking_ended} ended their thinking, {tokens} tokens in {elapsed_secs:.1} s ({speed:.0} tok/s)",
            summary.problems - summary.skipped - summary.too_long,
        ),
    });
    if summary.tokens_guessed > 0 {
        let GenerateSummary { tokens_guessed, guesses_right, .. } = summary;
        console.print(format!("{guesses_right} of {tokens_guessed} tokens guessed ahead were right"));
    }
    let folder = args.output_dir.display();
    if let Some(fit) = &summary.fit {
        let FitSummary { problems, thoughts, states, .. } = fit;
        console.print(if *problems == 0 {
            format!(
                "no problem is summed in {}: those of this run are in other sums of the folder, or lack room",
                fit.file.display()
            )
        } else {
            format!(
                "{states} states of {thoughts} thoughts of {problems} problems are summed in {}",
                fit.file.display()
            )
        });
        fit.left_out.iter().for_each(|(reason, count)| console.print(format!("left out: {count} ({reason})")));
    }
    console.print(match args.keep_states {
        KeepStates::None => format!(
            "no states were kept: theta and the heads can be fitted and measured by MSE and R2, but intervals by problem, the\n\
             calibration and the time left need states (--keep_states thinking); next: tpv train {folder}"
        ),
        _ => format!("traces are in {folder}; next: tpv prepare --input_dir {folder}"),
    });
}
