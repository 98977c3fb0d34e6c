//! The trace store: a folder with `run.json` and one `problem_<index>.safetensors` for each problem.
//!
//! A problem's file holds, for each generation g, `generation_<g>.hidden_states` `[S, d]` (f16 or f32) and
//! `generation_<g>.token_ids` `[T]` (u32), T generated tokens. Row i is the final hidden state that predicts token
//! `first_state + i`; normally `first_state` is 0 and S = T, and a run that keeps the thinking alone has the S = N
//! states of the thinking. The metadata entry `tpv_trace` is a JSON document, [`ProblemRecord`]: prompt, texts, finish
//! reasons, thinking lengths, answers.
//!
//! Files are written all or nothing and hold no times (those go to `timings.jsonl`), so what is there is complete, a
//! run can be resumed, parts of a run made on several machines can share a folder, and an interrupted run leaves the
//! same bytes as an uninterrupted one.

use crate::error::{DataError, Result};
use crate::identity::display_name;
use crate::reference::ReferenceFolder;
use crate::run::{RUN_FILE, RunConfig, check_format};
use crate::source::{BlockSink, LeftOut, TraceHeader, TraceId, TraceSource, numbered_entries, read_blocks};
use crate::states::States;
use crate::tensors::{NamedArray, TensorFile, Values, write_tensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tpv_core::event::FinishReason;
use tpv_core::vector::ModelIdentity;

/// Name of the format of a problem's file.
pub const TRACE_FORMAT: &str = "tpv-trace";
/// Version of the format of a problem's file.
pub const TRACE_VERSION: u32 = 1;

const METADATA_KEY: &str = "tpv_trace";

/// What a problem's file says about the problem and each generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemRecord {
    /// [`TRACE_FORMAT`]
    pub format: String,
    /// [`TRACE_VERSION`]
    pub version: u32,
    /// The problem's index in its data set.
    pub problem: usize,
    /// The problem as the data set words it.
    pub problem_text: String,
    /// The gold answer, if the data set has one.
    pub gold: Option<String>,
    /// The prompt that the model saw, as text.
    pub prompt: String,
    /// The prompt that the model saw, as token ids.
    pub prompt_token_ids: Vec<u32>,
    /// The generations, in order.
    pub generations: Vec<GenerationRecord>,
}

/// What is recorded about one generation beside its tokens and states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationRecord {
    /// The generated text, special tokens included.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The 0-based generated token that the first kept state predicts.
    pub first_state: usize,
    /// The 0-based generated token that is the first of the thinking.
    pub thinking_start: usize,
    /// Thinking tokens, up to and including `</think>`.
    pub thinking_tokens: usize,
    /// Whether `</think>` came.
    pub thinking_ended: bool,
    /// The answer found in the text, if it was looked for.
    pub answer: Option<String>,
    /// Whether that answer is right, if known.
    pub correct: Option<bool>,
}

#[cfg(test)]
impl GenerationRecord {
    /// A finished thought of two tokens without an answer.
    pub(crate) fn of_two_tokens() -> Self {
        Self {
            text: String::new(),
            finish_reason: FinishReason::Stop,
            first_state: 0,
            thinking_start: 0,
            thinking_tokens: 2,
            thinking_ended: true,
            answer: None,
            correct: None,
        }
    }
}

/// One finished generation, to be written.
#[derive(Debug, Clone)]
pub struct Generation {
    /// What is recorded about it.
    pub record: GenerationRecord,
    /// The generated tokens.
    pub token_ids: Vec<u32>,
    /// The kept states, `[S, d]`.
    pub states: States,
}

/// One problem with all its generations, to be written.
#[derive(Debug, Clone)]
pub struct ProblemTraces {
    /// The problem's index in its data set.
    pub problem: usize,
    /// The problem as the data set words it.
    pub problem_text: String,
    /// The gold answer, if the data set has one.
    pub gold: Option<String>,
    /// The prompt that the model saw, as text.
    pub prompt: String,
    /// The prompt that the model saw, as token ids.
    pub prompt_token_ids: Vec<u32>,
    /// Its generations, in order.
    pub generations: Vec<Generation>,
}

/// A folder of traces of one run.
#[derive(Debug)]
pub struct TraceStore {
    folder: PathBuf,
    run: RunConfig,
    headers: Vec<TraceHeader>,
    left_out: Vec<LeftOut>,
}

impl TraceStore {
    /// Starts a run in a folder, or goes on with the one that is there if it is the same.
    pub fn create(folder: &Path, run: &RunConfig) -> Result<Self> {
        // Two that start at once agree on the file of whoever was first.
        let has_run = || folder.join(RUN_FILE).exists();
        if !has_run() {
            let has_traces = folder.is_dir() && !numbered_entries(folder, "problem_", ".safetensors")?.is_empty();
            if has_traces && !has_run() {
                let what = format!("the folder has traces but no {RUN_FILE} that says how they were made");
                return Err(DataError::mismatch(folder, what, "put it back, or choose another folder"));
            }
            if ReferenceFolder::is_one(folder)? && !has_run() {
                let what = "the folder has traces of the Python scripts".to_owned();
                return Err(DataError::mismatch(folder, what, "choose another folder; `tpv prepare` reads this one"));
            }
            run.save_once(folder)?;
        }
        Self::open_same(folder, run)
    }

    /// Opens the folder of a run that is the same.
    pub fn open_same(folder: &Path, run: &RunConfig) -> Result<Self> {
        let store = Self::open(folder)?;
        refuse_another_run(&folder.join(RUN_FILE), &store.run, run)?;
        Ok(store)
    }

    /// Opens the folder of a run; damaged files are listed in [`TraceSource::left_out`].
    pub fn open(folder: &Path) -> Result<Self> {
        let run = RunConfig::load(folder)?;
        let mut store = Self { folder: folder.into(), run, headers: Vec::new(), left_out: Vec::new() };
        for (problem, path) in numbered_entries(folder, "problem_", ".safetensors")? {
            store.add_file(problem, &path);
        }
        Ok(store)
    }

    /// What the run was asked for.
    pub fn run(&self) -> &RunConfig {
        &self.run
    }

    /// Whether all generations of a problem are there.
    pub fn is_complete(&self, problem: usize) -> bool {
        let found = self.of_problem(problem).count();
        found > 0 && found == self.run.generations_per_problem
    }

    /// Whether the states of all thinking tokens of a problem are there.
    pub fn has_states(&self, problem: usize) -> bool {
        self.of_problem(problem).all(|header| header.thinking_rows == header.thinking_tokens)
    }

    /// The traces of a problem.
    pub fn of_problem(&self, problem: usize) -> impl Iterator<Item = &TraceHeader> {
        let start = self.headers.partition_point(|header| header.id.problem < problem);
        self.headers[start..].iter().take_while(move |header| header.id.problem == problem)
    }

    /// Writes the file of a problem again without its states; texts and tokens stay.
    pub fn drop_states(&mut self, problem: usize) -> Result<()> {
        let record = self.record(problem)?;
        let without_states = |(generation, record)| {
            let token_ids = self.token_ids(TraceId { problem, generation })?;
            Ok(Generation { record, token_ids, states: States::none(self.run.states_dtype) })
        };
        let generations = record.generations.into_iter().enumerate().map(without_states).collect::<Result<_>>()?;
        self.write(&ProblemTraces {
            problem,
            problem_text: record.problem_text,
            gold: record.gold,
            prompt: record.prompt,
            prompt_token_ids: record.prompt_token_ids,
            generations,
        })?;
        Ok(())
    }

    /// Writes the file of a problem, all or nothing.
    pub fn write(&mut self, traces: &ProblemTraces) -> Result<PathBuf> {
        let path = self.problem_path(traces.problem);
        let width = self.run.model.hidden_size;
        let record = ProblemRecord::from(traces);
        let arrays: Vec<_> = traces.generations.iter().enumerate().flat_map(|(g, it)| it.arrays(g, width)).collect();
        write_tensors(&path, METADATA_KEY, &record, &arrays)?;
        self.headers.retain(|header| header.id.problem != traces.problem);
        self.add_file(traces.problem, &path);
        Ok(path)
    }

    /// Reads what is recorded about a problem and its generations.
    pub fn record(&self, problem: usize) -> Result<ProblemRecord> {
        read_record(&TensorFile::open(&self.problem_path(problem))?)
    }

    /// Reads the generated tokens of a trace.
    pub fn token_ids(&self, id: TraceId) -> Result<Vec<u32>> {
        TensorFile::open(&self.problem_path(id.problem))?.vector_u32(&tokens_name(id.generation))
    }

    /// The file of a problem.
    pub fn problem_path(&self, problem: usize) -> PathBuf {
        self.folder.join(format!("problem_{problem}.safetensors"))
    }

    fn add_file(&mut self, problem: usize, path: &Path) {
        match read_headers(problem, path, self.run.model.hidden_size) {
            Ok(headers) => self.headers.extend(headers),
            Err(error) => {
                let trace = path.file_name().unwrap_or_default().to_string_lossy().into();
                self.left_out.push(LeftOut { trace, reason: error.reason() });
            }
        }
        self.headers.sort_by_key(|header| header.id);
    }
}

impl TraceSource for TraceStore {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn model(&self) -> Option<&ModelIdentity> {
        Some(&self.run.model)
    }

    fn dataset(&self) -> Option<&str> {
        Some(&self.run.dataset)
    }

    fn problem_text(&self, problem: usize) -> Result<Option<String>> {
        Ok(Some(self.record(problem)?.problem_text))
    }

    fn headers(&self) -> &[TraceHeader] {
        &self.headers
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn read_thinking(&self, id: TraceId, sink: &mut BlockSink<'_>) -> Result<()> {
        let header = self.header(id)?;
        let path = self.problem_path(id.problem);
        let file = TensorFile::open(&path)?;
        let record = read_record(&file)?;
        let states = file.matrix(&states_name(id.generation))?;
        let rows = record.generations.get(id.generation).and_then(|it| it.thinking_rows(states.rows));
        let rows = rows.filter(|rows| rows.len() == header.thinking_rows);
        let rows = rows.ok_or_else(|| {
            let next_step = "run one command at a time in a folder; the same command goes on";
            DataError::damaged(&path, "another process has changed the file since it was opened", next_step)
        })?;
        read_blocks(&path, &states, rows, header.first_position, sink)
    }
}

impl Generation {
    fn arrays(&self, generation: usize, width: usize) -> [NamedArray<'_>; 2] {
        let states = Values::States(&self.states);
        let rows = states.len().checked_div(width).unwrap_or(0);
        [
            NamedArray::matrix(states_name(generation), rows, width, states),
            NamedArray::vector(tokens_name(generation), Values::U32(&self.token_ids)),
        ]
    }
}

impl GenerationRecord {
    /// The rows of thinking among `states` kept states; `None` if the numbers contradict each other.
    fn thinking_rows(&self, states: usize) -> Option<Range<usize>> {
        let thinking_end = self.thinking_start.checked_add(self.thinking_tokens)?;
        let states_end = self.first_state.checked_add(states)?;
        let start = self.thinking_start.max(self.first_state).min(states_end);
        let end = thinking_end.min(states_end).max(start);
        Some(start - self.first_state..end - self.first_state)
    }
}

impl From<&ProblemTraces> for ProblemRecord {
    fn from(traces: &ProblemTraces) -> Self {
        Self {
            format: TRACE_FORMAT.into(),
            version: TRACE_VERSION,
            problem: traces.problem,
            problem_text: traces.problem_text.clone(),
            gold: traces.gold.clone(),
            prompt: traces.prompt.clone(),
            prompt_token_ids: traces.prompt_token_ids.clone(),
            generations: traces.generations.iter().map(|generation| generation.record.clone()).collect(),
        }
    }
}

fn states_name(generation: usize) -> String {
    format!("generation_{generation}.hidden_states")
}

fn tokens_name(generation: usize) -> String {
    format!("generation_{generation}.token_ids")
}

fn refuse_another_run(path: &Path, there: &RunConfig, wanted: &RunConfig) -> Result<()> {
    there.same_run(wanted).map_err(|difference| {
        if difference.key == "dataset_fingerprint" {
            let what = format!(
                "the folder holds a run of another data set named {}: its first problem, or its answer, was another one",
                there.dataset
            );
            return DataError::mismatch(path, what, "give the data set of that run, or choose another folder");
        }
        if difference.key == "model.fingerprint" {
            let what = format!("the folder holds a run of another model ({})", display_name(&there.model));
            let next_step = "choose another folder; where it is the same model, the run was made by a version that told models apart by less";
            return DataError::mismatch(path, what, next_step);
        }
        let what = format!(
            "the folder holds another run: its {} is {}, now {} was asked for",
            difference.key, difference.here, difference.other
        );
        DataError::mismatch(path, what, "give the same value to go on with it, or choose another folder")
    })
}

fn read_record(file: &TensorFile) -> Result<ProblemRecord> {
    let value: Value = file.about(METADATA_KEY, "trace")?;
    check_format(&value, TRACE_FORMAT, TRACE_VERSION).map_err(|what| file.damaged(what))?;
    serde_json::from_value(value).map_err(|error| file.damaged(format!("its metadata is damaged: {error}")))
}

fn read_headers(problem: usize, path: &Path, width: usize) -> Result<Vec<TraceHeader>> {
    let file = TensorFile::open(path)?;
    let record = read_record(&file)?;
    if record.problem != problem {
        return Err(file.damaged(format!("it holds problem {}, its name says {problem}", record.problem)));
    }
    let generations = record.generations.iter().enumerate();
    generations.map(|(generation, it)| read_header(&file, TraceId { problem, generation }, it, width)).collect()
}

fn read_header(file: &TensorFile, id: TraceId, record: &GenerationRecord, width: usize) -> Result<TraceHeader> {
    let states = file.matrix(&states_name(id.generation))?;
    if states.columns != width {
        return Err(file.damaged(format!("{id} has states of width {}, the run says {width}", states.columns)));
    }
    let tokens = file.vector_u32(&tokens_name(id.generation))?.len();
    let contradiction = || file.damaged(format!("the lengths of {id} contradict each other"));
    let rows = record.thinking_rows(states.rows).ok_or_else(contradiction)?;
    let states_fit = record.first_state + states.rows <= tokens;
    let thinking_fits = record.thinking_start + record.thinking_tokens <= tokens;
    if !states_fit || !thinking_fits {
        return Err(contradiction());
    }
    Ok(TraceHeader {
        id,
        finish_reason: Some(record.finish_reason),
        generated_tokens: tokens,
        thinking_tokens: record.thinking_tokens,
        thinking_ended: record.thinking_ended,
        first_position: (record.first_state + rows.start + 1).saturating_sub(record.thinking_start),
        thinking_rows: rows.len(),
        answer: record.answer.clone(),
        correct: record.correct,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::StatesDtype;
    use crate::source::BLOCK_ROWS;
    use crate::states::Spill;
    use crate::tensors::hostile_copies;
    use std::fs;

    const WIDTH: usize = 3;

    fn run() -> RunConfig {
        let model = ModelIdentity { name: "tiny".into(), hidden_size: WIDTH, ..ModelIdentity::default() };
        RunConfig { model, generations_per_problem: 2, ..RunConfig::default() }
    }

    /// State i is `[i, i, i]`.
    fn states(dtype: StatesDtype, rows: Range<usize>) -> States {
        States::in_memory(dtype, &rows.flat_map(|row| [row as f32; WIDTH]).collect::<Vec<_>>())
    }

    /// A generation of `tokens` tokens of which the first `thinking` think; state i is `[i, i, i]`.
    fn generation(tokens: usize, thinking: usize, ended: bool) -> Generation {
        Generation {
            record: GenerationRecord {
                text: "Hm.</think>2".into(),
                finish_reason: FinishReason::Stop,
                first_state: 0,
                thinking_start: 0,
                thinking_tokens: thinking,
                thinking_ended: ended,
                answer: Some("2".into()),
                correct: Some(true),
            },
            token_ids: (0..tokens as u32).collect(),
            states: states(StatesDtype::F16, 0..tokens),
        }
    }

    fn problem(problem: usize, generations: Vec<Generation>) -> ProblemTraces {
        ProblemTraces {
            problem,
            problem_text: "1+1?".into(),
            gold: Some("2".into()),
            prompt: "1+1?\n<think>\n".into(),
            prompt_token_ids: vec![5, 6],
            generations,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn thinking(store: &TraceStore, id: TraceId) -> Result<Vec<(usize, f32)>> {
        let mut rows = Vec::new();
        store.read_thinking(id, &mut |block| {
            assert!(block.rows <= BLOCK_ROWS && block.hidden_post_norm.len() == block.rows * WIDTH);
            rows.extend(block.iter().map(|(position, state)| (position, state[WIDTH - 1])));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn states_come_back_with_their_positions() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        store.write(&problem(7, vec![generation(700, 600, true), generation(5, 2, true)])).unwrap();
        let store = TraceStore::open(folder.path()).unwrap();
        assert_eq!(store.headers().len(), 2);
        assert!(store.is_complete(7) && !store.is_complete(6));
        let rows = thinking(&store, TraceId { problem: 7, generation: 0 }).unwrap();
        assert_eq!(rows, (0..600).map(|i| (i + 1, i as f32)).collect::<Vec<_>>());
        let header = &store.headers()[1];
        assert_eq!((header.thinking_tokens, header.generated_tokens, header.thinking_rows), (2, 5, 2));
        assert_eq!(store.token_ids(header.id).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(store.record(7).unwrap().gold.as_deref(), Some("2"));
    }

    #[test]
    fn a_thought_that_starts_late_and_keeps_only_its_own_states() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        let mut late = generation(10, 4, true);
        late.record.thinking_start = 3;
        let mut only = late.clone();
        only.record.first_state = 3;
        only.states = states(StatesDtype::F32, 3..7);
        store.write(&problem(0, vec![late, only])).unwrap();
        let expected = vec![(1, 3.0), (2, 4.0), (3, 5.0), (4, 6.0)];
        for generation in [0, 1] {
            assert_eq!(thinking(&store, TraceId { problem: 0, generation }).unwrap(), expected);
        }
    }

    #[test]
    fn dropped_states_leave_texts_and_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        store.write(&problem(7, vec![generation(9, 4, true), generation(5, 2, true)])).unwrap();
        let record = store.record(7).unwrap();
        assert!(store.has_states(7));
        store.drop_states(7).unwrap();
        assert!(store.is_complete(7) && !store.has_states(7));
        let store = TraceStore::open(folder.path()).unwrap();
        assert_eq!(store.record(7).unwrap(), record);
        let header = &store.headers()[0];
        assert_eq!((header.thinking_tokens, header.thinking_rows, header.generated_tokens), (4, 0, 9));
        assert_eq!(header.unusable(), Some(crate::source::NO_STATES));
        assert_eq!(store.token_ids(header.id).unwrap().len(), 9);
    }

    #[test]
    fn the_same_traces_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        let traces = problem(1, vec![generation(9, 4, true)]);
        let first = fs::read(store.write(&traces).unwrap()).unwrap();
        assert_eq!(first, fs::read(store.write(&traces).unwrap()).unwrap());
        assert_eq!(store.headers().len(), 1);
    }

    #[test]
    fn states_from_a_temporary_file_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let wide = ModelIdentity { hidden_size: 700, ..run().model };
        let mut store = TraceStore::create(folder.path(), &RunConfig { model: wide, ..run() }).unwrap();
        for dtype in [StatesDtype::F16, StatesDtype::F32] {
            let values: Vec<f32> = (0..40 * 700).map(|i| i as f32 * 0.37).collect();
            let mut traces = problem(1, vec![generation(40, 30, true), generation(2, 1, true)]);
            let log = Spill::new(folder.path()).log(dtype, 700);
            let lengths = [40, 2];
            let mut writers = lengths.map(|_| log.writer());
            for (row, state) in values.chunks_exact(700).enumerate() {
                for (writer, _) in writers.iter_mut().zip(lengths).filter(|(_, length)| row < *length) {
                    writer.push(state).unwrap();
                }
            }
            for (generation, mut writer) in traces.generations.iter_mut().zip(writers) {
                generation.states = writer.take();
            }
            assert!(log.bytes_in_file() > 0);
            let spilled = fs::read(store.write(&traces).unwrap()).unwrap();
            for (generation, length) in traces.generations.iter_mut().zip(lengths) {
                generation.states = States::in_memory(dtype, &values[..length * 700]);
            }
            assert!(spilled == fs::read(store.write(&traces).unwrap()).unwrap());
            assert_eq!(names(folder.path()), ["problem_1.safetensors", RUN_FILE], "nothing else is left");
        }
    }

    #[test]
    fn a_run_resumes_only_as_itself() {
        let folder = tempfile::tempdir().unwrap();
        TraceStore::create(folder.path(), &run()).unwrap();
        TraceStore::create(folder.path(), &run()).unwrap();
        let text = TraceStore::create(folder.path(), &RunConfig { seed: 7, ..run() }).unwrap_err().to_string();
        assert!(text.contains("run.json: the folder holds another run: its seed is 42, now 7 was asked for"), "{text}");
    }

    #[test]
    fn damaged_files_are_left_out_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        let path = store.write(&problem(0, vec![generation(9, 4, true)])).unwrap();
        let good = fs::read(&path).unwrap();
        let copies = hostile_copies(&good);
        for (index, (_, bytes)) in copies.iter().enumerate() {
            fs::write(store.problem_path(index + 1), bytes).unwrap();
        }
        fs::write(store.problem_path(99), &good).unwrap();
        let store = TraceStore::open(folder.path()).unwrap();
        assert_eq!(store.headers().len(), 1);
        assert_eq!(store.left_out().len(), copies.len() + 1);
        let last = store.left_out().last().unwrap();
        assert_eq!(last.trace, "problem_99.safetensors");
        assert_eq!(last.reason, "it holds problem 0, its name says 99");
    }

    #[test]
    fn contradicting_lengths_and_widths_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        let mut too_long = generation(4, 9, true);
        too_long.record.thinking_start = 1;
        let mut overflowing = generation(4, 2, true);
        overflowing.record.thinking_start = usize::MAX;
        let mut beyond = generation(4, 2, true);
        beyond.record.first_state = 2;
        for (index, bad) in [too_long, overflowing, beyond].into_iter().enumerate() {
            store.write(&problem(index, vec![bad])).unwrap();
        }
        assert_eq!(store.left_out().len(), 3);
        assert!(store.left_out().iter().all(|it| it.reason.contains("contradict")), "{:?}", store.left_out());

        let wide = RunConfig { model: ModelIdentity { hidden_size: 1, ..run().model }, ..run() };
        wide.save(folder.path()).unwrap();
        store.write(&problem(3, vec![generation(4, 2, true)])).unwrap();
        let store = TraceStore::create(folder.path(), &wide).unwrap();
        assert!(store.left_out()[3].reason.contains("width 3, the run says 1"), "{:?}", store.left_out());
    }

    #[test]
    fn states_that_are_not_numbers_are_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TraceStore::create(folder.path(), &run()).unwrap();
        for (index, bad) in [f32::NAN, f32::INFINITY].into_iter().enumerate() {
            let mut it = generation(4, 4, true);
            let values: Vec<f32> = (0..4 * WIDTH).map(|i| if i == 7 { bad } else { 0.5 }).collect();
            it.states = States::in_memory(StatesDtype::F32, &values);
            store.write(&problem(index, vec![it])).unwrap();
            let text = thinking(&store, TraceId { problem: index, generation: 0 }).unwrap_err().to_string();
            assert!(text.contains(&format!("problem_{index}.safetensors: the state in row 2 holds")), "{text}");
        }
    }

    #[test]
    fn a_trace_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = TraceStore::create(folder.path(), &run()).unwrap();
        let text = thinking(&store, TraceId { problem: 4, generation: 1 }).unwrap_err().to_string();
        assert!(text.contains("there is no trace problem_4/generation_1"), "{text}");
    }
}
