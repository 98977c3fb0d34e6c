//! `tpv report`: one page from what lies in a folder, with its pictures and numbers beside it.

use crate::args::ReportArgs;
use crate::commands::explain::{EXPLAIN_FILE, Explanation};
use crate::commands::train::METRICS_FILE;
use crate::commands::train_sums::HeldOutFigures;
use crate::console::Console;
use crate::json_lines::read_json_lines;
use crate::reading_table::{coverage_sentence, summary_rows};
use crate::report::page::{Section, html, table};
use crate::report::readings::{self, ReadingLine};
use crate::report::sweep;
use crate::sweep::figures::{ArmFigures, SweepFigures};
use crate::sweep::result::SweepResult;
use crate::sweep::runner::{FIGURES_FILE, RESULTS_FILE};
use crate::sweep::tables::{self, percent};
use crate::table::figure;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use tpv_core::metrics::Figures;
use tpv_core::reading::evaluation::ReadingReport;
use tpv_core::vector::VectorInfo;
use tpv_data::atomic::{create_folder, remove_file, remove_folder_if_empty, write_bytes, write_json};
use tpv_data::files;
use tpv_data::vector::VectorFile;

/// What `train` leaves for the report: one held-out thought a line.
pub const READINGS_FILE: &str = "test_readings.jsonl";
/// The figures of `train`.
/// The page.
pub const PAGE_FILE: &str = "report.html";
/// The folder of its pictures and their numbers.
const PICTURES: &str = "report";

/// Runs the command.
pub fn run(args: &ReportArgs, console: &Console) -> Result<()> {
    let page = write_report(&args.folder, console)?;
    console.emit("report", &page.pictures);
    let path = args.folder.join(PAGE_FILE);
    console.print(match page.pictures.len() {
        0 => format!("{} with tables; of this folder there is nothing to draw", path.display()),
        count => format!(
            "{} with {count} pictures; SVG, CSV and JSON files are in {}",
            path.display(),
            args.folder.join(PICTURES).display()
        ),
    });
    Ok(())
}

/// What was written.
pub struct WrittenReport {
    /// Names of the pictures.
    pub pictures: Vec<&'static str>,
}

/// Draws everything that the folder holds.
pub fn write_report(folder: &Path, console: &Console) -> Result<WrittenReport> {
    let readings: Vec<ReadingLine> = lines(&folder.join(READINGS_FILE), console)?;
    let figures: Option<SweepFigures> = json(&folder.join(FIGURES_FILE))?;
    let explanation: Option<Explanation> = json(&folder.join(EXPLAIN_FILE))?;
    let trained: Option<Trained> = json(&folder.join(METRICS_FILE))?;
    let mut sections = readings::sections(&readings);
    if let Some(figures) = &figures {
        let mut results: Vec<SweepResult> = lines(&folder.join(RESULTS_FILE), console)?;
        results.retain(|it| it.settings == figures.settings);
        keep_newest(&mut results);
        sections.extend(sweep::sections(figures, &results));
    }
    if sections.is_empty() && explanation.is_none() && trained.is_none() {
        bail!(
            "{}: nothing to report on; name a folder that `tpv train`, `tpv sweep` or `tpv explain` wrote",
            folder.display()
        );
    }
    let trained_tables = trained.iter().flat_map(Trained::tables);
    let others = figures.iter().flat_map(sweep_tables).chain(explanation.iter().flat_map(explain_tables));
    let tables: Vec<String> = trained_tables.chain(others).collect();
    write(folder, &about(folder, figures.as_ref()), &sections, &tables)?;
    Ok(WrittenReport { pictures: sections.iter().map(|section| section.name).collect() })
}

/// What the report needs of the `metrics.json` of `tpv train`, on states or on sums.
#[derive(Deserialize)]
struct Trained {
    #[serde(default)]
    test: Vec<Predictor>,
    #[serde(default)]
    held_out: Vec<HeldOutFigures>,
    reading: Option<ReadingReport>,
}

#[derive(Deserialize)]
struct Predictor {
    predictor: String,
    figures: Figures,
}

impl Trained {
    fn tables(&self) -> Vec<String> {
        let test = self.test.iter().map(|it| {
            let Figures { mse, mae, r2, spearman, .. } = it.figures;
            vec![it.predictor.clone(), figure(mse, 3), figure(mae, 3), figure(r2, 3), figure(spearman, 3)]
        });
        let test = table(
            "Progress of held-out problems, with 95 % intervals by problem",
            &["", "MSE", "MAE", "R2", "Spearman"],
            test,
        );
        let [mse, fifths, r2] = HeldOutFigures::COLUMNS;
        let parts = table(
            "Progress of held-out problems, each fifth by a fit on the others",
            &["", mse, fifths, r2],
            self.held_out.iter().map(HeldOutFigures::row),
        );
        let test = (!self.test.is_empty()).then_some(test);
        let tables = test.into_iter().chain((!self.held_out.is_empty()).then_some(parts));
        tables.chain(self.reading.as_ref().map(readings)).collect()
    }
}

/// The calibrated reading beside the baselines.
fn readings(report: &ReadingReport) -> String {
    let covered = report.calibrated.as_ref().map(|it| format!("<p>{}.</p>\n", coverage_sentence(it)));
    let caption = "What is shown of held-out thoughts, with 95 % intervals by problem";
    table(caption, &["", "MAE of the progress", "MAE of the tokens left"], summary_rows(report))
        + &covered.unwrap_or_default()
}

/// The settings of a sweep.
fn settings(figures: &SweepFigures) -> Option<Value> {
    serde_json::from_str(&figures.settings).ok()
}

/// What the page is about: the vector in the folder, or the settings of the sweep.
fn about(folder: &Path, figures: Option<&SweepFigures>) -> Vec<String> {
    let vector = VectorFile::load(folder).ok().map(|file| {
        let VectorInfo { model, dataset, traces, rows, .. } = file.vector.info;
        format!("A vector of {}, fitted on {rows} states of {traces} thoughts ({dataset}).", model.name)
    });
    let sweep = figures.and_then(settings).map(|settings| {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let dataset = text(&settings["dataset"]);
        let model = figures.map(|it| it.model.clone()).filter(|name| !name.is_empty());
        let model = model.unwrap_or_else(|| text(&settings["model"]["name"]));
        let [dtype, seed, most] = ["dtype", "seed", "max_new_tokens"].map(|key| text(&settings[key]));
        format!("{model} ({dtype}) on {dataset}, seed {seed}, at most {most} tokens a sample.")
    });
    vector.into_iter().chain(sweep).collect()
}

/// Of several lines of the same sample, the last one stands: what was made again comes after what it replaces.
fn keep_newest(results: &mut Vec<SweepResult>) {
    let mut newer = HashSet::new();
    results.reverse();
    results.retain(|it| newer.insert((it.arm.clone(), it.problem, it.generation)));
    results.reverse();
}

/// Removes what an earlier fit left for the report, and its report: they would be taken for those of the new vector.
pub fn remove_report(folder: &Path) -> Result<()> {
    let mut files = vec![folder.join(READINGS_FILE), folder.join(PAGE_FILE)];
    for entry in std::fs::read_dir(folder.join(PICTURES)).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ["svg", "csv", "json"].iter().any(|known| ending == *known)) {
            files.push(path);
        }
    }
    files.iter().try_for_each(|path| remove_file(path))?;
    remove_folder_if_empty(&folder.join(PICTURES));
    Ok(())
}

fn write(folder: &Path, about: &[String], sections: &[Section], tables: &[String]) -> Result<()> {
    let pictures = folder.join(PICTURES);
    create_folder(&pictures)?;
    for section in sections {
        write_bytes(&pictures.join(format!("{}.svg", section.name)), section.plot.svg().as_bytes())?;
        write_bytes(&pictures.join(format!("{}.csv", section.name)), section.plot.csv().as_bytes())?;
        write_json(&pictures.join(format!("{}.json", section.name)), &section.plot)?;
    }
    write_bytes(&folder.join(PAGE_FILE), html("Thinking progress", about, sections, tables).as_bytes())?;
    Ok(())
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let read = files::read_optional(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let Some(bytes) = read else { return Ok(None) };
    let value = serde_json::from_slice(&bytes);
    Ok(Some(value.with_context(|| format!("{}: damaged, or of another version; make it again", path.display()))?))
}

/// The lines of a file that is there; damaged ones are left out, and that is said.
fn lines<T: DeserializeOwned>(path: &Path, console: &Console) -> Result<Vec<T>> {
    let lines = read_json_lines(path)?;
    if let Some(remark) = lines.remark(path, "the report leaves them out") {
        console.notice(remark);
    }
    Ok(lines.values)
}

fn sweep_tables(figures: &SweepFigures) -> Vec<String> {
    // A cap that is the token limit of the run cuts nothing: such rows say again what those without a cap say.
    let limit = settings(figures).and_then(|settings| settings["max_new_tokens"].as_u64());
    let cuts_nothing = |row: &ArmFigures| limit.is_some_and(|limit| row.cap.is_some_and(|cap| u64::from(cap) >= limit));
    let is_uncapped = |arm: &str| figures.arms.iter().any(|row| row.arm == arm && row.cap.is_none());
    let rows = figures.arms.iter().filter(|row| !(cuts_nothing(row) && is_uncapped(&row.arm)));
    let arms = table("All policies, on the same problems and seeds", &tables::ARMS_HEADER, tables::arms(rows));
    let areas = table("Over all caps", &tables::AREAS_HEADER, tables::areas(figures));
    let landings = table("How deadlines were met", &tables::LANDINGS_HEADER, tables::landings(figures));
    let landings = (!figures.landings.is_empty()).then_some(landings);
    // Over one cap the area is its accuracy.
    let caps: HashSet<u32> = figures.arms.iter().filter_map(|row| row.cap).collect();
    let areas = (caps.len() > 1).then_some(areas);
    landings.into_iter().chain(areas).chain([arms]).collect()
}

/// Rows of the explanation's tables; the files have all.
const HEAD: usize = 12;

fn explain_tables(explanation: &Explanation) -> Vec<String> {
    let rows = explanation.promoted.iter().zip(&explanation.demoted).take(HEAD).map(|(up, down)| {
        vec![
            format!("{:?}", up.token),
            format!("{:+.3}", up.shift),
            format!("{:?}", down.token),
            format!("{:+.3}", down.shift),
        ]
    });
    let tokens = table("What one unit of alpha does to the logits", &["promoted", "", "demoted", ""], rows);
    let parts = explanation.parts.iter().map(|part| {
        vec![
            part.part.clone(),
            format!("{:.0}", part.mean_tokens),
            percent(part.share_of_shortening),
            format!("{} of {}", part.correct, part.samples),
        ]
    });
    let header = ["part of the push", "mean tokens", "% of theta's shortening", "right"];
    let parts = (!explanation.parts.is_empty()).then(|| table("How much is </think> alone?", &header, parts));
    parts.into_iter().chain([tokens]).collect()
}
