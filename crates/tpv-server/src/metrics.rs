//! Counters for Prometheus: vLLM's names behind the prefix `tpv_`, and those of the thinking.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::Phase;
use tpv_engine::decode::Decoder;

const LATENCY_SECS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const LENGTH_TOKENS: &[f64] = &[1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0];
const ALPHAS: &[f64] = &[-100.0, -50.0, -20.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0];
const SHARES: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
/// The words that vLLM has for the ends of a sample.
const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];
const FAILED: usize = 3;

/// Everything that is counted.
pub struct Metrics {
    running: AtomicUsize,
    waiting: AtomicUsize,
    kv_tokens: AtomicUsize,
    kv_capacity: AtomicUsize,
    preemptions: AtomicU64,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    thinking_tokens: AtomicU64,
    disconnects: AtomicU64,
    refused: AtomicU64,
    finished: [AtomicU64; REASONS.len()],
    first_token_secs: Histogram,
    between_tokens_secs: Histogram,
    request_secs: Histogram,
    prompt_length: Histogram,
    generation_length: Histogram,
    thinking_length: Histogram,
    alpha: Histogram,
    progress_at_think_end: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            kv_tokens: AtomicUsize::new(0),
            kv_capacity: AtomicUsize::new(0),
            preemptions: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            thinking_tokens: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            finished: Default::default(),
            first_token_secs: Histogram::new(LATENCY_SECS),
            between_tokens_secs: Histogram::new(LATENCY_SECS),
            request_secs: Histogram::new(LATENCY_SECS),
            prompt_length: Histogram::new(LENGTH_TOKENS),
            generation_length: Histogram::new(LENGTH_TOKENS),
            thinking_length: Histogram::new(LENGTH_TOKENS),
            alpha: Histogram::new(ALPHAS),
            progress_at_think_end: Histogram::new(SHARES),
        }
    }
}

impl Metrics {
    /// Notes what the decode loop holds: samples, KV tokens in use and in all, and how often samples made room for others.
    pub fn set_load(&self, decoder: &Decoder) {
        let waiting = decoder.samples_waiting() + decoder.samples_paused();
        self.running.store(decoder.samples_in_flight().saturating_sub(waiting), Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
        let (used, capacity) = decoder.kv_tokens();
        self.kv_tokens.store(used, Ordering::Relaxed);
        self.kv_capacity.store(capacity.unwrap_or(0), Ordering::Relaxed);
        self.preemptions.store(decoder.pauses(), Ordering::Relaxed);
    }

    /// Counts a token that came `since_last_secs` after the sample's last one; `None` for its first.
    pub fn token(&self, event: &TokenEvent, since_last_secs: Option<f64>) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        match since_last_secs {
            None => self.first_token_secs.observe(event.elapsed_secs),
            Some(secs) => self.between_tokens_secs.observe(secs),
        }
        if event.phase == Phase::Thinking {
            self.thinking_tokens.fetch_add(1, Ordering::Relaxed);
            self.alpha.observe(f64::from(event.alpha));
        }
    }

    /// Counts the end of a sample.
    pub fn finish(&self, event: &FinishEvent) {
        let place = match event.reason {
            FinishReason::Stop | FinishReason::StopText => 0,
            FinishReason::Length => 1,
            FinishReason::Cancelled => 2,
            FinishReason::Failed => FAILED,
        };
        self.finished[place].fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens.fetch_add(u64::from(event.prompt_tokens), Ordering::Relaxed);
        self.request_secs.observe(event.elapsed_secs);
        self.prompt_length.observe(f64::from(event.prompt_tokens));
        self.generation_length.observe(f64::from(event.generated_tokens));
        if event.thinking_ended {
            self.thinking_length.observe(f64::from(event.thinking_tokens));
        }
    }

    /// Counts a sample that was given up with the whole batch: nothing is known of its length and time.
    pub fn lose(&self) {
        self.finished[FAILED].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the last progress that was read before a thought ended.
    pub fn think_end(&self, progress: f32) {
        self.progress_at_think_end.observe(f64::from(progress));
    }

    /// Counts a client that left before its answer was complete.
    pub fn disconnect(&self) {
        self.disconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that got no room.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let gauges: [(&str, &str, f64); 3] = [
            (
                "num_requests_running",
                "Samples that generate or read their prompt.",
                self.running.load(Ordering::Relaxed) as f64,
            ),
            (
                "num_requests_waiting",
                "Samples that wait for a slot or for KV memory.",
                self.waiting.load(Ordering::Relaxed) as f64,
            ),
            ("kv_cache_usage_perc", "Share of the KV memory in use; 0 where it is unbounded.", self.kv_usage()),
        ];
        for (name, help, value) in gauges {
            line(&mut text, name, help, "gauge", value);
        }
        let counters = [
            ("prompt_tokens_total", "Prompt tokens of ended samples.", &self.prompt_tokens),
            ("generation_tokens_total", "Generated tokens.", &self.generation_tokens),
            ("thinking_tokens_total", "Generated tokens that were thinking.", &self.thinking_tokens),
            ("num_preemptions_total", "Times that a sample gave its KV memory up for others.", &self.preemptions),
            ("disconnects_total", "Clients that left before their answer was complete.", &self.disconnects),
            ("requests_refused_total", "Requests that got no room (429 and 503).", &self.refused),
        ];
        for (name, help, counter) in counters {
            line(&mut text, name, help, "counter", counter.load(Ordering::Relaxed) as f64);
        }
        self.render_reasons(&mut text);
        self.first_token_secs.render(&mut text, "time_to_first_token_seconds", "From submission to the first token.");
        self.between_tokens_secs.render(&mut text, "inter_token_latency_seconds", "Between a sample's tokens.");
        self.request_secs.render(&mut text, "e2e_request_latency_seconds", "From submission to the end.");
        self.prompt_length.render(&mut text, "request_prompt_tokens", "Prompt tokens of ended samples.");
        self.generation_length.render(&mut text, "request_generation_tokens", "Generated tokens of ended samples.");
        self.thinking_length.render(&mut text, "thought_length_tokens", "Thinking tokens of thoughts that ended.");
        self.alpha.render(&mut text, "alpha", "Alpha applied to thinking tokens.");
        self.progress_at_think_end.render(
            &mut text,
            "progress_at_think_end",
            "Last progress read before the thinking ended.",
        );
        text
    }

    fn kv_usage(&self) -> f64 {
        match self.kv_capacity.load(Ordering::Relaxed) {
            0 => 0.0,
            capacity => self.kv_tokens.load(Ordering::Relaxed) as f64 / capacity as f64,
        }
    }

    fn render_reasons(&self, text: &mut String) {
        *text +=
            "# HELP tpv_request_success_total Ended samples by reason.\n# TYPE tpv_request_success_total counter\n";
        for (name, counter) in REASONS.iter().zip(&self.finished) {
            let count = counter.load(Ordering::Relaxed);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "tpv_request_success_total{{finished_reason=\"{name}\"}} {count}");
        }
    }
}

fn line(text: &mut String, name: &str, help: &str, kind: &str, value: f64) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP tpv_{name} {help}\n# TYPE tpv_{name} {kind}\ntpv_{name} {value}");
}

/// Counts values in buckets.
struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Vec<AtomicU64>,
    /// In millionths, as two's complement: sums of alpha may be negative.
    sum_micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_micros: AtomicU64::new(0) }
    }

    fn observe(&self, value: f64) {
        let place = self.bounds.iter().position(|&bound| value <= bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(((value * 1e6) as i64).cast_unsigned(), Ordering::Relaxed);
    }

    fn render(&self, text: &mut String, name: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP tpv_{name} {help}\n# TYPE tpv_{name} histogram");
        let mut total = 0;
        for (place, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = self.bounds.get(place).map_or("+Inf".into(), f64::to_string);
            let _ = writeln!(text, "tpv_{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = self.sum_micros.load(Ordering::Relaxed).cast_signed() as f64 / 1e6;
        let _ = writeln!(text, "tpv_{name}_sum {sum}\ntpv_{name}_count {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_sums_may_be_negative() {
        let metrics = Metrics::default();
        metrics.alpha.observe(-7.5);
        metrics.alpha.observe(2.5);
        metrics.alpha.observe(1e6);
        let text = metrics.render();
        for line in [
            "tpv_alpha_bucket{le=\"-5\"} 1",
            "tpv_alpha_bucket{le=\"5\"} 2",
            "tpv_alpha_bucket{le=\"+Inf\"} 3",
            "tpv_alpha_sum 999995",
            "tpv_alpha_count 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }
}
