//! `tpv report`: one page from what lies in a folder, with its pictures and numbers beside it.

use crate::args::ReportArgs;
use crate::commands::explain::{EXPLAIN_FILE, Explanation};
use crate::commands::sweep::{FIGURES_FILE, RESULTS_FILE};
use crate::console::Console;
use crate::report::page::{Section, html, table};
use crate::report::sections::{self, ReadingLine};
use crate::sweep::figures::SweepFigures;
use crate::sweep::result::SweepResult;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::path::Path;
use tpv_core::bootstrap::Interval;
use tpv_data::atomic::{create_folder, write_bytes};

/// What `train` leaves for the report: one held-out thought a line.
pub const READINGS_FILE: &str = "test_readings.jsonl";
/// The page.
pub const PAGE_FILE: &str = "report.html";

/// Runs the command.
pub fn run(args: &ReportArgs, console: &Console) -> Result<()> {
    let page = write_report(&args.folder)?;
    console.emit("report", &page.pictures);
    console.print(format!(
        "{} with {} pictures; SVG and CSV files are in {}",
        args.folder.join(PAGE_FILE).display(),
        page.pictures.len(),
        args.folder.join("report").display()
    ));
    Ok(())
}

/// What was written.
pub struct WrittenReport {
    /// Names of the pictures.
    pub pictures: Vec<&'static str>,
}

/// Draws everything that the folder holds.
pub fn write_report(folder: &Path) -> Result<WrittenReport> {
    let readings: Vec<ReadingLine> = lines(&folder.join(READINGS_FILE))?;
    let figures: Option<SweepFigures> = json(&folder.join(FIGURES_FILE))?;
    let explanation: Option<Explanation> = json(&folder.join(EXPLAIN_FILE))?;
    let mut sections = sections::readings(&readings);
    if let Some(figures) = &figures {
        let mut results: Vec<SweepResult> = lines(&folder.join(RESULTS_FILE))?;
        results.retain(|it| it.settings == figures.settings);
        sections.extend(sections::sweep(figures, &results));
    }
    if sections.is_empty() && explanation.is_none() {
        bail!(
            "{}: nothing to report on; name a folder that `tpv train`, `tpv sweep` or `tpv explain` wrote",
            folder.display()
        );
    }
    let tables: Vec<String> =
        [figures.as_ref().map(arms_table), explanation.as_ref().map(tokens_table)].into_iter().flatten().collect();
    write(folder, &sections, &tables)?;
    Ok(WrittenReport { pictures: sections.iter().map(|section| section.name).collect() })
}

fn write(folder: &Path, sections: &[Section], tables: &[String]) -> Result<()> {
    let pictures = folder.join("report");
    create_folder(&pictures)?;
    for section in sections {
        write_bytes(&pictures.join(format!("{}.svg", section.name)), section.plot.svg().as_bytes())?;
        write_bytes(&pictures.join(format!("{}.csv", section.name)), section.plot.csv().as_bytes())?;
    }
    write_bytes(&folder.join(PAGE_FILE), html("Thinking progress", sections, tables).as_bytes())?;
    Ok(())
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let value = serde_json::from_slice(&bytes);
    Ok(Some(value.with_context(|| format!("{}: damaged, or of another version; make it again", path.display()))?))
}

/// The lines of a file that is there; a last one that was cut off is left out.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn arms_table(figures: &SweepFigures) -> String {
    let percent = |interval: Option<Interval>| {
        let text = |it: Interval| format!("{:.1} ({:.1} to {:.1})", 100.0 * it.value, 100.0 * it.low, 100.0 * it.high);
        interval.map_or_else(|| "-".into(), text)
    };
    let rows = figures.arms.iter().map(|row| {
        vec![
            row.arm.clone(),
            row.cap.map_or_else(|| "none".into(), |cap| cap.to_string()),
            format!("{:.1}", row.mean_tokens),
            format!("{:.0}", row.median_tokens),
            row.ended.to_string(),
            row.correct.to_string(),
            percent(row.accuracy),
            percent(row.less_base),
            row.mcnemar_p.map_or_else(|| "-".into(), |p| format!("{p:.3}")),
        ]
    });
    let header = ["policy", "cap", "mean tokens", "median", "ended", "correct", "accuracy %", "less base", "McNemar p"];
    table("All policies, on the same problems and seeds", &header, rows)
}

fn tokens_table(explanation: &Explanation) -> String {
    let rows = explanation.promoted.iter().zip(&explanation.demoted).map(|(up, down)| {
        vec![
            format!("{:?}", up.token),
            format!("{:+.3}", up.shift),
            format!("{:?}", down.token),
            format!("{:+.3}", down.shift),
        ]
    });
    table("What one unit of alpha does to the logits", &["promoted", "", "demoted", ""], rows)
}
