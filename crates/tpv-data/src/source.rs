//! Traces as `prepare` and `train` see them, whoever recorded them.
//!
//! A trace is one generation of one problem. Its thinking has N tokens, `</think>` included; the state that predicts
//! the j-th of them has the label `j / N`. A source hands out headers without touching states, and the states of one
//! thought in blocks of rows, in order.

use crate::error::{DataError, Result};
use crate::tensors::Matrix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tpv_core::event::FinishReason;
use tpv_core::vector::ModelIdentity;

/// Why a trace whose states were not kept is left out.
pub const NO_STATES: &str = "no states were kept";

/// Rows that are handed out at a time.
pub const BLOCK_ROWS: usize = 256;

/// Names a trace within its folder; in files and messages `problem_<index>/generation_<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceId {
    /// The problem's index in its data set.
    pub problem: usize,
    /// The generation's number, from 0.
    pub generation: usize,
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "problem_{}/generation_{}", self.problem, self.generation)
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TraceId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.strip_prefix("problem_").and_then(|rest| rest.split_once("/generation_"));
        let numbers = parts.and_then(|(problem, generation)| Some((problem.parse().ok()?, generation.parse().ok()?)));
        let (problem, generation) = numbers.ok_or_else(|| format!("\"{text}\" does not name a trace"))?;
        Ok(Self { problem, generation })
    }
}

/// What is known about a trace without its states.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceHeader {
    /// Which trace.
    pub id: TraceId,
    /// Why it ended, if known.
    pub finish_reason: Option<FinishReason>,
    /// Generated tokens.
    pub generated_tokens: usize,
    /// N: thinking tokens, up to and including `</think>`.
    pub thinking_tokens: usize,
    /// Whether `</think>` came.
    pub thinking_ended: bool,
    /// j of the first thinking state that is kept, 1-based; 2 for traces of the Python scripts.
    pub first_position: usize,
    /// Thinking states that are kept.
    pub thinking_rows: usize,
    /// The answer found in the text, if it was looked for.
    pub answer: Option<String>,
    /// Whether that answer is right, if known.
    pub correct: Option<bool>,
}

impl TraceHeader {
    /// Why the trace cannot be labelled and fitted on; none where it can.
    pub fn unusable(&self) -> Option<&'static str> {
        match self {
            header if header.thinking_tokens == 0 => Some("no thinking"),
            header if !header.thinking_ended => Some(UNFINISHED),
            header if header.thinking_rows == 0 => Some(NO_STATES),
            _ => None,
        }
    }
}

/// Why a thought that was cut at the token limit is of no use.
pub const UNFINISHED: &str = "unfinished: no end of thinking within the token limit";

/// Some rows of final hidden states of one thought, in order.
#[derive(Debug, Clone, Copy)]
pub struct StateBlock<'a> {
    /// j of the first row, 1-based within the thinking.
    pub first_position: usize,
    /// Number of rows.
    pub rows: usize,
    /// `[rows, d]`, row-major.
    pub hidden_post_norm: &'a [f32],
}

impl<'a> StateBlock<'a> {
    /// The rows with their positions j.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &'a [f32])> + use<'a> {
        let width = self.hidden_post_norm.len().checked_div(self.rows).unwrap_or(1).max(1);
        (self.first_position..).zip(self.hidden_post_norm.chunks_exact(width))
    }
}

/// A trace, or what should have been some, that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which one, in the words of [`TraceId`], or the name of a file.
    pub trace: String,
    /// Why.
    pub reason: String,
}

/// How often each reason occurs.
pub fn count_reasons(left_out: &[LeftOut]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    left_out.iter().for_each(|it| *counts.entry(it.reason.clone()).or_insert(0) += 1);
    counts
}

/// Takes the blocks of a thought, in order.
pub type BlockSink<'a> = dyn FnMut(StateBlock<'_>) -> Result<()> + 'a;

/// A folder of traces.
pub trait TraceSource: fmt::Debug + Send + Sync {
    /// The folder.
    fn folder(&self) -> &Path;

    /// The model that made the traces, as far as the folder says; `None` in a folder of unknown width.
    fn model(&self) -> Option<&ModelIdentity>;

    /// The name of the data set, where the folder says so.
    fn dataset(&self) -> Option<&str>;

    /// The words of a problem, where the folder holds them.
    fn problem_text(&self, problem: usize) -> Result<Option<String>>;

    /// All sound traces, ordered by problem and generation.
    fn headers(&self) -> &[TraceHeader];

    /// What is in the folder but cannot be used.
    fn left_out(&self) -> &[LeftOut];

    /// Hands the thinking states of a trace to `sink`, in order, in blocks of at most [`BLOCK_ROWS`] rows.
    ///
    /// A state that is not a finite number is an error that names the file.
    fn read_thinking(&self, id: TraceId, sink: &mut BlockSink<'_>) -> Result<()>;

    /// Reads the thinking states of a trace and finds whether all are finite numbers: `Ok(Some(reason))` where not.
    fn not_finite(&self, id: TraceId) -> Result<Option<String>> {
        match self.read_thinking(id, &mut |_| Ok(())) {
            Ok(()) => Ok(None),
            Err(error @ DataError::Damaged { .. }) => Ok(Some(error.reason())),
            Err(error) => Err(error),
        }
    }

    /// The header of a trace.
    fn header(&self, id: TraceId) -> Result<&TraceHeader> {
        self.headers().iter().find(|header| header.id == id).ok_or_else(|| {
            DataError::missing(
                format!("{}: there is no trace {id}", self.folder().display()),
                "check that the folder is the one that was prepared, and prepare it again",
            )
        })
    }
}

/// Hands rows `start..end` of a matrix to `sink`; the first of them has the position `first_position`.
pub(crate) fn read_blocks(
    path: &Path,
    matrix: &Matrix<'_>,
    rows: std::ops::Range<usize>,
    first_position: usize,
    sink: &mut BlockSink<'_>,
) -> Result<()> {
    let mut states = Vec::with_capacity(BLOCK_ROWS.min(rows.len()) * matrix.columns);
    for start in rows.clone().step_by(BLOCK_ROWS) {
        let end = (start + BLOCK_ROWS).min(rows.end);
        matrix.read_rows(start, end, &mut states);
        if let Some(at) = states.iter().position(|value| !value.is_finite()) {
            return Err(not_finite(path, start + at / matrix.columns, states[at]));
        }
        let first_position = first_position + start - rows.start;
        sink(StateBlock { first_position, rows: end - start, hidden_post_norm: &states })?;
    }
    Ok(())
}

/// How the reason ends for which a trace is left out whose states are not all finite.
pub const NOT_FINITE: &str = "not a finite number";

fn not_finite(path: &Path, row: usize, value: f32) -> DataError {
    DataError::damaged(
        path,
        format!("the state in row {row} holds {value}, {NOT_FINITE}"),
        "generate it again, with f32 states if the model's exceed the range of f16",
    )
}

/// Splits `<prefix><number><suffix>` names of a folder's entries, ordered by number.
pub(crate) fn numbered_entries(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<(usize, PathBuf)>> {
    let mut found: Vec<(usize, PathBuf)> =
        entries(folder)?.into_iter().filter_map(|path| Some((number(&path, prefix, suffix)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Folders in a folder whose names begin with the prefix and do not go on as those of [`numbered_entries`], ordered.
pub(crate) fn misnamed_entries(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let is_prefixed = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let is_misnamed = |path: &PathBuf| is_prefixed(path) && number(path, prefix, "").is_none() && path.is_dir();
    let mut found: Vec<PathBuf> = entries(folder)?.into_iter().filter(is_misnamed).collect();
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).and_then(|entries| entries.map(|it| it.map(|it| it.path())).collect());
    entries.map_err(|source| DataError::io(folder, "list the folder", source))
}

/// The number in an entry's name, as this program and the scripts write it: `problem_01` is something else.
fn number(path: &Path, prefix: &str, suffix: &str) -> Option<usize> {
    let digits = path.file_name()?.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
    digits.parse().ok().filter(|number: &usize| number.to_string() == digits)
}
