//! `dataset.json`: which traces train and which test, what was left out and why. States are not copied.

use crate::atomic::write_json;
use crate::error::{DataError, Result};
use crate::files;
use crate::identity::check_same_model;
use crate::run::{RUN_FILE, RunConfig, check_format};
use crate::source::{LeftOut, TraceHeader, TraceId, TraceSource};
use crate::traces::open_traces;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use tpv_core::phase::ThinkingMarkers;
use tpv_core::vector::ModelIdentity;

/// Name of the dataset format.
pub const DATASET_FORMAT: &str = "tpv-dataset";
/// Version of the dataset format.
pub const DATASET_VERSION: u32 = 1;
/// The file's name in the folder that `prepare` writes.
pub const DATASET_FILE: &str = "dataset.json";

/// A split of a folder of traces, by problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetManifest {
    /// [`DATASET_FORMAT`]
    pub format: String,
    /// [`DATASET_VERSION`]
    pub version: u32,
    /// The program version that wrote it.
    pub tpv_version: String,
    /// The folder of the traces, absolute.
    pub source: PathBuf,
    /// The model of the traces, as far as the folder says.
    pub model: ModelIdentity,
    /// The data set of the traces, where the folder says so.
    pub dataset: Option<String>,
    /// The run of the traces, [`RunConfig::digest`], where the folder says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_digest: Option<String>,
    /// The texts around a thought.
    pub markers: ThinkingMarkers,
    /// How the split was made.
    pub split: SplitRecord,
    /// The traces to train on, ordered.
    pub train: Vec<TraceId>,
    /// The traces to test on, ordered.
    pub test: Vec<TraceId>,
    /// Thinking states in all traces to train on.
    pub train_rows: usize,
    /// Thinking states in all traces to test on.
    pub test_rows: usize,
    /// What was left out and why.
    pub left_out: Vec<LeftOut>,
}

/// How a split was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// The method's name, e.g. `reference`.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// The share of problems to train on.
    pub train_ratio: f64,
}

impl DatasetManifest {
    /// Makes the manifest of a split: `train_problems` and `test_problems` are problem indexes; traces of other problems
    /// and those in `left_out` are in neither part.
    pub fn new(
        source: &dyn TraceSource,
        markers: &ThinkingMarkers,
        split: SplitRecord,
        train_problems: &[usize],
        test_problems: &[usize],
        left_out: Vec<LeftOut>,
    ) -> Result<Self> {
        let folder = source.folder();
        let absolute =
            folder.canonicalize().map_err(|error| DataError::io(folder, "find the folder of the traces", error))?;
        let (train, train_rows) = part(source, train_problems, &left_out);
        let (test, test_rows) = part(source, test_problems, &left_out);
        Ok(Self {
            format: DATASET_FORMAT.into(),
            version: DATASET_VERSION,
            tpv_version: env!("CARGO_PKG_VERSION").into(),
            model: source.model().cloned().unwrap_or_default(),
            dataset: source.dataset().map(str::to_string),
            run_digest: digest_of_run(&absolute)?,
            markers: markers.clone(),
            source: absolute,
            split,
            train,
            test,
            train_rows,
            test_rows,
            left_out,
        })
    }

    /// Reads the `dataset.json` of a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(DATASET_FILE);
        if !path.is_file() {
            let what = format!("{}: the folder has no {DATASET_FILE}", folder.display());
            return Err(DataError::missing(what, "run `tpv prepare` first, or name the folder that it wrote"));
        }
        let bytes = files::read(&path).map_err(|source| DataError::io(&path, "read the data set", source))?;
        let damaged = |what: String| DataError::damaged(&path, what, "run `tpv prepare` again");
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("not JSON ({error})")))?;
        check_format(&value, DATASET_FORMAT, DATASET_VERSION).map_err(damaged)?;
        let manifest: Self = serde_json::from_value(value).map_err(|error| damaged(format!("damaged: {error}")))?;
        manifest.check_parts().map_err(damaged)?;
        Ok(manifest)
    }

    /// Writes the `dataset.json` of a folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(DATASET_FILE), self)
    }

    /// Opens the traces and checks that all of them are there and those that were prepared.
    pub fn open_traces(&self) -> Result<Box<dyn TraceSource>> {
        const AGAIN: &str = "run `tpv prepare` again";
        if !self.source.is_dir() {
            let what =
                format!("{}: the folder of traces that {DATASET_FILE} names is not there", self.source.display());
            return Err(DataError::missing(what, "if it was moved, run `tpv prepare` on its new place"));
        }
        let source = open_traces(&self.source, &self.markers)?;
        let other = |what: &str| Err(DataError::mismatch(&self.source, what, AGAIN));
        let digest = digest_of_run(&self.source)?;
        if self.run_digest.as_ref().zip(digest.as_ref()).is_some_and(|(prepared, there)| prepared != there) {
            return other("the folder holds another run than the one that was prepared");
        }
        if let Some(model) = source.model() {
            check_same_model(&self.source, model, &self.model)?;
        }
        let there: HashMap<TraceId, &TraceHeader> = source.headers().iter().map(|header| (header.id, header)).collect();
        for (part, rows) in [(&self.train, self.train_rows), (&self.test, self.test_rows)] {
            let mut rows_there = 0;
            for id in part {
                let Some(header) = there.get(id) else {
                    let what = format!("{}: the trace {id} of the data set is gone or damaged", self.source.display());
                    return Err(DataError::missing(what, AGAIN));
                };
                if header.unusable().is_some() {
                    return other(&format!("the trace {id} is not the one that was prepared"));
                }
                rows_there += header.thinking_rows;
            }
            if rows_there != rows {
                return other(&format!("its traces have {rows_there} thinking states, {rows} were prepared"));
            }
        }
        Ok(source)
    }

    /// No problem may be in both parts, or the test figures would flatter.
    fn check_parts(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        if let Some(id) = self.train.iter().chain(&self.test).find(|id| !seen.insert(**id)) {
            return Err(format!("the trace {id} is in it twice"));
        }
        let train: HashSet<usize> = self.train.iter().map(|id| id.problem).collect();
        match self.test.iter().find(|id| train.contains(&id.problem)) {
            Some(id) => Err(format!("problem {} is in both parts of the split", id.problem)),
            None => Ok(()),
        }
    }
}

/// What tells the run in a folder of traces from others; none in folders of the Python scripts.
fn digest_of_run(folder: &Path) -> Result<Option<String>> {
    folder.join(RUN_FILE).is_file().then(|| Ok(RunConfig::load(folder)?.digest())).transpose()
}

fn part(source: &dyn TraceSource, problems: &[usize], left_out: &[LeftOut]) -> (Vec<TraceId>, usize) {
    let problems: HashSet<usize> = problems.iter().copied().collect();
    let out: HashSet<&str> = left_out.iter().map(|it| it.trace.as_str()).collect();
    let headers = source.headers().iter();
    let chosen: Vec<_> = headers
        .filter(|header| problems.contains(&header.id.problem) && !out.contains(header.id.to_string().as_str()))
        .collect();
    (chosen.iter().map(|header| header.id).collect(), chosen.iter().map(|header| header.thinking_rows).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{RunConfig, StatesDtype};
    use crate::states::States;
    use crate::trace::{Generation, GenerationRecord, ProblemTraces, TraceStore};
    use std::fs;
    fn store(folder: &Path) -> TraceStore {
        let model = ModelIdentity { name: "tiny".into(), hidden_size: 1, ..ModelIdentity::default() };
        let mut store = TraceStore::create(folder, &RunConfig { model, ..RunConfig::default() }).unwrap();
        for problem in 0..3 {
            let record = GenerationRecord::of_two_tokens();
            let generation =
                Generation { record, token_ids: vec![1, 2, 3], states: States::in_memory(StatesDtype::F32, &[0.5; 3]) };
            let traces = ProblemTraces {
                problem,
                problem_text: "?".into(),
                gold: None,
                prompt: "?".into(),
                prompt_token_ids: vec![0],
                generations: vec![generation.clone(), generation],
            };
            store.write(&traces).unwrap();
        }
        store
    }

    fn manifest(folder: &Path) -> DatasetManifest {
        let split = SplitRecord { method: "reference".into(), seed: 42, train_ratio: 0.8 };
        let left_out = vec![LeftOut { trace: "problem_0/generation_1".into(), reason: "unfinished".into() }];
        DatasetManifest::new(&store(folder), &ThinkingMarkers::default(), split, &[2, 0], &[1], left_out).unwrap()
    }

    #[test]
    fn the_parts_follow_the_problems_without_what_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(&folder.path().join("traces"));
        let ids: Vec<String> = manifest.train.iter().map(TraceId::to_string).collect();
        assert_eq!(ids, ["problem_0/generation_0", "problem_2/generation_0", "problem_2/generation_1"]);
        assert_eq!((manifest.train_rows, manifest.test_rows), (6, 4));
        manifest.save(folder.path()).unwrap();
        let loaded = DatasetManifest::load(folder.path()).unwrap();
        assert_eq!(loaded, manifest);
        assert_eq!(loaded.open_traces().unwrap().headers().len(), 6);
    }

    #[test]
    fn traces_that_are_gone_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let traces = folder.path().join("traces");
        let manifest = manifest(&traces);
        fs::remove_file(traces.join("problem_1.safetensors")).unwrap();
        let text = manifest.open_traces().unwrap_err().to_string();
        assert!(text.contains("the trace problem_1/generation_0 of the data set is gone"), "{text}");
        fs::remove_dir_all(&traces).unwrap();
        let text = manifest.open_traces().unwrap_err().to_string();
        assert!(text.contains("that dataset.json names is not there"), "{text}");
    }

    #[test]
    fn traces_that_are_no_longer_those_that_were_prepared_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let traces = folder.path().join("traces");
        let prepared = manifest(&traces);
        let refused = |manifest: &DatasetManifest| manifest.open_traces().unwrap_err().to_string();
        assert!(prepared.open_traces().is_ok());

        let run = RunConfig::load(&traces).unwrap();
        RunConfig { seed: 7, ..run.clone() }.save(&traces).unwrap();
        assert!(refused(&prepared).contains("another run than the one that was prepared"));
        let other = ModelIdentity { name: "huge".into(), ..run.model.clone() };
        RunConfig { model: other, ..run.clone() }.save(&traces).unwrap();
        let of_before = DatasetManifest { run_digest: None, ..prepared.clone() };
        assert!(refused(&of_before).contains("its states are of huge, those before it of tiny"));
        run.save(&traces).unwrap();
        assert!(of_before.open_traces().is_ok());

        let fewer = DatasetManifest { test_rows: prepared.test_rows - 1, ..prepared.clone() };
        assert!(refused(&fewer).contains("its traces have 4 thinking states, 3 were prepared"));
        let mut store = TraceStore::open(&traces).unwrap();
        let record = GenerationRecord { thinking_ended: false, ..GenerationRecord::of_two_tokens() };
        let states = States::in_memory(StatesDtype::F32, &[0.5; 3]);
        let cut = Generation { record, token_ids: vec![1, 2, 3], states };
        let record = store.record(1).unwrap();
        let generations = vec![cut.clone(), cut];
        let (problem_text, prompt) = (record.problem_text, record.prompt);
        store
            .write(&ProblemTraces {
                problem: 1,
                problem_text,
                gold: None,
                prompt,
                prompt_token_ids: vec![0],
                generations,
            })
            .unwrap();
        assert!(refused(&prepared).contains("the trace problem_1/generation_0 is not the one that was prepared"));
    }

    #[test]
    fn damaged_manifests_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = DatasetManifest::load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("has no dataset.json; run `tpv prepare` first"), "{text}");
        let mut both = manifest(&folder.path().join("traces"));
        both.test.push(TraceId { problem: 2, generation: 7 });
        both.save(folder.path()).unwrap();
        assert!(DatasetManifest::load(folder.path()).unwrap_err().to_string().contains("problem 2 is in both parts"));
        let mut twice = manifest(&folder.path().join("more"));
        twice.train.push(TraceId { problem: 2, generation: 0 });
        twice.save(folder.path()).unwrap();
        let text = DatasetManifest::load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("problem_2/generation_0 is in it twice"), "{text}");
        let path = folder.path().join(DATASET_FILE);
        let good = fs::read_to_string(&path).unwrap();
        for (bad, expected) in [
            (good[..good.len() / 2].to_string(), "not JSON"),
            (good.replace("tpv-dataset", "cake"), "its format is \"cake\""),
            (good.replace("problem_2/generation_0", "problem_x"), "damaged"),
            (good.replace("\"version\": 1", "\"version\": 2"), "version 2"),
        ] {
            fs::write(&path, bad).unwrap();
            let text = DatasetManifest::load(folder.path()).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}
