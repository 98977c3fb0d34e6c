//! The vector file: `tpv.safetensors`, and `.npy` vectors such as the reference's `tpv_linear_weights.npy`.
//!
//! `tpv.safetensors` holds `theta` `[d]` and `progress_weights` `[d]`, and where known `log_remaining_weights` `[d]` and
//! `pattern` `[d]`, all f32. The metadata entry `tpv_vector` is a JSON document with format, version, intercepts,
//! calibration, effort levels and where the vector comes from.

use crate::error::{DataError, Result};
use crate::identity::display_name;
use crate::npy::{self, NpyFile};
use crate::run::check_format;
use crate::tensors::{NamedArray, TensorFile, Values, write_tensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use tpv_core::vector::{LinearHead, ModelIdentity, ProgressVector, VECTOR_FORMAT, VECTOR_VERSION, VectorInfo};

/// The vector's file name in the folder that `train` writes.
pub const VECTOR_FILE: &str = "tpv.safetensors";
/// The file that the reference's own scripts load.
pub const WEIGHTS_FILE: &str = "tpv_linear_weights.npy";

const METADATA_KEY: &str = "tpv_vector";

/// A vector as a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VectorFile {
    /// What it holds.
    pub vector: ProgressVector,
}

#[derive(Serialize, Deserialize)]
struct About {
    format: String,
    version: u32,
    progress_intercept: f32,
    log_remaining_intercept: Option<f32>,
    calibration: Option<Value>,
    efforts: BTreeMap<String, f32>,
    info: VectorInfo,
}

impl VectorFile {
    /// Reads a `tpv.safetensors`, a `.npy` vector, or the folder that `train` wrote.
    pub fn load(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::load_folder(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => load_npy(path),
            _ => read_tensors(&TensorFile::open(path)?),
        }
    }

    /// Reads a `tpv.safetensors` that is part of the program; `path` names it in messages.
    pub fn embedded(path: &Path, bytes: &'static [u8]) -> Result<Self> {
        read_tensors(&TensorFile::embedded(path, bytes)?)
    }

    /// Writes a `tpv.safetensors`, all or nothing. All arrays must be as wide as `theta`, and so must the model be
    /// (`info.model.hidden_size`); the rest of `info` is free.
    pub fn save(&self, path: &Path) -> Result<()> {
        let width = self.vector.info.model.hidden_size;
        if let Some(array) = self.arrays().iter().find(|array| array.shape != [width]) {
            let what = format!("{} has the shape {:?}, and the model the width {width}", array.name, array.shape);
            return Err(DataError::mismatch(path, what, "set info.model.hidden_size, and give arrays of that width"));
        }
        write_tensors(path, METADATA_KEY, &self.about(), &self.arrays())
    }

    /// Writes `tpv.safetensors` and `tpv_linear_weights.npy` into a folder.
    pub fn save_folder(&self, folder: &Path) -> Result<()> {
        self.save(&folder.join(VECTOR_FILE))?;
        npy::write_vector(&folder.join(WEIGHTS_FILE), &self.vector.theta)
    }

    /// SHA-256, hexadecimal, of all that decides how the vector reads and pushes: heads, calibration and directions. Effort
    /// levels, figures and provenance are not part of it, so that writing them does not make another vector.
    pub fn content_sha256(&self) -> String {
        let About { progress_intercept, log_remaining_intercept, calibration, .. } = self.about();
        let mut hasher = Sha256::new();
        hasher.update(serde_json::json!([progress_intercept, log_remaining_intercept, calibration]).to_string());
        let heads = [Some(&self.vector.theta), Some(&self.vector.progress.weights)];
        let further = [self.vector.log_remaining.as_ref().map(|head| &head.weights), self.vector.pattern.as_ref()];
        for array in heads.into_iter().chain(further) {
            let values = array.map_or(&[][..], Vec::as_slice);
            hasher.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn load_folder(folder: &Path) -> Result<Self> {
        let candidates = [VECTOR_FILE, WEIGHTS_FILE].map(|name| folder.join(name));
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Self::load(path),
            None => Err(DataError::missing(
                format!("{}: the folder holds no {VECTOR_FILE} and no {WEIGHTS_FILE}", folder.display()),
                "run `tpv train` first, or name the vector's file",
            )),
        }
    }

    fn about(&self) -> About {
        let vector = &self.vector;
        About {
            format: VECTOR_FORMAT.into(),
            version: VECTOR_VERSION,
            progress_intercept: vector.progress.intercept,
            log_remaining_intercept: vector.log_remaining.as_ref().map(|head| head.intercept),
            calibration: vector.calibration.clone(),
            efforts: vector.efforts.clone(),
            info: vector.info.clone(),
        }
    }

    fn arrays(&self) -> Vec<NamedArray<'_>> {
        let vector = &self.vector;
        let arrays = [
            ("theta", Some(&vector.theta)),
            ("progress_weights", Some(&vector.progress.weights)),
            ("log_remaining_weights", vector.log_remaining.as_ref().map(|head| &head.weights)),
            ("pattern", vector.pattern.as_ref()),
        ];
        arrays.into_iter().filter_map(|(name, values)| Some(NamedArray::vector(name, Values::F32(values?)))).collect()
    }
}

/// Refuses a vector that belongs to another model: of another width, or, where the file says which model, by name.
pub fn check_model(path: &Path, vector: &ProgressVector, model: &ModelIdentity) -> Result<()> {
    let of = &vector.info.model;
    let (theirs, ours) = (display_name(of), display_name(model));
    let next_step = if of.fingerprint.is_empty() && !of.name.is_empty() {
        "load the vector's model; where it is this one under another name, give the .npy beside it, which names none"
    } else if of.name == model.name {
        "its weights have changed, or it was told apart by less when the vector was made: train one on this model"
    } else {
        "train a vector on this model, or load the vector's model"
    };
    let refuse = |what| Err(DataError::mismatch(path, what, next_step));
    let width = vector.theta.len();
    if width != model.hidden_size {
        return refuse(format!("the vector of {theirs} has width {width}, {ours} has {}", model.hidden_size));
    }
    let unknown = of.name.is_empty() && of.fingerprint.is_empty();
    let same = match (of.fingerprint.as_str(), model.fingerprint.as_str()) {
        ("", _) | (_, "") => of.name.eq_ignore_ascii_case(&model.name),
        (theirs, ours) => theirs == ours,
    };
    if unknown || same { Ok(()) } else { refuse(format!("the vector belongs to {theirs}, this is {ours}")) }
}

fn load_npy(path: &Path) -> Result<VectorFile> {
    let theta = NpyFile::open(path)?.vector_f32()?;
    if theta.is_empty() {
        return Err(DataError::damaged(path, "the vector has no values", "train it again"));
    }
    let model = ModelIdentity { hidden_size: theta.len(), ..ModelIdentity::default() };
    let vector = ProgressVector {
        progress: LinearHead { weights: theta.clone(), intercept: 0.0 },
        theta,
        info: VectorInfo { model, ..VectorInfo::default() },
        ..ProgressVector::default()
    };
    Ok(VectorFile { vector })
}

fn read_tensors(file: &TensorFile) -> Result<VectorFile> {
    let value: Value = file.about(METADATA_KEY, "vector")?;
    check_format(&value, VECTOR_FORMAT, VECTOR_VERSION).map_err(|what| file.damaged(what))?;
    let about: About =
        serde_json::from_value(value).map_err(|error| file.damaged(format!("its metadata is damaged: {error}")))?;
    let intercepts = [Some(about.progress_intercept), about.log_remaining_intercept];
    if intercepts.into_iter().flatten().any(|intercept| !intercept.is_finite()) {
        return Err(file.damaged("an intercept is not a finite number"));
    }
    let theta = file.vector_f32("theta", Some(about.info.model.hidden_size))?;
    let width = Some(theta.len());
    let log_remaining = optional(file, "log_remaining_weights", width)?
        .map(|weights| LinearHead { weights, intercept: about.log_remaining_intercept.unwrap_or(0.0) });
    let vector = ProgressVector {
        progress: LinearHead {
            weights: file.vector_f32("progress_weights", width)?,
            intercept: about.progress_intercept,
        },
        log_remaining,
        pattern: optional(file, "pattern", width)?,
        calibration: about.calibration,
        efforts: about.efforts,
        info: about.info,
        theta,
    };
    Ok(VectorFile { vector })
}

fn optional(file: &TensorFile, name: &str, len: Option<usize>) -> Result<Option<Vec<f32>>> {
    if file.has(name) { file.vector_f32(name, len).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::hostile_copies;
    use std::fs;

    fn model(name: &str, width: usize) -> ModelIdentity {
        ModelIdentity {
            name: name.into(),
            hidden_size: width,
            vocab_size: 4,
            fingerprint: format!("{name}-{width}"),
            ..ModelIdentity::default()
        }
    }

    fn sample() -> VectorFile {
        let head = |scale: f32| LinearHead { weights: vec![scale, 0.1, -3e-9], intercept: scale / 2.0 };
        VectorFile {
            vector: ProgressVector {
                theta: vec![0.1, -2.0, 1e-30],
                progress: head(0.3),
                log_remaining: Some(head(0.7)),
                pattern: Some(vec![1.0, 2.0, 3.0]),
                calibration: Some(serde_json::json!({"bins": [0.1, 0.9]})),
                efforts: [("low".to_string(), 15.0)].into(),
                info: VectorInfo { model: model("tiny", 3), epsilon: 1e-10, rows: 7, ..VectorInfo::default() },
            },
        }
    }

    #[test]
    fn everything_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(VECTOR_FILE);
        sample().save(&path).unwrap();
        assert_eq!(VectorFile::load(&path).unwrap(), sample());
        let mut plain = sample();
        plain.vector.log_remaining = None;
        plain.vector.pattern = None;
        plain.save(&path).unwrap();
        assert_eq!(VectorFile::load(&path).unwrap(), plain);
    }

    #[test]
    fn a_folder_prefers_the_full_file_and_accepts_the_weights_alone() {
        let folder = tempfile::tempdir().unwrap();
        let text = VectorFile::load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("holds no tpv.safetensors"), "{text}");
        sample().save_folder(folder.path()).unwrap();
        assert_eq!(VectorFile::load(folder.path()).unwrap(), sample());
        fs::remove_file(folder.path().join(VECTOR_FILE)).unwrap();
        let plain = VectorFile::load(folder.path()).unwrap().vector;
        assert_eq!(plain.theta, sample().vector.theta);
        assert_eq!(plain.progress, LinearHead { weights: plain.theta.clone(), intercept: 0.0 });
    }

    #[test]
    fn a_recalibrated_vector_is_another_and_one_with_levels_is_not() {
        let vector = sample();
        let with_levels = |level: f32| {
            let mut vector = sample();
            vector.vector.efforts.insert("low".into(), level);
            vector.content_sha256()
        };
        assert_eq!(with_levels(1.0), with_levels(2.0));
        let mut recalibrated = sample();
        recalibrated.vector.calibration = Some(serde_json::json!({ "coverage": 0.5 }));
        assert_ne!(recalibrated.content_sha256(), vector.content_sha256());
        let mut turned = sample();
        turned.vector.theta[0] += 1.0;
        assert_ne!(turned.content_sha256(), vector.content_sha256());
    }

    #[test]
    fn another_model_or_width_is_refused_by_name() {
        let path = Path::new("tpv.safetensors");
        let vector = sample().vector;
        check_model(path, &vector, &model("tiny", 3)).unwrap();
        let renamed = ModelIdentity { name: "copies/of-tiny".into(), ..model("tiny", 3) };
        check_model(path, &vector, &renamed).unwrap();
        let text = check_model(path, &vector, &model("tiny", 5)).unwrap_err().to_string();
        assert!(text.contains("has width 3, tiny (fingerprint tiny-5) has 5"), "{text}");
        let text = check_model(path, &vector, &model("huge", 3)).unwrap_err().to_string();
        assert!(text.contains("belongs to tiny (fingerprint tiny-3), this is huge (fingerprint huge-3)"), "{text}");
    }

    #[test]
    fn a_plain_vector_is_checked_by_width_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.npy");
        npy::write_vector(&path, &[1.0, 2.0]).unwrap();
        let vector = VectorFile::load(&path).unwrap().vector;
        check_model(&path, &vector, &model("any", 2)).unwrap();
        assert!(check_model(&path, &vector, &model("any", 3)).unwrap_err().to_string().contains("width 2"));
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(VECTOR_FILE);
        sample().save(&path).unwrap();
        for (name, bytes) in hostile_copies(&fs::read(&path).unwrap()) {
            fs::write(&path, bytes).unwrap();
            assert!(VectorFile::load(&path).is_err(), "{name}");
        }
    }

    #[test]
    fn wrong_contents_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(VECTOR_FILE);
        let mut with_nan = sample();
        with_nan.vector.theta[1] = f32::NAN;
        let mut narrow_head = sample();
        narrow_head.vector.progress.weights.pop();
        let text = narrow_head.save(&path).unwrap_err().to_string();
        assert!(text.contains("progress_weights has the shape [2]") && !path.exists(), "{text}");
        with_nan.save(&path).unwrap();
        assert!(VectorFile::load(&path).unwrap_err().to_string().contains("theta[1] is NaN"));
        write_tensors(&path, "format", &"pt", &[]).unwrap();
        assert!(VectorFile::load(&path).unwrap_err().to_string().contains("not a vector"));
    }
}
