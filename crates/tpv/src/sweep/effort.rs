//! Effort levels: which alpha stands for low, medium and high, from a validation run.
//!
//! Among the constant alphas along theta that were run (0 always is), a level is the one with the shortest thoughts that
//! is *shown* to cost no more than the level allows: the lower end of the 95 % interval by problem of its accuracy less that of
//! alpha 0 must not be below the allowed loss. A bootstrap of few lost answers is too narrow, so the share of problems that win
//! answers less the exact upper bound (95 %) of the share that loses them must not be below it either; where nothing is lost or
//! won, that is nearly the rule of three, `3 / problems`. Alphas are tried from weak to strong, and the first that is not shown
//! ends the trying, so that of many alphas none is taken by chance. So a small run gives cautious levels, and 0 where it shows
//! nothing: below 29 problems always, and `high` below 149. Nor is anything shown where alpha 0 gets fewer answers right than
//! the level allows to lose.

use super::figures::{ArmFigures, SweepFigures};
use super::runner::Sweep;
use crate::args::{DatasetArgs, RunArgs, SamplingArgs, StyleArgs, SweepArgs, TrainArgs};
use crate::console::Console;
use crate::model::{locate, open_dataset, open_model};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use tpv_core::bootstrap::share_bounds;
use tpv_core::policy::SCALE_FIGURE;
use tpv_core::vector::ModelIdentity;
use tpv_data::joined::NamedDataset;
use tpv_data::problems::{Problem, ProblemSet, words_fingerprint};
use tpv_data::run::RunConfig;
use tpv_data::sums::SumsRecord;
use tpv_data::vector::VECTOR_FILE;
use tpv_engine::model::TextModel;
use tpv_engine::template::DEFAULT_PROMPT_TEMPLATE;

/// The levels with the loss of accuracy that each allows.
pub const LEVELS: [(&str, f64); 3] = [("high", 0.02), ("medium", 0.05), ("low", 0.10)];

/// The alphas that levels are chosen from: models differ by more than a factor of ten.
const CANDIDATES: [f32; 10] = [2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0, 100.0];

/// Ways in which every problem of an [`EffortRun`] is thought: the candidates, and without a push.
pub const ARMS: usize = CANDIDATES.len() + 1;

/// Chooses the levels from uncapped figures by alpha over so many problems; none without alpha 0.
pub fn choose(candidates: &[(f32, &ArmFigures)], problems: usize) -> Option<BTreeMap<String, f32>> {
    let (_, base) = candidates.iter().find(|(alpha, _)| *alpha == 0.0)?;
    let right = base.accuracy.map_or(0.0, |it| it.value);
    let mut from_weak_to_strong = candidates.to_vec();
    from_weak_to_strong.sort_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
    let level = |loss: f64| {
        let is_harmless = |it: &ArmFigures| {
            let figures = it.less_base.zip(it.problems_lost_and_won);
            figures.is_some_and(|(less, (lost, won))| {
                let of_all = problems as u64;
                let exact = won as f64 / of_all as f64 - share_bounds(lost, of_all, 0.95).1;
                less.low.min(exact) >= -loss - 1e-9
            })
        };
        let shown =
            |(alpha, it): &&(f32, &ArmFigures)| *alpha == 0.0 || (right >= loss && right > 0.0 && is_harmless(it));
        let good = from_weak_to_strong.iter().take_while(shown);
        good.min_by(|a, b| a.1.mean_tokens.total_cmp(&b.1.mean_tokens)).map_or(0.0, |(alpha, _)| *alpha)
    };
    Some(LEVELS.iter().map(|&(name, loss)| (name.to_owned(), level(loss))).collect())
}

/// What is known of the traces that a vector is fitted on.
pub struct FittedOn {
    /// The model that made them.
    pub model: ModelIdentity,
    /// The run that made them, where it is known; the first of several.
    pub run: Option<RunConfig>,
    /// Hashes of the problems' words.
    words: HashSet<String>,
    /// The indexes of problems whose words are not known, by the name of their data set.
    wordless: BTreeMap<String, BTreeSet<usize>>,
}

impl FittedOn {
    /// The traces of data sets, as they are before they are joined.
    pub fn datasets(sets: &[NamedDataset]) -> Result<Self> {
        let run = sets.iter().find_map(|set| RunConfig::load(&set.manifest.source).ok());
        let model = sets.first().map(|set| set.manifest.model.clone()).unwrap_or_default();
        let mut fitted = Self { model, run, words: HashSet::new(), wordless: BTreeMap::new() };
        for manifest in sets.iter().map(|set| &set.manifest) {
            let source = manifest.open_traces()?;
            let problems: BTreeSet<usize> = manifest.train.iter().chain(&manifest.test).map(|id| id.problem).collect();
            for problem in problems {
                let text = source.problem_text(problem)?;
                fitted.add(problem, text.as_deref().map(words_fingerprint), manifest.dataset.as_deref());
            }
        }
        Ok(fitted)
    }

    /// The traces that are in sums.
    pub fn sums(records: &[SumsRecord]) -> Self {
        let run = records.first().map(|record| record.run.clone());
        let model = run.as_ref().map(|run| run.model.clone()).unwrap_or_default();
        let mut fitted = Self { model, run, words: HashSet::new(), wordless: BTreeMap::new() };
        for record in records {
            for (place, &problem) in record.problems.iter().enumerate() {
                let words = record.problem_fingerprints.get(place).cloned();
                fitted.add(problem, words, Some(&record.run.dataset));
            }
        }
        fitted
    }

    fn add(&mut self, problem: usize, words: Option<String>, dataset: Option<&str>) {
        match (words, dataset) {
            (Some(words), _) => drop(self.words.insert(words)),
            (None, Some(name)) => drop(self.wordless.entry(name.to_owned()).or_default().insert(problem)),
            (None, None) => {}
        }
    }

    /// Whether a problem of a data set is among them: by its words, whatever its data set is called now.
    fn holds(&self, problem: &Problem, set: &ProblemSet) -> bool {
        let by_index = self.wordless.get(&set.name).is_some_and(|indexes| indexes.contains(&problem.index));
        by_index || self.words.contains(&words_fingerprint(&problem.text))
    }

    /// The first problems of a data set that nothing was fitted on; what is passed over is said.
    fn unseen(&self, set: &ProblemSet, most: usize, console: &Console) -> Result<Vec<usize>> {
        let unseen = set.problems.iter().filter(|problem| !self.holds(problem, set));
        let unseen: Vec<usize> = unseen.map(|problem| problem.index).take(most).collect();
        let (Some(first), Some(&last)) = (unseen.first(), unseen.last()) else {
            bail!(
                "data set {}: the vector is fitted on all its {} problems, so none is left for effort levels; \
                 name another data set with --effort_dataset, or leave it out",
                set.name,
                set.problems.len()
            );
        };
        let passed = last + 1 - unseen.len();
        if passed > 0 {
            console.notice(format!(
                "the vector is fitted on {passed} problems of {}, so its effort levels are found on {} others, from {first} to {last}",
                set.name,
                unseen.len()
            ));
        }
        Ok(unseen)
    }
}

/// Refuses problems without a right answer: nothing is lost where nothing can be right.
pub fn require_answers(name: &str, problems: &[Problem], args: &DatasetArgs) -> Result<()> {
    if let Some(problem) = problems.iter().find(|problem| problem.answer.is_none()) {
        bail!(
            "data set {name}: problem {} has no field {}, and effort levels need the right answer to every problem; \
             give problems with answers, or name their field with `tpv sweep --write_efforts --answer_field`",
            problem.index,
            args.answer_field.as_deref().unwrap_or("answer")
        );
    }
    Ok(())
}

/// The file that levels are written into.
pub fn vector_file(vector: &Path) -> Result<PathBuf> {
    let path = if vector.is_dir() { vector.join(VECTOR_FILE) } else { vector.to_owned() };
    if path.extension().is_none_or(|extension| extension != "safetensors") || !path.is_file() {
        bail!(
            "{}: effort levels can only be written into a .safetensors vector that is there; `tpv train` makes one",
            path.display()
        );
    }
    Ok(path)
}

/// A validation run that levels can be chosen from.
pub struct EffortRun<'a> {
    /// The model, as the flag names it.
    pub model: String,
    /// The vector's folder or file.
    pub vector: &'a Path,
    /// Where the problems come from.
    pub dataset: DatasetArgs,
    /// The problems' indexes, ascending; at least one.
    pub problems: Vec<usize>,
    /// Samples of each problem.
    pub generations_per_problem: usize,
    /// Token limit of each sample.
    pub max_new_tokens: usize,
    /// The draws.
    pub sampling: SamplingArgs,
    /// The engine.
    pub run: RunArgs,
    /// Where the samples go.
    pub output_dir: PathBuf,
}

impl<'a> EffortRun<'a> {
    /// What `tpv train` was asked to run after the fit, with the traces' prompt (else the scripts') and the scripts' sampling;
    /// none without a data set for it. What can be wrong with it is told here, before the fit.
    pub fn after_training(
        args: &'a TrainArgs,
        fitted: impl FnOnce() -> Result<FittedOn>,
        console: &Console,
    ) -> Result<Option<Self>> {
        let Some(dataset) = &args.effort_dataset else { return Ok(None) };
        if args.effort_problems == 0 {
            bail!("--effort_problems must be at least 1; without effort levels, leave --effort_dataset out");
        }
        let fitted = fitted()?;
        let template = fitted.run.as_ref().and_then(|run| run.prompt_template.clone());
        let dataset = DatasetArgs {
            dataset: dataset.clone(),
            problem_field: None,
            answer_field: None,
            style: StyleArgs {
                prompt_template: template.unwrap_or_else(|| DEFAULT_PROMPT_TEMPLATE.into()),
                chat_template: fitted.run.as_ref().is_some_and(|run| run.chat_template),
            },
        };
        let set = open_dataset(&dataset, console)?;
        let problems = fitted.unseen(&set, args.effort_problems, console)?;
        let chosen: Vec<Problem> = problems.iter().map(|&index| set.problems[index].clone()).collect();
        require_answers(&set.name, &chosen, &dataset)?;
        let model = args.model.clone().unwrap_or_else(|| fitted.model.name.clone());
        if model.is_empty() {
            bail!("the traces do not say which model made them, and effort levels need it; name it with --model");
        }
        let revision = fitted.model.revision.clone().filter(|_| model == fitted.model.name);
        let tokenizer_name_or_path = args.tokenizer_name_or_path.clone();
        let run = RunArgs { tokenizer_name_or_path, revision, ..RunArgs::default() };
        locate(&model, &run, console).context("effort levels need the model, and --model says where it is")?;
        let vector = args.output_dir.as_path();
        Ok(Some(Self {
            model,
            vector,
            dataset,
            problems,
            generations_per_problem: 2,
            max_new_tokens: 2048,
            sampling: SamplingArgs::default(),
            run,
            output_dir: vector.join("efforts"),
        }))
    }

    /// The sweep over the candidates.
    fn sweep_args(&self) -> SweepArgs {
        let wanted: BTreeSet<usize> = self.problems.iter().copied().collect();
        let (start, end) = (wanted.first().copied().unwrap_or(0), wanted.last().map_or(0, |last| last + 1));
        SweepArgs {
            model: self.model.clone(),
            tpv: self.vector.into(),
            policy: CANDIDATES.map(|alpha| format!("constant:{alpha}")).into(),
            budgets: vec![self.max_new_tokens as u32],
            brief: false,
            brief_template: self.dataset.style.prompt_template.clone(),
            problem_start_idx: start,
            problem_end_idx: Some(end),
            left_out: (start..end).filter(|index| !wanted.contains(index)).collect(),
            generations_per_problem: self.generations_per_problem,
            max_new_tokens: self.max_new_tokens,
            write_efforts: true,
            output_dir: self.output_dir.clone(),
            dataset: self.dataset.clone(),
            sampling: self.sampling.clone(),
            run: self.run.clone(),
        }
    }

    /// Runs it and writes the levels into the vector.
    pub fn write(&self, console: &Console) -> Result<()> {
        let args = self.sweep_args();
        let mut model = open_model(&self.model, &self.run, console)?;
        let mut sweep = Sweep::new(&args, &model, console)?;
        let figures = sweep.measure(&mut model, console)?;
        write_levels(&mut sweep, self.vector, &figures, &model, console)
    }
}

/// Writes the levels and the measured scale of a finished sweep into its vector.
pub fn write_levels(
    sweep: &mut Sweep<'_>,
    vector: &Path,
    figures: &SweepFigures,
    model: &TextModel,
    console: &Console,
) -> Result<()> {
    let path = vector_file(vector)?;
    let uncapped = |name: String| figures.arms.iter().find(|row| row.arm == name && row.cap.is_none());
    let plain = sweep.arms.iter().filter_map(|arm| Some((arm.plain_alpha()?, uncapped(arm.to_string())?)));
    let candidates: Vec<(f32, &ArmFigures)> = plain.collect();
    let problems: BTreeSet<usize> = sweep.done.iter().map(|result| result.problem).collect();
    let efforts = choose(&candidates, problems.len()).context("effort levels need the run without a policy")?;
    let scale = sweep.measured_scale(model.prompts.think_end[0]);
    let file = &mut sweep.throttles.file;
    let nothing_shown = |levels: &BTreeMap<String, f32>| levels.values().all(|&alpha| alpha == 0.0);
    let shown = !nothing_shown(&efforts);
    if shown || nothing_shown(&file.vector.efforts) {
        file.vector.efforts = efforts;
    }
    if let Some(scale) = scale {
        file.vector.info.figures.insert(SCALE_FIGURE.into(), scale.into());
    }
    file.save(&path)?;
    console.emit("efforts", &file.vector.efforts);
    let levels: Vec<String> = file.vector.efforts.iter().map(|(name, alpha)| format!("{name} = {alpha}")).collect();
    let scale = scale.map_or_else(String::new, |scale| format!("; one alpha is {scale:.4} logits of </think>"));
    console.print(format!("effort levels in {}: {}{scale}", path.display(), levels.join(", ")));
    if !shown {
        let what = if nothing_shown(&file.vector.efforts) { "all are 0" } else { "those that were there stay" };
        console
            .notice(format!("no push was shown to be harmless enough for a level, so {what}; more problems show more"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpv_core::bootstrap::Interval;

    #[test]
    fn levels_trade_length_for_accuracy_that_is_shown_not_to_be_lost() {
        let row = |low: f64, mean_tokens| ArmFigures {
            mean_tokens,
            accuracy: Some(Interval { value: 0.5, low: 0.4, high: 0.6 }),
            less_base: Some(Interval { value: low + 0.02, low, high: low + 0.04 }),
            problems_lost_and_won: Some((0, 0)),
            ..ArmFigures::default()
        };
        let rows = [row(0.0, 200.0), row(-0.01, 180.0), row(-0.04, 150.0), row(-0.09, 120.0), row(-0.4, 90.0)];
        let candidates: Vec<_> = [0.0, 5.0, 10.0, 15.0, 30.0].into_iter().zip(&rows).collect();
        let levels = choose(&candidates, 200).unwrap();
        assert_eq!((levels["high"], levels["medium"], levels["low"]), (5.0, 10.0, 15.0));
        assert_eq!(choose(&candidates[1..], 200), None);
        let unsure = [row(0.0, 200.0), row(-0.2, 100.0)];
        let levels = choose(&[(0.0, &unsure[0]), (15.0, &unsure[1])], 200).unwrap();
        assert!(levels.values().all(|&alpha| alpha == 0.0), "what may be lost is no level");
        let perfect = [row(0.0, 200.0), row(0.0, 100.0)];
        let candidates = [(0.0, &perfect[0]), (15.0, &perfect[1])];
        let levels = |problems| choose(&candidates, problems).unwrap().into_values().collect::<Vec<f32>>();
        assert_eq!(levels(28), [0.0, 0.0, 0.0], "nothing is shown by few problems");
        assert_eq!(levels(60), [0.0, 15.0, 15.0], "in the order high, low, medium");
        assert_eq!(levels(150), [15.0, 15.0, 15.0]);
        let one_lost = ArmFigures { problems_lost_and_won: Some((1, 0)), ..row(-0.05, 100.0) };
        let candidates = [(0.0, &perfect[0]), (15.0, &one_lost)];
        let levels = |problems| choose(&candidates, problems).unwrap().into_values().collect::<Vec<f32>>();
        assert_eq!(levels(60), [0.0, 15.0, 0.0], "one lost of 60 may be one of 13");
        let worse_first = [row(0.0, 200.0), row(-0.4, 180.0), row(0.0, 100.0)];
        let candidates: Vec<_> = [0.0, 5.0, 15.0].into_iter().zip(&worse_first).collect();
        let levels = choose(&candidates, 200).unwrap();
        assert!(
            levels.values().all(|&alpha| alpha == 0.0),
            "what a weaker push costs a stronger one does not give back"
        );
        let right = |value: f64| Some(Interval { value, low: value, high: value });
        let weak = ArmFigures { accuracy: right(0.04), ..row(0.0, 200.0) };
        let levels = choose(&[(0.0, &weak), (15.0, &perfect[1])], 200).unwrap().into_values().collect::<Vec<f32>>();
        assert_eq!(levels, [15.0, 0.0, 0.0], "a model that is right on 4 % of the problems can lose no 5 %");
        let lost = ArmFigures { accuracy: right(0.0), ..row(0.0, 200.0) };
        let levels = choose(&[(0.0, &lost), (15.0, &perfect[1])], 200).unwrap();
        assert!(levels.values().all(|&alpha| alpha == 0.0), "nothing right, nothing shown");
    }
}
