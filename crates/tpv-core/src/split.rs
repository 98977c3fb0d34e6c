//! Which problems train and which test: whole problems, never single traces, so that no problem is on both sides.
//!
//! [`hashed_split`] is ours: it orders the problems by a hash of seed and problem, so a problem keeps its place in the order
//! whatever other problems there are; when problems are added, only those next to the boundary can change sides.
//! [`reference_split`] is what the Python scripts do, to the letter. [`dealt_part`] and [`Shard`] divide the problems of a
//! run that is not over: where a problem belongs depends on its index alone.

use crate::seed;
use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

/// Problems on either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Problems to fit on.
    pub train: Vec<u64>,
    /// Problems to test on.
    pub test: Vec<u64>,
}

/// Splits by hash: `round(count * train_ratio)` problems train, but at least one and not all where there are two or more.
/// Both sides are sorted; repeated problems count once.
///
/// ```
/// use tpv_core::split::hashed_split;
/// let split = hashed_split(&[1, 2, 3, 4, 5], 42, 0.8);
/// assert_eq!((split.train.len(), split.test.len()), (4, 1));
/// ```
pub fn hashed_split(problems: &[u64], seed: u64, train_ratio: f64) -> Split {
    let mut parts = hashed_parts(problems, seed, &[train_ratio, 1.0 - train_ratio]);
    let test = parts.pop().unwrap_or_default();
    let train = parts.pop().unwrap_or_default();
    Split { train, test }
}

/// Splits by hash into one part per share; shares are relative weights. For instance fit, calibration and test. Where
/// there are enough problems, a part with a positive share gets at least one. Each part is sorted.
pub fn hashed_parts(problems: &[u64], seed: u64, shares: &[f64]) -> Vec<Vec<u64>> {
    let mut order = problems.to_vec();
    order.sort_by_key(|&problem| (seed::combine(&[seed, problem]), problem));
    order.dedup();
    let mut rest = order.as_slice();
    let sizes = part_sizes(order.len(), shares).into_iter();
    sizes
        .map(|size| {
            let (part, remaining) = rest.split_at(size);
            rest = remaining;
            let mut part = part.to_vec();
            part.sort_unstable();
            part
        })
        .collect()
}

/// The part of a problem when problems are dealt out into `parts` equal parts: of every `parts` neighbouring indexes each
/// part gets one, in an order that a hash decides. It depends on the index alone, so that shards of a run, and runs of
/// other ranges or seeds, agree about it.
///
/// ```
/// use tpv_core::split::dealt_part;
/// let mut dealt: Vec<usize> = (30..35).map(|problem| dealt_part(problem, 5)).collect();
/// dealt.sort();
/// assert_eq!(dealt, [0, 1, 2, 3, 4]);
/// ```
pub fn dealt_part(problem: u64, parts: usize) -> usize {
    let parts = parts.max(1) as u64;
    let (round, seat) = (problem / parts, problem % parts);
    let rank = |seat: u64| (seed::combine(&[round, seat]), seat);
    (0..parts).filter(|&other| rank(other) < rank(seat)).count()
}

/// One of several parts of a job that are done apart, for instance on several machines; written `2/4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u64,
    count: u64,
}

impl Shard {
    /// Whether this shard does the problem: every problem belongs to exactly one shard, by its index alone.
    pub fn holds(self, problem: u64) -> bool {
        problem % self.count == self.number - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err(format!("\"{text}\" is no shard; say 1/4, 2/4, 3/4 or 4/4 for the quarters of a job")),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

/// Sizes that add up to `count`: boundaries at the rounded cumulative shares, then empty parts fed by the largest.
fn part_sizes(count: usize, shares: &[f64]) -> Vec<usize> {
    let weight = |share: f64| if share.is_finite() { share.max(0.0) } else { 0.0 };
    let total: f64 = shares.iter().copied().map(weight).sum();
    let mut cumulative = 0.0;
    let mut done = 0;
    let mut sizes: Vec<usize> = shares
        .iter()
        .map(|&share| {
            cumulative += weight(share);
            let boundary = if total > 0.0 { (count as f64 * cumulative / total).round() as usize } else { count };
            let size = boundary.min(count).saturating_sub(done);
            done += size;
            size
        })
        .collect();
    for part in 0..sizes.len() {
        let largest = (0..sizes.len()).max_by_key(|&other| (sizes[other], Reverse(other)));
        if let Some(largest) =
            largest.filter(|&largest| sizes[part] == 0 && weight(shares[part]) > 0.0 && sizes[largest] > 1)
        {
            sizes[largest] -= 1;
            sizes[part] += 1;
        }
    }
    sizes
}

/// The split of the Python scripts: problem folders `problem_<idx>` in lexicographic order, shuffled by Python's
/// `random.seed(seed); random.shuffle(..)`, the first `int(count * train_ratio)` train. Both sides are in shuffled order.
///
/// ```
/// use tpv_core::split::reference_split;
/// let problems: Vec<u64> = (0..30).collect();
/// assert_eq!(reference_split(&problems, 42, 0.8).test, [15, 16, 3, 0, 11, 27]);
/// ```
pub fn reference_split(problems: &[u64], seed: u64, train_ratio: f64) -> Split {
    let mut train = problems.to_vec();
    train.sort_by_cached_key(|problem| format!("problem_{problem}"));
    train.dedup();
    MersenneTwister::from_python_seed(seed).shuffle(&mut train);
    let count = (train.len() as f64 * train_ratio) as usize;
    let test = train.split_off(count.min(train.len()));
    Split { train, test }
}

/// Words of the state of MT19937.
const STATE_WORDS: usize = 624;

/// MT19937 (Matsumoto and Nishimura 1998) as Python's `random` module drives it.
#[derive(Debug, Clone)]
struct MersenneTwister {
    state: [u32; STATE_WORDS],
    /// Words of the state already handed out.
    used: usize,
}

impl MersenneTwister {
    /// `random.seed(seed)`: initialisation by the array of the seed's 32-bit words, lowest first.
    fn from_python_seed(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let count = if words[1] == 0 { 1 } else { 2 };
        Self::from_key(&words[..count])
    }

    fn from_key(key: &[u32]) -> Self {
        let mut state = Self::initial_state(19_650_218);
        let mut at = 1;
        for round in 0..STATE_WORDS.max(key.len()) {
            let word = round % key.len();
            let previous = spread(state[at - 1], 1_664_525);
            state[at] = (state[at] ^ previous).wrapping_add(key[word]).wrapping_add(word as u32);
            at = Self::next_place(&mut state, at);
        }
        for _ in 1..STATE_WORDS {
            let previous = spread(state[at - 1], 1_566_083_941);
            state[at] = (state[at] ^ previous).wrapping_sub(at as u32);
            at = Self::next_place(&mut state, at);
        }
        state[0] = 1 << 31;
        Self { state, used: STATE_WORDS }
    }

    fn initial_state(seed: u32) -> [u32; STATE_WORDS] {
        let mut state = [seed; STATE_WORDS];
        for at in 1..STATE_WORDS {
            state[at] = spread(state[at - 1], 1_812_433_253).wrapping_add(at as u32);
        }
        state
    }

    /// The place after `at`; passing the end copies the last word to the front.
    fn next_place(state: &mut [u32; STATE_WORDS], at: usize) -> usize {
        if at + 1 < STATE_WORDS {
            return at + 1;
        }
        state[0] = state[STATE_WORDS - 1];
        1
    }

    fn twist(&mut self) {
        for at in 0..STATE_WORDS {
            let joined = (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % STATE_WORDS] & 0x7FFF_FFFF);
            let odd = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[at] = self.state[(at + 397) % STATE_WORDS] ^ (joined >> 1) ^ odd;
        }
        self.used = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.used == STATE_WORDS {
            self.twist();
        }
        let mut y = self.state[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// `random._randbelow(bound)` for `bound` from 1 to 2^32 - 1: as many top bits as the bound has, drawn again until below it.
    fn below(&mut self, bound: u32) -> u32 {
        loop {
            let drawn = self.next_u32() >> bound.leading_zeros();
            if drawn < bound {
                return drawn;
            }
        }
    }

    fn shuffle(&mut self, items: &mut [u64]) {
        for last in (1..items.len()).rev() {
            let bound = u32::try_from(last + 1).expect("there are fewer than 2^32 problems");
            items.swap(last, self.below(bound) as usize);
        }
    }
}

fn spread(word: u32, factor: u32) -> u32 {
    (word ^ (word >> 30)).wrapping_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// One run of Python's own `random`, made by `tests/golden/shuffle.py`.
    #[derive(Deserialize)]
    struct GoldenShuffle {
        seed: u64,
        count: u64,
        ratio: f64,
        train: Vec<u64>,
        test: Vec<u64>,
    }

    #[test]
    fn reference_split_is_that_of_python() {
        let golden: Vec<GoldenShuffle> =
            serde_json::from_str(include_str!("../tests/golden/shuffle.json")).expect("the golden file is JSON");
        assert!(golden.len() > 20);
        for case in golden {
            let problems: Vec<u64> = (0..case.count).rev().collect();
            let split = reference_split(&problems, case.seed, case.ratio);
            assert_eq!(split, Split { train: case.train, test: case.test }, "seed {}", case.seed);
        }
    }

    #[test]
    fn mersenne_twister_gives_the_published_numbers() {
        // The first outputs of the authors' mt19937ar.c, seeded by the array {0x123, 0x234, 0x345, 0x456}.
        let mut twister = MersenneTwister::from_key(&[0x123, 0x234, 0x345, 0x456]);
        let first: Vec<u32> = (0..5).map(|_| twister.next_u32()).collect();
        assert_eq!(first, [1_067_595_299, 955_945_823, 477_289_528, 4_107_218_783, 4_228_976_476]);
    }

    #[test]
    fn problems_are_dealt_out_evenly_and_in_no_fixed_order() {
        let parts: Vec<usize> = (0..500).map(|problem| dealt_part(problem, 5)).collect();
        for round in parts.chunks(5) {
            assert_eq!(round.iter().copied().collect::<std::collections::BTreeSet<_>>().len(), 5);
        }
        let orders: std::collections::BTreeSet<&[usize]> = parts.chunks(5).collect();
        assert!(orders.len() > 40, "{} of 120 orders in 100 rounds", orders.len());
        assert_eq!(dealt_part(7, 1), 0);
    }

    #[test]
    fn every_problem_belongs_to_one_shard() {
        for count in 1..6 {
            let shards: Vec<Shard> = (1..=count).map(|number| format!("{number}/{count}").parse().unwrap()).collect();
            for problem in 0..40 {
                assert_eq!(shards.iter().filter(|shard| shard.holds(problem)).count(), 1);
            }
            assert_eq!(shards[0].to_string(), format!("1/{count}"));
        }
        for wrong in ["", "1", "0/2", "3/2", "1/0", "a/b", "-1/2"] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains("say 1/4"), "{wrong}");
        }
    }

    #[test]
    fn hashed_split_holds_every_problem_once() {
        let problems: Vec<u64> = (100..150).chain(100..110).collect();
        let split = hashed_split(&problems, 7, 0.8);
        assert_eq!((split.train.len(), split.test.len()), (40, 10));
        let mut all = [split.train.clone(), split.test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (100..150).collect::<Vec<_>>());
        assert_ne!(split, hashed_split(&problems, 8, 0.8));
        assert_eq!(split, hashed_split(&problems.into_iter().rev().collect::<Vec<_>>(), 7, 0.8));
    }

    #[test]
    fn adding_problems_moves_few() {
        let before = hashed_split(&(0..100).collect::<Vec<_>>(), 42, 0.8);
        let after = hashed_split(&(0..110).collect::<Vec<_>>(), 42, 0.8);
        let moved = before.test.iter().filter(|problem| after.train.contains(problem)).count()
            + before.train.iter().filter(|problem| after.test.contains(problem)).count();
        assert!(moved <= 10, "{moved} of 100 changed sides");
    }

    #[test]
    fn small_sets_leave_no_side_empty() {
        for count in 2..6 {
            for ratio in [0.01, 0.5, 0.99] {
                let split = hashed_split(&(0..count).collect::<Vec<_>>(), 1, ratio);
                assert!(!split.train.is_empty() && !split.test.is_empty());
            }
        }
        assert_eq!(hashed_split(&[3], 1, 0.8).train, [3]);
        assert_eq!(hashed_split(&[0, 1, 2], 1, 1.0).train.len(), 3);
        assert_eq!(hashed_split(&[], 1, 0.8), Split { train: vec![], test: vec![] });
        let parts = hashed_parts(&(0..10).collect::<Vec<_>>(), 3, &[0.6, 0.2, 0.2]);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [6, 2, 2]);
    }
}
