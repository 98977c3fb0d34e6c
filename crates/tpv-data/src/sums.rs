//! The sums of a streaming fit in a file: what is left of a run's states when the states themselves are not kept.
//!
//! A safetensors file in f64. The problems are dealt into [`PARTS`] parts ([`dealt_part`]), so that each part can be
//! measured by a fit on the others. For part k there are `part_<k>.gram_lower` [d (d + 1) / 2], `part_<k>.column_sums`
//! `[d]`, and for each target t `part_<k>.cross_<t>` `[d]` and `part_<k>.sums_<t>` `[2]` (the sum and the sum of squares).
//! The metadata entry `tpv_sums` is a JSON document, [`SumsRecord`].
//!
//! `sums.safetensors` is a whole run's, `sums_2_of_4.safetensors` that of a shard. Files of shards, of further problems and
//! of runs with other seeds merge ([`merge_sums`]); the files are put in an order of their own, so the merged sums do
//! not depend on how they were listed, to the bit. Against the sums of an unsharded run they differ by rounding alone,
//! below 1e-12 of the greatest entry.

use crate::error::{DataError, Result};
use crate::identity::check_same_model;
use crate::problems::words_fingerprint;
use crate::run::{RunConfig, check_format};
use crate::source::{LeftOut, TraceId};
use crate::tensors::{NamedArray, TensorFile, Values, write_tensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tpv_core::gram::{GramError, GramParts, GramSums, LOG_REMAINING, PROGRESS, TargetSums};
use tpv_core::split::{Shard, dealt_part};
use tpv_core::vector::STATE_TAP;

/// Name of the format of sums.
pub const SUMS_FORMAT: &str = "tpv-sums";
/// Version of the format of sums.
pub const SUMS_VERSION: u32 = 1;
/// Parts that the problems are dealt into.
pub const PARTS: usize = 5;
/// The targets of every part, in order.
pub const TARGETS: [&str; 2] = [PROGRESS, LOG_REMAINING];

const METADATA_KEY: &str = "tpv_sums";

/// What was summed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SumsRecord {
    /// [`SUMS_FORMAT`]
    pub format: String,
    /// [`SUMS_VERSION`]
    pub version: u32,
    /// Where the states were taken; see [`STATE_TAP`].
    pub state_tap: String,
    /// The run whose states were summed.
    pub run: RunConfig,
    /// The problems that are in, in the order in which they were added; some may have given no thought.
    pub problems: Vec<usize>,
    /// A hash of the words of each of them; files of before have none.
    #[serde(default)]
    pub problem_fingerprints: Vec<String>,
    /// The thoughts that are in, in the same order.
    pub thoughts: Vec<SummedThought>,
    /// The thoughts of these problems that are not in, and why.
    pub left_out: Vec<LeftOut>,
}

/// A thought whose states are in the sums: all that is known of it afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummedThought {
    /// Which one.
    pub trace: TraceId,
    /// N: its thinking tokens, up to and including `</think>`.
    pub thinking_tokens: usize,
}

impl SummedThought {
    /// The part that it belongs to.
    pub fn part(&self) -> usize {
        dealt_part(self.trace.problem as u64, PARTS)
    }
}

impl SumsRecord {
    /// Nothing of a run yet.
    pub fn new(run: RunConfig) -> Self {
        Self {
            format: SUMS_FORMAT.into(),
            version: SUMS_VERSION,
            state_tap: STATE_TAP.into(),
            run,
            problems: Vec::new(),
            problem_fingerprints: Vec::new(),
            thoughts: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Notes that a problem is in. One of before that lacks hashes goes on without.
    pub fn add_problem(&mut self, problem: usize, text: &str) {
        if self.problems.len() == self.problem_fingerprints.len() {
            self.problem_fingerprints.push(words_fingerprint(text));
        }
        self.problems.push(problem);
    }

    /// Whether a problem is in.
    pub fn holds(&self, problem: usize) -> bool {
        self.problems.contains(&problem)
    }

    /// States of each part.
    fn rows(&self) -> [u64; PARTS] {
        let mut rows = [0; PARTS];
        self.thoughts.iter().for_each(|thought| rows[thought.part()] += thought.thinking_tokens as u64);
        rows
    }
}

/// The name of the file of a run's sums, or of a shard's.
pub fn sums_file(shard: Option<Shard>) -> String {
    let of_shard = shard.map(|shard| format!("_{}", shard.to_string().replace('/', "_of_")));
    format!("sums{}.safetensors", of_shard.unwrap_or_default())
}

/// The files of sums in a folder, ordered by name.
pub fn sums_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| DataError::io(folder, "list the folder", source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == sums_file(None) || (name.starts_with("sums_") && name.ends_with(".safetensors")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Writes sums, all or nothing; `parts` has one for each of the [`PARTS`].
pub fn save_sums(path: &Path, record: &SumsRecord, parts: &[GramParts]) -> Result<()> {
    let pair = |target: &TargetSums| [target.sum, target.sum_of_squares];
    let pairs: Vec<Vec<[f64; 2]>> = parts.iter().map(|part| part.targets.iter().map(pair).collect()).collect();
    let mut arrays = Vec::new();
    for (number, (part, pairs)) in parts.iter().zip(&pairs).enumerate() {
        let name = |what: &str| format!("part_{number}.{what}");
        arrays.push(NamedArray::vector(name("gram_lower"), Values::F64(&part.gram_lower)));
        arrays.push(NamedArray::vector(name("column_sums"), Values::F64(&part.column_sums)));
        for (target, pair) in part.targets.iter().zip(pairs) {
            arrays.push(NamedArray::vector(name(&format!("cross_{}", target.name)), Values::F64(&target.cross)));
            arrays.push(NamedArray::vector(name(&format!("sums_{}", target.name)), Values::F64(pair)));
        }
    }
    write_tensors(path, METADATA_KEY, record, &arrays)
}

/// Reads what was summed, without the sums.
pub fn load_record(path: &Path) -> Result<SumsRecord> {
    read_record(&TensorFile::open(path)?)
}

/// Reads sums, one for each of the [`PARTS`].
pub fn load_sums(path: &Path) -> Result<(SumsRecord, Vec<GramSums>)> {
    load(path, GramSums::from_parts)
}

/// Reads sums as plain numbers, one for each of the [`PARTS`].
pub fn load_parts(path: &Path) -> Result<(SumsRecord, Vec<GramParts>)> {
    load(path, |part| part.validate().map(|()| part))
}

fn load<T>(path: &Path, take: impl Fn(GramParts) -> Result<T, GramError>) -> Result<(SumsRecord, Vec<T>)> {
    let file = TensorFile::open(path)?;
    let record = read_record(&file)?;
    let width = record.run.model.hidden_size;
    let part = |(number, rows)| {
        let part = read_part(&file, number, rows, width)?;
        part.targets.iter().try_for_each(|target| check_labels(&file, &record, number, target))?;
        take(part).map_err(|error| file.damaged(error.to_string()))
    };
    let parts = record.rows().into_iter().enumerate().map(part).collect::<Result<_>>()?;
    Ok((record, parts))
}

/// Whether a part's labels are those of its thoughts: j / N over a thought of N tokens adds up to (N + 1) / 2.
fn check_labels(file: &TensorFile, record: &SumsRecord, number: usize, target: &TargetSums) -> Result<()> {
    let own = record.thoughts.iter().filter(|thought| thought.part() == number);
    let expected: f64 = own.map(|thought| (thought.thinking_tokens as f64 + 1.0) / 2.0).sum();
    if expected > 0.0 && target.name == PROGRESS && (target.sum - expected).abs() > 1e-6 * expected.max(1.0) {
        let what = format!("part {number} lacks states that it says are in it (labels {} of {expected})", target.sum);
        return Err(DataError::damaged(file.path(), what, "remove the file and sum again"));
    }
    Ok(())
}

fn read_record(file: &TensorFile) -> Result<SumsRecord> {
    let value: Value = file.about(METADATA_KEY, "file of sums")?;
    check_format(&value, SUMS_FORMAT, SUMS_VERSION).map_err(|what| file.damaged(what))?;
    let record: SumsRecord =
        serde_json::from_value(value).map_err(|error| file.damaged(format!("its metadata is damaged: {error}")))?;
    if record.state_tap != STATE_TAP {
        let what = format!("its states were taken at {:?}, this program reads {STATE_TAP:?}", record.state_tap);
        return Err(DataError::mismatch(file.path(), what, "sum the states again with this program"));
    }
    Ok(record)
}

fn read_part(file: &TensorFile, number: usize, rows: u64, width: usize) -> Result<GramParts> {
    let triangle = width.checked_add(1).and_then(|next| next.checked_mul(width)).map(|twice| twice / 2);
    let triangle = triangle.ok_or_else(|| file.damaged(format!("its width {width} cannot be")))?;
    let array = |what: &str, len| file.vector_f64(&format!("part_{number}.{what}"), Some(len));
    let target = |name: &str| -> Result<TargetSums> {
        let sums = array(&format!("sums_{name}"), 2)?;
        let cross = array(&format!("cross_{name}"), width)?;
        Ok(TargetSums { name: name.into(), cross, sum: sums[0], sum_of_squares: sums[1] })
    };
    Ok(GramParts {
        width,
        rows,
        gram_lower: array("gram_lower", triangle)?,
        column_sums: array("column_sums", width)?,
        targets: TARGETS.into_iter().map(target).collect::<Result<_>>()?,
    })
}

/// The sums of several files.
#[derive(Debug)]
pub struct MergedSums {
    /// What each file says, in the order of merging.
    pub records: Vec<SumsRecord>,
    /// The sums of each of the [`PARTS`].
    pub parts: Vec<GramSums>,
}

/// Merges files of sums of one model. A problem that is in two files of the same run is refused by name.
pub fn merge_sums(paths: &[PathBuf]) -> Result<MergedSums> {
    let read = |path: &PathBuf| Ok((path.clone(), load_record(path)?));
    let mut files: Vec<(PathBuf, SumsRecord)> = paths.iter().map(read).collect::<Result<_>>()?;
    files
        .sort_by_cached_key(|(_, record)| (record.run.dataset.clone(), record.problems.clone(), order_of(&record.run)));
    check_together(&files)?;
    let mut merged: Option<Vec<GramSums>> = None;
    for (path, _) in &files {
        let (_, parts) = load_sums(path)?;
        match &mut merged {
            None => merged = Some(parts),
            Some(sums) => {
                let mut pairs = sums.iter_mut().zip(&parts);
                let mismatch = |error: GramError| DataError::damaged(path, error.to_string(), "sum again");
                pairs.try_for_each(|(sum, more)| sum.merge(more)).map_err(mismatch)?;
            }
        }
    }
    let parts =
        merged.ok_or_else(|| DataError::argument("there are no files of sums to merge", "name at least one"))?;
    Ok(MergedSums { records: files.into_iter().map(|(_, record)| record).collect(), parts })
}

/// A text that tells runs apart.
fn order_of(run: &RunConfig) -> String {
    serde_json::to_string(run).expect("a run is plain data and becomes JSON")
}

fn check_together(files: &[(PathBuf, SumsRecord)]) -> Result<()> {
    for (at, (path, record)) in files.iter().enumerate() {
        for (earlier_path, earlier) in &files[..at] {
            check_same_model(path, &record.run.model, &earlier.run.model)?;
            let twice = record.problems.iter().find(|&&problem| earlier.holds(problem));
            if let Some(problem) = twice.filter(|_| record.run.same_run(&earlier.run).is_ok()) {
                let what = format!("problem {problem} of the same run is in {} as well", earlier_path.display());
                return Err(DataError::mismatch(path, what, "name each run or shard once"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::hostile_copies;
    use std::fs;
    use tpv_core::gram::{GramAccumulator, Parallelism, log_remaining_labels, progress_labels};
    use tpv_core::vector::ModelIdentity;

    fn run(seed: u64) -> RunConfig {
        let model = ModelIdentity { name: "tiny".into(), hidden_size: 2, ..ModelIdentity::default() };
        RunConfig { model, seed, ..RunConfig::default() }
    }

    /// The sums of one thought of three tokens for each problem.
    fn sums_of(problems: &[usize], run: RunConfig) -> (SumsRecord, Vec<GramSums>) {
        let mut record = SumsRecord::new(run);
        let new = || GramAccumulator::new(2, &TARGETS, Parallelism::Sequential).unwrap();
        let mut parts: Vec<GramAccumulator> = (0..PARTS).map(|_| new()).collect();
        for &problem in problems {
            let states: Vec<f32> = (0..6).map(|i| ((problem * 6 + i) as f32).sin()).collect();
            let thought = SummedThought { trace: TraceId { problem, generation: 0 }, thinking_tokens: 3 };
            parts[thought.part()].add_rows(&states, &[&progress_labels(3), &log_remaining_labels(3)]).unwrap();
            record.add_problem(problem, "Why?");
            record.thoughts.push(thought);
        }
        (record, parts.into_iter().map(GramAccumulator::finish).collect())
    }

    fn save(path: &Path, problems: &[usize], run: RunConfig) -> PathBuf {
        let (record, parts) = sums_of(problems, run);
        save_sums(path, &record, &numbers(&parts)).unwrap();
        path.into()
    }

    fn numbers(parts: &[GramSums]) -> Vec<GramParts> {
        parts.iter().map(GramSums::to_parts).collect()
    }

    #[test]
    fn sums_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = save(&folder.path().join(sums_file(None)), &[3, 4, 11], run(42));
        let (expected, expected_parts) = sums_of(&[3, 4, 11], run(42));
        let (record, parts) = load_sums(&path).unwrap();
        assert_eq!(record, expected);
        assert_eq!(numbers(&parts), numbers(&expected_parts));
        assert_eq!(load_parts(&path).unwrap(), (expected.clone(), numbers(&expected_parts)));
        assert_eq!(load_record(&path).unwrap(), expected);
    }

    #[test]
    fn sums_that_lack_what_they_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums");
        let (mut record, parts) = sums_of(&[3, 4], run(42));
        record.thoughts.push(SummedThought { trace: TraceId { problem: 3, generation: 1 }, thinking_tokens: 5 });
        save_sums(&path, &record, &numbers(&parts)).unwrap();
        for text in [load_sums(&path).unwrap_err().to_string(), load_parts(&path).unwrap_err().to_string()] {
            assert!(text.contains("lacks states that it says are in it (labels 2 of 5)"), "{text}");
        }
    }

    #[test]
    fn sums_that_no_states_have_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums");
        let (record, parts) = sums_of(&[3, 4, 5, 6], run(42));
        let good = numbers(&parts);
        let filled = good.iter().position(|part| part.rows > 0).unwrap();
        // Of a width of 2 the triangle is (0, 0), (1, 0), (1, 1); an exponent that is off by one bit.
        for (entry, factor) in [(1, 65536.0), (0, 1.0 / 65536.0), (2, 2f64.powi(-64))] {
            let mut parts = good.clone();
            parts[filled].gram_lower[entry] *= factor;
            save_sums(&path, &record, &parts).unwrap();
            let text = load_sums(&path).unwrap_err().to_string();
            assert!(text.contains("greater than those of the diagonal allow"), "{text}");
        }
        save_sums(&path, &record, &good).unwrap();
        assert!(load_sums(&path).is_ok());
    }

    #[test]
    fn shards_merge_to_the_whole_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let problems: Vec<usize> = (0..23).collect();
        let shard = |number: usize| -> PathBuf {
            let shard: Shard = format!("{number}/3").parse().unwrap();
            let of_shard: Vec<usize> = problems.iter().copied().filter(|&it| shard.holds(it as u64)).collect();
            save(&folder.path().join(sums_file(Some(shard))), &of_shard, run(42))
        };
        let shards = [shard(1), shard(2), shard(3)];
        assert_eq!(sums_files(folder.path()).unwrap(), shards);
        let merged = merge_sums(&shards).unwrap();
        let (_, whole) = sums_of(&problems, run(42));
        for (part, whole) in merged.parts.iter().zip(&whole) {
            assert_eq!(part.rows(), whole.rows());
            let (part, whole) = (part.to_parts(), whole.to_parts());
            let greatest = whole.gram_lower.iter().fold(0f64, |max, it| max.max(it.abs()));
            let mut pairs = part.gram_lower.iter().zip(&whole.gram_lower);
            assert!(pairs.all(|(a, b)| (a - b).abs() <= 1e-12 * greatest));
        }
        let reversed: Vec<PathBuf> = shards.iter().rev().cloned().collect();
        assert_eq!(numbers(&merge_sums(&reversed).unwrap().parts), numbers(&merged.parts));
        assert_eq!(merged.records.iter().map(|record| record.problems.len()).sum::<usize>(), 23);
    }

    #[test]
    fn what_does_not_belong_together_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let a = save(&at("a"), &[0, 1], run(42));
        let refused = |other: &PathBuf| merge_sums(&[a.clone(), other.clone()]).unwrap_err().to_string();
        let text = refused(&save(&at("b"), &[1, 2], run(42)));
        assert!(text.contains("b: problem 1 of the same run is in") && text.contains("/a as well"), "{text}");
        merge_sums(&[a.clone(), save(&at("other_seed"), &[0, 1], run(43))]).unwrap();
        let mut other = run(42);
        other.model.name = "huge".into();
        let text = refused(&save(&at("c"), &[2], other));
        assert!(text.contains("c: its states are of huge, those before it of tiny"), "{text}");
        assert!(merge_sums(&[]).unwrap_err().to_string().contains("no files of sums"));

        let (mut record, parts) = sums_of(&[3], run(42));
        record.state_tap = "before_norm".into();
        save_sums(&at("tap"), &record, &numbers(&parts)).unwrap();
        assert!(refused(&at("tap")).contains("were taken at \"before_norm\", this program reads \"final_post_norm\""));
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = save(&folder.path().join("sums"), &[0], run(42));
        let good = fs::read(&path).unwrap();
        for (name, bytes) in hostile_copies(&good) {
            fs::write(&path, bytes).unwrap();
            assert!(load_sums(&path).is_err() && load_parts(&path).is_err(), "{name}");
        }
        let mut with_nan = good.clone();
        let end = with_nan.len();
        with_nan[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
        fs::write(&path, with_nan).unwrap();
        assert!(load_sums(&path).unwrap_err().to_string().contains("not a finite number"));
        let (mut record, parts) = sums_of(&[0], run(42));
        record.thoughts.clear();
        save_sums(&path, &record, &numbers(&parts)).unwrap();
        assert!(load_sums(&path).unwrap_err().to_string().contains("there are sums, but no rows"));
        assert!(load_parts(&path).unwrap_err().to_string().contains("there are sums, but no rows"));
    }
}
