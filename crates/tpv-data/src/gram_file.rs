//! Gram sums in a file, so that shards of a run can be summed on different machines and merged.
//!
//! A safetensors file in f64: `gram_lower` [d (d + 1) / 2], `column_sums` `[d]`, and for each target t `cross_<t>` `[d]`
//! and `sums_<t>` `[2]` (the sum and the sum of squares). The metadata entry `tpv_gram` states format, version, width,
//! rows, the targets' names in order, and what was summed.

use crate::error::{DataError, Result};
use crate::run::check_format;
use crate::source::TraceId;
use crate::tensors::{NamedArray, TensorFile, Values, write_tensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use tpv_core::gram::{GramParts, GramSums, TargetSums};
use tpv_core::vector::ModelIdentity;

/// Name of the format of Gram sums.
pub const GRAM_FORMAT: &str = "tpv-gram";
/// Version of the format of Gram sums.
pub const GRAM_VERSION: u32 = 1;

const METADATA_KEY: &str = "tpv_gram";

/// What was summed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GramOrigin {
    /// The model of the states.
    pub model: ModelIdentity,
    /// The data set.
    pub dataset: String,
    /// The traces, so that none is counted twice when shards are merged.
    pub traces: Vec<TraceId>,
}

#[derive(Serialize, Deserialize)]
struct About {
    format: String,
    version: u32,
    width: usize,
    rows: u64,
    targets: Vec<String>,
    origin: GramOrigin,
}

/// Writes sums, all or nothing.
pub fn save_gram(path: &Path, sums: GramSums, origin: &GramOrigin) -> Result<()> {
    let parts = sums.into_parts();
    let about = About {
        format: GRAM_FORMAT.into(),
        version: GRAM_VERSION,
        width: parts.width,
        rows: parts.rows,
        targets: parts.targets.iter().map(|target| target.name.clone()).collect(),
        origin: origin.clone(),
    };
    let scalars: Vec<[f64; 2]> = parts.targets.iter().map(|target| [target.sum, target.sum_of_squares]).collect();
    let mut arrays = vec![
        NamedArray::vector("gram_lower", Values::F64(&parts.gram_lower)),
        NamedArray::vector("column_sums", Values::F64(&parts.column_sums)),
    ];
    for (target, scalars) in parts.targets.iter().zip(&scalars) {
        arrays.push(NamedArray::vector(format!("cross_{}", target.name), Values::F64(&target.cross)));
        arrays.push(NamedArray::vector(format!("sums_{}", target.name), Values::F64(scalars)));
    }
    write_tensors(path, METADATA_KEY, &about, &arrays)
}

/// Reads sums.
pub fn load_gram(path: &Path) -> Result<(GramSums, GramOrigin)> {
    let file = TensorFile::open(path)?;
    let value: Value = file.about(METADATA_KEY, "file of Gram sums")?;
    check_format(&value, GRAM_FORMAT, GRAM_VERSION).map_err(|what| file.damaged(what))?;
    let about: About =
        serde_json::from_value(value).map_err(|error| file.damaged(format!("its metadata is damaged: {error}")))?;
    let triangle = about.width.checked_add(1).and_then(|next| next.checked_mul(about.width)).map(|twice| twice / 2);
    let triangle = triangle.ok_or_else(|| file.damaged(format!("its width {} cannot be", about.width)))?;
    let parts = GramParts {
        width: about.width,
        rows: about.rows,
        gram_lower: file.vector_f64("gram_lower", Some(triangle))?,
        column_sums: file.vector_f64("column_sums", Some(about.width))?,
        targets: about.targets.iter().map(|name| read_target(&file, name, about.width)).collect::<Result<_>>()?,
    };
    let sums = GramSums::from_parts(parts).map_err(|error| file.damaged(error.to_string()))?;
    Ok((sums, about.origin))
}

/// Merges the sums of shards of one model; a trace that is in two of them is refused by name.
pub fn merge_gram_files<P: AsRef<Path>>(paths: &[P]) -> Result<(GramSums, GramOrigin)> {
    let (first, rest) = paths
        .split_first()
        .ok_or_else(|| DataError::argument("there are no files of Gram sums to merge", "name at least one"))?;
    let (mut sums, mut origin) = load_gram(first.as_ref())?;
    for path in rest {
        let path = path.as_ref();
        let (more, from) = load_gram(path)?;
        check_same_origin(path, &origin, &from)?;
        sums.merge(&more).map_err(|error| mismatch(path, error.to_string()))?;
        origin.traces.extend(from.traces);
    }
    Ok((sums, origin))
}

fn check_same_origin(path: &Path, origin: &GramOrigin, from: &GramOrigin) -> Result<()> {
    if from.model.fingerprint != origin.model.fingerprint || from.model.name != origin.model.name {
        let what = format!("the sums are of {}, those before of {}", from.model.name, origin.model.name);
        return Err(mismatch(path, what));
    }
    if from.dataset == origin.dataset
        && let Some(id) = from.traces.iter().find(|id| origin.traces.contains(id))
    {
        return Err(mismatch(path, format!("the trace {id} is in the sums before as well")));
    }
    Ok(())
}

fn mismatch(path: &Path, what: String) -> DataError {
    DataError::mismatch(path, what, "merge sums of one model, each trace once")
}

fn read_target(file: &TensorFile, name: &str, width: usize) -> Result<TargetSums> {
    let scalars = file.vector_f64(&format!("sums_{name}"), Some(2))?;
    Ok(TargetSums {
        name: name.into(),
        cross: file.vector_f64(&format!("cross_{name}"), Some(width))?,
        sum: scalars[0],
        sum_of_squares: scalars[1],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::hostile_copies;
    use std::fs;
    use tpv_core::gram::{GramAccumulator, PROGRESS, Parallelism, progress_labels};

    fn sums(rows: &[f32]) -> GramSums {
        let mut accumulator = GramAccumulator::new(2, &[PROGRESS], Parallelism::Sequential).unwrap();
        accumulator.add_rows(rows, &[&progress_labels(rows.len() / 2)]).unwrap();
        accumulator.finish()
    }

    fn origin(problem: usize) -> GramOrigin {
        let model = ModelIdentity { name: "tiny".into(), hidden_size: 2, ..ModelIdentity::default() };
        GramOrigin { model, dataset: "sample".into(), traces: vec![TraceId { problem, generation: 0 }] }
    }

    const A: [f32; 6] = [1.0, 0.1, -2.0, 0.3, 0.7, 5.0];
    const B: [f32; 4] = [0.25, 4.0, -1.5, 2.0];

    #[test]
    fn sums_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums.safetensors");
        save_gram(&path, sums(&A), &origin(3)).unwrap();
        let (loaded, from) = load_gram(&path).unwrap();
        assert_eq!(loaded.into_parts(), sums(&A).into_parts());
        assert_eq!(from, origin(3));
    }

    #[test]
    fn shards_merge_as_sums_do_and_no_trace_counts_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        save_gram(&a, sums(&A), &origin(0)).unwrap();
        save_gram(&b, sums(&B), &origin(1)).unwrap();
        let (merged, from) = merge_gram_files(&[&a, &b]).unwrap();
        assert_eq!(merged.rows(), 5);
        let rows = A.chunks(2).chain(B.chunks(2));
        let expected: f64 = rows.map(|row| f64::from(row[0]) * f64::from(row[1])).sum();
        assert!((merged.gram(1, 0) - expected).abs() < 1e-12);
        assert_eq!(from.traces.len(), 2);
        let text = merge_gram_files(&[&a, &a]).unwrap_err().to_string();
        assert!(text.contains("the trace problem_0/generation_0 is in the sums before as well"), "{text}");
        let other = GramOrigin { model: ModelIdentity { name: "huge".into(), ..origin(1).model }, ..origin(1) };
        save_gram(&b, sums(&B), &other).unwrap();
        assert!(merge_gram_files(&[&a, &b]).unwrap_err().to_string().contains("the sums are of huge"));
        assert!(merge_gram_files::<&Path>(&[]).is_err());
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums");
        save_gram(&path, sums(&A), &origin(0)).unwrap();
        let good = fs::read(&path).unwrap();
        for (name, bytes) in hostile_copies(&good) {
            fs::write(&path, bytes).unwrap();
            assert!(load_gram(&path).is_err(), "{name}");
        }
        let mut with_nan = good.clone();
        let end = with_nan.len();
        with_nan[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
        fs::write(&path, with_nan).unwrap();
        assert!(load_gram(&path).unwrap_err().to_string().contains("not a finite number"));
    }
}
