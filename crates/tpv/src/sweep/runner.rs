//! The samples of a sweep: which are there, which are missing, and the making of these.

use super::arm::Arm;
use super::effort::require_answers;
use super::figures::{SweepFigures, figures};
use super::result::{SweepResult, by_arm};
use super::tables::{areas_csv, arms_csv, landings_csv};
use crate::answers::judge;
use crate::args::SweepArgs;
use crate::console::Console;
use crate::fitting_prompts::fitting_problems;
use crate::json_lines::read_json_lines;
use crate::model::{SAME_GENERATIONS, nameless, open_dataset, pin_clock, prompt_identity, prompt_style};
use crate::reading_table::warn_of_few_problems;
use crate::recorder::{Recorder, Recording};
use crate::throttles::{Parts, Throttles, remark_on_scale};
use anyhow::{Context, Result, bail};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tpv_core::event::{FinishEvent, FinishReason};
use tpv_core::policy::scale::ScaleMeter;
use tpv_core::policy::{Control, Observation, Policy};
use tpv_core::sampling::sample_seed;
use tpv_data::atomic::{append_line, create_folder, write_bytes, write_json};
use tpv_data::problems::{Problem, ProblemSet};
use tpv_engine::decode::{PromptRequest, SampleRequest};
use tpv_engine::model::{PromptStyle, TextModel};
use tpv_engine::template::PromptTemplate;

/// The lines of the samples.
pub const RESULTS_FILE: &str = "results.jsonl";
/// The figures.
pub const FIGURES_FILE: &str = "figures.json";
/// Problems whose first sample keeps its readings, for the report.
const DRAWN_PROBLEMS: usize = 12;

/// The caps in order, and apart from them those above the token limit of the samples: what happens there is not known.
fn budgets(asked: &[u32], max_new_tokens: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let mut budgets = asked.to_vec();
    budgets.sort_unstable();
    budgets.dedup();
    if budgets.first().is_none_or(|&least| least == 0) {
        bail!("--budgets must be numbers of thinking tokens of at least 1, such as 64,128,256");
    }
    let unknown = budgets.split_off(budgets.partition_point(|&budget| budget as usize <= max_new_tokens));
    if budgets.is_empty() {
        budgets.push(u32::try_from(max_new_tokens)?);
    }
    Ok((budgets, unknown))
}

/// All arms, the model as it is first, each once.
fn arms(args: &SweepArgs, budgets: &[u32]) -> Result<Vec<Arm>> {
    let mut arms = vec![Arm::base(false)];
    let prompts = args.brief.then_some(true).into_iter().chain([false]);
    for brief in prompts {
        let named = args.policy.iter().map(|text| Arm::expand(text, budgets, brief));
        let named = named.collect::<Result<Vec<_>>>()?;
        for arm in std::iter::once(Arm::base(brief)).chain(named.into_iter().flatten()) {
            if !arms.iter().any(|other| other.to_string() == arm.to_string()) {
                arms.push(arm);
            }
        }
    }
    Ok(arms)
}

/// The problems that are asked for, less those that are left out.
fn chosen(args: &SweepArgs, set: &ProblemSet) -> Result<Vec<Problem>> {
    let range = set.select(args.problem_start_idx, args.problem_end_idx.unwrap_or(set.problems.len()))?;
    let chosen: Vec<Problem> = range.iter().filter(|it| !args.left_out.contains(&it.index)).cloned().collect();
    if chosen.is_empty() {
        bail!("no problem lies from --problem_start_idx to --problem_end_idx");
    }
    Ok(chosen)
}

/// The problems with a right answer: without one nothing can be called right or wrong.
fn graded(problems: Vec<Problem>, name: &str, console: &Console) -> Result<Vec<Problem>> {
    let all = problems.len();
    let graded: Vec<Problem> = problems.into_iter().filter(|problem| problem.answer.is_some()).collect();
    if graded.is_empty() {
        bail!("data set {name}: no problem has a right answer to compare with; name their field with --answer_field");
    }
    if graded.len() < all {
        console.notice(format!("{} of {all} problems have no right answer and are left out", all - graded.len()));
    }
    Ok(graded)
}

/// Everything but arm, problem and generation that determines a sample, in one line.
fn settings(args: &SweepArgs, dataset: &str, model: &TextModel, throttles: &Throttles) -> String {
    let prompt = prompt_identity(&args.dataset.style, model);
    let everything = serde_json::json!({
        "model": nameless(&model.identity),
        "dtype": model.decoder.spec().dtype,
        "dataset": dataset,
        "prompts": [prompt, args.brief_template],
        "sampling": args.sampling.params(),
        "seed": args.sampling.seed,
        "max_new_tokens": args.max_new_tokens,
        "vector": throttles.file.content_sha256(),
    });
    everything.to_string()
}

/// Number of the arm, problem, generation.
type Key = (usize, usize, usize);

/// A sweep on a loaded model.
pub struct Sweep<'a> {
    args: &'a SweepArgs,
    budgets: Vec<u32>,
    /// The chosen problems.
    problems: Vec<Problem>,
    /// What is compared, the model as it is first.
    pub arms: Vec<Arm>,
    /// The policies of the arms with every strength as plain alpha.
    policies: Vec<String>,
    /// Problems whose first sample keeps its readings.
    drawn: HashSet<usize>,
    /// The vector.
    pub throttles: Throttles,
    /// The prompt, and the one that asks to be brief.
    styles: [PromptStyle; 2],
    /// The time that prompts may print.
    clock_unix_secs: Option<u64>,
    settings: String,
    meters: Meters,
    /// The samples that are there.
    pub done: Vec<SweepResult>,
}

impl<'a> Sweep<'a> {
    /// Checks everything that can be checked before any sample is made.
    pub fn new(args: &'a SweepArgs, model: &TextModel, console: &Console) -> Result<Self> {
        if args.sampling.params().temperature == 0.0 && args.generations_per_problem > 1 {
            console.notice(SAME_GENERATIONS);
        }
        let (budgets, unknown) = budgets(&args.budgets, args.max_new_tokens)?;
        if !unknown.is_empty() {
            let unknown: Vec<String> = unknown.iter().map(u32::to_string).collect();
            console.notice(format!(
                "budgets above --max_new_tokens {} are left out, for samples are cut there: {}",
                args.max_new_tokens,
                unknown.join(", ")
            ));
        }
        let arms = arms(args, &budgets)?;
        let set = open_dataset(&args.dataset, console)?;
        let problems = chosen(args, &set)?;
        if args.write_efforts {
            require_answers(&set.name, &problems, &args.dataset)?;
        }
        let problems = graded(problems, &set.name, console)?;
        let by_budget = args.policy.iter().any(|policy| policy.contains("{budget}"));
        let without_room = |budget: &&u32| by_budget && **budget as usize >= args.max_new_tokens;
        if let Some(budget) = budgets.iter().find(without_room) {
            console.notice(format!(
                "a budget of {budget} leaves no room for an answer within --max_new_tokens {}: thoughts are cut by that limit, \
                 and policies that end them there look worse than they are",
                args.max_new_tokens
            ));
        }
        let brief = PromptStyle::Template(PromptTemplate::new(&args.brief_template)?);
        let styles = [prompt_style(&args.dataset.style)?, brief];
        let used = if arms.iter().any(|arm| arm.brief) { &styles[..] } else { &styles[..1] };
        let problems = fitting_problems(&problems, used, model, console)?;
        warn_of_few_problems(problems.len(), console);
        let mut throttles = Throttles::open(&args.tpv, model, console)?;
        if !throttles.is_calibrated() && arms.iter().any(|arm| arm.deadline().is_some()) {
            console.notice("the vector has no calibration, so deadlines go by smoothed progress; `tpv train` adds one");
        }
        arms.iter().try_for_each(|arm| throttles.prepare(&arm.throttle, model))?;
        let context = &throttles.prepared.context;
        let remarks = arms.iter().filter_map(|arm| remark_on_scale(&arm.throttle.policy, context));
        remarks.for_each(|remark| console.notice(remark));
        let policies = arms.iter().map(|arm| throttles.resolved(&arm.throttle)).collect::<Result<_>>()?;
        let settings = settings(args, &set.identity(), model, &throttles);
        let drawn = problems.iter().take(DRAWN_PROBLEMS).map(|problem| problem.index).collect();
        Ok(Self {
            args,
            budgets,
            problems,
            arms,
            policies,
            drawn,
            throttles,
            styles,
            clock_unix_secs: None,
            settings,
            meters: Meters::default(),
            done: Vec::new(),
        })
    }

    /// Runs what is missing and writes the figures.
    pub fn measure(&mut self, model: &mut TextModel, console: &Console) -> Result<SweepFigures> {
        let problems = std::mem::take(&mut self.problems);
        let sampled = self.sample_all(&problems, model, console);
        self.problems = problems;
        sampled?;
        let name = model.identity.name.clone();
        let figures = SweepFigures { model: name, ..figures(&self.arms, &self.done, &self.budgets, &self.settings) };
        write_json(&self.args.output_dir.join(FIGURES_FILE), &figures)?;
        let tables =
            [("figures", arms_csv(&figures)), ("areas", areas_csv(&figures)), ("landings", landings_csv(&figures))];
        for (name, csv) in tables {
            write_bytes(&self.args.output_dir.join(format!("{name}.csv")), csv.as_bytes())?;
        }
        Ok(figures)
    }

    fn sample_all(&mut self, problems: &[Problem], model: &mut TextModel, console: &Console) -> Result<()> {
        create_folder(&self.args.output_dir)?;
        let path = self.args.output_dir.join(RESULTS_FILE);
        let present = self.read_results(&path, problems, console)?;
        let total = self.arms.len() * problems.len() * self.args.generations_per_problem;
        if !present.is_empty() {
            console.say(format!("{} of {total} samples are there already", present.len()));
        }
        let bar = console.bar((total - present.len()) as u64, "sweep");
        let by_index: HashMap<usize, &Problem> = problems.iter().map(|problem| (problem.index, problem)).collect();
        let mut recorder = Recorder::new();
        for problem in problems {
            for brief in [false, true] {
                self.submit(problem, brief, &present, model, &mut recorder)?;
            }
        }
        loop {
            let more = model.decoder.step(&mut recorder)?;
            for (key, recording, finish) in recorder.take_finished() {
                let result = self.result(key, by_index[&key.1], &recording, &finish)?;
                append_line(&path, &serde_json::to_string(&result)?)?;
                self.done.push(result);
                bar.inc(1);
            }
            if !more {
                break;
            }
            console.check_interrupted()?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Takes over the samples that are there; damaged lines are made again, and that is said.
    fn read_results(&mut self, path: &Path, problems: &[Problem], console: &Console) -> Result<HashSet<Key>> {
        let lines = read_json_lines::<SweepResult>(path)?;
        if let Some(remark) = lines.remark(path, "what this sweep needs of them is made again") {
            console.notice(remark);
        }
        let numbers: HashMap<String, usize> =
            self.arms.iter().enumerate().map(|(i, arm)| (arm.to_string(), i)).collect();
        let wanted: HashSet<usize> = problems.iter().map(|problem| problem.index).collect();
        let mut present = HashSet::new();
        for result in lines.values {
            let Some(&arm) = numbers.get(&result.arm) else { continue };
            let fits = result.settings == self.settings
                && result.policy == self.policies[arm]
                && wanted.contains(&result.problem)
                && result.generation < self.args.generations_per_problem
                && (result.usual.is_some() || !self.is_measured(arm));
            if fits && present.insert((arm, result.problem, result.generation)) {
                self.done.push(result);
            }
        }
        let clock = self.done.iter().find_map(|result| result.clock_unix_secs);
        self.clock_unix_secs = pin_clock(&mut self.styles[0], clock);
        Ok(present)
    }

    fn submit(
        &self,
        problem: &Problem,
        brief: bool,
        present: &HashSet<Key>,
        model: &mut TextModel,
        recorder: &mut Recorder<Key>,
    ) -> Result<()> {
        let arms = self.arms.iter().enumerate().filter(|(_, arm)| arm.brief == brief);
        let generations = 0..self.args.generations_per_problem;
        let keys =
            arms.flat_map(|(arm, _)| generations.clone().map(move |generation| (arm, problem.index, generation)));
        let missing: Vec<Key> = keys.filter(|key| !present.contains(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let prompt = model.prompts.prompt(&self.styles[usize::from(brief)], &problem.text)?;
        let samples = missing.iter().map(|&key| self.sample(key)).collect::<Result<_>>()?;
        let request = PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples };
        let ids = model.decoder.submit(request).with_context(|| format!("problem {}", problem.index))?;
        ids.into_iter().zip(missing).for_each(|(id, key)| recorder.start(id, key, None));
        Ok(())
    }

    /// Whether the scale of alpha is measured on the arm's states.
    fn is_measured(&self, arm: usize) -> bool {
        let arm = &self.arms[arm];
        self.args.write_efforts && arm.throttle.policy.is_none() && !arm.brief
    }

    fn sample(&self, key: Key) -> Result<SampleRequest> {
        let (arm, problem, generation) = key;
        let Parts { shift, policy, reader } = self.throttles.parts(&self.arms[arm].throttle)?;
        let policy: Box<dyn Policy> = if self.is_measured(arm) {
            Box::new(Measured { shift: Arc::clone(&shift), key, meters: Arc::clone(&self.meters) })
        } else {
            policy
        };
        let seed = sample_seed(self.args.sampling.seed, problem as u64, generation as u64);
        Ok(SampleRequest {
            shift: Some(shift),
            reader,
            policy,
            ..SampleRequest::new(self.args.sampling.params(), seed, self.args.max_new_tokens)
        })
    }

    fn result(&self, key: Key, source: &Problem, recording: &Recording, finish: &FinishEvent) -> Result<SweepResult> {
        let (arm, problem, generation) = key;
        let name = self.arms[arm].to_string();
        if finish.reason == FinishReason::Failed {
            bail!("problem {problem}, policy {name}: {}", finish.error.clone().unwrap_or_default());
        }
        let (answer, correct) = judge(recording, finish, source.answer.as_deref());
        let drawn = generation == 0 && self.arms[arm].plain_alpha().is_some() && self.drawn.contains(&problem);
        let readings = if drawn { recording.readings.as_slice() } else { &[] };
        Ok(SweepResult {
            settings: self.settings.clone(),
            arm: name,
            policy: self.policies[arm].clone(),
            problem,
            generation,
            thinking_tokens: finish.thinking_tokens,
            thinking_secs: finish.thinking_secs,
            generated_tokens: finish.generated_tokens,
            thinking_ended: finish.thinking_ended,
            forced: finish.thinking_ended && recording.end_forced,
            answer,
            correct,
            usual: self.is_measured(arm).then(|| lock(&self.meters).remove(&key).unwrap_or_default()),
            progress: readings.iter().map(|reading| rounded(reading.progress)).collect(),
            clock_unix_secs: self.clock_unix_secs,
        })
    }

    /// Logits of `</think>` per unit of alpha as measured on all samples of the model as it is; none before any.
    pub fn measured_scale(&self, think_end: u32) -> Option<f32> {
        let mut meter = ScaleMeter::default();
        // In the order of problems and generations, so that the sum does not depend on which sample was ready first.
        let sorted = by_arm(&self.done);
        let base = sorted.get(&Arm::base(false).to_string()).into_iter().flatten();
        base.filter_map(|result| result.usual.as_ref()).for_each(|of_sample| meter.merge(of_sample));
        meter.logits_per_alpha(&self.throttles.prepared.shift, think_end)
    }
}

/// Progress to three digits; 0 where it is not known yet.
fn rounded(progress: Option<f32>) -> f32 {
    (progress.unwrap_or(0.0) * 1000.0).round() / 1000.0
}

/// What is measured on the samples that are under way.
type Meters = Arc<Mutex<HashMap<Key, ScaleMeter>>>;

fn lock(meters: &Meters) -> MutexGuard<'_, HashMap<Key, ScaleMeter>> {
    meters.lock().expect("no thread panics with it")
}

/// Leaves the model as it is and measures the scale of alpha on its states.
struct Measured {
    shift: Arc<[f32]>,
    key: Key,
    meters: Meters,
}

impl Policy for Measured {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let mut state = ScaleMeter::default();
        state.push(&self.shift, observation.logits_before_shift);
        lock(&self.meters).entry(self.key).or_default().merge(&state);
        Control::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_sorted_and_positive() {
        assert_eq!(budgets(&[256, 64, 64], 256).unwrap(), (vec![64, 256], vec![]));
        assert_eq!(budgets(&[256, 64, 512], 255).unwrap(), (vec![64], vec![256, 512]), "what lies above is not known");
        assert_eq!(budgets(&[256], 200).unwrap(), (vec![200], vec![256]));
        assert!(budgets(&[0, 5], 9).is_err() && budgets(&[], 9).is_err());
    }
}
