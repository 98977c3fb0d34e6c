//! `tpv sweep`: many policies on the same problems and seeds, and an account of what each gives at each budget.
//!
//! Every sample is a line of `results.jsonl`, from which an interrupted sweep goes on. A policy with `{budget}` in it is
//! run once for each budget; all others are run once, uncapped, and cut at the budgets on paper.

use crate::answers::judge;
use crate::args::SweepArgs;
use crate::console::Console;
use crate::model::{open_dataset, open_model};
use crate::recorder::{Keep, Recorder, Recording};
use crate::sweep::arm::Arm;
use crate::sweep::effort;
use crate::sweep::figures::{ArmFigures, SweepFigures, arms_csv, figures};
use crate::sweep::result::SweepResult;
use crate::table::table;
use crate::throttles::{Parts, Throttles};
use anyhow::{Context, Result, bail};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tpv_core::bootstrap::Interval;
use tpv_core::event::{FinishEvent, FinishReason};
use tpv_core::policy::scale::ScaleMeter;
use tpv_core::policy::{Control, Observation, Policy, SCALE_FIGURE};
use tpv_core::sampling::sample_seed;
use tpv_data::atomic::{append_line, create_folder, write_bytes, write_json};
use tpv_data::problems::{Problem, ProblemSet};
use tpv_data::vector::VECTOR_FILE;
use tpv_engine::decode::{IntervenePhase, PromptRequest, SampleRequest};
use tpv_engine::model::{PromptStyle, TextModel};
use tpv_engine::template::PromptTemplate;

/// The lines of the samples.
pub const RESULTS_FILE: &str = "results.jsonl";
/// The figures.
pub const FIGURES_FILE: &str = "figures.json";

/// Runs the command.
pub fn run(args: &SweepArgs, console: &Console) -> Result<SweepFigures> {
    let mut model = open_model(&args.model, &args.run, console)?;
    let mut sweep = Sweep::new(args, &model, console)?;
    let figures = sweep.measure(&mut model, console)?;
    report(&figures, args, console);
    if args.write_efforts {
        sweep.write_efforts(&figures, &model, console)?;
    }
    Ok(figures)
}

/// Runs a sweep on a loaded model and says nothing about it.
pub fn measure(args: &SweepArgs, model: &mut TextModel, console: &Console) -> Result<SweepFigures> {
    Sweep::new(args, model, console)?.measure(model, console)
}

fn budgets(asked: &[u32]) -> Result<Vec<u32>> {
    let mut budgets = asked.to_vec();
    budgets.sort_unstable();
    budgets.dedup();
    if budgets.first().is_none_or(|&least| least == 0) {
        bail!("--budgets must be numbers of thinking tokens of at least 1, such as 64,128,256");
    }
    Ok(budgets)
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

fn style(template: &str) -> Result<PromptStyle> {
    Ok(PromptStyle::Template(PromptTemplate::new(template)?))
}

/// Everything but arm, problem and generation that determines a sample, in one line.
fn settings(args: &SweepArgs, dataset: &str, model: &TextModel, throttles: &Throttles) -> String {
    let checksum: f64 = throttles.shift.iter().enumerate().map(|(i, &value)| f64::from(value) * (1.0 + i as f64)).sum();
    let everything = serde_json::json!({
        "model": model.identity,
        "dtype": model.decoder.spec().dtype,
        "dataset": dataset,
        "prompts": [args.dataset.prompt_template, args.brief_template],
        "sampling": args.sampling.params(),
        "seed": args.sampling.seed,
        "max_new_tokens": args.max_new_tokens,
        "shift": checksum,
        "calibrated": throttles.is_calibrated(),
    });
    everything.to_string()
}

/// Number of the arm, problem, generation.
type Key = (usize, usize, usize);

struct Sweep<'a> {
    args: &'a SweepArgs,
    budgets: Vec<u32>,
    problems: ProblemSet,
    arms: Vec<Arm>,
    throttles: Throttles,
    /// The prompt, and the one that asks to be brief.
    styles: [PromptStyle; 2],
    settings: String,
    meter: Arc<Mutex<ScaleMeter>>,
    done: Vec<SweepResult>,
}

impl<'a> Sweep<'a> {
    fn new(args: &'a SweepArgs, model: &TextModel, console: &Console) -> Result<Self> {
        if args.generations_per_problem == 0 || args.max_new_tokens == 0 {
            bail!("--generations_per_problem and --max_new_tokens must be at least 1");
        }
        let budgets = budgets(&args.budgets)?;
        let arms = arms(args, &budgets)?;
        let problems = open_dataset(&args.dataset, console)?;
        let mut throttles = Throttles::open(&args.tpv, model)?;
        if !throttles.is_calibrated() && arms.iter().any(|arm| arm.deadline_tokens().is_some()) {
            console.notice("the vector has no calibration, so deadlines go by smoothed progress; `tpv train` adds one");
        }
        arms.iter().try_for_each(|arm| throttles.prepare(&arm.throttle, model))?;
        let styles = [style(&args.dataset.prompt_template)?, style(&args.brief_template)?];
        let settings = settings(args, &problems.name, model, &throttles);
        let meter = Arc::new(Mutex::new(ScaleMeter::default()));
        Ok(Self { args, budgets, problems, arms, throttles, styles, settings, meter, done: Vec::new() })
    }

    /// Runs what is missing and writes the figures.
    fn measure(&mut self, model: &mut TextModel, console: &Console) -> Result<SweepFigures> {
        let end = self.args.problem_end_idx.unwrap_or(self.problems.problems.len());
        let chosen = self.problems.select(self.args.problem_start_idx, end)?.to_vec();
        self.sample_all(&chosen, model, console)?;
        let figures = figures(&self.arms, &self.done, &self.budgets, &self.settings);
        write_json(&self.args.output_dir.join(FIGURES_FILE), &figures)?;
        write_bytes(&self.args.output_dir.join("figures.csv"), arms_csv(&figures).as_bytes())?;
        Ok(figures)
    }

    fn sample_all(&mut self, problems: &[Problem], model: &mut TextModel, console: &Console) -> Result<()> {
        create_folder(&self.args.output_dir)?;
        let path = self.args.output_dir.join(RESULTS_FILE);
        let present = self.read_results(&path, problems)?;
        let total = self.arms.len() * problems.len() * self.args.generations_per_problem;
        if !present.is_empty() {
            console.say(format!("{} of {total} samples are there already", present.len()));
        }
        let bar = console.bar((total - present.len()) as u64, "sweep");
        let by_index: HashMap<usize, &Problem> = problems.iter().map(|problem| (problem.index, problem)).collect();
        let mut recorder = Recorder::new(Keep::NOTHING);
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

    /// Takes over the samples that are there, but for a last line that was cut off.
    fn read_results(&mut self, path: &Path, problems: &[Problem]) -> Result<HashSet<Key>> {
        if !path.exists() {
            return Ok(HashSet::new());
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let numbers: HashMap<String, usize> =
            self.arms.iter().enumerate().map(|(i, arm)| (arm.to_string(), i)).collect();
        let wanted: HashSet<usize> = problems.iter().map(|problem| problem.index).collect();
        let mut present = HashSet::new();
        for result in text.lines().filter_map(|line| serde_json::from_str::<SweepResult>(line).ok()) {
            let Some(&arm) = numbers.get(&result.arm) else { continue };
            let fits = result.settings == self.settings
                && wanted.contains(&result.problem)
                && result.generation < self.args.generations_per_problem;
            if fits && present.insert((arm, result.problem, result.generation)) {
                self.done.push(result);
            }
        }
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
        let ids = model.decoder.submit(PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples })?;
        ids.into_iter().zip(missing).for_each(|(id, key)| recorder.start(id, key));
        Ok(())
    }

    fn sample(&self, (arm, problem, generation): Key) -> Result<SampleRequest> {
        let arm = &self.arms[arm];
        let Parts { shift, policy, reader } = self.throttles.parts(&arm.throttle)?;
        let measured = self.args.write_efforts && arm.throttle.policy.is_none() && !arm.brief;
        let policy: Box<dyn Policy> = if measured {
            Box::new(Measured { shift: Arc::clone(&shift), meter: Arc::clone(&self.meter) })
        } else {
            policy
        };
        Ok(SampleRequest {
            sampling: self.args.sampling.params(),
            seed: sample_seed(self.args.sampling.seed, problem as u64, generation as u64),
            max_new_tokens: self.args.max_new_tokens,
            shift: Some(shift),
            intervene: IntervenePhase::Thinking,
            reader,
            policy,
            logit_bias: Vec::new(),
            stop_texts: Vec::new(),
        })
    }

    fn result(
        &self,
        (arm, problem, generation): Key,
        source: &Problem,
        recording: &Recording,
        finish: &FinishEvent,
    ) -> Result<SweepResult> {
        let arm = self.arms[arm].to_string();
        if finish.reason == FinishReason::Failed {
            bail!("problem {problem}, policy {arm}: {}", finish.error.clone().unwrap_or_default());
        }
        let (answer, correct) = judge(recording, finish, source.answer.as_deref());
        Ok(SweepResult {
            settings: self.settings.clone(),
            arm,
            problem,
            generation,
            thinking_tokens: finish.thinking_tokens,
            generated_tokens: finish.generated_tokens,
            thinking_ended: finish.thinking_ended,
            forced: recording.forced_tokens > 0,
            answer,
            correct,
        })
    }

    /// Writes effort levels and the measured scale into the vector file.
    fn write_efforts(&mut self, figures: &SweepFigures, model: &TextModel, console: &Console) -> Result<()> {
        let uncapped = |arm: &Arm| figures.arms.iter().find(|row| row.arm == arm.to_string() && row.cap.is_none());
        let plain = |arm: &Arm| effort::plain_alpha(arm).zip(uncapped(arm));
        let candidates: Vec<(f32, &ArmFigures)> = self.arms.iter().filter_map(plain).collect();
        let efforts = effort::choose(&candidates).context("effort levels need the run without a policy")?;
        let scale = self
            .meter
            .lock()
            .expect("no thread panics with it")
            .logits_per_alpha(&self.throttles.shift, model.prompts.think_end[0]);
        let file = &mut self.throttles.file;
        file.vector.efforts = efforts;
        if let Some(scale) = scale {
            file.vector.info.figures.insert(SCALE_FIGURE.into(), scale.into());
        }
        let path = if self.args.tpv.is_dir() { self.args.tpv.join(VECTOR_FILE) } else { self.args.tpv.clone() };
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            bail!("{}: effort levels can only be written into a .safetensors vector", path.display());
        }
        file.save(&path)?;
        console.emit("efforts", &file.vector.efforts);
        let levels: Vec<String> = file.vector.efforts.iter().map(|(name, alpha)| format!("{name} = {alpha}")).collect();
        let scale = scale.map_or_else(String::new, |scale| format!("; one alpha is {scale:.4} logits of </think>"));
        console.print(format!("effort levels in {}: {}{scale}", path.display(), levels.join(", ")));
        Ok(())
    }
}

/// Leaves the model as it is and measures the scale of alpha on its states.
struct Measured {
    shift: Arc<[f32]>,
    meter: Arc<Mutex<ScaleMeter>>,
}

impl Policy for Measured {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let mut state = ScaleMeter::default();
        state.push(&self.shift, observation.logits_before_shift);
        self.meter.lock().expect("no thread panics with it").merge(&state);
        Control::default()
    }
}

fn percent(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || "-".into(),
        |it| format!("{:.1} ({:.1} to {:.1})", 100.0 * it.value, 100.0 * it.low, 100.0 * it.high),
    )
}

fn report(figures: &SweepFigures, args: &SweepArgs, console: &Console) {
    console.emit("sweep", figures);
    let rows = figures.arms.iter().map(|row| {
        vec![
            row.arm.clone(),
            row.cap.map_or_else(|| "none".into(), |cap| cap.to_string()),
            format!("{:.1}", row.mean_tokens),
            format!("{:.0}", row.median_tokens),
            row.ended.to_string(),
            row.answered.to_string(),
            row.correct.to_string(),
            percent(row.accuracy),
            percent(row.less_base),
            row.mcnemar_p.map_or_else(|| "-".into(), |p| format!("{p:.3}")),
        ]
    });
    let header = [
        "policy",
        "cap",
        "mean tokens",
        "median",
        "ended",
        "answered",
        "correct",
        "accuracy %",
        "less base",
        "McNemar p",
    ];
    console.print(table(&header, rows));
    let rows = figures.areas.iter().map(|it| vec![it.family.clone(), percent(it.area)]);
    console.print(table(&["area under accuracy over caps", "% of all right at once"], rows));
    if !figures.landings.is_empty() {
        landings(figures, console);
    }
    console.print(format!(
        "{} samples for each policy; 95 % bootstrap intervals by problem; figures.json and figures.csv are in {}",
        figures.arms.first().map_or(0, |row| row.samples),
        args.output_dir.display()
    ));
}

fn landings(figures: &SweepFigures, console: &Console) {
    let share = |value: Option<f64>| value.map_or_else(|| "-".into(), |it| format!("{:.1}", 100.0 * it));
    let rows = figures.landings.iter().map(|it| {
        vec![
            it.arm.clone(),
            format!("{:.2}", it.target_over_median),
            it.late_samples.to_string(),
            share(it.late_landing_error),
            share(it.landing_error),
            share(Some(it.worst_overshoot)),
            share(Some(it.forced_share)),
            percent(it.less_hard_cut),
            percent(it.less_cut_without_answer),
        ]
    });
    let header = [
        "deadline",
        "of median",
        "late",
        "landing % (late)",
        "landing % (all)",
        "worst over %",
        "forced %",
        "less budget",
        "less cut",
    ];
    console.print(table(&header, rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_sorted_and_positive() {
        assert_eq!(budgets(&[256, 64, 64]).unwrap(), [64, 256]);
        assert!(budgets(&[0, 5]).is_err() && budgets(&[]).is_err());
    }
}
