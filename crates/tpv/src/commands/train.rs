//! `tpv train`: streams the states into Gram sums, solves the ridge, measures on held-out problems, refits on everything.
//!
//! Several data sets are trained on as one ([`tpv_data::joined`]); sums that `generate --fit` made have a command of their
//! own ([`super::train_sums`]). The calibration of the readings is learned from cross-fitted values: every problem is read by heads that never saw it.

use crate::args::TrainArgs;
use crate::commands::report::{READINGS_FILE, write_report};
use crate::commands::train_sums::{self, named_sums};
use crate::console::Console;
use crate::crossfit::{FOLDS, FoldSums};
use crate::model::compute_on_cores;
use crate::reading_table;
use crate::report::readings::ReadingLine;
use crate::states::head_traces;
use crate::sweep::effort::{EffortRun, FittedOn};
use crate::table::{figure, table};
use crate::vectors::{MANY_UNFINISHED, UNFINISHED_FIGURE};
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tpv_core::baseline::{Baseline, Predictors};
use tpv_core::bootstrap::Bootstrap;
use tpv_core::fit::{Fit, FitReport, FittedHead, Ridge, covariance_direction};
use tpv_core::gram::{GramSums, LOG_REMAINING, PROGRESS, Parallelism, progress_labels};
use tpv_core::metrics::{Figures, ReadingTrace, measure, paired_difference};
use tpv_core::reading::evaluation::{ReadingReport, evaluate};
use tpv_core::reading::{Calibration, HeadTrace, HeadValues, calibrate};
use tpv_core::vector::{ProgressVector, STATE_TAP, VectorInfo};
use tpv_data::atomic::{check_folder, write_bytes, write_json};
use tpv_data::dataset::DatasetManifest;
use tpv_data::joined::{NamedDataset, TESTED_ELSEWHERE, open_datasets};
use tpv_data::source::{TraceId, TraceSource, UNFINISHED, count_reasons};
use tpv_data::vector::VectorFile;

/// The predictor that is shown to people.
pub const READING_HEAD: &str = "theta + intercept";

/// The file of a training's figures.
pub const METRICS_FILE: &str = "metrics.json";

/// What [`METRICS_FILE`] holds.
#[derive(Debug, Clone, Serialize)]
pub struct TrainMetrics {
    /// Name of the format.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// What the figures are about.
    pub remark: &'static str,
    /// Held-out figures, in the order of the table.
    pub test: Vec<PredictorFigures>,
    /// Theta less position only, on equal resamples of the problems.
    pub theta_less_position: Figures,
    /// Position and theta together less position only.
    pub joint_less_position: Figures,
    /// How the fit on the training problems was found.
    pub fit: FitReport,
    /// Mean squared error of that fit on its own training states.
    pub train_mse: f64,
    /// How the final fit on everything was found.
    pub refit: FitReport,
    /// Traces and states of the final fit.
    pub refit_traces: usize,
    /// Traces that are in nothing of this, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Problems that the calibration of the saved vector learned from; none where they were too few.
    pub calibration_problems: Option<usize>,
    /// The readings on the test problems: heads and calibration are of the training problems alone.
    pub reading: Option<ReadingReport>,
    /// |theta|^2 of the final fit.
    pub theta_norm_squared: f64,
}

impl TrainMetrics {
    fn unfinished(&self) -> usize {
        self.left_out.get(UNFINISHED).copied().unwrap_or(0)
    }

    /// Share of the thoughts that were cut at the token limit.
    fn unfinished_share(&self) -> f64 {
        let unfinished = self.unfinished();
        unfinished as f64 / (self.refit_traces + unfinished).max(1) as f64
    }
}

/// One predictor's figures on the held-out problems.
#[derive(Debug, Clone, Serialize)]
pub struct PredictorFigures {
    /// Which predictor.
    pub predictor: &'static str,
    /// Its figures.
    pub figures: Figures,
}

const REMARK: &str = "Figures are of the fit on the training problems, on test problems that it never saw, with 95 % bootstrap intervals by problem. \
                      The saved vector is refitted on all problems, as in the paper's scripts, so these figures are not exactly its own.";

/// Fewer problems than this are not worth a calibration.
const LEAST_PROBLEMS: usize = 10;

/// Both fits from one set of sums.
pub(super) struct Heads {
    /// For the direction; without intercept, unless asked otherwise.
    pub theta: Fit,
    /// For readings; with intercept.
    pub reading: Fit,
}

impl Heads {
    /// Both fits.
    pub fn fit(sums: &GramSums, args: &TrainArgs) -> Result<Self> {
        let solve = |intercept| Ridge { epsilon: args.epsilon, intercept }.solve(sums, Parallelism::All);
        Ok(Self { theta: solve(args.intercept)?, reading: solve(true)? })
    }

    /// The progress without intercept.
    pub fn theta(&self) -> &FittedHead {
        self.theta.head(PROGRESS).expect("progress is a target of the sums")
    }

    /// The heads alone, to read states with.
    pub fn vector(&self) -> ProgressVector {
        ProgressVector { theta: self.theta().to_linear_head().weights, ..reading_heads(&self.reading) }
    }
}

/// A vector that reads and cannot push: its theta is zero.
fn reading_heads(fit: &Fit) -> ProgressVector {
    let head = |target| fit.head(target).expect("both are targets of the sums").to_linear_head();
    let progress = head(PROGRESS);
    ProgressVector {
        theta: vec![0.0; progress.weights.len()],
        progress,
        log_remaining: Some(head(LOG_REMAINING)),
        ..ProgressVector::default()
    }
}

/// Heads for each fold of the training problems, fitted on everything but that fold.
struct CrossFits {
    /// Without the test problems either; none where there are too few training problems.
    within_train: Vec<ProgressVector>,
    over_all: Vec<ProgressVector>,
}

impl CrossFits {
    fn fit(sums: &FoldSums, manifest: &DatasetManifest, args: &TrainArgs) -> Result<Option<Self>> {
        let (train, test) = (problems(&manifest.train), problems(&manifest.test));
        if train + test < LEAST_PROBLEMS {
            return Ok(None);
        }
        let ridge = Ridge { epsilon: args.epsilon, intercept: true };
        let fit =
            |sums: &GramSums| -> Result<ProgressVector> { Ok(reading_heads(&ridge.solve(sums, Parallelism::All)?)) };
        let folds = if train >= FOLDS { 0..FOLDS } else { 0..0 };
        let within_train = folds.map(|fold| fit(&sums.train_without(fold)?)).collect::<Result<_>>()?;
        let over_all = (0..FOLDS).map(|fold| fit(&sums.all_without(fold)?)).collect::<Result<_>>()?;
        Ok(Some(Self { within_train, over_all }))
    }
}

fn problems(ids: &[TraceId]) -> usize {
    ids.iter().map(|id| id.problem).collect::<BTreeSet<_>>().len()
}

/// What the heads read at every thinking token.
#[derive(Default)]
struct Traces {
    /// Training problems, by the heads that were fitted on them.
    train: Vec<HeadTrace>,
    /// Test problems, by the same heads.
    test: Vec<HeadTrace>,
    /// Training problems, each by heads of other training problems.
    within_train: Vec<HeadTrace>,
    /// Training problems, each by heads of all other problems' folds.
    over_all: Vec<HeadTrace>,
}

impl Traces {
    /// One pass over all states.
    fn read(
        source: &dyn TraceSource,
        manifest: &DatasetManifest,
        heads: &Heads,
        cross: Option<&CrossFits>,
        sums: &FoldSums,
        console: &Console,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let vector = heads.vector();
        let read = |id: TraceId, wanted: &[&ProgressVector]| -> Result<_> {
            console.check_interrupted()?;
            let read = head_traces(source, id, wanted)?.into_iter();
            bar.inc(1);
            Ok(read)
        };
        let of_train = |&id: &TraceId| {
            let fold = sums.fold(id);
            let within = cross.and_then(|cross| cross.within_train.get(fold));
            let over = cross.map(|cross| &cross.over_all[fold]);
            let wanted: Vec<&ProgressVector> = std::iter::once(&vector).chain(within).chain(over).collect();
            let mut read = read(id, &wanted)?;
            Ok((read.next(), within.and_then(|_| read.next()), read.next()))
        };
        let mut traces = Self::default();
        for (train, within, over) in manifest.train.par_iter().map(of_train).collect::<Result<Vec<_>>>()? {
            traces.train.extend(train);
            traces.within_train.extend(within);
            traces.over_all.extend(over);
        }
        let of_test = manifest.test.par_iter().map(|&id| read(id, &[&vector])).collect::<Result<Vec<_>>>()?;
        traces.test = of_test.into_iter().flatten().collect();
        Ok(traces)
    }

    /// What the final vector's calibration learns from: every value is of heads that never saw the problem.
    fn cross_fitted(&self) -> Vec<HeadTrace> {
        self.over_all.iter().chain(&self.test).cloned().collect()
    }
}

/// Runs the command on whatever was named: data sets, or sums.
pub fn run_any(args: &TrainArgs, console: &Console) -> Result<()> {
    compute_on_cores();
    match named_sums(args.inputs())? {
        files if files.is_empty() => run(args, console).map(drop),
        files => train_sums::run(args, &files, console).map(drop),
    }
}

/// Runs the command on data sets.
pub fn run(args: &TrainArgs, console: &Console) -> Result<TrainMetrics> {
    if args.device != "cpu" {
        console.notice(format!("--device {} is accepted for compatibility; the fit runs on the CPU", args.device));
    }
    let sets = args.inputs().iter().map(|folder| NamedDataset::load(folder)).collect::<Result<Vec<_>, _>>()?;
    let efforts = EffortRun::after_training(args, || FittedOn::datasets(&sets), console)?;
    let (manifest, source) = open_datasets(sets)?;
    let tested_elsewhere = manifest.left_out.iter().filter(|it| it.reason == TESTED_ELSEWHERE).count();
    if tested_elsewhere > 0 {
        console.notice(format!("{tested_elsewhere} thoughts do not train: {TESTED_ELSEWHERE}"));
    }
    if manifest.train.is_empty() || manifest.test.is_empty() {
        let folder = args.inputs()[0].display();
        bail!("{folder}: the data set has no traces on one side of the split; prepare it again");
    }
    check_folder(&args.output_dir)?;
    let bar = console.bar((manifest.train.len() + manifest.test.len()) as u64 * 2, "train");
    let sums = FoldSums::collect(&*source, &manifest, console, &bar)?;
    let heads = Heads::fit(&sums.train()?, args)?;
    let all = sums.all()?;
    let refit = Heads::fit(&all, args)?;
    let cross = CrossFits::fit(&sums, &manifest, args)?;
    let traces = Traces::read(&*source, &manifest, &heads, cross.as_ref(), &sums, console, &bar)?;
    bar.finish_and_clear();
    refuse_nothing(refit.theta(), args)?;
    let (calibration, metrics) = console.compute("measure", || {
        // One after the other: each uses all threads, and together they would hold the columns of both.
        let calibration = cross.as_ref().map(|_| calibrate(&traces.cross_fitted())).transpose()?;
        let reading = measure_readings(&traces, args)?;
        let metrics = measure_all(args, &manifest, &heads, &refit, &traces, calibration.as_ref(), reading)?;
        Ok((calibration, metrics))
    })?;
    let vector = vector(args, &manifest, &all, &refit, calibration.as_ref(), &metrics)?;
    VectorFile { vector }.save_folder(&args.output_dir)?;
    write_json(&args.output_dir.join(METRICS_FILE), &metrics)?;
    write_readings(&traces.test, args, &args.output_dir)?;
    write_report(&args.output_dir, console)?;
    reading_table::warn_of_few_problems(problems(&manifest.test), console);
    report(&metrics, problems(&manifest.train) + problems(&manifest.test), args, console);
    if let Some(efforts) = efforts {
        efforts.write(console)?;
    }
    Ok(metrics)
}

/// Refuses a theta of zeros, which nobody can push along.
pub(super) fn refuse_nothing(theta: &FittedHead, args: &TrainArgs) -> Result<()> {
    if theta.to_linear_head().weights.iter().all(|&weight| weight == 0.0) {
        bail!("nothing is left of theta: all its weights are 0; give a smaller --epsilon than {:e}", args.epsilon);
    }
    Ok(())
}

/// One head's values along a thought, beside the labels.
fn reading_trace(trace: &HeadTrace, head: fn(&HeadValues) -> f32) -> ReadingTrace {
    // A state that was not kept has no values; only the first ones can be missing.
    let missing = trace.values.iter().take_while(|values| values.progress.is_nan()).count();
    ReadingTrace {
        problem: trace.problem as u64,
        first_position: missing as u32 + 1,
        predicted: trace.values[missing..].iter().map(|values| f64::from(head(values))).collect(),
        target: progress_labels(trace.thinking_tokens)[missing..trace.values.len()].to_vec(),
    }
}

fn reading_traces(traces: &[HeadTrace], head: fn(&HeadValues) -> f32) -> Vec<ReadingTrace> {
    traces.iter().map(|trace| reading_trace(trace, head)).collect()
}

/// What theta reads along the held-out thoughts, for the report.
fn write_readings(traces: &[HeadTrace], args: &TrainArgs, folder: &Path) -> Result<()> {
    let mut text = String::new();
    for trace in traces {
        let labels = progress_labels(trace.thinking_tokens);
        let read = trace.values.iter().map(|values| if args.intercept { values.progress } else { values.theta });
        let (predicted, target) =
            read.zip(labels).filter(|(read, _)| read.is_finite()).map(|(read, label)| (read, label as f32)).unzip();
        text += &serde_json::to_string(&ReadingLine { problem: trace.problem as u64, predicted, target })?;
        text.push('\n');
    }
    Ok(write_bytes(&folder.join(READINGS_FILE), text.as_bytes())?)
}

fn bootstrap(args: &TrainArgs) -> Bootstrap {
    Bootstrap { seed: args.seed, ..Bootstrap::default() }
}

/// The readings on the test problems, calibrated on the training problems alone.
fn measure_readings(traces: &Traces, args: &TrainArgs) -> Result<Option<ReadingReport>> {
    if traces.within_train.is_empty() {
        return Ok(None);
    }
    let calibration = calibrate(&traces.within_train)?;
    Ok(Some(evaluate(&traces.test, Some(&calibration), &calibration.lengths, &bootstrap(args))?))
}

fn measure_all(
    args: &TrainArgs,
    manifest: &DatasetManifest,
    heads: &Heads,
    refit: &Heads,
    traces: &Traces,
    calibration: Option<&Calibration>,
    reading: Option<ReadingReport>,
) -> Result<TrainMetrics> {
    let bootstrap = bootstrap(args);
    // With an intercept theta is the reading head without its intercept, which belongs to what it reads.
    let of_theta: fn(&HeadValues) -> f32 =
        if args.intercept { |values| values.progress } else { |values| values.theta };
    let train = reading_traces(&traces.train, of_theta);
    let test = reading_traces(&traces.test, of_theta);
    let with_intercept = reading_traces(&traces.test, |values| values.progress);
    let baseline = |predictors| -> Result<Vec<ReadingTrace>> {
        let baseline = Baseline::fit(predictors, &train)?;
        Ok(test.iter().map(|trace| baseline.apply(trace)).collect())
    };
    let position = baseline(Predictors::RadialPosition)?;
    let joint = baseline(Predictors::RadialPositionAndReading)?;
    let mean = baseline(Predictors::Mean)?;
    let figures = |predictor, traces: &[ReadingTrace]| -> Result<PredictorFigures> {
        Ok(PredictorFigures { predictor, figures: measure(traces, &bootstrap)? })
    };
    let theta = refit.theta();
    Ok(TrainMetrics {
        format: "tpv-metrics",
        version: 1,
        remark: REMARK,
        test: [
            ("mean", &mean),
            ("position only", &position),
            (if args.intercept { "theta (--intercept)" } else { "theta" }, &test),
            (READING_HEAD, &with_intercept),
            ("position + theta", &joint),
        ]
        .into_par_iter()
        .map(|(predictor, traces)| figures(predictor, traces))
        .collect::<Result<_>>()?,
        theta_less_position: paired_difference(&test, &position, &bootstrap)?,
        joint_less_position: paired_difference(&joint, &position, &bootstrap)?,
        fit: heads.theta.report.clone(),
        train_mse: heads.theta().train.mse,
        refit: refit.theta.report.clone(),
        refit_traces: train.len() + test.len(),
        left_out: count_reasons(&manifest.left_out),
        calibration_problems: calibration.map(|calibration| calibration.problems),
        reading,
        theta_norm_squared: theta.weights.iter().map(|weight| weight * weight).sum(),
    })
}

fn vector(
    args: &TrainArgs,
    manifest: &DatasetManifest,
    sums: &GramSums,
    refit: &Heads,
    calibration: Option<&Calibration>,
    metrics: &TrainMetrics,
) -> Result<ProgressVector> {
    let pattern = covariance_direction(sums, PROGRESS)?;
    Ok(ProgressVector {
        pattern: Some(pattern.into_iter().map(|value| value as f32).collect()),
        calibration: calibration.map(Calibration::to_json),
        efforts: BTreeMap::new(),
        info: VectorInfo {
            model: manifest.model.clone(),
            state_tap: STATE_TAP.into(),
            dataset: manifest.dataset.clone().unwrap_or_default(),
            traces: metrics.refit_traces,
            rows: sums.rows() as usize,
            epsilon: args.epsilon,
            tpv_version: env!("CARGO_PKG_VERSION").into(),
            figures: BTreeMap::from([
                ("test".to_owned(), serde_json::to_value(&metrics.test)?),
                (UNFINISHED_FIGURE.to_owned(), metrics.unfinished_share().into()),
            ]),
            lengths: Vec::new(),
        },
        ..refit.vector()
    })
}

/// A calibration of fewer problems was measured to hold what it claims in anything from three fifths to all cases.
const FEW_CALIBRATION_PROBLEMS: usize = 30;

/// What makes the vector or its figures worth less than they look.
fn remark_on_what_it_is_worth(metrics: &TrainMetrics, problems: usize, console: &Console) {
    let (unfinished, share) = (metrics.unfinished(), metrics.unfinished_share());
    if share > MANY_UNFINISHED {
        console.notice(format!(
            "{unfinished} thoughts ({:.0} %) were cut at the token limit and are in nothing of this: figures and intervals are of \
             thoughts that end before it, and of others the time left is far too short; generate with a larger --max_new_tokens",
            share * 100.0
        ));
    }
    let r2 = |name: &str| metrics.test.iter().find(|it| it.predictor == name)?.figures.r2;
    if r2(READING_HEAD).is_some_and(|r2| r2.value <= 0.0) {
        console.notice(
            "on held-out problems this vector reads progress no better than the mean does: it is of no use yet",
        );
    }
    if metrics.reading.is_some() && problems < FEW_CALIBRATION_PROBLEMS {
        console.notice(format!(
            "calibrated on {problems} problems: with so few, intervals that claim 90 % held 61 to 99 % of the bundled model's \
             thoughts (docs/READING.md)"
        ));
    }
}

fn report(metrics: &TrainMetrics, problems: usize, args: &TrainArgs, console: &Console) {
    console.emit("train", metrics);
    let remarks = [("train", &metrics.fit), ("final", &metrics.refit)];
    for (name, remark) in remarks.iter().filter_map(|(name, report)| Some((name, report.remark()?))) {
        console.notice(format!("{name} fit: {remark}"));
    }
    let rows = metrics.test.iter().map(|it| {
        let Figures { mse, mae, r2, spearman, .. } = it.figures;
        vec![it.predictor.to_owned(), figure(mse, 3), figure(mae, 3), figure(r2, 3), figure(spearman, 3)]
    });
    console.print(table(&["held-out problems", "MSE", "MAE", "R2", "Spearman"], rows));
    let first = metrics.test.first().map(|it| &it.figures);
    reading_table::tell_of_fewer_resamples(first, bootstrap(args).resamples, console);
    remark_on_what_it_is_worth(metrics, problems, console);
    let difference = figure(metrics.theta_less_position.mse, 3);
    match &metrics.reading {
        Some(report) => console.print(reading_table::summary(report)),
        None if metrics.calibration_problems.is_some() => console.notice(format!(
            "the vector is calibrated on {problems} problems, but its readings cannot be measured: fewer than {FOLDS} problems train"
        )),
        None => console.notice(format!(
            "the readings of {problems} problems cannot be calibrated and measured (at least {LEAST_PROBLEMS} are needed); time left will be unknown"
        )),
    }
    console.print(format!(
        "MSE of theta less that of position only: {difference}; in brackets 95 % bootstrap intervals by problem\n\
         {}\n\
         the saved vector is refitted on all {} traces, so these figures are of the fit before\n\
         the vector is in {}",
        what_theta_is(args),
        metrics.refit_traces,
        args.output_dir.display()
    ));
}

/// What the vector's two parts are for.
pub fn what_theta_is(args: &TrainArgs) -> &'static str {
    match args.intercept {
        false => "theta + intercept is the reading head; theta alone is the direction to push along",
        true => {
            "theta was fitted with an intercept, as the reading head is: it reads, and is useless as a direction to push along"
        }
    }
}
