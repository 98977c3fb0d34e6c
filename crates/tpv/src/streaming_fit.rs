//! `tpv generate --fit`: the sums that a vector is fitted from, made while the run is sampled.
//!
//! Problems are added in the order of their indexes, each as soon as it and all before it are on the disk, whatever order
//! they finish in; each in blocks of its own. So a run that was killed and repeated has the same sums to the bit. What is
//! in the sums is said in the same file as the sums, so no problem counts twice. States that are not to be kept leave
//! the disk once the file that holds their sums is there; until then the problem's own file keeps them.

use crate::console::Console;
use crate::states::add_trace;
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tpv_core::gram::{GramAccumulator, GramParts, GramSums, Parallelism};
use tpv_core::split::{Shard, dealt_part};
use tpv_data::atomic::Claim;
use tpv_data::run::RunConfig;
use tpv_data::source::{LeftOut, TraceHeader, TraceSource};
use tpv_data::sums::{
    PARTS, SummedThought, SumsRecord, TARGETS, load_parts, load_record, save_sums, sums_file, sums_files,
};
use tpv_data::trace::TraceStore;

/// Between two savings lies at least this many times what one takes.
const TIMES_A_SAVING: u32 = 20;

/// The sums of a run that is under way.
pub struct StreamingFit {
    path: PathBuf,
    record: SumsRecord,
    /// Each part as plain numbers, but for the one that a problem is being added to.
    parts: Vec<GramParts>,
    /// Problems that are still to be added, in order.
    waiting: VecDeque<usize>,
    /// Problems whose states leave the disk with the next saving.
    to_be_dropped: Vec<usize>,
    saved: Instant,
    saving: Duration,
    has_news: bool,
    peak_bytes: usize,
    /// While this lives nobody else writes the sums.
    _claim: Claim,
}

impl StreamingFit {
    /// Goes on from the sums in the run's folder; `problems` are all that this run or shard is asked for.
    pub fn open(store: &TraceStore, shard: Option<Shard>, problems: impl Iterator<Item = usize>) -> Result<Self> {
        let run = store.run();
        let path = store.folder().join(sums_file(shard));
        let Some(claim) = Claim::of(&path)? else {
            bail!(
                "{}: another process is summing into it; wait for it, or give each a part (--shard 1/2)",
                path.display()
            )
        };
        let mut fit = Self {
            record: SumsRecord::new(run.clone()),
            parts: Vec::new(),
            waiting: VecDeque::new(),
            to_be_dropped: Vec::new(),
            saved: Instant::now(),
            saving: Duration::ZERO,
            has_news: false,
            peak_bytes: 0,
            path,
            _claim: claim,
        };
        if fit.path.exists() {
            let (record, parts) = load_parts(&fit.path)?;
            refuse_another_run(&fit.path, &record, run)?;
            fit.record = record;
            fit.parts = parts;
        } else {
            fit.parts = vec![GramSums::new(run.model.hidden_size, &TARGETS)?.to_parts(); PARTS];
        }
        fit.peak_bytes = fit.waiting_bytes();
        let elsewhere = in_other_files(store.folder(), &fit.path)?;
        fit.waiting = problems.filter(|problem| !fit.record.holds(*problem) && !elsewhere.contains(problem)).collect();
        fit.waiting.make_contiguous().sort_unstable();
        Ok(fit)
    }

    /// Whether a problem must be sampled, though its file may be there: its states are neither on the disk nor in the sums.
    pub fn lacks(&self, store: &TraceStore, problem: usize) -> bool {
        self.waiting.contains(&problem) && !store.has_states(problem)
    }

    /// Does not wait for a problem that cannot be sampled.
    pub fn pass_over(&mut self, problem: usize) {
        self.waiting.retain(|&waiting| waiting != problem);
    }

    /// The most bytes of memory that the sums took; it does not grow with the number of problems.
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// Adds what is complete and next in order; saves now and then.
    pub fn advance(&mut self, store: &mut TraceStore, console: &Console) -> Result<()> {
        while let Some(&problem) = self.waiting.front() {
            if !store.is_complete(problem) || !store.has_states(problem) {
                break;
            }
            console.check_interrupted()?;
            self.add(store, problem)?;
            self.waiting.pop_front();
            if self.saved.elapsed() >= self.saving * TIMES_A_SAVING {
                self.save(store)?;
            }
        }
        Ok(())
    }

    /// Saves what is left to be saved and says what is in the sums.
    pub fn finish(mut self, store: &mut TraceStore) -> Result<(PathBuf, SumsRecord)> {
        self.save(store)?;
        if !store.run().states_kept {
            // Of a run that was killed after the sums were saved, or whose file of a problem had to be made again.
            let with_states = |problem: &usize| store.of_problem(*problem).any(|header| header.thinking_rows > 0);
            let left: Vec<usize> = self.record.problems.iter().copied().filter(with_states).collect();
            left.into_iter().try_for_each(|problem| store.drop_states(problem))?;
        }
        Ok((self.path, self.record))
    }

    fn waiting_bytes(&self) -> usize {
        self.parts.iter().map(GramParts::bytes).sum()
    }

    /// Adds all thoughts of a problem to the part that it belongs to.
    fn add(&mut self, store: &TraceStore, problem: usize) -> Result<()> {
        let part = dealt_part(problem as u64, PARTS);
        let waiting = std::mem::take(&mut self.parts[part]);
        let own_bytes = waiting.bytes();
        let mut sums = GramAccumulator::resume(GramSums::from_parts(waiting)?, Parallelism::All);
        let square_bytes = sums.bytes();
        for header in store.of_problem(problem) {
            let reason = match header.unusable() {
                Some(reason) => Some(reason.to_owned()),
                None => store.not_finite(header.id)?,
            };
            match reason {
                Some(reason) => self.record.left_out.push(LeftOut { trace: header.id.to_string(), reason }),
                None => self.add_thought(store, header, &mut sums)?,
            }
        }
        self.record.add_problem(problem, &store.record(problem)?.problem_text);
        // The square becomes plain numbers again when the block is gone.
        let most = sums.bytes().max(square_bytes + own_bytes);
        self.peak_bytes = self.peak_bytes.max(self.waiting_bytes() + most);
        // Blocks end with the problem, so that where a run was cut makes no difference.
        self.parts[part] = sums.finish().to_parts();
        if !store.run().states_kept {
            self.to_be_dropped.push(problem);
        }
        self.has_news = true;
        Ok(())
    }

    fn add_thought(&mut self, store: &TraceStore, header: &TraceHeader, sums: &mut GramAccumulator) -> Result<()> {
        let thought = SummedThought { trace: header.id, thinking_tokens: header.thinking_tokens };
        add_trace(store, header.id, sums)?;
        self.record.thoughts.push(thought);
        Ok(())
    }

    fn save(&mut self, store: &mut TraceStore) -> Result<()> {
        if !self.has_news {
            return Ok(());
        }
        let start = Instant::now();
        save_sums(&self.path, &self.record, &self.parts)?;
        for problem in self.to_be_dropped.drain(..) {
            store.drop_states(problem)?;
        }
        (self.saved, self.saving, self.has_news) = (Instant::now(), start.elapsed(), false);
        Ok(())
    }
}

fn refuse_another_run(path: &Path, record: &SumsRecord, run: &RunConfig) -> Result<()> {
    if let Err(difference) = record.run.same_run(run) {
        bail!(
            "{}: the sums are of another run: their {} is {}, that of run.json {}; remove the file to sum again",
            path.display(),
            difference.key,
            difference.here,
            difference.other
        );
    }
    Ok(())
}

/// The problems in the other files of sums of a folder, such as those of shards.
fn in_other_files(folder: &Path, own: &Path) -> Result<Vec<usize>> {
    let mut problems = Vec::new();
    for path in sums_files(folder)?.into_iter().filter(|path| path != own) {
        problems.extend(load_record(&path).context("remove the file to sum its problems again")?.problems);
    }
    Ok(problems)
}
