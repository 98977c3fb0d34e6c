//! Several data sets as one: shards of a run, further problems, runs with other seeds, other data sets of one model.
//!
//! The sets are put in an order of their own (data set, problems, folder), so the result does not depend on how they were
//! listed. Problems keep their indexes, but for those of a second data set, which count on after the last of the first;
//! generations of a problem that several sets hold count on likewise.

use crate::dataset::DatasetManifest;
use crate::error::{DataError, Result};
use crate::identity::check_same_model;
use crate::run::RunConfig;
use crate::source::{BlockSink, LeftOut, TraceHeader, TraceId, TraceSource};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tpv_core::vector::ModelIdentity;

/// A data set with the folder that its `dataset.json` is in.
#[derive(Debug)]
pub struct NamedDataset {
    /// The folder of the `dataset.json`.
    pub folder: PathBuf,
    /// The data set.
    pub manifest: DatasetManifest,
}

impl NamedDataset {
    /// Reads the `dataset.json` of a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.into(), manifest: DatasetManifest::load(folder)? })
    }

    /// What tells its problems from those of other data sets.
    fn problems_of(&self) -> String {
        self.manifest.dataset.clone().unwrap_or_else(|| self.manifest.source.display().to_string())
    }

    fn refuse<T>(&self, what: String, next_step: &str) -> Result<T> {
        Err(DataError::mismatch(&self.folder, what, next_step))
    }
}

/// Opens one data set, or several as one.
pub fn open_datasets(mut sets: Vec<NamedDataset>) -> Result<(DatasetManifest, Box<dyn TraceSource>)> {
    sets.sort_by_cached_key(|set| {
        let manifest = &set.manifest;
        (set.problems_of(), manifest.train.iter().chain(&manifest.test).min().copied(), manifest.source.clone())
    });
    check_together(&sets)?;
    let sources = sets.iter().map(|set| set.manifest.open_traces()).collect::<Result<Vec<_>>>()?;
    leave_out_tested_elsewhere(&mut sets, &sources)?;
    let places = Places::of(&sets, &sources);
    let mut names: Vec<String> = sets.iter().filter_map(|set| set.manifest.dataset.clone()).collect();
    names.dedup();
    let mut sets = sets.into_iter();
    let mut manifest =
        sets.next().ok_or_else(|| DataError::argument("no data set was named", "name at least one"))?.manifest;
    if sources.len() == 1 {
        let source = sources.into_iter().next().expect("there is one source for each set");
        return Ok((manifest, source));
    }
    for (number, set) in sets.enumerate() {
        let more = set.manifest;
        if manifest.model.fingerprint.is_empty() && !more.model.fingerprint.is_empty() {
            manifest.model = more.model; // the first one that says all about its model
        }
        let renumbered = |ids: &[TraceId]| ids.iter().map(|&id| places.joined(number + 1, id)).collect::<Vec<_>>();
        manifest.train.extend(renumbered(&more.train));
        manifest.test.extend(renumbered(&more.test));
        manifest.train_rows += more.train_rows;
        manifest.test_rows += more.test_rows;
        manifest.left_out.extend(more.left_out);
    }
    manifest.dataset = (!names.is_empty()).then(|| names.join(" + "));
    manifest.train.sort();
    manifest.test.sort();
    let model = manifest.model.clone();
    Ok((manifest, Box::new(JoinedSource::new(sources, &places, model))))
}

fn check_together(sets: &[NamedDataset]) -> Result<()> {
    for (at, set) in sets.iter().enumerate() {
        for earlier in &sets[..at] {
            check_pair(set, earlier)?;
        }
    }
    Ok(())
}

fn check_pair(set: &NamedDataset, earlier: &NamedDataset) -> Result<()> {
    check_same_model(&set.folder, &set.manifest.model, &earlier.manifest.model)?;
    let other = earlier.folder.display();
    if set.manifest.source == earlier.manifest.source {
        return set.refuse(format!("it is of the same traces as {other}"), "name each folder of traces once");
    }
    if set.problems_of() != earlier.problems_of() {
        return Ok(());
    }
    check_same_problems(set, earlier)?;
    let problems = |ids: &[TraceId]| ids.iter().map(|id| id.problem).collect::<BTreeSet<usize>>();
    let (train, test) = (problems(&set.manifest.train), problems(&set.manifest.test));
    let (earlier_train, earlier_test) = (problems(&earlier.manifest.train), problems(&earlier.manifest.test));
    if let Some(problem) = train.intersection(&earlier_test).chain(test.intersection(&earlier_train)).next() {
        let what = format!("problem {problem} trains on one side and tests on the other, in {other}");
        return set.refuse(what, "prepare both with the same problems, --seed and --split");
    }
    let run = |set: &NamedDataset| RunConfig::load(&set.manifest.source).ok();
    let same_run = run(set).zip(run(earlier)).is_some_and(|(a, b)| a.same_run(&b).is_ok());
    let all =
        |set: &NamedDataset| set.manifest.train.iter().chain(&set.manifest.test).copied().collect::<BTreeSet<_>>();
    match all(set).intersection(&all(earlier)).next().filter(|_| same_run) {
        Some(id) => set.refuse(format!("{id} of the same run is in {other} as well"), "name each run or shard once"),
        None => Ok(()),
    }
}

/// Why a thought does not train: its problem tests under another data set's name.
pub const TESTED_ELSEWHERE: &str = "its problem tests in another of the data sets";

/// Problems that have the same words under the names of different data sets: what one of them tests, the others do not train
/// on.
fn leave_out_tested_elsewhere(sets: &mut [NamedDataset], sources: &[Box<dyn TraceSource>]) -> Result<()> {
    let names: Vec<String> = sets.iter().map(NamedDataset::problems_of).collect();
    if names.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    let mut texts = sources.iter().map(|source| Texts::new(&**source)).collect::<Vec<_>>();
    let mut tested: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (at, set) in sets.iter().enumerate() {
        for &id in &set.manifest.test {
            if let Some(text) = texts[at].of(id.problem)? {
                tested.entry(text).or_default().insert(&names[at]);
            }
        }
    }
    for (at, set) in sets.iter_mut().enumerate() {
        let mut kept = Vec::new();
        for id in std::mem::take(&mut set.manifest.train) {
            let by_others = |text: String| tested.get(&text).is_some_and(|by| by.iter().any(|name| *name != names[at]));
            if texts[at].of(id.problem)?.is_some_and(by_others) {
                let rows = sources[at].header(id).map_or(0, |it| it.thinking_rows);
                set.manifest.train_rows -= rows.min(set.manifest.train_rows);
                set.manifest.left_out.push(LeftOut { trace: id.to_string(), reason: TESTED_ELSEWHERE.into() });
            } else {
                kept.push(id);
            }
        }
        set.manifest.train = kept;
    }
    Ok(())
}

/// The words of a folder's problems, of which many generations ask in a row.
struct Texts<'a> {
    source: &'a dyn TraceSource,
    last: Option<(usize, Option<String>)>,
}

impl<'a> Texts<'a> {
    fn new(source: &'a dyn TraceSource) -> Self {
        Self { source, last: None }
    }

    /// Without spaces at the ends, which the Python scripts keep and `tpv generate` need not.
    fn of(&mut self, problem: usize) -> Result<Option<String>> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != problem) {
            let text = self.source.problem_text(problem)?.map(|text| text.trim().to_owned());
            self.last = Some((problem, text));
        }
        Ok(self.last.as_ref().and_then(|(_, text)| text.clone()))
    }
}

/// Two files of one name can hold different problems.
fn check_same_problems(set: &NamedDataset, earlier: &NamedDataset) -> Result<()> {
    let (ours, theirs) = (set.manifest.open_traces()?, earlier.manifest.open_traces()?);
    let problems = |source: &dyn TraceSource| source.headers().iter().map(|header| header.id.problem).collect();
    let (of_ours, of_theirs): (BTreeSet<usize>, BTreeSet<usize>) = (problems(&*ours), problems(&*theirs));
    for &problem in of_ours.intersection(&of_theirs) {
        let texts = ours.problem_text(problem)?.zip(theirs.problem_text(problem)?);
        if texts.is_some_and(|(our, their)| our.trim() != their.trim()) {
            let (name, other) = (set.problems_of(), earlier.folder.display());
            let what = format!("problem {problem} of its data set {name:?} is another one than in {other}");
            return set.refuse(what, "two data sets of one name: generate one again from a file of another name");
        }
    }
    Ok(())
}

/// Where the problems and generations of each set begin in the joined numbering.
struct Places {
    first_problem: Vec<usize>,
    /// For each set, the first generation of a problem that earlier sets hold as well.
    first_generation: Vec<BTreeMap<usize, usize>>,
}

impl Places {
    fn of(sets: &[NamedDataset], sources: &[Box<dyn TraceSource>]) -> Self {
        let mut places = Self { first_problem: Vec::new(), first_generation: Vec::new() };
        let (mut name, mut start, mut end) = (None, 0, 0);
        let mut next_generation: BTreeMap<usize, usize> = BTreeMap::new();
        for (set, source) in sets.iter().zip(sources) {
            if name.replace(set.problems_of()) != Some(set.problems_of()) {
                start = end;
                next_generation.clear();
            }
            places.first_problem.push(start);
            places.first_generation.push(next_generation.clone());
            let begun = next_generation.clone();
            for id in source.headers().iter().map(|header| header.id) {
                let first = begun.get(&id.problem).copied().unwrap_or(0);
                let next = next_generation.entry(id.problem).or_insert(0);
                *next = (*next).max(first + id.generation + 1);
                end = end.max(start + id.problem + 1);
            }
        }
        places
    }

    fn joined(&self, set: usize, id: TraceId) -> TraceId {
        let first_generation = self.first_generation[set].get(&id.problem).copied().unwrap_or(0);
        TraceId { problem: self.first_problem[set] + id.problem, generation: first_generation + id.generation }
    }
}

/// The traces of several folders under one numbering.
#[derive(Debug)]
struct JoinedSource {
    sources: Vec<Box<dyn TraceSource>>,
    model: ModelIdentity,
    headers: Vec<TraceHeader>,
    left_out: Vec<LeftOut>,
    /// Which source a trace is of, and what it is called there.
    origins: BTreeMap<TraceId, (usize, TraceId)>,
}

impl JoinedSource {
    fn new(sources: Vec<Box<dyn TraceSource>>, places: &Places, model: ModelIdentity) -> Self {
        let (mut headers, mut origins) = (Vec::new(), BTreeMap::new());
        for (number, source) in sources.iter().enumerate() {
            for header in source.headers() {
                let id = places.joined(number, header.id);
                origins.insert(id, (number, header.id));
                headers.push(TraceHeader { id, ..header.clone() });
            }
        }
        headers.sort_by_key(|header| header.id);
        let left_out = sources.iter().flat_map(|source| source.left_out().to_vec()).collect();
        Self { sources, model, headers, left_out, origins }
    }
}

impl TraceSource for JoinedSource {
    fn folder(&self) -> &Path {
        self.sources[0].folder()
    }

    fn model(&self) -> Option<&ModelIdentity> {
        Some(&self.model)
    }

    fn dataset(&self) -> Option<&str> {
        None
    }

    fn problem_text(&self, problem: usize) -> Result<Option<String>> {
        let first = TraceId { problem, generation: 0 };
        let found = self.origins.range(first..).next().filter(|(id, _)| id.problem == problem);
        found.map_or(Ok(None), |(_, (number, own))| self.sources[*number].problem_text(own.problem))
    }

    fn headers(&self) -> &[TraceHeader] {
        &self.headers
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn read_thinking(&self, id: TraceId, sink: &mut BlockSink<'_>) -> Result<()> {
        self.header(id)?;
        let (number, own) = self.origins[&id];
        self.sources[number].read_thinking(own, sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::SplitRecord;
    use crate::run::StatesDtype;
    use crate::states::States;
    use crate::trace::TraceStore;
    use crate::trace::{Generation, GenerationRecord, ProblemTraces};
    use tpv_core::phase::ThinkingMarkers;

    /// A run of two-token thoughts, one for each problem, whose states are `[marker, problem]`; prepared.
    fn set(folder: &Path, dataset: &str, seed: u64, train: &[usize], test: &[usize], marker: f32) -> NamedDataset {
        let model = ModelIdentity { name: "tiny".into(), hidden_size: 2, ..ModelIdentity::default() };
        let run =
            RunConfig { model, dataset: dataset.into(), seed, generations_per_problem: 1, ..RunConfig::default() };
        let mut store = TraceStore::create(folder, &run).unwrap();
        for &problem in train.iter().chain(test) {
            store.write(&traces(problem, &format!("{dataset} {problem}?"), marker)).unwrap();
        }
        let split = SplitRecord { method: "hash".into(), seed: 1, train_ratio: 0.8 };
        let manifest =
            DatasetManifest::new(&store, &ThinkingMarkers::default(), split, train, test, Vec::new()).unwrap();
        NamedDataset { folder: folder.into(), manifest }
    }

    fn traces(problem: usize, text: &str, marker: f32) -> ProblemTraces {
        let record = GenerationRecord::of_two_tokens();
        let states = States::in_memory(StatesDtype::F32, &[marker, problem as f32].repeat(2));
        ProblemTraces {
            problem,
            problem_text: text.into(),
            gold: None,
            prompt: "?".into(),
            prompt_token_ids: vec![0],
            generations: vec![Generation { record, token_ids: vec![1, 2], states }],
        }
    }

    fn first_state(source: &dyn TraceSource, id: TraceId) -> Vec<f32> {
        let mut first = Vec::new();
        source
            .read_thinking(id, &mut |block| {
                first.extend(block.iter().take(1).flat_map(|(_, state)| state.to_vec()));
                Ok(())
            })
            .unwrap();
        first
    }

    fn id(problem: usize, generation: usize) -> TraceId {
        TraceId { problem, generation }
    }

    #[test]
    fn sets_join_in_an_order_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let sets = || {
            vec![
                set(&at("a"), "maths", 1, &[0, 2], &[4], 1.0),
                set(&at("b"), "maths", 2, &[2, 3], &[4], 2.0),
                set(&at("c"), "zoo", 1, &[0], &[1], 3.0),
            ]
        };
        let (manifest, source) = open_datasets(sets()).unwrap();
        assert_eq!(manifest.train, [id(0, 0), id(2, 0), id(2, 1), id(3, 0), id(5, 0)]);
        assert_eq!(manifest.test, [id(4, 0), id(4, 1), id(6, 0)]);
        assert_eq!((manifest.train_rows, manifest.test_rows), (10, 6));
        assert_eq!(manifest.dataset.as_deref(), Some("maths + zoo"));
        assert_eq!(first_state(&*source, id(2, 0)), [1.0, 2.0]);
        assert_eq!(first_state(&*source, id(2, 1)), [2.0, 2.0]);
        assert_eq!(first_state(&*source, id(5, 0)), [3.0, 0.0]);
        assert_eq!(source.headers().len(), 8);
        let (reversed, _) = open_datasets(sets().into_iter().rev().collect()).unwrap();
        assert_eq!(reversed, manifest);
        let (alone, source) = open_datasets(sets().into_iter().take(1).collect()).unwrap();
        assert_eq!((alone.train.len(), source.folder()), (2, alone.source.as_path()));
    }

    #[test]
    fn what_one_set_tests_the_others_do_not_train_on() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let maths = set(&at("a"), "maths", 1, &[0, 2], &[4], 1.0);
        set(&at("b"), "copy", 1, &[7, 8], &[9], 2.0);
        // The same words as what is tested under the other name, and as what trains there.
        for (problem, text) in [(7, "maths 4?"), (8, "maths 0?")] {
            TraceStore::open(&at("b")).unwrap().write(&traces(problem, text, 2.0)).unwrap();
        }
        let store = TraceStore::open(&at("b")).unwrap();
        let split = SplitRecord { method: "hash".into(), seed: 1, train_ratio: 0.8 };
        let manifest =
            DatasetManifest::new(&store, &ThinkingMarkers::default(), split, &[7, 8], &[9], Vec::new()).unwrap();
        let copy = NamedDataset { folder: at("b"), manifest };
        let (manifest, _) = open_datasets(vec![maths, copy]).unwrap();
        assert_eq!(manifest.left_out, [LeftOut { trace: id(7, 0).to_string(), reason: TESTED_ELSEWHERE.into() }]);
        assert_eq!((manifest.train.len(), manifest.train_rows), (3, 6));
    }

    #[test]
    fn a_model_that_one_set_knows_is_that_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut sets = ["a", "b"].map(|name| set(&folder.path().join(name), name, 1, &[0], &[4], 1.0));
        sets[0].manifest.model =
            ModelIdentity { hidden_size: sets[1].manifest.model.hidden_size, ..ModelIdentity::default() };
        let known = ModelIdentity { fingerprint: "f".into(), ..sets[1].manifest.model.clone() };
        sets[1].manifest.model = known.clone();
        let (manifest, source) = open_datasets(sets.into()).unwrap();
        assert_eq!((&manifest.model, source.model()), (&known, Some(&known)));
        assert_eq!(source.problem_text(manifest.train[1].problem).unwrap().unwrap(), "b 0?");
    }

    #[test]
    fn what_does_not_belong_together_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let refused = |other: NamedDataset| {
            let sets = vec![set(&at("a"), "maths", 1, &[0, 2], &[4], 1.0), other];
            open_datasets(sets).unwrap_err().to_string()
        };
        let text = refused(set(&at("b"), "maths", 2, &[4], &[5], 1.0));
        assert!(text.contains("problem 4 trains on one side and tests on the other"), "{text}");
        let text = refused(set(&at("c"), "maths", 1, &[2], &[7], 1.0));
        assert!(text.contains("problem_2/generation_0 of the same run is in"), "{text}");
        let text = refused(set(&at("a"), "maths", 1, &[0, 2], &[4], 1.0));
        assert!(text.contains("it is of the same traces as"), "{text}");
        let namesake = set(&at("e"), "maths", 4, &[2, 4], &[5], 1.0);
        TraceStore::open(&at("e")).unwrap().write(&traces(2, "Why?", 1.0)).unwrap();
        let text = refused(namesake);
        assert!(text.contains("problem 2 of its data set \"maths\" is another one than in"), "{text}");
        let mut other = set(&at("d"), "maths", 3, &[6], &[7], 1.0);
        other.manifest.model.name = "huge".into();
        assert!(refused(other).contains("its states are of huge, those before it of tiny"));
    }
}
