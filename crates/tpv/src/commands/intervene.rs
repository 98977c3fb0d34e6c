//! `tpv intervene`: the same problems and seeds with and without the push along theta, side by side.
//!
//! Every response is written where the Python scripts write it, under the problem's true index, and as a line of
//! `results.jsonl`, from which an interrupted run goes on.

use crate::answers::judge;
use crate::args::{InterveneArgs, PhaseArg};
use crate::console::Console;
use crate::fitting_prompts::fitting_problems;
use crate::json_lines::read_json_lines;
use crate::model::{SAME_GENERATIONS, nameless, open_dataset, open_model, pin_clock, prompt_identity, prompt_style};
use crate::recorder::{Recorder, Recording};
use crate::table::table;
use crate::throttles::{Parts, Throttles, remark_on_scale};
use crate::vectors::{at_path_or_of_model, check_path};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use tpv_core::event::{FinishEvent, FinishReason};
use tpv_core::policy::scale::unmeasured_logits_per_alpha;
use tpv_core::policy::{Direction, PolicySpec, Strength, Term, Throttle};
use tpv_core::sampling::{SamplingParams, sample_seed};
use tpv_data::atomic::{append_line, create_folder, write_bytes};
use tpv_data::files;
use tpv_data::problems::Problem;
use tpv_engine::decode::{IntervenePhase, PromptRequest, SampleRequest};
use tpv_engine::model::{PromptStyle, TextModel};

/// One response, a line of `results.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// What it was made with; lines of other settings are kept but not counted.
    pub settings: String,
    /// The problem's index.
    pub problem: usize,
    /// The sample's number.
    pub generation: usize,
    /// Strength of the push, where it is constant; 0 for other policies.
    pub alpha: f32,
    /// The policy.
    #[serde(default)]
    pub policy: String,
    /// Thinking tokens, `</think>` included.
    pub thinking_tokens: u32,
    /// Generated tokens.
    pub generated_tokens: u32,
    /// Whether `</think>` came.
    pub thinking_ended: bool,
    /// The answer that was found.
    pub answer: Option<String>,
    /// Whether it is right; none without a gold answer.
    pub correct: Option<bool>,
    /// Prompt and response.
    pub text: String,
    /// The time that the chat template may have printed, that of the first response: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_unix_secs: Option<u64>,
}

/// The figures of one policy, a row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct AlphaRow {
    /// Strength of the push, where it is constant; 0 for other policies.
    pub alpha: f32,
    /// The policy.
    pub policy: String,
    /// Responses.
    pub responses: usize,
    /// Mean number of thinking tokens.
    pub mean_thinking_tokens: f64,
    /// Responses whose thinking ended.
    pub ended: usize,
    /// Responses with an answer.
    pub answered: usize,
    /// Right answers; none where no gold answer is known.
    pub correct: Option<usize>,
    /// What alpha adds to the logit of `</think>` (its first token).
    pub think_end_logit_shift: Option<f32>,
    /// The same, less what it adds to a logit on average.
    pub think_end_logit_shift_over_mean: Option<f32>,
}

/// What a run found.
pub struct InterveneSummary {
    /// One row for each policy, none first.
    pub rows: Vec<AlphaRow>,
    /// All responses.
    pub responses: Vec<Response>,
}

/// Runs the command.
pub fn run(args: &InterveneArgs, console: &Console) -> Result<InterveneSummary> {
    let arms = arms(&args.alpha, &args.policy)?;
    let sampling = SamplingParams { temperature: args.temperature, top_p: args.top_p, top_k: args.top_k };
    sampling.validate()?;
    if args.temperature == 0.0 && args.generations_per_problem > 1 {
        console.notice(SAME_GENERATIONS);
    }
    check_path(&args.intervention_vector_path)?;
    if Path::new(&args.task_name).components().any(|part| !matches!(part, Component::Normal(_))) {
        bail!("--task_name {}: it names a folder within the output folder, such as math500", args.task_name);
    }
    let problems = open_dataset(&args.dataset, console)?;
    let chosen = problems.select(args.problem_start_idx, args.problem_end_idx)?;
    let mut model = open_model(&args.model_name_or_path, &args.run, console)?;
    let vector = at_path_or_of_model(&args.intervention_vector_path, &model.identity, console)?;
    let mut throttles = Throttles::new(vector, &model)?;
    arms.iter().try_for_each(|arm| throttles.prepare(arm, &model))?;
    let remarks = arms.iter().filter_map(|arm| remark_on_scale(&arm.policy, &throttles.prepared.context));
    remarks.for_each(|remark| console.notice(remark));
    let common = settings(args, &sampling, &problems.identity(), &model, &throttles);
    let of_arm = |arm: &Throttle| Ok(format!("{common} {}", throttles.resolved(arm)?));
    let settings = arms.iter().map(of_arm).collect::<Result<_>>()?;
    let folder = args.output_generations_dir.join(base_name(&args.model_name_or_path)).join(&args.task_name);
    let style = prompt_style(&args.dataset.style)?;
    let chosen = fitting_problems(chosen, std::slice::from_ref(&style), &model, console)?;
    let mut run =
        Run { args, arms, throttles, sampling, style, clock_unix_secs: None, settings, folder, done: Vec::new() };
    run.sample_all(&chosen, &mut model, console)?;
    let rows = run.arms.iter().map(|arm| run.row(arm, model.prompts.think_end[0])).collect();
    let summary = InterveneSummary { rows, responses: run.done };
    report(&summary, &run.folder, args, console);
    Ok(summary)
}

/// The model as it is, the alphas and the policies asked for, each once.
fn arms(alphas: &[f32], policies: &[Throttle]) -> Result<Vec<Throttle>> {
    let mut arms = vec![Throttle::default()];
    if let Some(alpha) = alphas.iter().find(|alpha| !alpha.is_finite()) {
        bail!("--alpha {alpha} is not a finite number");
    }
    let constants = alphas.iter().filter(|&&alpha| alpha != 0.0).map(|&alpha| PolicySpec::constant(alpha));
    let constants = constants.map(|policy| Throttle { policy, ..Throttle::default() });
    for arm in constants.chain(policies.iter().cloned()) {
        if !arms.contains(&arm) {
            arms.push(arm);
        }
    }
    Ok(arms)
}

/// The alpha of a constant push along theta; 0 for every other policy.
fn constant_alpha(arm: &Throttle) -> f32 {
    match arm.policy.terms.as_slice() {
        [Term::Constant(Strength::Alpha(alpha))] if arm.direction == Direction::Theta => *alpha,
        _ => 0.0,
    }
}

/// The last part of a model's name, as the Python scripts name their folders; of a path that ends in dots, the folder's.
fn base_name(model: &str) -> String {
    let last = |path: &Path| match path.components().next_back() {
        Some(Component::Normal(name)) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    let path = Path::new(model);
    let found = if model.ends_with('.') { path.canonicalize().ok().and_then(|path| last(&path)) } else { last(path) };
    found.unwrap_or_else(|| "model".into())
}

/// Everything but problem, generation and policy that determines a response, in one line.
fn settings(
    args: &InterveneArgs,
    sampling: &SamplingParams,
    dataset: &str,
    model: &TextModel,
    throttles: &Throttles,
) -> String {
    let prompt = prompt_identity(&args.dataset.style, model);
    let everything = serde_json::json!([
        nameless(&model.identity),
        model.decoder.spec().dtype,
        dataset,
        prompt,
        sampling,
        args.seed,
        args.max_new_tokens,
        args.intervene_phase == PhaseArg::All,
        throttles.file.content_sha256(),
    ]);
    everything.to_string()
}

struct Run<'a> {
    args: &'a InterveneArgs,
    arms: Vec<Throttle>,
    throttles: Throttles,
    sampling: SamplingParams,
    style: PromptStyle,
    /// The time that prompts may print.
    clock_unix_secs: Option<u64>,
    /// What determines the responses of each policy beside problem and generation.
    settings: Vec<String>,
    folder: PathBuf,
    done: Vec<Response>,
}

/// Problem, generation and the number of the policy.
type Key = (usize, usize, usize);

impl Run<'_> {
    fn sample_all(&mut self, problems: &[Problem], model: &mut TextModel, console: &Console) -> Result<()> {
        create_folder(&self.folder)?;
        let results = self.folder.join("results.jsonl");
        let wanted = self.wanted(problems);
        let present = self.take_over(problems, &wanted, &results, console)?;
        if !present.is_empty() {
            console.say(format!("{} of {} responses are there already", present.len(), wanted.len()));
        }
        let bar = console.bar((wanted.len() - present.len()) as u64, "intervene");
        let by_index: HashMap<usize, &Problem> = problems.iter().map(|problem| (problem.index, problem)).collect();
        let mut recorder = Recorder::new();
        for problem in problems {
            self.submit(problem, &present, model, &mut recorder)?;
        }
        while model.decoder.step(&mut recorder)? {
            console.check_interrupted()?;
            self.keep_finished(&mut recorder, &by_index, &results, model)?;
            bar.set_position((self.done.len() - present.len()) as u64);
        }
        self.keep_finished(&mut recorder, &by_index, &results, model)?;
        bar.finish_and_clear();
        let arms = self.numbers_of_arms();
        self.done.sort_by_key(|it| (it.problem, it.generation, arms[&it.policy]));
        Ok(())
    }

    fn numbers_of_arms(&self) -> HashMap<String, usize> {
        self.arms.iter().enumerate().map(|(number, arm)| (arm.to_string(), number)).collect()
    }

    /// Takes over the wanted responses of an earlier run with the same settings; damaged lines, responses that will be replaced
    /// and files that nobody knows are told of or refused.
    fn take_over(
        &mut self,
        problems: &[Problem],
        wanted: &HashSet<Key>,
        results: &Path,
        console: &Console,
    ) -> Result<HashSet<Key>> {
        let lines = read_json_lines::<Response>(results)?;
        let damaged = lines.remark(results, "what this run needs of them is made again");
        self.done = lines.values;
        match damaged {
            Some(remark) => console.notice(remark),
            // A damaged line may have told of any file.
            None => self.refuse_foreign_responses(problems)?,
        }
        let arms = self.numbers_of_arms();
        let key = |it: &Response| {
            Some((it.problem, it.generation, *arms.get(&it.policy)?)).filter(|key| wanted.contains(key))
        };
        let is_same = |key: Key, it: &Response| it.settings == self.settings[key.2];
        let replaced = self.done.iter().filter(|it| key(it).is_some_and(|key| !is_same(key, it))).count();
        if replaced > 0 {
            console.notice(format!(
                "{}: {replaced} responses are of other settings; their text files are replaced ({} keeps them), so name another \
                 --task_name or --output_generations_dir to keep both",
                self.folder.display(),
                results.display()
            ));
        }
        let mut present: HashSet<Key> = HashSet::new();
        // Of two lines of the same response, the first counts.
        self.done.retain(|it| key(it).is_some_and(|key| is_same(key, it) && present.insert(key)));
        let clock = self.done.iter().find_map(|response| response.clock_unix_secs);
        self.clock_unix_secs = pin_clock(&mut self.style, clock);
        // Their files may be gone, or hold what a run with other settings wrote since.
        for response in &self.done {
            let path = self.response_path(response);
            if files::read(&path).ok().as_deref() != Some(response.text.as_bytes()) {
                write_bytes(&path, response.text.as_bytes())?;
            }
        }
        Ok(present)
    }

    /// Refuses to write over response files that no line of the results tells of, as those of the Python scripts are.
    fn refuse_foreign_responses(&self, problems: &[Problem]) -> Result<()> {
        let known: HashSet<PathBuf> = self.done.iter().map(|it| self.response_path(it)).collect();
        let paths = self.wanted(problems).into_iter().map(|key| self.path_of(key));
        let mut foreign: Vec<PathBuf> = paths.filter(|path| !known.contains(path) && path.exists()).collect();
        foreign.sort();
        if let Some(first) = foreign.first() {
            bail!(
                "{}: {} response files here are of no run that results.jsonl knows, and would be written over; name another \
                 --task_name or --output_generations_dir",
                first.display(),
                foreign.len()
            );
        }
        Ok(())
    }

    fn wanted(&self, problems: &[Problem]) -> HashSet<Key> {
        let generations = self.args.generations_per_problem;
        let keys_of = |problem: &Problem| {
            let index = problem.index;
            (0..generations).flat_map(move |g| (0..self.arms.len()).map(move |arm| (index, g, arm)))
        };
        problems.iter().flat_map(keys_of).collect()
    }

    fn submit(
        &self,
        problem: &Problem,
        present: &HashSet<Key>,
        model: &mut TextModel,
        recorder: &mut Recorder<Key>,
    ) -> Result<()> {
        let all = (0..self.args.generations_per_problem).flat_map(|g| (0..self.arms.len()).map(move |arm| (g, arm)));
        let missing: Vec<(usize, usize)> =
            all.filter(|&(g, arm)| !present.contains(&(problem.index, g, arm))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let prompt = model.prompts.prompt(&self.style, &problem.text)?;
        let samples = missing.iter().map(|&(g, arm)| self.sample(problem.index, g, arm)).collect::<Result<_>>()?;
        let request = PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples };
        let ids = model.decoder.submit(request).with_context(|| format!("problem {}", problem.index))?;
        for (id, (g, arm)) in ids.into_iter().zip(missing) {
            recorder.start(id, (problem.index, g, arm), None);
        }
        Ok(())
    }

    fn sample(&self, problem: usize, generation: usize, arm: usize) -> Result<SampleRequest> {
        let Parts { shift, policy, reader } = self.throttles.parts(&self.arms[arm])?;
        let seed = sample_seed(self.args.seed, problem as u64, generation as u64);
        Ok(SampleRequest {
            shift: Some(shift),
            intervene: match self.args.intervene_phase {
                PhaseArg::Thinking => IntervenePhase::Thinking,
                PhaseArg::All => IntervenePhase::All,
            },
            reader,
            policy,
            ..SampleRequest::new(self.sampling, seed, self.args.max_new_tokens)
        })
    }

    fn keep_finished(
        &mut self,
        recorder: &mut Recorder<Key>,
        problems: &HashMap<usize, &Problem>,
        results: &Path,
        model: &TextModel,
    ) -> Result<()> {
        for (key, recording, finish) in recorder.take_finished() {
            let response = self.response(key, problems[&key.0], &recording, &finish, model)?;
            append_line(results, &serde_json::to_string(&response)?)?;
            write_bytes(&self.response_path(&response), response.text.as_bytes())?;
            self.done.push(response);
        }
        Ok(())
    }

    fn response(
        &self,
        (problem, generation, arm): Key,
        source: &Problem,
        recording: &Recording,
        finish: &FinishEvent,
        model: &TextModel,
    ) -> Result<Response> {
        if finish.reason == FinishReason::Failed {
            bail!("problem {problem}, policy {}: {}", self.arms[arm], finish.error.clone().unwrap_or_default());
        }
        let (answer, correct) = judge(recording, finish, source.answer.as_deref());
        let prompt = model.prompts.prompt(&self.style, &source.text)?.text;
        Ok(Response {
            settings: self.settings[arm].clone(),
            problem,
            generation,
            alpha: constant_alpha(&self.arms[arm]),
            policy: self.arms[arm].to_string(),
            thinking_tokens: finish.thinking_tokens,
            generated_tokens: finish.generated_tokens,
            thinking_ended: finish.thinking_ended,
            answer,
            correct,
            text: format!("{prompt}{}", recording.text()),
            clock_unix_secs: self.clock_unix_secs,
        })
    }

    fn response_path(&self, it: &Response) -> PathBuf {
        self.folder.join(response_file(it.problem, it.generation, it.alpha, &it.policy))
    }

    fn path_of(&self, (problem, generation, arm): Key) -> PathBuf {
        let arm = &self.arms[arm];
        self.folder.join(response_file(problem, generation, constant_alpha(arm), &arm.to_string()))
    }

    fn row(&self, arm: &Throttle, think_end: u32) -> AlphaRow {
        let (alpha, policy) = (constant_alpha(arm), arm.to_string());
        let constant = (alpha != 0.0 || arm.policy.terms.is_empty()).then_some(alpha);
        let responses: Vec<&Response> = self.done.iter().filter(|it| it.policy == policy).collect();
        let count = |holds: fn(&Response) -> bool| responses.iter().filter(|it| holds(it)).count();
        let total: f64 = responses.iter().map(|it| f64::from(it.thinking_tokens)).sum();
        let shift = &self.throttles.prepared.shift;
        let (end_shift, over_mean) = (shift[think_end as usize], unmeasured_logits_per_alpha(shift, think_end));
        AlphaRow {
            alpha,
            policy,
            responses: responses.len(),
            mean_thinking_tokens: total / responses.len().max(1) as f64,
            ended: count(|it| it.thinking_ended),
            answered: count(|it| it.answer.is_some()),
            correct: responses.iter().any(|it| it.correct.is_some()).then(|| count(|it| it.correct == Some(true))),
            think_end_logit_shift: constant.map(|alpha| alpha * end_shift),
            think_end_logit_shift_over_mean: constant.map(|alpha| alpha * over_mean),
        }
    }
}

/// `intervention/problem_<i>/response_alpha_<a>.txt`, or `response_<policy>.txt` where alpha is not constant; further samples
/// get their number.
fn response_file(problem: usize, generation: usize, alpha: f32, policy: &str) -> PathBuf {
    let number = if generation == 0 { String::new() } else { format!("_sample_{generation}") };
    let name = if alpha != 0.0 || policy == Throttle::default().to_string() {
        format!("response_alpha_{}{number}.txt", python_float(alpha))
    } else {
        let policy = policy.replace(|c: char| !c.is_ascii_alphanumeric() && !"=.-".contains(c), "_");
        format!("response_{policy}{number}.txt")
    };
    ["intervention", &format!("problem_{problem}"), &name].iter().collect()
}

/// A number as Python prints a float: `100.0`, `0.5`, `1e-05`.
pub fn python_float(value: f32) -> String {
    let value: f64 = value.to_string().parse().unwrap_or(f64::from(value));
    if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e16) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    if value.fract() == 0.0 { format!("{value:.1}") } else { format!("{value}") }
}

/// A shift with its sign; of a policy that is no constant push there is no such number.
fn signed(shift: Option<f32>) -> String {
    shift.map_or_else(|| "-".into(), |shift| format!("{shift:+.2}"))
}

fn report(summary: &InterveneSummary, folder: &Path, args: &InterveneArgs, console: &Console) {
    summary.rows.iter().for_each(|row| console.emit("intervene_alpha", row));
    let header =
        ["policy", "responses", "thinking tokens", "ended", "answered", "correct", "shift of </think>", "less mean"];
    let rows = summary.rows.iter().map(|row| {
        vec![
            row.policy.clone(),
            row.responses.to_string(),
            format!("{:.1}", row.mean_thinking_tokens),
            row.ended.to_string(),
            row.answered.to_string(),
            row.correct.map_or_else(|| "-".into(), |correct| correct.to_string()),
            signed(row.think_end_logit_shift),
            signed(row.think_end_logit_shift_over_mean),
        ]
    });
    console.print(table(&header, rows));
    console.print(format!(
        "problems {}..{} of {}; thinking tokens are means, those of unfinished thoughts counted up to where they were cut\nresponses are in {}",
        args.problem_start_idx,
        args.problem_end_idx,
        args.dataset.dataset,
        folder.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, expected) in [
            (100.0, "100.0"),
            (0.0, "0.0"),
            (-5.0, "-5.0"),
            (0.1, "0.1"),
            (2.5, "2.5"),
            (1e-5, "1e-05"),
            (1e20, "1e+20"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn the_model_as_it_is_comes_first_and_nothing_twice() {
        let policies = ["budget:9", "constant:5"].map(|text| text.parse().unwrap());
        let arms: Vec<String> =
            arms(&[5.0, 0.0, -3.0, 5.0], &policies).unwrap().iter().map(Throttle::to_string).collect();
        assert_eq!(arms, ["none", "constant:5", "constant:-3", "budget:9"]);
        assert!(super::arms(&[f32::NAN], &[]).is_err());
    }

    #[test]
    fn folders_are_named_after_the_last_part_of_the_model() {
        assert_eq!(base_name("deepseek-ai/DeepSeek-R1-Distill-Llama-8B"), "DeepSeek-R1-Distill-Llama-8B");
        assert_eq!(base_name("/models/mine/"), "mine");
    }
}
