//! Who computes what of a step.
//!
//! Threads that share every product wait for each other after each. Sequences of a model that stays in the cache are
//! therefore dealt out instead, and each thread takes its own through all layers; a small step is left to one thread.

use super::linear::Workers;

/// Multiply-adds of a step below which one thread does it all.
const SERIAL_STEP: f64 = 2e6;

/// And below which it does so where the sequences cannot be dealt out.
const SHARED_STEP: f64 = 8e6;

/// Multiply-adds that take as long as it takes to read one number of the KV memory, which is used once or a few times where a
/// weight is used for all rows (4 to 7 were measured, the more the less of the last cache was left).
const NUMBER_READ: f64 = 5.0;

/// The heaviest part of a step may exceed the even share by this, or all threads work on every product together.
const MOST_UNEVEN: f64 = 1.5;

/// What an input asks of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub multiply_adds: f64,
    /// Numbers of the KV memory.
    pub numbers_read: f64,
}

impl Work {
    /// In multiply-adds.
    fn cost(&self) -> f64 {
        self.multiply_adds + NUMBER_READ * self.numbers_read
    }
}

/// The parts of a step, each with the places of its inputs, ascending, and who computes a part. `is_cached` says whether all
/// threads can read all weights without waiting for the memory.
pub(super) fn divide(work: &[Work], threads: usize, is_cached: bool) -> (Vec<Vec<usize>>, Workers) {
    let together = || vec![(0..work.len()).collect()];
    let multiply_adds = work.iter().map(|work| work.multiply_adds).sum::<f64>();
    if threads == 1 || multiply_adds < SERIAL_STEP {
        return (together(), Workers::One);
    }
    if is_cached {
        let costs: Vec<f64> = work.iter().map(Work::cost).collect();
        let heaps = even_heaps(&costs, threads);
        let sums = heaps.iter().map(|places| places.iter().map(|&place| costs[place]).sum::<f64>());
        let heaviest = sums.fold(0.0, f64::max);
        if heaviest * threads as f64 <= costs.iter().sum::<f64>() * MOST_UNEVEN {
            return (heaps, Workers::One);
        }
    }
    (together(), if multiply_adds < SHARED_STEP { Workers::One } else { Workers::All })
}

/// Deals numbers out to `count` heaps with sums as even as may be: each in turn, the greatest first, goes to the heap with
/// the least sum. Of each heap the places of its numbers, ascending.
fn even_heaps(costs: &[f64], count: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by(|&a, &b| costs[b].total_cmp(&costs[a]));
    let mut heaps = vec![(0.0f64, Vec::new()); count];
    for place in order {
        let lightest = heaps.iter_mut().min_by(|a, b| a.0.total_cmp(&b.0)).expect("there is at least one heap");
        lightest.0 += costs[place];
        lightest.1.push(place);
    }
    let heaps = heaps.into_iter().map(|(_, mut places)| {
        places.sort_unstable();
        places
    });
    heaps.filter(|places| !places.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(multiply_adds: &[f64]) -> Vec<Work> {
        multiply_adds.iter().map(|&multiply_adds| Work { multiply_adds, numbers_read: 0.0 }).collect()
    }

    #[test]
    fn sequences_of_a_cached_model_are_dealt_out() {
        let even = works(&[2e6; 4]);
        assert_eq!(divide(&even, 2, true), (vec![vec![0, 2], vec![1, 3]], Workers::One));
        assert_eq!(divide(&even, 1, true), (vec![vec![0, 1, 2, 3]], Workers::One));
        assert_eq!(divide(&even, 2, false), (vec![vec![0, 1, 2, 3]], Workers::All));
        let reads = [1e6, 9e6].map(|numbers_read| Work { multiply_adds: 5e6, numbers_read });
        assert_eq!(divide(&reads, 2, true), (vec![vec![0, 1]], Workers::All), "what is read counts too");
    }

    #[test]
    fn what_cannot_be_dealt_out_is_shared_if_it_is_large() {
        for is_cached in [true, false] {
            assert_eq!(divide(&works(&[1.9e6]), 2, is_cached).1, Workers::One);
            assert_eq!(divide(&works(&[7.9e6]), 2, is_cached), (vec![vec![0]], Workers::One));
            assert_eq!(divide(&works(&[8.1e6]), 2, is_cached), (vec![vec![0]], Workers::All));
            assert_eq!(divide(&works(&[8.1e6, 1e6]), 2, is_cached), (vec![vec![0, 1]], Workers::All));
        }
    }

    #[test]
    fn heaps_are_even_whatever_the_order() {
        let sums = |costs: &[f64], count| -> Vec<f64> {
            even_heaps(costs, count).iter().map(|places| places.iter().map(|&place| costs[place]).sum()).collect()
        };
        assert_eq!(even_heaps(&[1.0; 8], 2), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(even_heaps(&[1.0, 5.0, 1.0, 1.0, 1.0, 1.0], 2), [vec![1], vec![0, 2, 3, 4, 5]]);
        assert_eq!(even_heaps(&[1.0], 4), [[0]], "no heap is empty");
        assert_eq!(sums(&[3.0, 3.0, 3.0, 1.0, 1.0, 1.0], 2), [6.0, 6.0]);
        assert_eq!(sums(&[1.0; 12], 3), [4.0; 3]);
    }
}
