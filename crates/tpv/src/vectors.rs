//! Which vector belongs to a model: the one that was named, one of the user's library, or the bundled one.

use crate::args::{DEFAULT_VECTOR, DEFAULT_VECTOR_FOLDER, TpvArgs};
use crate::console::Console;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tpv_core::reading::{BlindReader, Reader};
use tpv_core::vector::{ModelIdentity, ProgressVector, VectorInfo};
use tpv_data::library::VectorLibrary;
use tpv_data::vector::{VectorFile, check_model};
use tpv_engine::model::TextModel;
use tpv_engine::prepared_vector::PreparedVector;

/// How the bundled vector is called.
const BUNDLED: &str = "the bundled vector";

/// A vector with what is made of it for a loaded model.
pub struct OpenVector {
    /// Where it comes from, for people.
    pub origin: String,
    /// The vector.
    pub prepared: PreparedVector,
}

/// A reader for one new thought, with a vector or without, that knows how many thinking tokens are allowed.
pub fn reader(vector: Option<&OpenVector>, budget_tokens: Option<u32>) -> Box<dyn Reader> {
    match vector {
        Some(vector) => Box::new(vector.prepared.reading.reader(budget_tokens)),
        None => Box::new(BlindReader),
    }
}

/// The entry of a vector's figures with the share of thoughts that were cut at the token limit, and so are in nothing of it;
/// read with [`unfinished_share`].
pub const UNFINISHED_FIGURE: &str = "unfinished_share";

/// From this share on what a calibration claims is not to be trusted.
pub const MANY_UNFINISHED: f64 = 0.05;

/// Finds the model's vector and prepares it. Without one the user is told how to get one.
pub fn open_vector(args: &TpvArgs, model: &TextModel, console: &Console) -> Result<Option<OpenVector>> {
    let Some((origin, file)) = find(args.tpv.as_deref(), &model.identity)? else {
        let name = &model.identity.name;
        console
            .notice(format!("there is no vector for {name}, so progress is unknown; make one with: tpv learn {name}"));
        return Ok(None);
    };
    let prepared = PreparedVector::new(&file.vector, model)?;
    if !prepared.reading.is_calibrated() {
        console.notice(format!(
            "{origin} has no calibration, so the time left is unknown; `tpv train` adds one where thoughts of ten problems ended"
        ));
    }
    remark_on_cut_thoughts(&file.vector).into_iter().for_each(|remark| console.notice(remark));
    Ok(Some(OpenVector { origin, prepared }))
}

/// The share of thoughts that were cut, where the vector says.
pub fn unfinished_share(info: &VectorInfo) -> Option<f64> {
    info.figures.get(UNFINISHED_FIGURE)?.as_f64()
}

/// What to know of a calibrated vector where many thoughts were cut when it was made.
pub fn remark_on_cut_thoughts(vector: &ProgressVector) -> Option<String> {
    let share = unfinished_share(&vector.info)?;
    (vector.calibration.is_some() && share > MANY_UNFINISHED).then(|| {
        format!(
            "the vector was calibrated on thoughts that ended within the token limit, and {:.0} % did not: of long thoughts its \
             time left is too short",
            share * 100.0
        )
    })
}

/// The vector with its origin: a file or folder, a name in the library, or what the library or the program has.
pub fn find(wanted: Option<&str>, model: &ModelIdentity) -> Result<Option<(String, VectorFile)>> {
    let Some(wanted) = wanted else { return of_model(&VectorLibrary::of_user(), model) };
    let path = location(wanted, model)?;
    let file = VectorFile::load(&path)?;
    check_model(&path, &file.vector, model)?;
    Ok(Some((path.display().to_string(), file)))
}

/// Where a vector lies: at the path, or where the library has the one of that name.
pub fn location(wanted: &str, model: &ModelIdentity) -> Result<PathBuf> {
    if Path::new(wanted).exists() || is_path(wanted) {
        return Ok(wanted.into());
    }
    Ok(VectorLibrary::of_user().find(model, Some(wanted))?.path)
}

/// The vector at a path, or of that name in the library; where it is a default path and nothing is there, the vector of the
/// model.
pub fn at_path_or_of_model(path: &Path, model: &ModelIdentity, console: &Console) -> Result<VectorFile> {
    if path.exists() || !is_default(path) {
        let wanted = path.to_string_lossy();
        let found = find(Some(&wanted), model)?;
        return found.map(|(_, file)| file).with_context(|| format!("{wanted}: there is no such vector"));
    }
    let (default, name) = (path.display(), &model.name);
    let found = find(None, model)?;
    let (origin, file) = found.with_context(|| {
        format!("{default} is not there and the library has no vector of {name}; make one with: tpv learn {name}")
    })?;
    console.notice(format!("{default} is not there: using {origin}"));
    Ok(file)
}

/// Refuses a path that names nothing before any model is loaded.
pub fn check_path(path: &Path) -> Result<()> {
    if is_path(&path.to_string_lossy()) && !path.exists() && !is_default(path) {
        VectorFile::load(path)?;
    }
    Ok(())
}

/// Whether a path is what the commands take without being told.
pub fn is_default(path: &Path) -> bool {
    path == Path::new(DEFAULT_VECTOR) || path == Path::new(DEFAULT_VECTOR_FOLDER)
}

fn is_path(text: &str) -> bool {
    text.contains(std::path::is_separator) || text.ends_with(".npy") || text.ends_with(".safetensors")
}

fn of_model(library: &VectorLibrary, model: &ModelIdentity) -> Result<Option<(String, VectorFile)>> {
    if library.has_any(model)? {
        let entry = library.find(model, None)?;
        return Ok(Some((entry.path.display().to_string(), VectorFile::load(&entry.path)?)));
    }
    let bundled = bundled()?;
    let fits = bundled.vector.info.model.fingerprint == model.fingerprint;
    Ok(fits.then(|| (BUNDLED.to_owned(), bundled)))
}

/// The vector of the bundled model.
pub fn bundled() -> Result<VectorFile> {
    Ok(VectorFile::embedded(Path::new("thinker/vector/tpv.safetensors"), tpv_thinker::VECTOR)?)
}
