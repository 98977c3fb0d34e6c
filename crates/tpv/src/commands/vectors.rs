//! `tpv vectors`: the library of vectors, in the user's data folder.

use crate::args::{VectorImportArgs, VectorNameArgs, VectorsCommand};
use crate::commands::train::READING_HEAD;
use crate::console::Console;
use crate::model::{DownloadBars, open_model};
use crate::table::{figure, table};
use crate::vectors::unfinished_share;
use anyhow::{Result, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tpv_core::metrics::Figures;
use tpv_core::vector::{ModelIdentity, VectorInfo};
use tpv_data::hub::environment::HubEnvironment;
use tpv_data::hub::{Hub, Repo, Snapshot};
use tpv_data::identity::short;
use tpv_data::library::{LibraryEntry, VectorLibrary};
use tpv_data::vector::{VECTOR_FILE, VectorFile, WEIGHTS_FILE};

/// A vector as data.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    path: &'a Path,
    info: &'a VectorInfo,
    calibrated: bool,
}

/// Runs the command.
pub fn run(command: &VectorsCommand, console: &Console) -> Result<()> {
    let library = VectorLibrary::of_user();
    match command {
        VectorsCommand::List => list(&library, console),
        VectorsCommand::Show(args) => show(&find(&library, args)?, console),
        VectorsCommand::Import(args) => import(&library, args, console),
        VectorsCommand::Remove(args) => remove(&library, args, console),
    }
}

fn list(library: &VectorLibrary, console: &Console) -> Result<()> {
    let (entries, left_out) = library.list()?;
    for it in &left_out {
        console.notice(format!("{}: {}", it.trace, it.reason));
    }
    if entries.is_empty() {
        console.say(format!("{} holds no vectors; make one with: tpv learn MODEL", library.folder().display()));
        return Ok(());
    }
    let mut rows = Vec::with_capacity(entries.len());
    for entry in &entries {
        let calibrated = emit(entry, console)?;
        let info = &entry.info;
        rows.push(vec![
            info.model.name.clone(),
            short(&info.model.fingerprint),
            entry.name.clone(),
            info.model.hidden_size.to_string(),
            info.dataset.clone(),
            info.traces.to_string(),
            if calibrated { "yes" } else { "no" }.into(),
        ]);
    }
    console.print(table(&["model", "fingerprint", "name", "width", "data set", "traces", "calibrated"], rows));
    Ok(())
}

fn emit(entry: &LibraryEntry, console: &Console) -> Result<bool> {
    let calibrated = VectorFile::load(&entry.path)?.vector.calibration.is_some();
    console.emit("vector", &Listed { name: &entry.name, path: &entry.path, info: &entry.info, calibrated });
    Ok(calibrated)
}

/// The one vector that is meant.
fn find(library: &VectorLibrary, args: &VectorNameArgs) -> Result<LibraryEntry> {
    let (entries, _) = library.list()?;
    let of_model = |entry: &LibraryEntry| {
        let ModelIdentity { name, fingerprint, .. } = &entry.info.model;
        args.model.as_ref().is_none_or(|model| name == model || fingerprint.starts_with(model.as_str()))
    };
    let mut found: Vec<LibraryEntry> =
        entries.into_iter().filter(|entry| entry.name == args.name && of_model(entry)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => bail!("the library has no vector named {}; `tpv vectors list` shows what there is", args.name),
        _ => {
            let model = |entry: &LibraryEntry| {
                let ModelIdentity { name, fingerprint, .. } = &entry.info.model;
                format!("{name} ({})", short(fingerprint))
            };
            let models: Vec<String> = found.iter().map(model).collect();
            bail!(
                "several models have a vector named {}; add --model with the name or the fingerprint of one: {}",
                args.name,
                models.join(", ")
            )
        }
    }
}

fn show(entry: &LibraryEntry, console: &Console) -> Result<()> {
    let calibrated = emit(entry, console)?;
    let info = &entry.info;
    let norm_squared: f32 = VectorFile::load(&entry.path)?.vector.theta.iter().map(|weight| weight * weight).sum();
    // A plain .npy says nothing of where it comes from.
    let trained_on = if info.traces == 0 {
        "unknown".to_owned()
    } else {
        let dataset = if info.dataset.is_empty() { "unknown" } else { &info.dataset };
        format!("{dataset}, {} traces, {} thinking tokens, epsilon {:e}", info.traces, info.rows, info.epsilon)
    };
    console.print(format!(
        "{}\nmodel: {}{} (fingerprint {})\nstate: {}, width {}\ntrained on: {trained_on}\n\
         |theta|^2: {norm_squared:.4}\ncalibrated: {}\non held-out problems: {}",
        entry.path.display(),
        info.model.name,
        info.model.revision.as_ref().map(|revision| format!(" at {revision}")).unwrap_or_default(),
        info.model.fingerprint,
        if info.state_tap.is_empty() { "unknown" } else { &info.state_tap },
        info.model.hidden_size,
        if calibrated { "yes" } else { "no" },
        held_out(info).unwrap_or_else(|| "not measured".into())
    ));
    Ok(())
}

/// What vectors of before call [`READING_HEAD`].
const FORMER_READING_HEAD: &str = "reading head (theta with intercept)";

/// What `tpv train` found of the reading head.
fn held_out(info: &VectorInfo) -> Option<String> {
    let measured = info.figures.get("test")?.as_array()?;
    let of_head =
        measured.iter().find(|it| it["predictor"] == READING_HEAD || it["predictor"] == FORMER_READING_HEAD)?;
    let figures: Figures = serde_json::from_value(of_head["figures"].clone()).ok()?;
    let cut = unfinished_share(info)
        .map(|share| format!("; {:.0} % of all thoughts were cut and count nowhere", share * 100.0));
    Some(format!("R2 {}, MAE {}{}", figure(figures.r2, 3), figure(figures.mae, 3), cut.unwrap_or_default()))
}

fn import(library: &VectorLibrary, args: &VectorImportArgs, console: &Console) -> Result<()> {
    let path = locate(&args.source, console)?;
    let file = VectorFile::load(&path)?;
    let named = !file.vector.info.model.fingerprint.is_empty();
    let entry = match (&args.model, named) {
        (None, true) => library.put(&args.name, &file, args.replace)?,
        (None, false) => bail!("{} does not say which model it belongs to; add --model", path.display()),
        (Some(model), _) => {
            let model = open_model(model, &args.run, console)?;
            library.import(&path, &args.name, &model.identity, args.replace)?
        }
    };
    console.print(format!("{} of {} is in the library: {}", entry.name, entry.info.model.name, entry.path.display()));
    emit(&entry, console).map(drop)
}

/// A file or folder here, or a vector in a repository of the hub.
fn locate(source: &str, console: &Console) -> Result<PathBuf> {
    let path = PathBuf::from(source);
    let is_repository = source.split('/').count() == 2 && !source.starts_with('.') && !source.starts_with('/');
    if path.exists() || !is_repository || source.ends_with(".npy") || source.ends_with(".safetensors") {
        return Ok(path);
    }
    let has = |name: &str, files: &[String]| files.iter().any(|file| file == name);
    let choose = |files: &[String]| match [VECTOR_FILE, WEIGHTS_FILE].into_iter().find(|name| has(name, files)) {
        Some(name) => Ok(vec![name.to_owned()]),
        None => Err(format!("it holds no {VECTOR_FILE} and no {WEIGHTS_FILE}")),
    };
    let complete =
        |snapshot: &Snapshot| [VECTOR_FILE, WEIGHTS_FILE].iter().any(|name| snapshot.folder.join(name).is_file());
    let hub = Hub::new(HubEnvironment::from_process());
    let snapshot = hub.snapshot(&Repo::model(source, None), &complete, &choose, &mut DownloadBars::new(console))?;
    Ok(snapshot.folder)
}

fn remove(library: &VectorLibrary, args: &VectorNameArgs, console: &Console) -> Result<()> {
    let entry = find(library, args)?;
    library.remove(&entry.info.model, &entry.name)?;
    console.print(format!("removed {} of {}", entry.name, entry.info.model.name));
    Ok(())
}
