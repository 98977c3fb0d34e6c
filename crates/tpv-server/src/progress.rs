//! The `tpv` object of a stream: what a [`TokenEvent`] says about progress, with seconds beside tokens.

use serde_json::{Value, json};
use tpv_core::event::{EVENT_VERSION, FinishEvent, TokenEvent};
use tpv_core::reading::Estimate;

/// Follows one sample and writes its `tpv` objects.
#[derive(Debug, Clone, Default)]
pub struct ProgressWriter {
    alpha_sum: f64,
    alpha_max: f32,
    before_end: Option<f32>,
}

impl ProgressWriter {
    /// Takes every event of the sample in order.
    pub fn push(&mut self, event: &TokenEvent) {
        self.alpha_sum += f64::from(event.alpha);
        if event.alpha.abs() > self.alpha_max.abs() {
            self.alpha_max = event.alpha;
        }
        if let Some(progress) = event.reading.and_then(|reading| reading.progress).filter(|&progress| progress < 1.0) {
            self.before_end = Some(progress);
        }
    }

    /// The last progress that was read before `</think>`.
    pub fn progress_before_end(&self) -> Option<f32> {
        self.before_end
    }

    /// The object for this token.
    pub fn token(event: &TokenEvent) -> Value {
        let reading = event.reading.unwrap_or_default();
        let remaining = reading.remaining_tokens;
        json!({
            "version": EVENT_VERSION,
            "index": event.index,
            "phase": event.phase,
            "progress": reading.progress.map(rounded),
            "raw": reading.progress_raw.map(rounded),
            "remaining_tokens": remaining.map(estimate),
            "remaining_secs": event.remaining_secs.map(estimate),
            "thinking_tokens": event.thinking_tokens,
            "alpha": plain(event.alpha),
            "verdict": reading.verdict,
            "forced": event.forced,
            "elapsed_secs": rounded(event.elapsed_secs as f32),
            "tokens_per_sec": event.tokens_per_sec.map(rounded),
        })
    }

    /// The object for the end.
    pub fn summary(&self, event: &FinishEvent) -> Value {
        let tokens = event.thinking_tokens.max(1);
        json!({
            "version": EVENT_VERSION,
            "summary": {
                "thinking_tokens": event.thinking_tokens,
                "generated_tokens": event.generated_tokens,
                "prompt_tokens": event.prompt_tokens,
                "thinking_ended": event.thinking_ended,
                "thinking_secs": rounded(event.thinking_secs as f32),
                "elapsed_secs": rounded(event.elapsed_secs as f32),
                "progress_before_end": self.before_end.map(rounded),
                "alpha_mean": rounded((self.alpha_sum / f64::from(tokens)) as f32),
                "alpha_strongest": plain(self.alpha_max),
            },
        })
    }
}

fn estimate(estimate: Estimate) -> Value {
    let Estimate { value, low, high } = estimate;
    json!({ "value": rounded(value), "low": rounded(low), "high": rounded(high) })
}

/// The number as it would be written, 0.6 rather than 0.6000000238418579.
pub fn plain(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Four decimals are more than any reading is good for.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}
