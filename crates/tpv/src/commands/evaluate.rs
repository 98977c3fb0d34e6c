//! `tpv evaluate reading`: every reading of a folder of traces against baselines that look at no state.

use crate::args::EvaluateReadingArgs;
use crate::console::Console;
use crate::reading_table;
use crate::states::head_traces;
use crate::vectors::find;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use tpv_core::bootstrap::Bootstrap;
use tpv_core::phase::ThinkingMarkers;
use tpv_core::reading::evaluation::{ReadingReport, evaluate};
use tpv_core::reading::{Calibration, HeadTrace};
use tpv_core::vector::{ProgressVector, dot};
use tpv_data::dataset::DatasetManifest;
use tpv_data::source::{TraceHeader, TraceId, TraceSource};
use tpv_data::timings::token_times;
use tpv_data::traces::open_traces;

/// What the command found.
#[derive(Debug, Serialize)]
pub struct ReadingEvaluation {
    /// Where the vector comes from.
    pub vector: String,
    /// The data set of the traces, where the folder says so.
    pub dataset: Option<String>,
    /// Traces left out, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// The figures.
    pub report: ReadingReport,
}

/// Runs the command.
pub fn run(args: &EvaluateReadingArgs, console: &Console) -> Result<ReadingEvaluation> {
    let (source, dataset) = open(&args.input_dir)?;
    let model = source.model().cloned().unwrap_or_default();
    let (origin, file) = find(args.tpv.tpv.as_deref(), &model)?.with_context(|| match model.name.as_str() {
        "" => format!("{} does not say which model made it; name a vector with --tpv", args.input_dir.display()),
        name => format!("there is no vector for {name}; name one with --tpv, or make one with: tpv learn {name}"),
    })?;
    let vector = file.vector;
    let calibration = Calibration::of_vector(&vector)?;
    let known_lengths = known_lengths(calibration.as_ref(), &vector, console)?;
    let chosen = choose(&*source, dataset.as_ref());
    if let Some(remark) = overlap(&vector, source.dataset(), dataset.as_ref()) {
        console.notice(remark);
    }
    if vector.progress.intercept != 0.0
        && vector.theta == vector.progress.weights
        && dot(&vector.theta, &vector.theta) > 0.0
    {
        console.notice(
            "theta was fitted with an intercept (--intercept), and its rows read without it; the head's rows have it",
        );
    }
    let traces = read(&*source, &chosen.traces, &vector, console)?;
    if traces.is_empty() {
        bail!("{}: no finished thought with states is there to measure", args.input_dir.display());
    }
    let bootstrap = Bootstrap { seed: args.seed, resamples: args.resamples, ..Bootstrap::default() };
    let measure = || Ok(evaluate(&traces, calibration.as_ref(), &known_lengths, &bootstrap)?);
    let report = console.compute("measure", measure)?;
    let found = ReadingEvaluation {
        vector: origin,
        dataset: source.dataset().map(str::to_owned),
        left_out: chosen.left_out,
        report,
    };
    show(&found, console);
    Ok(found)
}

/// A folder of traces, or a data set that `prepare` made of one.
fn open(folder: &Path) -> Result<(Box<dyn TraceSource>, Option<DatasetManifest>)> {
    if folder.join(tpv_data::dataset::DATASET_FILE).is_file() {
        let manifest = DatasetManifest::load(folder)?;
        return Ok((manifest.open_traces()?, Some(manifest)));
    }
    Ok((open_traces(folder, &ThinkingMarkers::default())?, None))
}

fn known_lengths(calibration: Option<&Calibration>, vector: &ProgressVector, console: &Console) -> Result<Vec<u32>> {
    if let Some(calibration) = calibration {
        return Ok(calibration.lengths.clone());
    }
    if !vector.info.lengths.is_empty() {
        let mut lengths = vector.info.lengths.clone();
        lengths.sort_unstable();
        return Ok(lengths);
    }
    // Without the lengths themselves their mean is all that the vector knows of other problems.
    let mean = vector.info.rows.checked_div(vector.info.traces).filter(|&mean| mean > 0);
    let mean = mean.context(
        "the vector does not say how long the thoughts were that it was fitted on (a .npy file never does), and the baselines \
         need it; give one of `tpv train`",
    )?;
    console.notice(
        "the vector does not hold the lengths that it was fitted on: the position-only baselines know their mean alone, and are \
         weaker than they could be",
    );
    Ok(vec![mean as u32])
}

/// Traces that can be measured, and how many cannot, by reason.
struct Chosen {
    traces: Vec<TraceId>,
    left_out: BTreeMap<String, usize>,
}

fn choose(source: &dyn TraceSource, dataset: Option<&DatasetManifest>) -> Chosen {
    let mut chosen = Chosen { traces: Vec::new(), left_out: BTreeMap::new() };
    source.left_out().iter().for_each(|it| *chosen.left_out.entry(it.reason.clone()).or_insert(0) += 1);
    for header in source.headers() {
        match reason(header, dataset) {
            None => chosen.traces.push(header.id),
            Some(reason) => *chosen.left_out.entry(reason.into()).or_insert(0) += 1,
        }
    }
    chosen
}

fn reason(header: &TraceHeader, dataset: Option<&DatasetManifest>) -> Option<&'static str> {
    let trained_on = dataset.is_some_and(|dataset| dataset.train.contains(&header.id));
    if trained_on { Some("a training problem") } else { header.unusable() }
}

/// A warning where the vector may have seen what it is measured on.
fn overlap(vector: &ProgressVector, dataset: Option<&str>, manifest: Option<&DatasetManifest>) -> Option<String> {
    let learned_from = || vector.info.dataset.split(" + ");
    let same = dataset
        .is_some_and(|name| !name.is_empty() && name.split(" + ").any(|part| learned_from().any(|it| it == part)));
    let what = match (same, manifest) {
        (false, _) => return None,
        (true, Some(_)) => {
            "the saved vector was refitted on all problems of its data set, the test problems here among them"
        }
        (true, None) => "the vector was trained on problems of the same data set",
    };
    Some(format!("{what}: these figures may flatter it; measure on problems of another file"))
}

fn read(
    source: &dyn TraceSource,
    ids: &[TraceId],
    vector: &ProgressVector,
    console: &Console,
) -> Result<Vec<HeadTrace>> {
    let bar = console.bar(ids.len() as u64, "read");
    let mut times = token_times(source.folder())?;
    let mut traces = Vec::with_capacity(ids.len());
    for &id in ids {
        console.check_interrupted()?;
        let times = times.remove(&id).unwrap_or_default();
        let read = head_traces(source, id, &[vector])?.into_iter();
        traces.extend(read.map(|trace| HeadTrace { times: times.clone(), ..trace }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(traces)
}

fn show(found: &ReadingEvaluation, console: &Console) {
    console.emit("evaluate_reading", found);
    let report = &found.report;
    console.print(format!(
        "{} tokens of {} thoughts of {} problems, {:.0} tokens a thought; vector: {}",
        report.tokens, report.traces, report.problems, report.mean_thinking_tokens, found.vector
    ));
    reading_table::warn_of_few_problems(report.problems, console);
    found.left_out.iter().for_each(|(reason, count)| console.print(format!("left out: {count} ({reason})")));
    console.print(reading_table::sources(report));
    let first = report.sources.first().map(|it| &it.progress);
    reading_table::tell_of_fewer_resamples(first, report.bootstrap.resamples, console);
    console.print(reading_table::per_thought(report));
    match &report.calibrated {
        Some(calibrated) => {
            console.print(reading_table::deciles(calibrated));
            console.print(reading_table::coverage_sentence(calibrated));
            match &calibrated.seconds {
                Some(seconds) => console.print(reading_table::seconds(seconds)),
                None => console.print("the times of the tokens were not recorded: no seconds to measure"),
            }
            console.print(reading_table::gains(calibrated));
        }
        None => console.print("the vector has no calibration: no intervals to measure"),
    }
}
