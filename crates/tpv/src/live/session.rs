//! A prompt on its way through the decode loop, on a thread of its own.

use super::exchange::{Update, Wish};
use super::view::View;
use crate::console::Console;
use crate::model::{THINKER, advice_on_failure};
use anyhow::{Context, Result, bail};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_engine::decode::{DecodeSink, Decoder, PromptRequest, SampleId};

/// How long the view waits for news before it looks for keys.
const PATIENCE: Duration = Duration::from_millis(40);

/// Tokens per second at which the bundled toy model can be watched; it makes thousands.
const THINKER_PACE: f64 = 60.0;

/// The pace asked for; none is full speed, but at a terminal the bundled toy model is slowed down, and the user told so.
pub fn choose_pace(asked: Option<f64>, model: &str, console: &Console) -> Option<f64> {
    if asked.is_none() && model == THINKER && console.is_terminal() {
        console.notice(format!(
            "the toy model is slowed down to {THINKER_PACE} tokens a second to be watched; --pace 0 lets it go"
        ));
        return Some(THINKER_PACE);
    }
    asked.filter(|&pace| pace > 0.0)
}

/// Runs the samples of a prompt to their ends and shows them in `view`; at most `pace` steps a second. An error where one of
/// them failed.
pub fn answer(
    decoder: &mut Decoder,
    mut request: PromptRequest,
    pace: Option<f64>,
    view: &mut dyn View,
    console: &Console,
) -> Result<()> {
    // Who asks a question wants an answer, and few become as long as they may.
    let room = decoder.kv_tokens().1.map(|capacity| capacity.saturating_sub(request.tokens.len()).max(1));
    if let Some(room) = room.filter(|room| request.samples.iter().any(|sample| sample.max_new_tokens > *room)) {
        console.notice(format!(
            "the KV memory has room for {room} tokens, so no more are written; --kv_memory gives more"
        ));
        request.samples.iter_mut().for_each(|sample| sample.max_new_tokens = sample.max_new_tokens.min(room));
    }
    let step = pace.map(|pace| Duration::from_secs_f64(pace.recip()));
    let advice = advice_on_failure(&decoder.spec().dtype);
    let (updates_in, updates) = channel();
    let (wishes, wishes_out) = channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || decode(decoder, request, step, &wishes_out, updates_in));
        let shown = show(&updates, &wishes, view, advice, console);
        // Where the view has failed nobody hears of the rest.
        drop((updates, wishes));
        let decoded = worker.join().map_err(|_| anyhow::anyhow!("the decode loop has failed"))?;
        shown.and(decoded)
    })
}

fn show(
    updates: &Receiver<Update>,
    wishes: &Sender<Wish>,
    view: &mut dyn View,
    advice: &str,
    console: &Console,
) -> Result<()> {
    let (mut cancelled, mut failed) = (false, None);
    loop {
        match updates.recv_timeout(PATIENCE) {
            Ok(update) => {
                for update in std::iter::once(update).chain(updates.try_iter()) {
                    view.update(&update)?;
                    failed = failed.or_else(|| failure(&update));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                view.refresh(true).context("the output cannot be written")?;
                return failed.map_or(Ok(()), |why| bail!("the sample failed: {why}; {advice}"));
            }
        }
        view.refresh(false)?;
        for wish in view.wishes()? {
            // The loop may have ended in between.
            let _ = wishes.send(wish);
        }
        if !cancelled && console.check_interrupted().is_err() {
            cancelled = wishes.send(Wish::Cancel).is_ok();
        }
    }
}

/// Why a sample failed, if it did.
fn failure(update: &Update) -> Option<String> {
    match update {
        Update::Finish(_, FinishEvent { reason: FinishReason::Failed, error, .. }) => {
            Some(error.clone().unwrap_or_else(|| "no reason is known".into()))
        }
        _ => None,
    }
}

fn decode(
    decoder: &mut Decoder,
    request: PromptRequest,
    least_step: Option<Duration>,
    wishes: &Receiver<Wish>,
    updates: Sender<Update>,
) -> Result<()> {
    let samples = decoder.submit(request)?;
    let mut sink = ChannelSink { samples: samples.clone(), updates, open: true };
    loop {
        wishes.try_iter().for_each(|wish| fulfil(decoder, &samples, &wish));
        if !sink.open {
            samples.iter().for_each(|&sample| decoder.cancel(sample));
        }
        let started = Instant::now();
        if !decoder.step(&mut sink)? {
            return Ok(());
        }
        if let Some(rest) = least_step.and_then(|step| step.checked_sub(started.elapsed())) {
            std::thread::sleep(rest);
        }
    }
}

fn fulfil(decoder: &mut Decoder, samples: &[SampleId], wish: &Wish) {
    for &sample in samples {
        match wish {
            Wish::Policy(policy) => drop(decoder.set_policy(sample, policy())),
            Wish::EndThinking => drop(decoder.end_thinking(sample)),
            Wish::Cancel => decoder.cancel(sample),
        }
    }
}

struct ChannelSink {
    samples: Vec<SampleId>,
    updates: Sender<Update>,
    open: bool,
}

impl ChannelSink {
    fn send(&mut self, update: Update) {
        self.open &= self.updates.send(update).is_ok();
    }

    fn number(&self, sample: SampleId) -> usize {
        self.samples.iter().position(|&it| it == sample).unwrap_or(0)
    }
}

impl DecodeSink for ChannelSink {
    fn prompt(&mut self, sample: SampleId, read: usize, total: usize) {
        self.send(Update::Prompt { sample: self.number(sample), read, total });
    }

    fn token(&mut self, sample: SampleId, event: TokenEvent) {
        self.send(Update::Token(self.number(sample), event));
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        self.send(Update::Finish(self.number(sample), event));
    }
}
