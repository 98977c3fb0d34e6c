//! `run.json`: what a run of `generate` was asked for, so that it can be resumed and nothing else mixed into it.
//!
//! It holds no times: a run that was interrupted and resumed leaves the same bytes as one that was not.

use crate::atomic::{write_json, write_json_once};
use crate::error::{DataError, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use tpv_core::sampling::SamplingParams;
use tpv_core::vector::ModelIdentity;

/// Name of the run format.
pub const RUN_FORMAT: &str = "tpv-run";
/// Version of the run format.
pub const RUN_VERSION: u32 = 1;
/// The file's name in the folder of a run.
pub const RUN_FILE: &str = "run.json";

/// Keys that may differ between an interrupted run and its continuation.
const FREE_KEYS: [&str; 2] = ["tpv_version", "clock_unix_secs"];

/// Precision in which states are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatesDtype {
    /// Half precision, as the reference keeps them.
    #[default]
    F16,
    /// Single precision.
    F32,
}

/// Everything that determines what a run generates, but for the problems, whose range may grow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// [`RUN_FORMAT`]
    pub format: String,
    /// [`RUN_VERSION`]
    pub version: u32,
    /// The program version that started the run.
    pub tpv_version: String,
    /// The model.
    pub model: ModelIdentity,
    /// The arithmetic, e.g. `f32`, `q8_0`.
    pub dtype: String,
    /// The data set's name.
    pub dataset: String,
    /// [`crate::problems::ProblemSet::fingerprint`]: tells it from another of that name. Runs of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_fingerprint: Option<String>,
    /// The prompt with `{problem}` for the problem; none when the checkpoint's chat template makes the prompt.
    pub prompt_template: Option<String>,
    /// Whether the checkpoint's chat template makes the prompt.
    pub chat_template: bool,
    /// SHA-256 of that template and the special tokens that it may print.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template_sha256: Option<String>,
    /// The time that the chat template may print, that of the run's start: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_unix_secs: Option<u64>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// The seed of the whole run.
    pub seed: u64,
    /// Token limit of each generation.
    pub max_new_tokens: usize,
    /// Generations of each problem.
    pub generations_per_problem: usize,
    /// Precision of the states kept.
    pub states_dtype: StatesDtype,
    /// Whether only the states of the thinking are kept.
    pub thinking_only: bool,
    /// Whether states stay on the disk once they are in the sums of a streaming fit.
    #[serde(default = "kept")]
    pub states_kept: bool,
}

/// Runs of before there was a streaming fit keep their states.
fn kept() -> bool {
    true
}

impl Default for RunConfig {
    /// The reference's defaults, without a model.
    fn default() -> Self {
        Self {
            format: RUN_FORMAT.into(),
            version: RUN_VERSION,
            tpv_version: env!("CARGO_PKG_VERSION").into(),
            model: ModelIdentity::default(),
            dtype: "f32".into(),
            dataset: "math500".into(),
            dataset_fingerprint: None,
            prompt_template: None,
            chat_template: false,
            chat_template_sha256: None,
            clock_unix_secs: None,
            sampling: SamplingParams { temperature: 0.6, top_p: 0.95, top_k: 0 },
            seed: 42,
            max_new_tokens: 1024,
            generations_per_problem: 5,
            states_dtype: StatesDtype::F16,
            thinking_only: false,
            states_kept: true,
        }
    }
}

/// The first key in which two runs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, with dots between levels, e.g. `sampling.temperature`.
    pub key: String,
    /// Its value here, as JSON.
    pub here: String,
    /// Its value in the other run, as JSON.
    pub other: String,
}

impl RunConfig {
    /// Reads the `run.json` of a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(RUN_FILE);
        let bytes = files::read(&path).map_err(|source| DataError::io(&path, "read the run", source))?;
        let damaged = |what: String| DataError::damaged(&path, what, "choose another folder or generate again");
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("not JSON ({error})")))?;
        check_format(&value, RUN_FORMAT, RUN_VERSION).map_err(damaged)?;
        serde_json::from_value(value).map_err(|error| damaged(format!("damaged: {error}")))
    }

    /// Writes the `run.json` of a folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(RUN_FILE), self)
    }

    /// Writes the `run.json` of a folder unless it has one.
    pub fn save_once(&self, folder: &Path) -> Result<()> {
        write_json_once(&folder.join(RUN_FILE), self)
    }

    /// A short hash of everything that determines what the run generates: a model that says what its weights are is the same
    /// under any path. Stored beside what was made of a run, so it must stay what it is when fields are added.
    pub fn digest(&self) -> String {
        let mut free = Self { tpv_version: String::new(), clock_unix_secs: None, ..self.clone() };
        if !free.model.fingerprint.is_empty() {
            free.model.name.clear();
        }
        short_sha256(serde_json::to_string(&free).expect("a run is plain data and becomes JSON"))
    }

    /// Whether both runs generate the same; else the first key in which they differ.
    pub fn same_run(&self, other: &Self) -> Result<(), Difference> {
        let mut other = other.clone();
        if !other.model.fingerprint.is_empty() && other.model.fingerprint == self.model.fingerprint {
            other.model.name.clone_from(&self.model.name); // the same model under another path
        }
        if self.dataset_fingerprint.is_none() || other.dataset_fingerprint.is_none() {
            other.dataset_fingerprint.clone_from(&self.dataset_fingerprint);
        }
        let value = |run| serde_json::to_value(run).expect("a run is plain data and becomes JSON");
        match first_difference("", &value(self), &value(&other)) {
            Some(difference) => Err(difference),
            None => Ok(()),
        }
    }
}

/// Half a SHA-256 in hexadecimal: enough to tell things apart, not to prove anything.
pub(crate) fn short_sha256(text: String) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Checks the `format` and `version` of a JSON document.
pub(crate) fn check_format(value: &Value, format: &str, version: u32) -> Result<(), String> {
    match value.get("format").and_then(Value::as_str) {
        Some(found) if found == format => {}
        Some(found) => return Err(format!("its format is \"{found}\", expected \"{format}\"")),
        None => return Err(format!("it states no format, expected \"{format}\"")),
    }
    match value.get("version").and_then(Value::as_u64) {
        Some(found) if found == u64::from(version) => Ok(()),
        Some(found) => Err(format!("version {found} of {format} is not known, expected {version}")),
        None => Err(format!("it states no version, expected {version}")),
    }
}

fn first_difference(key: &str, here: &Value, other: &Value) -> Option<Difference> {
    if let (Value::Object(a), Value::Object(b)) = (here, other) {
        let keys = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
        return keys.filter(|name| !FREE_KEYS.contains(&name.as_str())).find_map(|name| {
            let full = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            first_difference(&full, &here[name.as_str()], &other[name.as_str()])
        });
    }
    (here != other).then(|| Difference { key: key.into(), here: shown(here), other: shown(other) })
}

/// A value as its user wrote it: 0.6 is kept in single precision, which JSON widens to 0.6000000238418579.
fn shown(value: &Value) -> String {
    let single = value.as_f64().filter(|_| value.is_f64()).map(|wide| wide as f32);
    match single.filter(|&single| Some(f64::from(single)) == value.as_f64()) {
        Some(single) => single.to_string(),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunConfig { prompt_template: Some("{problem}\n<think>\n".into()), ..RunConfig::default() };
        run.save(folder.path()).unwrap();
        assert_eq!(RunConfig::load(folder.path()).unwrap(), run);
    }

    #[test]
    fn runs_of_before_the_streaming_fit_keep_their_states() {
        let mut old = serde_json::to_value(RunConfig::default()).unwrap();
        old.as_object_mut().unwrap().remove("states_kept");
        assert_eq!(serde_json::from_value::<RunConfig>(old).unwrap(), RunConfig::default());
    }

    #[test]
    fn a_digest_stays_what_it_is_and_knows_a_model_by_its_weights() {
        let named = |name: &str| RunConfig {
            model: ModelIdentity {
                name: name.into(),
                fingerprint: "f".into(),
                hidden_size: 3,
                ..ModelIdentity::default()
            },
            ..RunConfig::default()
        };
        let run = named("a");
        assert_eq!(run.digest(), "b00fcf06e4ecda09");
        assert_eq!(run.digest(), RunConfig { tpv_version: "99".into(), ..named("/elsewhere/a") }.digest());
        assert_ne!(run.digest(), RunConfig { seed: 1, ..run.clone() }.digest());
    }

    #[test]
    fn the_first_difference_is_named() {
        let a = RunConfig::default();
        let mut b = RunConfig { tpv_version: "99".into(), ..a.clone() };
        assert_eq!(a.same_run(&b), Ok(()));
        b.dataset_fingerprint = Some("1".into());
        assert_eq!((a.same_run(&b), b.same_run(&a)), (Ok(()), Ok(())), "one of them does not say");
        let other = RunConfig { dataset_fingerprint: Some("2".into()), ..b.clone() };
        assert_eq!(other.same_run(&b).unwrap_err().key, "dataset_fingerprint");
        b.sampling.temperature = 0.5;
        assert_eq!(a.same_run(&b).unwrap_err().key, "sampling.temperature");
        b = RunConfig { prompt_template: Some("x".into()), ..a.clone() };
        let difference = a.same_run(&b).unwrap_err();
        assert_eq!(
            (difference.key.as_str(), difference.here.as_str(), difference.other.as_str()),
            ("prompt_template", "null", "\"x\"")
        );
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RUN_FILE);
        assert!(RunConfig::load(folder.path()).unwrap_err().to_string().contains("run.json: cannot read the run"));
        for (text, expected) in [
            ("", "not JSON"),
            ("{\"format\": \"tpv-run\", \"ver", "not JSON"),
            ("{\"format\": \"recipe\", \"version\": 1}", "its format is \"recipe\", expected \"tpv-run\""),
            ("{\"format\": \"tpv-run\", \"version\": 7}", "version 7"),
            ("{\"format\": \"tpv-run\", \"version\": 1}", "missing field"),
            ("[]", "states no format"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = RunConfig::load(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("run.json"), "{message}");
        }
    }
}
