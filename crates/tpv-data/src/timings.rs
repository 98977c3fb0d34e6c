//! The log of times beside the traces, `timings.jsonl`: one JSON object for each problem, in the order in which they ended.
//!
//! Times differ from run to run, so they lie apart from the traces, which are reproducible to the byte. They are a log, not
//! data that anything depends on: a line that a kill has torn is skipped, and its thoughts simply have no times.

use crate::atomic::append_line;
use crate::error::{DataError, Result};
use crate::files;
use crate::source::TraceId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use tpv_core::event::FinishEvent;
use tpv_core::reading::TokenTimes;

/// The log's name in a folder of traces.
pub const TIMINGS_FILE: &str = "timings.jsonl";

/// The times of one problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemTimes {
    /// The problem's index in its data set.
    pub problem: usize,
    /// Its generations, in the order in which they ended.
    pub generations: Vec<TraceTimes>,
}

/// The times of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceTimes {
    /// The generation's number.
    #[serde(default)]
    pub generation: usize,
    /// How it ended, and after how long.
    #[serde(flatten)]
    pub finish: FinishEvent,
    /// When each token of the thinking came, in seconds since the prompt was submitted, to the microsecond.
    #[serde(default)]
    pub thinking_token_secs: Vec<f64>,
}

impl TraceTimes {
    /// The times of a generation that has ended.
    pub fn new(generation: usize, finish: FinishEvent, thinking_token_secs: Vec<f64>) -> Self {
        let to_microseconds = |secs: f64| (1e6 * secs).round() / 1e6;
        let thinking_token_secs = thinking_token_secs.into_iter().map(to_microseconds).collect();
        Self { generation, finish, thinking_token_secs }
    }
}

impl ProblemTimes {
    /// Adds a line to the log of a folder.
    pub fn append(&self, folder: &Path) -> Result<()> {
        let line = serde_json::to_string(self).expect("a record of times is plain data and becomes JSON");
        append_line(&folder.join(TIMINGS_FILE), &line)
    }
}

/// When the tokens of each thought came, as far as the folder's log says; of a problem that was made again, the last time.
/// Thoughts that had to wait for KV memory have no times: how long they waited says nothing of their steps.
pub fn token_times(folder: &Path) -> Result<BTreeMap<TraceId, TokenTimes>> {
    let path = folder.join(TIMINGS_FILE);
    let text = match files::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(DataError::io(&path, "read the file", error)),
    };
    let problems = text.lines().filter_map(|line| serde_json::from_str::<ProblemTimes>(line).ok());
    let times = problems.flat_map(|ProblemTimes { problem, generations }| {
        let of = move |it: TraceTimes| {
            let TraceTimes { generation, finish, thinking_token_secs: elapsed_secs } = it;
            let (prompt_tokens, step_growth) = (finish.prompt_tokens as usize, finish.step_growth);
            let elapsed_secs = if finish.paused_secs > 0.0 { Vec::new() } else { elapsed_secs };
            (TraceId { problem, generation }, TokenTimes { elapsed_secs, prompt_tokens, step_growth })
        };
        generations.into_iter().map(of)
    });
    Ok(times.filter(|(_, times)| !times.elapsed_secs.is_empty() && is_a_course(&times.elapsed_secs)).collect())
}

/// The longest time that a thought may take, ten years.
const MOST_SECS: f64 = 3.2e8;

/// Whether times ascend from 0 on.
fn is_a_course(secs: &[f64]) -> bool {
    let bounded = secs.iter().all(|secs| (0.0..MOST_SECS).contains(secs));
    bounded && secs.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpv_core::event::FinishReason;

    fn times(problem: usize, secs: &[&[f64]]) -> ProblemTimes {
        let finish = FinishEvent { prompt_tokens: 7, step_growth: 0.5, ..FinishEvent::empty(FinishReason::Stop) };
        let of = |(generation, secs): (usize, &&[f64])| TraceTimes::new(generation, finish.clone(), secs.to_vec());
        ProblemTimes { problem, generations: secs.iter().enumerate().map(of).collect() }
    }

    #[test]
    fn what_is_logged_is_read_and_torn_lines_are_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || token_times(folder.path()).expect("readable");
        assert_eq!(read(), BTreeMap::new(), "no log, no times");
        times(3, &[&[0.1, 0.2000004], &[]]).append(folder.path()).expect("a line");
        append_line(&folder.path().join(TIMINGS_FILE), "{\"problem\": 4, \"gener").expect("a line");
        times(5, &[&[9.0]]).append(folder.path()).expect("a line");
        times(5, &[&[0.5]]).append(folder.path()).expect("a line");
        let mut waited = times(9, &[&[0.1, 0.2]]);
        waited.generations[0].finish.paused_secs = 0.05;
        waited.append(folder.path()).expect("a line");
        for (problem, damaged) in [(6, [0.1, 1e39]), (7, [0.2, 0.1]), (8, [-1.0, 2.0])] {
            times(problem, &[&damaged]).append(folder.path()).expect("a line");
        }
        let of = |problem, elapsed_secs| {
            (TraceId { problem, generation: 0 }, TokenTimes { elapsed_secs, prompt_tokens: 7, step_growth: 0.5 })
        };
        assert_eq!(read(), BTreeMap::from([of(3, vec![0.1, 0.2]), of(5, vec![0.5])]));
    }
}
