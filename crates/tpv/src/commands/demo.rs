//! `tpv demo`: all four steps on the bundled toy model, ending with the paper's two results.
//!
//! The vector is fitted on the first problems of the bundled list and tried on problems from index 200 on, which are of
//! another stream: no fit has seen them. The default alpha was chosen on problems 60 to 119.

use super::intervene::{InterveneSummary, Response};
use super::train::TrainMetrics;
use super::{generate, intervene, prepare, train};
use crate::args::{Cli, Command, DemoArgs};
use crate::console::Console;
use crate::table::table;
use anyhow::{Result, bail};
use clap::Parser;
use std::ffi::OsString;
use std::path::Path;
use tpv_core::bootstrap::{Bootstrap, Interval};

/// The first problem that the vector is tried on.
const FIRST_TRIED: usize = 200;
/// A thought of at most so many tokens is shown whole.
const SHOWN_TOKENS: u32 = 160;
const REMARK: &str = "The bundled thinker is a toy: 2 million weights, trained from scratch on sums of single digits.\n\
                      What is measured on it shows how the program works and says nothing about real models.";

/// Runs the command.
pub fn run(args: &DemoArgs, console: &Console) -> Result<()> {
    if args.alpha == 0.0 {
        bail!("--alpha 0 would push nothing; name another strength");
    }
    console.say(REMARK);
    let folder = |name: &str| args.output_dir.join(name);
    let (traces, dataset, vector, responses) =
        (folder("traces"), folder("dataset"), folder("vector"), folder("responses"));
    let (fit, end) = (args.fit_problems, FIRST_TRIED + usize::from(args.try_problems));
    let model = "--model thinker --dataset thinker";
    let generate = format!("generate {model} --end_problem_index {fit} --generations_per_problem 2");
    step(&generate, &[("--output_dir", &traces)], console)?;
    step("prepare", &[("--input_dir", &traces), ("--output_dir", &dataset)], console)?;
    let metrics = train_step("train", &[("--input_dir", &dataset), ("--output_dir", &vector)], console)?;
    let intervene = format!(
        "intervene {model} --task_name demo --problem_start_idx {FIRST_TRIED} --problem_end_idx {end} \
         --temperature 0.6 --generations_per_problem 3 --alpha={}",
        args.alpha
    );
    let paths = [("--intervention_vector_path", vector.as_path()), ("--output_generations_dir", &responses)];
    let summary = intervene_step(&intervene, &paths, console)?;
    if !console.json() {
        two_results(&metrics, &summary, args, console);
        side_by_side(&summary, args, console);
        console.print(format!("\nEverything is in {}. Next: tpv --help", args.output_dir.display()));
    }
    Ok(())
}

/// Shows a command line and parses it as the user's own would be.
fn parse(words: &str, paths: &[(&str, &Path)], console: &Console) -> Result<Command> {
    let shown: Vec<String> = paths.iter().map(|(flag, path)| format!(" {flag} {}", path.display())).collect();
    console.say(format!("\n$ tpv {words}{}", shown.concat()));
    let paths = paths.iter().flat_map(|(flag, path)| [OsString::from(flag), path.as_os_str().to_owned()]);
    let line = std::iter::once("tpv").chain(words.split_whitespace()).map(OsString::from).chain(paths);
    Ok(Cli::try_parse_from(line)?.command)
}

fn step(words: &str, paths: &[(&str, &Path)], console: &Console) -> Result<()> {
    match parse(words, paths, console)? {
        Command::Generate(args) => generate::run(&args, console).map(drop),
        Command::Prepare(args) => prepare::run(&args, console).map(drop),
        _ => unreachable!("the demo has no other steps here"),
    }
}

fn train_step(words: &str, paths: &[(&str, &Path)], console: &Console) -> Result<TrainMetrics> {
    match parse(words, paths, console)? {
        Command::Train(args) => train::run(&args, console),
        _ => unreachable!("the line is a training"),
    }
}

fn intervene_step(words: &str, paths: &[(&str, &Path)], console: &Console) -> Result<InterveneSummary> {
    match parse(words, paths, console)? {
        Command::Intervene(args) => intervene::run(&args, console),
        _ => unreachable!("the line is an intervention"),
    }
}

/// Each response at alpha 0 beside that of the same problem, seed and number at the demo's alpha.
fn pairs(summary: &InterveneSummary, alpha: f32) -> Vec<(&Response, &Response)> {
    let base = summary.responses.iter().filter(|it| it.alpha == 0.0);
    let partner = |base: &Response| {
        let same = |it: &&Response| (it.problem, it.generation, it.alpha) == (base.problem, base.generation, alpha);
        summary.responses.iter().find(same)
    };
    base.filter_map(|base| Some((base, partner(base)?))).collect()
}

/// The table at the end: the progress can be read, and pushing along theta shortens.
fn two_results(metrics: &TrainMetrics, summary: &InterveneSummary, args: &DemoArgs, console: &Console) {
    let r2 = |name: &str| metrics.test.iter().find(|it| it.predictor == name).and_then(|it| it.figures.r2);
    let number = |it: Option<Interval>| {
        it.map_or_else(|| "-".into(), |it| format!("{:.2} [{:.2}, {:.2}]", it.value, it.low, it.high))
    };
    let pairs = pairs(summary, args.alpha);
    let mean = |of: fn(&(&Response, &Response)) -> u32| {
        pairs.iter().map(|pair| f64::from(of(pair))).sum::<f64>() / pairs.len().max(1) as f64
    };
    let right = |of: fn(&(&Response, &Response)) -> bool| pairs.iter().filter(|pair| of(pair)).count().to_string();
    let tokens: Vec<(u64, f64, f64)> = pairs
        .iter()
        .map(|(base, pushed)| (base.problem as u64, pushed.thinking_tokens.into(), base.thinking_tokens.into()))
        .collect();
    let change = Bootstrap::default().ratio(&tokens);
    let heading = match change {
        Some(it) if it.high < 1.0 => "2. pushing shortens it",
        _ => "2. pushing along theta",
    };
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let change = change.map_or_else(
        || "-".into(),
        |it| format!("{:+.0} % [{:+.0}, {:+.0}]", percent(it.value), percent(it.low), percent(it.high)),
    );
    let pushed = format!("alpha {}", args.alpha);
    console.print("\nThe two results, on problems that the fit has not seen (in brackets 95 % by problem):");
    let reading = vec!["R2 of the progress".into(), number(r2("position only")), number(r2("theta + intercept"))];
    console.print(table(&["1. hidden states tell it", "position only", "theta + intercept"], [reading]));
    let steering = [
        vec![
            "mean thinking tokens".into(),
            format!("{:.1}", mean(|it| it.0.thinking_tokens)),
            format!("{:.1}", mean(|it| it.1.thinking_tokens)),
            change,
        ],
        vec![
            format!("right of {}", pairs.len()),
            right(|it| it.0.correct == Some(true)),
            right(|it| it.1.correct == Some(true)),
            String::new(),
        ],
    ];
    console.print(table(&[heading, "alpha 0", &pushed, "change"], steering));
}

/// Shows the thought that became shorter by the most, among those that stayed right and fit on a screen.
fn side_by_side(summary: &InterveneSummary, args: &DemoArgs, console: &Console) {
    let mut pairs = pairs(summary, args.alpha);
    pairs.retain(|(base, pushed)| base.correct == Some(true) && pushed.correct == Some(true));
    let saved =
        |(base, pushed): &(&Response, &Response)| i64::from(base.thinking_tokens) - i64::from(pushed.thinking_tokens);
    let short = |(base, pushed): &(&Response, &Response)| base.thinking_tokens.max(pushed.thinking_tokens);
    let shown = pairs.iter().filter(|pair| short(pair) <= SHOWN_TOKENS).max_by_key(|pair| saved(pair));
    let Some((base, pushed)) = shown.or_else(|| pairs.iter().min_by_key(|pair| short(pair))) else {
        return console.print("\nNo problem was solved both ways; try a smaller --alpha.");
    };
    let (question, _) = base.text.split_once('\n').unwrap_or((&base.text, ""));
    let which =
        if pushed.thinking_tokens < base.thinking_tokens { "the most shortened" } else { "none became shorter" };
    console.print(format!(
        "\nOne of them, {which} of those with up to {SHOWN_TOKENS} tokens. Problem {}:\n{question}\n",
        base.problem
    ));
    let width = console.width().clamp(60, 160) / 2 - 2;
    let columns = [column(base, width), column(pushed, width)];
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let cell = |column: &[String]| column.get(row).cloned().unwrap_or_default();
        console.print(format!("{:width$} │ {}", cell(&columns[0]), cell(&columns[1])).trim_end());
    }
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
