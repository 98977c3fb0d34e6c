//! `tpv prepare`: which traces train and which test, by problem, and what is left out and why.
//!
//! A trace is labelled j/N over its thinking tokens, so one that was cut off has no label: it is left out and reported.

use crate::args::{PrepareArgs, SplitMethod};
use crate::console::Console;
use crate::table::table;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use tpv_core::phase::ThinkingMarkers;
use tpv_core::split::{hashed_split, reference_split};
use tpv_data::dataset::{DatasetManifest, SplitRecord};
use tpv_data::source::{LeftOut, TraceHeader, TraceSource, open_traces};

/// Runs the command.
pub fn run(args: &PrepareArgs, console: &Console) -> Result<DatasetManifest> {
    if !(args.train_split_ratio > 0.0 && args.train_split_ratio < 1.0) {
        bail!("--train_split_ratio {} must lie between 0 and 1", args.train_split_ratio);
    }
    if args.end_of_thinking_token.is_empty() {
        bail!("--end_of_thinking_token is empty; say which text ends the thinking, such as </think>");
    }
    let markers = ThinkingMarkers { end: args.end_of_thinking_token.clone(), ..ThinkingMarkers::default() };
    let source = open_traces(&args.input_dir, &markers)?;
    let (usable, left_out) = sort_out(&*source);
    if usable.is_empty() {
        let total = left_out.len();
        bail!(
            "{}: none of the {total} traces can be used ({}); generate with a larger --max_new_tokens",
            args.input_dir.display(),
            reasons(&left_out).into_iter().map(|(why, count)| format!("{count} {why}")).collect::<Vec<_>>().join(", ")
        );
    }
    let manifest = split(args, &*source, &usable, &markers, left_out)?;
    manifest.save(&args.output_dir)?;
    report(&manifest, args, console);
    Ok(manifest)
}

/// The traces that can be labelled, and the others with the reason.
fn sort_out(source: &dyn TraceSource) -> (Vec<&TraceHeader>, Vec<LeftOut>) {
    let mut left_out = source.left_out().to_vec();
    let mut usable = Vec::new();
    for header in source.headers() {
        let reason = match header {
            header if header.thinking_tokens == 0 => "no thinking",
            header if !header.thinking_ended => "unfinished: no end of thinking within the token limit",
            header if header.thinking_rows == 0 => "no states were kept",
            _ => {
                usable.push(header);
                continue;
            }
        };
        left_out.push(LeftOut { trace: header.id.to_string(), reason: reason.into() });
    }
    (usable, left_out)
}

fn split(
    args: &PrepareArgs,
    source: &dyn TraceSource,
    usable: &[&TraceHeader],
    markers: &ThinkingMarkers,
    left_out: Vec<LeftOut>,
) -> Result<DatasetManifest> {
    let problems: Vec<u64> = usable.iter().map(|header| header.id.problem as u64).collect();
    let (method, split) = match args.split {
        SplitMethod::Hash => ("hash", hashed_split(&problems, args.seed, args.train_split_ratio)),
        SplitMethod::Reference => ("reference", reference_split(&problems, args.seed, args.train_split_ratio)),
    };
    if split.train.is_empty() || split.test.is_empty() {
        bail!(
            "{}: usable traces of {} problem(s) cannot be split into train and test; generate more problems",
            args.input_dir.display(),
            split.train.len() + split.test.len()
        );
    }
    let record = SplitRecord { method: method.into(), seed: args.seed, train_ratio: args.train_split_ratio };
    let indexes = |side: &[u64]| side.iter().map(|&problem| problem as usize).collect::<Vec<usize>>();
    Ok(DatasetManifest::new(source, markers, record, &indexes(&split.train), &indexes(&split.test), left_out)?)
}

/// How often each reason occurs.
fn reasons(left_out: &[LeftOut]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    left_out.iter().for_each(|it| *counts.entry(it.reason.as_str()).or_insert(0) += 1);
    counts
}

fn report(manifest: &DatasetManifest, args: &PrepareArgs, console: &Console) {
    console.emit("prepare", manifest);
    let problems = |ids: &[tpv_data::source::TraceId]| {
        let mut problems: Vec<usize> = ids.iter().map(|id| id.problem).collect();
        problems.dedup();
        problems.len()
    };
    let row = |name: &str, ids: &[tpv_data::source::TraceId], rows: usize| {
        vec![name.to_owned(), problems(ids).to_string(), ids.len().to_string(), rows.to_string()]
    };
    let rows = [row("train", &manifest.train, manifest.train_rows), row("test", &manifest.test, manifest.test_rows)];
    console.print(table(&["", "problems", "traces", "thinking states"], rows));
    for (reason, count) in reasons(&manifest.left_out) {
        console.print(format!("left out: {count} ({reason})"));
    }
    let folder = args.output_dir.display();
    console.print(format!("dataset.json is in {folder}; next: tpv train --input_dir {folder}"));
}
