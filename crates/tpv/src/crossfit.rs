//! Sums of the training problems by fold, and of the test problems: made in one pass, then joined in every way that
//! cross-fitting needs.

use crate::console::Console;
use crate::states::add_trace;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, BTreeSet};
use tpv_core::gram::{GramAccumulator, GramSums, LOG_REMAINING, PROGRESS, Parallelism};
use tpv_data::dataset::DatasetManifest;
use tpv_data::source::{TraceId, TraceSource};

/// Folds of the training problems.
pub const FOLDS: usize = 5;

/// The sums of each fold, and of the test problems.
pub struct FoldSums {
    /// The fold of each training problem.
    folds: BTreeMap<usize, usize>,
    train: Vec<GramSums>,
    test: GramSums,
}

impl FoldSums {
    /// One pass over all states of a data set.
    pub fn collect(
        source: &dyn TraceSource,
        manifest: &DatasetManifest,
        console: &Console,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let width = source
            .model()
            .map(|model| model.hidden_size)
            .context("the folder of the traces holds no states; generate them again")?;
        let sums_of = |ids: &mut dyn Iterator<Item = TraceId>| -> Result<GramSums> {
            let mut sums = GramAccumulator::new(width, &[PROGRESS, LOG_REMAINING], Parallelism::All)?;
            for id in ids {
                console.check_interrupted()?;
                add_trace(source, id, &mut sums)?;
                bar.inc(1);
            }
            Ok(sums.finish())
        };
        let folds = folds(&manifest.train);
        let by_problem = &folds;
        let in_fold = |fold: usize| manifest.train.iter().copied().filter(move |id| by_problem[&id.problem] == fold);
        let train = (0..FOLDS).map(|fold| sums_of(&mut in_fold(fold))).collect::<Result<_>>()?;
        let test = sums_of(&mut manifest.test.iter().copied())?;
        Ok(Self { folds, train, test })
    }

    /// The fold of a training trace.
    pub fn fold(&self, id: TraceId) -> usize {
        self.folds[&id.problem]
    }

    /// All training problems.
    pub fn train(&self) -> Result<GramSums> {
        self.joined(|_| true, false)
    }

    /// All training and test problems.
    pub fn all(&self) -> Result<GramSums> {
        self.joined(|_| true, true)
    }

    /// The training problems but those of one fold.
    pub fn train_without(&self, fold: usize) -> Result<GramSums> {
        self.joined(|other| other != fold, false)
    }

    /// All problems but those of one fold.
    pub fn all_without(&self, fold: usize) -> Result<GramSums> {
        self.joined(|other| other != fold, true)
    }

    fn joined(&self, wanted: impl Fn(usize) -> bool, with_test: bool) -> Result<GramSums> {
        let folds = self.train.iter().enumerate().filter(|(fold, _)| wanted(*fold)).map(|(_, sums)| sums);
        let mut parts = folds.chain(with_test.then_some(&self.test));
        let mut joined = parts.next().expect("there are several folds").clone();
        parts.try_for_each(|part| joined.merge(part))?;
        Ok(joined)
    }
}

/// Deals the problems out in the order of their numbers.
fn folds(ids: &[TraceId]) -> BTreeMap<usize, usize> {
    let problems: BTreeSet<usize> = ids.iter().map(|id| id.problem).collect();
    problems.into_iter().enumerate().map(|(rank, problem)| (problem, rank % FOLDS)).collect()
}
