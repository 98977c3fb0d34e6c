//! `tpv sweep`: many policies on the same problems and seeds, and an account of what each gives at each budget.
//!
//! Every sample is a line of `results.jsonl`, from which an interrupted sweep goes on. A policy with `{budget}` in it is
//! run once for each budget; all others are run once, uncapped, and cut at the budgets on paper.

use crate::args::SweepArgs;
use crate::console::Console;
use crate::model::open_model;
use crate::sweep::effort::{vector_file, write_levels};
use crate::sweep::figures::SweepFigures;
use crate::sweep::runner::Sweep;
use crate::sweep::tables;
use crate::table::table;
use crate::vectors::{check_path, is_default, location};
use anyhow::Result;

/// Runs the command.
pub fn run(args: &SweepArgs, console: &Console) -> Result<SweepFigures> {
    check_path(&args.tpv)?;
    if args.write_efforts && (args.tpv.exists() || is_default(&args.tpv)) {
        vector_file(&args.tpv)?;
    }
    let mut model = open_model(&args.model, &args.run, console)?;
    let written = || vector_file(&location(&args.tpv.to_string_lossy(), &model.identity)?);
    let written = args.write_efforts.then(written).transpose()?;
    let mut sweep = Sweep::new(args, &model, console)?;
    let figures = sweep.measure(&mut model, console)?;
    report(&figures, args, console);
    if let Some(vector) = written {
        write_levels(&mut sweep, &vector, &figures, &model, console)?;
    }
    Ok(figures)
}

fn report(figures: &SweepFigures, args: &SweepArgs, console: &Console) {
    console.emit("sweep", figures);
    console.print(table(&tables::ARMS_HEADER, tables::arms(&figures.arms)));
    console.print(table(&tables::AREAS_HEADER, tables::areas(figures)));
    if !figures.landings.is_empty() {
        console.print(table(&tables::LANDINGS_HEADER, tables::landings(figures)));
    }
    console.print(format!(
        "95 % bootstrap intervals and McNemar's test by problem; figures.json and CSV files are in {0}; \
         draw them with: tpv report {0}",
        args.output_dir.display()
    ));
}
