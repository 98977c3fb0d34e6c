//! The `tpv` command: parse, run, report.

mod answers;
mod args;
mod commands;
mod console;
mod crossfit;
mod fitting_prompts;
mod json_lines;
mod live;
mod model;
mod reading_cost;
mod reading_table;
mod recorder;
mod report;
mod states;
mod streaming_fit;
mod sweep;
mod table;
mod throttles;
mod vectors;

use args::{Cli, Command, EvaluateCommand};
use clap::Parser;
use console::Console;
use live::text::spelled_in_one_row;
use std::process::ExitCode;

fn main() -> ExitCode {
    silence_caught_panics();
    let cli = command_line();
    let console = Console::new(cli.json);
    match run(cli.command, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console.fail(&error),
    }
}

/// A panic of a library on a damaged file becomes an error, and needs no word of its own.
fn silence_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !tpv_core::quiet::is_quiet() {
            usual(info);
        }
    }));
}

/// The command line; what is wrong with it is said without letting it steer the terminal.
fn command_line() -> Cli {
    let words = args::with_underscores(std::env::args_os());
    Cli::try_parse_from(&words).unwrap_or_else(|error| {
        let spelled = words.iter().map(|word| spelled_in_one_row(&word.to_string_lossy()));
        Cli::try_parse_from(spelled).err().unwrap_or(error).exit()
    })
}

fn run(command: Command, console: &Console) -> anyhow::Result<()> {
    match command {
        Command::Generate(args) => commands::generate::run(&args, console).map(drop),
        Command::Prepare(args) => commands::prepare::run(&args, console).map(drop),
        Command::Train(args) => commands::train::run_any(&args, console),
        Command::Intervene(args) => commands::intervene::run(&args, console).map(drop),
        Command::Run(args) => commands::run::run(&args, console),
        Command::Explain(args) => commands::explain::run(&args, console).map(drop),
        Command::Report(args) => commands::report::run(&args, console),
        Command::Sweep(args) => commands::sweep::run(&args, console).map(drop),
        Command::Evaluate(EvaluateCommand::Reading(args)) => commands::evaluate::run(&args, console).map(drop),
        Command::Race(args) => commands::race::run(&args, console),
        Command::Learn(args) => commands::learn::run(&args, console),
        Command::Vectors(command) => commands::vectors::run(&command, console),
        Command::Bench(args) => commands::bench::run(&args, console),
        Command::Serve(args) => commands::serve::run(&args, console),
        Command::Demo(args) => commands::demo::run(&args, console),
    }
}
