//! `tpv train` on the sums of `tpv generate --fit`: theta and the heads without a state on the disk.
//!
//! Each fifth of the problems is measured by a fit on the other four; the mean squared error of a linear head follows
//! exactly from the sums of the fifth, and the position-only baseline needs no more than the lengths of the thoughts. What
//! needs every token's reading cannot be had: intervals by problem, absolute errors, the calibration and so the time left.

use super::train::{Heads, refuse_nothing, what_theta_is};
use crate::args::TrainArgs;
use crate::commands::report::remove_report;
use crate::commands::train::METRICS_FILE;
use crate::console::Console;
use crate::sweep::effort::{EffortRun, FittedOn};
use crate::table::{number, table};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tpv_core::baseline::{Baseline, Predictors};
use tpv_core::fit::{FitReport, covariance_direction};
use tpv_core::gram::{GramSums, PROGRESS, progress_labels};
use tpv_core::metrics::ReadingTrace;
use tpv_core::split::dealt_part;
use tpv_core::vector::{ProgressVector, STATE_TAP, VectorInfo};
use tpv_data::atomic::{check_folder, write_json};
use tpv_data::dataset::DATASET_FILE;
use tpv_data::run::RUN_FILE;
use tpv_data::source::{TraceSource, count_reasons};
use tpv_data::sums::{MergedSums, PARTS, SummedThought, SumsRecord, load_record, merge_sums, sums_files};
use tpv_data::trace::TraceStore;
use tpv_data::vector::VectorFile;

/// What [`METRICS_FILE`] holds after a training on sums.
#[derive(Debug, Clone, Serialize)]
pub struct SumsMetrics {
    /// Name of the format.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// What the figures are about.
    pub remark: &'static str,
    /// Problems that are in the sums, each counted once for every run.
    pub problems: usize,
    /// Thoughts that are in the sums.
    pub thoughts: usize,
    /// States that are in the sums.
    pub states: u64,
    /// Thoughts that were left out, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Figures of each fifth of the problems by a fit on the others, in the order of the table; none of too few problems.
    pub held_out: Vec<HeldOutFigures>,
    /// How the final fit on everything was found.
    pub fit: FitReport,
    /// Mean squared error of that fit on its own states.
    pub train_mse: f64,
    /// |theta|^2 of the final fit.
    pub theta_norm_squared: f64,
}

/// One predictor's figures on problems that its fit never saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldOutFigures {
    /// Which predictor.
    pub predictor: Cow<'static, str>,
    /// Mean squared error over all states.
    pub mse: f64,
    /// `1 - SSE / SST` over all states; none where the target is constant.
    pub r2: Option<f64>,
    /// The mean squared error on each fifth.
    pub mse_of_parts: Vec<f64>,
}

impl HeldOutFigures {
    /// The columns of a table after the predictor's name.
    pub const COLUMNS: [&'static str; 3] = ["MSE", "over the fifths", "R2"];

    /// A row of that table.
    pub fn row(&self) -> Vec<String> {
        let least = self.mse_of_parts.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.mse_of_parts.iter().copied().fold(0.0, f64::max);
        let r2 = self.r2.map_or_else(|| "-".into(), |r2| number(r2, 3));
        vec![self.predictor.to_string(), format!("{:.4}", self.mse), format!("{least:.4} to {greatest:.4}"), r2]
    }
}

const REMARK: &str = "Each fifth of the problems is measured by a fit on the other four, so every problem is held out once. The saved vector is fitted on all, \
                      so these figures are not exactly its own. Without states there are no intervals by problem, no absolute errors and no calibration.";

/// The files of sums among the inputs; none where the inputs are data sets.
pub fn named_sums(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut data_set = None;
    for input in inputs {
        let found = match input {
            input if input.is_file() => vec![input.clone()],
            input if input.is_dir() && !input.join(DATASET_FILE).is_file() => sums_files(input)?,
            _ => Vec::new(),
        };
        if found.is_empty() {
            data_set.get_or_insert(input);
        }
        files.extend(found);
    }
    if let Some(data_set) = data_set.filter(|_| !files.is_empty()) {
        bail!(
            "{}: a data set cannot be trained on together with sums such as {}; name folders of one kind",
            data_set.display(),
            files[0].display()
        );
    }
    Ok(files)
}

/// A notice where a folder of sums has traces of problems that were never summed up.
fn tell_of_problems_outside(folder: &Path, console: &Console) -> Result<()> {
    if !folder.join(RUN_FILE).is_file() {
        return Ok(());
    }
    let mut summed = BTreeSet::new();
    for file in sums_files(folder)? {
        summed.extend(load_record(&file)?.problems);
    }
    let there: BTreeSet<usize> = TraceStore::open(folder)?.headers().iter().map(|header| header.id.problem).collect();
    let outside = there.difference(&summed).count();
    if outside > 0 {
        console.notice(format!(
            "{}: {outside} of the {} problems in the folder are not in its sums; `tpv generate --fit` adds them",
            folder.display(),
            there.len()
        ));
    }
    Ok(())
}

/// A notice where problems with the same words lie in different fifths: what one of them tests, the other trains on.
fn tell_of_copies(records: &[SumsRecord], console: &Console) {
    let mut parts: HashMap<&str, BTreeSet<usize>> = HashMap::new();
    for (problem, text) in records.iter().flat_map(|record| record.problems.iter().zip(&record.problem_fingerprints)) {
        parts.entry(text).or_default().insert(dealt_part(*problem as u64, PARTS));
    }
    let copies = parts.values().filter(|parts| parts.len() > 1).count();
    if copies > 0 {
        console.notice(format!(
            "{copies} problem(s) are in the sums under several indexes, so that they train and test: the figures flatter"
        ));
    }
}

/// Runs the command on files of sums.
pub fn run(args: &TrainArgs, files: &[PathBuf], console: &Console) -> Result<SumsMetrics> {
    let merged = merge_sums(files)?;
    let total = joined(&merged.parts, |_| true)?.context("there are no parts of the sums")?;
    if total.rows() == 0 {
        bail!("{}: no finished thought is in the sums; generate with a larger --max_new_tokens", files[0].display());
    }
    let folders: BTreeSet<&Path> = files.iter().map(|file| file.parent().unwrap_or(Path::new("."))).collect();
    folders.into_iter().try_for_each(|folder| tell_of_problems_outside(folder, console))?;
    tell_of_copies(&merged.records, console);
    let efforts = EffortRun::after_training(args, || Ok(FittedOn::sums(&merged.records)), console)?;
    check_folder(&args.output_dir)?;
    let heads = Heads::fit(&total, args)?;
    refuse_nothing(heads.theta(), args)?;
    let metrics = measure(args, &merged, &total, &heads)?;
    let vector = vector(args, &merged, &total, &heads, &metrics)?;
    VectorFile { vector }.save_folder(&args.output_dir)?;
    write_json(&args.output_dir.join(METRICS_FILE), &metrics)?;
    remove_report(&args.output_dir)?;
    report(&metrics, args, console);
    if let Some(efforts) = efforts {
        efforts.write(console)?;
    }
    Ok(metrics)
}

/// The parts that are wanted, together; none where none is.
fn joined(parts: &[GramSums], wanted: impl Fn(usize) -> bool) -> Result<Option<GramSums>> {
    let mut chosen = parts.iter().enumerate().filter(|(part, _)| wanted(*part)).map(|(_, sums)| sums);
    let Some(mut sums) = chosen.next().cloned() else { return Ok(None) };
    chosen.try_for_each(|part| sums.merge(part))?;
    Ok(Some(sums))
}

fn measure(args: &TrainArgs, merged: &MergedSums, total: &GramSums, heads: &Heads) -> Result<SumsMetrics> {
    let left_out: Vec<_> = merged.records.iter().flat_map(|record| record.left_out.clone()).collect();
    let theta = heads.theta();
    Ok(SumsMetrics {
        format: "tpv-sums-metrics",
        version: 1,
        remark: REMARK,
        problems: merged.records.iter().map(|record| record.problems.len()).sum(),
        thoughts: merged.records.iter().map(|record| record.thoughts.len()).sum(),
        states: total.rows(),
        left_out: count_reasons(&left_out),
        held_out: held_out(args, merged)?,
        fit: heads.theta.report.clone(),
        train_mse: theta.train.mse,
        theta_norm_squared: theta.weights.iter().map(|weight| weight * weight).sum(),
    })
}

/// Squared errors of every predictor on one part.
struct PartErrors {
    rows: f64,
    target_sum: f64,
    target_squares: f64,
    /// Mean squared errors, in the order of [`PREDICTORS`].
    mse: [f64; 4],
}

const PREDICTORS: [&str; 4] = ["mean", "position only", "theta", "theta + intercept"];

fn held_out(args: &TrainArgs, merged: &MergedSums) -> Result<Vec<HeldOutFigures>> {
    let mut errors = Vec::new();
    for (number, part) in merged.parts.iter().enumerate().filter(|(_, part)| part.rows() > 0) {
        if let Some(others) = joined(&merged.parts, |other| other != number)?.filter(|others| others.rows() > 0) {
            errors.push(part_errors(args, merged, number, part, &others)?);
        }
    }
    let sum = |of: fn(&PartErrors) -> f64| errors.iter().map(of).sum::<f64>();
    let rows = sum(|part| part.rows);
    let spread = sum(|part| part.target_squares) - sum(|part| part.target_sum).powi(2) / rows;
    let figures = |(at, predictor): (usize, &'static str)| {
        let squared_error: f64 = errors.iter().map(|part| part.rows * part.mse[at]).sum();
        HeldOutFigures {
            predictor: predictor.into(),
            mse: squared_error / rows,
            r2: (spread > 0.0).then(|| 1.0 - squared_error / spread),
            mse_of_parts: errors.iter().map(|part| part.mse[at]).collect(),
        }
    };
    let predictors = PREDICTORS.into_iter().enumerate().filter(|_| !errors.is_empty());
    Ok(predictors.map(figures).collect())
}

fn part_errors(
    args: &TrainArgs,
    merged: &MergedSums,
    number: usize,
    part: &GramSums,
    others: &GramSums,
) -> Result<PartErrors> {
    let heads = Heads::fit(others, args)?;
    let (target, known) = (part.target(PROGRESS)?, others.target(PROGRESS)?);
    let rows = part.rows() as f64;
    let mean = known.sum / others.rows() as f64;
    let mean_error = target.sum_of_squares - 2.0 * mean * target.sum + rows * mean * mean;
    let thoughts = || merged.records.iter().flat_map(|record| &record.thoughts);
    let of_others: Vec<ReadingTrace> = thoughts().filter(|it| it.part() != number).map(positions).collect();
    let baseline = Baseline::fit(Predictors::RadialPosition, &of_others)?;
    let position_error: f64 =
        thoughts().filter(|it| it.part() == number).map(|it| squared_error(&baseline.apply(&positions(it)))).sum();
    let reading = heads.reading.head(PROGRESS).context("progress is a target of the sums")?;
    Ok(PartErrors {
        rows,
        target_sum: target.sum,
        target_squares: target.sum_of_squares,
        mse: [mean_error / rows, position_error / rows, heads.theta().figures(part)?.mse, reading.figures(part)?.mse],
    })
}

/// A thought of which nothing but its length is known.
fn positions(thought: &SummedThought) -> ReadingTrace {
    ReadingTrace {
        problem: thought.trace.problem as u64,
        first_position: 1,
        predicted: vec![0.0; thought.thinking_tokens],
        target: progress_labels(thought.thinking_tokens),
    }
}

fn squared_error(trace: &ReadingTrace) -> f64 {
    trace.predicted.iter().zip(&trace.target).map(|(predicted, target)| (predicted - target).powi(2)).sum()
}

fn vector(
    args: &TrainArgs,
    merged: &MergedSums,
    total: &GramSums,
    heads: &Heads,
    metrics: &SumsMetrics,
) -> Result<ProgressVector> {
    let pattern = covariance_direction(total, PROGRESS)?;
    let datasets: BTreeSet<&str> = merged.records.iter().map(|record| record.run.dataset.as_str()).collect();
    let model = merged.records.first().context("there are no sums")?.run.model.clone();
    Ok(ProgressVector {
        pattern: Some(pattern.into_iter().map(|value| value as f32).collect()),
        info: VectorInfo {
            model,
            state_tap: STATE_TAP.into(),
            dataset: datasets.into_iter().collect::<Vec<_>>().join(" + "),
            traces: metrics.thoughts,
            rows: total.rows() as usize,
            epsilon: args.epsilon,
            tpv_version: env!("CARGO_PKG_VERSION").into(),
            figures: BTreeMap::from([("held_out".to_owned(), serde_json::to_value(&metrics.held_out)?)]),
            lengths: merged
                .records
                .iter()
                .flat_map(|record| &record.thoughts)
                .map(|it| it.thinking_tokens as u32)
                .collect(),
        },
        ..heads.vector()
    })
}

fn report(metrics: &SumsMetrics, args: &TrainArgs, console: &Console) {
    console.emit("train_sums", metrics);
    if let Some(remark) = metrics.fit.remark() {
        console.notice(format!("final fit: {remark}"));
    }
    if metrics.held_out.is_empty() {
        console.notice("the problems are too few to hold some of them back, so there are no figures");
    }
    let [mse, fifths, r2] = HeldOutFigures::COLUMNS;
    let header = ["every fifth of the problems held out once", mse, fifths, r2];
    console.print(table(&header, metrics.held_out.iter().map(HeldOutFigures::row)));
    metrics.left_out.iter().for_each(|(reason, count)| console.print(format!("left out: {count} ({reason})")));
    console.print(format!(
        "{}\n\
         the saved vector is fitted on all {} thoughts ({} states); without states it has no calibration, so time left is unknown\n\
         the vector is in {}",
        what_theta_is(args),
        metrics.thoughts,
        metrics.states,
        args.output_dir.display()
    ));
}
