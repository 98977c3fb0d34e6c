//! Opens a folder of traces, whoever recorded them.

use crate::error::{DataError, Result};
use crate::reference::ReferenceFolder;
use crate::run::RUN_FILE;
use crate::source::TraceSource;
use crate::trace::TraceStore;
use std::path::Path;
use tpv_core::phase::ThinkingMarkers;

/// Opens a folder of traces: one of `tpv generate`, or one of the Python scripts, in which `markers.end` is looked for.
pub fn open_traces(folder: &Path, markers: &ThinkingMarkers) -> Result<Box<dyn TraceSource>> {
    if !folder.is_dir() {
        let what = format!("{}: there is no such folder", folder.display());
        return Err(DataError::missing(what, "check the path, or run `tpv generate` first"));
    }
    if folder.join(RUN_FILE).is_file() {
        return Ok(Box::new(TraceStore::open(folder)?));
    }
    if ReferenceFolder::is_one(folder)? {
        return Ok(Box::new(ReferenceFolder::open(folder, markers)?));
    }
    Err(DataError::missing(
        format!("{}: the folder holds no traces (no run.json, no problem_*/generation_*)", folder.display()),
        "name the folder that `tpv generate` or the Python scripts wrote",
    ))
}
