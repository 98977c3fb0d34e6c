//! `tpv demo`: all four steps on the bundled toy model, ending with the paper's two results.

use super::intervene::{InterveneSummary, Response};
use super::{generate, intervene, prepare, train};
use crate::args::{Cli, Command, DemoArgs};
use crate::console::Console;
use anyhow::{Context, Result};
use clap::Parser;
use std::path::Path;

/// Problems that the vector is fitted on, and problems that it is tried on; both of the bundled list.
const FIT_PROBLEMS: usize = 60;
const TRY_PROBLEMS: (usize, usize) = (200, 240);

/// Runs the command.
pub fn run(args: &DemoArgs, console: &Console) -> Result<()> {
    let folder = |name: &str| args.output_dir.join(name).display().to_string();
    let (traces, dataset, vector, responses) =
        (folder("traces"), folder("dataset"), folder("vector"), folder("responses"));
    console.say("The bundled thinker is a toy: 2 million weights, trained from scratch on sums of single digits.");
    let fit = FIT_PROBLEMS.to_string();
    step(
        console,
        &[
            "generate",
            "--model",
            "thinker",
            "--dataset",
            "thinker",
            "--end_problem_index",
            &fit,
            "--generations_per_problem",
            "2",
            "--max_batch",
            "128",
            "--output_dir",
            &traces,
        ],
    )?;
    step(console, &["prepare", "--input_dir", &traces, "--output_dir", &dataset])?;
    step(console, &["train", "--input_dir", &dataset, "--output_dir", &vector])?;
    let (start, end) = (TRY_PROBLEMS.0.to_string(), TRY_PROBLEMS.1.to_string());
    let alpha = format!("--alpha={}", args.alpha);
    let summary = intervene_step(
        console,
        &[
            "intervene",
            "--model",
            "thinker",
            "--dataset",
            "thinker",
            "--task_name",
            "thinker",
            "--intervention_vector_path",
            &vector,
            "--problem_start_idx",
            &start,
            "--problem_end_idx",
            &end,
            "--max_batch",
            "128",
            "--output_generations_dir",
            &responses,
            &alpha,
        ],
    )?;
    if !console.json() {
        side_by_side(&summary, args, console)?;
    }
    Ok(())
}

fn parse(console: &Console, line: &[&str]) -> Result<Command> {
    console.say(format!("\n$ tpv {}", line.join(" ")));
    Ok(Cli::try_parse_from(std::iter::once("tpv").chain(line.iter().copied()))?.command)
}

fn step(console: &Console, line: &[&str]) -> Result<()> {
    match parse(console, line)? {
        Command::Generate(args) => generate::run(&args, console).map(drop),
        Command::Prepare(args) => prepare::run(&args, console).map(drop),
        Command::Train(args) => train::run(&args, console).map(drop),
        _ => unreachable!("the demo has no other steps here"),
    }
}

fn intervene_step(console: &Console, line: &[&str]) -> Result<InterveneSummary> {
    match parse(console, line)? {
        Command::Intervene(args) => intervene::run(&args, console),
        _ => unreachable!("the line is an intervention"),
    }
}

/// Shows the problem whose thought became shorter by the most among those that stayed right.
fn side_by_side(summary: &InterveneSummary, args: &DemoArgs, console: &Console) -> Result<()> {
    let pairs = summary.responses.iter().filter(|it| it.alpha == 0.0).filter_map(|base| {
        let pushed = summary.responses.iter().find(|it| it.problem == base.problem && it.alpha == args.alpha)?;
        (base.correct == Some(true) && pushed.correct == Some(true)).then_some((base, pushed))
    });
    let saved =
        |(base, pushed): &(&Response, &Response)| i64::from(base.thinking_tokens) - i64::from(pushed.thinking_tokens);
    let (base, pushed) = pairs.max_by_key(saved).context("no problem was solved both ways; try a smaller --alpha")?;
    let (question, _) = base.text.split_once('\n').unwrap_or((&base.text, ""));
    console.print(format!("\nThe one of them that was shortened most (problem {}): {question}", base.problem));
    let width = console.width().clamp(60, 160) / 2 - 2;
    let columns = [column(base, width), column(pushed, width)];
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let cell = |column: &[String]| column.get(row).cloned().unwrap_or_default();
        console.print(format!("{:width$} │ {}", cell(&columns[0]), cell(&columns[1])).trim_end());
    }
    console.print(format!("\nEverything is in {}. Next: tpv --help", Path::new(&args.output_dir).display()));
    Ok(())
}

/// A thought and its answer as lines of at most `width` characters.
fn column(response: &Response, width: usize) -> Vec<String> {
    let (_, thought) = response.text.split_once("<think>\n").unwrap_or(("", &response.text));
    let title = format!("alpha {}: {} thinking tokens", response.alpha, response.thinking_tokens);
    let mut lines = vec![title, "─".repeat(width)];
    for line in thought.lines() {
        let characters: Vec<char> = line.chars().collect();
        lines.extend(characters.chunks(width).map(|part| part.iter().collect::<String>()));
    }
    lines
}
