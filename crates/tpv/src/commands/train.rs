//! `tpv train`: streams the states into Gram sums, solves the ridge, measures on held-out problems, refits on everything.

use crate::args::TrainArgs;
use crate::console::Console;
use crate::table::table;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::BTreeMap;
use tpv_core::baseline::{Baseline, Predictors};
use tpv_core::bootstrap::{Bootstrap, Interval};
use tpv_core::fit::{Fit, FitReport, FittedHead, Ridge, covariance_direction};
use tpv_core::gram::{
    GramAccumulator, GramSums, LOG_REMAINING, PROGRESS, Parallelism, log_remaining_labels, progress_labels,
};
use tpv_core::metrics::{Figures, ReadingTrace, measure, paired_difference};
use tpv_core::vector::{ProgressVector, STATE_TAP, VectorInfo};
use tpv_data::atomic::write_json;
use tpv_data::dataset::DatasetManifest;
use tpv_data::source::{TraceId, TraceSource};
use tpv_data::vector::VectorFile;

/// What `metrics.json` holds.
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
    /// |theta|^2 of the final fit.
    pub theta_norm_squared: f64,
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

/// Both fits from one set of sums.
struct Heads {
    theta: Fit,
    reading: Fit,
}

impl Heads {
    fn fit(sums: &GramSums, args: &TrainArgs) -> Result<Self> {
        let solve = |intercept| Ridge { epsilon: args.epsilon, intercept }.solve(sums, Parallelism::All);
        Ok(Self { theta: solve(args.intercept)?, reading: solve(true)? })
    }

    fn theta(&self) -> &FittedHead {
        self.theta.head(PROGRESS).expect("progress is a target of the sums")
    }

    fn progress(&self) -> &FittedHead {
        self.reading.head(PROGRESS).expect("progress is a target of the sums")
    }

    fn log_remaining(&self) -> &FittedHead {
        self.reading.head(LOG_REMAINING).expect("the remaining length is a target of the sums")
    }
}

/// Runs the command.
pub fn run(args: &TrainArgs, console: &Console) -> Result<TrainMetrics> {
    if args.device != "cpu" {
        console.notice(format!("--device {} is accepted for compatibility; the fit runs on the CPU", args.device));
    }
    let manifest = DatasetManifest::load(&args.input_dir)?;
    if manifest.train.is_empty() || manifest.test.is_empty() {
        bail!("{}: the data set has no traces on one side of the split; prepare it again", args.input_dir.display());
    }
    let source = manifest.open_traces()?;
    let bar = console.bar((manifest.train.len() + manifest.test.len()) as u64 * 2, "train");
    let mut sums = sums_of(&*source, &manifest.train, console, &bar)?;
    let heads = Heads::fit(&sums, args)?;
    let train = readings(&*source, &manifest.train, heads.theta(), console, &bar)?;
    let test = readings(&*source, &manifest.test, heads.theta(), console, &bar)?;
    let with_intercept = readings(&*source, &manifest.test, heads.progress(), console, &ProgressBar::hidden())?;
    sums.merge(&sums_of(&*source, &manifest.test, console, &bar)?)?;
    let refit = Heads::fit(&sums, args)?;
    bar.finish_and_clear();
    let metrics = measure_all(args, &heads, &refit, &train, &test, &with_intercept)?;
    let vector = vector(args, &manifest, &sums, &refit, &metrics)?;
    VectorFile { vector, ..VectorFile::default() }.save_folder(&args.output_dir)?;
    write_json(&args.output_dir.join("metrics.json"), &metrics)?;
    report(&metrics, args, console);
    Ok(metrics)
}

/// Streams the states of some traces into sums with both targets.
fn sums_of(source: &dyn TraceSource, ids: &[TraceId], console: &Console, bar: &ProgressBar) -> Result<GramSums> {
    let width = source
        .model()
        .map(|model| model.hidden_size)
        .context("the folder of the traces holds no states; generate them again")?;
    let mut sums = GramAccumulator::new(width, &[PROGRESS, LOG_REMAINING], Parallelism::All)?;
    for &id in ids {
        console.check_interrupted()?;
        let total = source.header(id)?.thinking_tokens;
        let (progress, remaining) = (progress_labels(total), log_remaining_labels(total));
        let mut refused = None;
        source.read_thinking(id, &mut |block| {
            let rows = block.first_position - 1..block.first_position - 1 + block.rows;
            if let Err(error) = sums.add_rows(block.hidden_post_norm, &[&progress[rows.clone()], &remaining[rows]]) {
                refused.get_or_insert(error);
            }
            Ok(())
        })?;
        if let Some(error) = refused {
            return Err(error).with_context(|| format!("trace {id}"));
        }
        bar.inc(1);
    }
    Ok(sums.finish())
}

/// What a head reads at each thinking token, beside the labels.
fn readings(
    source: &dyn TraceSource,
    ids: &[TraceId],
    head: &FittedHead,
    console: &Console,
    bar: &ProgressBar,
) -> Result<Vec<ReadingTrace>> {
    let mut traces = Vec::with_capacity(ids.len());
    for &id in ids {
        console.check_interrupted()?;
        let header = source.header(id)?;
        let first_position = header.first_position as u32;
        let target = progress_labels(header.thinking_tokens)[header.first_position - 1..].to_vec();
        let mut predicted = Vec::with_capacity(target.len());
        source.read_thinking(id, &mut |block| {
            predicted.extend(block.iter().map(|(_, state)| head.predict(state)));
            Ok(())
        })?;
        traces.push(ReadingTrace { problem: id.problem as u64, first_position, predicted, target });
        bar.inc(1);
    }
    Ok(traces)
}

fn measure_all(
    args: &TrainArgs,
    heads: &Heads,
    refit: &Heads,
    train: &[ReadingTrace],
    test: &[ReadingTrace],
    with_intercept: &[ReadingTrace],
) -> Result<TrainMetrics> {
    let bootstrap = Bootstrap { seed: args.seed, ..Bootstrap::default() };
    let baseline = |predictors| -> Result<Vec<ReadingTrace>> {
        let baseline = Baseline::fit(predictors, train)?;
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
        test: vec![
            figures("mean", &mean)?,
            figures("position only", &position)?,
            figures(if args.intercept { "theta (with intercept)" } else { "theta" }, test)?,
            figures("reading head (theta with intercept)", with_intercept)?,
            figures("position and theta", &joint)?,
        ],
        theta_less_position: paired_difference(test, &position, &bootstrap)?,
        joint_less_position: paired_difference(&joint, &position, &bootstrap)?,
        fit: heads.theta.report.clone(),
        train_mse: heads.theta().train.mse,
        refit: refit.theta.report.clone(),
        refit_traces: train.len() + test.len(),
        theta_norm_squared: theta.weights.iter().map(|weight| weight * weight).sum(),
    })
}

fn vector(
    args: &TrainArgs,
    manifest: &DatasetManifest,
    sums: &GramSums,
    refit: &Heads,
    metrics: &TrainMetrics,
) -> Result<ProgressVector> {
    let pattern = covariance_direction(sums, PROGRESS)?;
    Ok(ProgressVector {
        theta: refit.theta().to_linear_head().weights,
        progress: refit.progress().to_linear_head(),
        log_remaining: Some(refit.log_remaining().to_linear_head()),
        pattern: Some(pattern.into_iter().map(|value| value as f32).collect()),
        calibration: None,
        efforts: BTreeMap::new(),
        info: VectorInfo {
            model: manifest.model.clone(),
            state_tap: STATE_TAP.into(),
            dataset: manifest.dataset.clone().unwrap_or_default(),
            traces: metrics.refit_traces,
            rows: sums.rows() as usize,
            epsilon: args.epsilon,
            tpv_version: env!("CARGO_PKG_VERSION").into(),
            figures: BTreeMap::from([("test".to_owned(), serde_json::to_value(&metrics.test)?)]),
        },
    })
}

fn interval(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "-".into(), |it| format!("{:.4} ({:.4} to {:.4})", it.value, it.low, it.high))
}

fn report(metrics: &TrainMetrics, args: &TrainArgs, console: &Console) {
    console.emit("train", metrics);
    let remarks = [("train", &metrics.fit), ("final", &metrics.refit)];
    for (name, remark) in remarks.iter().filter_map(|(name, report)| Some((name, report.remark()?))) {
        console.notice(format!("{name} fit: {remark}"));
    }
    let rows = metrics.test.iter().map(|it| {
        let Figures { mse, mae, r2, spearman, .. } = it.figures;
        vec![it.predictor.to_owned(), interval(mse), interval(mae), interval(r2), interval(spearman)]
    });
    console.print(table(&["held-out problems", "MSE", "MAE", "R2", "Spearman"], rows));
    let difference = interval(metrics.theta_less_position.mse);
    console.print(format!(
        "MSE of theta less that of position only: {difference}; 95 % bootstrap intervals by problem\n\
         the saved vector is refitted on all {} traces, so these figures are of the fit before\n\
         the vector is in {}",
        metrics.refit_traces,
        args.output_dir.display()
    ));
}
