//! Stored states of the thinking on their way into sums and through heads.

use anyhow::{Context, Result};
use tpv_core::gram::{GramAccumulator, log_remaining_labels, progress_labels};
use tpv_core::reading::{HeadTrace, HeadValues, TokenTimes};
use tpv_core::vector::ProgressVector;
use tpv_data::source::{TraceId, TraceSource};

/// Adds the thinking states of one trace, with both targets, to the sums.
pub fn add_trace(source: &dyn TraceSource, id: TraceId, sums: &mut GramAccumulator) -> Result<()> {
    let total = source.header(id)?.thinking_tokens;
    let (progress, remaining) = (progress_labels(total), log_remaining_labels(total));
    let mut refused = None;
    source.read_thinking(id, &mut |block| {
        let rows = block.first_position - 1..block.first_position - 1 + block.rows;
        if let Err(error) = sums.add_rows(block.hidden_post_norm, &[&progress[rows.clone()], &remaining[rows]]) {
            refused.get_or_insert(error);
        }
        Ok(())
    })?;
    refused.map_or(Ok(()), Err).with_context(|| format!("trace {id}"))
}

/// What each vector's heads read along one thought, in one pass over its states. NaN where a state was not kept.
pub fn head_traces(source: &dyn TraceSource, id: TraceId, vectors: &[&ProgressVector]) -> Result<Vec<HeadTrace>> {
    let header = source.header(id)?;
    let nothing = HeadValues { theta: f32::NAN, progress: f32::NAN, log_remaining: f32::NAN };
    let empty = HeadTrace {
        problem: id.problem,
        values: vec![nothing; header.first_position.saturating_sub(1)],
        thinking_tokens: header.thinking_tokens,
        times: TokenTimes::default(),
    };
    let mut traces = vec![empty; vectors.len()];
    source.read_thinking(id, &mut |block| {
        for (_, state) in block.iter() {
            for (trace, vector) in traces.iter_mut().zip(vectors) {
                trace.values.push(HeadValues::of_state(vector, state));
            }
        }
        Ok(())
    })?;
    Ok(traces)
}
