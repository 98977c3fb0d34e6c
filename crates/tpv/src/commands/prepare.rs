//! `tpv prepare`: which traces train and which test, by problem, and what is left out and why.
//!
//! A trace is labelled j/N over its thinking tokens, so one that was cut off has no label: it is left out and reported.
//! So is one with a state that is not a finite number.

use crate::args::{PrepareArgs, SplitMethod};
use crate::console::Console;
use crate::table::table;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use tpv_core::phase::ThinkingMarkers;
use tpv_core::split::{hashed_split, reference_split};
use tpv_data::dataset::{DatasetManifest, SplitRecord};
use tpv_data::run::RUN_FILE;
use tpv_data::source::{LeftOut, NO_STATES, NOT_FINITE, TraceHeader, TraceSource, count_reasons};
use tpv_data::traces::open_traces;

/// So many traces that are left out for one reason are named.
const FEW: usize = 3;

/// Runs the command.
pub fn run(args: &PrepareArgs, console: &Console) -> Result<DatasetManifest> {
    run_within(args, usize::MAX, console)
}

/// Runs the command on the problems with an index below `end`, as if there were no others.
pub fn run_within(args: &PrepareArgs, end: usize, console: &Console) -> Result<DatasetManifest> {
    if !(args.train_split_ratio > 0.0 && args.train_split_ratio < 1.0) {
        bail!("--train_split_ratio {} must lie between 0 and 1", args.train_split_ratio);
    }
    if args.end_of_thinking_token.is_empty() {
        bail!("--end_of_thinking_token is empty; say which text ends the thinking, such as </think>");
    }
    let markers = ThinkingMarkers { end: args.end_of_thinking_token.clone(), ..ThinkingMarkers::default() };
    let source = open_traces(&args.input_dir, &markers)?;
    if args.input_dir.join(RUN_FILE).is_file() && markers.end != ThinkingMarkers::default().end {
        let folder = args.input_dir.display();
        bail!("{folder}: traces of `tpv generate` know where their thinking ends; leave --end_of_thinking_token out");
    }
    let (usable, left_out) = sort_out(&*source, end, console)?;
    if usable.is_empty() {
        bail!("{}: {}", args.input_dir.display(), nothing_usable(&left_out, args));
    }
    tell_of_copies(&*source, &usable, console)?;
    let manifest = split(args, &*source, &usable, &markers, left_out)?;
    manifest.save(&args.output_dir)?;
    report(&manifest, args, console);
    Ok(manifest)
}

/// The traces that can be labelled and whose states are finite numbers, and the others with the reason.
fn sort_out<'a>(
    source: &'a dyn TraceSource,
    end: usize,
    console: &Console,
) -> Result<(Vec<&'a TraceHeader>, Vec<LeftOut>)> {
    let mut left_out = source.left_out().to_vec();
    let mut usable = Vec::new();
    let bar = console.bar(source.headers().len() as u64, "prepare");
    for header in source.headers().iter().filter(|header| header.id.problem < end) {
        console.check_interrupted()?;
        let reason = match header.unusable() {
            Some(reason) => Some(reason.to_owned()),
            None => source.not_finite(header.id)?,
        };
        match reason {
            Some(reason) => left_out.push(LeftOut { trace: header.id.to_string(), reason }),
            None => usable.push(header),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((usable, left_out))
}

/// Says where problems are copies of others: the split goes by index, so that copies may lie on both of its sides.
fn tell_of_copies(source: &dyn TraceSource, usable: &[&TraceHeader], console: &Console) -> Result<()> {
    let problems: BTreeSet<usize> = usable.iter().map(|header| header.id.problem).collect();
    let mut texts = BTreeSet::new();
    let mut copies = Vec::new();
    for problem in problems {
        let text = source.problem_text(problem)?;
        if text.is_some_and(|text| !texts.insert(text)) {
            copies.push(problem.to_string());
        }
    }
    if !copies.is_empty() {
        let (count, first) = (copies.len(), copies[..copies.len().min(FEW)].join(", "));
        console.notice(format!(
            "{count} problem(s) have the words of another one (first: {first}): where copies train and test, figures flatter"
        ));
    }
    Ok(())
}

/// Why there is nothing to split, and what to do next.
fn nothing_usable(left_out: &[LeftOut], args: &PrepareArgs) -> String {
    if left_out.is_empty() {
        return "no problem is complete yet; run `tpv generate` again, it goes on where it stopped".into();
    }
    let reasons = count_reasons(left_out);
    let folder = args.input_dir.display();
    let next_step = if reasons.contains_key(NO_STATES) {
        format!("if the run was made with --fit, its sums can be trained on: tpv train {folder}")
    } else if reasons.keys().any(|reason| reason.contains(NOT_FINITE)) {
        "states beyond 65504 overflow f16: generate again with --states_dtype f32; other numbers that are not finite come \
         from the model"
            .into()
    } else {
        let longer = "generate with a larger --max_new_tokens, as far as the model's positions allow";
        let of_scripts = !args.input_dir.join(RUN_FILE).is_file();
        let token = format!(
            "name the text that ends the thinking with --end_of_thinking_token (here {})",
            args.end_of_thinking_token
        );
        if of_scripts { format!("{token}, or {longer}") } else { longer.into() }
    };
    format!("none of the {} traces can be used ({}); {next_step}", left_out.len(), said(left_out))
}

/// The reasons, each with its count.
fn said(left_out: &[LeftOut]) -> String {
    let reasons = count_reasons(left_out).into_iter().map(|(why, count)| format!("{count} {why}"));
    reasons.collect::<Vec<_>>().join(", ")
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
        let left_out = if left_out.is_empty() { String::new() } else { format!(" (left out: {})", said(&left_out)) };
        bail!(
            "{}: usable traces of {} problem(s) cannot be split into train and test{left_out}; generate more problems",
            args.input_dir.display(),
            split.train.len() + split.test.len()
        );
    }
    let record = SplitRecord { method: method.into(), seed: args.seed, train_ratio: args.train_split_ratio };
    let indexes = |side: &[u64]| side.iter().map(|&problem| problem as usize).collect::<Vec<usize>>();
    Ok(DatasetManifest::new(source, markers, record, &indexes(&split.train), &indexes(&split.test), left_out)?)
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
    for (reason, count) in count_reasons(&manifest.left_out) {
        let of_reason = manifest.left_out.iter().filter(|left_out| left_out.reason == reason);
        let names: Vec<&str> = of_reason.map(|left_out| left_out.trace.as_str()).collect();
        let reason = if count <= FEW { format!("{reason}: {}", names.join(", ")) } else { reason };
        console.print(format!("left out: {count} ({reason})"));
    }
    let folder = args.output_dir.display();
    console.print(format!("dataset.json is in {folder}; next: tpv train --input_dir {folder}"));
}
