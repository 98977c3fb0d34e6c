//! Threads that take the parts of a step and stay awake between steps.
//!
//! Where a step takes a fraction of a millisecond, to let a thread sleep and to wake it takes longer than what it has to do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{EngineError, Result};

/// How long a thread waits awake for others, or for more to do.
const PATIENCE: Duration = Duration::from_micros(100);

/// The threads.
#[derive(Debug)]
pub(crate) struct Crew {
    /// For what shares itself out, while the calling thread sleeps.
    pool: ThreadPool,
    /// For jobs beside the calling thread: one fewer, or there would be more threads awake than cores.
    helpers: ThreadPool,
    /// How often there was work for all.
    calls: Arc<AtomicUsize>,
    /// When all were last awake.
    awake_at: Mutex<Option<Instant>>,
}

impl Crew {
    /// So many threads, the calling one included when there is work.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = |count: usize| {
            let refused = |error| EngineError::Request(format!("{count} threads could not be started ({error})"));
            ThreadPoolBuilder::new().num_threads(count).build().map_err(refused)
        };
        let (pool, helpers) = (pool(threads)?, pool((threads - 1).max(1))?);
        Ok(Self { pool, helpers, calls: Arc::default(), awake_at: Mutex::default() })
    }

    /// Threads that work at the same time.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Whether all threads are awake now, or about to wait so.
    pub fn is_awake(&self) -> bool {
        self.threads() < 2 || self.last_awake().is_some_and(|at| at.elapsed() < PATIENCE)
    }

    fn last_awake(&self) -> MutexGuard<'_, Option<Instant>> {
        self.awake_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in the pool, for what shares itself out.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Does each job on a thread of its own, the first on the calling one, and leaves the threads awake. One job wakes nobody.
    pub fn work<J: FnMut() + Send>(&self, mut jobs: impl ExactSizeIterator<Item = J>) {
        if jobs.len() < 2 {
            return jobs.for_each(|mut job| job());
        }
        self.calls.fetch_add(1, Ordering::Release);
        let working = AtomicUsize::new(jobs.len());
        let working = &working;
        let done = |mut job: J| {
            job();
            working.fetch_sub(1, Ordering::Release);
        };
        self.helpers.in_place_scope(|scope| {
            let own = jobs.next();
            jobs.for_each(|job| scope.spawn(move |_| done(job)));
            own.into_iter().for_each(done);
            // The others end at nearly the same time; to sleep and be woken would take longer than to wait for them.
            let start = Instant::now();
            while working.load(Ordering::Acquire) > 0 && start.elapsed() < PATIENCE {
                std::hint::spin_loop();
            }
        });
        self.stay_awake();
    }

    /// Keeps the threads awake until there is work again, if it comes soon.
    fn stay_awake(&self) {
        let call = self.calls.load(Ordering::Acquire);
        for _ in 1..self.threads() {
            let calls = Arc::clone(&self.calls);
            self.helpers.spawn(move || {
                let start = Instant::now();
                while calls.load(Ordering::Acquire) == call && start.elapsed() < PATIENCE {
                    std::hint::spin_loop();
                }
            });
        }
        *self.last_awake() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_however_many_there_are() {
        for threads in 1..4 {
            let crew = Crew::new(threads).unwrap();
            for jobs in 0..9 {
                let mut done = vec![0; jobs];
                crew.work(done.iter_mut().map(|done| move || *done += 1));
                assert_eq!(done, vec![1; jobs], "{threads} threads");
            }
        }
    }

    #[test]
    fn threads_are_awake_for_a_while_after_work_for_them() {
        let crew = Crew::new(3).unwrap();
        assert!(!crew.is_awake());
        crew.work([|| ()].into_iter());
        assert!(!crew.is_awake(), "one job wakes nobody");
        crew.work([|| (), || ()].into_iter());
        assert!(crew.last_awake().is_some());
        std::thread::sleep(PATIENCE);
        assert!(!crew.is_awake());
        assert!(Crew::new(1).unwrap().is_awake());
    }
}
